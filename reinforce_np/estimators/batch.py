"""What the four slots of an estimator look at: a batch of trajectories, and whose score is weighted."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.trajectories import Trajectories


@dataclass(frozen=True, eq=False)
class Batch:
    """Trajectories together with the policy, its parameters and γ; the rewards may carry a penalty.

    Several independent batches can be held at once, told apart by `batch`:
    then everything that is averaged "over the batch" is averaged over the
    trajectories with the same label. That is how all possible batches are
    evaluated together when an estimator's expectation is enumerated.

    Parameters
    ----------
    trajectories : Trajectories
        N of at most T steps.
    gamma : float
        Discount per step.
    policy, theta
        Whose score is weighted.
    rewards : array (N, T)
        Rewards, penalties in the reward included; zero after the end.
    batch : int array (N,)
        0, 1, ...: which batch a trajectory belongs to.
    """

    trajectories: Trajectories
    gamma: float
    policy: Any
    theta: np.ndarray
    rewards: np.ndarray
    batch: np.ndarray

    @cached_property
    def mask(self):
        """True at the steps that happened, shape (N, T)."""
        return self.trajectories.mask

    @cached_property
    def lengths(self):
        """Number of steps, shape (N,)."""
        return self.trajectories.lengths

    @cached_property
    def sizes(self):
        """Number of trajectories in the batch of each trajectory, shape (N,)."""
        return total(np.ones(len(self.batch)), self.batch)

    @cached_property
    def group(self):
        """0, 1, ...: which group of which batch a trajectory belongs to, shape (N,)."""
        group = np.unique(self.trajectories.groups, return_inverse=True)[1]
        return np.unique(self.batch * (group.max(initial=0) + 1) + group, return_inverse=True)[1]

    @cached_property
    def log_ratio(self):
        """log π(a|s) − log μ(a|s) of the actions taken, in nats, zero after the end, shape (N, T)."""
        log_pi = self.at_steps(self.policy.log_probabilities(self.theta))
        log_mu = self.trajectories.log_probabilities
        largest = np.inf if self.is_density else 1e-9
        wrong = self.mask & ~(np.isfinite(log_mu) & (log_mu <= largest))
        if wrong.any():
            n, t = arguments.first_index(wrong)
            raise ValueError(
                f"log_probabilities[{n}, {t}]={float(log_mu[n, t])} is not the log-probability of an action that was taken: "
                "record log μ(a|s) <= 0 of the behaviour policy"
            )
        return np.where(self.mask, log_pi, 0.0) - np.where(self.mask, log_mu, 0.0)

    @property
    def is_density(self):
        """Whether the actions are continuous: the policy has densities, and closed forms of its own."""
        return getattr(self.policy, "is_density", False)

    def at_steps(self, table):
        """Return table[s, a] at every step, shape (N, T)."""
        return table[self.trajectories.states, self.trajectories.actions]


def total(x, index):
    """Return, for each entry, the sum of `x` over the entries with the same index; x of shape (N,) or (N, T).

    Examples
    --------
    >>> total(np.array([1.0, 2.0, 4.0]), np.array([0, 1, 0]))
    array([5., 2., 5.])
    """
    if x.ndim == 1:
        return np.bincount(index, weights=x)[index] if len(x) else x
    sums = np.zeros((index.max(initial=-1) + 1, x.shape[1]))
    np.add.at(sums, index, x)
    return sums[index]


def exponential(log_ratio, mask, what="the importance ratio"):
    """Return exp(log_ratio) where `mask`, zero elsewhere, refusing what float64 cannot hold."""
    log_ratio = np.where(mask, log_ratio, -np.inf)
    wrong = log_ratio > LARGEST_LOG
    if wrong.any():
        index = arguments.first_index(wrong)
        raise ValueError(
            f"{what} overflows: {arguments.at('log_ratio', index)}={float(log_ratio[index]):.6g} nats; the policies are too far "
            "apart: use TruncatedRatio, or data and references of a closer policy"
        )
    return np.exp(log_ratio)


LARGEST_LOG = 700.0  # nats: exp of it, times a return, still fits into float64
