"""Objectives have names: a gradient is always the gradient *of something*.

An objective says how steps are discounted and what each step is worth. Every
function of `exact` takes one as ``objective=``; `Discounted` is the default
because γ belongs to the model.
"""

from dataclasses import dataclass


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

    def discount(self, mdp):
        """Return the factor between one step and the next."""
        return mdp.gamma

    def step_rewards(self, mdp, policy, theta):
        """Return the expected worth of a step, shape (S, A)."""
        return mdp.expected_reward

    def step_rewards_tangent(self, psi):
        """Return how `step_rewards` changes with θ, along directions e where ψ·e is `psi` (S, A, E): not at all."""
        return 0.0


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

    def discount(self, mdp):
        """Return 1."""
        return 1.0

    def step_rewards(self, mdp, policy, theta):
        """Return the expected worth of a step, shape (S, A)."""
        return mdp.expected_reward

    def step_rewards_tangent(self, psi):
        """Return how `step_rewards` changes with θ, along directions e where ψ·e is `psi` (S, A, E): not at all."""
        return 0.0


Objective = Discounted | Undiscounted
