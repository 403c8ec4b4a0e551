"""Mistakes in what a sum over steps and trajectories is divided by: lengths, tokens, deviations."""

import numpy as np

from reinforce_np.referee.catalogue.parts import (
    average,
    discounts,
    group_mean,
    mean_of_others,
    returns,
    rewards_to_go,
    scores,
)
from reinforce_np.referee.catalogue.specimen import Specimen

EPS = 1e-6  # added to deviations


def _leave_one_out(trajectories, problem):
    """R − mean of the others, which by itself is right."""
    R = returns(trajectories, problem.gamma)
    return R - mean_of_others(R, trajectories.groups)


def per_length(trajectories, theta, problem):
    """Each answer divided by its own length: (1/N) Σₙ (1/Lₙ) Σₜ Aₙ ψₜ."""
    A = _leave_one_out(trajectories, problem)
    return average(scores(trajectories, theta, problem), A / trajectories.lengths)


def per_token(trajectories, theta, problem):
    """One mean over all tokens of the batch: Σₙ Σₜ Aₙ ψₜ / Σₙ Lₙ."""
    A = _leave_one_out(trajectories, problem)
    return average(scores(trajectories, theta, problem), A / trajectories.lengths.mean())


def micro_batches_by_their_own_tokens(trajectories, theta, problem):
    """Two micro-batches, each divided by its own number of tokens, then averaged: gradient accumulation over token means."""
    psi, A = scores(trajectories, theta, problem), _leave_one_out(trajectories, problem)
    halves = np.array_split(np.arange(len(A)), 2)
    return sum(average(psi[half], A[half] / trajectories.lengths[half].mean()) for half in halves) / 2


def divided_by_the_group_deviation(trajectories, theta, problem):
    """(R − mean)/(std + ε) of the group: each prompt gets its own step size, and every return its own share in it."""
    psi, R, groups = scores(trajectories, theta, problem), returns(trajectories, problem.gamma), trajectories.groups
    difference = R - group_mean(R, groups)
    return average(psi, difference / (np.sqrt(group_mean(difference**2, groups)) + EPS))


def whitened_over_the_batch(trajectories, theta, problem):
    """Returns-to-go minus their mean over all steps of the batch, divided by their deviation."""
    psi, G, live = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma), trajectories.mask
    A = (G - G[live].mean()) / (G[live].std() + EPS)
    return average(psi, discounts(trajectories, problem.gamma) * A)


def whitened_over_the_episode(trajectories, theta, problem):
    """Returns-to-go of an episode minus their mean, divided by their deviation: the standardisation of many tutorials."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    A = np.zeros_like(G)
    for a, g, n in zip(A, G, trajectories.lengths, strict=True):
        a[:n] = (g[:n] - g[:n].mean()) / (g[:n].std() + EPS)
    return average(psi, discounts(trajectories, problem.gamma) * A)


def steps_in_equal_shares(trajectories, theta, problem):
    """The mean over all steps of a batch of whole episodes: Σₙ Σₜ γᵗ ψₜ Gₜ / Σₙ Lₙ."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    return average(psi, discounts(trajectories, problem.gamma) * G / trajectories.lengths.mean())


SPECIMENS = (
    Specimen(
        per_length, "biased",
        seen="https://github.com/sail-sg/understand-r1-zero/issues/10 and https://github.com/huggingface/trl/pull/3138",
        remedy="divide by a constant, such as the longest possible length: long wrong answers are punished less otherwise",
        on="two prompts", relative_bias=0.3823, cosine=0.9338, needs=("group_size",),
    ),
    Specimen(
        per_token, "biased",
        seen="https://github.com/allenai/open-instruct/issues/636",
        remedy="divide by the number of trajectories, or by a constant",
        on="two prompts", relative_bias=0.3568, cosine=0.9833, needs=("group_size",),
    ),
    Specimen(
        micro_batches_by_their_own_tokens, "biased",
        seen="https://github.com/allenai/open-instruct/pull/1161 and https://github.com/PrimeIntellect-ai/prime-rl/pull/583",
        remedy="divide all micro-batches by the same number, known before the first",
        on="two prompts", relative_bias=0.3625, cosine=0.9452, exchangeable=False, needs=("group_size",),
    ),
    Specimen(
        divided_by_the_group_deviation, "biased",
        seen="https://github.com/sail-sg/understand-r1-zero/issues/26 and https://github.com/huggingface/trl/pull/3256",
        remedy="leave the deviation out, or take it from other data",
        on="fours", relative_bias=0.6859, cosine=0.8645, needs=("group_size",),
    ),
    Specimen(
        whitened_over_the_batch, "biased",
        seen="https://github.com/wojzaremba/trpo/issues/6 (\"biased, but it's sensible\") and https://github.com/OpenRLHF/OpenRLHF/issues/830",
        remedy="a baseline that was known before the batch, and a constant step size",
        on="fours", relative_bias=0.6893, cosine=0.9378,
    ),
    Specimen(
        whitened_over_the_episode, "biased",
        seen="https://github.com/alessiodm/drl-zh/issues/5 and https://github.com/pytorch/examples/issues/590",
        remedy="a baseline that was known before the episode; the mean of its own returns is none",
        on="fours", relative_bias=0.9643, cosine=0.2843,
    ),
    Specimen(
        steps_in_equal_shares, "biased",
        seen="a tutorial, https://github.com/openai/spinningup/issues/59 and https://github.com/openai/spinningup/issues/414",
        remedy="divide by the number of episodes",
        on="fours", relative_bias=0.1925, cosine=0.9819,
    ),
)  # fmt: skip
