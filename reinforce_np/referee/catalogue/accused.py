"""Right estimators that were called wrong, here or there."""

import numpy as np

from reinforce_np.referee.catalogue.parts import (
    along,
    average,
    discounts,
    goes_on,
    log_probabilities,
    log_ratios,
    log_ratios_to_reference,
    mean_of_others,
    probability_table,
    reinforce,
    returns,
    rewards,
    rewards_to_go,
    score_table,
    scores,
    to_go,
    true_action_values,
    true_values,
)
from reinforce_np.referee.catalogue.specimen import (
    NOT_FOUND,
    Specimen,
    entropy_regularised,
    kl_regularised,
    undiscounted,
)

CONSTANT = 8.0  # such as the longest possible answer
CHUNK = 2  # steps of a rollout
LAMBDA = 0.5


def full_return_on_every_score(trajectories, theta, problem):
    """Σₜ ψₜ R: every action is credited with the whole return, also with what was paid before it."""
    return average(scores(trajectories, theta, problem), returns(trajectories, problem.gamma))


def gamma_t_on_the_return(trajectories, theta, problem):
    """Σₜ γᵗ ψₜ Gₜ: the weight of late steps is discounted, "and so they are hardly learned"."""
    return reinforce(trajectories, theta, problem)


def reinforce_undiscounted(trajectories, theta, problem):
    """Σₜ ψₜ Σ_{u≥t} rᵤ for the undiscounted objective."""
    return average(scores(trajectories, theta, problem), rewards_to_go(trajectories, 1.0))


def previous_reward_added(trajectories, theta, problem):
    """Σₜ ψₜ (rₜ₋₁ + Σ_{u≥t} rᵤ) for the undiscounted objective: the return begins one step early."""
    psi, r = scores(trajectories, theta, problem), rewards(trajectories)
    G = rewards_to_go(trajectories, 1.0)
    G[:, 1:] += r[:, :-1]
    return average(psi, G)


def returns_leak(trajectories, theta, problem):
    """Returns that run on into the next episodes of the batch, for the undiscounted objective: what is added is independent."""
    psi, r = scores(trajectories, theta, problem), rewards(trajectories)
    live, G = trajectories.mask, np.zeros_like(r)
    G[live] = to_go(r[live][None], 1.0)[0]
    return average(psi, G)


