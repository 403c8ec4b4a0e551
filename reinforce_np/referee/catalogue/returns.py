"""Mistakes in what an action is credited with: signs, discounts, and which rewards are counted."""

import numpy as np

from reinforce_np.referee.catalogue.parts import (
    average,
    discounts,
    rewards,
    rewards_to_go,
    scores,
    to_go,
)
from reinforce_np.referee.catalogue.specimen import NOT_FOUND, Specimen


def wrong_sign(trajectories, theta, problem):
    """The gradient of the loss where that of the objective was meant: −Σₜ γᵗ ψₜ Gₜ."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    return average(psi, -discounts(trajectories, problem.gamma) * G)


def gamma_t_dropped(trajectories, theta, problem):
    """Returns discounted from step t on, but the score of step t without its γᵗ: Σₜ ψₜ Gₜ."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    return average(psi, G)


def gamma_t_twice(trajectories, theta, problem):
    """Rewards discounted from the start of the episode, and the score by γᵗ again: Σₜ γᵗ ψₜ Σ_{u≥t} γᵘ rᵤ."""
    gamma_t = discounts(trajectories, problem.gamma)
    return average(scores(trajectories, theta, problem), gamma_t * to_go(gamma_t * rewards(trajectories), 1.0))


def present_reward_dropped(trajectories, theta, problem):
    """The return starts one step late: Σₜ γᵗ ψₜ (γ Gₜ₊₁), so that no action is credited with its own reward."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    return average(psi, discounts(trajectories, problem.gamma) * (G - rewards(trajectories)))


def only_the_present_reward(trajectories, theta, problem):
    """Each action is credited with its own reward and nothing that follows: Σₜ γᵗ ψₜ rₜ."""
    psi = scores(trajectories, theta, problem)
    return average(psi, discounts(trajectories, problem.gamma) * rewards(trajectories))


def past_rewards_only(trajectories, theta, problem):
    """Returns summed forwards, without reversing the episode: Σₜ ψₜ Σ_{u≤t} γᵘ rᵤ credits what was paid before."""
    psi, r = scores(trajectories, theta, problem), rewards(trajectories)
    return average(psi, np.cumsum(discounts(trajectories, problem.gamma) * r, axis=1))


def returns_in_reverse(trajectories, theta, problem):
    """Returns built backwards and appended, never put in front: step t of a trajectory of L gets G of step L−1−t."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    backwards = np.array([np.append(g[:n][::-1], g[n:]) for g, n in zip(G, trajectories.lengths, strict=True)])
    return average(psi, discounts(trajectories, problem.gamma) * backwards)


def undiscounted_returns(trajectories, theta, problem):
    """The return without its discount, where the discounted objective was meant: Σₜ ψₜ Σ_{u≥t} rᵤ."""
    return average(scores(trajectories, theta, problem), rewards_to_go(trajectories, 1.0))


def terminal_reward_twice(trajectories, theta, problem):
    """The last reward is added to the rewards that hold it already, as when an outcome reward is put on the last token."""
    psi, r = scores(trajectories, theta, problem), rewards(trajectories)
    n = np.arange(len(r))
    r[n, trajectories.lengths - 1] *= 2
    return average(psi, discounts(trajectories, problem.gamma) * to_go(r, problem.gamma))


def mean_over_time(trajectories, theta, problem):
    """The mean over the steps of an episode instead of their sum: (1/L) Σₜ γᵗ ψₜ Gₜ."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    return average(psi, discounts(trajectories, problem.gamma) * G / trajectories.lengths[:, None])


def mean_score_times_all_returns(trajectories, theta, problem):
    """The mean of the scores of an episode times the sum of all its returns: (1/L) Σₜ ψₜ · Σᵤ Gᵤ."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    return average(psi, G.sum(axis=1) / trajectories.lengths)


def mean_over_padded_time(trajectories, theta, problem):
    """The mean over a padded time axis: Σₜ γᵗ ψₜ Gₜ / T, right but for a factor that is the width of the padding."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    return average(psi, discounts(trajectories, problem.gamma) * G / trajectories.n_steps)


def clock_not_reset(trajectories, theta, problem):
    """γᵗ with a time that runs on from one episode of the batch to the next."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    began = np.cumsum(trajectories.lengths) - trajectories.lengths
    return average(psi, problem.gamma ** (began[:, None] + np.arange(trajectories.n_steps)) * G)


def discounted_returns_leak(trajectories, theta, problem):
    """One long array of rewards, no reset at the ends of episodes: each return runs on into the next episode, discounted."""
    psi, r = scores(trajectories, theta, problem), rewards(trajectories)
    live = trajectories.mask
    G = np.zeros_like(r)
    G[live] = to_go(r[live][None], problem.gamma)[0]
    return average(psi, discounts(trajectories, problem.gamma) * G)


