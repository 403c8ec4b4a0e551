"""Every claim of the estimators' docstrings, run by listing all batches: CLAIMS is the table.

An *unbiased* or *proportional* row must hold on every problem of the panel and on random ones; a *biased* row must be
caught on at least one problem of the panel, by at least the relative bias it names. On the random problems the moments
come by whatever route `judge` takes, so that each claim is run by the weights of the estimator itself and by recursion.
Rows of SAME say that two estimators are one.
"""

import dataclasses
import functools
import inspect
from typing import NamedTuple

import numpy as np
import pytest

from reinforce_np import (
    GAE,
    ActionDependent,
    BatchStandardised,
    ClippedRatio,
    Constant,
    Discounted,
    EntropyBonus,
    EntropyRegularised,
    Estimator,
    FiniteMDP,
    GeometricMeanRatio,
    GroupMean,
    GroupStandardised,
    InSampleOptimal,
    KLPenalty,
    KLRegularised,
    LeaveOneOut,
    MaskedRatio,
    NStep,
    OnPolicy,
    PerComponent,
    PerDecisionRatio,
    PerLength,
    PerToken,
    PerTrajectory,
    RewardToGo,
    SelfNormalisedRatio,
    TabularSoftmax,
    TokenRatio,
    TotalReturn,
    TrajectoryRatio,
    TruncatedRatio,
    Undiscounted,
    VTrace,
    algorithms,
    count_trajectories,
    estimators,
    exact,
    examples,
    fit_optimal_baseline,
    fit_state_baseline,
    judge,
    moments_by_enumeration,
    sample,
)
from reinforce_np.exact.verdicts import verdict_of

BETA = 0.4
# Largest number of trajectories from one start, by (prompts, group_size): less than 20000 batches
LARGEST = {(1, 1): 120, (1, 2): 40, (1, 3): 24, (2, 1): 40, (2, 2): 8}


class Problem(NamedTuple):
    """A model and a policy, with everything a row may ask for."""

    mdp: FiniteMDP
    theta: np.ndarray
    behaviour: np.ndarray
    reference: np.ndarray
    critic: np.ndarray  # (T+1, S), wrong, and not zero at the horizon
    b: np.ndarray  # (S, D), any numbers

    @property
    def policy(self):
        return TabularSoftmax(self.mdp.n_states, self.mdp.n_actions)


def problem(mdp, seed=0):
    """Fill the other slots with numbers that have nothing special about them."""
    rng, D = np.random.default_rng(seed), mdp.n_states * mdp.n_actions
    theta, behaviour, reference = rng.uniform(-1.2, 1.2, (3, D)).round(2)
    return Problem(
        mdp,
        theta,
        behaviour,
        reference,
        rng.uniform(-1, 3, (mdp.horizon + 1, mdp.n_states)).round(2),
        rng.uniform(-1, 3, (mdp.n_states, D)).round(2),
    )


def tiny(*, n_actions, gamma, horizon, initial):
    """Two states, unequal lengths, both ends, rewards up to 3: the referee of groups."""
    S, A = 2, n_actions
    weight, terminated = np.zeros((S, A, 2)), np.ones((S, A, 2), dtype=bool)
    weight[..., 0] = 1.0
    weight[0, 0], weight[1, 0], weight[1, 1] = (0.75, 0.25), (0.4, 0.6), (0.5, 0.5)
    terminated[0, 0, 0] = terminated[1, 0, 0] = False
    reward = np.array([[[1.0, -0.5], [2.0, 0.0], [-1.5, 0.0]], [[0.5, 3.0], [-1.0, 2.5], [0.25, 0.0]]])[:, :A]
    target = np.array([[[1, 0]] * A, [[0, 1]] * A])
    return FiniteMDP(weight, target, reward, terminated, initial=initial, gamma=gamma, horizon=horizon)


PANEL = {
    "referee": problem(examples.referee(horizon=3), 1),
    "referee, two steps": problem(examples.referee(horizon=2, gamma=0.5), 2),
    "tiny, three actions": problem(tiny(n_actions=3, gamma=0.7, horizon=3, initial=[0.75, 0.25]), 3),
    "tiny, two actions": problem(tiny(n_actions=2, gamma=0.9, horizon=2, initial=[0.4, 0.6]), 4),
    "tiny, four steps": problem(tiny(n_actions=2, gamma=0.9, horizon=4, initial=[0.9, 0.1]), 6),
    "two prompts, 0/1": problem(
        examples.token_sequences("ab", 2, lambda x, y: "".join(y) in x, [("a", "bb"), ("", "ab")]), 5
    ),
}


@functools.cache
def largest_start(mdp):
    """The number of trajectories from the start that has most of them."""
    starts = np.flatnonzero(mdp.initial)
    return max(count_trajectories(mdp.replace(initial=np.eye(mdp.n_states)[s])) for s in starts)


