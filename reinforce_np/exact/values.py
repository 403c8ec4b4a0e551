"""J, V, Q, advantages and occupancy of a policy: one Bellman equation per function.

Shapes for a finite horizon T carry the time t; with ``horizon=None`` nothing
depends on t and that axis is absent. θ may be complex, and may have leading
batch axes, which come first in every answer.
"""

import numpy as np

from reinforce_np import arguments
from reinforce_np.exact import bellman
from reinforce_np.exact.objectives import Discounted


def induced(mdp, policy, theta, objective, *, probabilities=None):
    """Return π and r of shape (S, A, ...) and the discount: what the recursions run on; π may be at hand, of a model looked at."""
    if probabilities is None:
        arguments.check_same_model(mdp, policy)
    if not hasattr(objective, "discount") or isinstance(objective, type):
        raise TypeError(f"objective={objective!r} is no objective; pass one such as Discounted()")
    pi = bellman.state_first(policy.probabilities(theta) if probabilities is None else probabilities)
    r = bellman.state_first(mdp.expected_reward + objective.bonus(mdp, policy, theta))
    return pi, r.reshape(r.shape + (1,) * (pi.ndim - r.ndim)), objective.discount(mdp)


@bellman.refuses_overflow
def objective(mdp, policy, theta, *, objective=Discounted()):
    """J(θ) = E[Σₜ γᵗ rₜ], shape (...): by the backward recursion, or a linear solve.

    Parameters
    ----------
    mdp : FiniteMDP
        The model.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (..., D)
        Parameters, real or complex, or a batch of them.
    objective : Discounted, Undiscounted, KLRegularised or EntropyRegularised
        Which return is meant.

    Returns
    -------
    array (...)
        In units of reward.

    Raises
    ------
    ValueError
        When rewards, added up over an episode, leave float64.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> mdp = examples.bandit(means=[0.0, 1.0])
    >>> float(objective(mdp, TabularSoftmax(1, 2), [0.0, 0.0]))
    0.5
    """
    pi, r, gamma = induced(mdp, policy, theta, objective)
    V = np.zeros(pi.shape[:1] + pi.shape[2:], dtype=np.result_type(pi, r))
    if mdp.horizon is None:
        _, V = bellman.fixed_values(mdp, pi, r, gamma)
    else:
        for _, _, V in bellman.backward(mdp, pi, r, gamma):  # noqa: B007 - the last V is V_0
            pass
    return np.einsum("s,s...->...", mdp.initial, V)


@bellman.refuses_overflow
def values(mdp, policy, theta, *, objective=Discounted()):
    """V(s) = E[Σ_{u≥t} γ^{u−t} r_u | s_t = s], shape (..., T+1, S), or (..., S) without a horizon.

    ``V[t, s]`` has T − t steps to go; ``V[T]`` is zero.

    Parameters
    ----------
    mdp, policy, theta, objective
        As in `objective`.

    Returns
    -------
    array (..., T+1, S) or (..., S)

    Raises
    ------
    ValueError
        Without a horizon and with γ = 1, when some state never terminates.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> mdp = examples.random_walk()           # Sutton & Barto, Example 6.2: i/6
    >>> values(mdp, TabularSoftmax(mdp.n_states, mdp.n_actions), np.zeros(mdp.n_states * mdp.n_actions))[1:6] * 6
    array([1., 2., 3., 4., 5.])
    """
    pi, r, gamma = induced(mdp, policy, theta, objective)
    if mdp.horizon is None:
        improper = ~bellman.proper_states(mdp, pi, gamma).reshape(mdp.n_states, -1).all(axis=1)
        if improper.any():
            raise ValueError(
                f"state {int(np.argmax(improper))} need not terminate, so its value at gamma=1 has no limit: "
                "give a horizon, a gamma < 1, or mark an outcome as terminated"
            )
        return np.moveaxis(bellman.fixed_values(mdp, pi, r, gamma)[1], 0, -1)
    V = np.zeros((mdp.horizon + 1, *pi.shape[:1], *pi.shape[2:]), dtype=np.result_type(pi, r))
    for t, _, V_t in bellman.backward(mdp, pi, r, gamma):
        V[t] = V_t
    return np.moveaxis(V, (0, 1), (-2, -1))


