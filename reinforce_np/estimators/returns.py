"""Returns of trajectories: the two sums every advantage starts from."""

import numpy as np


def returns(rewards, gamma):
    """R = Σₜ γᵗ rₜ, shape (N,).

    Parameters
    ----------
    rewards : array (N, T)
        Zero after the end of an episode.
    gamma : float
        Discount per step.

    Returns
    -------
    array (N,)

    Examples
    --------
    >>> returns(np.array([[1.0, 2.0, 4.0]]), 0.5)
    array([3.])
    """
    return rewards @ gamma ** np.arange(rewards.shape[1])


def rewards_to_go(rewards, gamma):
    """G_t = r_t + γ G_{t+1}, shape (N, T): the return from step t on, discounted from step t.

    Parameters
    ----------
    rewards : array (N, T)
        Zero after the end of an episode.
    gamma : float
        Discount per step.

    Returns
    -------
    array (N, T)

    Examples
    --------
    >>> rewards_to_go(np.array([[1.0, 2.0, 4.0]]), 0.5)
    array([[3., 4., 4.]])
    """
    to_go = np.array(rewards, dtype=np.float64)
    for t in reversed(range(to_go.shape[1] - 1)):
        to_go[:, t] += gamma * to_go[:, t + 1]
    return to_go
