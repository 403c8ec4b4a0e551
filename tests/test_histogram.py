"""Moments by histogram of returns: against enumeration, against the oracle, and binomial sums known on paper."""

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
from test_traces import OTHER, POLICY, REFEREE, THETA, assert_moments, assert_route, batch_shapes, penalties
from tolerances import EXACT, assert_exact

from reinforce_np import (
    GAE,
    BatchStandardised,
    ClippedRatio,
    Constant,
    EntropyBonus,
    Estimator,
    FiniteMDP,
    GeometricMeanRatio,
    GroupMean,
    GroupStandardised,
    InSampleOptimal,
    KLPenalty,
    LeaveOneOut,
    MaskedRatio,
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
    VTrace,
    algorithms,
    count_trajectories,
    exact,
    examples,
    judge,
)
from reinforce_np.arguments import TooLargeError
from reinforce_np.exact import histogram, moments, moments_by_histogram
from reinforce_np.exact.histogram import has_histogram, return_classes

ON_POLICY = (
    OnPolicy(),
    TokenRatio(),
    TrajectoryRatio(),
    ClippedRatio(),
    ClippedRatio(0.0, 0.0),
    GeometricMeanRatio(),
    GeometricMeanRatio(0.1, 0.2),
    TruncatedRatio(1.25),
    TruncatedRatio(0.5),
    TruncatedRatio(0.5, TrajectoryRatio()),
    MaskedRatio(0.5, 2.0),
    MaskedRatio(1.5, 2.0, TrajectoryRatio()),
)
NORMALISERS = PerTrajectory(), Constant(2.5), PerLength(), PerToken()


def advantages(b=0.0):
    yield from (TotalReturn(b), LeaveOneOut(), GroupMean())
    for ddof, eps in ((0, 0.0), (1, 0.25)):
        yield GroupStandardised(ddof, eps)
        yield GroupStandardised(ddof, eps, over_batch=True)
        yield BatchStandardised(TotalReturn(b), ddof, eps)
        yield BatchStandardised(TotalReturn(b), ddof, eps, per_token=False)


def dyadic(problem):
    """Returns that are sums without rounding, so that equal ones are equal to the code as well."""
    return problem._replace(
        mdp=problem.mdp.replace(gamma={0.7: 0.25, 0.9: 0.75}.get(problem.mdp.gamma, problem.mdp.gamma))
    )


@settings(max_examples=50)
@given(data=st.data())
def test_every_estimator_that_sees_returns(data):
    options, limit = data.draw(batch_shapes())
    problem = dyadic(data.draw(problems(horizons=(0, 1, 2, 3), limit=limit)))
    hypothesis.assume(count_trajectories(*problem) <= 2 * limit)
    advantage = data.draw(st.sampled_from(list(advantages(data.draw(st.sampled_from([0.0, -1.25]))))))
    hypothesis.assume(options["group_size"] > 1 or isinstance(advantage, TotalReturn | BatchStandardised))
    standardised = isinstance(advantage, GroupStandardised | BatchStandardised)
    estimator = Estimator(
        advantage,
        ratio=data.draw(st.sampled_from(ON_POLICY)),
        # a sum of logarithms depends on its order, and what is left would be blown up: see the test of equal returns
        penalty=() if standardised else data.draw(penalties(problem.policy, ("reward",))),
        normaliser=data.draw(st.sampled_from(NORMALISERS)),
    )
    assert has_histogram(estimator, problem.mdp)
    assert_route("histogram", estimator, problem, **options)


