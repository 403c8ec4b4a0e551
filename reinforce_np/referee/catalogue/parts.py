"""What the estimators of the catalogue are made of, so that each of them is no more than its own idea.

n trajectory, t step, d parameter;      ψ = ∇log π(aₜ|sₜ), zero after the end of an episode
"""

import functools

import numpy as np

from reinforce_np.exact import action_values, values


@functools.lru_cache(maxsize=256)
def _tables(policy, theta):
    """Return ∇log π (S, A, D), π and log π (S, A); the same θ comes with every batch."""
    theta = np.frombuffer(theta)
    return policy.score(theta), policy.probabilities(theta), policy.log_ratio(theta, None)


def score_table(theta, problem):
    """∇log π(a|s), shape (S, A, D)."""
    return _tables(problem.policy, np.asarray(theta, dtype=np.float64).tobytes())[0]


def probability_table(theta, problem):
    """π(a|s), shape (S, A)."""
    return _tables(problem.policy, np.asarray(theta, dtype=np.float64).tobytes())[1]


def log_probability_table(theta, problem):
    """log π(a|s), shape (S, A), zero where π is zero."""
    return _tables(problem.policy, np.asarray(theta, dtype=np.float64).tobytes())[2]


def scores(trajectories, theta, problem):
    """ψ[n, t] = ∇log π(aₜ|sₜ), shape (N, T, D)."""
    return score_table(theta, problem)[trajectories.states, trajectories.actions] * trajectories.mask[:, :, None]


def log_probabilities(trajectories, theta, problem):
    """log π(aₜ|sₜ) of the present policy, shape (N, T); zero after the end."""
    return log_probability_table(theta, problem)[trajectories.states, trajectories.actions] * trajectories.mask


def log_ratios(trajectories, theta, problem):
    """log π(aₜ|sₜ) − log μ(aₜ|sₜ), μ the policy that drew the actions, shape (N, T)."""
    drawn = np.where(trajectories.mask, trajectories.log_probabilities, 0.0)
    return log_probabilities(trajectories, theta, problem) - drawn


def log_ratios_to_reference(trajectories, theta, problem):
    """d = log π(aₜ|sₜ) − log π_ref(aₜ|sₜ), shape (N, T)."""
    table = _reference_table(problem)[trajectories.states, trajectories.actions]
    return log_probabilities(trajectories, theta, problem) - np.where(trajectories.mask, table, 0.0)


@functools.lru_cache(maxsize=64)
def _reference_table(problem):
    return problem.policy.log_probabilities_of("reference", problem.reference)


def rewards(trajectories):
    """rₜ, zero after the end, shape (N, T)."""
    return np.where(trajectories.mask, trajectories.rewards, 0.0)


def discounts(trajectories, gamma):
    """γᵗ, shape (T,)."""
    return gamma ** np.arange(trajectories.n_steps)


def returns(trajectories, gamma):
    """R = Σₜ γᵗ rₜ, shape (N,)."""
    return rewards(trajectories) @ discounts(trajectories, gamma)


def to_go(x, gamma):
    """Gₜ = xₜ + γ Gₜ₊₁, shape (N, T)."""
    G = np.array(x)
    for t in reversed(range(G.shape[1] - 1)):
        G[:, t] += gamma * G[:, t + 1]
    return G


def rewards_to_go(trajectories, gamma):
    """Gₜ = Σ_{u≥t} γᵘ⁻ᵗ rᵤ, shape (N, T)."""
    return to_go(rewards(trajectories), gamma)


def average(psi, weights):
    """(1/N) Σₙ Σₜ w[n, t] ψ[n, t], shape (D,); weights (N,) count for all steps of a trajectory."""
    if weights.ndim == 1:
        weights = weights[:, None]
    return (psi * weights[:, :, None]).sum(axis=(0, 1)) / len(psi)


def mean_of_others(R, groups):
    """The mean return of the other members of each one's group, shape (N,)."""
    same = groups[:, None] == groups
    return (same @ R - R) / (same.sum(axis=1) - 1)


def group_mean(R, groups):
    """The mean return of each one's group, its own included, shape (N,)."""
    same = groups[:, None] == groups
    return same @ R / same.sum(axis=1)


def next_states(trajectories):
    """sₜ₊₁, shape (N, T): the final state after the last step, whether the episode terminated there or was cut."""
    after = np.zeros_like(trajectories.states)
    after[:, :-1] = trajectories.states[:, 1:]
    after[np.arange(len(trajectories)), trajectories.lengths - 1] = trajectories.final_states
    return after


def goes_on(trajectories):
    """Whether there is a step after step t, shape (N, T)."""
    return np.arange(trajectories.n_steps) < trajectories.lengths[:, None] - 1


def along(V, trajectories):
    """V(sₜ) and V(sₜ₊₁), shape (N, T) each, for a table (S,) or (T+1, S); the latter also after termination."""
    now, after, t = trajectories.states, next_states(trajectories), np.arange(trajectories.n_steps)
    return (V[now], V[after]) if V.ndim == 1 else (V[t, now], V[t + 1, after])


@functools.lru_cache(maxsize=64)
def true_values(problem):
    """Vₜ(s) of the present policy, shape (T+1, S), zero at the horizon; (S,) without one."""
    return values(problem.mdp, problem.policy, problem.theta)


@functools.lru_cache(maxsize=64)
def true_action_values(problem):
    """Qₜ(s, a) of the present policy, shape (T, S, A); (S, A) without a horizon."""
    return action_values(problem.mdp, problem.policy, problem.theta)


def reinforce(trajectories, theta, problem):
    """(1/N) Σₙ Σₜ γᵗ ψₜ Gₜ: what most of the others should have been."""
    psi, G = scores(trajectories, theta, problem), rewards_to_go(trajectories, problem.gamma)
    return average(psi, discounts(trajectories, problem.gamma) * G)
