"""Draw batches, and let an estimator make one estimate of each."""

import dataclasses

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators import Estimator
from reinforce_np.exact import callables
from reinforce_np.exact.batches import batch_of
from reinforce_np.exact.record import DOUBLE
from reinforce_np.sampling import sample_blocks
from reinforce_np.trajectories import concatenate

CELLS = 2**22  # (trajectory, parameter) numbers held at once


def batch_size(problem):
    """Return how many trajectories a batch has."""
    return problem.prompts * problem.group_size


def name_of_batches(problem):
    """Return what one batch is called in a sentence: "trajectories", or their shape."""
    if batch_size(problem) == 1:
        return "trajectories"
    return f"batches of {problem.prompts} x {problem.group_size} trajectories"


def estimates_of(estimator, trajectories, problem):
    """Return the estimate of each batch, the batches lying one after the other.

    Parameters
    ----------
    estimator : Estimator or callable
        In the form that `callables.bound` returns.
    trajectories : Trajectories
        B·prompts·group_size of them.
    problem : Problem
        Says what a batch is.

    Returns
    -------
    estimates : array (B, D)
        In float64.
    precision : float
        The largest unit rounding of the types they were returned in.

    Raises
    ------
    NotFiniteError
        When an estimate is NaN or infinite.

    Examples
    --------
    >>> from reinforce_np import Problem, TabularSoftmax, algorithms, examples, sample
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2), group_size=2)
    >>> batches = sample(problem.mdp, problem.policy, problem.theta, 4, group_size=2, rng=0)
    >>> estimates, precision = estimates_of(algorithms.rloo(), batches, problem)
    >>> estimates.shape, precision
    ((2, 2), 2.220446049250313e-16)
    """
    size = batch_size(problem)
    n_batches = len(trajectories) // size
    groups = np.arange(len(trajectories)) // problem.group_size
    if isinstance(estimator, Estimator):
        batches, labels = dataclasses.replace(trajectories, groups=groups), np.arange(len(trajectories)) // size
        given = (problem.mdp, problem.policy, problem.theta)
        estimates = estimator.contract(estimator.batch(batches, *given, labels=labels), labels, n_batches)
        wrong = ~np.isfinite(estimates)
        if wrong.any():
            b, i = arguments.first_index(wrong)
            batch = trajectories.take(slice(b * size, (b + 1) * size))
            raise callables.NotFiniteError(
                f"{estimator!r} returned {estimates[b, i]} for component {i} of {callables.describe(batch)}"
            )
        return estimates, DOUBLE
    estimates, precision = np.empty((n_batches, len(problem.theta))), DOUBLE
    for b in range(n_batches):
        members = np.arange(b * size, (b + 1) * size)
        found = callables.estimate_of(estimator, batch_of(trajectories, members, groups[:size]), problem.theta)
        estimates[b] = found
        if found.dtype.kind == "f":
            precision = max(precision, float(np.finfo(found.dtype).eps))
    return estimates, precision


def batches_drawn(problem, n, *, executor=None, rng=None):
    """Yield `n` batches in parts of whole batches: together, the trajectories that `sample` draws from the same seed.

    Parameters
    ----------
    problem : Problem
        Model, policy, behaviour, and shape of a batch.
    n : int
        Number of batches.
    executor, rng
        As in `sample`.

    Yields
    ------
    Trajectories
    """
    size = batch_size(problem)
    most = max(CELLS // len(problem.theta) // size, 1) * size
    left = []
    for block in sample_blocks(
        problem.mdp, problem.policy, problem.theta, n * size,
        behaviour=problem.behaviour, group_size=problem.group_size, executor=executor, rng=rng,
    ):  # fmt: skip
        block = concatenate([*left, block]) if left else block
        whole = len(block) // size * size
        for first in range(0, whole, most):
            yield block.take(slice(first, min(first + most, whole)))
        left = [block.take(slice(whole, None))] if whole < len(block) else []
