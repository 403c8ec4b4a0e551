"""The two recursions everything exact is made of, and their fixed points.

Backward, from the future to the present, run the values:

    Q_t(s,a) = r(s,a) + γ Σₖ p(k|s,a) V_{t+1}(s'),     V_t(s) = Σₐ π(a|s) Q_t(s,a).

Forward, from the start to the future, runs the occupancy:

    d_{t+1}(s') = γ Σ_{s,a,k} d_t(s) π(a|s) p(k|s,a) 1{outcome leads to s'}.

Terminated outcomes lead nowhere. Nothing here is of size S². Inside this
module the state axes come first and any batch axes last, so that a gather
``V[next_state]`` reads whole rows; the public functions put batch axes first.
"""

import numpy as np

from reinforce_np import graph


def state_first(table):
    """Move the axes (S, A) of a (..., S, A) table to the front."""
    return np.ascontiguousarray(np.moveaxis(table, (-2, -1), (0, 1)))


def expected_next(mdp, continuation, V):
    """Σₖ p(k|s,a) V(s'), shape (S, A, ...): what an action leads to, zero after termination."""
    return np.einsum("sak,sak...->sa...", continuation, V[mdp.next_state])


def backward(mdp, pi, r, gamma):
    """Yield (t, Q_t, V_t) for t = T−1, ..., 0.

    Parameters
    ----------
    pi, r : array (S, A, ...)
        Policy and expected reward of a step.
    """
    p = mdp.continuation
    V = np.zeros(pi.shape[:1] + pi.shape[2:], dtype=np.result_type(pi, r))
    for t in reversed(range(mdp.horizon)):
        Q = r + gamma * expected_next(mdp, p, V)
        V = np.einsum("sa...,sa...->s...", pi, Q)
        yield t, Q, V


def forward(mdp, pi, gamma):
    """Yield d_t(s) = γᵗ P(s_t = s and the episode is alive), for t = 0, ..., T−1."""
    arrive = arrivals(mdp)
    p = _trailing(mdp.continuation, pi.ndim - 2)
    d = np.broadcast_to(_trailing(mdp.initial, pi.ndim - 2), pi.shape[:1] + pi.shape[2:])
    for t in range(mdp.horizon):
        yield d
        if t + 1 < mdp.horizon:
            d = gamma * arrive((d[:, None] * pi)[:, :, None] * p)


def arrivals(mdp):
    """Return the function that adds up flows (S, A, K, ...) where they arrive, giving (S, ...)."""
    into = mdp.next_state.ravel()
    order = np.argsort(into, kind="stable")
    states, first = np.unique(into[order], return_index=True)

    def arrive(flow):
        flow = flow.reshape(-1, *flow.shape[3:])
        if flow.ndim == 1 and flow.dtype.kind == "f":
            return np.bincount(into, weights=flow, minlength=mdp.n_states)
        total = np.zeros((mdp.n_states, *flow.shape[1:]), dtype=flow.dtype)
        total[states] = np.add.reduceat(flow[order], first, axis=0)
        return total

    return arrive


def fixed_values(mdp, pi, r, gamma):
    """Solve V = r_π + γ P_π V and return (Q, V), for ``horizon=None``."""
    proper = proper_states(mdp, pi, gamma)
    r_pi = np.where(
        _trailing(proper, pi.ndim - 2), np.einsum("sa...,sa...->s...", pi, np.broadcast_to(r, pi.shape)), 0.0
    )
    V = np.moveaxis(_solve(fixed_system(mdp, pi, gamma), np.moveaxis(r_pi, 0, -1)), -1, 0)
    return r + gamma * expected_next(mdp, mdp.continuation, V), V


def fixed_occupancy(mdp, pi, gamma):
    """Solve d = initial + γ P_πᵀ d, the expected discounted visits to each state, for ``horizon=None``."""
    A = fixed_system(mdp, pi, gamma)
    d = _solve(np.swapaxes(A, -1, -2), np.broadcast_to(mdp.initial, A.shape[:-1]))
    return np.moveaxis(d, -1, 0)


def proper_states(mdp, pi, gamma):
    """Return which states (S,) have finite values without a horizon.

    With γ < 1 all have. With γ = 1 a state has one when every state that the
    policy can reach from it can still terminate.

    Raises
    ------
    ValueError
        When the start distribution can reach a state that has none.
    """
    if gamma < 1:
        return np.ones(mdp.n_states, dtype=bool)
    possible = graph.possible_outcomes(mdp, pi.real.reshape(*pi.shape[:2], -1).max(axis=2))
    graph.require_end(mdp, possible, "with gamma=1")
    return graph.surely_ends(mdp, possible)


def fixed_system(mdp, pi, gamma):
    """Return I − γ P_π, shape (..., S, S); rows of improper states (unreachable) are those of I."""
    proper = proper_states(mdp, pi, gamma)
    pi = np.moveaxis(pi, (0, 1), (-2, -1))
    states = np.arange(mdp.n_states)
    A = np.zeros((*pi.shape[:-1], mdp.n_states), dtype=pi.dtype)
    A[..., states, states] = 1.0
    for a in range(mdp.n_actions):
        for k in range(mdp.n_outcomes):  # each (a, k) names one successor per state: no index repeats
            flow = gamma * pi[..., a] * mdp.continuation[:, a, k] * proper
            A[..., states, mdp.next_state[:, a, k]] -= flow
    return A


def _solve(A, b):
    try:
        x = np.linalg.solve(A, b[..., None])[..., 0]
    except np.linalg.LinAlgError:
        x = np.full_like(b, np.inf)
    residual = np.abs(np.einsum("...st,...t->...s", A, x) - b) if np.isfinite(x).all() else np.inf
    if np.any(residual > 1e-9 * (np.abs(b).max(initial=0.0) + np.finfo(float).eps * np.abs(x).max(initial=0.0))):
        raise ValueError(
            "horizon=None, but episodes last so long that the linear system I - gamma P is singular in float64: "
            "give a horizon or a smaller gamma"
        )
    return x


def _trailing(array, n):
    return array.reshape(array.shape + (1,) * n)
