"""The choice of a route, whole-return and group estimators, answers known on paper, extremes, and Monte Carlo."""

import itertools
import math
from fractions import Fraction

import hypothesis
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import grid, problems, score_by_loops, table
from test_traces import OTHER, POLICY, REFEREE, THETA, assert_moments, assert_route, batch_shapes, behaviours, penalties
from tolerances import EXACT, assert_exact

from reinforce_np import (
    GAE,
    ClippedRatio,
    Constant,
    EntropyBonus,
    Estimator,
    FiniteMDP,
    GroupMean,
    KLPenalty,
    LeaveOneOut,
    LinearSoftmax,
    MaskedRatio,
    NStep,
    OnPolicy,
    PerComponent,
    PerDecisionRatio,
    PerLength,
    PerToken,
    PerTrajectory,
    Problem,
    RewardToGo,
    TabularSoftmax,
    TokenRatio,
    TotalReturn,
    TrajectoryRatio,
    TruncatedRatio,
    VTrace,
    algorithms,
    count_trajectories,
    exact,
    examples,
    judge,
    random_mdp,
    sample,
)
from reinforce_np.arguments import TooLargeError
from reinforce_np.checks.means import catoni, catoni_log_probability, catoni_scale
from reinforce_np.exact import laws, moments, moments_by_recursion, total_return
from reinforce_np.exact.laws import directional_moments

RATIOS = OnPolicy(), TokenRatio(), TruncatedRatio(1.25), MaskedRatio(0.5, 1.5), TrajectoryRatio()

# --- whole returns and groups, against enumeration


@st.composite
def whole_returns(draw, mdp, policy):
    S, D = mdp.n_states, policy.n_parameters
    advantage = TotalReturn(draw(st.sampled_from([0.0, -1.25, 2.0])))
    ratio = draw(st.sampled_from(RATIOS))
    if draw(st.booleans()):
        advantage, ratio = PerComponent(advantage, grid(draw, (D,), -2, 2, 0.5)), OnPolicy()
    normaliser = draw(st.sampled_from([PerTrajectory(), Constant(2.5)]))
    assert S == policy.n_states
    return Estimator(advantage, ratio=ratio, penalty=draw(penalties(policy, ("reward",))), normaliser=normaliser)


@settings(max_examples=50)
@given(data=st.data())
def test_whole_returns_by_recursion_and_by_enumeration(data):
    options, limit = data.draw(batch_shapes())
    problem = data.draw(problems(horizons=(0, 1, 2, 3), limit=limit))
    hypothesis.assume(count_trajectories(*problem) <= 2 * limit)
    options["behaviour"] = data.draw(behaviours(problem.policy))
    assert_route("recursion", data.draw(whole_returns(problem.mdp, problem.policy)), problem, **options)


@settings(max_examples=30)
@given(data=st.data())
def test_groups_by_recursion_and_by_enumeration(data):
    options, limit = data.draw(batch_shapes(singles=False))
    options["group_size"] = max(options["group_size"], 2)
    problem = data.draw(problems(horizons=(0, 1, 2, 3), limit=limit))
    hypothesis.assume(count_trajectories(*problem) <= (12 if options["prompts"] > 1 else limit))
    advantage = data.draw(st.sampled_from([LeaveOneOut(), GroupMean()]))
    ratio = data.draw(st.sampled_from([OnPolicy(), ClippedRatio()]))
    if data.draw(st.booleans()):
        advantage, ratio = (
            PerComponent(advantage, grid(data.draw, (problem.policy.n_parameters,), -2, 2, 0.5)),
            OnPolicy(),
        )
    estimator = Estimator(
        advantage,
        penalty=data.draw(penalties(problem.policy, ("reward",))),
        normaliser=data.draw(st.sampled_from([PerTrajectory(), Constant(2.5)])),
        ratio=ratio,
    )
    assert_route("recursion", estimator, problem, **options)


@pytest.mark.parametrize("ratio", RATIOS, ids=repr)
def test_every_whole_return_with_every_slot(ratio):
    rewards = [(), *((KLPenalty(OTHER, 0.5, kind),) for kind in ("k1", "k2", "k3", "full")), (EntropyBonus(0.5),)]
    for n, (penalty, b) in enumerate(itertools.product(rewards, (0.0, 1.5))):
        for advantage in (TotalReturn(b), PerComponent(TotalReturn(b), np.linspace(-1, 2, 9))):
            if isinstance(advantage, PerComponent) and not isinstance(ratio, OnPolicy):
                continue
            normaliser = Constant(3) if n % 2 else PerTrajectory()
            estimator = Estimator(advantage, ratio=ratio, penalty=penalty, normaliser=normaliser)
            for behaviour, shape in ((OTHER, (1, 1)), ((None, (1, 1)), (OTHER, (2, 1)))[n % 2]):
                problem = REFEREE.replace(horizon=1 if shape != (1, 1) else 2), POLICY, THETA
                options = {"behaviour": behaviour, "prompts": shape[0], "group_size": shape[1]}
                assert_route("recursion", estimator, problem, **options)
    assert_route("recursion", Estimator(TotalReturn(1.5), ratio=ratio), (REFEREE, POLICY, THETA), behaviour=OTHER)