def random_problem(limit, rng):
    """Any numbers, at most `limit` trajectories per start; episodes may end at once or be truncated."""
    S, A, horizon = 2, 2 if limit < 20 else int(rng.integers(2, 4)), int(rng.integers(2, 4))
    weight = rng.integers(0, 4, (S, A, 2)).astype(float)
    weight[..., 0] += weight.sum(axis=2) == 0
    weight[:, 0] = np.maximum(weight[:, 0], 1)
    terminated = rng.integers(0, 3, (S, A, 2)) == 1
    terminated[:, 0] = [False, True]
    target = rng.integers(0, S, (S, A, 2))
    target[:, 0, 0] = [1, 0]
    reward = 0.25 * rng.integers(-8, 17, (S, A, 2))
    initial, gamma = [(0.75, 0.25), (0.4, 0.6)][rng.integers(2)], [0.5, 0.7, 0.9][rng.integers(3)]
    rest = rng.permutation([(s, a) for s in range(S) for a in range(1, A)]).tolist()
    for smaller in [None] + [(s, a, end) for end in (True, False) for s, a in rest]:
        if smaller and smaller[2]:  # until it is small: actions that end the episode, then certain ones
            terminated[smaller[:2]] = True
        elif smaller:
            weight[smaller[:2]] = [1, 0]
        mdp = FiniteMDP(
            weight / weight.sum(axis=2, keepdims=True),
            target,
            reward,
            terminated,
            initial=initial,
            gamma=gamma,
            horizon=horizon,
        )
        if largest_start(mdp) > limit:
            mdp = mdp.replace(horizon=2)
        if largest_start(mdp) <= limit:
            break
    D = S * A
    theta, behaviour, reference = 0.25 * rng.integers(-6, 7, (3, D))
    theta[0] += 0.375  # never uniform, and never one of the others
    critic, b = 0.5 * rng.integers(-4, 7, (mdp.horizon + 1, S)), 0.5 * rng.integers(-4, 7, (S, D))
    return Problem(mdp, theta, behaviour, reference, critic, b)


@functools.cache
def random_problems(limit):
    """Forty of them, on which all rows draw."""
    rng = np.random.default_rng(limit)
    return [random_problem(limit, rng) for _ in range(40)]


# What a row may say of its setting


def as_it_is(mdp):
    return mdp


def one_step(mdp):
    return mdp.replace(horizon=1)


def undiscounted(mdp):
    return mdp.replace(gamma=1.0)


def kl(p):
    return KLRegularised(p.reference, BETA)


def entropy(p):
    return EntropyRegularised(BETA)


def discounted(p):
    return Discounted()


def sum_over_starts(p, weight):
    """Sum over first states and actions of initial(s) weight(s, a) score(s, a)."""
    return np.einsum("s,sa,sad->d", p.mdp.initial, weight, p.policy.score(p.theta))


def other_kl(p):
    """Gradient of J - beta KL(ref || pi), one step: the gradient of KL(ref || pi) is -sum of ref times score."""
    ref = p.policy.probabilities(p.reference)
    return exact.gradient(p.mdp, p.policy, p.theta) + BETA * sum_over_starts(p, ref)


def mean_of_k2(p):
    """Gradient of J - beta E_pi[k2], one step: the sum of pi (k2 + d) times score."""
    d = np.log(p.policy.probabilities(p.theta) / p.policy.probabilities(p.reference))
    return exact.gradient(p.mdp, p.policy, p.theta) - BETA * sum_over_starts(
        p, p.policy.probabilities(p.theta) * (d**2 / 2 + d)
    )


class Claim(NamedTuple):
    """One row: `of` is the docstring it runs; `estimator` a function of the problem.

    kind       "unbiased", "biased", or the factor of a proportional one as a function of the group size
    at_least   a biased one: relative bias on the problem of the panel where it shows most
    """

    of: object
    says: str
    estimator: object
    kind: object
    at_least: float = 0.0
    sizes: tuple = ((1, 1),)  # (prompts, group_size)
    off: bool = False  # drawn by the behaviour
    objective: object = discounted  # of a problem; or a function that returns a gradient
    change: object = as_it_is


GROUPS = ((1, 2), (1, 3), (2, 2))
PAIRS = ((1, 2), (2, 1), (2, 2))


def fitted(fit):
    """A baseline fitted on other trajectories than those it is used on: a fixed sample."""

    def make(p):
        return fit(sample(p.mdp, p.policy, p.theta, 7, rng=0), p)

    return make


state_fit = fitted(lambda data, p: fit_state_baseline(data, p.mdp.gamma, p.mdp.n_states))
optimal_fit = fitted(lambda data, p: fit_optimal_baseline(data, p.policy, p.theta, p.mdp.gamma))
component_fit = fitted(lambda data, p: fit_optimal_baseline(data, p.policy, p.theta, p.mdp.gamma, per_component=True))


def true(p):
    return exact.values(p.mdp, p.policy, p.theta)


def endless(p):
    return exact.values(p.mdp.replace(horizon=None, gamma=min(p.mdp.gamma, 0.95)), p.policy, p.theta)


def zero_at_the_horizon(p):
    return np.vstack([p.critic[:-1], 0 * p.critic[-1:]])


def k(kind, place, corrected=False):
    return lambda p: Estimator(RewardToGo(), penalty=KLPenalty(p.reference, BETA, kind, place, corrected))


def k_off(kind, place, corrected=False):
    return lambda p: Estimator(
        RewardToGo(), ratio=TokenRatio(), penalty=KLPenalty(p.reference, BETA, kind, place, corrected)
    )


def bonus(place, sampled):
    return lambda p: Estimator(RewardToGo(), penalty=EntropyBonus(BETA, place, sampled))


def ratio(ratio, advantage=lambda p: RewardToGo()):
    return lambda p: Estimator(advantage(p), ratio=ratio)


def plain(advantage, **slots):
    return lambda p: Estimator(advantage, **slots)


def dropped(N):
    return (N - 1) / N