def wrong_critic_as_baseline(trajectories, theta, problem):
    """Gₜ − V(sₜ) with a V that is far off: a baseline need not be right."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    return average(psi, discounts(trajectories, problem.gamma) * (G - problem.critic[trajectories.states]))


def wrong_critic_at_lambda_one(trajectories, theta, problem):
    """Generalised advantages at λ = 1 with a critic that is far off: it telescopes to the baseline V(sₜ)."""
    psi, (now, after) = scores(trajectories, theta, problem), along(problem.critic, trajectories)
    delta = rewards(trajectories) + np.where(goes_on(trajectories), problem.gamma * after, 0.0) - now
    A = to_go(np.where(trajectories.mask, delta, 0.0), problem.gamma)
    return average(psi, discounts(trajectories, problem.gamma) * A)


def true_critic_at_any_lambda(trajectories, theta, problem):
    """Generalised advantages at λ = 1/2 with the true value function."""
    psi, (now, after) = scores(trajectories, theta, problem), along(true_values(problem), trajectories)
    delta = rewards(trajectories) + np.where(goes_on(trajectories), problem.gamma * after, 0.0) - now
    A = to_go(np.where(trajectories.mask, delta, 0.0), problem.gamma * LAMBDA)
    return average(psi, discounts(trajectories, problem.gamma) * A)


def rollouts_cut_and_bootstrapped(trajectories, theta, problem):
    """Rollouts cut every two steps, the true V of the state where they were cut in place of what follows."""
    psi, r = scores(trajectories, theta, problem), rewards(trajectories)
    _, after = along(true_values(problem), trajectories)
    last = np.arange(CHUNK - 1, r.shape[1], CHUNK)
    r[:, last] += np.where(goes_on(trajectories), problem.gamma * after, 0.0)[:, last]
    G = np.concatenate([to_go(r[:, t : t + CHUNK], problem.gamma) for t in range(0, r.shape[1], CHUNK)], axis=1)
    return average(psi, discounts(trajectories, problem.gamma) * G)


def all_actions(trajectories, theta, problem):
    """Σₜ γᵗ Σₐ π(a|sₜ) Q(sₜ,a) ∇log π(a|sₜ): all actions of the visited states, the taken one counts no more than the others."""
    weighted = probability_table(theta, problem) * true_action_values(problem)
    slope = np.einsum("...sa,sad->...sd", weighted, score_table(theta, problem))
    t = np.arange(trajectories.n_steps)
    at_steps = slope[t, trajectories.states] if slope.ndim == 3 else slope[trajectories.states]
    counted = discounts(trajectories, problem.gamma) * trajectories.mask
    return (at_steps * counted[:, :, None]).sum(axis=(0, 1)) / len(trajectories)


def k1_in_the_reward(trajectories, theta, problem):
    """r − β (log π − log π_ref), not differentiated: the gradient that seems to be missing has expectation zero."""
    psi, d = scores(trajectories, theta, problem), log_ratios_to_reference(trajectories, theta, problem)
    G = to_go(rewards(trajectories) - problem.beta * d, problem.gamma)
    return average(psi, discounts(trajectories, problem.gamma) * G)


def sampled_entropy_in_the_reward(trajectories, theta, problem):
    """r − β log π(a|s), not differentiated."""
    psi, log_pi = scores(trajectories, theta, problem), log_probabilities(trajectories, theta, problem)
    G = to_go(rewards(trajectories) - problem.beta * log_pi, problem.gamma)
    return average(psi, discounts(trajectories, problem.gamma) * G)


def product_of_ratios(trajectories, theta, problem):
    """Πₜ ρₜ · Σₜ ψₜ R: importance sampling of whole trajectories, enormous in variance and right."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    return average(psi, np.exp(log_ratios(trajectories, theta, problem).sum(axis=1)) * R)


def per_decision_ratios(trajectories, theta, problem):
    """Σₜ ψₜ Σ_{u≥t} γᵘ ρ₀⋯ρᵤ rᵤ: each reward with the ratios of the actions before it, and no later ones."""
    rho = np.exp(np.cumsum(log_ratios(trajectories, theta, problem), axis=1))
    r = discounts(trajectories, problem.gamma) * rho * rewards(trajectories)
    return average(scores(trajectories, theta, problem), to_go(r, 1.0))


def surrogate_on_policy(trajectories, theta, problem):
    """exp(log π − stop_gradient(log π)) · A on data of the present policy: the ratio is 1, but its gradient is ψ."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    ratio = np.exp(log_ratios(trajectories, theta, problem))
    return average(psi, discounts(trajectories, problem.gamma) * ratio * G)


def leave_one_out(trajectories, theta, problem):
    """ψ (R − mean of the others), a baseline from the same batch."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    return average(psi, R - mean_of_others(R, trajectories.groups))


def leave_one_out_over_the_batch(trajectories, theta, problem):
    """The mean return of all others in the batch as baseline, of other prompts too, where that of the group was meant."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    return average(psi, R - (R.sum() - R) / (len(R) - 1))


def rloo_rewritten(trajectories, theta, problem):
    """ψ (R·n/(n−1) − mean·n/(n−1)) with the mean over all n: the leave-one-out baseline in other words."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    same = trajectories.groups[:, None] == trajectories.groups
    n = same.sum(axis=1)
    return average(psi, R * n / (n - 1) - (same @ R / n) * n / (n - 1))


def mean_of_earlier_ones(trajectories, theta, problem):
    """The mean of the returns that came before, zero for the first: a running baseline, updated after it was used."""
    psi, R = scores(trajectories, theta, problem), returns(trajectories, problem.gamma)
    before = np.append(0.0, np.cumsum(R)[:-1] / np.arange(1, len(R)))
    return average(psi, R - before)


