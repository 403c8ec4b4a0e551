"""Estimators whose credit is a linear trace, and their exact moments by recursion.

Along a trajectory, with a prime for the next step (zero after the end),

    A = c + κ A'            weight = p + q A'            X = ψ (p + q A') + h + η X'            ĝ = X at the start

where c, κ, p, q, η are signals of (t, s, a, outcome), ψ = ∇log π(a|s), and h(s)
is what a closed-form penalty adds for all actions of a state.

| estimator | c | κ | p | q | η |
|---|---|---|---|---|---|
| reward-to-go, baseline b | r | γ | r − b(s) | γ | γ |
| GAE, critic V | δ = r + γV(s') − V(s) | γλ | δ | γλ | γ (1 without γᵗ) |
| n-step | a bank of n − 1 traces, A⁽ʲ⁾ = δ + γ A⁽ʲ⁻¹⁾' | | δ | γ | γ |
| a ratio f(ρ) per token | c | κ | f p | f q | η |
| per decision | ρ c | ρ κ | ρ p | ρ q | ρ γ |
| V-trace | min(ρ,ρ̄) c | κ min(ρ,c̄) | min(ρ,ρ̄) p | min(ρ,ρ̄) κ | γ |

A penalty in the reward joins c and p; one in the loss joins p. The ratio of the
whole trajectory needs no signal: it changes the measure, to μρ = π for the
mean and to μρ² for the second moment.

The joint moments close. To keep digits, A is first freed of its mean v(s):
U = A − v, U = c̃ + κ U', weight = p̃ + q U', with c̃ = c + κ v' − v and p̃ = p + q v'.
Then with m = E[1], u = E[U], ... under the measure at hand,

    E[U²]  = c̃² m' + 2 c̃ κ u' + κ² (uu)'
    E[w²]  = p̃² m' + 2 p̃ q u' + q² (uu)',        E[w U] = c̃ p̃ m' + (c̃ q + κ p̃) u' + κ q (uu)'
    y      = E[w X'] = p̃ x' + q (ux)'
    E[X]   = ψ E[w] + h m' + η x'
    E[UX]  = ψ E[wU] + h (c̃ m' + κ u') + η (c̃ x' + κ (ux)')
    E[XXᵀ] = ψψᵀ E[w²] + (ψhᵀ + hψᵀ) E[w] + hhᵀ m' + η (ψyᵀ + yψᵀ + h x'ᵀ + x' hᵀ) + η² (xxᵀ)'

and the last line is unrolled forwards with the occupancy of η², so that no
array of size S·D·D is ever built.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from reinforce_np import graph
from reinforce_np.estimators import (
    GAE,
    ClippedRatio,
    Constant,
    Estimator,
    MaskedRatio,
    NStep,
    OnPolicy,
    PerDecisionRatio,
    PerTrajectory,
    RewardToGo,
    TokenRatio,
    TrajectoryRatio,
    TruncatedRatio,
    VTrace,
)
from reinforce_np.trajectories import Trajectories

MULTIPLICATIVE = (OnPolicy, TokenRatio, TruncatedRatio, MaskedRatio)


class Signals(NamedTuple):
    """The signals of one step, each broadcastable to (S, A, K); c and κ have one entry per trace of a bank."""

    c: tuple
    kappa: tuple
    p: np.ndarray
    q: np.ndarray
    eta: Any


@dataclass(frozen=True, eq=False)
class LinearTrace:
    """An estimator as signals on a model, ready for the recursions.

    Parameters
    ----------
    mdp : FiniteMDP
        The model.
    behaviour : array (S, A)
        μ, which draws the actions.
    rho : array (S, A)
        π/μ, zero where μ is zero.
    rewards : array (S, A, K)
        With penalties in the reward.
    loss : array (S, A)
        What penalties in the loss add to the weight.
    passive : array (S, A) or None
        Weights of all actions of a visited state (closed forms in the loss).
    factor : array (S, A)
        f(ρ) of ratios per token.
    estimator : Estimator
        Whose slots are filled.
    """

    mdp: Any
    behaviour: np.ndarray
    rho: np.ndarray
    rewards: np.ndarray
    loss: np.ndarray
    passive: np.ndarray | None
    factor: np.ndarray
    estimator: Estimator

    @property
    def whole_trajectory(self):
        """Whether every trajectory counts by the ratio of all its actions."""
        return isinstance(self.estimator.ratio, TrajectoryRatio)

    @property
    def n_traces(self):
        """How many traces run along: one, or n − 1 for n-step returns."""
        advantage = self.estimator.advantage
        return advantage.n - 1 if isinstance(advantage, NStep) else 1

    def shift(self, x, axis):
        """Return what each trace reads of the next step: itself, or in a bank the one before it."""
        if not isinstance(self.estimator.advantage, NStep):
            return x
        x = np.moveaxis(x, axis, 0)
        return np.moveaxis(np.concatenate([np.zeros_like(x[:1]), x[:-1]]), 0, axis)

    def measure(self, power):
        """Return the outcome probabilities (S, A, K), times ρ to the power when the whole trajectory is weighted."""
        mu = self.behaviour * self.rho**power if self.whole_trajectory else self.behaviour
        return mu[:, :, None] * self.mdp.probability

    @cached_property
    def mean_returns(self):
        """E[R | first state], shape (S,), under the measure of the mean; for a finite horizon."""
        W, live, V = self.measure(1), ~self.mdp.terminated, np.zeros(self.mdp.n_states)
        for _ in range(self.mdp.horizon):
            V = np.einsum("sak,sak->s", W, self.rewards + self.mdp.gamma * live * V[self.mdp.next_state])
        return V

    def restricted(self, states):
        """Return the trace of the model that has only the given states; what leads out of them must have measure zero.

        Parameters
        ----------
        states : int array (R,)
            In ascending order.

        Returns
        -------
        LinearTrace
        """
        advantage = self.estimator.advantage
        name = "baseline" if isinstance(advantage, RewardToGo) else "critic"
        table = getattr(advantage, name)
        if table.ndim:
            advantage = replace(advantage, **{name: table[..., states]})
        tables = {name: getattr(self, name)[states] for name in ("behaviour", "rho", "rewards", "loss", "factor")}
        passive = None if self.passive is None else self.passive[states]
        smaller = graph.restricted(self.mdp, states)
        return LinearTrace(smaller, passive=passive, estimator=replace(self.estimator, advantage=advantage), **tables)

    def scale(self):
        """Return what the normaliser divides a sum over steps by, the number of trajectories apart."""
        normaliser = self.estimator.normaliser
        return 1.0 / normaliser.c if isinstance(normaliser, Constant) else 1.0

    def at(self, t):
        """Return the signals of step t; of an int array (B,) of steps, with an axis in front where they depend on it."""
        advantage, ratio, gamma = self.estimator.advantage, self.estimator.ratio, self.mdp.gamma
        score = gamma if self.estimator.discounted_score else 1.0
        rho = self.rho[:, :, None]
        if isinstance(advantage, RewardToGo):
            c, kappa, p = (self.rewards,), (gamma,), self.rewards - _state(advantage.baseline, t)
        else:
            delta = self._temporal_difference(t)
            if isinstance(advantage, GAE):
                c, kappa, p = (delta,), (gamma * advantage.lam,), delta
            else:  # A⁽ʲ⁾ = δ + γ A⁽ʲ⁻¹⁾', of which the weight reads the last
                c, kappa, p = (delta,) * self.n_traces, (gamma,) * self.n_traces, delta
        q = kappa[-1]
        loss = self.loss[:, :, None]
        if isinstance(ratio, PerDecisionRatio):
            eta = rho * score if ratio.past else score
            return Signals(tuple(rho * x for x in c), tuple(rho * x for x in kappa), rho * p + loss, rho * q, eta)
        if isinstance(ratio, VTrace):
            clipped, trace = np.minimum(rho, ratio.rho_limit), np.minimum(rho, ratio.c_limit)
            return Signals((clipped * c[0],), (kappa[0] * trace,), clipped * p + loss, clipped * q, score)
        f = self.factor[:, :, None]
        return Signals(c, kappa, f * p + loss, f * q, score)

    def _temporal_difference(self, t):
        mdp, critic = self.mdp, self.estimator.advantage.critic
        now, after = _state(critic, t), _state(critic, t + 1, mdp)
        cut = np.reshape(t == -1 if mdp.horizon is None else t == mdp.horizon - 1, (*np.shape(t), 1, 1, 1))
        bootstraps = ~mdp.terminated & (~cut | self.estimator.advantage.bootstrap_at_truncation)
        return self.rewards + mdp.gamma * np.where(bootstraps, after, 0.0) - now


def linear_trace(estimator, mdp, policy, theta, behaviour=None):
    """Return the estimator as a linear trace, or None when it is none.

    Parameters
    ----------
    estimator : Estimator
        Any of the family.
    mdp, policy, theta
        The problem.
    behaviour : array (D,) or (S, A), optional
        The policy that draws the actions.

    Returns
    -------
    LinearTrace or None
    """
    advantage, ratio = estimator.advantage, estimator.ratio
    if not isinstance(advantage, RewardToGo | GAE | NStep):
        return None
    if isinstance(advantage, NStep) and advantage.n == 1:
        advantage = GAE(advantage.critic, 0.0, advantage.bootstrap_at_truncation)
    if isinstance(ratio, PerDecisionRatio | VTrace) and isinstance(advantage, NStep):
        return None
    past = isinstance(ratio, TrajectoryRatio) or (isinstance(ratio, PerDecisionRatio) and ratio.past)
    if past and any(penalty.place == "loss" for penalty in estimator.penalty):
        return None  # a penalty in the loss is not corrected for the past, the credit is
    return tables_of(replace(estimator, advantage=advantage), mdp, policy, theta, behaviour)


def tables_of(estimator, mdp, policy, theta, behaviour=None):
    """Return what every step of the model adds to the estimate, or None where the slots do not allow it.

    Parameters
    ----------
    estimator, mdp, policy, theta, behaviour
        As in `linear_trace`.

    Returns
    -------
    LinearTrace or None
    """
    ratio = estimator.ratio
    if isinstance(ratio, ClippedRatio) and behaviour is None and min(ratio.lower, ratio.upper) > 0:
        estimator = replace(estimator, ratio=OnPolicy())  # ρ = 1 is never clipped
        ratio = estimator.ratio
    if not isinstance(estimator.normaliser, PerTrajectory | Constant):
        return None
    if not isinstance(ratio, (*MULTIPLICATIVE, TrajectoryRatio, PerDecisionRatio, VTrace)):
        return None
    if isinstance(ratio, TruncatedRatio | MaskedRatio) and not isinstance(ratio.of, TokenRatio):
        return None
    pi = policy.probabilities(theta)
    log_mu = (
        policy.log_probabilities(theta) if behaviour is None else policy.log_probabilities_of("behaviour", behaviour)
    )
    mu = np.exp(log_mu)
    rho = np.divide(pi, mu, out=np.zeros_like(pi), where=mu > 0)
    steps = every_step(mdp, policy, theta, log_mu)
    rewards = mdp.reward + step_table(sum(penalty.reward(steps) for penalty in estimator.penalty), mdp)[:, :, None]
    loss = step_table(sum(penalty.loss_weights(steps) for penalty in estimator.penalty), mdp)
    tables = [penalty.all_actions(steps) for penalty in estimator.penalty]
    tables = [passive for passive in tables if passive is not None]
    factor = np.ones((mdp.n_states, mdp.n_actions))
    if isinstance(ratio, MULTIPLICATIVE):
        factor = step_table(np.where(steps.mask, ratio.weigh(steps, _Unit()), 0.0), mdp)
    return LinearTrace(mdp, mu, rho, rewards, loss, sum(tables) if tables else None, factor, estimator)


class _Unit:
    """A credit of one everywhere: what is left of a ratio is the ratio."""

    from_start = False

    def credit(self, batch):
        return np.ones(batch.mask.shape)


def every_step(mdp, policy, theta, log_mu):
    """Return a batch of one-step trajectories, one for every (s, a): what a slot says of a step, it says here."""
    n = mdp.n_states * mdp.n_actions
    s, a = np.divmod(np.arange(n), mdp.n_actions)
    possible = log_mu[s, a] > -np.inf
    steps = Trajectories(
        states=s[:, None],
        actions=a[:, None],
        rewards=np.zeros((n, 1)),
        lengths=possible.astype(np.intp),
        terminated=np.ones(n, dtype=bool),
        truncated=np.zeros(n, dtype=bool),
        final_states=s,
        log_probabilities=np.where(possible, log_mu[s, a], 0.0)[:, None],
        groups=np.arange(n),
    )
    plain = Estimator(RewardToGo())
    return plain.batch(steps, mdp, policy, theta)


def step_table(values, mdp):
    """Return what a slot said of every step of `every_step`, (S·A, 1) or a number, as a table (S, A)."""
    shape = mdp.n_states, mdp.n_actions
    return np.broadcast_to(values, (shape[0] * shape[1], 1)).reshape(shape).astype(np.float64)


def _state(table, t, mdp=None):
    """Return b_t(s), shaped for (S, A, K); or b_t(s') of every outcome when the model is given."""
    if table.ndim == 0:
        return table
    if table.ndim == 2:
        table = np.concatenate([table, np.zeros((1, table.shape[1]))])[np.minimum(t, len(table))]
    return table[..., None, None] if mdp is None else table[..., mdp.next_state]
