"""Returns of trajectories: the two sums every advantage starts from."""

import numpy as np

from reinforce_np import arguments


def returns(rewards, gamma):
    """R = Σₜ γᵗ rₜ, shape (N,).

    Parameters
    ----------
    rewards : array (N, T)
        Zero after the end of an episode.
    gamma : float
        Discount per step, in [0, 1].

    Returns
    -------
    array (N,)

    Raises
    ------
    ValueError, TypeError
        When rewards are no rectangular array of numbers with two axes, or gamma is no discount.

    Examples
    --------
    >>> returns(np.array([[1.0, 2.0, 4.0]]), 0.5)
    array([3.])
    """
    rewards, gamma = _checked(rewards, gamma)
    return rewards @ gamma ** np.arange(rewards.shape[1])


def rewards_to_go(rewards, gamma):
    """G_t = r_t + γ G_{t+1}, shape (N, T): the return from step t on, discounted from step t.

    Parameters
    ----------
    rewards : array (N, T)
        Zero after the end of an episode.
    gamma : float
        Discount per step, in [0, 1].

    Returns
    -------
    array (N, T)

    Raises
    ------
    ValueError, TypeError
        When rewards are no rectangular array of numbers with two axes, or gamma is no discount.

    Examples
    --------
    >>> rewards_to_go(np.array([[1.0, 2.0, 4.0]]), 0.5)
    array([[3., 4., 4.]])
    """
    rewards, gamma = _checked(rewards, gamma)
    to_go = np.array(rewards, dtype=np.float64)
    for t in reversed(range(to_go.shape[1] - 1)):
        to_go[:, t] += gamma * to_go[:, t + 1]
    return to_go


def _checked(rewards, gamma):
    """Return both, refusing what are no rewards (N, T) and no discount; nothing is copied, for batches may be large."""
    rewards = arguments.as_array("rewards", rewards)
    arguments.check_shape("rewards", rewards, ndim=2)
    if rewards.dtype.kind not in "biuf":
        raise TypeError(f"rewards holds {rewards.dtype} values; it must hold real numbers")
    return rewards, arguments.number("gamma", gamma, low=0.0, high=1.0)
