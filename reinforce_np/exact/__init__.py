"""Exact quantities of a policy on a finite MDP: no sampling, no autograd."""

from reinforce_np.exact.derivatives import fisher_information, gradient, hessian, natural_gradient
from reinforce_np.exact.objectives import Discounted, EntropyRegularised, KLRegularised, Undiscounted
from reinforce_np.exact.values import action_values, advantages, objective, occupancy, values

__all__ = [
    "Discounted",
    "EntropyRegularised",
    "KLRegularised",
    "Undiscounted",
    "action_values",
    "advantages",
    "fisher_information",
    "gradient",
    "hessian",
    "natural_gradient",
    "objective",
    "occupancy",
    "values",
]
