"""The two recursions everything exact is made of, and their fixed points.

Backward, from the future to the present, run the values:

    Q_t(s,a) = r(s,a) + γ Σₖ p(k|s,a) V_{t+1}(s'),     V_t(s) = Σₐ π(a|s) Q_t(s,a).

Forward, from the start to the future, runs the occupancy:

    d_{t+1}(s') = γ Σ_{s,a,k} d_t(s) π(a|s) p(k|s,a) 1{outcome leads to s'}.

Terminated outcomes lead nowhere. Nothing here is of size S². Inside this
module the state axes come first and any batch axes last, so that a gather
``V[next_state]`` reads whole rows; the public functions put batch axes first.
"""

from functools import wraps

import numpy as np

from reinforce_np import arguments, graph

LARGEST_SYSTEM = 4096  # states of a model without horizon: 128 MB, and a minute


def refuses_overflow(function):
    """Make a function of a model raise ValueError where what it returns leaves float64: an infinity, or two that cancelled."""

    @wraps(function)
    def checked(*args, **options):
        with np.errstate(over="ignore", invalid="ignore"):
            found = function(*args, **options)
        if not arguments.all_finite(found):
            raise ValueError(
                f"{function.__name__} leaves float64: rewards, added up over an episode, are too large; divide all of them by "
                "the same number"
            )
        return found

    return checked


def state_first(table):
    """Move the axes (S, A) of a (..., S, A) table to the front."""
    return np.ascontiguousarray(np.moveaxis(table, (-2, -1), (0, 1))) if table.ndim > 2 else table


def state_last(table):
    """Move the axes (S, A) of a (S, A, ...) table back to the end."""
    return np.moveaxis(table, (0, 1), (-2, -1)) if table.ndim > 2 else table


def expected_next(mdp, continuation, V):
    """Σₖ p(k|s,a) V(s'), shape (S, A, ...): what an action leads to, zero after termination."""
    return np.einsum("sak,sak...->sa...", continuation, V.take(mdp.next_state, axis=0))


def centred(Q, pi):
    """Return Q − Q(a*), a* the most probable action of each state: a baseline, so that digits are kept."""
    best = pi.real.argmax(axis=1)
    if best.ndim == 1:
        return Q - Q[np.arange(len(Q)), best][:, None]
    best = best[:, None]
    return Q - np.take_along_axis(Q, trailing(best, Q.ndim - best.ndim), axis=1)


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
    p = trailing(mdp.continuation, pi.ndim - 2)
    d = np.broadcast_to(trailing(mdp.initial, pi.ndim - 2), pi.shape[:1] + pi.shape[2:])
    for t in range(mdp.horizon):
        yield d
        if t + 1 < mdp.horizon:
            d = gamma * arrive((d[:, None] * pi)[:, :, None] * p)


def arrivals(mdp):
    """Return the function that adds up flows (S, A, K, ...) where they arrive, giving (S, ...)."""
    return summed(mdp.next_state, mdp.n_states)


def summed(index, n):
    """Return the function that adds up all entries x with equal `index`: from the shape of `index` and more to (n, ...)."""
    into = index.ravel()
    rows: list = []

    def add_up(x):
        x = x.reshape(index.size, *x.shape[index.ndim :])
        if x.ndim == 1 and x.dtype.kind == "f":
            return np.bincount(into, weights=x, minlength=n)
        if x.ndim == 1:
            return np.bincount(into, x.real, n) + 1j * np.bincount(into, x.imag, n)
        if not rows:
            order = np.argsort(into, kind="stable")
            rows.extend((order, *np.unique(into[order], return_index=True)))
        order, filled, first = rows
        total = np.zeros((n, *x.shape[1:]), dtype=x.dtype)
        total[filled] = np.add.reduceat(x[order], first, axis=0)
        return total

    return add_up


def fixed_values(mdp, pi, r, gamma):
    """Solve V = r_π + γ P_π V and return (Q, V), for ``horizon=None``."""
    proper = proper_states(mdp, pi, gamma)
    r_pi = np.einsum("sa...,sa...->s...", pi, np.broadcast_to(r, pi.shape))
    V = Eliminated(mdp, pi, gamma).values(np.where(proper, r_pi, 0.0))
    return r + gamma * expected_next(mdp, mdp.continuation, V), V


def fixed_occupancy(mdp, pi, gamma):
    """Solve d = initial + γ P_πᵀ d, the expected discounted visits to each state, for ``horizon=None``."""
    start = np.broadcast_to(trailing(mdp.initial, pi.ndim - 2), pi.shape[:1] + pi.shape[2:])
    return Eliminated(mdp, pi, gamma).occupancy(start)