CLAIMS = [
    # advantages
    Claim(TotalReturn, "unbiased", plain(TotalReturn()), "unbiased", sizes=((1, 1), (1, 2), (2, 1))),
    Claim(TotalReturn, "for every number b", plain(TotalReturn(1.75)), "unbiased"),
    Claim(RewardToGo, "unbiased", plain(RewardToGo()), "unbiased", sizes=((1, 1), (1, 2), (2, 1))),
    Claim(RewardToGo, "a number", plain(RewardToGo(-1.25)), "unbiased"),
    Claim(RewardToGo, "b(s)", lambda p: Estimator(RewardToGo(p.critic[0])), "unbiased"),
    Claim(RewardToGo, "b(t, s)", lambda p: Estimator(RewardToGo(p.critic)), "unbiased"),
    Claim(RewardToGo, "such as exact.values", lambda p: Estimator(RewardToGo(true(p))), "unbiased"),
    Claim(GAE, "lam = 1: any critic", lambda p: Estimator(GAE(p.critic, 1.0)), "unbiased"),
    Claim(GAE, "lam = 1: any V(s)", lambda p: Estimator(GAE(p.critic[0], 1.0)), "unbiased"),
    Claim(GAE, "lam < 1 biased", lambda p: Estimator(GAE(p.critic, 0.7)), "biased", 0.7),
    Claim(GAE, "lam < 1 with the true critic", lambda p: Estimator(GAE(true(p), 0.7)), "unbiased"),
    Claim(GAE, "the true critic is zero at the horizon", lambda p: Estimator(GAE(true(p), 0.3, True)), "unbiased"),
    Claim(GAE, "lam = 0 biased", lambda p: Estimator(GAE(p.critic, 0.0)), "biased", 2.0),
    Claim(GAE, "bootstrapping biased", lambda p: Estimator(GAE(p.critic, 1.0, True)), "biased", 0.9),
    Claim(GAE, "unless the critic is zero there", lambda p: Estimator(GAE(zero_at_the_horizon(p), 1.0, True)), "unbiased"),
    Claim(NStep, "n >= T: any critic", lambda p: Estimator(NStep(p.critic, p.mdp.horizon)), "unbiased"),
    Claim(NStep, "n > T: any critic", lambda p: Estimator(NStep(p.critic[0], 99)), "unbiased"),
    Claim(NStep, "biased otherwise", lambda p: Estimator(NStep(p.critic, 1)), "biased", 2.0),
    Claim(NStep, "biased otherwise, n = 2", lambda p: Estimator(NStep(p.critic, 2)), "biased", 0.2),
    Claim(NStep, "the true critic", lambda p: Estimator(NStep(true(p), 2)), "unbiased"),
    Claim(NStep, "bootstrapping as in GAE", lambda p: Estimator(NStep(p.critic, 99, True)), "biased", 0.9),
    # groups
    Claim(LeaveOneOut, "unbiased", plain(LeaveOneOut()), "unbiased", sizes=GROUPS),
    Claim(LeaveOneOut, "per step", plain(LeaveOneOut(per_step=True)), "unbiased", sizes=GROUPS),
    Claim(GroupMean, "proportional", plain(GroupMean()), dropped, sizes=GROUPS),
    Claim(GroupStandardised, "biased", plain(GroupStandardised(0, 0.0)), "biased", 0.5, sizes=GROUPS),
    Claim(GroupStandardised, "biased, ddof = 1", plain(GroupStandardised(1, 1e-2)), "biased", 0.6, sizes=GROUPS),
    Claim(GroupStandardised, "over the batch", plain(GroupStandardised(0, 0.0, True)), "biased", 0.5, sizes=GROUPS),
    Claim(BatchStandardised, "biased", plain(BatchStandardised(RewardToGo(), 0, 0.0)), "biased", 0.5, sizes=PAIRS),
    Claim(BatchStandardised, "biased: total", plain(BatchStandardised(TotalReturn(), 1, 1e-2)), "biased", 0.4, sizes=PAIRS),
    Claim(BatchStandardised, "per trajectory", plain(BatchStandardised(TotalReturn(), 0, 0.0, per_token=False)), "biased",
          0.5, sizes=PAIRS),
    # ratios
    Claim(OnPolicy, "that of the advantage", plain(RewardToGo(), ratio=OnPolicy()), "unbiased"),
    Claim(OnPolicy, "biased on other data", ratio(OnPolicy()), "biased", 1.0, off=True),
    Claim(TrajectoryRatio, "unbiased", ratio(TrajectoryRatio()), "unbiased", off=True),
    Claim(TrajectoryRatio, "total return", ratio(TrajectoryRatio(), lambda p: TotalReturn(0.5)), "unbiased", off=True),
    Claim(TrajectoryRatio, "GAE", ratio(TrajectoryRatio(), lambda p: GAE(p.critic, 1.0)), "unbiased", off=True),
    Claim(TrajectoryRatio, "NStep", ratio(TrajectoryRatio(), lambda p: NStep(p.critic, 9)), "unbiased", off=True),
    Claim(TokenRatio, "biased", ratio(TokenRatio()), "biased", 0.7, off=True),
    Claim(TokenRatio, "on-policy", ratio(TokenRatio()), "unbiased"),
    Claim(TokenRatio, "exact for bandits", ratio(TokenRatio()), "unbiased", off=True, change=one_step),
    Claim(PerDecisionRatio, "unbiased", ratio(PerDecisionRatio()), "unbiased", off=True),
    Claim(PerDecisionRatio, "any baseline", ratio(PerDecisionRatio(), lambda p: RewardToGo(p.critic)), "unbiased", off=True),
    Claim(PerDecisionRatio, "GAE at lam = 1", ratio(PerDecisionRatio(), lambda p: GAE(p.critic, 1.0)), "unbiased", off=True),
    Claim(PerDecisionRatio, "past=False", ratio(PerDecisionRatio(past=False)), "biased", 0.2, off=True),
    Claim(PerDecisionRatio, "past=False, one step", ratio(PerDecisionRatio(past=False)), "unbiased", off=True, change=one_step),
    Claim(VTrace, "biased", ratio(VTrace(), lambda p: GAE(p.critic, 1.0)), "biased", 1.0, off=True),
    Claim(VTrace, "on-policy", ratio(VTrace(), lambda p: GAE(p.critic, 1.0)), "unbiased"),
    Claim(VTrace, "on-policy, other limits", ratio(VTrace(2.0, 1.5), lambda p: GAE(p.critic, 1.0)), "unbiased"),
    Claim(VTrace, "a low limit", ratio(VTrace(0.8, 1.0), lambda p: GAE(p.critic, 1.0)), "biased", 0.4),
    Claim(VTrace, "a low limit of the trace", ratio(VTrace(1.0, 0.5), lambda p: GAE(p.critic, 1.0)), "biased", 0.1),
    Claim(ClippedRatio, "biased", ratio(ClippedRatio()), "biased", 2.0, off=True),
    Claim(ClippedRatio, "dual clip", ratio(ClippedRatio(dual=1.2)), "biased", 2.0, off=True),
    Claim(ClippedRatio, "on-policy", ratio(ClippedRatio(0.1, 0.3, dual=1.5)), "unbiased"),
    Claim(GeometricMeanRatio, "biased", ratio(GeometricMeanRatio(), lambda p: TotalReturn()), "biased", 0.7, off=True),
    Claim(GeometricMeanRatio, "on-policy too", ratio(GeometricMeanRatio(), lambda p: TotalReturn()), "biased", 1.0),
    Claim(GeometricMeanRatio, "one step", ratio(GeometricMeanRatio(), lambda p: TotalReturn()), "unbiased", off=True,
          change=one_step),
    Claim(TruncatedRatio, "biased", ratio(TruncatedRatio(1.1)), "biased", 0.7, off=True),
    Claim(TruncatedRatio, "biased: trajectory", ratio(TruncatedRatio(1.1, TrajectoryRatio())), "biased", 0.7, off=True),
    Claim(TruncatedRatio, "limit not reached", ratio(TruncatedRatio(1e6, TrajectoryRatio())), "unbiased", off=True),
    Claim(TruncatedRatio, "on-policy", ratio(TruncatedRatio(1.0)), "unbiased"),
    Claim(MaskedRatio, "biased", ratio(MaskedRatio(0.6, 1.5)), "biased", 0.9, off=True),
    Claim(MaskedRatio, "biased: trajectory", ratio(MaskedRatio(0.5, 2.0, TrajectoryRatio())), "biased", 0.9, off=True),
    Claim(MaskedRatio, "nothing dropped", ratio(MaskedRatio(0.0, 1e6, TrajectoryRatio())), "unbiased", off=True),
    Claim(MaskedRatio, "on-policy", ratio(MaskedRatio(0.99, 1.01)), "unbiased"),
    Claim(SelfNormalisedRatio, "biased at every size", ratio(SelfNormalisedRatio()), "biased", 0.5, off=True,
          sizes=((1, 1), (1, 2), (2, 1), (1, 3))),
    Claim(SelfNormalisedRatio, "one trajectory: no correction at all", ratio(SelfNormalisedRatio()), "unbiased", off=True,
          objective=lambda p: moments_by_enumeration(Estimator(RewardToGo()), p.mdp, p.policy, p.theta, behaviour=p.behaviour).mean),
    Claim(SelfNormalisedRatio, "on-policy", ratio(SelfNormalisedRatio()), "unbiased", sizes=((1, 1), (1, 2))),
    # penalties
    Claim(KLPenalty, "k1 in the reward", k("k1", "reward"), "unbiased", objective=kl),
    Claim(KLPenalty, "k1 in the reward, total return", lambda p: Estimator(TotalReturn(), penalty=KLPenalty(p.reference, BETA)),
          "unbiased", objective=kl),
    Claim(KLPenalty, "k1 in the reward, off-policy",
          lambda p: Estimator(RewardToGo(p.critic), ratio=PerDecisionRatio(), penalty=KLPenalty(p.reference, BETA)),
          "unbiased", off=True, objective=kl),
    Claim(KLPenalty, "k1 in the reward, off-policy",
          lambda p: Estimator(TotalReturn(), ratio=TrajectoryRatio(), penalty=KLPenalty(p.reference, BETA)),
          "unbiased", off=True, objective=kl),
    Claim(KLPenalty, "k2 in the reward", k("k2", "reward"), "biased", 0.6, objective=kl),
    Claim(KLPenalty, "k2 in the reward, one step", k("k2", "reward"), "biased", 0.6, objective=kl, change=one_step),
    Claim(KLPenalty, "k3 in the reward", k("k3", "reward"), "biased", 0.7, objective=kl),
    Claim(KLPenalty, "k3 in the reward, one step", k("k3", "reward"), "biased", 0.8, objective=kl, change=one_step),
    Claim(KLPenalty, "the full KL in the reward", k("full", "reward"), "biased", 0.9, objective=kl),
    Claim(KLPenalty, "the full KL in the reward, one step: no penalty", k("full", "reward"), "unbiased", change=one_step),
    Claim(KLPenalty, "k1 in the loss: no penalty", k("k1", "loss"), "unbiased"),
    Claim(KLPenalty, "k1 in the loss", k("k1", "loss"), "biased", 0.8, objective=kl),
    Claim(KLPenalty, "k2 in the loss, one step", k("k2", "loss"), "unbiased", objective=kl, change=one_step),
    Claim(KLPenalty, "k2 in the loss", k("k2", "loss"), "biased", 0.1, objective=kl),
    Claim(KLPenalty, "full KL in the loss, one step", k("full", "loss"), "unbiased", objective=kl, change=one_step),
    Claim(KLPenalty, "full KL in the loss, one step, off-policy", k_off("full", "loss"), "unbiased", off=True, objective=kl,
          change=one_step),
    Claim(KLPenalty, "full KL in the loss", k("full", "loss"), "biased", 0.1, objective=kl),
    Claim(KLPenalty, "k3 in the loss, one step: the other KL", k("k3", "loss"), "unbiased", objective=other_kl,
          change=one_step),
    Claim(KLPenalty, "k3 in the loss, one step", k("k3", "loss"), "biased", 0.3, objective=kl, change=one_step),
    Claim(KLPenalty, "k3 in the loss", k("k3", "loss"), "biased", 0.2, objective=kl),
    Claim(KLPenalty, "corrected k1, one step", k("k1", "loss", True), "unbiased", objective=kl, change=one_step),
    Claim(KLPenalty, "corrected k2, one step: E[k2]", k("k2", "loss", True), "unbiased", objective=mean_of_k2, change=one_step),
    Claim(KLPenalty, "corrected k3, one step", k("k3", "loss", True), "unbiased", objective=kl, change=one_step),
    Claim(KLPenalty, "corrected k1, off-policy", k_off("k1", "loss", True), "unbiased", off=True, objective=kl, change=one_step),
    Claim(KLPenalty, "corrected k2, off-policy", k_off("k2", "loss", True), "unbiased", off=True, objective=mean_of_k2,
          change=one_step),
    Claim(KLPenalty, "corrected k3, off-policy", k_off("k3", "loss", True), "unbiased", off=True, objective=kl, change=one_step),
    Claim(KLPenalty, "corrected k3, more steps", k("k3", "loss", True), "biased", 0.1, objective=kl),
    Claim(EntropyBonus, "sampled in the reward", bonus("reward", True), "unbiased", objective=entropy),
    Claim(EntropyBonus, "H(s) in the reward", bonus("reward", False), "biased", 0.6, objective=entropy),
    Claim(EntropyBonus, "H(s) in the reward, one step: no bonus", bonus("reward", False), "unbiased", change=one_step),
    Claim(EntropyBonus, "H(s) in the loss, one step", bonus("loss", False), "unbiased", objective=entropy, change=one_step),
    Claim(EntropyBonus, "H(s) in the loss", bonus("loss", False), "biased", 0.3, objective=entropy),
    Claim(EntropyBonus, "sampled in the loss: no bonus", bonus("loss", True), "unbiased"),
    Claim(EntropyBonus, "sampled in the loss", bonus("loss", True), "biased", 0.5, objective=entropy),
    # normalisers
    Claim(PerTrajectory, "changes no expectation", plain(RewardToGo(), normaliser=PerTrajectory()), "unbiased",
          sizes=((1, 1), (1, 3), (2, 2))),
    Claim(PerLength, "biased", plain(RewardToGo(), normaliser=PerLength()), "biased", 0.9, sizes=((1, 1), (1, 2))),
    Claim(PerToken, "biased", plain(RewardToGo(), normaliser=PerToken()), "biased", 0.5, sizes=((1, 1), (1, 2), (2, 1))),
    Claim(Constant, "proportional", plain(RewardToGo(), normaliser=Constant(2.5)), 0.4, sizes=((1, 1), (1, 2))),
    # baselines
    Claim(fit_state_baseline, "unbiased on others", lambda p: Estimator(RewardToGo(state_fit(p))), "unbiased"),
    Claim(fit_optimal_baseline, "unbiased on others", lambda p: Estimator(TotalReturn(optimal_fit(p))), "unbiased"),
    Claim(fit_optimal_baseline, "per component", lambda p: Estimator(PerComponent(TotalReturn(), component_fit(p))), "unbiased"),
    Claim(PerComponent, "b_i", lambda p: Estimator(PerComponent(TotalReturn(), p.b[0])), "unbiased"),
    Claim(PerComponent, "b_i(s)", lambda p: Estimator(PerComponent(TotalReturn(), p.b)), "unbiased"),
    Claim(PerComponent, "reward-to-go", lambda p: Estimator(PerComponent(RewardToGo(p.critic), p.b)), "unbiased"),
    Claim(PerComponent, "of GAE", lambda p: Estimator(PerComponent(GAE(p.critic, 1.0), p.b)), "unbiased"),
    Claim(PerComponent, "of a group", lambda p: Estimator(PerComponent(LeaveOneOut(), p.b)), "unbiased", sizes=((1, 2),)),
    Claim(InSampleOptimal, "biased", plain(InSampleOptimal()), "biased", 0.3, sizes=PAIRS),
    Claim(ActionDependent, "biased", lambda p: Estimator(ActionDependent(exact.action_values(p.mdp, p.policy, p.theta)[0])),
          "biased", 0.9),
    # the estimator and its flag
    Claim(Estimator, "discounted_score=False: not J_gamma", plain(RewardToGo(), discounted_score=False), "biased", 0.3),
    Claim(Estimator, "discounted_score=False: nor J_1", plain(RewardToGo(), discounted_score=False), "biased", 0.1,
          objective=lambda p: Undiscounted()),
    Claim(Estimator, "unless gamma = 1", plain(RewardToGo(), discounted_score=False), "unbiased", change=undiscounted),
    Claim(Estimator, "unless gamma = 1", plain(RewardToGo(), discounted_score=False), "unbiased", change=undiscounted,
          objective=lambda p: Undiscounted()),
    # algorithms
    Claim(algorithms.reinforce, "unbiased", lambda p: algorithms.reinforce(), "unbiased"),
    Claim(algorithms.reinforce, "without reward-to-go", lambda p: algorithms.reinforce(reward_to_go=False), "unbiased"),
    Claim(algorithms.gpomdp, "unbiased", lambda p: algorithms.gpomdp(), "unbiased"),
    Claim(algorithms.gpomdp, "with a baseline", lambda p: algorithms.gpomdp(baseline=p.critic), "unbiased"),
    Claim(algorithms.reinforce_with_baseline, "unbiased", lambda p: algorithms.reinforce_with_baseline(p.critic), "unbiased"),
    Claim(algorithms.actor_critic, "the true critic", lambda p: algorithms.actor_critic(true(p)), "unbiased"),
    Claim(algorithms.actor_critic, "biased otherwise", lambda p: algorithms.actor_critic(p.critic), "biased", 2.0),
    Claim(algorithms.actor_critic, "as in Estimator", lambda p: algorithms.actor_critic(true(p), discounted_score=False),
          "biased", 0.3),
    Claim(algorithms.a2c, "unbiased", lambda p: algorithms.a2c(p.critic), "unbiased"),
    Claim(algorithms.a2c, "every lam with the true critic", lambda p: algorithms.a2c(true(p), lam=0.5), "unbiased"),
    Claim(algorithms.a2c, "biased: bootstrapping with the true critic of the endless problem",
          lambda p: algorithms.a2c(endless(p), bootstrap_at_truncation=True), "biased", 0.05),
    Claim(algorithms.a2c, "biased: lam", lambda p: algorithms.a2c(p.critic, lam=0.5), "biased", 1.0),
    Claim(algorithms.a2c, "biased: bonus", lambda p: algorithms.a2c(p.critic, entropy=BETA), "biased", 0.5),
    Claim(algorithms.a2c, "biased: bonus", lambda p: algorithms.a2c(p.critic, entropy=BETA), "biased", 0.3, objective=entropy),
    Claim(algorithms.a2c, "biased: bootstrap", lambda p: algorithms.a2c(p.critic, bootstrap_at_truncation=True), "biased", 0.9),
    Claim(algorithms.a2c, "drops the discount", lambda p: algorithms.a2c(p.critic, discounted_score=False), "biased", 0.3),
    Claim(algorithms.ppo, "old parameters, lam = 1", lambda p: algorithms.ppo(p.critic, lam=1.0), "unbiased"),
    Claim(algorithms.ppo, "where a2c is: the true critic", lambda p: algorithms.ppo(true(p)), "unbiased"),
    Claim(algorithms.ppo, "biased where a2c is: bonus", lambda p: algorithms.ppo(p.critic, lam=1.0, entropy=BETA), "biased", 0.3,
          objective=entropy),
    Claim(algorithms.ppo, "biased where a2c is: the discount",
          lambda p: algorithms.ppo(true(p), discounted_score=False), "biased", 0.3),
    Claim(algorithms.ppo, "biased: lam", lambda p: algorithms.ppo(p.critic), "biased", 0.1),
    Claim(algorithms.ppo, "biased: old data", lambda p: algorithms.ppo(p.critic, lam=1.0), "biased", 3.0, off=True),
    Claim(algorithms.rloo, "unbiased", lambda p: algorithms.rloo(), "unbiased", sizes=GROUPS),
    Claim(algorithms.rloo, "with the KL", lambda p: algorithms.rloo(reference=p.reference, beta=BETA), "unbiased",
          sizes=GROUPS, objective=kl),
    Claim(algorithms.reinforce_plus_plus, "biased", lambda p: algorithms.reinforce_plus_plus(), "biased", 0.5, sizes=PAIRS),
    Claim(algorithms.reinforce_plus_plus, "biased",
          lambda p: algorithms.reinforce_plus_plus(reference=p.reference, beta=BETA), "biased", 0.6, sizes=PAIRS, objective=kl),
    Claim(algorithms.reinforce_plus_plus_baseline, "biased", lambda p: algorithms.reinforce_plus_plus_baseline(), "biased",
          0.6, sizes=GROUPS),
    Claim(algorithms.reinforce_plus_plus_baseline, "biased",
          lambda p: algorithms.reinforce_plus_plus_baseline(reference=p.reference, beta=BETA), "biased", 0.7, sizes=GROUPS,
          objective=kl),
    Claim(algorithms.grpo, "biased", lambda p: algorithms.grpo(), "biased", 0.5, sizes=GROUPS),
    Claim(algorithms.grpo, "by the deviation", plain(GroupStandardised(0, 0.0), ratio=ClippedRatio()), "biased", 0.5,
          sizes=GROUPS),
    Claim(algorithms.grpo, "by the lengths", plain(LeaveOneOut(), normaliser=PerLength()), "biased", 0.4, sizes=GROUPS),
    Claim(algorithms.grpo, "by the penalty",
          lambda p: Estimator(LeaveOneOut(), penalty=KLPenalty(p.reference, BETA, "k3", "loss")), "biased", 0.1, sizes=GROUPS,
          objective=kl),
    Claim(algorithms.dr_grpo, "proportional", lambda p: algorithms.dr_grpo(), dropped, sizes=GROUPS),
    Claim(algorithms.dr_grpo, "proportional with c", lambda p: algorithms.dr_grpo(c=8), lambda N: (N - 1) / (8 * N), sizes=GROUPS),
    Claim(algorithms.dapo, "biased", lambda p: algorithms.dapo(), "biased", 0.6, sizes=GROUPS),
    Claim(algorithms.gspo, "biased", lambda p: algorithms.gspo(), "biased", 0.5, sizes=GROUPS),
    Claim(algorithms.gspo, "by the lengths", plain(LeaveOneOut(), ratio=GeometricMeanRatio()), "biased", 0.4, sizes=GROUPS),
]  # fmt: skip

