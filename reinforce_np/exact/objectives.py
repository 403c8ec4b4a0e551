"""Objectives have names: a gradient is always the gradient *of something*.

An objective says how steps are discounted and what each step is worth. Every
function of `exact` takes one as ``objective=``; `Discounted` is the default
because γ belongs to the model.

The regularised ones pay a bonus that depends on the policy itself,

    r(s,a) + slope · log π_θ(a|s) + (what does not depend on θ),

so their return has a derivative of its own. It never reaches the gradient of
J, because E[slope · ∇log π] = 0, but it does reach the Hessian.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments


@dataclass(frozen=True)
class Discounted:
    """J_γ(θ) = E[Σₜ γᵗ rₜ], with γ = ``mdp.gamma``.

    Examples
    --------
    >>> from reinforce_np import examples, exact, TabularSoftmax
    >>> mdp = examples.bandit(means=[0.0, 1.0])
    >>> float(exact.objective(mdp, TabularSoftmax(1, 2), [0.0, 0.0], objective=Discounted()))
    0.5
    """

    slope = 0.0

    def discount(self, mdp):
        """Return the factor between one step and the next."""
        return mdp.gamma

    def bonus(self, mdp, policy, theta):
        """Return what a step is worth besides its reward, shape (S, A): nothing."""
        return np.zeros((mdp.n_states, mdp.n_actions))


@dataclass(frozen=True)
class Undiscounted:
    """J₁(θ) = E[Σₜ rₜ]: the same rewards, whatever ``mdp.gamma`` is.

    Examples
    --------
    >>> from reinforce_np import examples, exact, TabularSoftmax
    >>> mdp = examples.bandit(means=[0.0, 1.0]).replace(gamma=0.5)
    >>> float(exact.objective(mdp, TabularSoftmax(1, 2), [0.0, 0.0], objective=Undiscounted()))
    0.5
    """

    slope = 0.0

    def discount(self, mdp):
        """Return 1."""
        return 1.0

    def bonus(self, mdp, policy, theta):
        """Return what a step is worth besides its reward, shape (S, A): nothing."""
        return np.zeros((mdp.n_states, mdp.n_actions))


@dataclass(frozen=True, eq=False)
class KLRegularised:
    """J_γ(θ) − β E[Σₜ γᵗ KL(π_θ(·|sₜ) ‖ π_ref(·|sₜ))].

    The same as the reward r − β log(π_θ/π_ref), whose expectation over
    actions is r − β KL.

    Parameters
    ----------
    reference : array (D,) or (S, A)
        π_ref: parameters of the same policy, or a table of probabilities.
    beta : float
        β >= 0, in units of reward per nat.

    References
    ----------
    Ziegler et al., "Fine-Tuning Language Models from Human Preferences"
    (2019), equation (2).

    Examples
    --------
    >>> from reinforce_np import examples, exact, TabularSoftmax
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> towards = KLRegularised(reference=np.array([[0.5, 0.5]]), beta=0.1)
    >>> float(exact.objective(mdp, policy, [0.0, 0.0], objective=towards))
    0.5
    """

    reference: Any
    beta: float

    def __post_init__(self):
        object.__setattr__(self, "reference", arguments.real_array("reference", self.reference, minus_infinity=True))
        object.__setattr__(self, "beta", arguments.number("beta", self.beta, low=0.0, rule="a finite number >= 0"))

    @property
    def slope(self):
        """Derivative of the bonus with respect to log π: −β."""
        return -self.beta

    def discount(self, mdp):
        """Return the factor between one step and the next."""
        return mdp.gamma

    def bonus(self, mdp, policy, theta):
        """Return −β log(π_θ(a|s)/π_ref(a|s)), shape (..., S, A), zero where π is zero."""
        return -self.beta * policy.log_ratio(theta, self.reference)


@dataclass(frozen=True)
class EntropyRegularised:
    """J_γ(θ) + β E[Σₜ γᵗ H(π_θ(·|sₜ))], H in nats.

    Parameters
    ----------
    beta : float
        β >= 0, in units of reward per nat.

    References
    ----------
    Williams & Peng, "Function Optimization Using Connectionist Reinforcement
    Learning Algorithms", Connection Science 3 (1991); Haarnoja et al., "Reinforcement
    Learning with Deep Energy-Based Policies", ICML 2017, equation (2).

    Examples
    --------
    >>> from reinforce_np import examples, exact, TabularSoftmax
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> J = exact.objective(mdp, policy, [0.0, 0.0], objective=EntropyRegularised(beta=0.1))
    >>> bool(np.isclose(J, 0.5 + 0.1 * np.log(2)))
    True
    """

    beta: float

    def __post_init__(self):
        object.__setattr__(self, "beta", arguments.number("beta", self.beta, low=0.0, rule="a finite number >= 0"))

    @property
    def slope(self):
        """Derivative of the bonus with respect to log π: −β."""
        return -self.beta

    def discount(self, mdp):
        """Return the factor between one step and the next."""
        return mdp.gamma

    def bonus(self, mdp, policy, theta):
        """Return −β log π_θ(a|s), shape (..., S, A), zero where π is zero."""
        return -self.beta * policy.log_ratio(theta, None)


Objective = Discounted | Undiscounted | KLRegularised | EntropyRegularised
