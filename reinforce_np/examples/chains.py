"""Chains: one long way to the reward."""

import numpy as np

from reinforce_np import arguments
from reinforce_np.examples.building import from_moves, start_at
from reinforce_np.mdp import FiniteMDP


def delayed_chain(*, length=5, reward=1.0, gamma=1.0):
    """A chain that pays only at its end, and ends at the first mistake.

    In each of the states 0 … length − 1 action 0 goes on and action 1 gives
    up: the episode ends with nothing. Going on in the last state pays
    `reward`. State `length` is the end.

    **Known answer.** With π_s the probability of going on in state s,

        J = γ^(length − 1) · reward · Π_s π_s

    and for a tabular softmax ∂J/∂θ[s, 0] = J (1 − π_s) = −∂J/∂θ[s, 1].
    Only one trajectory in 1 / Π_s π_s is paid, so the variance of an
    estimator without a baseline grows like 1 / J: the textbook case of a
    sparse, delayed reward. (An own construction; no source needed.)

    Parameters
    ----------
    length : int
        Number of decisions on the way to the reward, also the horizon.
    reward : float
        Paid at the end.
    gamma : float
        Discount per step.

    Returns
    -------
    FiniteMDP
        length + 1 states, 2 actions, 1 outcome.

    Examples
    --------
    >>> delayed_chain(length=2).next_state[:, :, 0]
    array([[1, 2],
           [2, 2],
           [2, 2]])
    >>> delayed_chain(length=2).reward[:, :, 0]
    array([[0., 0.],
           [1., 0.],
           [0., 0.]])
    """
    length = arguments.integer("length", length, low=1)
    reward = arguments.number("reward", reward)
    state = np.arange(length)
    onward = np.append(state + 1, length)
    paid = np.zeros((length + 1, 2))
    paid[length - 1, 0] = reward
    return from_moves(
        np.stack([onward, np.full(length + 1, length)], axis=1),
        reward=paid,
        ends=[length],
        initial=start_at(0, length + 1),
        gamma=gamma,
        horizon=length,
    )


def river_swim(*, gamma=0.95, horizon=None, small=5.0, large=10000.0):
    """RiverSwim: drift for a small reward or swim upstream for a large one.

    Six states in a row. Action 0 drifts left, surely; in state 0 it stays
    and pays `small`. Action 1 swims right against the current: from an inner
    state it gains with probability 0.3, stays with 0.6 and loses with 0.1;
    from state 0 it gains with 0.3 and stays with 0.7; in state 5 it
    stays with 0.3, which pays `large`, and loses with 0.7. It starts in
    state 1 or 2.

    **Known answer.** Always drifting: V(s) = γ^s · small / (1 − γ). Always
    swimming is a birth-death chain: detailed balance gives the stationary
    distribution (7, 21, 63, 189, 567, 243) / 1090 and so the average reward
    0.3 · large · 243/1090 ≈ 669, against 5 for drifting.

    *Source*: Strehl & Littman, "An analysis of model-based interval
    estimation for Markov decision processes", Journal of Computer and System
    Sciences 74 (2008), pages 1309–1331; the numbers as in public
    implementations that cite it. Later papers use others (0.35, 0.6, 0.05;
    rewards 0.005 and 1).

    Parameters
    ----------
    gamma : float
        Discount per step.
    horizon : int or None
        Steps before truncation.
    small, large : float
        Reward for staying at the left end by drifting, at the right end by
        swimming.

    Returns
    -------
    FiniteMDP
        6 states, 2 actions, 3 outcomes (left, stay, right). No outcome
        terminates.

    Examples
    --------
    >>> river_swim().probability[3]
    array([[1. , 0. , 0. ],
           [0.1, 0.6, 0.3]])
    >>> float(river_swim().expected_reward[5, 1])
    3000.0
    """
    n_states = 6
    probability = np.zeros((n_states, 2, 3))
    probability[:, 0, 0] = 1.0
    probability[:, 1] = [0.1, 0.6, 0.3]
    probability[0, 0] = [0.0, 1.0, 0.0]
    probability[0, 1] = [0.0, 0.7, 0.3]
    probability[-1, 1] = [0.7, 0.3, 0.0]
    state = np.arange(n_states)
    next_state = np.clip(state[:, None, None] + [-1, 0, 1], 0, n_states - 1)
    reward = np.zeros((n_states, 2, 3))
    reward[0, 0, 1] = arguments.number("small", small)
    reward[-1, 1, 1] = arguments.number("large", large)
    return FiniteMDP(
        probability=probability,
        next_state=np.broadcast_to(next_state, probability.shape),
        reward=reward,
        terminated=np.zeros(probability.shape, dtype=bool),
        initial=start_at([1, 2], n_states),
        gamma=gamma,
        horizon=horizon,
    )
