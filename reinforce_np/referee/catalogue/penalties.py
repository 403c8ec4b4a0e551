"""Mistakes in penalties for leaving a reference policy, and in bonuses for entropy."""

import numpy as np

from reinforce_np.referee.catalogue.parts import (
    average,
    discounts,
    log_probabilities,
    log_probability_table,
    log_ratios_to_reference,
    probability_table,
    reinforce,
    rewards,
    score_table,
    scores,
    to_go,
)
from reinforce_np.referee.catalogue.specimen import (
    NOT_FOUND,
    Specimen,
    entropy_regularised,
    kl_regularised,
)

# d = log π − log π_ref of the action taken; k1 = d, k2 = d²/2, k3 = exp(−d) − 1 + d (Schulman, "Approximating KL Divergence")


def _penalised_reward(trajectories, theta, problem, penalty):
    """Σₜ γᵗ ψₜ Σ_{u≥t} γᵘ⁻ᵗ (rᵤ − β kᵤ)."""
    r = rewards(trajectories) - problem.beta * penalty * trajectories.mask
    return average(
        scores(trajectories, theta, problem), discounts(trajectories, problem.gamma) * to_go(r, problem.gamma)
    )


def _penalised_loss(trajectories, theta, problem, slope):
    """Σₜ γᵗ ψₜ (Gₜ − β k'ₜ), k' the derivative of the penalty with respect to log π."""
    extra = average(scores(trajectories, theta, problem), discounts(trajectories, problem.gamma) * slope)
    return reinforce(trajectories, theta, problem) - problem.beta * extra


def k1_in_the_loss(trajectories, theta, problem):
    """β (log π − log π_ref) added to the loss and differentiated: ψ times −β, of expectation zero. No penalty at all."""
    return _penalised_loss(trajectories, theta, problem, np.ones_like(trajectories.rewards))


def k2_in_the_loss(trajectories, theta, problem):
    """β d²/2 added to the loss: the gradient of the KL of each state, without what the policy does to the states it will visit."""
    return _penalised_loss(trajectories, theta, problem, log_ratios_to_reference(trajectories, theta, problem))


def k3_in_the_loss(trajectories, theta, problem):
    """β (exp(−d) − 1 + d) added to the loss: its gradient is that of the other divergence, KL(π_ref‖π), one step at a time."""
    return _penalised_loss(
        trajectories, theta, problem, 1 - np.exp(-log_ratios_to_reference(trajectories, theta, problem))
    )


def k2_in_the_reward(trajectories, theta, problem):
    """r − β d²/2: no unbiased estimate of the divergence, so that another objective is penalised."""
    return _penalised_reward(
        trajectories, theta, problem, log_ratios_to_reference(trajectories, theta, problem) ** 2 / 2
    )


def k3_in_the_reward(trajectories, theta, problem):
    """r − β (exp(−d) − 1 + d): right in value, but the part exp(−d) − 1, of mean zero, has a gradient that is missing."""
    d = log_ratios_to_reference(trajectories, theta, problem)
    return _penalised_reward(trajectories, theta, problem, np.exp(-d) - 1 + d)


def full_kl_in_the_reward(trajectories, theta, problem):
    """r − β Σₐ π log(π/π_ref), the divergence of the whole state in the reward: nothing is charged to the action of the same step."""
    kl = problem.policy.kl(theta, problem.reference)[trajectories.states]
    return _penalised_reward(trajectories, theta, problem, kl)


def kl_of_the_wrong_sign(trajectories, theta, problem):
    """r + β (log π − log π_ref): a reward for leaving the reference."""
    return _penalised_reward(trajectories, theta, problem, -log_ratios_to_reference(trajectories, theta, problem))


def kl_in_the_wrong_direction(trajectories, theta, problem):
    """r − β (π_ref/π) log(π_ref/π): an estimate of KL(π_ref‖π) where KL(π‖π_ref) was meant."""
    d = log_ratios_to_reference(trajectories, theta, problem)
    return _penalised_reward(trajectories, theta, problem, np.exp(-d) * -d)


def entropy_without_its_future(trajectories, theta, problem):
    """β ∇H(sₜ) added to the gradient, without its state-distribution term: no credit for reaching states of high entropy."""
    log_pi = log_probability_table(theta, problem)
    slope = -np.einsum(
        "sa,sad->sd", probability_table(theta, problem) * log_pi, score_table(theta, problem)
    )  # ∇H(s) = −Σₐ π log π ∇log π
    at_steps = slope[trajectories.states] * (discounts(trajectories, problem.gamma) * trajectories.mask)[:, :, None]
    return reinforce(trajectories, theta, problem) + problem.beta * at_steps.sum(axis=(0, 1)) / len(trajectories)


def entropy_in_the_reward(trajectories, theta, problem):
    """r + β H(sₜ), the entropy of the whole state in the reward: the policy of the same step is paid nothing for it."""
    H = problem.policy.entropy(theta)[trajectories.states]
    return _penalised_reward(trajectories, theta, problem, -H)


