"""Draw batches, and let an estimator make one estimate of each."""

import dataclasses

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators import Estimator
from reinforce_np.exact import callables
from reinforce_np.exact.batches import batch_of
from reinforce_np.exact.record import DOUBLE
from reinforce_np.sampling import sample_blocks
from reinforce_np.trajectories import FIELDS, Trajectories, concatenate

CELLS = 2**22  # (trajectory, parameter) numbers held at once


def batch_size(problem):
    """Return how many trajectories a batch has."""
    return problem.prompts * problem.group_size


def name_of_batches(problem):
    """Return what one batch is called in a sentence: "trajectories", or their shape."""
    if batch_size(problem) == 1:
        return "trajectories"
    return f"batches of {problem.prompts} x {problem.group_size} trajectories"


def estimates_of(estimator, trajectories, problem, *, repeatable=False):
    """Return the estimate of each batch, the batches lying one after the other.

    Parameters
    ----------
    estimator : Estimator or callable
        In the form that `callables.bound` returns.
    trajectories : Trajectories
        B·prompts·group_size of them.
    problem : Problem
        Says what a batch is.
    repeatable : bool
        Whether a function is known to answer the same when asked the same: then
        it is asked once for each different batch.

    Returns
    -------
    array (B, D)
        In float64.

    Raises
    ------
    NotFiniteError
        When an estimate is NaN or infinite.

    Examples
    --------
    >>> from reinforce_np import Problem, TabularSoftmax, algorithms, examples, sample
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2), group_size=2)
    >>> batches = sample(problem.mdp, problem.policy, problem.theta, 4, group_size=2, rng=0)
    >>> estimates_of(algorithms.rloo(), batches, problem).shape
    (2, 2)
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
        return estimates
    asked, answer = _different(trajectories, n_batches) if repeatable else (np.arange(n_batches), np.arange(n_batches))
    estimates = np.empty((len(asked), len(problem.theta)))
    for i, b in enumerate(asked):
        members = np.arange(b * size, (b + 1) * size)
        estimates[i] = callables.estimate_of(estimator, batch_of(trajectories, members, groups[:size]), problem.theta)
    return estimates[answer]


def _different(trajectories, n_batches):
    """Return one batch of each kind, and of which kind every batch is: they are the same when all that is recorded is."""
    fields = [getattr(trajectories, name).reshape(n_batches, -1) for name in FIELDS if name != "groups"]
    table = np.ascontiguousarray(np.concatenate(fields, axis=1), dtype=np.float64)
    keys = table.view(np.dtype((np.void, table.shape[1] * table.itemsize))).ravel()
    _, first, kind = np.unique(keys, return_index=True, return_inverse=True)
    return first, kind.ravel()


def precision_of(estimator, problem):
    """Return the unit rounding of the type in which a function returns its estimates: that of float64, or a larger one."""
    if isinstance(estimator, Estimator):
        return DOUBLE
    batch = next(batches_drawn(problem, 1, rng=0))
    found = callables.estimate_of(
        estimator, batch_of(batch, np.arange(len(batch)), np.arange(len(batch)) // problem.group_size), problem.theta
    )
    return max(DOUBLE, float(np.finfo(found.dtype).eps)) if found.dtype.kind == "f" else DOUBLE


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
    left: list[Trajectories] = []
    for block in sample_blocks(
        problem.mdp, problem.policy, problem.theta, n * size,
        behaviour=problem.behaviour, group_size=problem.group_size, executor=executor, rng=rng,
    ):  # fmt: skip
        block = concatenate([*left, block]) if left else block
        whole = len(block) // size * size
        for first in range(0, whole, most):
            yield block.take(slice(first, min(first + most, whole)))
        left = [block.take(slice(whole, None))] if whole < len(block) else []
