"""The gradient from any number of trajectories that are drawn, used and forgotten."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments, parallel
from reinforce_np.estimators import (
    GAE,
    ActionDependent,
    ClippedRatio,
    Constant,
    EntropyBonus,
    Estimator,
    GeometricMeanRatio,
    GroupMean,
    GroupStandardised,
    KLPenalty,
    LeaveOneOut,
    MaskedRatio,
    NStep,
    OnPolicy,
    PerComponent,
    PerDecisionRatio,
    PerLength,
    PerTrajectory,
    RewardToGo,
    TokenRatio,
    TotalReturn,
    TrajectoryRatio,
    TruncatedRatio,
    VTrace,
    returns,
)
from reinforce_np.estimators.packed import applies, divisor, finite, pair_weights
from reinforce_np.sampling.blocks import borrowed_arena, draw_block, trajectories
from reinforce_np.sampling.draw import blocks_of, seed_sequence, whole_groups
from reinforce_np.sampling.tables import sampling_tables

JOBS = 8  # at least, where there are as many blocks
BLOCKS_OF_JOB = 32  # at most: of the few jobs of a long run, each is sent the tables once
IN_FLIGHT = 64  # jobs for workers that have nothing to do; their results are small

BY_GROUPS = {  # what looks at no more than one group at a time
    "advantage": (TotalReturn, RewardToGo, GAE, NStep, LeaveOneOut, GroupMean, GroupStandardised, ActionDependent),
    "ratio": (OnPolicy, TrajectoryRatio, TokenRatio, PerDecisionRatio, VTrace, ClippedRatio, GeometricMeanRatio,
              TruncatedRatio, MaskedRatio),
    "penalty": (KLPenalty, EntropyBonus),
    "normaliser": (PerTrajectory, PerLength, Constant),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class StreamedGradient:
    """What `stream_gradient` returns.

    Parameters
    ----------
    gradient : array (D,)
        ĝ of all trajectories together.
    mean_return : float
        Mean of Σ γᵗ rₜ, in units of reward.
    n : int
        Number of trajectories.
    n_transitions : int
        Number of steps of all of them together.
    """

    gradient: np.ndarray
    mean_return: float
    n: int
    n_transitions: int


def stream_gradient(estimator, mdp, policy, theta, n, *, behaviour=None, group_size=1, executor=None, rng=None):
    """Return ĝ of `n` trajectories that are drawn block by block and not kept.

    The trajectories are those of `sample` with the same seed, and the gradient
    is that of ``estimator.gradient`` on them, up to rounding; memory does not
    grow with `n`. Reward-to-go on its own trajectories is the fast case.

    Parameters
    ----------
    estimator : Estimator
        One that needs no more than a group at a time: not `PerToken`,
        `BatchStandardised`, `InSampleOptimal`, `SelfNormalisedRatio`, and not
        a record this package does not know.
    mdp, policy, theta, n, behaviour, group_size, executor, rng
        As in `sample`. The result is the same for every executor, bit for bit.

    Returns
    -------
    StreamedGradient
        With `gradient` (D,), `mean_return`, `n` and `n_transitions`.

    Raises
    ------
    ValueError
        For an estimator that looks at the whole batch at once.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples, exact
    >>> mdp = examples.frozen_lake(map="4x4", horizon=100)
    >>> policy, theta = TabularSoftmax(mdp.n_states, mdp.n_actions), np.zeros(64)
    >>> streamed = stream_gradient(algorithms.reinforce(), mdp, policy, theta, 100_000, rng=0)
    >>> bool(np.abs(streamed.gradient - exact.gradient(mdp, policy, theta)).max() < 1e-3)
    True
    """
    refuse_whole_batch(estimator)
    parallel.check_executor(executor)
    n = arguments.integer("n", n, low=1, remedy="an estimate needs at least one trajectory")
    n, group_size = whole_groups(n, group_size)
    seed = seed_sequence(rng)
    walk, meaning = sampling_tables(mdp, policy, theta, behaviour, n)
    size, seeds = blocks_of(n, walk, group_size, seed)
    fast = is_fast(estimator, mdp)
    of_blocks: Any = weights_of_blocks if fast else gradients_of_blocks
    problem = (mdp.gamma,) if fast else (mdp, policy, policy.real_theta(theta))  # no more than what is used: it is sent
    common = parallel.Parcel((walk, meaning, group_size, estimator, *problem))
    blocks_of_job = min(BLOCKS_OF_JOB, n // size // JOBS + 1)
    jobs = ((of_blocks, some, common) for some in iter(lambda: list(itertools.islice(seeds, blocks_of_job)), []))
    total, returned, n_transitions = sums(parallel.in_order(sums_of_job, jobs, executor, IN_FLIGHT))
    gradient = policy.contract(theta, finite(total) / divisor(estimator, n)) if fast else finite(total) / n
    return StreamedGradient(gradient, float(returned / n), n, n_transitions)


def is_fast(estimator, mdp):
    """Say whether the blocks need not be written out."""
    return applies(estimator, mdp, np.inf if mdp.horizon is None else mdp.horizon)


def sums_of_job(of_blocks, seeds, common):
    """Return the sums of some blocks: what a worker is asked for, and sent back."""
    return sums(of_blocks(seeds, *common.content))


def sums(parts):
    """Return the sums of weights or gradients, of returns and of steps, added up from first to last."""
    total, returned, n_transitions = 0.0, 0.0, 0
    for part, G, steps in parts:
        total, returned, n_transitions = total + part, returned + G, n_transitions + steps
    return total, returned, n_transitions


def weights_of_blocks(seeds, walk, meaning, group_size, estimator, gamma):
    """Yield, for each block, what it adds to the weights of pairs (S, A), to returns and to steps."""
    for paths in blocks(walk, seeds, group_size):
        yield *pair_weights(paths, meaning, estimator, gamma), paths.n_transitions


def gradients_of_blocks(seeds, walk, meaning, group_size, estimator, mdp, policy, theta):
    """Yield, for each block, what it adds to N times the gradient (D,), to returns and to steps."""
    for paths in blocks(walk, seeds, group_size):
        block = trajectories([paths], meaning, walk.horizon, 0, group_size)
        gradient = estimator.gradient(block, mdp, policy, theta)
        yield paths.n * gradient, returns(block.rewards, mdp.gamma).sum(), paths.n_transitions


def blocks(walk, seeds, group_size):
    """Yield the blocks, each in the memory of the one before."""
    for entropy, spawn_key, n in seeds:
        with borrowed_arena() as arena:
            yield draw_block(walk, entropy, spawn_key, n, group_size, arena)


def refuse_whole_batch(estimator):
    """Refuse an estimator that looks at the whole batch, or a record that might."""
    if not isinstance(estimator, Estimator):
        raise TypeError(f"estimator={estimator!r} is no Estimator; pass one, such as algorithms.reinforce()")
    of = estimator.advantage.of if isinstance(estimator.advantage, PerComponent) else estimator.advantage
    slots = [("advantage", of), ("ratio", estimator.ratio), ("normaliser", estimator.normaliser)]
    slots += [("penalty", penalty) for penalty in estimator.penalty]
    for name, record in slots:
        if type(record) not in BY_GROUPS[name] or getattr(record, "over_batch", False):
            raise ValueError(
                f"{name}={record!r} may look at the whole batch, which is never there at once; use sample and "
                f"estimator.gradient, or one of {', '.join(choice.__name__ for choice in BY_GROUPS[name])}"
            )