def sampled_entropy_in_the_loss(trajectories, theta, problem):
    """−β log π(aₜ|sₜ) added to the objective and differentiated: ψ times −β, of expectation zero. No bonus at all."""
    return _penalised_loss(trajectories, theta, problem, np.ones_like(trajectories.rewards))


def entropy_of_the_wrong_sign(trajectories, theta, problem):
    """r + β log π(a|s): entropy is paid for instead of rewarded."""
    return _penalised_reward(trajectories, theta, problem, -log_probabilities(trajectories, theta, problem))


SPECIMENS = (
    Specimen(
        k1_in_the_loss, "biased",
        seen="https://github.com/OpenRLHF/OpenRLHF/pull/1309 and https://github.com/allenai/open-instruct/issues/534",
        remedy="k1 in the reward; in the loss k2 is right for one step, the full divergence too",
        on="triples", relative_bias=1.233, cosine=-0.5111, needs=("reference",), objective=kl_regularised,
    ),
    Specimen(
        k2_in_the_loss, "biased",
        seen="https://github.com/one-covenant/grail/pull/42",
        remedy="k1 in the reward, so that earlier actions are charged for later divergence",
        on="triples", relative_bias=0.2863, cosine=0.9645, needs=("reference",), objective=kl_regularised,
    ),
    Specimen(
        k3_in_the_loss, "biased",
        seen="https://github.com/huggingface/trl/issues/4967 and https://github.com/allenai/open-instruct/issues/534",
        remedy="k1 in the reward; k3 is an estimate of the value of the divergence, not of its gradient",
        on="pairs", relative_bias=0.3853, cosine=0.9392, needs=("reference",), objective=kl_regularised,
    ),
    Specimen(
        k2_in_the_reward, "biased",
        seen=NOT_FOUND,
        remedy="k1 in the reward",
        on="triples", relative_bias=1.059, cosine=0.1397, needs=("reference",), objective=kl_regularised,
    ),
    Specimen(
        k3_in_the_reward, "biased",
        seen='compared in "A Comedy of Estimators", https://arxiv.org/abs/2512.21852, by way of https://github.com/huggingface/trl/issues/4967',
        remedy="k1 in the reward, which needs no gradient of its own: E[∇ log π] = 0",
        on="triples", relative_bias=1.28, cosine=-0.2185, needs=("reference",), objective=kl_regularised,
    ),
    Specimen(
        full_kl_in_the_reward, "biased",
        seen='the option kl_penalty="full" of https://github.com/huggingface/trl/issues/1161',
        remedy="k1 in the reward; or the full divergence of later states in the reward, and of this one in the loss",
        on="triples", relative_bias=1.151, cosine=-0.025, needs=("reference",), objective=kl_regularised,
    ),
    Specimen(
        kl_of_the_wrong_sign, "biased",
        seen="https://github.com/nebuly-ai/optimate/issues/298",
        remedy="r − β (log π − log π_ref)",
        on="triples", relative_bias=2.465, cosine=-0.9072, needs=("reference",), objective=kl_regularised,
    ),
    Specimen(
        kl_in_the_wrong_direction, "biased",
        seen="https://github.com/GXimingLu/Quark/issues/2 (in a paper) and https://github.com/google-deepmind/rlax/issues/14 (flipped arguments)",
        remedy="log π − log π_ref of actions drawn from π; mind the order of arguments of library functions",
        on="triples", relative_bias=2.782, cosine=-0.7483, needs=("reference",), objective=kl_regularised,
    ),
    Specimen(
        entropy_without_its_future, "biased",
        seen="A3C, https://arxiv.org/abs/1602.01783, section 4, and nearly all code since; no thread found",
        remedy="put −log π(a|s) into the reward; or say that the bonus is a regulariser and no objective",
        on="triples", relative_bias=1.837, cosine=0.0065, objective=entropy_regularised,
    ),
    Specimen(
        entropy_in_the_reward, "biased",
        seen=NOT_FOUND,
        remedy="put −log π(a|s) into the reward: its expectation is the same, and it charges the action",
        on="impatient", relative_bias=1.062, cosine=0.9993, objective=entropy_regularised,
    ),
    Specimen(
        sampled_entropy_in_the_loss, "biased",
        seen="https://github.com/MrSyee/pg-is-all-you-need/issues/37",
        remedy="differentiate the closed form H(s), or put −log π(a|s) into the reward",
        on="triples", relative_bias=3.059, cosine=-0.9898, objective=entropy_regularised,
    ),
    Specimen(
        entropy_of_the_wrong_sign, "biased",
        seen="https://github.com/google-deepmind/open_spiel/issues/962 and https://github.com/DLR-RM/stable-baselines3/issues/127",
        remedy="r − β log π(a|s)",
        on="triples", relative_bias=6.119, cosine=-0.9934, objective=entropy_regularised,
    ),
)  # fmt: skip