class Eliminated:
    """The system I − γ P_π, eliminated state by state without a single subtraction.

    Where exits are rare, 1 − P loses the very digits that decide how long
    an episode lasts. Grassmann, Taksar and Heyman's elimination never forms it:
    the pivot of a state is what leaves it, to other states or for good, and
    eliminating it redirects its flow. Every digit of a small leak survives.

    Parameters
    ----------
    mdp, pi, gamma
        As elsewhere in this module, ``pi`` of shape (S, A, ...).

    References
    ----------
    Grassmann, Taksar & Heyman, "Regenerative Analysis and Steady State
    Distributions for Markov Chains", Operations Research 33 (1985); O'Cinneide, "Entrywise
    perturbation theory and error analysis for Markov chains", Numerische Mathematik 65 (1993).
    """

    def __init__(self, mdp, pi, gamma):
        S = mdp.n_states
        if S > LARGEST_SYSTEM:
            raise arguments.TooLargeError(
                f"horizon=None needs a dense system of {S} x {S}, above the limit of {LARGEST_SYSTEM} states; give a horizon"
            )
        states = np.arange(S)
        flow = np.zeros((S, *pi.shape[:1], *pi.shape[2:]), dtype=pi.dtype)
        for a in range(mdp.n_actions):
            for k in range(mdp.n_outcomes):  # each (a, k) names one successor per state: no index repeats
                flow[states, mdp.next_state[:, a, k]] += pi[:, a] * trailing(
                    gamma * mdp.continuation[:, a, k], pi.ndim - 2
                )
        ends = np.where(mdp.terminated, mdp.probability, (1.0 - gamma) * mdp.probability).sum(axis=2)
        leak = np.einsum("sa...,sa->s...", pi, ends)
        improper = ~proper_states(mdp, pi, gamma)  # never entered from the start: cut out
        flow[np.broadcast_to(improper[:, None], flow.shape)] = 0.0
        leak[improper] = 1.0
        self.pivot = np.ones_like(leak)
        for k in reversed(range(S)):
            self.pivot[k] = leak[k] + flow[k, :k].sum(axis=0)
            if np.any(self.pivot[k].real <= 0):
                raise ValueError(
                    f"horizon=None, but the probability of ever leaving state {k} underflows: give a horizon or a smaller gamma"
                )
            flow[:k, k] /= self.pivot[k]  # how often k is entered from i, times what one visit costs
            flow[:k, :k] += flow[:k, k, None] * flow[k, :k]
            leak[:k] += flow[:k, k] * leak[k]
        self.flow = flow

    def values(self, b):
        """Return x with x = b + γ P_π x, shape (S, ...)."""
        flow, x = _align(self.flow, b, 2), np.array(b, dtype=np.result_type(b, self.flow))
        pivot = _align(self.pivot, b, 1)
        for k in reversed(range(1, len(x))):
            x[:k] += flow[:k, k] * x[k]
        for k in range(len(x)):
            x[k] = (x[k] + (flow[k, :k] * x[:k]).sum(axis=0)) / pivot[k]
        return x

    def occupancy(self, c):
        """Return y with y = c + γ P_πᵀ y, shape (S, ...)."""
        flow, y = _align(self.flow, c, 2), np.array(c, dtype=np.result_type(c, self.flow))
        pivot = _align(self.pivot, c, 1)
        for k in reversed(range(1, len(y))):
            y[:k] += (y[k] / pivot[k]) * flow[k, :k]
        for k in range(len(y)):
            y[k] = y[k] / pivot[k] + (flow[:k, k] * y[:k]).sum(axis=0)
        return y


def proper_states(mdp, pi, gamma):
    """Return which states (S, ...) have finite values without a horizon, for each policy of a batch.

    With γ < 1 all have. With γ = 1 a state has one when every state that the
    policy can reach from it can still terminate.

    Raises
    ------
    ValueError
        When the start distribution can reach a state that has none.
    """
    if gamma < 1:
        return np.ones((mdp.n_states, *pi.shape[2:]), dtype=bool)
    proper = []
    for policy in np.moveaxis(pi.real.reshape(*pi.shape[:2], -1), -1, 0):
        possible = graph.possible_outcomes(mdp, policy)
        graph.require_end(mdp, possible, "with gamma=1")
        proper.append(graph.surely_ends(mdp, possible))
    return np.stack(proper, axis=-1).reshape(mdp.n_states, *pi.shape[2:])


def _align(array, b, n_states_axes):
    """Append axes to `array` for those that `b` has beyond it (many right-hand sides)."""
    return trailing(array, (b.ndim - 1) - (array.ndim - n_states_axes))


def trailing(array, n):
    return array.reshape(array.shape + (1,) * n)