def first_rollout_as_baseline(trajectories, theta, problem):
    """The first trajectory of each group is the baseline of the rest, and is not learned from."""
    psi, R, groups = scores(trajectories, theta, problem), returns(trajectories, problem.gamma), trajectories.groups
    first = (groups[:, None] == groups).argmax(axis=1)
    return average(psi, R - R[first])


def constant_divisor(trajectories, theta, problem):
    """The sum over the steps divided by a constant, such as the longest possible answer."""
    return reinforce(trajectories, theta, problem) / CONSTANT


def sum_over_the_batch(trajectories, theta, problem):
    """The sum over the trajectories of the batch, not their mean."""
    return reinforce(trajectories, theta, problem) * len(trajectories)


def equal_groups_dropped(trajectories, theta, problem):
    """Groups whose returns are all equal are dropped, and the mean is taken over the groups that are left."""
    psi, R, groups = scores(trajectories, theta, problem), returns(trajectories, problem.gamma), trajectories.groups
    same = groups[:, None] == groups
    kept = (same & (R[:, None] != R)).any(axis=1)
    return average(psi, (R - mean_of_others(R, groups)) * kept / max(kept.mean(), 1e-9))


SPECIMENS = (
    Specimen(
        full_return_on_every_score, "unbiased",
        seen='"corrected" in https://github.com/udacity/deep-reinforcement-learning/issues/42 and https://github.com/huggingface/deep-rl-class/pull/95',
        remedy="rewards paid before an action are independent of it given the past, so that their product with its score has mean zero; leave them out, and the variance falls",
        on="referee", worse_than=reinforce, guilty=False,
    ),
    Specimen(
        gamma_t_on_the_return, "unbiased",
        seen="called double discounting in https://github.com/mimoralea/gdrl/issues/9 and https://github.com/datawhalechina/easy-rl/issues/181",
        remedy="it is the gradient of the discounted return; who wants late steps to count wants another objective",
        on="referee", guilty=False,
    ),
    Specimen(
        previous_reward_added, "unbiased",
        seen="https://github.com/openai/spinningup/issues/50 and https://github.com/openai/spinningup/issues/67 (\"it doesn't break the math\")",
        remedy="the reward before the action is a baseline; leave it out, and the variance falls",
        on="referee", objective=undiscounted, worse_than=reinforce_undiscounted, guilty=False,
    ),
    Specimen(
        returns_leak, "unbiased",
        seen="the mistake of https://github.com/nikhilbarhate99/PPO-PyTorch/issues/8, were it made at γ = 1",
        remedy="later episodes are independent of this one, and at γ = 1 what they add does not depend on its length; reset, and the variance falls",
        on="fours", exchangeable=False, objective=undiscounted, worse_than=reinforce_undiscounted, guilty=False,
    ),
    Specimen(
        wrong_critic_as_baseline, "unbiased",
        seen=NOT_FOUND,
        remedy="Σₐ π(a|s) b(s) ∇log π(a|s) = 0 for every b",
        on="referee", needs=("critic",), guilty=False,
    ),
    Specimen(
        wrong_critic_at_lambda_one, "unbiased",
        seen='https://github.com/openai/baselines/issues/1096 ("Not A2C but REINFORCE with baseline")',
        remedy="with λ = 1 the critic is no more than a baseline",
        on="referee", needs=("critic",), guilty=False,
    ),
    Specimen(
        true_critic_at_any_lambda, "unbiased",
        seen=NOT_FOUND,
        remedy="with the true values every δ has the right mean",
        on="referee", guilty=False,
    ),
    Specimen(
        rollouts_cut_and_bootstrapped, "unbiased",
        seen=NOT_FOUND,
        remedy="the mean of what follows is the true value",
        on="referee", guilty=False,
    ),
    Specimen(
        all_actions, "unbiased",
        seen=NOT_FOUND,
        remedy="the mean over the actions is taken exactly; it has less variance than the sampled score",
        on="referee", guilty=False,
    ),
    Specimen(
        k1_in_the_reward, "unbiased",
        seen="doubted in https://github.com/lqtrung1998/mwp_ReFT/issues/40 and https://github.com/tatsu-lab/alpaca_farm/issues/67",
        remedy="E[∇ log π] = 0, so that the derivative of the penalty itself adds nothing",
        on="referee", needs=("reference",), objective=kl_regularised, guilty=False,
    ),
    Specimen(
        sampled_entropy_in_the_reward, "unbiased",
        seen=NOT_FOUND,
        remedy="as for the penalty: the derivative of −log π has mean zero",
        on="referee", objective=entropy_regularised, guilty=False,
    ),
    Specimen(
        product_of_ratios, "unbiased",
        seen=NOT_FOUND,
        remedy="E_μ[Π ρ f] = E_π[f]",
        on="other data", needs=("behaviour",), guilty=False,
    ),
    Specimen(
        per_decision_ratios, "unbiased",
        seen=NOT_FOUND,
        remedy="ratios of later actions have mean one given the past",
        on="other data", needs=("behaviour",), guilty=False,
    ),
    Specimen(
        surrogate_on_policy, "unbiased",
        seen='https://github.com/lsdefine/simple_GRPO/issues/33 and https://github.com/huggingface/trl/issues/2608 ("we get 0")',
        remedy="the gradient of exp(x − stop_gradient(x)) is that of x",
        on="referee", guilty=False,
    ),
    Specimen(
        leave_one_out, "unbiased",
        seen="questioned in https://github.com/facebookresearch/EGG/pull/82 (rewards of a batch as baseline)",
        remedy="the others are independent of this one given the prompt",
        on="pairs", needs=("group_size",), guilty=False,
    ),
    Specimen(
        leave_one_out_over_the_batch, "unbiased",
        seen="repaired in https://github.com/XU-YIJIE/grpo-flat/issues/2, there with a deviation, which is not harmless",
        remedy="answers to other prompts are independent of this one; whether their mean is the better guess depends on how much prompts differ",
        on="two prompts", needs=("prompts", "group_size"), guilty=False,
    ),
    Specimen(
        rloo_rewritten, "unbiased",
        seen="written so in https://github.com/redai-studio/Relax/issues/174",
        remedy="R − (ΣR − R)/(n−1) = R·n/(n−1) − mean·n/(n−1)",
        on="pairs", needs=("group_size",), guilty=False,
    ),
    Specimen(
        mean_of_earlier_ones, "unbiased",
        seen=NOT_FOUND,
        remedy="they are independent of this one given the prompt",
        on="referee", exchangeable=False, guilty=False,
    ),
    Specimen(
        first_rollout_as_baseline, "proportional",
        seen=NOT_FOUND,
        remedy="the first is independent of the others; (N−1)/N of the gradient is left, as 1/N of the batch is unused",
        on="two prompts", relative_bias=0.5, factor=0.5, exchangeable=False, needs=("group_size",), guilty=False,
    ),
    Specimen(
        constant_divisor, "proportional",
        seen="https://github.com/sail-sg/understand-r1-zero/issues/11 and https://github.com/kevinzakka/recurrent-visual-attention/issues/10",
        remedy="a constant changes the step size, and no direction",
        on="impatient", relative_bias=0.875, factor=0.125, guilty=False,
    ),
    Specimen(
        sum_over_the_batch, "proportional",
        seen="https://github.com/ray-project/ray/issues/2506",
        remedy="N times the gradient: a step size that must be known when the batch is resized",
        on="three prompts", relative_bias=2, factor=3, guilty=False,
    ),
    Specimen(
        equal_groups_dropped, "proportional",
        seen="https://github.com/huggingface/trl/pull/6365 (zero-variance groups left out of the denominator)",
        remedy="groups are independent, so that each is weighed alike; the factor 1/P(not all equal) is a step size that grows as prompts are solved",
        on="two prompts", relative_bias=0.4351, factor=1.435, needs=("prompts", "group_size"), guilty=False,
    ),
)  # fmt: skip