@bellman.refuses_overflow
def action_values(mdp, policy, theta, *, objective=Discounted()):
    """Q(s,a) = r(s,a) + γ Σₖ p V(s'), shape (..., T, S, A), or (..., S, A) without a horizon.

    Parameters
    ----------
    mdp, policy, theta, objective
        As in `objective`.

    Returns
    -------
    array (..., T, S, A) or (..., S, A)

    Raises
    ------
    ValueError
        When rewards, added up over an episode, leave float64.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> action_values(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), [0.0, 0.0])
    array([[[0., 1.]]])
    """
    V = values(mdp, policy, theta, objective=objective)
    pi, r, gamma = induced(mdp, policy, theta, objective)
    if mdp.horizon is None:
        Q = r + gamma * bellman.expected_next(mdp, mdp.continuation, np.moveaxis(V, -1, 0))
        return np.moveaxis(Q, (0, 1), (-2, -1))
    V = np.moveaxis(V, (-2, -1), (0, 1))
    Q = np.empty((mdp.horizon, *pi.shape), dtype=V.dtype)
    for t in range(mdp.horizon):
        Q[t] = r + gamma * bellman.expected_next(mdp, mdp.continuation, V[t + 1])
    return np.moveaxis(Q, (0, 1, 2), (-3, -2, -1))


def largest_return(mdp, policy, theta):
    """Return the largest E[Σ γᵘ |r_u|] from any time, state and action that the values cover: what rounding is relative to.

    Parameters
    ----------
    mdp, policy, theta
        As in `objective`; real parameters.

    Returns
    -------
    float
    """
    magnitudes = mdp.magnitudes
    pi, r, gamma = induced(magnitudes, policy, theta, Discounted())
    if mdp.horizon is None:
        return float(
            bellman.fixed_values(magnitudes, pi, r, gamma)[0].max()
        )  # of states that the start cannot reach, too
    return max((float(Q.max()) for _, Q, _ in bellman.backward(magnitudes, pi, r, gamma)), default=0.0)


@bellman.refuses_overflow
def advantages(mdp, policy, theta, *, objective=Discounted()):
    """A(s,a) = Q(s,a) − V(s), shape (..., T, S, A), or (..., S, A) without a horizon.

    Parameters
    ----------
    mdp, policy, theta, objective
        As in `objective`.

    Returns
    -------
    array (..., T, S, A) or (..., S, A)

    Raises
    ------
    ValueError
        When rewards, added up over an episode, leave float64.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> advantages(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), [0.0, 0.0])
    array([[[-0.5,  0.5]]])
    """
    Q = action_values(mdp, policy, theta, objective=objective)
    V = values(mdp, policy, theta, objective=objective)
    if mdp.horizon is not None:
        V = V[..., :-1, :]
    return Q - V[..., None]


def occupancy(mdp, policy, theta, *, objective=Discounted()):
    """d(s) = γᵗ P(s_t = s), shape (..., T, S), or Σₜ of it, (..., S), without a horizon.

    The expected discounted number of visits while the episode is alive: not
    normalised, so that J = Σ_{t,s,a} d_t(s) π(a|s) r(s,a).

    Parameters
    ----------
    mdp, policy, theta, objective
        As in `objective`.

    Returns
    -------
    array (..., T, S) or (..., S)

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> occupancy(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), [0.0, 0.0])
    array([[1.]])
    """
    pi, _, gamma = induced(mdp, policy, theta, objective)
    if mdp.horizon is None:
        return np.moveaxis(bellman.fixed_occupancy(mdp, pi, gamma), 0, -1)
    d = np.zeros((mdp.horizon, *pi.shape[:1], *pi.shape[2:]), dtype=pi.dtype)
    for t, d_t in enumerate(bellman.forward(mdp, pi, gamma)):
        d[t] = d_t
    return np.moveaxis(d, (0, 1), (-2, -1))