ROWS = [(claim, size) for claim in CLAIMS for size in claim.sizes]
CASES = [pytest.param(*row, id=f"{row[0].of.__name__}: {row[0].says} {row[1][0]}x{row[1][1]}") for row in ROWS]
HOLDS = [case for case in CASES if case.values[0].kind != "biased"]
BIASED = [case for case in CASES if case.values[0].kind == "biased"]


def verdict(claim, size, p, route="enumeration"):
    """The verdict on one problem, or None where there are too many batches."""
    p = p._replace(mdp=claim.change(p.mdp))
    if largest_start(p.mdp) > LARGEST[size]:
        return None
    behaviour, (prompts, group_size) = p.behaviour if claim.off else None, size
    objective = claim.objective(p)
    setting = {"prompts": prompts, "group_size": group_size, "behaviour": behaviour}
    if isinstance(objective, np.ndarray):
        return verdict_of(
            moments_by_enumeration(claim.estimator(p), p.mdp, p.policy, p.theta, **setting), objective, claim
        )
    return judge(claim.estimator(p), p.mdp, p.policy, p.theta, objective=objective, route=route, **setting)


def check(claim, size, v):
    factor = 1.0 if claim.kind == "unbiased" else claim.kind(size[1]) if callable(claim.kind) else claim.kind
    assert v.kind == ("unbiased" if factor == 1 else "proportional"), v
    assert v.factor == pytest.approx(factor, rel=1e-9)
    assert v.relative_bias == pytest.approx(abs(factor - 1), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("claim", "size"), HOLDS)
