"""Mistakes in which trajectories make up a batch, and in how its arrays meet."""

import numpy as np

from reinforce_np.referee.catalogue.parts import (
    average,
    discounts,
    reinforce,
    returns,
    rewards_to_go,
    scores,
)
from reinforce_np.referee.catalogue.specimen import Specimen


def first_finished(trajectories, theta, problem):
    """Of the episodes that run side by side, the first half to finish is kept: short ones are seen too often."""
    n = (len(trajectories) + 1) // 2
    return reinforce(trajectories.take(np.argsort(trajectories.lengths, kind="stable")[:n]), theta, problem)


def truncated_dropped(trajectories, theta, problem):
    """Episodes that were cut at the horizon are left out of the sum, as overlong answers are filtered."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    return average(psi, discounts(trajectories, problem.gamma) * G * trajectories.terminated[:, None])


def best_half(trajectories, theta, problem):
    """Only the better half of the batch is learned from."""
    n = (len(trajectories) + 1) // 2
    best = np.argsort(-returns(trajectories, problem.gamma), kind="stable")[:n]
    return reinforce(trajectories.take(best), theta, problem)


def broadcast_over_the_batch(trajectories, theta, problem):
    """(N, 1) × (N,): log-probabilities of shape (N, 1) and returns of shape (N,) make an (N, N) loss; its mean pairs all with all."""
    z, R = scores(trajectories, theta, problem).sum(axis=1), returns(trajectories, problem.gamma)
    return (z[:, None] * R[None, :, None]).mean(axis=(0, 1))


def broadcast_over_time(trajectories, theta, problem):
    """(T, 1) × (T,): every score of an episode meets every return of it, Σₜ ψₜ Σᵤ γᵘ Gᵤ."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    return average(psi, (discounts(trajectories, problem.gamma) * G).sum(axis=1))


def group_of_one_set_to_zero(trajectories, theta, problem):
    """Trajectories that start alike are a group, the mean of the others is the baseline; who is alone gets the advantage zero."""
    R, start = returns(trajectories, problem.gamma), trajectories.states[:, 0]
    same = start[:, None] == start
    others = same.sum(axis=1) - 1
    A = np.where(others > 0, R - (same @ R - R) / np.maximum(others, 1), 0.0)
    return average(scores(trajectories, theta, problem), A)


def duplicates_removed(trajectories, theta, problem):
    """Answers that occur twice in a batch are kept once."""
    steps = np.column_stack([trajectories.lengths, trajectories.states, trajectories.actions, trajectories.rewards])
    _, first = np.unique(steps, axis=0, return_index=True)
    return reinforce(trajectories.take(np.sort(first)), theta, problem)


SPECIMENS = (
    Specimen(
        first_finished, "biased",
        seen="https://github.com/thinking-machines-lab/tinker-cookbook/pull/822 (slow rollouts discarded)",
        remedy="start a fixed number of episodes, and wait for all of them",
        on="two prompts", relative_bias=0.7703, cosine=0.8168, exchangeable=False,
    ),
    Specimen(
        truncated_dropped, "biased",
        seen="https://github.com/huggingface/trl/pull/3248 (overlong filtering, of DAPO)",
        remedy="keep them: what an episode earned before it was cut was earned by its actions",
        on="two prompts", relative_bias=0.3791, cosine=0.9256,
    ),
    Specimen(
        best_half, "biased",
        seen="https://github.com/huggingface/trl/pull/704 (RAFT) and https://github.com/RLHFlow/Minimal-RL/issues/6",
        remedy="learn from all of them; the worse half carries the other half of the gradient",
        on="fours", relative_bias=0.6037, cosine=0.9441, exchangeable=False,
    ),
    Specimen(
        broadcast_over_the_batch, "proportional",
        seen="https://github.com/pytorch/rl/issues/1243 and https://github.com/higgsfield-ai/higgsfield/issues/24",
        remedy="make both arrays (N,) and check the shape of the loss; in expectation 1/N of the gradient is left, and all the noise",
        on="fours", relative_bias=0.75, factor=0.25,
    ),
    Specimen(
        broadcast_over_time, "biased",
        seen="https://github.com/higgsfield-ai/higgsfield/issues/24",
        remedy="make both arrays (T,)",
        on="three prompts", relative_bias=0.4802, cosine=0.9325,
    ),
    Specimen(
        group_of_one_set_to_zero, "biased",
        seen="what to do with groups of one is discussed in https://github.com/verl-project/verl/pull/3635",
        remedy="leave the return of a group of one as it is, or draw at least two: rare prompts count less otherwise",
        on="three prompts", relative_bias=0.2191, cosine=0.999, needs=("prompts",),
    ),
    Specimen(
        duplicates_removed, "biased",
        seen="replaced by new draws in https://github.com/inclusionAI/AReno/pull/308",
        remedy="keep them: how often an answer is drawn is its probability",
        on="triples", relative_bias=0.5478, cosine=0.9995,
    ),
)  # fmt: skip
