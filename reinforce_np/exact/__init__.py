"""Exact quantities of a policy on a finite MDP, or on a linear system: no sampling, no autograd."""

from reinforce_np.exact import linear_quadratic
from reinforce_np.exact.baselines import optimal_baseline
from reinforce_np.exact.batches import moments_by_enumeration
from reinforce_np.exact.contributions import Contributions, Pairs, largest_contributions, largest_pairs
from reinforce_np.exact.decomposition import VarianceParts, variance_parts
from reinforce_np.exact.derivatives import fisher_information, gradient, hessian, natural_gradient
from reinforce_np.exact.histogram import moments_by_histogram
from reinforce_np.exact.laws import moments, moments_by_recursion
from reinforce_np.exact.linear_quadratic import LinearQuadratic
from reinforce_np.exact.objectives import Discounted, EntropyRegularised, KLRegularised, Undiscounted
from reinforce_np.exact.record import Moments
from reinforce_np.exact.values import action_values, advantages, objective, occupancy, values
from reinforce_np.exact.verdicts import Verdict, judge

__all__ = [
    "Contributions",
    "Discounted",
    "EntropyRegularised",
    "KLRegularised",
    "LinearQuadratic",
    "Moments",
    "Pairs",
    "Undiscounted",
    "VarianceParts",
    "Verdict",
    "action_values",
    "advantages",
    "fisher_information",
    "gradient",
    "hessian",
    "judge",
    "largest_contributions",
    "largest_pairs",
    "linear_quadratic",
    "moments",
    "moments_by_enumeration",
    "moments_by_histogram",
    "moments_by_recursion",
    "natural_gradient",
    "objective",
    "occupancy",
    "optimal_baseline",
    "values",
    "variance_parts",
]