def test_what_holds_holds_on_the_whole_panel(claim, size):
    verdicts = {name: verdict(claim, size, p) for name, p in PANEL.items()}
    assert sum(v is not None for v in verdicts.values()) >= (1 if size == (2, 2) else 3)
    for v in verdicts.values():
        if v is not None:
            check(claim, size, v)


@pytest.mark.parametrize("index", range(len(HOLDS)), ids=[case.id for case in HOLDS])
def test_what_holds_holds_on_random_problems(index):
    claim, size = HOLDS[index].values
    pool = random_problems(min(LARGEST[size], 16))
    verdicts = [verdict(claim, size, pool[(4 * index + i) % len(pool)], route=None) for i in range(4)]
    verdicts = [v for v in verdicts if np.abs(v.gradient).max() > 1e-9]
    assert len(verdicts) >= 2
    for v in verdicts:
        check(claim, size, v)


def test_the_random_problems_are_small_and_different():
    for limit in {min(n, 16) for n in LARGEST.values()}:
        models = [p.mdp for p in random_problems(limit)]
        sizes = [largest_start(mdp) for mdp in models]
        assert max(sizes) <= limit and np.median(sizes) > limit / 3
        assert {mdp.horizon for mdp in models} == {2, 3} and len({mdp.gamma for mdp in models}) == 3