SPECIMENS = (
    Specimen(
        wrong_sign, "proportional",
        seen="https://github.com/KanishJebaMathewM/Truxify/pull/11885 (an actor loss without its minus); suspected where it was right in https://github.com/ikostrikov/pytorch-a3c/issues/30",
        remedy="minimise −log π · G, or ascend along ψ G: one of the two signs, not both",
        on="impatient", relative_bias=2, cosine=-1.0, factor=-1,
    ),
    Specimen(
        gamma_t_dropped, "biased",
        seen="https://github.com/facebookresearch/Pearl/issues/46 and https://github.com/pytorch/examples/issues/744; Nota & Thomas, https://arxiv.org/abs/1906.07073",
        remedy="multiply the score of step t by γᵗ, or say that the objective is not the discounted return; no objective at all has this gradient",
        on="fours", relative_bias=0.3728, cosine=0.9571,
    ),
    Specimen(
        gamma_t_twice, "biased",
        seen=NOT_FOUND,
        remedy="γᵗ once: either γᵗ Gₜ with Gₜ discounted from step t on, or rewards discounted from the start and a bare score",
        on="fours", relative_bias=0.1772, cosine=0.9848,
    ),
    Specimen(
        present_reward_dropped, "biased",
        seen=NOT_FOUND,
        remedy="the return of step t begins with rₜ, the reward of the action that is scored",
        on="impatient", relative_bias=0.9015, cosine=0.7559,
    ),
    Specimen(
        only_the_present_reward, "biased",
        seen="https://github.com/hunkim/ReinforcementZeroToAll/issues/1",
        remedy="credit an action with every reward it can have caused: Σ_{u≥t} γᵘ⁻ᵗ rᵤ",
        on="triples", relative_bias=2.343, cosine=0.3121,
    ),
    Specimen(
        past_rewards_only, "biased",
        seen="https://github.com/mohmdelsayed/streaming-drl/issues/3",
        remedy="run through the episode backwards: Gₜ = rₜ + γ Gₜ₊₁; what was paid before an action is no credit to it",
        on="triples", relative_bias=2.343, cosine=0.3121,
    ),
    Specimen(
        returns_in_reverse, "biased",
        seen="https://github.com/PacktPublishing/Tensorflow-2-Reinforcement-Learning-Cookbook/issues/27 (reversed within the loop)",
        remedy="put each new return in front (insert(0, G)), or reverse the list once at the end",
        on="two prompts", relative_bias=0.2856, cosine=0.9632,
    ),
    Specimen(
        undiscounted_returns, "biased",
        seen=NOT_FOUND,
        remedy="discount the rewards, or say that the objective is the undiscounted return, for which this is right",
        on="fours", relative_bias=0.4833, cosine=0.9216,
    ),
    Specimen(
        terminal_reward_twice, "biased",
        seen='https://github.com/shehzaadzd/MINERVA/issues/28 (a "fix" by which the last reward is counted twice at the step before it)',
        remedy="write the reward of the outcome into the last step, do not add it to what is there already",
        on="three prompts", relative_bias=0.9832, cosine=0.9827,
    ),
    Specimen(
        mean_over_time, "biased",
        seen="https://github.com/KaiyangZhou/pytorch-vsumm-reinforce/issues/48",
        remedy="sum over the steps of an episode, average over episodes; a constant divisor is harmless, the length is not",
        on="fours", relative_bias=0.3226, cosine=0.9485,
    ),
    Specimen(
        mean_score_times_all_returns, "biased",
        seen="a tutorial, https://github.com/Farama-Foundation/Gymnasium/issues/1336",
        remedy="multiply each score with its own return, then sum: Σₜ γᵗ ψₜ Gₜ",
        on="three prompts", relative_bias=0.1252, cosine=0.9922,
    ),
    Specimen(
        mean_over_padded_time, "proportional",
        seen="https://github.com/verl-project/verl/issues/3741 (a divisor that is the width of the mask)",
        remedy="sum over time; here the step size silently depends on how wide the batch was padded",
        on="impatient", relative_bias=0.75, factor=0.25,
    ),
    Specimen(
        clock_not_reset, "biased",
        seen=NOT_FOUND,
        remedy="t counts from the start of each episode",
        on="fours", relative_bias=0.551, cosine=0.9952, exchangeable=False,
    ),
    Specimen(
        discounted_returns_leak, "biased",
        seen="https://github.com/nikhilbarhate99/PPO-PyTorch/issues/8",
        remedy="start each episode with a return of zero; harmless only at γ = 1, and noisy there",
        on="fours", relative_bias=0.1362, cosine=0.991, exchangeable=False,
    ),
)  # fmt: skip
