"""What an action is credited with: the first slot of an estimator.

Each choice is a frozen record. `credit` returns the (N, T) array that
multiplies the score of step t. It is measured from step t on, and γᵗ comes
later (the estimator's `discounted_score`), except where `from_start` says that
it is measured from the start of the episode and already carries its discount.

Those that run backwards along the episode also give their `trace`: signals
(c, p) and a factor κ with

    A_t = c_t + κ A_{t+1},        credit_t = p_t + κ A_{t+1},

which is what importance corrections per decision need.

A baseline is subtracted wherever it leaves the expectation alone: it may
depend on the state and the time, never on the action.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators.returns import returns, rewards_to_go


class Trace(NamedTuple):
    """The signals of a credit that runs backwards: A = c + κ A', credit = p + κ A'."""

    c: np.ndarray
    p: np.ndarray
    kappa: float


@dataclass(frozen=True, eq=False)
class TotalReturn:
    """R − b for every step of the trajectory, R = Σᵤ γᵘ r_u.

    The log-derivative trick as it falls out of the algebra: every action is
    credited with everything, also with what was paid before it. R is measured
    from the start of the episode, so the score carries no γᵗ.

    *Unbiased* for ∇J_γ, for every number b that does not depend on the trajectory.

    Parameters
    ----------
    baseline : float
        A number subtracted from every return.

    References
    ----------
    Williams, "Simple Statistical Gradient-Following Algorithms for
    Connectionist Reinforcement Learning", Machine Learning 8 (1992), equation (11).

    Examples
    --------
    >>> TotalReturn(baseline=0.5)
    TotalReturn(baseline=0.5)
    """

    baseline: float = 0.0
    from_start = True

    def __post_init__(self):
        object.__setattr__(self, "baseline", arguments.number("baseline", self.baseline))

    def credit(self, batch):
        """Return R − b, shape (N, T)."""
        return spread(returns(batch.rewards, batch.gamma) - self.baseline, batch)


@dataclass(frozen=True, eq=False)
class RewardToGo:
    """G_t − b(s_t), G_t = Σ_{u≥t} γ^{u−t} r_u: only what an action could have caused.

    *Unbiased* for ∇J_γ, for every baseline that does not depend on the
    actions of the trajectory it is used on.

    Parameters
    ----------
    baseline : float, array (S,) or array (T or T+1, S)
        A number, b(s), or b(t, s) such as `exact.values`.

    References
    ----------
    Sutton & Barto, *Reinforcement Learning: An Introduction*, 2nd ed.,
    equation (13.8), and (13.11) with a baseline; without one also G(PO)MDP,
    Baxter & Bartlett, "Infinite-Horizon Policy-Gradient Estimation", JAIR 15 (2001).

    Examples
    --------
    >>> RewardToGo(baseline=np.zeros(3)).baseline.shape
    (3,)
    """

    baseline: Any = 0.0
    from_start = False

    def __post_init__(self):
        object.__setattr__(self, "baseline", state_table("baseline", self.baseline))

    def credit(self, batch):
        """Return G_t − b, shape (N, T)."""
        credit = rewards_to_go(batch.rewards, batch.gamma)
        credit -= look_up("baseline", self.baseline, batch.trajectories)
        return credit

    def trace(self, batch):
        """c = r, p = r − b, κ = γ."""
        b = look_up("baseline", self.baseline, batch.trajectories)
        return Trace(batch.rewards, batch.rewards - b, batch.gamma)


@dataclass(frozen=True, eq=False)
class GAE:
    """Σ_{l≥0} (γλ)ˡ δ_{t+l}, δ_t = r_t + γ V(s_{t+1}) − V(s_t): generalised advantage estimation.

    λ = 1 is reward-to-go with baseline V: *unbiased* for ∇J_γ with any
    critic. λ < 1 is *biased* unless the critic is the true value function;
    λ = 0 is actor-critic.

    Parameters
    ----------
    critic : float, array (S,) or array (T or T+1, S)
        V(s), or V(t, s).
    lam : float
        λ in [0, 1].
    bootstrap_at_truncation : bool
        Whether V of the final state stands in for what was cut off at the
        horizon. False counts nothing there, as the finite-horizon objective
        does; True is *biased* for J with a horizon unless the critic is zero
        there (it looks beyond the horizon, but leaves out the scores there).
        After termination nothing is ever bootstrapped.

    References
    ----------
    Schulman, Moritz, Levine, Jordan & Abbeel, "High-Dimensional Continuous
    Control Using Generalized Advantage Estimation", ICLR 2016, equation (16).

    Examples
    --------
    >>> GAE(np.zeros(3), lam=0.95).lam
    0.95
    """

    critic: Any
    lam: float
    bootstrap_at_truncation: bool = False
    from_start = False

    def __post_init__(self):
        object.__setattr__(self, "critic", state_table("critic", self.critic))
        arguments.flag("bootstrap_at_truncation", self.bootstrap_at_truncation)
        object.__setattr__(self, "lam", arguments.number("lam", self.lam, low=0.0, high=1.0, rule="a number in [0, 1]"))

    def credit(self, batch):
        """Return Σ (γλ)ˡ δ_{t+l}, shape (N, T)."""
        return rewards_to_go(self.temporal_differences(batch), batch.gamma * self.lam)

    def trace(self, batch):
        """c = p = δ, κ = γλ."""
        delta = self.temporal_differences(batch)
        return Trace(delta, delta, batch.gamma * self.lam)

    def temporal_differences(self, batch):
        """Return δ_t, zero after the end, shape (N, T)."""
        now, after = critic_values(self.critic, batch, self.bootstrap_at_truncation)
        return np.where(batch.mask, batch.rewards + batch.gamma * after - now, 0.0)


@dataclass(frozen=True, eq=False)
class NStep:
    """Σ_{j<n} γʲ r_{t+j} + γⁿ V(s_{t+n}) − V(s_t): n steps of reward, then the critic.

    n >= T is reward-to-go with baseline V: *unbiased* for ∇J_γ with any
    critic. Otherwise *biased* unless the critic is the true value function.

    Parameters
    ----------
    critic : float, array (S,) or array (T or T+1, S)
        V(s), or V(t, s).
    n : int
        Number of rewards, at least 1.
    bootstrap_at_truncation : bool
        As in `GAE`.

    References
    ----------
    Sutton & Barto, *Reinforcement Learning: An Introduction*, 2nd ed.,
    equation (7.1); Mnih et al., "Asynchronous Methods for Deep Reinforcement
    Learning", ICML 2016, section 4 (A3C).

    Examples
    --------
    >>> NStep(np.zeros(3), n=5).n
    5
    """

    critic: Any
    n: int
    bootstrap_at_truncation: bool = False
    from_start = False

    def __post_init__(self):
        object.__setattr__(self, "critic", state_table("critic", self.critic))
        arguments.flag("bootstrap_at_truncation", self.bootstrap_at_truncation)
        object.__setattr__(self, "n", arguments.integer("n", self.n, low=1))

    def credit(self, batch):
        """Return Σ_{j<n} γʲ δ_{t+j}, in which the critic's values telescope, shape (N, T)."""
        delta = GAE(self.critic, 0.0, self.bootstrap_at_truncation).temporal_differences(batch)
        credit = np.zeros_like(delta)
        T = delta.shape[1]
        for j in range(min(self.n, T)):
            credit[:, : T - j] += batch.gamma**j * delta[:, j:]
        return credit