def test_members_of_a_group_share_their_first_state():
    """Two thirds of the variance between prompts are left when three members share one: the law of total variance."""
    problem = REFEREE.replace(horizon=2, initial=[0.5, 0.0, 0.5]), POLICY, THETA
    for advantage in (TotalReturn(0.5), RewardToGo(), GAE(0.5, 0.9), PerComponent(TotalReturn(), np.arange(9.0))):
        estimator = Estimator(advantage)
        one, three, apart = (
            moments(estimator, *problem, covariance=True, prompts=p, group_size=g) for p, g in ((1, 1), (1, 3), (3, 1))
        )
        each = [
            moments(estimator, problem[0].replace(initial=np.eye(3)[s]), POLICY, THETA, covariance=True) for s in (0, 2)
        ]
        between = np.outer(each[0].mean - each[1].mean, each[0].mean - each[1].mean) / 4
        within = (each[0].covariance + each[1].covariance) / 2
        assert_exact(one.covariance, within + between, scale=5)
        assert_exact(three.covariance, within / 3 + between, scale=5)
        assert_exact(apart.covariance, one.covariance / 3, scale=5)


def test_large_groups_shrink_as_they_should():
    """RLOO of N: N times the covariance tends to that of Z (R − J), from above."""
    problem = REFEREE.replace(horizon=3, initial=[1.0, 0.0, 0.0]), POLICY, THETA
    J = exact.objective(*problem)
    limit = moments(Estimator(TotalReturn(J)), *problem).variance
    gap = [N * moments(algorithms.rloo(), *problem, group_size=N).variance - limit for N in (10, 100, 1000)]
    assert np.all(gap[0] > 0)
    assert np.all(np.abs(gap[1] / gap[0] - 9 / 99) < 1e-6)  # 2ζ₂/(N−1) and 4(N−2)/(N−1)ζ₁ − 4ζ₁: both 1/(N−1)
    assert np.all(np.abs(gap[2] / gap[0] - 9 / 999) < 1e-6)


# --- the choice


@pytest.mark.parametrize(
    "estimator, group_size, behaviour, route",
    [
        (algorithms.reinforce(), 1, None, "recursion"),
        (algorithms.reinforce(reward_to_go=False), 1, OTHER, "recursion"),
        (algorithms.rloo(), 2, None, "recursion"),
        (algorithms.dr_grpo(), 2, None, "recursion"),
        (algorithms.grpo(), 2, None, "histogram"),
        (algorithms.gspo(), 2, None, "histogram"),
        (Estimator(TotalReturn(), normaliser=PerLength()), 1, None, "histogram"),
        (algorithms.grpo(), 2, OTHER, "enumeration"),
        (algorithms.rloo(), 2, OTHER, "enumeration"),
        (Estimator(LeaveOneOut(), ratio=TokenRatio()), 2, None, "histogram"),
        (Estimator(LeaveOneOut(per_step=True)), 2, None, "enumeration"),
        (Estimator(RewardToGo(), normaliser=PerToken()), 1, None, "enumeration"),
        (Estimator(PerComponent(RewardToGo(), np.zeros(9))), 1, None, "enumeration"),
        (Estimator(PerComponent(TotalReturn(), np.zeros((3, 9)))), 1, None, "enumeration"),
        (Estimator(TotalReturn(), penalty=EntropyBonus(0.5, "loss")), 1, None, "enumeration"),
        (Estimator(TotalReturn(), penalty=KLPenalty(OTHER, 0.5, "full", "loss")), 1, None, "enumeration"),
    ],
)
def test_the_cheapest_route_and_every_other_that_applies(estimator, group_size, behaviour, route):
    problem, options = (REFEREE.replace(horizon=1), POLICY, THETA), {"group_size": group_size, "behaviour": behaviour}
    found = moments(estimator, *problem, covariance=True, **options)
    assert found.route == route
    assert (found.n_batches is None) == (route == "recursion")
    assert found.n_steps == 1
    expected = moments(estimator, *problem, route="enumeration", **options)
    assert expected.route == "enumeration"
    assert_moments(found, expected)
    for other in ("recursion", "histogram"):
        try:
            insisted = moments(estimator, *problem, route=other, **options)
        except ValueError as error:
            assert "has no recursion" in str(error) or "sees more than returns" in str(error)
        else:
            assert insisted.route == other
            assert_moments(insisted, expected)


