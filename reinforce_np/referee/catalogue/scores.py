"""Mistakes in the score: which action's, of which policy, and of which steps."""

import numpy as np

from reinforce_np.referee.catalogue.parts import (
    average,
    discounts,
    log_probabilities,
    mean_of_others,
    probability_table,
    returns,
    rewards_to_go,
    score_table,
    scores,
)
from reinforce_np.referee.catalogue.specimen import NOT_FOUND, Specimen

TEMPERATURE = 2.0  # the actions were drawn at 1


def without_normaliser(trajectories, theta, problem):
    """The gradient of the logit of the action alone: 1{a = aₜ} without − π(a|sₜ), that is without log Σ exp. Tabular policies only."""
    w = discounts(trajectories, problem.gamma) * rewards_to_go(trajectories, problem.gamma)
    estimate = np.zeros((problem.mdp.n_states, problem.mdp.n_actions))
    np.add.at(estimate, (trajectories.states, trajectories.actions), w * trajectories.mask)
    return estimate.ravel() / len(trajectories)


def next_actions_score(trajectories, theta, problem):
    """Returns shifted against the scores by one: the score of step t+1 times the return of step t."""
    psi = scores(trajectories, theta, problem)
    w = discounts(trajectories, problem.gamma) * rewards_to_go(trajectories, problem.gamma)
    return average(psi[:, 1:], w[:, :-1])


def another_temperature(trajectories, theta, problem):
    """Actions drawn at one temperature, scored at another: ∇log softmax(θ/2), which is not the policy that acted."""
    w = discounts(trajectories, problem.gamma) * rewards_to_go(trajectories, problem.gamma)
    return average(scores(trajectories, theta / TEMPERATURE, problem) / TEMPERATURE, w)


def last_action_not_scored(trajectories, theta, problem):
    """The last action of an episode, such as the end-of-sequence token, is masked out of the scores."""
    psi = scores(trajectories, theta, problem)
    w = discounts(trajectories, problem.gamma) * rewards_to_go(trajectories, problem.gamma)
    before_last = np.arange(trajectories.n_steps) < trajectories.lengths[:, None] - 1
    return average(psi, w * before_last)


def first_action_not_scored(trajectories, theta, problem):
    """The first action of an episode is not scored: log-probabilities shifted by one, as if it belonged to the prompt."""
    psi = scores(trajectories, theta, problem)
    w = discounts(trajectories, problem.gamma) * rewards_to_go(trajectories, problem.gamma)
    return average(psi[:, 1:], w[:, 1:])


def probability_for_its_logarithm(trajectories, theta, problem):
    """The gradient of π(aₜ|sₜ) where that of its logarithm was meant: Σₜ γᵗ π(aₜ|sₜ) ψₜ Gₜ."""
    psi, pi = scores(trajectories, theta, problem), np.exp(log_probabilities(trajectories, theta, problem))
    return average(psi, discounts(trajectories, problem.gamma) * pi * rewards_to_go(trajectories, problem.gamma))


def greedy_actions_score(trajectories, theta, problem):
    """The score of the most probable action, whichever was taken."""
    best = probability_table(theta, problem).argmax(axis=1)
    psi = score_table(theta, problem)[trajectories.states, best[trajectories.states]] * trajectories.mask[:, :, None]
    return average(psi, discounts(trajectories, problem.gamma) * rewards_to_go(trajectories, problem.gamma))


def padding_scored(trajectories, theta, problem):
    """No mask: the padding after the end of an episode is scored like actions, with the advantage of the episode."""
    psi = score_table(theta, problem)[trajectories.states, trajectories.actions]
    R = returns(trajectories, problem.gamma)
    return average(psi, R - mean_of_others(R, trajectories.groups))


SPECIMENS = (
    Specimen(
        without_normaliser, "biased",
        seen="proposed as a repair in https://github.com/tensorlayer/RLzoo/issues/32, where logits were taken for log-probabilities",
        remedy="∇log π(a|s) = ∇z(s,a) − Σ_b π(b|s) ∇z(s,b): differentiate log_softmax, not the logit",
        on="triples", relative_bias=8.003, cosine=0.4737,
    ),
    Specimen(
        next_actions_score, "biased",
        seen="https://github.com/lucidrains/PaLM-rlhf-pytorch/issues/31 (log-probabilities of other positions than those of the actions)",
        remedy="log_probs[t], rewards[t] and states[t] belong to one step; shift logits and labels together",
        on="pairs", relative_bias=0.6293, cosine=0.9859,
    ),
    Specimen(
        another_temperature, "biased",
        seen="https://github.com/huggingface/trl/pull/3029 and https://github.com/NVIDIA-NeMo/RL/pull/935",
        remedy="divide the logits by the temperature of the sampler before the log-softmax of the loss",
        on="three prompts", relative_bias=0.4929, cosine=0.9908,
    ),
    Specimen(
        last_action_not_scored, "biased",
        seen="https://github.com/mll-lab-nu/RAGEN/issues/59 and https://github.com/rasbt/reasoning-from-scratch/pull/185",
        remedy="ending is an action: its log-probability belongs into the sum",
        on="pairs", relative_bias=0.9258, cosine=0.4413,
    ),
    Specimen(
        first_action_not_scored, "biased",
        seen="suspected in https://github.com/OpenRLHF/OpenRLHF/issues/181, where the slices turned out to agree",
        remedy="the action at position t is predicted by the logits at t − 1: shift the logits, and keep all actions",
        on="impatient", relative_bias=0.7536, cosine=0.9045,
    ),
    Specimen(
        probability_for_its_logarithm, "biased",
        seen=NOT_FOUND,
        remedy="the loss is −log π · G: actions are drawn from π already, which counts it once",
        on="pairs", relative_bias=0.7103, cosine=0.8297,
    ),
    Specimen(
        greedy_actions_score, "biased",
        seen="https://github.com/henrywoo/chatllama/issues/7 (the largest probability instead of that of the action)",
        remedy="score the action that was drawn and paid for",
        on="pairs", relative_bias=1.048, cosine=0.4207,
    ),
    Specimen(
        padding_scored, "biased",
        seen="https://github.com/bingreeky/MemGen/pull/33 (padding filled with a token that counts)",
        remedy="multiply the log-probabilities by the mask before they are summed",
        on="fours", relative_bias=0.1181, cosine=0.993, needs=("group_size",),
    ),
)  # fmt: skip