@pytest.mark.parametrize(("claim", "size"), BIASED)
def test_what_is_biased_is_caught_on_the_panel(claim, size):
    verdicts = [verdict(claim, size, p) for p in PANEL.values()]
    worst = max((v.relative_bias for v in verdicts if v is not None and v.kind == "biased"), default=0.0)
    assert worst >= claim.at_least > 0


# Two estimators that are one


SAME = [
    ("GAE at lam = 1 is reward-to-go", lambda p: Estimator(GAE(p.critic, 1.0)), lambda p: Estimator(RewardToGo(p.critic)), 1, False, 1),
    ("n >= T steps are reward-to-go", lambda p: Estimator(NStep(p.critic, 9)), lambda p: Estimator(RewardToGo(p.critic)), 1, False, 1),
    ("GAE at lam = 0 is actor-critic", lambda p: Estimator(GAE(p.critic, 0.0)), lambda p: algorithms.actor_critic(p.critic), 1, False, 1),
    ("one step is GAE at lam = 0", lambda p: Estimator(NStep(p.critic, 1, True)), lambda p: Estimator(GAE(p.critic, 0.0, True)), 1, False, 1),
    ("G(PO)MDP is reward-to-go", lambda p: algorithms.gpomdp(), lambda p: algorithms.reinforce(), 1, False, 1),
    ("GroupMean is RLOO, scaled", plain(GroupMean()), plain(LeaveOneOut()), 2 / 3, False, 3),
    ("Dr. GRPO is RLOO, scaled", lambda p: algorithms.dr_grpo(c=5), lambda p: algorithms.rloo(), 0.1, False, 2),
    ("Constant is 1/c", plain(RewardToGo(), normaliser=Constant(4)), plain(RewardToGo()), 0.25, False, 1),
    ("TokenRatio, on-policy", ratio(TokenRatio()), ratio(OnPolicy()), 1, False, 1),
    ("TrajectoryRatio, on-policy", ratio(TrajectoryRatio()), ratio(OnPolicy()), 1, False, 1),
    ("ClippedRatio, on-policy", ratio(ClippedRatio()), ratio(OnPolicy()), 1, False, 1),
    ("SelfNormalisedRatio, on-policy", ratio(SelfNormalisedRatio()), ratio(OnPolicy()), 1, False, 2),
    ("PPO is A2C, on-policy", lambda p: algorithms.ppo(p.critic, entropy=0.1), lambda p: algorithms.a2c(p.critic, lam=0.95, entropy=0.1), 1, False, 1),
    ("VTrace is the advantage, on-policy", ratio(VTrace(1.0, 3.0), lambda p: GAE(p.critic, 0.6)), lambda p: Estimator(GAE(p.critic, 0.6)), 1, False, 1),
    ("VTrace without limits", ratio(VTrace(np.inf, np.inf), lambda p: GAE(0.0, 1.0)), ratio(PerDecisionRatio(past=False)), 1, True, 1),
    ("ClippedRatio never clipped", ratio(ClippedRatio(1.0, 1e9)), ratio(TokenRatio()), 1, True, 1),
    ("TruncatedRatio not reached", ratio(TruncatedRatio(1e9)), ratio(TokenRatio()), 1, True, 1),
    ("MaskedRatio drops nothing", ratio(MaskedRatio(0.0, 1e9)), ratio(TokenRatio()), 1, True, 1),
    ("one sample normalises itself away", ratio(SelfNormalisedRatio()), ratio(OnPolicy()), 1, True, 1),
    ("GRPO of two is its own ddof", plain(GroupStandardised(0, 0.0)), plain(GroupStandardised(1, 0.0)), np.sqrt(2), False, 2),
    ("the batch is the group", plain(GroupStandardised(0, 0.1, over_batch=True)), plain(GroupStandardised(0, 0.1)), 1, False, 3),
    ("GRPO on-policy needs no ratio", lambda p: algorithms.grpo(), plain(GroupStandardised(0, 0.0), normaliser=PerLength()), 1, False, 2),
    ("DAPO on-policy needs no ratio", lambda p: algorithms.dapo(), plain(GroupStandardised(0, 0.0), normaliser=PerToken()), 1, False, 2),
    ("GSPO on-policy is GRPO", lambda p: algorithms.gspo(), lambda p: algorithms.grpo(), 1, False, 2),
    ("no KL of weight zero", lambda p: algorithms.rloo(reference=p.reference, beta=0.0), lambda p: algorithms.rloo(), 1, False, 2),
    ("the KL to uniform is the entropy", lambda p: Estimator(RewardToGo(), penalty=KLPenalty(np.full((p.mdp.n_states, p.mdp.n_actions), 1 / p.mdp.n_actions), BETA, "full", "loss")), bonus("loss", False), 1, False, 1),
]  # fmt: skip


