"""Mistakes in what is subtracted from a return: baselines that know the action they are meant to judge."""

import numpy as np

from reinforce_np.referee.catalogue.parts import (
    along,
    average,
    discounts,
    group_mean,
    mean_of_others,
    returns,
    rewards_to_go,
    scores,
)
from reinforce_np.referee.catalogue.specimen import NOT_FOUND, Specimen

MOVING = 0.5  # weight of the newest return in a moving average


def action_dependent(trajectories, theta, problem):
    """A baseline that depends on the action: γᵗ ψₜ (Gₜ − b(sₜ, aₜ)), b the expected reward, with no correction for it."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    b = problem.mdp.expected_reward[trajectories.states, trajectories.actions]
    return average(psi, discounts(trajectories, problem.gamma) * (G - b))


def of_the_next_state(trajectories, theta, problem):
    """The baseline of the state the action leads to: γᵗ ψₜ (Gₜ − V(sₜ₊₁))."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    _, after = along(problem.critic, trajectories)
    return average(psi, discounts(trajectories, problem.gamma) * (G - after))


def in_sample_mean(trajectories, theta, problem):
    """The mean return of the group, its own included: ψ (R − mean R)."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    return average(psi, R - group_mean(R, trajectories.groups))


def in_sample_optimal(trajectories, theta, problem):
    """The baseline of least variance, Σ‖z‖²R / Σ‖z‖² with z = Σₜψₜ, taken from the batch it is used on."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    size = (psi.sum(axis=1) ** 2).sum(axis=1)
    return average(psi, R - size @ R / size.sum())


def group_maximum(trajectories, theta, problem):
    """The best return of the group as baseline: ψ (R − max R)."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    same = trajectories.groups[:, None] == trajectories.groups
    return average(psi, R - np.where(same, R, -np.inf).max(axis=1))


def group_median(trajectories, theta, problem):
    """The median return of the group as baseline, its own included."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    same = trajectories.groups[:, None] == trajectories.groups
    return average(psi, R - np.array([np.median(R[row]) for row in same]))


def leave_one_out_as_the_score(trajectories, theta, problem):
    """The mean return of the others is used as the score of a trajectory, instead of being subtracted from its own."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    return average(psi, mean_of_others(R, trajectories.groups))


def fitted_on_the_same_batch(trajectories, theta, problem):
    """V(s) fitted to the returns of the very batch it is subtracted from: the mean of Gₜ over all visits of s."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    live = trajectories.mask
    n_states = problem.mdp.n_states
    visits = np.bincount(trajectories.states[live], minlength=n_states)
    V = np.bincount(trajectories.states[live], weights=G[live], minlength=n_states) / np.maximum(visits, 1)
    return average(psi, discounts(trajectories, problem.gamma) * (G - V[trajectories.states]))


def moving_average_updated_first(trajectories, theta, problem):
    """A moving average of returns that is updated with a return before it is subtracted from it."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    baseline, advantages = 0.0, []
    for R_n in R:
        baseline += MOVING * (R_n - baseline)
        advantages.append(R_n - baseline)
    return average(psi, np.array(advantages))


SPECIMENS = (
    Specimen(
        action_dependent, "biased",
        seen='analysed by Tucker et al., "The Mirage of Action-Dependent Baselines", https://arxiv.org/abs/1802.10031',
        remedy="b(s), not b(s, a); or add back Σₐ b(s,a) ∇π(a|s), the gradient that it takes away",
        on="pairs", relative_bias=1.019, cosine=0.1031,
    ),
    Specimen(
        of_the_next_state, "biased",
        seen=NOT_FOUND,
        remedy="subtract V(sₜ), which was known before the action; values[:-1], not values[1:]",
        on="fours", relative_bias=0.6175, cosine=0.8785, needs=("critic",),
    ),
    Specimen(
        in_sample_mean, "proportional",
        seen="https://github.com/jsboige/CoursIA/pull/15256 (with its factor 1 − 1/N); Dr. GRPO, https://arxiv.org/abs/2503.20783",
        remedy="the mean of the others; or multiply by N/(N−1). As it is, a group of N gives (N−1)/N of the gradient",
        on="two prompts", relative_bias=0.5, factor=0.5, needs=("group_size",),
    ),
    Specimen(
        in_sample_optimal, "biased",
        seen="https://github.com/huggingface/trl/pull/6620 and https://github.com/PrimeIntellect-ai/prime-rl/pull/640 (OPO, with lengths in place of the norms)",
        remedy="estimate the baseline on other trajectories, or leave each one out of its own",
        on="pairs", relative_bias=0.4961, cosine=0.9964, needs=("group_size",),
    ),
    Specimen(
        group_maximum, "biased",
        seen=NOT_FOUND,
        remedy="the mean of the others, or a rollout that is not scored (the greedy one of self-critical training)",
        on="two prompts", relative_bias=0.482, cosine=0.9647, needs=("group_size",),
    ),
    Specimen(
        group_median, "biased",
        seen=NOT_FOUND,
        remedy="the median of the others",
        on="triples", relative_bias=0.3338, cosine=0.9962, needs=("group_size",),
    ),
    Specimen(
        leave_one_out_as_the_score, "biased",
        seen=NOT_FOUND,
        remedy="R − mean of the others; the mean of the others alone is independent of the action, and its gradient zero",
        on="fours", relative_bias=1, cosine=None, needs=("group_size",),
    ),
    Specimen(
        fitted_on_the_same_batch, "biased",
        seen="objected to in the review of https://github.com/rlworkgroup/garage/pull/1317",
        remedy="use the critic as it was before this batch, and fit it afterwards",
        on="impatient", relative_bias=1.029, cosine=-0.5116,
    ),
    Specimen(
        moving_average_updated_first, "proportional",
        seen="https://github.com/shibuiwilliam/ENAS-Keras/issues/2 (the order of the two lines, though that was not the complaint)",
        remedy="subtract first, update afterwards; as it is, 1 − α of the gradient is left",
        on="three prompts", relative_bias=0.5, factor=0.5, exchangeable=False,
    ),
)  # fmt: skip
