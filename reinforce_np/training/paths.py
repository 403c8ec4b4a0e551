"""What the exact gradient would have done: no trajectories, the same optimiser."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from reinforce_np import arguments, exact
from reinforce_np.environments import Draw
from reinforce_np.training.optimisers import clipped, estimated_fisher, exact_fisher
from reinforce_np.training.updates import longest

TOGETHER = 64  # parameter vectors whose J is computed at once


class Path(NamedTuple):
    """Parameters and the exact J after every step, the start included.

    Parameters
    ----------
    theta : array (I+1, D)
        Parameters.
    objective : array (I+1,)
        J(θ).
    """

    theta: np.ndarray
    objective: np.ndarray


def ascend(gradient, optimiser, theta, *, iterations, clip_norm=None, draw=None):
    """θ ← optimiser.step(θ, gradient(θ)), shape (I+1, D): the path of a gradient without noise.

    Parameters
    ----------
    gradient : callable
        ``gradient(theta) -> (D,)``, of any function.
    optimiser : record of `training.optimisers`
        What makes a step of it.
    theta : array (D,)
        Where to start.
    iterations : int
        Number of steps I.
    clip_norm : float, optional
        As in `Update`.
    draw : Draw, optional
        For `NaturalGradient`: names the model and the policy.

    Returns
    -------
    array (I+1, D)

    Examples
    --------
    >>> from reinforce_np.training import SGD
    >>> ascend(lambda x: -x, SGD(0.5), [8.0], iterations=3).ravel()
    array([8., 4., 2., 1.])
    """
    theta = arguments.real_array("theta", theta, ndim=1, minus_infinity=True)
    path = np.empty((arguments.integer("iterations", iterations) + 1, len(theta)))
    path[0], state, clip_norm = theta, optimiser.start(theta), longest("clip_norm", clip_norm)
    for i in range(iterations):
        theta, state = optimiser.step(theta, clipped(gradient(theta), clip_norm), state, draw)
        path[i + 1] = theta
    return path


def exact_path(mdp, policy, optimiser, *, iterations, theta=None, clip_norm=None):
    """θ ← optimiser.step(θ, ∇J(θ)): what a run would have done without noise, and J along it.

    Parameters
    ----------
    mdp, policy
        The problem.
    optimiser : record of `training.optimisers`
        As in `train`; an estimated Fisher information is the exact one here, which it is an estimate of.
    iterations : int
        Number of steps I.
    theta : array (D,), optional
        Where to start; zeros if not given.
    clip_norm : float, optional
        As in `Update`.

    Returns
    -------
    Path
        theta (I+1, D) and objective (I+1,).

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> from reinforce_np.training import SGD
    >>> path = exact_path(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), SGD(1.0), iterations=50)
    >>> path.objective[[0, -1]].round(2)
    array([0.5 , 0.99])
    """
    arguments.check_same_model(mdp, policy)
    theta = policy.real_theta(np.zeros(policy.n_parameters) if theta is None else theta)
    if getattr(optimiser, "fisher", None) is estimated_fisher:
        optimiser = dataclasses.replace(optimiser, fisher=exact_fisher)
    nothing: Any = None
    options = {"iterations": iterations, "clip_norm": clip_norm, "draw": Draw(nothing, mdp, policy)}
    path = ascend(lambda theta: exact.gradient(mdp, policy, theta), optimiser, theta, **options)
    parts = [exact.objective(mdp, policy, path[i : i + TOGETHER]) for i in range(0, len(path), TOGETHER)]
    return Path(path, np.concatenate(parts))
