"""Importance corrections: what makes data of another policy count for this one.

With ρ_t = π(a_t|s_t)/μ(a_t|s_t), π the policy whose gradient is wanted and μ
the behaviour that drew the actions, each choice is a frozen record whose
`weigh` turns an advantage into the (N, T) weights of the score. Ratios are kept
as logarithms until the last moment; one that float64 cannot hold is an error.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators.advantages import spread
from reinforce_np.estimators.batch import exponential, total


@dataclass(frozen=True)
class OnPolicy:
    """1: the trajectories were drawn by the policy itself.

    Unbiasedness is that of the advantage. On data of another policy it is
    *biased*: the correction that was forgotten.

    Examples
    --------
    >>> OnPolicy()
    OnPolicy()
    """

    def weigh(self, batch, advantage):
        """Return the credit itself, shape (N, T)."""
        return advantage.credit(batch)


@dataclass(frozen=True)
class TrajectoryRatio:
    """Πᵤ ρ_u over the whole trajectory, times the credit.

    *Unbiased* for ∇J_γ with every advantage that is unbiased on-policy; its
    variance grows exponentially with the length.

    References
    ----------
    Precup, Sutton & Singh, "Eligibility Traces for Off-Policy Policy
    Evaluation", ICML 2000, section 3; Jie & Abbeel, "On a Connection between Importance
    Sampling and the Likelihood Ratio Policy Gradient", NIPS 2010, equation (4).

    Examples
    --------
    >>> TrajectoryRatio()
    TrajectoryRatio()
    """

    def log_ratios(self, batch):
        """Return Σᵤ log ρ_u at every step, shape (N, T)."""
        return spread(batch.log_ratio.sum(axis=1), batch)

    def weigh(self, batch, advantage):
        """Return Πᵤ ρ_u · credit, shape (N, T)."""
        return exponential(self.log_ratios(batch), batch.mask) * advantage.credit(batch)


@dataclass(frozen=True)
class TokenRatio:
    """ρ_t, times the credit of step t: the gradient of the unclipped PPO surrogate.

    *Biased* off-policy beyond the first step: neither the states visited nor
    the return that follows are corrected. Exact on-policy, where ρ = 1, and
    for bandits.

    References
    ----------
    Schulman et al., "Proximal Policy Optimization Algorithms" (2017), equation (6).

    Examples
    --------
    >>> TokenRatio()
    TokenRatio()
    """

    def log_ratios(self, batch):
        """Return log ρ_t, shape (N, T)."""
        return batch.log_ratio

    def weigh(self, batch, advantage):
        """Return ρ_t · credit_t, shape (N, T)."""
        return exponential(self.log_ratios(batch), batch.mask) * advantage.credit(batch)


@dataclass(frozen=True)
class PerDecisionRatio:
    """Each reward corrected by the ratios up to it: credit through A = ρ (c + κ A').

        weight_t = ρ_0⋯ρ_{t−1} · ρ_t (p_t + κ A_{t+1})

    *Unbiased* for ∇J_γ with `RewardToGo` (any baseline) and with `GAE` at
    λ = 1. Its variance is mostly below that of `TrajectoryRatio`, but not
    always (Liu, Bacon & Brunskill, ICML 2020).

    Parameters
    ----------
    past : bool
        Include ρ_0⋯ρ_{t−1}, which corrects how often the state is visited.
        Without it the estimator is *biased* off-policy beyond the first step.

    References
    ----------
    Precup, Sutton & Singh, "Eligibility Traces for Off-Policy Policy
    Evaluation", ICML 2000, section 3, equation (3).

    Examples
    --------
    >>> PerDecisionRatio()
    PerDecisionRatio(past=True)
    """

    past: bool = True

    def __post_init__(self):
        arguments.flag("past", self.past)

    def weigh(self, batch, advantage):
        """Return ρ_0⋯ρ_{t−1} · ρ_t (p + κ A'), shape (N, T)."""
        c, p, kappa = _trace_of(advantage, batch, self)
        rho = exponential(batch.log_ratio, batch.mask)
        with np.errstate(over="ignore", invalid="ignore"):
            weights = _finite(rho * (p + kappa * _next(_accumulate(rho * c, kappa * rho))), self)
        if not self.past:
            return weights
        before = np.zeros_like(batch.log_ratio)
        np.cumsum(batch.log_ratio[:, :-1], axis=1, out=before[:, 1:])
        with np.errstate(over="ignore", invalid="ignore"):
            return _finite(exponential(before, batch.mask) * weights, self)


@dataclass(frozen=True)
class VTrace:
    """Truncated per-decision correction: credit through A = min(ρ,ρ̄) c + κ min(ρ,c̄) A'.

        weight_t = min(ρ_t, ρ̄) (p_t + κ A_{t+1})

    *Biased* by design. On-policy, with both limits >= 1, it is the advantage
    itself; with infinite limits it is `PerDecisionRatio` with ``past=False``. With λ < 1 the mixing
    by λ begins at the first step, so that on-policy it is `GAE`; Remark 2 of the paper begins it at the second.

    Parameters
    ----------
    rho_limit : float
        ρ̄ > 0, on the temporal difference; fixes what the critic would converge to.
    c_limit : float
        c̄ > 0, on the trace; trades variance for speed of contraction.

    References
    ----------
    Espeholt et al., "IMPALA: Scalable Distributed Deep-RL with Importance
    Weighted Actor-Learner Architectures", ICML 2018, equation (1) and section 4.2.

    Examples
    --------
    >>> VTrace()
    VTrace(rho_limit=1.0, c_limit=1.0)
    """

    rho_limit: float = 1.0
    c_limit: float = 1.0

    def __post_init__(self):
        _positive(self, "rho_limit", "c_limit")

    def weigh(self, batch, advantage):
        """Return min(ρ,ρ̄) (p + κ A'), shape (N, T)."""
        c, p, kappa = _trace_of(advantage, batch, self)
        rho, trace = (_at_most(batch.log_ratio, limit, batch.mask) for limit in (self.rho_limit, self.c_limit))
        with np.errstate(over="ignore", invalid="ignore"):
            return _finite(rho * (p + kappa * _next(_accumulate(rho * c, kappa * trace))), self)


@dataclass(frozen=True)
class ClippedRatio:
    """The gradient of PPO's surrogate min(ρA, clip(ρ, 1−ε_low, 1+ε_high) A).

    The weight is ρ_t A_t, and zero where the clip is active: A > 0 and
    ρ > 1+ε_high, or A < 0 and ρ < 1−ε_low. Nothing bounds ρ when A < 0; the
    dual clip stops it at ρ > `dual` as well.

    *Biased* off-policy by design. Exact on-policy, where ρ = 1.

    Parameters
    ----------
    lower, upper : float
        ε_low in [0, 1] and ε_high >= 0; different ones are DAPO's clip-higher.
    dual : float, optional
        c > 1: for A < 0 the surrogate becomes max(min(...), cA).

    References
    ----------
    Schulman et al., "Proximal Policy Optimization Algorithms" (2017), equation (7); Yu et
    al., "DAPO" (2025), equation (10); Ye et al., "Mastering Complex Control in
    MOBA Games with Deep Reinforcement Learning", AAAI 2020, equation (3).

    Examples
    --------
    >>> ClippedRatio(0.2, 0.28)
    ClippedRatio(lower=0.2, upper=0.28, dual=None)
    """

    lower: float = 0.2
    upper: float = 0.2
    dual: float | None = None

    def __post_init__(self):
        _check_clip(self)
        if self.dual is not None:
            object.__setattr__(
                self, "dual", arguments.number("dual", self.dual, low=1.0, open_low=True, rule="a number > 1")
            )

    def weigh(self, batch, advantage):
        """Return ρ_t A_t where the clip is not active, shape (N, T)."""
        A = advantage.credit(batch)
        keep = batch.mask & _unclipped(batch.log_ratio, A, self)
        if self.dual is not None:
            keep &= (A >= 0) | (batch.log_ratio <= np.log(self.dual))
        return exponential(batch.log_ratio, keep) * np.where(keep, A, 0.0)


@dataclass(frozen=True)
class GeometricMeanRatio:
    """One ratio per sequence, s = exp(mean_t log ρ_t), clipped as in PPO (GSPO).

    The gradient of min(sA, clip(s)A) puts the weight s·A/length on every step
    of the sequence: the geometric mean brings its own 1/length. With a credit
    per step it is GSPO-token (equations (13) and (14)).

    *Biased* by design, on-policy too: each episode counts 1/length.

    Parameters
    ----------
    lower, upper : float, optional
        ε_low and ε_high; None does not clip.

    References
    ----------
    Zheng et al., "Group Sequence Policy Optimization" (2025), equations (5), (7) and (10).

    Examples
    --------
    >>> GeometricMeanRatio(3e-4, 4e-4)
    GeometricMeanRatio(lower=0.0003, upper=0.0004)
    """

    lower: float | None = None
    upper: float | None = None

    def __post_init__(self):
        if (self.lower is None) != (self.upper is None):
            raise ValueError(f"lower={self.lower!r} and upper={self.upper!r}: give both limits or neither")
        if self.lower is not None:
            _check_clip(self)

    def log_ratios(self, batch):
        """Return mean_t log ρ_t at every step, shape (N, T)."""
        return spread(batch.log_ratio.sum(axis=1) / np.maximum(batch.lengths, 1), batch)

    def weigh(self, batch, advantage):
        """Return s·A/length where the clip is not active, shape (N, T)."""
        A, log_s = advantage.credit(batch), self.log_ratios(batch)
        keep = batch.mask if self.lower is None else batch.mask & _unclipped(log_s, A, self)
        return exponential(log_s, keep) * np.where(keep, A, 0.0) / np.maximum(batch.lengths, 1)[:, None]


@dataclass(frozen=True)
class TruncatedRatio:
    """min(ratio, limit), times the credit: never larger than asked for.

    *Biased* off-policy as soon as the limit is reached. It never overflows.

    Parameters
    ----------
    limit : float
        Largest ratio, > 0.
    of : TokenRatio or TrajectoryRatio
        Which ratio is truncated.

    References
    ----------
    Ionides, "Truncated Importance Sampling", JCGS 17 (2008), equation (4).

    Examples
    --------
    >>> TruncatedRatio(2.0)
    TruncatedRatio(limit=2.0, of=TokenRatio())
    """

    limit: float
    of: Any = field(default_factory=TokenRatio)

    def __post_init__(self):
        _positive(self, "limit")
        _check_inner(self)

    def weigh(self, batch, advantage):
        """Return min(ratio, limit) · credit, shape (N, T)."""
        return _at_most(self.of.log_ratios(batch), self.limit, batch.mask) * advantage.credit(batch)


@dataclass(frozen=True)
class MaskedRatio:
    """ratio · 1{low <= ratio <= high}, times the credit: what is too far off is dropped.

    *Biased* off-policy as soon as anything is dropped.

    Parameters
    ----------
    low, high : float
        0 <= low < high.
    of : TokenRatio or TrajectoryRatio
        Which ratio is looked at.

    References
    ----------
    Ling Team, "Every Step Evolves: Scaling Reinforcement Learning for
    Trillion-Scale Thinking Model" (2025), IcePop.

    Examples
    --------
    >>> MaskedRatio(0.5, 2.0)
    MaskedRatio(low=0.5, high=2.0, of=TokenRatio())
    """

    low: float
    high: float
    of: Any = field(default_factory=TokenRatio)

    def __post_init__(self):
        object.__setattr__(self, "low", arguments.number("low", self.low, low=0.0, rule="a finite number >= 0"))
        object.__setattr__(self, "high", arguments.number("high", self.high, low=0.0, rule="a finite number >= 0"))
        if self.low >= self.high:
            raise ValueError(f"low={self.low!r} and high={self.high!r}: the lower limit must be below the upper one")
        _check_inner(self)

    def weigh(self, batch, advantage):
        """Return the ratio where it is within the limits, times the credit, shape (N, T)."""
        log_ratios = self.of.log_ratios(batch)
        with np.errstate(divide="ignore"):
            keep = batch.mask & (log_ratios >= np.log(self.low)) & (log_ratios <= np.log(self.high))
        return exponential(log_ratios, keep) * advantage.credit(batch)


@dataclass(frozen=True)
class SelfNormalisedRatio:
    """Πᵤ ρ_u over the trajectory, divided by its mean over the batch (weighted importance sampling).

    *Biased*, by an amount that vanishes as the batch grows (not always step by
    step); with one trajectory it is no correction at all. No ratio exceeds the size of the batch, and
    nothing overflows. The estimate depends on how a batch is split into
    micro-batches. The normalised ratios are constants here: it is not the
    gradient of the weighted-importance-sampling estimate of J.

    References
    ----------
    Precup, Sutton & Singh, "Eligibility Traces for Off-Policy Policy
    Evaluation", ICML 2000, section 3 (weighted importance sampling).

    Examples
    --------
    >>> SelfNormalisedRatio()
    SelfNormalisedRatio()
    """

    def weigh(self, batch, advantage):
        """Return ρ_n / mean(ρ) · credit, shape (N, T)."""
        log_rho = batch.log_ratio.sum(axis=1)
        largest = np.full(batch.batch.max(initial=-1) + 1, -np.inf)
        np.maximum.at(largest, batch.batch, log_rho)
        wrong = largest[batch.batch] == -np.inf
        if wrong.any():
            n = int(np.argmax(wrong))
            raise ValueError(
                f"the ratios of all trajectories in the batch of trajectory {n} are zero, so their mean cannot divide: "
                "the policy gives probability zero to everything the behaviour did"
            )
        rho = np.exp(log_rho - largest[batch.batch])  # the common factor cancels, and nothing overflows
        return spread(rho * batch.sizes / total(rho, batch.batch), batch) * advantage.credit(batch)


def _trace_of(advantage, batch, ratio):
    if not hasattr(advantage, "trace"):
        raise TypeError(
            f"ratio={ratio!r} corrects reward by reward, which advantage={advantage!r} has none of; use RewardToGo or GAE"
        )
    return advantage.trace(batch)


def _accumulate(c, kappa):
    """Return A_t = c_t + κ_t A_{t+1}, shape (N, T)."""
    A = np.array(c)
    for t in reversed(range(A.shape[1] - 1)):
        A[:, t] += kappa[:, t] * A[:, t + 1]
    return A


def _next(A):
    """Return A_{t+1}, zero after the last step."""
    return np.concatenate([A[:, 1:], np.zeros_like(A[:, :1])], axis=1)


def _finite(weights, ratio):
    """Refuse products of ratios that overflow although each of them is a number."""
    wrong = ~np.isfinite(weights)
    if wrong.any():
        index = arguments.first_index(wrong)
        raise ValueError(
            f"the product of importance ratios overflows: ratio={ratio!r} gives {arguments.at('weights', index)}="
            f"{float(weights[index])}; the behaviour is too far from the policy: use finite limits, or data of a closer policy"
        )
    return weights


def _at_most(log_ratios, limit, mask):
    """Return min(ratio, limit) where `mask`, without overflow for a finite limit."""
    return exponential(np.minimum(log_ratios, np.log(limit)), mask)


def _unclipped(log_ratios, A, clip):
    """Return where PPO's clip is not active: a clipped side matters only if it is the smaller one."""
    with np.errstate(divide="ignore"):
        low, high = np.log1p(-clip.lower), np.log1p(clip.upper)
    return np.where(A > 0, log_ratios <= high, log_ratios >= low)


def _check_clip(clip):
    object.__setattr__(
        clip, "lower", arguments.number("lower", clip.lower, low=0.0, high=1.0, rule="a number in [0, 1]")
    )
    object.__setattr__(clip, "upper", arguments.number("upper", clip.upper, low=0.0, rule="a finite number >= 0"))


def _check_inner(ratio):
    if not isinstance(ratio.of, TokenRatio | TrajectoryRatio):
        raise TypeError(f"of={ratio.of!r} is not a plain ratio; pass TokenRatio() or TrajectoryRatio()")


def _positive(ratio, *names):
    for name in names:
        value = getattr(ratio, name)
        if not (isinstance(value, float) and value == np.inf):
            value = arguments.number(name, value, low=0.0, open_low=True, rule="a number > 0")
        object.__setattr__(ratio, name, float(value))