@pytest.mark.parametrize("row", SAME, ids=[row[0] for row in SAME])
@pytest.mark.parametrize("name", ["referee, two steps", "tiny, three actions", "two prompts, 0/1"])
def test_two_estimators_that_are_one(name, row):
    _, first, second, factor, off, group_size = row
    p = PANEL[name]
    one, other = (
        moments_by_enumeration(
            e(p), p.mdp, p.policy, p.theta, group_size=group_size, behaviour=p.behaviour if off else None
        )
        for e in (first, second)
    )
    assert np.allclose(one.mean, factor * other.mean, rtol=0, atol=1e-12 * np.sqrt(other.second_moment.max()))
    assert np.allclose(one.covariance, factor**2 * other.covariance, rtol=0, atol=1e-12 * other.second_moment.max())


# The table is complete


CLAIM_WORDS = ("biased", "proportional", "exact", "estimates", "expectation")
RECORDS = [getattr(estimators, name) for name in estimators.__all__ if isinstance(getattr(estimators, name), type)]
ALGORITHMS = [
    f
    for name, f in vars(algorithms).items()
    if inspect.isfunction(f) and f.__module__ == algorithms.__name__ and not name.startswith("_")
]


@pytest.mark.parametrize("subject", RECORDS + ALGORITHMS, ids=lambda subject: subject.__name__)
def test_every_record_and_algorithm_claims_something_and_is_in_the_table(subject):
    assert any(claim.of is subject for claim in CLAIMS)
    assert any(word in subject.__doc__.lower() for word in CLAIM_WORDS), f"{subject.__name__} claims nothing"


