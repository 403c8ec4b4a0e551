"""Advantages from the other answers to the same prompt: no critic, only the group.

A batch is ``prompts × group_size`` trajectories; the members of a group share
their first state and are told apart by ``Trajectories.groups``. Groups may have
different sizes: each statistic is taken over the members there are. A group of
one has nothing to compare itself with; that is an error, never a silent zero.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators.advantages import RewardToGo, TotalReturn, spread
from reinforce_np.estimators.batch import total
from reinforce_np.estimators.returns import returns, rewards_to_go

SAME = (
    4 * np.finfo(np.float64).eps
)  # per addition: returns closer than this, relative to the largest, are the same number


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """R_n − mean of the *other* returns of the group (RLOO).

    *Unbiased* for ∇J_γ: the baseline of a trajectory depends on other
    trajectories only. Per step, the reward-to-go is compared with the mean of
    the others' rewards-to-go from the same step on, which is zero for those
    that have ended; also *unbiased*.

    Parameters
    ----------
    per_step : bool
        Compare rewards-to-go step by step instead of whole returns.

    References
    ----------
    Kool, van Hoof & Welling, "Buy 4 REINFORCE Samples, Get a Baseline for
    Free!", ICLR 2019 workshop, equation (8); Ahmadian et al., "Back to Basics: Revisiting
    REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
    ACL 2024, section 2.3.

    Examples
    --------
    >>> LeaveOneOut()
    LeaveOneOut(per_step=False)
    """

    per_step: bool = False

    def __post_init__(self):
        arguments.flag("per_step", self.per_step)

    @property
    def from_start(self):
        """Whole returns are measured from the start, rewards-to-go are not."""
        return not self.per_step

    def credit(self, batch):
        """Return R_n − (Σ_group R − R_n)/(size − 1), shape (N, T)."""
        size = _group_sizes(batch, "LeaveOneOut")
        if self.per_step:
            G = rewards_to_go(batch.rewards, batch.gamma)
            return G - (total(G, batch.group) - G) / (size - 1)[:, None]
        R = returns(batch.rewards, batch.gamma)
        return spread(R - (total(R, batch.group) - R) / (size - 1), batch)


@dataclass(frozen=True, eq=False)
class GroupMean:
    """R_n − mean of the returns of the group, its own included. A *specimen*.

    *Proportional* to ∇J_γ with factor (N−1)/N for groups of N: the baseline
    contains the trajectory's own return and takes 1/N of the signal with it.
    It is (N−1)/N times `LeaveOneOut`. This is the advantage of Dr. GRPO.

    References
    ----------
    Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective"
    (COLM 2025), section 3.2 and appendix A (Dr. GRPO and its relation to RLOO).

    Examples
    --------
    >>> GroupMean()
    GroupMean()
    """

    from_start = True

    def credit(self, batch):
        """Return R_n − Σ_group R / size, shape (N, T)."""
        _group_sizes(batch, "GroupMean")
        return spread(_minus_group_mean(batch), batch)


@dataclass(frozen=True, eq=False)
class GroupStandardised:
    """(R_n − mean of the group) / (std + ε): the advantage of GRPO.

    *Biased* by design: dividing by the group's own standard deviation weighs
    rare successes and rare failures up, and prompts differently (for 0/1
    rewards from groups of four on). Where all returns are equal the
    advantage is zero, whatever ε is.

    Parameters
    ----------
    ddof : int
        0 divides the sum of squares by n (as the paper's formula is read), 1 by n − 1 (as `torch.std`).
    eps : float
        ε >= 0, added to the standard deviation, in units of reward.
    over_batch : bool
        Take the standard deviation of the differences over the whole batch
        instead of the group (the baseline variant of REINFORCE++). The
        estimate then depends on how a batch is split into micro-batches.

    References
    ----------
    Shao et al., "DeepSeekMath" (2024), section 4.1.2; for `over_batch` Hu et al.,
    "REINFORCE++" (2025), the baseline variant.

    Examples
    --------
    >>> GroupStandardised(ddof=0, eps=1e-4)
    GroupStandardised(ddof=0, eps=0.0001, over_batch=False)
    """

    ddof: int
    eps: float
    over_batch: bool = False
    from_start = True

    def __post_init__(self):
        arguments.flag("over_batch", self.over_batch)
        _check_standardisation(self)

    def credit(self, batch):
        """Return (R − mean)/(std + ε), shape (N, T)."""
        _group_sizes(batch, "GroupStandardised")
        difference = _minus_group_mean(batch)
        index = batch.batch if self.over_batch else batch.group
        return spread(_over_deviation(difference, index, np.ones(len(index)), self.ddof, self.eps), batch)


@dataclass(frozen=True, eq=False)
class BatchStandardised:
    """(A − mean of the batch) / (std + ε), over all live steps, or over all trajectories.

    *Biased* by design: the mean and the deviation contain the trajectory's
    own credit. The estimate depends on how a batch is split into micro-batches.
    Where everything is equal the advantage is zero.

    Parameters
    ----------
    of : TotalReturn or RewardToGo
        The credit that is standardised.
    ddof : int
        As in `GroupStandardised`.
    eps : float
        As in `GroupStandardised`.
    per_token : bool
        True takes mean and deviation over all live steps (long answers count
        more); False, for `TotalReturn` only, over trajectories.

    References
    ----------
    Hu et al., "REINFORCE++" (2025), global advantage normalisation.

    Examples
    --------
    >>> BatchStandardised(RewardToGo(), ddof=1, eps=1e-8).per_token
    True
    """

    of: Any
    ddof: int
    eps: float
    per_token: bool = True

    def __post_init__(self):
        if not isinstance(self.of, TotalReturn | RewardToGo):
            raise TypeError(f"of={self.of!r} cannot be standardised; pass TotalReturn() or RewardToGo()")
        arguments.flag("per_token", self.per_token)
        if not self.per_token and not isinstance(self.of, TotalReturn):
            raise ValueError(f"per_token=False needs one number per trajectory, but of={self.of!r} has one per step")
        _check_standardisation(self)

    @property
    def from_start(self):
        """As the credit that is standardised."""
        return self.of.from_start

    def credit(self, batch):
        """Return (A − mean)/(std + ε), shape (N, T)."""
        if not self.per_token:
            R, size = (returns(r, batch.gamma) for r in (batch.rewards, np.abs(batch.rewards)))
            R = R - self.of.baseline
            return spread(self._standardised(R, size + np.abs(R), batch.batch, np.ones(len(R)), batch), batch)
        A, live = self.of.credit(batch), batch.mask.ravel().astype(float)
        size = np.abs(A) + rewards_to_go(np.abs(batch.rewards), batch.gamma)
        index = np.repeat(batch.batch, A.shape[1])
        return self._standardised(A.ravel(), size.ravel(), index, live, batch).reshape(A.shape)

    def _standardised(self, x, size, index, weight, batch):
        difference = _minus_mean(x, size, index, weight, batch.trajectories.n_steps)
        return _over_deviation(difference, index, weight, self.ddof, self.eps)


def _group_sizes(batch, name):
    """Return the size of the group of each trajectory, refusing groups of one."""
    size = total(np.ones(len(batch.group)), batch.group)
    if len(size) and size.min() < 2:
        n = int(np.argmin(size))
        raise ValueError(
            f"groups[{n}]={int(batch.trajectories.groups[n])} has one member, and {name} compares the members of a group: "
            "draw groups of at least two, with group_size=2 in sample, judge, or ModelSource(mdp, policy, group_size=2) for train; or with "
            "problems=strategies.problems(strategies.GROUPS) in find_counterexample"
        )
    return size


def _minus_group_mean(batch):
    """Return R_n − mean of its group, shape (N,)."""
    R, size = (returns(r, batch.gamma) for r in (batch.rewards, np.abs(batch.rewards)))
    return _minus_mean(R, size, batch.group, np.ones(len(batch.group)), batch.trajectories.n_steps)


def _minus_mean(x, size, index, weight, n_steps):
    """Return x minus its mean over the entries of weight one with the same index, zero where they are all equal.

    Equal means equal up to the rounding of `n_steps` − 1 additions of terms whose absolute values add up to `size`: the same
    rewards added in another order differ in the last digit, the mean of equal numbers is not always that
    number, and neither must be blown up by a standard deviation that is rounding too.
    """
    n = index.max(initial=-1) + 1
    low, high, largest = np.full(n, np.inf), np.full(n, -np.inf), np.zeros(n)
    np.maximum.at(largest, index[weight > 0], size[weight > 0])
    np.minimum.at(low, index[weight > 0], x[weight > 0])
    np.maximum.at(high, index[weight > 0], x[weight > 0])
    mean = total(weight * x, index) / np.maximum(total(weight, index), 1.0)
    same = high - low <= SAME * max(n_steps - 1, 0) * largest
    return np.where((same | (low > high))[index], 0.0, weight * (x - mean))


def _over_deviation(difference, index, weight, ddof, eps):
    """Return difference/(std + ε), zero where all differences are zero.

    Differences are divided by the largest first, so that their squares fit into float64.
    """
    largest = np.zeros(index.max(initial=-1) + 1)
    np.maximum.at(largest, index, np.abs(difference))
    largest = largest[index]
    scaled = np.divide(difference, largest, out=np.zeros_like(difference), where=largest > 0)
    deviation = np.sqrt(total(scaled**2, index) / np.maximum(total(weight, index) - ddof, 1.0))
    eps = np.divide(eps, largest, out=np.zeros_like(largest), where=largest > 0)
    return np.divide(scaled, deviation + eps, out=np.zeros_like(scaled), where=deviation > 0)


def _check_standardisation(choice):
    object.__setattr__(choice, "ddof", arguments.integer("ddof", choice.ddof))
    if choice.ddof > 1:
        raise ValueError(f"ddof={choice.ddof} is out of range; pass 0 (divide by n) or 1 (divide by n - 1)")
    object.__setattr__(choice, "eps", arguments.number("eps", choice.eps, low=0.0, rule="a finite number >= 0"))