def spread(per_trajectory, batch):
    """Return one number per trajectory (N,) at every step, shape (N, T)."""
    return np.repeat(per_trajectory[:, None], batch.trajectories.n_steps, axis=1)


def state_table(name, value):
    """Return a checked read-only array: a number, (S,) or (T, S)."""
    table = arguments.real_array(name, value)
    if table.ndim > 2 or (table.ndim and table.shape[-1] == 0):
        raise ValueError(f"{name} has shape {table.shape}; pass a number, (S,) or (T, S)")
    table.setflags(write=False)
    return table


def look_up(name, table, trajectories):
    """Return table at the state of every step, shape (N, T), or the number itself."""
    T, visited = trajectories.n_steps, trajectories.states
    _check_table(name, table, trajectories, T)
    if table.ndim == 2:
        return table[np.arange(T), visited]
    return table[visited] if table.ndim else table


def critic_values(critic, batch, bootstrap_at_truncation):
    """Return V(s_t) and V(s_{t+1}), the latter zero where nothing may be bootstrapped, both (N, T)."""
    trajectories = batch.trajectories
    N, T = trajectories.states.shape
    _check_table("critic", critic, trajectories, T)
    path = np.concatenate([trajectories.states, np.zeros((N, 1), dtype=np.intp)], axis=1)
    path[np.arange(N), trajectories.lengths] = trajectories.final_states
    V = np.zeros((T + 1, 1))
    if critic.ndim == 2:
        V = critic if len(critic) > T else np.vstack([critic, np.zeros((1, critic.shape[1]))])
    values = (
        V[np.arange(T + 1), path] if critic.ndim == 2 else critic[path] if critic.ndim else np.full(path.shape, critic)
    )
    t = np.arange(T)
    last = t == trajectories.lengths[:, None] - 1
    cut = trajectories.truncated & ~trajectories.terminated  # an environment may say both at once
    bootstraps = ~last | (cut[:, None] & bootstrap_at_truncation)
    return values[:, :-1], np.where(bootstraps, values[:, 1:], 0.0)


def _check_table(name, table, trajectories, n_steps):
    if table.ndim == 2 and len(table) < n_steps:
        raise ValueError(f"{name} has {len(table)} rows, but trajectories have {n_steps} steps; pass one row per step")
    visited = trajectories.states.max(initial=0)
    if table.ndim and visited >= table.shape[-1]:
        raise ValueError(f"{name} covers {table.shape[-1]} states, but state {visited} was visited")
