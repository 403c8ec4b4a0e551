"""Estimates from many batches at one θ, in the plane where they can be looked at."""

from typing import Any, NamedTuple

import numpy as np

from reinforce_np import arguments, exact
from reinforce_np.exact.record import norm
from reinforce_np.sampling import sample, seed_sequence


class Cloud(NamedTuple):
    """Estimates from B batches by E estimators, in a plane through the gradient.

    Parameters
    ----------
    names : tuple of str
        Of the estimators.
    points : array (E, B, 2)
        Along the gradient, and across it.
    means : array (E, 2)
        Exact means.
    covariances : array (E, 2, 2)
        Exact covariances.
    length : float
        ‖∇J‖.
    batch_size : int
        Trajectories in each batch.
    plane : array (2, D)
        The two directions.
    """

    names: tuple
    points: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    length: float
    batch_size: int
    plane: Any


def clouds(mdp, policy, theta, estimators, *, batch_size=10, batches=1000, group_size=1, rng=None):
    """Estimate the gradient from many batches, with every estimator on the same ones.

    Parameters
    ----------
    mdp, policy, theta
        The problem, and where.
    estimators : dict
        {name: Estimator}.
    batch_size : int
        Trajectories in each batch.
    batches : int
        Number of batches.
    group_size : int
        Trajectories that share their first state.
    rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
        Seed.

    Returns
    -------
    Cloud
        In the plane of the gradient and the direction across it in which the first estimator scatters most.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> problem = examples.referee(), TabularSoftmax(3, 3), np.zeros(9)
    >>> cloud = clouds(*problem, {"REINFORCE": algorithms.reinforce()}, batches=50, rng=0)
    >>> cloud.points.shape, bool(abs(cloud.means[0, 0] / cloud.length - 1) < 1e-9)
    ((1, 50, 2), True)
    """
    theta, size = policy.real_theta(theta), arguments.integer("batch_size", batch_size, low=1)
    batches = arguments.integer("batches", batches, low=1)
    if size % arguments.integer("group_size", group_size, low=1):
        raise ValueError(f"batch_size={size} is not a multiple of group_size={group_size}; draw whole groups")
    if not isinstance(estimators, dict):
        raise TypeError(f"estimators={estimators!r} is no dictionary; pass names with them, {{name: Estimator}}")
    gradient = exact.gradient(mdp, policy, theta)
    length = norm(gradient)
    if not length or not estimators:
        raise ValueError(
            "the gradient is zero here, or there is no estimator: there is nothing to compare; choose another theta"
        )
    found = [
        exact.moments(e, mdp, policy, theta, prompts=size // group_size, group_size=group_size, covariance=True)
        for e in estimators.values()
    ]
    along = gradient / length
    across = np.eye(len(theta)) - np.outer(along, along)
    widest = np.linalg.eigh(across @ found[0].covariance @ across)[1][:, -1]
    plane = np.stack([along, widest])
    seed = seed_sequence(rng)
    points = np.empty((len(estimators), batches, 2))
    for b in range(batches):
        child = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, b))
        batch = sample(mdp, policy, theta, size, group_size=group_size, rng=child)
        for e, estimator in enumerate(estimators.values()):
            points[e, b] = plane @ estimator.gradient(batch, mdp, policy, theta)
    means = np.array([plane @ moments.mean for moments in found])
    covariances = np.array([plane @ moments.covariance @ plane.T for moments in found])
    return Cloud(tuple(estimators), points, means, covariances, length, size, plane)
