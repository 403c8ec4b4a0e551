"""Mistakes in the importance ratio ρ = π/μ of data that another policy μ has drawn."""

import numpy as np

from reinforce_np.referee.catalogue.parts import (
    average,
    discounts,
    log_ratios,
    reinforce,
    returns,
    rewards_to_go,
    scores,
)
from reinforce_np.referee.catalogue.specimen import NOT_FOUND, Specimen

EPSILON = 0.2  # of the clip


def ratio_forgotten(trajectories, theta, problem):
    """Data of another policy treated as if it were one's own: no ratio at all."""
    return reinforce(trajectories, theta, problem)


def ratio_inverted(trajectories, theta, problem):
    """μ/π instead of π/μ, for the whole trajectory."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    return average(psi, np.exp(-log_ratios(trajectories, theta, problem).sum(axis=1)) * R)


def ratio_twice(trajectories, theta, problem):
    """The ratio of the whole trajectory applied twice: in the weights, and again in the loss."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    return average(psi, np.exp(2 * log_ratios(trajectories, theta, problem).sum(axis=1)) * R)


def ratio_per_token(trajectories, theta, problem):
    """Each step with its own ratio ρₜ only: neither the states visited nor the rewards that follow are corrected."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    rho = np.exp(log_ratios(trajectories, theta, problem))
    return average(psi, discounts(trajectories, problem.gamma) * rho * G)


def ratio_of_the_past_only(trajectories, theta, problem):
    """ρ₀⋯ρₜ on step t and its whole return: the states are corrected, the rewards that follow are not."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    rho = np.exp(np.cumsum(log_ratios(trajectories, theta, problem), axis=1))
    return average(psi, discounts(trajectories, problem.gamma) * rho * G)


def ratio_geometric_mean(trajectories, theta, problem):
    """(Πₜ ρₜ)^(1/L), the geometric mean over the steps, in place of the product."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    return average(psi, np.exp(log_ratios(trajectories, theta, problem).sum(axis=1) / trajectories.lengths) * R)


def ratio_clipped(trajectories, theta, problem):
    """PPO's surrogate min(ρA, clip(ρ)A) with the return as A, taken for an unbiased gradient: clipped steps count for nothing."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    rho = np.exp(log_ratios(trajectories, theta, problem))
    unclipped = np.where(G > 0, rho <= 1 + EPSILON, rho >= 1 - EPSILON)
    return average(psi, discounts(trajectories, problem.gamma) * rho * unclipped * G)


def ratio_truncated(trajectories, theta, problem):
    """The product of the ratios, but never more than 1: truncated importance sampling."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    return average(psi, np.exp(np.minimum(log_ratios(trajectories, theta, problem).sum(axis=1), 0.0)) * R)


def ratio_self_normalised(trajectories, theta, problem):
    """The product of the ratios divided by its mean over the batch: weighted importance sampling."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    rho = np.exp(log_ratios(trajectories, theta, problem).sum(axis=1))
    return average(psi, rho / rho.mean() * R)


SPECIMENS = (
    Specimen(
        ratio_forgotten, "biased",
        seen="https://github.com/tensorforce/tensorforce/issues/312 and https://github.com/abhisheksuran/Reinforcement_Learning/issues/4 (a ratio that is always 1)",
        remedy="multiply by Πₜ π(aₜ|sₜ)/μ(aₜ|sₜ), with μ the policy that really drew the actions",
        on="other data", relative_bias=7.692, cosine=-0.7684, needs=("behaviour",),
    ),
    Specimen(
        ratio_inverted, "biased",
        seen="suspected where it was right, the logarithms being negated, in https://github.com/openai/baselines/issues/652 and https://github.com/hill-a/stable-baselines/issues/447",
        remedy="exp(log π − log μ): new minus old",
        on="other data, pairs", relative_bias=2.369, cosine=0.9793, needs=("behaviour",),
    ),
    Specimen(
        ratio_twice, "biased",
        seen=NOT_FOUND,
        remedy="once: ρ·A is already a surrogate whose gradient is ρ ψ A; do not weigh it by ρ again",
        on="other data", relative_bias=8.376, cosine=0.9424, needs=("behaviour",),
    ),
    Specimen(
        ratio_per_token, "biased",
        seen="https://github.com/huggingface/trl/issues/4493 (a token-level ratio is biased)",
        remedy="per decision: ρ₀⋯ρᵤ on the reward of step u; or the product over the whole trajectory",
        on="other data, pairs", relative_bias=0.2629, cosine=0.9864, needs=("behaviour",),
    ),
    Specimen(
        ratio_of_the_past_only, "biased",
        seen=NOT_FOUND,
        remedy="the reward of step u needs ρ₀⋯ρᵤ, not the ratios up to the step that is scored",
        on="other data, pairs", relative_bias=0.2067, cosine=0.9852, needs=("behaviour",),
    ),
    Specimen(
        ratio_geometric_mean, "biased",
        seen="https://github.com/huggingface/trl/pull/3820 (GSPO, https://arxiv.org/abs/2507.18071)",
        remedy="the product: the sum of the log-ratios, not their mean",
        on="other data", relative_bias=2.919, cosine=-0.6314, needs=("behaviour",),
    ),
    Specimen(
        ratio_clipped, "biased",
        seen="PPO, https://arxiv.org/abs/1707.06347, equation (7)",
        remedy="none: the clip is a design, and its bias is what is bought; on data of the present policy it is right",
        on="other data", relative_bias=4.517, cosine=-0.2637, needs=("behaviour",),
    ),
    Specimen(
        ratio_truncated, "biased",
        seen="https://github.com/NVIDIA-NeMo/RL/pull/1348",
        remedy="none: the truncation is a design; say that it is biased",
        on="other data, pairs", relative_bias=0.3892, cosine=0.9606, needs=("behaviour",),
    ),
    Specimen(
        ratio_self_normalised, "biased",
        seen="https://github.com/verl-project/verl/pull/3980",
        remedy="divide by N, not by the sum of the ratios; or say that it is only consistent",
        on="other data", relative_bias=7.853, cosine=-0.6637, needs=("behaviour",),
    ),
)  # fmt: skip
