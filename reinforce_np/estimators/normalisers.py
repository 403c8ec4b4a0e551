"""What the weights are divided by: the slot that practice fills without saying so.

`scale` returns the factor of every weight of a trajectory, shape (N, 1), 1/N included. Only
`PerToken` couples the trajectories of a batch: with it, an estimate from
micro-batches is not the estimate from the batch. With all others the batch is
the mean of its micro-batches, each counted by its number of trajectories.
"""

from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments


@dataclass(frozen=True)
class PerTrajectory:
    """1/N: the mean over trajectories of the sum over steps. Changes no expectation.

    Every trajectory counts the same, whichever group it is in and however
    large that group is.

    Examples
    --------
    >>> PerTrajectory()
    PerTrajectory()
    """

    def scale(self, batch):
        """Return 1/N, shape (N, 1)."""
        return 1.0 / batch.sizes[:, None]


@dataclass(frozen=True)
class PerLength:
    """1/(N·length): the mean over trajectories of the *mean* over steps.

    *Biased*: long episodes count less, so that long failures are punished
    less than short ones. An episode of length zero has no weight anyway.

    References
    ----------
    Shao et al., "DeepSeekMath" (2024), equation (3); its bias is discussed by Liu
    et al., "Understanding R1-Zero-Like Training" (2025), section 3.1.

    Examples
    --------
    >>> PerLength()
    PerLength()
    """

    def scale(self, batch):
        """Return 1/(N·length), shape (N, 1)."""
        return 1.0 / (batch.sizes * np.maximum(batch.lengths, 1))[:, None]


@dataclass(frozen=True)
class PerToken:
    """1/(number of live steps in the batch): the ``.mean()`` of a flattened loss.

    *Biased*: the divisor is random and depends on the actions. An estimate
    from micro-batches differs from that of the batch. A batch without a single
    step gives zero.

    References
    ----------
    Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at
    Scale" (2025), equation (12), token-level policy gradient loss.

    Examples
    --------
    >>> PerToken()
    PerToken()
    """

    def scale(self, batch):
        """Return 1/Σ lengths, shape (N, 1)."""
        tokens = np.bincount(batch.batch, weights=batch.lengths)[batch.batch] if len(batch.batch) else batch.sizes
        return 1.0 / np.maximum(tokens, 1.0)[:, None]


@dataclass(frozen=True)
class Constant:
    """1/(N·c): the sum over steps divided by a constant, such as the longest possible answer.

    *Proportional* with factor 1/c.

    Parameters
    ----------
    c : float
        The divisor, > 0.

    References
    ----------
    Liu et al., "Understanding R1-Zero-Like Training" (2025), section 3.2 and
    listing 1 (Dr. GRPO).

    Examples
    --------
    >>> Constant(8)
    Constant(c=8.0)
    """

    c: float

    def __post_init__(self):
        object.__setattr__(
            self, "c", arguments.number("c", self.c, low=1e-100, high=1e100, rule="a number in [1e-100, 1e100]")
        )

    def scale(self, batch):
        """Return 1/(N·c), shape (N, 1)."""
        return 1.0 / (batch.sizes * self.c)[:, None]