@pytest.mark.parametrize("subject", RECORDS + ALGORITHMS, ids=lambda subject: subject.__name__)
def test_every_word_in_italics_has_a_row_of_its_kind(subject):
    kinds = {
        "biased" if c.kind == "biased" else "unbiased" if c.kind == "unbiased" else "proportional"
        for c in CLAIMS
        if c.of is subject
    }
    text = " ".join(subject.__doc__.lower().split())
    for word in ("unbiased", "biased", "proportional"):
        if f"*{word}*" in text:
            assert word in kinds, f"{subject.__name__} says *{word}*, and no row of CLAIMS runs it"


def test_the_panel_has_what_bugs_hide_behind():
    models = [p.mdp for p in PANEL.values()]
    assert {mdp.gamma for mdp in models} >= {0.5, 0.7, 0.9, 1.0}
    assert any((mdp.initial > 0).sum() > 1 and np.ptp(mdp.initial[mdp.initial > 0]) > 0.1 for mdp in models)
    for p in PANEL.values():
        pi, mu, ref = (p.policy.probabilities(x) for x in (p.theta, p.behaviour, p.reference))
        assert min(np.abs(pi - mu).max(), np.abs(pi - ref).max(), np.ptp(pi, axis=1).max()) > 0.1
        assert np.abs(p.critic[-1]).max() > 0.1
    steps = [
        exact.occupancy(mdp.replace(gamma=1.0), p.policy, p.theta).sum(axis=1)
        for mdp, p in zip(models, PANEL.values(), strict=True)
    ]
    assert all(0.01 < n[-1] < 0.99 for n in steps), "some episodes end before the horizon, and some do not"


@pytest.mark.parametrize("filling", [100.0, np.nan])
def test_fitted_baselines_do_not_read_what_follows_the_end(filling):
    mdp, policy, theta = examples.frozen_lake(horizon=6), TabularSoftmax(16, 4), np.zeros(64)
    data = sample(mdp, policy, theta, 50, rng=0)
    assert data.lengths.min() < data.n_steps
    full = dataclasses.replace(data.take(slice(None)), rewards=np.where(data.mask, data.rewards + 1.0, filling))
    clean = dataclasses.replace(full, rewards=np.where(data.mask, full.rewards, 0.0))
    for fit in (
        lambda batch: fit_state_baseline(batch, 0.9, 16), lambda batch: fit_optimal_baseline(batch, policy, theta, 0.9),
        lambda batch: fit_optimal_baseline(batch, policy, theta, 0.9, per_component=True),
    ):  # fmt: skip
        assert np.array_equal(fit(full), fit(clean)) and np.any(fit(clean))