def test_every_slot_with_every_other():
    """Advantage x ratio x normaliser on one shape of a batch or another."""
    problem = REFEREE.replace(horizon=2, gamma=0.75, initial=[0.75, 0.25, 0.0]), POLICY, THETA
    small = REFEREE.replace(horizon=1, gamma=0.75, initial=[0.5, 0.25, 0.25]), POLICY, THETA
    turn = itertools.cycle([(small, 2, 2), (small, 1, 3), (problem, 2, 1), (small, 3, 1), (problem, 1, 2)])
    for n, (advantage, ratio) in enumerate(itertools.product(advantages(0.5), ON_POLICY)):
        for normaliser in (NORMALISERS[(n + n // 12) % 4],):
            where, prompts, group_size = next(turn)
            if group_size == 1 and isinstance(advantage, LeaveOneOut | GroupMean | GroupStandardised):
                prompts, group_size = 1, 2
            estimator = Estimator(advantage, ratio=ratio, normaliser=normaliser)
            assert has_histogram(estimator, where[0])
            assert_route("histogram", estimator, where, (n % 5 > 0,), prompts=prompts, group_size=group_size)


@pytest.mark.parametrize(
    "penalty", [*(KLPenalty(OTHER, 0.5, k) for k in ("k1", "k2", "k3", "full")), EntropyBonus(0.5)]
)
def test_penalties_in_the_reward_change_the_return(penalty):
    problem = REFEREE.replace(horizon=2), POLICY, THETA
    for advantage in (TotalReturn(0.25), LeaveOneOut(), GroupStandardised(1, 0.5)):
        estimator = Estimator(advantage, penalty=penalty, normaliser=PerLength())
        assert_route("histogram", estimator, problem, group_size=2)
        assert not has_histogram(Estimator(advantage, penalty=KLPenalty(OTHER, 0.5, place="loss")), problem[0])


def test_rewards_to_go_are_returns_when_all_is_paid_at_the_end():
    mdp, policy, theta = examples.copy_task(), TabularSoftmax(14, 3), np.sin(np.arange(42.0))
    for advantage, normaliser in itertools.product(
        (RewardToGo(0.25), BatchStandardised(RewardToGo(0.25), 1, 0.1), BatchStandardised(RewardToGo(), 0, 0.0)),
        NORMALISERS,
    ):
        estimator = Estimator(advantage, normaliser=normaliser)
        assert has_histogram(estimator, mdp)
        assert_route("histogram", estimator, (mdp, policy, theta), prompts=2)
        assert_route("histogram", estimator, (mdp, policy, theta), group_size=2)
        for other in (
            mdp.replace(gamma=0.5),
            mdp.replace(reward=mdp.reward + 1.0),  # paid on the way
        ):
            assert not has_histogram(estimator, other)
        assert not has_histogram(Estimator(advantage, penalty=EntropyBonus(0.1)), mdp)
    assert not has_histogram(Estimator(RewardToGo(np.zeros(14))), mdp)
    bandit = examples.bandit(means=[0.0, 1.0, 3.0]).replace(terminated=np.zeros((1, 3, 1), dtype=bool))
    assert has_histogram(algorithms.reinforce(), bandit)  # truncated after its only step
    assert_route("histogram", algorithms.reinforce(), (bandit, TabularSoftmax(1, 3), np.arange(3.0)))


@pytest.mark.parametrize(
    "estimator",
    [
        Estimator(RewardToGo()),
        Estimator(GAE(0.0, 1.0)),
        Estimator(LeaveOneOut(per_step=True)),
        Estimator(InSampleOptimal()),
        Estimator(PerComponent(TotalReturn(), np.zeros(9))),
        Estimator(TotalReturn(), ratio=SelfNormalisedRatio()),
        Estimator(TotalReturn(), penalty=EntropyBonus(0.1, "loss")),
        Estimator(BatchStandardised(RewardToGo(), 0, 0.0)),
    ],
)
def test_what_sees_more_is_refused(estimator):
    with pytest.raises(ValueError, match="sees more than returns, or is off-policy; use moments_by_enumeration"):
        moments(estimator, REFEREE, POLICY, THETA, route="histogram", group_size=2)


def test_refusals():
    for mdp, behaviour in ((REFEREE.replace(horizon=None), None), (REFEREE, OTHER)):
        with pytest.raises(ValueError, match="sees more than returns, or is off-policy"):
            moments(algorithms.grpo(), mdp, POLICY, THETA, group_size=2, behaviour=behaviour, route="histogram")
    for advantage in (LeaveOneOut(), GroupMean(), GroupStandardised(0, 0.0)):
        with pytest.raises(ValueError, match=r"has one member, and .* compares the members of a group"):
            moments_by_histogram(Estimator(advantage), REFEREE, POLICY, THETA)
    with pytest.raises(ValueError, match="group_size=0 is out of range"):
        moments_by_histogram(algorithms.grpo(), REFEREE, POLICY, THETA, group_size=0)
    with pytest.raises(ValueError, match="prompts=0 is out of range"):
        moments_by_histogram(algorithms.grpo(), REFEREE, POLICY, THETA, prompts=0, group_size=2)
    with pytest.raises(ValueError, match="build the policy for this model"):
        moments_by_histogram(algorithms.grpo(), REFEREE, TabularSoftmax(3, 2), THETA[:6], group_size=2)
    with pytest.raises(TooLargeError, match="above the limit of 10 "):
        moments_by_histogram(algorithms.grpo(), REFEREE, POLICY, THETA, group_size=4, limit=10)
    with pytest.raises(
        ValueError, match=r"rewards and baselines of size 1e\+130 have second moments that leave float64"
    ):
        moments_by_histogram(
            Estimator(TotalReturn()), REFEREE.replace(reward=np.full((3, 3, 2), 1e130)), POLICY, THETA
        )  # fmt: skip


def test_too_many_returns(monkeypatch):
    """Refused by name; the automatic choice goes on to enumeration only for a covariance that does not fit."""
    problem, estimator = (REFEREE, POLICY, THETA), algorithms.grpo()
    expected = moments(estimator, *problem, group_size=2)
    assert expected.route == "histogram"
    monkeypatch.setattr(histogram, "MATRIX_LIMIT", 100)
    assert moments(estimator, *problem, group_size=2).route == "histogram"
    small = REFEREE.replace(horizon=2), POLICY, THETA
    assert moments(estimator, *small, group_size=2, covariance=True).route == "enumeration"
    with pytest.raises(
        TooLargeError, match=r"with 9 parameters and their covariance; use a shorter horizon, .*covariance=False$"
    ):
        moments(estimator, *problem, group_size=2, covariance=True, route="histogram")
    monkeypatch.setattr(histogram, "NODE_LIMIT", 100)
    with pytest.raises(
        TooLargeError, match=r"pairs of state and return so far, with 9 parameters; use a shorter horizon, .*gamma=1$"
    ):
        moments(estimator, *problem, group_size=2)


def test_the_limits_are_reached_not_passed(monkeypatch):
    """The first step of the referee has 18 (state, action, outcome) nodes with 9 parameters."""
    problem = REFEREE.replace(horizon=1), POLICY, THETA
    monkeypatch.setattr(histogram, "NODE_LIMIT", 18 * 9)
    monkeypatch.setattr(histogram, "MATRIX_LIMIT", 18 * 81)
    assert moments(algorithms.grpo(), *problem, group_size=2, covariance=True).route == "histogram"
    monkeypatch.setattr(histogram, "NODE_LIMIT", 18 * 9 - 1)
    with pytest.raises(TooLargeError):
        moments(algorithms.grpo(), *problem, group_size=2, route="histogram")


# --- classes


def test_classes_of_the_copy_task():
    mdp, policy = examples.copy_task(), TabularSoftmax(14, 3)
    classes = return_classes(algorithms.grpo(), mdp, policy, np.zeros(42))
    assert len(classes.value) == 4  # two prompts, right or wrong
    assert_exact(classes.probability.sum(), 1.0)
    assert set(classes.length) == {1}
    long = return_classes(Estimator(TotalReturn(), normaliser=PerToken()), mdp, policy, np.zeros(42))
    assert set(long.length) == {1, 2, 3}
    assert_exact(np.bincount(long.prompt, long.probability).max(), np.max(mdp.initial))
    batch = BatchStandardised(TotalReturn(), 0, 0.0)
    assert set(return_classes(Estimator(batch), mdp, policy, np.zeros(42)).length) == {1, 2, 3}
    once = Estimator(BatchStandardised(TotalReturn(), 0, 0.0, per_token=False))
    assert set(return_classes(once, mdp, policy, np.zeros(42)).length) == {1}
    found = moments(algorithms.grpo(), mdp, policy, np.zeros(42), group_size=64)
    assert found.n_batches == 2 * 65
    assert found.n_steps == 3


def test_equal_returns_added_in_another_order_are_equal():
    """0.1 + 0.2 + 0.7 has three values in float64; where all returns are equal the advantage is zero."""
    reward = np.array([[[0.1], [0.2], [0.7]]])
    mdp = FiniteMDP(
        np.ones((1, 3, 1)), np.zeros((1, 3, 1), int), reward, np.zeros((1, 3, 1), bool), initial=[1.0], gamma=1.0, horizon=3
    )  # fmt: skip
    problem = mdp, TabularSoftmax(1, 3), np.array([0.25, 1.0, 0.0])
    whole = mdp.replace(reward=10 * reward), *problem[1:]  # 1, 2 and 7 are added without rounding
    found, expected = (moments(algorithms.grpo(), *p, group_size=2) for p in (problem, whole))
    assert found.route == "histogram"
    assert_moments(found, expected)
    assert found.n_batches == expected.n_batches == 55  # ten different sums


def test_equal_returns_by_enumeration():
    mdp = FiniteMDP(
        np.ones((1, 2, 1)), np.zeros((1, 2, 1), int), np.zeros((1, 2, 1)), np.zeros((1, 2, 1), bool), initial=[1.0], gamma=1.0, horizon=3
    )  # fmt: skip
    estimator = Estimator(GroupStandardised(0, 0.0), penalty=EntropyBonus(0.5))
    assert_route("histogram", estimator, (mdp, TabularSoftmax(1, 2), np.array([0.3, 0.9])), group_size=2)


@pytest.mark.parametrize("offset", [2.0**40, 2.0**50])
def test_a_large_offset_does_not_merge_returns(offset):
    policy, theta = TabularSoftmax(1, 3), np.array([0.0, 0.5, 1.0])
    shifted, plain = (
        moments(algorithms.grpo(), examples.bandit(means=[b, b + 1.0, b]), policy, theta, group_size=4)
        for b in (offset, 0.0)
    )
    assert_exact(shifted.mean, plain.mean)


@pytest.mark.parametrize(("horizon", "fine"), [(3, -1e14), (20, -1e14), (2, 1e16)])
def test_a_huge_return_does_not_merge_others(horizon, fine):
    """Beside a return of 1e14, those of 0 and 1 differ by less than its rounding, and by all of theirs."""
    mdp = FiniteMDP(np.ones((1, 3, 1)), np.zeros((1, 3, 1), int), np.array([0.0, 1.0, fine]).reshape(1, 3, 1), np.ones((1, 3, 1), bool),
                    initial=[1.0], gamma=1.0, horizon=horizon)  # fmt: skip
    problem = mdp, TabularSoftmax(1, 3), np.zeros(3)
    for estimator in (algorithms.grpo(), Estimator(GroupStandardised(0, 0.0))):
        found, expected = (
            moments(estimator, *problem, group_size=2, route=route) for route in ("histogram", "enumeration")
        )
        assert_exact(found.mean, expected.mean)
        assert_exact(found.variance, expected.variance)


def test_returns_whose_terms_cancel_are_one_class():
    """1000.1 − 1000.3 + 0.1 + 0.1 is zero in any order; in float64 it is some 1e-13, of either sign, and nothing large is paid last."""
    paid, s = [1000.1, -1000.3, 0.1], np.arange(5).reshape(5, 1, 1)
    reward = np.broadcast_to(np.where(s < 4, np.array(paid)[:, None], 0.1), (5, 3, 1))
    mdp = FiniteMDP(np.ones((5, 3, 1)), np.broadcast_to(np.minimum(s + 1, 4), (5, 3, 1)), reward, np.zeros((5, 3, 1), bool),
                    initial=np.eye(5)[0], gamma=1.0, horizon=5)  # fmt: skip
    found = return_classes(algorithms.grpo(), mdp, TabularSoftmax(5, 3), np.zeros(15))
    sums = {sum(Fraction(str(r)) for r in (*path, 0.1)) for path in itertools.product(paid, repeat=4)}
    assert len(found.value) == len(sums)
    assert_exact(np.sort(found.value), np.sort([float(x) for x in sums]), scale=4000.0)


def test_classes_of_probability_zero():
    theta = np.tile([350.0, 0.0, -1.0], 3)
    for estimator in (Estimator(TotalReturn()), algorithms.grpo()):
        found = moments_by_histogram(estimator, REFEREE, POLICY, theta, group_size=2)
        assert np.all(np.isfinite(found.mean))
        assert np.all(np.isfinite(found.variance))


# --- against the oracle: all ordered batches, in fractions


def two_answers(horizon):
    """Two prompts, two actions; an episode of one or two steps."""
    return FiniteMDP(
        np.ones((2, 2, 1)),
        np.array([[[1], [0]], [[0], [1]]]),
        np.array([[[0.5], [1.0]], [[-1.0], [2.0]]]),
        np.array([[[False], [True]], [[False], [True]]]),
        initial=[0.75, 0.25],
        gamma=0.5,
        horizon=horizon,
    )


def root(x):
    return Fraction(math.sqrt(x)) if x else Fraction(0)


def grpo(R, ddof, eps):
    mean = sum(R, Fraction(0)) / len(R)
    std = root(sum(((r - mean) ** 2 for r in R), Fraction(0)) / (len(R) - ddof))
    return [(r - mean) / (std + eps) if std else Fraction(0) for r in R]


BY_HAND = {  # the weight of every trajectory of a group, from returns and lengths, 1/N included
    "rloo": (algorithms.rloo(), lambda R, L: [r * len(R) / (len(R) - 1) - sum(R) / (len(R) - 1) for r in R]),
    "in-sample mean": (Estimator(GroupMean()), lambda R, L: [r - sum(R) / len(R) for r in R]),
    "grpo": (
        Estimator(GroupStandardised(1, 0.25), normaliser=PerLength()),
        lambda R, L: [a / n for a, n in zip(grpo(R, 1, Fraction(1, 4)), L, strict=True)],
    ),
    "dapo": (
        Estimator(GroupStandardised(0, 0.0), normaliser=PerToken()),
        lambda R, L: [a * len(R) / sum(L) for a in grpo(R, 0, Fraction(0))],
    ),
    "reinforce++": (
        Estimator(BatchStandardised(TotalReturn(), 0, 0.0)),
        lambda R, L: _per_token(R, L),
    ),
    "gspo": (
        Estimator(TotalReturn(0.5), ratio=GeometricMeanRatio(), normaliser=PerLength()),
        lambda R, L: [(r - Fraction(1, 2)) / n**2 for r, n in zip(R, L, strict=True)],
    ),
}


def _per_token(R, L):
    every = [r for r, n in zip(R, L, strict=True) for _ in range(n)]
    mean = sum(every, Fraction(0)) / len(every)
    std = root(sum(((r - mean) ** 2 for r in every), Fraction(0)) / len(every))
    return [(r - mean) / std if std else Fraction(0) for r in R]


@pytest.mark.parametrize("group_size", [2, 3])
@pytest.mark.parametrize("name", BY_HAND)
def test_all_ordered_groups_in_fractions(name, group_size):
    """The oracle knows no prompts: fix the first state, and add the variance between them."""
    estimator, weigh = BY_HAND[name]
    mdp, policy, theta = two_answers(2), TabularSoftmax(2, 2), np.array([0.5, -0.25, 1.0, 0.0])
    psi, pi = score_by_loops(policy, theta), table(policy, theta)

    def estimate(batch):
        R = [reference.discounted_return(steps, mdp.gamma) for steps, *_ in batch]
        weights = weigh(R, [len(steps) for steps, *_ in batch])
        pairs = [(w, psi[s, a]) for (steps, *_), w in zip(batch, weights, strict=True) for s, a, _ in steps]
        return [x / len(batch) for x in reference.weighted_sum(pairs, 4)]

    mean, second = np.zeros(4), np.zeros((4, 4))
    for s, p in enumerate([0.75, 0.25]):
        started = mdp.replace(initial=np.eye(2)[s])
        m, c = reference.batch_mean_and_second_moment(started, pi, estimate, group_size)
        m, c = np.array(m, dtype=float), np.array(c, dtype=float)
        mean, second = mean + p * m, second + p * (c + np.outer(m, m))
    covariance = second - np.outer(mean, mean)
    for route in ("histogram", "recursion", "enumeration", None):
        if route == "recursion" and name not in ("rloo", "in-sample mean"):
            continue
        found = moments(estimator, mdp, policy, theta, group_size=group_size, covariance=True, route=route)
        assert_exact(found.mean, mean, scale=1)
        assert_exact(found.covariance, covariance, scale=1)
        many = moments(estimator, mdp, policy, theta, group_size=group_size, prompts=2, covariance=True, route=route)
        if name in ("rloo", "in-sample mean", "grpo", "gspo"):  # independent prompts
            assert_exact(many.mean, mean, scale=1)
            assert_exact(many.covariance, covariance / 2, scale=1)


# --- known on paper


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("group_size", [2, 5, 64])
def test_grpo_with_a_verifier_is_a_binomial_sum(group_size, ddof):
    """K of N answers are right, K binomial: E[ĝ] = ∇J Σ_k P(k) sqrt(k (N−k) (N−ddof)/N³) / (p q).

    The right ones have advantage (1 − k/N)/s and the wrong ones −(k/N)/s with s² = k(N−k)/(N(N−ddof)); their scores
    have means m₁ and m₀ with m₁ − m₀ = ∇J/(p q). So GRPO is proportional to the gradient of one prompt.
    """
    N, theta, policy = group_size, np.array([0.5, -0.25, 1.0]), TabularSoftmax(1, 3)
    mdp = examples.bandit(means=[1.0, 0.0, 1.0])
    pi = policy.probabilities(theta)[0]
    p = pi[0] + pi[2]
    sums = [
        math.comb(N, k) * p**k * (1 - p) ** (N - k) * math.sqrt(k * (N - k) * (N - ddof) / N**3) for k in range(N + 1)
    ]
    factor = math.fsum(sums) / (p * (1 - p))
    for eps in (0.0, 0.5):
        estimator = Estimator(GroupStandardised(ddof, eps))
        found = moments(estimator, mdp, policy, theta, group_size=N, covariance=True)
        assert (found.route, found.n_batches) == ("histogram", N + 1)
        if eps == 0:
            assert_exact(found.mean, factor * exact.gradient(mdp, policy, theta), scale=1)
            verdict = judge(estimator, mdp, policy, theta, group_size=N)
            assert verdict.kind == ("unbiased" if (N, ddof) == (2, 0) else "proportional")  # two answers: ±1 or nothing
            assert_exact(verdict.factor, factor)
        else:
            assert np.linalg.norm(found.mean) < 0.9 * np.linalg.norm(factor * exact.gradient(mdp, policy, theta))
    assert judge(algorithms.grpo(), *copy_problem(), group_size=8).kind == "biased"  # two prompts, two factors


def copy_problem():
    return examples.copy_task(), TabularSoftmax(14, 3), np.sin(np.arange(42.0))


@pytest.mark.parametrize("group_size", [2, 8])
def test_covariance_and_variance_are_one(group_size):
    standardised = Estimator(BatchStandardised(TotalReturn(), 1, 0.1), normaliser=PerToken())
    for estimator in (algorithms.grpo(), algorithms.dapo(), algorithms.gspo(), standardised):
        for problem in (copy_problem(), (REFEREE.replace(horizon=1), POLICY, THETA))[: 1 if group_size > 2 else 2]:
            one = moments(estimator, *problem, group_size=group_size, covariance=True)
            assert one.route == "histogram"
            assert_moments(moments(estimator, *problem, group_size=group_size), one)
            assert_exact(np.diag(one.covariance), one.variance)
            assert_exact(one.covariance, one.covariance.T)
            assert np.linalg.eigvalsh(one.covariance).min() > -EXACT
            assert_exact(one.total_variance, np.trace(one.covariance))


@given(data=st.data())
@settings(max_examples=30)
def test_linear_group_estimators_have_two_routes(data):
    """RLOO and the in-sample mean at sizes that nobody lists: histogram against U-statistic."""
    problem = data.draw(problems(horizons=(1, 2), limit=12))
    hypothesis.assume(count_trajectories(*problem) <= 12)
    group_size = data.draw(st.integers(4, 6))
    estimator = Estimator(data.draw(st.sampled_from([LeaveOneOut(), GroupMean(), TotalReturn(0.5)])))
    b = grid(data.draw, (), -1, 1, 0.5)
    estimator = Estimator(TotalReturn(float(b))) if isinstance(estimator.advantage, TotalReturn) else estimator
    by_histogram, by_recursion = (
        moments(estimator, *problem, group_size=group_size, covariance=True, route=route)
        for route in ("histogram", "recursion")
    )
    assert_moments(by_histogram, by_recursion, 1e-11)


@pytest.mark.parametrize("shape", [(1, 64), (64, 1), (8, 8)])
def test_many_prompts(shape):
    """Batches of 64 one-step answers by all groupings of one prompt: the standardisation over the batch is the same."""
    mdp, policy, theta = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.array([0.0, 0.5])
    prompts, group_size = shape
    estimator = Estimator(BatchStandardised(TotalReturn(), 0, 0.0))
    if shape == (8, 8):
        prompts, group_size = 4, 4
    found = moments(estimator, mdp, policy, theta, prompts=prompts, group_size=group_size)
    p, N = policy.probabilities(theta)[0, 1], prompts * group_size
    expected = math.fsum(math.comb(N, k) * p**k * (1 - p) ** (N - k) * math.sqrt(k * (N - k)) / N for k in range(N + 1))
    assert_exact(found.mean, np.array([-expected, expected]))


@pytest.mark.parametrize("mdp", [examples.referee().replace(horizon=20), examples.gridworld_4x4().replace(horizon=40)])
def test_too_many_batches_are_refused_before_all_returns_are_found(mdp, monkeypatch):
    """After the first steps there are already too many; that each first state has at least so many is never wrong."""
    policy = TabularSoftmax(mdp.n_states, mdp.n_actions)
    seen = []
    with pytest.raises(
        TooLargeError,
        match=r"histogram refused.*from at least [0-9]+ different returns need at least [0-9]+ evaluations",
    ):
        moments(algorithms.grpo(), mdp, policy, np.zeros(policy.n_parameters), group_size=4)
    mdp = mdp.replace(horizon=4)
    found = return_classes(algorithms.grpo(), mdp, policy, np.zeros(policy.n_parameters), check=seen.append)
    most = np.unique(found.prompt, return_counts=True)[1]
    assert len(seen) == 4 and max(seen[0]) < max(seen[-1])
    assert all(len(sizes) == len(most) and np.all(sizes <= most) for sizes in seen) and seen[-1] == most.tolist()
    chain = examples.delayed_chain(length=4).replace(reward=np.arange(10.0).reshape(5, 2, 1), horizon=3)
    chain = chain.replace(terminated=np.zeros_like(chain.terminated))  # nothing ends before the horizon
    seen.clear()
    found = return_classes(algorithms.grpo(), chain, TabularSoftmax(5, 2), np.zeros(10), check=seen.append)
    assert [len(sizes) for sizes in seen] == [1, 1, 1] and 1 <= seen[0][0] <= seen[1][0] <= seen[2][0] == len(
        found.value
    )


@pytest.mark.parametrize("normaliser", [PerLength(), PerToken(), PerTrajectory()])
@pytest.mark.parametrize("group_size", [1, 2])
def test_a_trace_that_fades_is_not_one_number_a_trajectory(normaliser, group_size):
    """V-trace with c̄ < 1 weighs steps by how many come after them; worked out by hand for one trajectory."""
    stay_or_end = FiniteMDP(
        [[[1.0], [1.0]]], [[[0], [0]]], [[[0.0], [1.0]]], [[[False], [True]]], initial=[1.0], gamma=1.0, horizon=3
    )
    policy, theta = TabularSoftmax(1, 2), np.array([0.3, 0.0])
    estimator = Estimator(RewardToGo(), ratio=VTrace(1.0, 0.5), normaliser=normaliser)
    assert not any(
        has_histogram(Estimator(RewardToGo(), ratio=VTrace(*x)), stay_or_end) for x in ((1, 0.5), (0.5, 1), (0.5, 0.5))
    )
    assert has_histogram(Estimator(RewardToGo(), ratio=VTrace(1.0, 1.0), normaliser=normaliser), stay_or_end)
    found = moments(estimator, stay_or_end, policy, theta, group_size=group_size)
    if group_size == 1 and isinstance(normaliser, PerLength):
        end = policy.probabilities(theta)[0, 1]
        score = policy.score(theta)[0, :, 1]  # of the second logit, for staying and for ending
        weights = [[1.0], [1.0, 1.0], [0.5, 1.0, 1.0]]  # p + κ A of the next step, and A halves from step to step
        by_hand = sum(
            end * (1 - end) ** (L - 1) / L * np.dot(w, [score[0]] * (L - 1) + [score[1]])
            for L, w in enumerate(weights, start=1)
        )
        assert_exact(found.mean[1], by_hand)
    expected = moments(estimator, stay_or_end, policy, theta, group_size=group_size, route="enumeration")
    assert_exact(found.mean, expected.mean)
    assert_exact(found.variance, expected.variance)


RATIOS = [
    VTrace(0.5, 1.0), VTrace(0.5, 2.0), VTrace(1.0, 0.5), VTrace(2.0, 0.5), VTrace(3.0, 3.0), PerDecisionRatio(), PerDecisionRatio(past=False),
    TokenRatio(), TrajectoryRatio(), ClippedRatio(0.2, 0.2), TruncatedRatio(0.5), TruncatedRatio(2.0), MaskedRatio(0.5, 2.0),
    MaskedRatio(2.0, 3.0), GeometricMeanRatio(), OnPolicy(),
]  # fmt: skip


@pytest.mark.parametrize("ratio", RATIOS, ids=repr)
@pytest.mark.parametrize("advantage", [
    RewardToGo(), RewardToGo(0.3), TotalReturn(), LeaveOneOut(), GroupMean(), BatchStandardised(RewardToGo(), ddof=0, eps=0.1),
])  # fmt: skip
def test_no_ratio_makes_the_histogram_another(ratio, advantage):
    """On-policy all ratios are one, but what an estimator makes of them need not be."""
    stay_or_end = FiniteMDP(
        [[[1.0], [1.0]]], [[[0], [0]]], [[[0.0], [1.0]]], [[[False], [True]]], initial=[1.0], gamma=1.0, horizon=3
    )
    try:
        estimators = [
            Estimator(advantage, ratio=ratio, normaliser=n) for n in (PerTrajectory(), PerLength(), PerToken())
        ]
    except (ValueError, TypeError):
        assert isinstance(ratio, VTrace | PerDecisionRatio)  # which are refused beside what is no trace
        return
    for estimator in estimators:
        given = estimator, stay_or_end, TabularSoftmax(1, 2), np.array([0.3, 0.0])
        found, expected = (moments(*given, group_size=2, route=route) for route in (None, "enumeration"))
        assert_exact(found.mean, expected.mean)
        assert_exact(found.variance, expected.variance)


@pytest.mark.parametrize("advantage", [
    GroupStandardised(ddof=0, eps=0.0), BatchStandardised(TotalReturn(), ddof=0, eps=0.0, per_token=False),
    BatchStandardised(TotalReturn(), ddof=0, eps=0.0),
])  # fmt: skip
def test_returns_whose_rewards_cancel_are_equal_by_the_size_of_the_rewards(advantage):
    """0.1 + 0.2 − 0.3 and 0.2 − 0.3 + 0.1 are zero but for rounding, which standardisation must not blow up."""
    rewards, into, ends = np.zeros((5, 2, 1)), np.zeros((5, 2, 1), int), np.zeros((5, 2, 1), bool)
    into[0, 0], into[0, 1], into[1], into[3] = 1, 3, 2, 4
    rewards[0, 0], rewards[1], rewards[2] = 0.1, 0.2, -0.3
    rewards[0, 1], rewards[3], rewards[4] = 0.2, -0.3, 0.1
    ends[[2, 4]] = True
    mdp = FiniteMDP(np.ones((5, 2, 1)), into, rewards, ends, initial=[1.0, 0, 0, 0, 0], gamma=1.0, horizon=3)
    given = Estimator(advantage), mdp, TabularSoftmax(5, 2), np.eye(10)[0] / 2
    for route in ("histogram", "enumeration"):
        found = moments(*given, group_size=2, route=route)
        assert not found.mean.any() and not found.variance.any()
