"""What is done with a batch: epochs, minibatches, and when to leave it."""

from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators.batch import LARGEST_LOG, Batch


@dataclass(frozen=True)
class Update:
    """What is done with a batch.

    Parameters
    ----------
    epochs : int
        How often the batch is gone through. From the second step on it is
        data of an older policy: the estimator needs a ratio, such as that of PPO.
    minibatches : int
        Parts that the batch is cut into, by whole groups, shuffled anew in every epoch; one step each.
    accumulate : int
        Batches whose estimates are averaged for one step, drawn one after
        the other: memory for one of them is enough. An estimated Fisher information is that of the last.
    target_kl : float, optional
        Leave the batch as soon as KL(data's policy ‖ policy) per step, estimated on the batch, is above it (nats).
    clip_norm : float, optional
        Longest gradient that is passed on to the optimiser.

    References
    ----------
    Schulman et al., "Proximal Policy Optimization Algorithms" (2017), Algorithm 1, for epochs and minibatches.

    Examples
    --------
    >>> Update(epochs=4, minibatches=2).accumulate
    1
    """

    epochs: int = 1
    minibatches: int = 1
    accumulate: int = 1
    target_kl: float | None = None
    clip_norm: float | None = None

    def __post_init__(self):
        for name in ("epochs", "minibatches", "accumulate"):
            object.__setattr__(self, name, arguments.integer(name, getattr(self, name), low=1))
        for name in ("target_kl", "clip_norm"):
            object.__setattr__(self, name, longest(name, getattr(self, name)))
        if self.accumulate > 1 and self.epochs * self.minibatches > 1:
            raise ValueError(
                f"accumulate={self.accumulate} keeps no batch to go through again; use epochs=1 and minibatches=1"
            )


def longest(name, value):
    """Return a limit as a number > 0, or None where there is none."""
    if value is None:
        return None
    return arguments.number(name, value, low=0.0, open_low=True, rule="a number > 0, or None")


def minibatches(trajectories, n, rng):
    """Yield `n` parts of the trajectories: whole groups, shuffled, in sizes as equal as they can be.

    Parameters
    ----------
    trajectories : Trajectories
        What is cut.
    n : int
        Number of parts.
    rng : numpy.random.Generator
        Shuffles.

    Yields
    ------
    Trajectories
    """
    if n == 1:
        yield trajectories
        return
    labels, group = np.unique(trajectories.groups, return_inverse=True)
    if len(labels) < n:
        raise ValueError(
            f"minibatches={n} is more than the {len(labels)} groups of the batch; use fewer, or a larger batch"
        )
    for part in np.array_split(rng.permutation(len(labels)), n):
        yield trajectories.take(np.flatnonzero(np.isin(group, part)))


def divergence(draw, theta):
    """Return an estimate of KL(μ ‖ π_θ) per step in nats, μ the policy that drew: the mean of ρ − 1 − log ρ.

    Parameters
    ----------
    draw : Draw
        With the log-probabilities of μ.
    theta : array (D,)
        Parameters of π.

    Returns
    -------
    float
        Never negative; zero for a draw without a policy.

    References
    ----------
    Schulman, "Approximating KL Divergence" (2020), the estimator k3.
    """
    trajectories = draw.trajectories
    if draw.policy is None:
        return 0.0
    labels = np.zeros(len(trajectories), dtype=np.intp)
    log_ratio = Batch(trajectories, draw.mdp.gamma, draw.policy, theta, trajectories.rewards, labels).log_ratio
    log_ratio = np.clip(log_ratio[trajectories.mask], -LARGEST_LOG, LARGEST_LOG)  # zero where π = 0 would be infinite
    return float(np.mean(np.expm1(log_ratio) - log_ratio)) if len(log_ratio) else 0.0