def test_refusals():
    with pytest.raises(
        ValueError, match="route='magic' is unknown; pass one of 'recursion', 'histogram', 'enumeration'"
    ):
        moments(algorithms.reinforce(), REFEREE, POLICY, THETA, route="magic")
    for advantage in (LeaveOneOut(), GroupMean()):
        with pytest.raises(ValueError, match=r"group_size=1: .* compares the members of a group; draw at least two"):
            moments(Estimator(advantage), REFEREE, POLICY, THETA)
    for name in ("prompts", "group_size"):
        with pytest.raises(ValueError, match=f"{name}=0 is out of range; it must be at least 1"):
            moments_by_recursion(algorithms.reinforce(), REFEREE, POLICY, THETA, **{name: 0})
    with pytest.raises(ValueError, match="build the policy for this model"):
        moments_by_recursion(algorithms.reinforce(), REFEREE, TabularSoftmax(3, 2), THETA[:6])
    for baseline, message in (
        (np.zeros(2), r"baseline has shape \(2,\); for this model it must be a number, \(3,\) or \(3, 3\)"),
        (np.zeros((5, 3)), r"baseline has shape \(5, 3\)"),
        (np.zeros((2, 3)), r"baseline has shape \(2, 3\)"),
        (np.zeros((3, 2)), r"baseline has shape \(3, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            moments(Estimator(RewardToGo(baseline)), REFEREE, POLICY, THETA)
        for critic in (GAE(baseline, 0.5), NStep(baseline, 2)):
            with pytest.raises(ValueError, match=message.replace("baseline", "critic")):
                moments(Estimator(critic), REFEREE, POLICY, THETA)
    endless = REFEREE.replace(horizon=None)
    with pytest.raises(ValueError, match=r"baseline has shape \(3, 3\).*without a horizon it cannot depend on t"):
        moments(Estimator(RewardToGo(np.zeros((3, 3)))), endless, POLICY, THETA)
    for advantage in (TotalReturn(), LeaveOneOut(), PerComponent(TotalReturn(), np.zeros(9))):
        with pytest.raises(ValueError, match="horizon=None: the moments of TotalReturn and of groups need a horizon"):
            moments(Estimator(advantage), endless, POLICY, THETA, group_size=2, route="recursion")
        with pytest.raises(TooLargeError, match="horizon=None and the model has a cycle"):
            moments(Estimator(advantage), endless, POLICY, THETA, group_size=2)
    with pytest.raises(
        ValueError, match=r"size 1e\+121 have second moments that leave float64; divide them by 1e\+121"
    ):
        moments(Estimator(RewardToGo(1e121)), REFEREE, POLICY, THETA)
    with pytest.raises(ValueError, match="size 1e-121 have second moments that leave float64"):
        moments(algorithms.reinforce(), REFEREE.replace(reward=np.full((3, 3, 2), 1e-121)), POLICY, THETA)


@pytest.mark.parametrize("ratio", [PerDecisionRatio(), PerDecisionRatio(past=False), VTrace()])
@pytest.mark.parametrize("advantage", [TotalReturn(), TotalReturn(1.0)])
def test_a_whole_return_has_no_ratio_per_decision(advantage, ratio):
    with pytest.raises(TypeError, match="corrects reward by reward"):
        Estimator(advantage, ratio=ratio)


def test_directions_are_those_of_the_covariance():
    v = np.random.default_rng(0).normal(size=(70, 9))  # more than are carried at once
    for estimator in (
        algorithms.reinforce(),
        Estimator(TotalReturn(0.5), normaliser=Constant(2)),
        Estimator(GAE(0.5, 0.7)),
    ):
        whole = moments(estimator, REFEREE, POLICY, THETA, covariance=True)
        found = directional_moments(estimator, REFEREE, POLICY, THETA, v)
        assert_exact(found.mean, v @ whole.mean, scale=50)
        assert_exact(found.variance, np.einsum("ed,df,ef->e", v, whole.covariance, v), scale=500)
    for estimator in (algorithms.rloo(), algorithms.grpo(), Estimator(PerComponent(TotalReturn(), np.zeros(9)))):
        with pytest.raises(ValueError, match="has no law of a single trajectory by recursion; use RewardToGo"):
            directional_moments(estimator, REFEREE, POLICY, THETA, v)


# --- known on paper


def test_the_variance_of_reinforce_on_a_bandit():
    """ĝ_i = (r_a − b)(1{a=i} − π_i): E ĝ_i² = Σ_a π_a ((r_a − b)² + s²)(1{a=i} − π_i)²; E ĝ_i = π_i (r_i − J)."""
    means, weights, spread, b = (
        [Fraction(1), Fraction(2), Fraction(-1, 2), Fraction(4)],
        [1, 3, 2, 2],
        Fraction(1, 2),
        1,
    )
    pi = [Fraction(w, 8) for w in weights]
    J = sum(p * r for p, r in zip(pi, means, strict=True))
    mean = [p * (r - J) for p, r in zip(pi, means, strict=True)]
    cov = [
        [
            sum(
                pi[a] * ((means[a] - b) ** 2 + spread**2) * ((a == i) - pi[i]) * ((a == j) - pi[j]) for a in range(4)
            )
            - mean[i] * mean[j]
            for j in range(4)
        ]
        for i in range(4)
    ]  # fmt: skip
    mdp = examples.bandit(means=[float(r) for r in means], spread=float(spread))
    for advantage, route in itertools.product((RewardToGo(1.0), TotalReturn(1.0)), ("recursion", "histogram")):
        found = moments(
            Estimator(advantage), mdp, TabularSoftmax(1, 4), np.log(weights), covariance=True, route=route
        )  # fmt: skip
        assert_exact(found.mean, mean)
        assert_exact(found.covariance, cov)


@pytest.mark.parametrize("N", [2, 8, 64])
@pytest.mark.parametrize("p", [Fraction(1, 2), Fraction(1, 8), Fraction(63, 64)])
def test_rloo_on_a_bernoulli_bandit_is_the_sample_variance(N, p):
    """Arm 1 pays 1, arm 0 pays 0: score and return are both a − p, and RLOO is the sample variance of N coins.

    Its variance is (μ₄ − σ⁴ (N−3)/(N−1))/N with σ² = pq and μ₄ = pq (1 − 3pq) (Cramér 1946, 27.4.2).
    """
    v = p * (1 - p)
    variance = (v * (1 - 3 * v) - v**2 * Fraction(N - 3, N - 1)) / N
    mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    theta = np.log([float(1 - p), float(p)])
    for route in ("recursion", "histogram"):
        found = moments(algorithms.rloo(), mdp, policy, theta, group_size=N, covariance=True, route=route)
        assert_exact(found.mean, [-v, v])
        assert_exact(found.covariance, float(variance) * np.array([[1, -1], [-1, 1]]), scale=float(v / N))
        half = moments(Estimator(GroupMean()), mdp, policy, theta, group_size=N, route=route)
        assert_exact(half.mean, (N - 1) / N * found.mean)
        assert_exact(half.variance, ((N - 1) / N) ** 2 * found.variance, scale=float(v / N))


@pytest.mark.parametrize("N", [2, 5, 64])
def test_rloo_is_a_sample_covariance(N):
    """Var s_xy = μ₂₂/N − (N−2) μ₁₁²/(N(N−1)) + μ₂₀ μ₀₂/(N(N−1)) for any two numbers (Kendall & Stuart, 12.21)."""
    weights, means, spread = [1, 2, 5], [Fraction(-1), Fraction(3), Fraction(1, 2)], Fraction(3, 2)
    pi = [Fraction(w, 8) for w in weights]
    J = sum(p * r for p, r in zip(pi, means, strict=True))
    law = [(p / 2, a, r + s) for a, (p, r) in enumerate(zip(pi, means, strict=True)) for s in (-spread, spread)]

    def mu(i, x, y):
        return sum(p * ((a == i) - pi[i]) ** x * (r - J) ** y for p, a, r in law)

    expected = [
        mu(i, 2, 2) / N - Fraction(N - 2, N * (N - 1)) * mu(i, 1, 1) ** 2 + mu(i, 2, 0) * mu(i, 0, 2) / (N * (N - 1))
        for i in range(3)
    ]
    mdp = examples.bandit(means=[float(r) for r in means], spread=float(spread))
    found = moments(algorithms.rloo(), mdp, TabularSoftmax(1, 3), np.log(weights), group_size=N)
    assert found.route == "recursion"
    assert_exact(found.mean, [mu(i, 1, 1) for i in range(3)])
    assert_exact(found.variance, expected)


@pytest.mark.parametrize("T", [1, 5, 40, 200])
def test_importance_sampling_grows_exponentially(T):
    """T equal choices with a return of T: E[ĝĝᵀ] = E[ρ²]ᵀ T² (T V + T² m mᵀ), V and m of ψ under μρ²/E[ρ²].

    With reward-to-go the return T becomes T − t: E[ρ²]ᵀ (Σ(T−t)² V + (Σ(T−t))² m mᵀ).
    """
    one = FiniteMDP(
        np.ones((1, 3, 1)), np.zeros((1, 3, 1), int), np.ones((1, 3, 1)), np.zeros((1, 3, 1), bool), initial=[1.0], gamma=1.0, horizon=T
    )  # fmt: skip
    pi, mu = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    rho2 = float(mu @ (pi / mu) ** 2)
    assert rho2 == 1.375
    tilted = mu * (pi / mu) ** 2 / rho2
    psi = np.eye(3) - pi
    m = tilted @ psi
    V = (tilted[:, None] * (psi - m)).T @ (psi - m)
    to_go = np.arange(T, 0, -1.0)
    for advantage, squares, square in (
        (TotalReturn(), T**3, T**4),
        (RewardToGo(), (to_go**2).sum(), to_go.sum() ** 2),
    ):
        second = rho2**T * (squares * V + square * np.outer(m, m))
        found = moments(
            Estimator(advantage, ratio=TrajectoryRatio()),
            one,
            TabularSoftmax(1, 3),
            np.log(pi),
            behaviour=mu[None],
            covariance=True,
        )
        assert found.route == "recursion"
        assert_exact(found.covariance / rho2**T, second / rho2**T)  # the mean is zero: every choice pays the same
        assert_exact(found.mean / np.sqrt(np.diag(second)), np.zeros(3), scale=1)


# --- extremes

UNBIASED = {
    "reward-to-go": algorithms.reinforce(),
    "whole return": algorithms.reinforce(reward_to_go=False),
    "gae": Estimator(GAE(0.0, 1.0)),
    "n-step": Estimator(NStep(0.0, 9)),
    "rloo": algorithms.rloo(),
    "per component": Estimator(PerComponent(TotalReturn(), np.arange(9.0))),
}
BIASED = {
    "no discount": Estimator(RewardToGo(), discounted_score=False),
    "actor-critic": algorithms.actor_critic(np.zeros(3)),
    "gae": Estimator(GAE(np.zeros(3), 0.5)),
    "grpo": algorithms.grpo(),
    "per length": Estimator(TotalReturn(), normaliser=PerLength()),
}


def assert_verdicts(mdp, theta, allowed=()):
    """`allowed` are further verdicts for all, or for some by name."""
    for estimators, kind in (
        (UNBIASED, "unbiased"),
        (BIASED, "biased"),
        ({"": Estimator(GroupMean())}, "proportional"),
    ):
        for name, estimator in estimators.items():
            further = allowed.get(name, ()) if isinstance(allowed, dict) else allowed
            group = isinstance(estimator.advantage, LeaveOneOut | GroupMean) or estimator is BIASED["grpo"]
            verdict = judge(estimator, mdp, POLICY, theta, group_size=2 if group else 1)
            assert verdict.kind == kind or verdict.kind in further, (verdict.kind, kind, estimator)


@pytest.mark.parametrize("scale", [1e-119, 1e-100, 1e-8, 1e8, 1e100, 1e119])
def test_verdicts_do_not_depend_on_the_unit_of_reward(scale):
    """A baseline per component of size one may hide gradients that are smaller than its rounding; then it says so."""
    assert_verdicts(
        REFEREE.replace(reward=scale * REFEREE.reward), THETA, {"per component": "undefined"} if scale < 1e-9 else {}
    )


@pytest.mark.parametrize("offset", [1e4, 1e8, 1e10])
def test_verdicts_do_not_depend_on_the_zero_of_reward(offset):
    """At the horizon an offset is no constant, so it is part of the gradient, and of the bias."""
    assert_verdicts(REFEREE.replace(reward=REFEREE.reward + offset), THETA)


@pytest.mark.parametrize("offset", [1e12, 1e14, 1e16])
def test_what_is_unbiased_stays_so_at_any_offset(offset):
    mdp = REFEREE.replace(reward=REFEREE.reward + offset)
    for estimator in UNBIASED.values():
        group_size = 2 if isinstance(estimator.advantage, LeaveOneOut) else 1
        assert judge(estimator, mdp, POLICY, THETA, group_size=group_size).kind == "unbiased"


def test_a_share_of_the_gradient_that_rounding_may_hide_is_not_acquitted():
    """Where all episodes are equally long an offset is no part of the gradient, and hides more and more of it."""
    problem = Problem(REFEREE.replace(terminated=np.zeros_like(REFEREE.terminated), horizon=2), POLICY, THETA)
    kinds, reasons = {"unbiased": set(), "proportional": set(), "biased": set()}, set()
    for offset in 10.0 ** np.arange(8, 16, 0.25):
        mdp = problem.mdp.replace(reward=problem.mdp.reward + offset)
        for kind, estimator in (
            ("unbiased", algorithms.reinforce()),
            ("proportional", Estimator(RewardToGo(), normaliser=Constant(2))),
            ("proportional", Estimator(GroupMean())),
            ("proportional", Estimator(RewardToGo(), normaliser=Constant(1.01))),
            ("biased", Estimator(RewardToGo(), discounted_score=False)),
        ):
            verdict = judge(
                estimator, problem.replace(mdp=mdp, group_size=1 + isinstance(estimator.advantage, GroupMean))
            )
            assert verdict.kind in (kind, "undefined"), (verdict.kind, kind, offset)
            kinds[kind].add((offset > 1e11, verdict.kind))
            reasons.add(verdict.reason)
    assert all({(False, kind), (True, "undefined")} <= found for kind, found in kinds.items())
    assert any("of which rounding may have left" in reason for reason in reasons)


@pytest.mark.parametrize("ratio", [TrajectoryRatio(), PerDecisionRatio()])
def test_ratios_whose_squares_leave_float64_are_refused(ratio):
    """Not judged: the gradient is right, and the variance no number."""
    far = np.array([[1e-200, 0.5, 0.5], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]])
    for covariance in (False, True):
        with pytest.raises(ValueError, match="the second moments leave float64: rewards or the ratios"):
            moments(Estimator(RewardToGo(), ratio=ratio), REFEREE, POLICY, THETA, behaviour=far, covariance=covariance)


@pytest.mark.parametrize("means", [(1e-100, 1e100), (1e-100, 1e100, -1e100), (1.0, 1e16, -1e16), (1e-60, 1e60, 0.0)])
@pytest.mark.parametrize("gap", [0.0, 3.0, 30.0])
def test_far_apart_scales_in_one_model(means, gap):
    mdp, policy, theta = examples.bandit(means=means), TabularSoftmax(1, len(means)), gap * np.arange(len(means))
    for estimator, kind in (
        (algorithms.reinforce(), "unbiased"),
        (algorithms.rloo(), "unbiased"),
        (Estimator(GroupMean()), "proportional"),
    ):
        group_size = 2 if isinstance(estimator.advantage, LeaveOneOut | GroupMean) else 1
        assert judge(estimator, mdp, policy, theta, group_size=group_size).kind == kind
        found = moments(estimator, mdp, policy, theta, group_size=group_size, covariance=True)
        expected = moments(estimator, mdp, policy, theta, group_size=group_size, route="enumeration")
        rms = np.sqrt(expected.second_moment)
        assert np.all(np.abs(found.mean - expected.mean) <= EXACT * rms)
        assert np.all(np.abs(found.variance - expected.variance) <= EXACT * rms**2)
    assert judge(Estimator(TotalReturn()), mdp, policy, theta).kind == "unbiased"


@pytest.mark.parametrize("means", [(1.0, 1e4), (1.0, 1e8), (1e-60, 1e60, 0.0)])
def test_the_variance_of_a_rare_small_return(means):
    problem = examples.bandit(means=means), TabularSoftmax(1, len(means)), 30.0 * np.arange(len(means))
    found, expected = (moments(Estimator(TotalReturn()), *problem, route=r) for r in ("recursion", "enumeration"))
    assert np.all(np.abs(found.variance - expected.variance) <= 1e-10 * expected.second_moment)


@pytest.mark.parametrize("logit", [10.0, 20.0, 30.0, 36.0])
def test_near_deterministic_policies_keep_their_digits(logit):
    """Every variance relative to itself, not to a floor."""
    theta = np.tile([logit, 0.0, -1.0], 3)
    for estimator in (
        *(algorithms.reinforce(reward_to_go=flag) for flag in (True, False)),
        Estimator(TotalReturn(2.0)),
        Estimator(GAE(0.5, 0.9)),
        Estimator(LeaveOneOut()),
        Estimator(GroupMean()),
    ):
        group_size = 2 if isinstance(estimator.advantage, LeaveOneOut | GroupMean) else 1
        problem = REFEREE.replace(horizon=1 if group_size > 1 else 3), POLICY, theta
        found = moments(estimator, *problem, group_size=group_size, covariance=True)
        expected = moments(estimator, *problem, group_size=group_size, route="enumeration")
        assert found.route == "recursion"
        assert_exact(found.variance / expected.variance, np.ones(9))
    assert_verdicts(REFEREE, theta)


@pytest.mark.parametrize("logit", [100.0, 300.0])
def test_a_verdict_below_rounding_is_not_unbiased(logit):
    theta = np.tile([logit, 0.0, -1.0], 3)
    verdict = judge(BIASED["no discount"], REFEREE, POLICY, theta)
    assert verdict.kind in ("biased", "undefined"), verdict.relative_bias


def test_no_variance_and_no_steps():
    deterministic = np.tile([0.0, -np.inf, -np.inf], 3)
    for estimator in (algorithms.reinforce(), Estimator(TotalReturn(1.0)), algorithms.rloo(), Estimator(GroupMean())):
        for mdp, theta in ((REFEREE, deterministic), (REFEREE.replace(horizon=0), THETA)):
            found = moments(estimator, mdp, POLICY, theta, prompts=2, group_size=3, covariance=True)
            assert found.route == "recursion"
            assert not np.any(found.mean)
            assert not np.any(found.covariance)


# --- many parameters


def test_a_lake_of_256_parameters():
    mdp, policy = examples.frozen_lake(map="8x8", horizon=12), TabularSoftmax(64, 4)
    reward = np.where(mdp.next_state > 20, 1.0, -0.5)
    problem = mdp.replace(reward=reward, gamma=0.8), policy, np.random.default_rng(1).normal(size=256)
    for estimator, group_size in ((algorithms.reinforce(), 1), (algorithms.rloo(), 8)):
        whole = moments(estimator, *problem, covariance=True, group_size=group_size)
        parts = moments(estimator, *problem, group_size=group_size)  # all that is known of one state at a time
        assert parts.covariance is None
        assert_moments(parts, whole)
        assert_exact(whole.covariance, whole.covariance.T)
        assert_exact(np.trace(whole.covariance), whole.total_variance)
        assert np.linalg.eigvalsh(whole.covariance).min() > -EXACT * whole.total_variance
        assert_exact(whole.mean, exact.gradient(*problem), scale=np.sqrt(whole.second_moment).max())
        null = np.repeat(np.eye(64), 4, axis=1)  # the logits of one state, moved together, change nothing
        assert_exact(null @ whole.covariance, np.zeros((64, 256)), scale=whole.covariance.max())


def test_parts_of_the_parameters_are_the_whole(monkeypatch):
    monkeypatch.setattr(laws, "TOGETHER", 4)  # 4 + 4 + 1
    monkeypatch.setattr(laws, "NUMBERS", 0)
    per_component = Estimator(PerComponent(TotalReturn(0.5), np.linspace(-1, 2, 9)))
    for estimator in (algorithms.reinforce(), Estimator(TotalReturn(2.0)), algorithms.rloo(), per_component):
        parts, whole = (
            moments(estimator, REFEREE, POLICY, THETA, group_size=3, prompts=2, covariance=c) for c in (False, True)
        )
        assert_moments(parts, whole)


def test_work_is_linear_in_the_horizon(monkeypatch):
    calls, one_step = [], total_return._future_scores
    monkeypatch.setattr(total_return, "_future_scores", lambda *args: calls.append(1) or one_step(*args))
    for T in (5, 50):
        calls.clear()
        moments(Estimator(TotalReturn()), REFEREE.replace(horizon=T), POLICY, THETA)
        assert len(calls) == T


@pytest.mark.parametrize("policy", [TabularSoftmax(6, 3), LinearSoftmax(np.cos(np.arange(90.0)).reshape(6, 3, 5))])
@pytest.mark.parametrize("sizes", [(2**16, 2**16), (1, 1), (100, 50)], ids=repr)
def test_returns_over_pairs_are_returns_over_outcomes(monkeypatch, policy, sizes):
    """Longer than can be listed; two of six states are out of reach; also where probabilities do not sum to one."""
    monkeypatch.setattr(total_return, "OUTCOMES", sizes[0])
    monkeypatch.setattr(total_return, "NUMBERS", sizes[1])
    mdp = random_mdp(n_states=6, n_actions=3, n_outcomes=3, gamma=0.9, horizon=12, rng=4)
    next_state = np.where(np.arange(6)[:, None, None] < 4, mdp.next_state % 4, mdp.next_state)
    mdp = mdp.replace(next_state=next_state, terminated=next_state == 3)
    theta = np.sin(np.arange(float(policy.n_parameters)))
    psi, W = policy.score_along(theta, np.eye(len(theta))), policy.probabilities(theta)[:, :, None] * mdp.probability
    for weight, score in (
        (W, psi),
        (W * np.linspace(0.5, 1.5, 3)[:, None], psi),
        (W, psi * (np.arange(6) < 2)[:, None, None]),
    ):
        options = {"initial": np.array([0.5, 0.0, 0.5, 0, 0, 0]), "centre": 0.75}
        expected = total_return.return_moments_by_outcomes(mdp, weight, mdp.reward, score, covariance=True, **options)
        for covariance in (False, True):
            found = total_return.return_moments(mdp, weight, mdp.reward, score, covariance=covariance, **options)
            assert_exact(found.n, expected.n)
            assert_exact(found.z, expected.z)
            m = expected.m if covariance else np.einsum("kee->ke", expected.m)
            assert_exact(found.m, m, np.abs(m[2]).max())


# --- against the oracle


@pytest.mark.parametrize("per_component", [False, True])
def test_whole_returns_in_fractions(per_component):
    mdp, psi, pi = REFEREE.replace(horizon=2), score_by_loops(POLICY, THETA), table(POLICY, THETA)
    b = [Fraction(n, 4) for n in range(-4, 5)]

    def estimate(steps, *_):
        g = reference.reinforce(steps, lambda s, a: psi[s, a], mdp.gamma, "total", lambda t, s: Fraction(1, 2))
        F = reference.weighted_sum([(1, psi[s, a]) for s, a, _ in steps], 9)
        return [x - y * z for x, y, z in zip(g, b, F, strict=True)] if per_component else g

    mean, covariance = reference.estimator_mean_and_second_moment(mdp, pi, estimate)
    advantage = PerComponent(TotalReturn(0.5), np.array(b, dtype=float)) if per_component else TotalReturn(0.5)
    found = moments(Estimator(advantage), mdp, POLICY, THETA, covariance=True)
    assert found.route == "recursion"
    assert_exact(found.mean, mean, scale=10)
    assert_exact(found.covariance, covariance, scale=10)


# --- against Monte Carlo

FALSE_ALARM, RUNS = 1e-9, 60_000


def rejected(x, mean, variance):
    """Catoni's test of the columns of x (N, E), all together at FALSE_ALARM; sure only that Var X <= variance."""
    n, E = x.shape
    log_odds = math.log(2 * E / FALSE_ALARM)
    wrong = np.abs(x - mean).max(axis=0) > 1e-9 * (1 + np.abs(mean))
    if np.any(wrong & (variance <= 0)):
        return True
    x, mean, variance = x[:, variance > 0], mean[variance > 0], variance[variance > 0]
    scale = catoni_scale(n, variance, log_odds)
    statistic = np.abs(catoni(scale * (x - mean)).sum(axis=0))
    return bool(np.any(catoni_log_probability(statistic, n, variance, scale) < -log_odds))


@pytest.mark.parametrize("name", examples.CATALOGUE)
def test_the_catalogue_by_monte_carlo(name):
    """Means and second moments of three directions; squares have a variance of at most max² times their mean."""
    mdp = examples.CATALOGUE[name]()
    T = min(mdp.horizon or 10, 10)
    mdp = mdp.replace(horizon=T, reward=mdp.reward + 0.25)
    policy, theta = TabularSoftmax(mdp.n_states, mdp.n_actions), np.sin(np.arange(mdp.n_states * mdp.n_actions))
    v = np.random.default_rng(0).normal(size=(3, len(theta)))
    estimator = Estimator(RewardToGo(0.5))
    whole = moments(estimator, mdp, policy, theta, covariance=True)
    mean, variance = v @ whole.mean, np.einsum("ed,df,ef->e", v, whole.covariance, v)
    batch = sample(mdp, policy, theta, RUNS, rng=1)
    psi = policy.score_along(theta, v)
    w = estimator.weights(batch, mdp, policy, theta) * RUNS
    values = np.zeros((RUNS, 3))
    for t in range(batch.n_steps):
        values += w[:, t, None] * psi[batch.states[:, t], batch.actions[:, t]]
    law = directional_moments(estimator, mdp, policy, theta, v)
    largest = np.maximum(law.low**2, law.high**2)
    second = variance + mean**2
    assert_exact(law.second_moment, second)
    assert not rejected(values, mean, variance)
    assert not rejected(values**2, second, largest * second)
    deviation = np.sqrt(variance)
    assert rejected(values, mean + 0.05 * deviation, variance)  # negative controls
    assert rejected(values**2, 10 * second, largest * second)


def test_a_policy_on_features_and_data_of_another_by_monte_carlo():
    mdp = examples.baxter_bartlett(horizon=8)
    policy, theta = LinearSoftmax(examples.baxter_bartlett_features()), np.array([0.5, -0.5, 0.25, 1.0])
    behaviour = np.array([0.25, 0.0, 0.0, 0.5])
    batch = sample(mdp, policy, theta, RUNS, behaviour=behaviour, rng=2)
    for ratio in (PerDecisionRatio(), TrajectoryRatio(), VTrace()):
        estimator = Estimator(RewardToGo(0.5), ratio=ratio)
        found = moments(estimator, mdp, policy, theta, behaviour=behaviour)
        values = estimator.per_trajectory(batch, mdp, policy, theta)
        assert not rejected(values, found.mean, found.variance)
        wrong = moments(Estimator(RewardToGo(0.5), discounted_score=False), mdp, policy, theta, behaviour=behaviour)
        assert rejected(values, wrong.mean, found.variance)
