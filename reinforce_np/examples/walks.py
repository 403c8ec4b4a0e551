"""The random walk on a line."""

import numpy as np

from reinforce_np import arguments
from reinforce_np.examples.building import from_moves, start_at


def random_walk(*, n_states=5, left_reward=0.0, right_reward=1.0, gamma=1.0, horizon=None):
    """A walk on a line with a reward at either end.

    States 1 … n are the line, 0 and n + 1 its two ends, where the episode
    terminates; action 0 steps left, 1 steps right; it starts in the middle
    (left of it when n is even). Only the step into an end pays.

    **Known answer.** Under the uniform policy and γ = 1,

        V(i) = left_reward + (right_reward − left_reward) · i / (n + 1)

    so 1/6, …, 5/6 for the defaults, and −0.9, −0.8, …, 0.9 for
    ``random_walk(n_states=19, left_reward=-1.0)``. When every state steps
    right with probability p ≠ ½ (the gambler's ruin), replace i / (n + 1) by
    (1 − xⁱ) / (1 − xⁿ⁺¹) with x = (1 − p) / p.

    *Source*: Sutton & Barto, Reinforcement Learning, 2nd ed. (2018),
    Example 6.2 (five states) and Example 7.1 (nineteen, with −1 on the left);
    the walk there has no actions, which is the uniform policy here.
    Gambler's ruin: Feller, An Introduction to Probability Theory, vol. I,
    3rd ed. (1968), ch. XIV.

    Parameters
    ----------
    n_states : int
        Length n of the line, without its ends.
    left_reward, right_reward : float
        Reward for stepping into the left and the right end.
    gamma : float
        Discount per step.
    horizon : int or None
        Steps before truncation; the book has none.

    Returns
    -------
    FiniteMDP
        n + 2 states, 2 actions, 1 outcome.

    Examples
    --------
    >>> random_walk(n_states=3).next_state[:, :, 0]
    array([[0, 0],
           [0, 2],
           [1, 3],
           [2, 4],
           [4, 4]])
    """
    n = arguments.integer("n_states", n_states, low=1)
    reward = np.zeros((n + 2, 2))
    reward[1, 0] = arguments.number("left_reward", left_reward)
    reward[n, 1] = arguments.number("right_reward", right_reward)
    return from_moves(
        np.arange(n + 2)[:, None] + [-1, 1],
        reward=reward,
        ends=[0, n + 1],
        initial=start_at((n + 1) // 2, n + 2),
        gamma=gamma,
        horizon=horizon,
    )
