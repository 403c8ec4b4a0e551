"""Mistakes at the seams where a critic stands in for rewards: ends of episodes, ends of rollouts, λ and γ."""

import numpy as np

from reinforce_np.referee.catalogue.parts import (
    along,
    average,
    discounts,
    goes_on,
    rewards,
    scores,
    to_go,
    true_values,
)
from reinforce_np.referee.catalogue.specimen import NOT_FOUND, Specimen

CHUNK = 2  # steps of a rollout
LAMBDA = 0.5


def through_termination(trajectories, theta, problem):
    """δₜ = rₜ + γV(sₜ₊₁) − V(sₜ) with the true V, but also where the episode terminated and nothing follows."""
    psi, (now, after) = scores(trajectories, theta, problem), along(true_values(problem), trajectories)
    return average(psi, discounts(trajectories, problem.gamma) * (rewards(trajectories) + problem.gamma * after - now))


def rollout_end_as_termination(trajectories, theta, problem):
    """Truncation treated as termination: rollouts are cut every two steps, and nothing stands in for the rewards after the cut."""
    psi, r = scores(trajectories, theta, problem), rewards(trajectories)
    G = np.concatenate([to_go(r[:, t : t + CHUNK], problem.gamma) for t in range(0, r.shape[1], CHUNK)], axis=1)
    return average(psi, discounts(trajectories, problem.gamma) * G)


def bootstrap_at_the_horizon(trajectories, theta, problem):
    """The critic's guess of the final state is added where the objective stops counting: Gₜ + γ^(L−t) V(s_L) at the time limit."""
    psi, (now, after) = scores(trajectories, theta, problem), along(problem.critic, trajectories)
    follows = goes_on(trajectories) | trajectories.truncated[:, None]
    delta = np.where(
        trajectories.mask, rewards(trajectories) + problem.gamma * np.where(follows, after, 0.0) - now, 0.0
    )
    return average(psi, discounts(trajectories, problem.gamma) * to_go(delta, problem.gamma))


def bootstrap_without_gamma(trajectories, theta, problem):
    """δₜ = rₜ + V(sₜ₊₁) − V(sₜ) with the true V: the value of the next state is not discounted."""
    psi, (now, after) = scores(trajectories, theta, problem), along(true_values(problem), trajectories)
    delta = rewards(trajectories) + np.where(goes_on(trajectories), after, 0.0) - now
    return average(psi, discounts(trajectories, problem.gamma) * delta)


def gae_with_a_wrong_critic(trajectories, theta, problem):
    """Generalised advantages with λ < 1 and the critic one has, declared unbiased."""
    psi, (now, after) = scores(trajectories, theta, problem), along(problem.critic, trajectories)
    delta = rewards(trajectories) + np.where(goes_on(trajectories), problem.gamma * after, 0.0) - now
    A = to_go(np.where(trajectories.mask, delta, 0.0), problem.gamma * LAMBDA)
    return average(psi, discounts(trajectories, problem.gamma) * A)


def lambda_without_gamma(trajectories, theta, problem):
    """Generalised advantages, λ = 1, summed with λ where γλ was meant: δ has its discount, the sum of δ's has none."""
    psi, (now, after) = scores(trajectories, theta, problem), along(problem.critic, trajectories)
    delta = rewards(trajectories) + np.where(goes_on(trajectories), problem.gamma * after, 0.0) - now
    return average(psi, discounts(trajectories, problem.gamma) * to_go(np.where(trajectories.mask, delta, 0.0), 1.0))


def advantages_leak(trajectories, theta, problem):
    """Generalised advantages at λ = 1 over one long array of steps, not stopped where an episode ends."""
    psi, (now, after) = scores(trajectories, theta, problem), along(problem.critic, trajectories)
    delta = rewards(trajectories) + np.where(goes_on(trajectories), problem.gamma * after, 0.0) - now
    live, A = trajectories.mask, np.zeros_like(delta)
    A[live] = to_go(delta[live][None], problem.gamma)[0]
    return average(psi, discounts(trajectories, problem.gamma) * A)


def done_drops_the_reward(trajectories, theta, problem):
    """Gₜ = (rₜ + γ Gₜ₊₁)(1 − done): where the episode terminates, the reward of the last action is lost with the future."""
    psi = scores(trajectories, theta, problem)
    counted = goes_on(trajectories) | trajectories.truncated[:, None]
    return average(psi, discounts(trajectories, problem.gamma) * to_go(rewards(trajectories) * counted, problem.gamma))


SPECIMENS = (
    Specimen(
        through_termination, "biased",
        seen="https://github.com/MorvanZhou/Reinforcement-learning-with-tensorflow/issues/153; claimed, and disputed, in https://github.com/thu-ml/tianshou/issues/869",
        remedy="multiply V(sₜ₊₁) by 1 − terminated: nothing follows a terminal outcome, whatever the critic says of the state",
        on="three prompts", relative_bias=0.3875, cosine=0.9702,
    ),
    Specimen(
        rollout_end_as_termination, "biased",
        seen="https://github.com/vwxyzjn/cleanrl/issues/457 and https://github.com/Toni-SM/skrl/issues/449; Pardo et al., https://arxiv.org/abs/1712.00378",
        remedy="add γᵏ V of the state where the rollout was cut: only termination is worth nothing",
        on="three prompts", relative_bias=0.09663, cosine=0.9955,
    ),
    Specimen(
        bootstrap_at_the_horizon, "biased",
        seen="done on purpose, for an objective without the limit, in https://github.com/DLR-RM/stable-baselines3/issues/953",
        remedy="if the objective ends at the horizon, so does the return; if it does not, the horizon is no part of the model",
        on="triples", relative_bias=1.005, cosine=0.485, needs=("critic",),
    ),
    Specimen(
        bootstrap_without_gamma, "biased",
        seen="https://github.com/callummcdougall/ARENA_3.0/pull/249 (by its title; the change itself was not seen)",
        remedy="rₜ + γ V(sₜ₊₁) − V(sₜ)",
        on="fours", relative_bias=0.2773, cosine=0.9621,
    ),
    Specimen(
        gae_with_a_wrong_critic, "biased",
        seen="Schulman et al., https://arxiv.org/abs/1506.02438, who say that it is biased; no thread found that claims otherwise",
        remedy="λ = 1, which is right with any critic; or claim unbiasedness for the true value function only",
        on="two prompts", relative_bias=0.1911, cosine=0.9876, needs=("critic",),
    ),
    Specimen(
        lambda_without_gamma, "biased",
        seen=NOT_FOUND,
        remedy="Aₜ = δₜ + γλ Aₜ₊₁",
        on="two prompts", relative_bias=0.1556, cosine=0.9889, needs=("critic",),
    ),
    Specimen(
        advantages_leak, "biased",
        seen="https://github.com/Toni-SM/skrl/issues/224",
        remedy="Aₜ = δₜ + γλ Aₜ₊₁ only while the episode goes on",
        on="fours", relative_bias=0.09969, cosine=0.995, exchangeable=False, needs=("critic",),
    ),
    Specimen(
        done_drops_the_reward, "biased",
        seen="https://github.com/ray-project/ray/issues/1003 (the last reward is dropped with the terminal flag)",
        remedy="rₜ + γ Gₜ₊₁ (1 − done): the mask belongs on the future alone",
        on="pairs", relative_bias=0.8899, cosine=0.4759,
    ),
)  # fmt: skip
