"""The same quantities by listing every trajectory: the log-derivative trick, literally.

Slow, and independent of the recursions: nothing here knows a value function.
"""

import numpy as np

from reinforce_np import enumeration
from reinforce_np.exact.objectives import Discounted


def objective_by_enumeration(mdp, policy, theta, *, objective=Discounted(), limit=enumeration.LIMIT):
    """J(θ) = Σ_τ p(τ) R(τ), a float.

    Parameters
    ----------
    mdp, policy, objective
        As in `exact.objective`.
    theta : array (D,)
        Real parameters.
    limit : int
        As in `enumerate_trajectories`.

    Returns
    -------
    float

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> objective_by_enumeration(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), [0.0, 0.0])
    0.5
    """
    trajectories, p = enumeration.enumerate_trajectories(mdp, policy, theta, limit=limit)
    return float(p @ _returns(trajectories, mdp, policy, theta, objective))


def gradient_by_enumeration(mdp, policy, theta, *, objective=Discounted(), limit=enumeration.LIMIT):
    """∇J(θ) = Σ_τ p(τ) [R(τ) Σ_t ∇log π(a_t|s_t) + ∇R(τ)], shape (D,).

    The second term is there only when the objective pays for the policy
    itself (KL, entropy).

    Parameters
    ----------
    mdp, policy, objective
        As in `exact.gradient`.
    theta : array (D,)
        Real parameters.
    limit : int
        As in `enumerate_trajectories`.

    Returns
    -------
    array (D,)

    Raises
    ------
    TooLargeError
        Before any work, when there are too many trajectories.

    References
    ----------
    Williams, "Simple Statistical Gradient-Following Algorithms for
    Connectionist Reinforcement Learning", Machine Learning 8 (1992), appendix A.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> gradient_by_enumeration(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), [0.0, 0.0])
    array([-0.25,  0.25])
    """
    trajectories, p = enumeration.enumerate_trajectories(mdp, policy, theta, limit=limit)
    R, weight = _returns(trajectories, mdp, policy, theta, objective), np.zeros(mdp.n_states * mdp.n_actions)
    for t in range(trajectories.n_steps):
        share = (
            p * (t < trajectories.lengths) * (R + objective.discount(mdp) ** t * objective.slope)
        )  # ∇p(τ) R(τ) + p(τ) ∇R(τ)
        visited = trajectories.states[:, t] * mdp.n_actions + trajectories.actions[:, t]
        weight += np.bincount(visited, share, len(weight))
    return np.einsum("sa,sad->d", weight.reshape(mdp.n_states, -1), policy.score(theta))


def _returns(trajectories, mdp, policy, theta, objective):
    gamma, bonus = objective.discount(mdp), objective.bonus(mdp, policy, theta)
    R = np.zeros(len(trajectories))
    for t in range(trajectories.n_steps):
        paid = trajectories.rewards[:, t]
        if bonus.any():
            paid = paid + bonus[trajectories.states[:, t], trajectories.actions[:, t]]
        R += gamma**t * (t < trajectories.lengths) * paid
    return R
