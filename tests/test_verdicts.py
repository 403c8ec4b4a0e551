"""Exact moments of batches against all ordered tuples of the slow oracle, and verdicts that never depend on the scale."""

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_exact

from reinforce_np import (
    GAE,
    BatchStandardised,
    Constant,
    Discounted,
    EntropyRegularised,
    Estimator,
    FiniteMDP,
    GroupStandardised,
    KLRegularised,
    LeaveOneOut,
    LinearSoftmax,
    NeuralSoftmax,
    PerComponent,
    PerDecisionRatio,
    PerToken,
    RewardToGo,
    SelfNormalisedRatio,
    TabularSoftmax,
    TooLargeError,
    TotalReturn,
    TrajectoryRatio,
    Undiscounted,
    algorithms,
    compare_routes,
    confirm,
    enumerate_trajectories,
    exact,
    examples,
    features,
    judge,
    judge_on_panel,
    moments,
    moments_by_enumeration,
)
from reinforce_np.exact import batches, listing
from reinforce_np.exact.record import DOUBLE
from reinforce_np.exact.verdicts import ROUNDING, verdict_of

THETA = np.array([0.3, -0.4, -0.2, 0.5])
BEHAVIOUR = np.array([-0.5, 0.6, 0.4, -0.3])
PAIR = TabularSoftmax(2, 2)


def pair(initial=(0.75, 0.25), gamma=0.7, horizon=2):
    """Two states, two actions; action 1 always ends; action 0 of state 0 may end too."""
    return FiniteMDP(
        [[[0.75, 0.25], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]],
        [[[1, 0], [0, 0]], [[0, 1], [1, 1]]],
        [[[1.0, -0.5], [2.0, 0.0]], [[0.5, 0.0], [-1.5, 0.0]]],
        [[[False, True], [True, True]], [[False, True], [True, True]]],
        initial=initial,
        gamma=gamma,
        horizon=horizon,
    )


# The estimators once more, by loops over lists: batch[g][i] = (steps, terminated, final state), all steps as (s, a, r)


def score(s, a):
    return reference.score_tabular(THETA, s, a, 2, 2)


def ratio_of(s, a):
    pi, mu = (reference.softmax(x[2 * s : 2 * s + 2]) for x in (THETA, BEHAVIOUR))
    return pi[a] / mu[a]


def total_return(episode, gamma):
    return float(reference.discounted_return(episode[0], gamma))


def summed(weighted):
    return [math.fsum(w * v[d] for w, v in weighted) for d in range(4)] if weighted else [0.0] * 4


def constant_weights(batch, credits, divisor):
    """The sum over episodes and steps of credit times score, divided."""
    episodes = [e for group in batch for e in group]
    return summed([(c / divisor, score(s, a)) for c, e in zip(credits, episodes, strict=True) for s, a, _ in e[0]])


@functools.cache
def reinforce_of(steps, gamma):
    return [float(x) for x in reference.reinforce(list(steps), score, gamma, "to_go")]


def by_loops_reinforce(batch, gamma):
    episodes = [e for group in batch for e in group]
    return summed([(1 / len(episodes), reinforce_of(tuple(e[0]), gamma)) for e in episodes])


def by_loops_rloo(batch, gamma):
    credits, n = [], sum(map(len, batch))
    for group in batch:
        R = [total_return(e, gamma) for e in group]
        credits += [r - (sum(R) - r) / (len(R) - 1) for r in R]
    return constant_weights(batch, credits, n)


def by_loops_grpo(batch, gamma):
    """Population deviation of the group, each episode divided by its length."""
    credits, n = [], sum(map(len, batch))
    for group in batch:
        R = [total_return(e, gamma) for e in group]
        mean = sum(R) / len(R)
        deviation = math.sqrt(sum((r - mean) ** 2 for r in R) / len(R))
        credits += [
            0.0 if max(R) == min(R) else (r - mean) / deviation / len(e[0]) for r, e in zip(R, group, strict=True)
        ]
    return constant_weights(batch, credits, n)


def by_loops_per_token(batch, gamma):
    episodes = [e for group in batch for e in group]
    return constant_weights(batch, [total_return(e, gamma) for e in episodes], sum(len(e[0]) for e in episodes))


def by_loops_batch_standardised(batch, gamma):
    """Rewards-to-go minus their mean over all steps of the batch, over the deviation of n - 1, plus 0.1; with gamma^t."""
    rows = []
    for e in [e for group in batch for e in group]:
        rewards = [float(r) for _, _, r in e[0]]
        for t, (s, a, _) in enumerate(e[0]):
            rows.append((t, s, a, sum(gamma**u * r for u, r in enumerate(rewards[t:]))))
    G = [row[3] for row in rows]
    mean = sum(G) / len(G)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in G) / max(len(G) - 1, 1))
    n = sum(map(len, batch))
    if max(G) == min(G):
        return [0.0] * 4
    return summed([(gamma**t * (x - mean) / (deviation + 0.1) / n, score(s, a)) for t, s, a, x in rows])


def by_loops_rloo_per_step(batch, gamma):
    """Rewards-to-go minus those of the others at the same step, zero for those that have ended; with gamma^t."""
    n, weighted = sum(map(len, batch)), []
    for group in batch:
        rewards = [[float(r) for _, _, r in e[0]] for e in group]
        G = [[sum(gamma**u * r for u, r in enumerate(x[t:])) for t in range(2)] for x in rewards]
        for i, e in enumerate(group):
            for t, (s, a, _) in enumerate(e[0]):
                others = sum(G[j][t] for j in range(len(group)) if j != i) / (len(group) - 1)
                weighted.append((gamma**t * (G[i][t] - others) / n, score(s, a)))
    return summed(weighted)


def by_loops_group_mean_over_batch_deviation(batch, gamma):
    """Each return minus the mean of its group, over the deviation (n) of these differences in the whole batch, plus 0.2."""
    differences = []
    for group in batch:
        R = [total_return(e, gamma) for e in group]
        differences += [0.0 if max(R) == min(R) else r - sum(R) / len(R) for r in R]
    deviation = math.sqrt(sum(x**2 for x in differences) / len(differences))
    return constant_weights(batch, [x / (deviation + 0.2) for x in differences], len(differences))


def by_loops_standardised_over_trajectories(batch, gamma):
    """Each return minus the mean of the batch, over its deviation (n - 1): nothing where all are equal."""
    R = [total_return(e, gamma) for group in batch for e in group]
    mean = sum(R) / len(R)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in R) / max(len(R) - 1, 1))
    return constant_weights(batch, [0.0 if max(R) == min(R) else (r - mean) / deviation for r in R], len(R))


def by_loops_trajectory_ratio(batch, gamma):
    episodes = [e for group in batch for e in group]
    credits = [math.prod(ratio_of(s, a) for s, a, _ in e[0]) * total_return(e, gamma) for e in episodes]
    return constant_weights(batch, credits, len(episodes))


def by_loops_self_normalised(batch, gamma):
    episodes = [e for group in batch for e in group]
    rho = [math.prod(ratio_of(s, a) for s, a, _ in e[0]) for e in episodes]
    return constant_weights(batch, [x * total_return(e, gamma) for x, e in zip(rho, episodes, strict=True)], sum(rho))


@functools.cache
def all_batches(off, prompts, group_size):
    """All (probability, batch), ordered: prompts draw their start, members their trajectories."""
    mdp, pi = pair(), PAIR.probabilities(BEHAVIOUR if off else THETA).tolist()
    starts = [s for s in range(2) if mdp.initial[s] > 0]
    lists = {s: list(reference.trajectories(mdp.replace(initial=np.eye(2)[s]), pi)) for s in starts}
    groups = [
        (
            reference.exact(mdp.initial[s]) * math.prod((e[0] for e in members), start=Fraction(1)),
            [e[1:] for e in members],
        )
        for s in starts
        for members in itertools.product(lists[s], repeat=group_size)
    ]
    return [
        (float(math.prod((g[0] for g in batch), start=Fraction(1))), [g[1] for g in batch])
        for batch in itertools.product(groups, repeat=prompts)
    ]


BY_LOOPS = [
    ("REINFORCE", algorithms.reinforce(), by_loops_reinforce, False),
    ("RLOO", algorithms.rloo(), by_loops_rloo, False),
    ("GRPO", algorithms.grpo(), by_loops_grpo, False),
    ("per token", Estimator(TotalReturn(), normaliser=PerToken()), by_loops_per_token, False),
    ("batch-standardised", Estimator(BatchStandardised(RewardToGo(), 1, 0.1)), by_loops_batch_standardised, False),
    ("RLOO per step", Estimator(LeaveOneOut(per_step=True)), by_loops_rloo_per_step, False),
    ("group mean, batch deviation", Estimator(GroupStandardised(0, 0.2, over_batch=True)),
     by_loops_group_mean_over_batch_deviation, False),
    ("standardised over trajectories", Estimator(BatchStandardised(TotalReturn(), 1, 0.0, per_token=False)),
     by_loops_standardised_over_trajectories, False),
    ("trajectory ratio", Estimator(TotalReturn(), ratio=TrajectoryRatio()), by_loops_trajectory_ratio, True),
    ("self-normalised", Estimator(TotalReturn(), ratio=SelfNormalisedRatio()), by_loops_self_normalised, True),
]  # fmt: skip
SHAPES = [(1, 1), (2, 1), (1, 2), (1, 3), (2, 2)]


@pytest.mark.parametrize(("prompts", "group_size"), SHAPES)
@pytest.mark.parametrize("case", BY_LOOPS, ids=[case[0] for case in BY_LOOPS])
def test_moments_are_those_of_all_ordered_batches(case, prompts, group_size):
    name, estimator, by_loops, off = case
    if group_size == 1 and name in ("RLOO", "GRPO", "RLOO per step", "group mean, batch deviation"):
        with pytest.raises(ValueError, match="has one member"):
            moments_by_enumeration(estimator, pair(), PAIR, THETA, prompts=prompts)
        return
    mdp, behaviour = pair(), BEHAVIOUR if off else None
    p, g = zip(*((p, by_loops(batch, 0.7)) for p, batch in all_batches(off, prompts, group_size)), strict=True)
    p, g = np.array(p), np.array(g)
    mean = p @ g
    result = moments_by_enumeration(
        estimator, mdp, PAIR, THETA, prompts=prompts, group_size=group_size, behaviour=behaviour
    )
    assert np.allclose(result.mean, mean, rtol=0, atol=1e-10)
    assert np.allclose(result.covariance, ((g - mean).T * p) @ (g - mean), rtol=0, atol=1e-10)
    assert np.allclose(result.second_moment, p @ g**2, rtol=0, atol=1e-10)
    assert np.allclose(result.variance, np.diag(result.covariance), rtol=0, atol=0)
    assert result.total_variance == pytest.approx(np.trace(result.covariance))
    assert result.n_steps == 2 and result.route == "enumeration"


@pytest.mark.parametrize("case", BY_LOOPS[:4], ids=[case[0] for case in BY_LOOPS[:4]])
def test_moments_are_those_of_the_oracle_in_fractions(case):
    mdp, (_, estimator, by_loops, _) = pair(initial=(1.0, 0.0)), case
    mean, covariance = reference.batch_mean_and_second_moment(
        mdp, PAIR.probabilities(THETA).tolist(), lambda batch: by_loops([batch], 0.7), 2
    )
    result = moments_by_enumeration(estimator, mdp, PAIR, THETA, group_size=2)
    assert np.allclose(result.mean, np.array(mean, dtype=float), rtol=0, atol=1e-12)
    assert np.allclose(result.covariance, np.array(covariance, dtype=float), rtol=0, atol=1e-12)


def test_the_variance_of_independent_batches_falls_as_one_over_their_number():
    one = moments_by_enumeration(algorithms.reinforce(), pair(), PAIR, THETA)
    for prompts in (2, 3):
        many = moments_by_enumeration(algorithms.reinforce(), pair(), PAIR, THETA, prompts=prompts)
        assert_exact(many.mean, one.mean)
        assert_exact(many.covariance, one.covariance / prompts)
    group = moments_by_enumeration(algorithms.rloo(), pair(), PAIR, THETA, group_size=2)
    groups = moments_by_enumeration(algorithms.rloo(), pair(), PAIR, THETA, group_size=2, prompts=2)
    assert_exact(groups.covariance, group.covariance / 2)


def test_a_group_shares_its_start_and_prompts_do_not():
    """Two members of one group are less informative than two prompts: the start is drawn once."""
    group = moments_by_enumeration(algorithms.reinforce(), pair(), PAIR, THETA, group_size=2)
    prompts = moments_by_enumeration(algorithms.reinforce(), pair(), PAIR, THETA, prompts=2)
    assert_exact(group.mean, prompts.mean)
    assert group.total_variance > 1.05 * prompts.total_variance


@given(n=st.integers(1, 6), size=st.integers(1, 4), data=st.data())
def test_multinomial_weights_sum_to_one_and_count_orders(n, size, data):
    p = np.array(data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n)), dtype=float)
    p /= p.sum()
    rows, weights = listing._draws(n, p, size, False)
    assert len(rows) == math.comb(n + size - 1, size)
    assert weights.sum() == pytest.approx(1.0, abs=1e-14)
    for row, weight in zip(rows.tolist(), weights, strict=True):
        assert row == sorted(row)
        orders = len(set(itertools.permutations(row)))
        assert weight == pytest.approx(orders * math.prod(p[i] for i in row))


def test_listing_in_pieces_changes_nothing(monkeypatch):
    whole = moments_by_enumeration(algorithms.grpo(), pair(), PAIR, THETA, group_size=2, prompts=2)
    for at_once in (4, 13, 40):
        monkeypatch.setattr(batches, "AT_ONCE", at_once)
        pieces = moments_by_enumeration(algorithms.grpo(), pair(), PAIR, THETA, group_size=2, prompts=2)
        assert_exact(pieces.mean, whole.mean, scale=1.0)
        assert_exact(pieces.covariance, whole.covariance, scale=1.0)
        assert_exact(pieces.second_moment, whole.second_moment, scale=1.0)
        assert pieces.n_batches == whole.n_batches


def test_the_covariance_does_not_cancel_next_to_a_large_mean():
    """Two arms of 1e9 and 1e9 + 1: the variance of (R - b) z is worked out by hand, with a baseline that leaves a mean."""
    mdp, policy = examples.bandit(means=[1e9, 1e9 + 1]), LinearSoftmax(np.array([[[1.0], [0.0]]]))
    # pi = (1/2, 1/2), z = (1/2, -1/2): estimates (1e9/2, -(1e9 + 1)/2), mean -1/4, variance (1e9/2 + 1/4)^2
    result = moments_by_enumeration(algorithms.reinforce(), mdp, policy, np.zeros(1))
    assert result.mean[0] == pytest.approx(-0.25, rel=1e-6)
    assert result.variance[0] == pytest.approx((1e9 / 2 + 0.25) ** 2)
    # estimates that are all 1e9 + (0, 1) have variance 1/4: E[x^2] - E[x]^2 would have none of its digits
    constant = Estimator(TotalReturn(), normaliser=Constant(1.0))
    lopsided = examples.bandit(means=[2e9, -2e9 - 2])
    result = moments_by_enumeration(constant, lopsided, policy, np.zeros(1))
    assert result.mean[0] == pytest.approx(1e9 + 0.5, rel=1e-15)
    assert result.variance[0] == pytest.approx(0.25)


# Verdicts on every kind


# Defects of the package that are known, by name
def fake(mean, second=None, n_steps=3, scale=0.0):
    mean = np.array(mean, dtype=float)
    second = mean**2 + 1 if second is None else np.array(second, dtype=float)
    variance = second - mean**2
    return exact.Moments(
        mean=mean,
        variance=variance,
        covariance=np.diag(variance),
        second_moment=second,
        scale=np.broadcast_to(np.array(scale, dtype=float), mean.shape),
        n_steps=n_steps,
        n_batches=None,
        route="by hand",
    )


GRADIENT = np.array([1.0, -2.0, 0.5])


def test_unbiased_within_rounding():
    v = verdict_of(fake(GRADIENT + 1e-15), GRADIENT, Discounted())
    assert (v.kind, v.factor) == ("unbiased", 1.0)
    assert v.relative_bias == pytest.approx(1e-15 * math.sqrt(3) / np.linalg.norm(GRADIENT), rel=0.5)
    assert v.cosine == pytest.approx(1.0) and v.cosine <= 1.0
    assert str(v).startswith("unbiased for the gradient of Discounted: largest difference ")
    assert np.array_equal(v.gradient, GRADIENT)
    assert isinstance(v.objective, Discounted)


@pytest.mark.parametrize("factor", [0.5, 2.0, -1.0, -3.5, 1e-6, 1e6, 1 + 1e-9])
def test_proportional_with_its_factor(factor):
    v = verdict_of(fake(factor * GRADIENT), GRADIENT, Undiscounted())
    assert v.kind == "proportional"
    assert v.factor == pytest.approx(factor, rel=1e-12)
    assert v.relative_bias == pytest.approx(abs(factor - 1), rel=1e-6)
    assert v.cosine == pytest.approx(math.copysign(1, factor))
    assert str(v).startswith(f"proportional to the gradient of Undiscounted with factor {factor:.6g} (relative bias ")


def test_an_unbiased_factor_is_one_and_not_nearly_one():
    assert verdict_of(fake(GRADIENT * (1 + 1e-14)), GRADIENT, Discounted()).factor == 1.0


def test_what_may_be_left_of_a_proportional_one_is_the_rounding_of_both_sides():
    """The mean has rounded by its own size, and so has the gradient, times the factor."""
    second, scale = np.array([100.0, 100.0, 1e-4]), np.array([10.0, 10.0, 1e-2])
    gradient = np.array([1.0, -2.0, 1e-3])
    for factor, allowed in ((2.0, 3.0), (-2.0, 3.0), (0.25, 1.25), (-5.0, 6.0)):
        for size, kind in ((allowed - 0.1, "proportional"), (allowed + 0.1, "biased")):
            mean = factor * gradient
            mean[2] += size * ROUNDING * DOUBLE * 3 * 1e-2
            assert verdict_of(fake(mean, second), gradient, Discounted(), scale=scale).kind == kind


def test_a_cosine_is_never_above_one():
    rng = np.random.default_rng(0)
    raw = []
    for g in rng.normal(size=(200, 3)):
        for factor in (1.0, -1.0, 3.0):
            v = verdict_of(fake(factor * g), g, Discounted())
            assert -1.0 <= v.cosine <= 1.0 and v.cosine == pytest.approx(np.sign(factor))
            raw.append(factor * g @ g / np.linalg.norm(g) / np.linalg.norm(factor * g))
    assert max(raw) > 1 and min(raw) < -1, "a division alone would be"


def test_the_worst_component_may_be_too_small():
    v = verdict_of(fake([1.5, -4.0, 0.5]), GRADIENT, Discounted())
    assert str(v).endswith("worst component 1: mean -4, gradient -2")


@pytest.mark.parametrize("c", [1e14, 1e20, 1e100])
def test_a_very_small_factor_is_a_factor(c):
    for route in ("recursion", "enumeration"):
        v = judge(Estimator(RewardToGo(), normaliser=Constant(c)), REFEREE, POLICY, UNEVEN, route=route)
        assert v.kind == "proportional" and v.factor == pytest.approx(1 / c)


@pytest.mark.parametrize("factor", [1e-20, 1e10, 1e16])
def test_the_numbers_of_a_verdict_do_not_depend_on_the_scale(factor):
    """GRPO has no scale, the gradient has: cosine and factor are numbers all the same."""
    one, other = (
        judge(algorithms.grpo(), REFEREE.replace(reward=REFEREE.reward * x), POLICY, UNEVEN, group_size=2)
        for x in (1, factor)
    )
    assert other.kind == one.kind == "biased" and other.cosine == pytest.approx(one.cosine)
    binary, policy = examples.bandit(means=[factor, 0.0]), TabularSoftmax(1, 2)
    v = judge(Estimator(GroupStandardised(0, 0.0)), binary, policy, np.array([0.3, 0.0]), group_size=4)
    assert v.kind == "proportional" and v.factor * factor == pytest.approx(1.61859731027935)


@pytest.mark.parametrize("route", ["recursion", "histogram", "enumeration"])
def test_sizes_whose_squares_leave_float64_are_refused_by_name(route):
    """Up to 1e120 and down to 1e-120 they are judged: rewards, baselines and critics."""
    total = Estimator(TotalReturn())
    judged = REFEREE.replace(reward=REFEREE.reward / np.abs(REFEREE.reward).max())
    for size in (0.9e120, 1.1e-120):
        assert judge(total, judged.replace(reward=size * judged.reward), POLICY, UNEVEN, route=route).kind == "unbiased"
    for size in (1e-200, 0.9e-120, 1.1e120, 1e160):
        with pytest.raises(
            ValueError, match=rf"of size {size:.3g} have second moments that leave float64".replace("+", r"\+")
        ):
            judge(total, judged.replace(reward=size * judged.reward), POLICY, UNEVEN, route=route)
    with pytest.raises(ValueError, match=r"rewards and baselines of size 2e\+120 .*; divide them by 2e\+120"):
        judge(Estimator(TotalReturn(2e120)), REFEREE, POLICY, UNEVEN, route=route)
    assert judge(total, judged.replace(reward=0 * judged.reward), POLICY, UNEVEN, route=route).kind == "undefined"


@pytest.mark.parametrize(
    "make",
    [
        lambda size: RewardToGo(np.full(3, size)),
        lambda size: GAE(np.full(3, size), 1.0),
        lambda size: BatchStandardised(RewardToGo(size), 0, 0.0),
        lambda size: PerComponent(TotalReturn(size), np.zeros(9)),
        lambda size: PerComponent(TotalReturn(), np.full(9, size)),
    ],
)
def test_a_baseline_too_large_is_refused_wherever_it_is(make):
    with pytest.raises(
        ValueError, match=r"rewards and baselines of size 1e\+200 have second moments that leave float64"
    ):
        judge(Estimator(make(1e200)), REFEREE, POLICY, UNEVEN)


def test_a_model_without_steps_is_undefined():
    empty = REFEREE.replace(horizon=0)
    for estimator, group_size in ((algorithms.reinforce(), 1), (algorithms.rloo(), 2), (algorithms.grpo(), 2)):
        for route in (None, "enumeration"):
            v = judge(estimator, empty, POLICY, UNEVEN, group_size=group_size, route=route)
            assert v.kind == "undefined" and v.moments.n_steps == 0
        assert v.moments.n_batches == 3


def test_biased_with_its_numbers():
    mean = np.array([1.0, -2.0, 1.5])
    v = verdict_of(fake(mean), GRADIENT, Discounted())
    assert (v.kind, v.factor) == ("biased", None)
    assert_exact(v.bias, [0.0, 0.0, 1.0])
    assert v.relative_bias == pytest.approx(1 / math.sqrt(5.25))
    assert v.cosine == pytest.approx(5.75 / math.sqrt(5.25 * 7.25))
    assert str(v) == (
        "biased for the gradient of Discounted: relative bias 0.436, cosine 0.9320; worst component 2: mean 1.5, gradient 0.5"
    )


def test_undefined_when_both_are_zero_and_biased_when_one_is():
    both = verdict_of(fake([0, 1e-17, 0]), np.zeros(3), Discounted())
    assert (both.kind, both.factor, both.relative_bias, both.cosine) == ("undefined", None, 0.0, None)
    assert str(both) == (
        "undefined for the gradient of Discounted: it is zero here, or below rounding, and so is the mean of the estimate"
    )
    gradient = verdict_of(fake([0, 1, 0]), np.zeros(3), Discounted())
    assert (gradient.kind, gradient.factor, gradient.relative_bias, gradient.cosine) == ("biased", None, math.inf, None)
    assert "cosine" not in str(gradient) and "worst component 1: mean 1, gradient 0" in str(gradient)
    mean = verdict_of(fake([0, 0, 0]), GRADIENT, Discounted())
    assert (mean.kind, mean.factor, mean.relative_bias, mean.cosine) == ("biased", None, 1.0, None)


@pytest.mark.parametrize("of_gradient", [None, np.array([2.0, 3e-3, 0.4])])
@pytest.mark.parametrize("of_mean", [0.0, np.array([0.5, 1e-2, 70.0])])
def test_rounding_is_that_of_mean_and_gradient_each_per_component_and_by_the_steps(of_mean, of_gradient):
    """Root mean square and terms of the gradient by the steps, what cancelled in one step once."""
    second, gradient = np.array([1.0, 1e-6, 100.0]), np.array([0.1, 1e-4, -1.0])
    options = {"second": second, "n_steps": 5, "scale": of_mean}
    v = verdict_of(fake(gradient, **options), gradient, Discounted(), scale=of_gradient)
    terms = np.abs(gradient) if of_gradient is None else of_gradient
    expected = ROUNDING * DOUBLE * (5 * np.sqrt(second) + of_mean + 5 * terms)
    assert_exact(v.rounding, expected, scale=expected)
    for i in range(3):
        for size in (0.9, -0.9, 1.1, -1.1):
            mean = gradient.copy()
            mean[i] += size * v.rounding[i]
            v_i = verdict_of(fake(mean, **options), gradient, Discounted(), scale=of_gradient)
            assert (v_i.kind == "unbiased") == (abs(size) < 1)
    assert np.array_equal(
        verdict_of(fake(GRADIENT, n_steps=0), GRADIENT, Discounted()).rounding,
        verdict_of(fake(GRADIENT, n_steps=1), GRADIENT, Discounted()).rounding,
    )


def test_a_bias_in_one_small_component_is_seen():
    gradient = np.array([1.0, 1e-9, 1.0])
    v = verdict_of(fake(gradient * [1, 1.01, 1], gradient**2), gradient, Discounted())
    assert v.kind == "biased" and v.cosine > 1 - 1e-12


def test_a_component_that_never_moves_does_not_forbid_rounding_there():
    """What is left of a gradient whose terms cancel is rounding; without terms of that size it is a gradient."""
    gradient = np.array([1.0, 1e-30])
    for scale, kind in ((None, "biased"), (np.array([1.0, 1e-10]), "unbiased"), (np.array([1.0, 1e-20]), "biased")):
        assert verdict_of(fake([1.0, 0.0], [1.0, 0.0]), gradient, Discounted(), scale=scale).kind == kind


def test_what_is_zero_is_judged_by_its_own_rounding():
    """A small mean is known to all its digits next to a large gradient, and a small gradient next to a noisy mean."""
    v = verdict_of(fake(1e-20 * GRADIENT, (1e-20 * GRADIENT) ** 2), GRADIENT, Discounted())
    assert v.kind == "proportional" and v.factor == pytest.approx(1e-20)
    v = verdict_of(fake([1.0, -2.0, 0.6]), 1e-20 * GRADIENT, Discounted())
    assert v.kind == "biased" and 0.99 < v.cosine < 1
    v = verdict_of(fake(1e-20 * GRADIENT, (1e-20 * GRADIENT) ** 2, scale=1.0), GRADIENT, Discounted())
    assert (v.kind, v.cosine) == ("biased", None), "what is left after rewards of one cancelled"


@pytest.mark.parametrize(
    "factor",
    [
        0.0,
        1.0,
        3.0,
    ],
)
def test_a_mean_that_could_be_anything_is_not_called_unbiased(factor):
    """Mean and gradient of 1e-20 next to a root mean square of one: a bias of three times the gradient could not be seen."""
    v = verdict_of(fake(factor * 1e-20 * GRADIENT), 1e-20 * GRADIENT, Discounted())
    assert v.kind == "undefined"


# Verdicts on models


REFEREE, POLICY = examples.referee(horizon=2), TabularSoftmax(3, 3)
UNEVEN = np.cos(np.arange(9.0))
EXPECTED = [
    ("unbiased", lambda m: algorithms.reinforce(), 1),
    ("unbiased", lambda m: algorithms.reinforce(reward_to_go=False), 1),
    ("unbiased", lambda m: algorithms.actor_critic(exact.values(m, POLICY, UNEVEN)), 1),
    ("unbiased", lambda m: algorithms.rloo(), 2),
    ("unbiased", lambda m: Estimator(LeaveOneOut(per_step=True)), 2),
    ("proportional", lambda m: algorithms.dr_grpo(c=3), 2),
    ("proportional", lambda m: Estimator(RewardToGo(), normaliser=Constant(-0.0 + 7)), 1),
    ("biased", lambda m: Estimator(RewardToGo(), discounted_score=False), 1),
    ("biased", lambda m: Estimator(GAE(0.0, 0.5)), 1),
    ("biased", lambda m: algorithms.grpo(), 2),
    ("biased", lambda m: Estimator(GroupStandardised(0, 0.0)), 2),
    ("biased", lambda m: Estimator(RewardToGo(), normaliser=PerToken()), 2),
]


@pytest.mark.parametrize(
    ("scale", "offset"), [(1e-100, 0.0), (1e-100, 1e8), (1e-8, 0.0), (1.0, 0.0), (1.0, 1e8), (1e100, 1e8)]
)
@pytest.mark.parametrize(("kind", "estimator", "group_size"), EXPECTED)
def test_the_scale_and_the_offset_of_rewards_never_change_a_verdict(kind, estimator, group_size, scale, offset):
    mdp = REFEREE.replace(reward=(REFEREE.reward + offset) * scale)
    for route in (None, "enumeration"):
        assert judge(estimator(mdp), mdp, POLICY, UNEVEN, group_size=group_size, route=route).kind == kind


@pytest.mark.parametrize("offset", [1e4, 1e8])
@pytest.mark.parametrize(("kind", "estimator", "group_size"), EXPECTED[2:6])
def test_an_offset_that_every_trajectory_collects_never_changes_a_verdict(kind, estimator, group_size, offset):
    """One step: the offset leaves the gradient alone, but a value of 1e8 + 1 has rounded by 1e-8 before it is subtracted."""
    mdp = REFEREE.replace(horizon=1, reward=REFEREE.reward + offset)
    for route in (None, "enumeration"):
        assert judge(estimator(mdp), mdp, POLICY, UNEVEN, group_size=group_size, route=route).kind == kind


def test_an_offset_does_not_hide_a_bias():
    """A thousandth of the gradient is seen next to values of 1e8, through the mean of the group and a critic."""
    mdp = REFEREE.replace(horizon=1, reward=REFEREE.reward + 1e8)
    for slots in ({"advantage": LeaveOneOut()}, {"advantage": RewardToGo(exact.values(mdp, POLICY, UNEVEN)[0])}):
        for c, kind in ((1.001, "proportional"), (1 + 1e-12, "unbiased")):
            for route in ("recursion", "enumeration"):
                e = Estimator(**slots, normaliser=Constant(c))
                assert judge(e, mdp, POLICY, UNEVEN, group_size=2, route=route).kind == kind


@pytest.mark.parametrize("policy", [POLICY, LinearSoftmax(np.cos(np.arange(36.0)).reshape(3, 3, 4), temperature=0.5)])
def test_the_scale_of_moments_is_the_size_of_values_and_baseline_times_that_of_the_scores(policy):
    """(max |Q of |r|| + max |b|)/c times E sum of gamma^t |e_a - pi(.|s)|, pulled back in absolute values."""
    theta = np.sin(1.0 + np.arange(policy.n_parameters))
    trajectories, p = enumerate_trajectories(REFEREE, policy, theta)
    features = np.eye(9).reshape(3, 3, 9) if policy is POLICY else np.cos(np.arange(36.0)).reshape(3, 3, 4)
    pi, expected = policy.probabilities(theta), np.zeros(policy.n_parameters)
    for n in range(len(p)):
        for t in range(trajectories.lengths[n]):
            s, a = trajectories.states[n, t], trajectories.actions[n, t]
            logits = np.abs(np.eye(3)[a] - pi[s]) / policy.temperature
            expected += p[n] * REFEREE.gamma**t * logits @ np.abs(features[s])
    values = exact.action_values(REFEREE.replace(reward=np.abs(REFEREE.reward)), policy, theta).max()
    for advantage in (RewardToGo(np.array([1.0, -4.0, 2.0])), GAE(np.array([1.0, -4.0, 2.0]), 1.0)):
        for route in ("recursion", "enumeration"):
            e = Estimator(advantage, normaliser=Constant(2.0))
            found = judge(e, REFEREE, policy, theta, route=route).moments.scale
            assert_exact(found, (values + 4.0) / 2.0 * expected)
    assert_exact(judge(algorithms.reinforce(), REFEREE, policy, theta).moments.scale, values * expected)


@pytest.mark.parametrize("logit", [10.0, 30.0, 36.75, 50.0])
@pytest.mark.parametrize(("kind", "estimator", "group_size"), EXPECTED[:6])
def test_near_deterministic_policies(kind, estimator, group_size, logit):
    theta = np.zeros((3, 3))
    theta[np.arange(3), [1, 0, 2]] = logit
    theta = theta.ravel() + 0.1 * UNEVEN
    critic = exact.values(REFEREE, POLICY, theta)
    e = algorithms.actor_critic(critic) if estimator is EXPECTED[2][1] else estimator(REFEREE)
    assert judge(e, REFEREE, POLICY, theta, group_size=group_size).kind == kind


@pytest.mark.parametrize("route", [None, "enumeration"])
@pytest.mark.parametrize(
    ("kind", "estimator", "group_size"),
    EXPECTED,
)
def test_a_gradient_below_the_noise_is_never_called_what_it_is_not(kind, estimator, group_size, route):
    """At a gap of 100 the gradient is 1e-44 and the root mean square 1e-22: what rounding hides is undefined."""
    theta = 100 * np.eye(3)[[1, 0, 2]].ravel() + 0.1 * UNEVEN
    critic = exact.values(REFEREE, POLICY, theta)
    e = algorithms.actor_critic(critic) if estimator is EXPECTED[2][1] else estimator(REFEREE)
    assert judge(e, REFEREE, POLICY, theta, group_size=group_size, route=route).kind in (kind, "undefined")


@pytest.mark.parametrize("logit", [10.0, 30.0])
def test_a_wrong_estimator_of_a_near_deterministic_policy_is_caught(logit):
    theta = logit * np.eye(3)[[1, 0, 2]].ravel()
    for estimator in (Estimator(RewardToGo(), discounted_score=False), Estimator(GAE(0.0, 0.5))):
        assert judge(estimator, REFEREE, POLICY, theta).kind == "biased"


def test_dropping_the_discount_keeps_the_cosine_and_is_biased():
    v = judge(Estimator(RewardToGo(), discounted_score=False), examples.referee(horizon=3), POLICY, UNEVEN)
    assert v.kind == "biased" and v.cosine > 0.99 and v.relative_bias > 0.1
    assert f"cosine {v.cosine:.4f}" in str(v)


class Backwards:
    """The credit with the wrong sign: a foreign advantage."""

    from_start = False

    def credit(self, batch):
        return -RewardToGo().credit(batch)


def test_the_wrong_sign_is_proportional_with_factor_minus_one():
    v = judge(Estimator(Backwards()), REFEREE, POLICY, UNEVEN)
    assert v.kind == "proportional"
    assert v.factor == pytest.approx(-1.0) and v.relative_bias == pytest.approx(2.0) and v.cosine == pytest.approx(-1.0)
    assert "factor -1 (relative bias 2)" in str(v)


def test_a_zero_gradient_is_undefined_and_a_group_of_zero_credit_too():
    flat = REFEREE.replace(reward=np.zeros_like(REFEREE.reward))
    assert judge(algorithms.reinforce(), flat, POLICY, UNEVEN).kind == "undefined"
    assert judge(algorithms.grpo(), flat, POLICY, UNEVEN, group_size=2).kind == "undefined"
    assert judge(algorithms.grpo(), flat, POLICY, UNEVEN, group_size=2, route="enumeration").kind == "undefined"
    symmetric = examples.bandit(means=[1.0, 1.0, 1.0])
    assert judge(algorithms.reinforce(), symmetric, TabularSoftmax(1, 3), [0.1, 0.5, -0.2]).kind == "undefined"


@pytest.mark.parametrize(
    "objective", [Discounted(), Undiscounted(), EntropyRegularised(0.3), KLRegularised(np.full((3, 3), 1 / 3), 0.3)]
)
def test_the_verdict_is_for_the_objective_that_was_named(objective):
    v = judge(algorithms.reinforce(), REFEREE, POLICY, UNEVEN, objective=objective)
    assert v.kind == ("unbiased" if isinstance(objective, Discounted) else "biased")
    assert type(objective).__name__ in str(v) and v.objective is objective
    assert_exact(v.gradient, exact.gradient(REFEREE, POLICY, UNEVEN, objective=objective))
    assert_exact(v.bias, v.moments.mean - v.gradient, scale=1.0)


def test_judge_passes_on_the_setting():
    v = judge(
        Estimator(LeaveOneOut(), ratio=TrajectoryRatio()),
        pair(),
        PAIR,
        THETA,
        prompts=2,
        group_size=2,
        behaviour=BEHAVIOUR,
    )
    m = moments_by_enumeration(
        Estimator(LeaveOneOut(), ratio=TrajectoryRatio()),
        pair(),
        PAIR,
        THETA,
        prompts=2,
        group_size=2,
        behaviour=BEHAVIOUR,
    )
    assert (
        np.array_equal(v.moments.covariance, m.covariance) and v.kind == "unbiased" and v.moments.route == "enumeration"
    )
    n = [len(enumerate_trajectories(pair(initial=i), PAIR, THETA).probabilities) for i in ((1, 0), (0, 1))]
    groups = sum(math.comb(k + 1, 2) for k in n)
    assert v.moments.n_batches == math.comb(groups + 1, 2)


def test_a_behaviour_may_be_a_table():
    table = PAIR.probabilities(BEHAVIOUR)
    one, other = (
        moments_by_enumeration(Estimator(RewardToGo(), ratio=PerDecisionRatio()), pair(), PAIR, THETA, behaviour=b)
        for b in (BEHAVIOUR, table)
    )
    assert_exact(one.mean, other.mean)
    assert_exact(one.covariance, other.covariance)


# Refusals


def told_apart(mdp, policy, theta):
    """How many trajectories there are, but for their last state, which no estimator without a critic reads."""
    t = enumerate_trajectories(mdp, policy, theta).trajectories
    rows = zip(t.states.tolist(), t.actions.tolist(), t.rewards.tolist(), t.lengths, t.terminated, strict=True)
    return len({str(row) for row in rows})


def test_too_many_batches_are_refused_with_the_count_before_any_work():
    mdp = examples.referee(horizon=3)
    starts = [told_apart(mdp.replace(initial=np.eye(3)[s]), POLICY, UNEVEN) for s in range(3)]
    groups = sum(math.comb(n + 3, 4) for n in starts)
    count = math.comb(groups + 1, 2) * 8
    with pytest.raises(
        TooLargeError, match=rf"prompts=2 x group_size=4 from {sum(starts)} trajectories need {count} eval"
    ):
        moments_by_enumeration(algorithms.rloo(), mdp, POLICY, UNEVEN, prompts=2, group_size=4)
    with pytest.raises(
        TooLargeError, match=f"above the limit of {2**22} .*: use smaller groups, fewer prompts or a shorter horizon"
    ):
        judge(algorithms.rloo(), mdp, POLICY, UNEVEN, prompts=2, group_size=4, route="enumeration")
    v = judge(algorithms.rloo(), mdp, POLICY, UNEVEN, prompts=2, group_size=4)  # which no list limits
    assert (v.kind, v.moments.route, v.moments.n_batches) == ("unbiased", "recursion", None)
    with pytest.raises(
        TooLargeError, match=f"above the limit of {2**22} "
    ):  # and what has no other route is refused as it was
        judge(Estimator(LeaveOneOut(per_step=True)), mdp, POLICY, UNEVEN, prompts=2, group_size=4)


def test_the_limit_is_the_last_one_that_is_allowed():
    n = [told_apart(pair(initial=i), PAIR, THETA) for i in ((1, 0), (0, 1))]
    evaluations = 2 * sum(math.comb(k + 1, 2) for k in n)
    moments_by_enumeration(algorithms.rloo(), pair(), PAIR, THETA, group_size=2, limit=evaluations)
    with pytest.raises(TooLargeError, match=f"need {evaluations} evaluations, above the limit of {evaluations - 1} "):
        moments_by_enumeration(algorithms.rloo(), pair(), PAIR, THETA, group_size=2, limit=evaluations - 1)


@pytest.mark.parametrize("estimator", [algorithms.reinforce(), Estimator(RewardToGo(), ratio=TrajectoryRatio())])
def test_a_behaviour_without_support_is_refused_naming_state_and_action(estimator):
    table = PAIR.probabilities(BEHAVIOUR).copy()
    table[1] = [0.0, 1.0]
    with pytest.raises(
        ValueError, match=r"behaviour\[1, 0\]=0 where the policy has probability 0\.332.*give it probability"
    ):
        moments_by_enumeration(estimator, pair(), PAIR, THETA, behaviour=table)


def test_a_behaviour_that_is_zero_where_the_policy_is_too_is_accepted():
    theta, table = THETA.copy(), np.array([[0.5, 0.5], [1.0, 0.0]])
    theta[3] = -np.inf
    v = judge(Estimator(RewardToGo(), ratio=TrajectoryRatio()), pair(), PAIR, theta, behaviour=table)
    assert v.kind == "unbiased"


@pytest.mark.parametrize("name", ["prompts", "group_size"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        moments_by_enumeration(algorithms.reinforce(), pair(), PAIR, THETA, **{name: 0})


def test_a_verdict_is_not_true_and_not_false():
    """Or ``assert judge(f, problem)`` would pass whatever f is."""
    bandit = examples.bandit(means=[0.0, 1.0])
    for verdict in (
        judge(algorithms.reinforce(), bandit, TabularSoftmax(1, 2), np.zeros(2)),
        judge_on_panel(algorithms.reinforce()),
    ):
        with pytest.raises(TypeError, match=r'ask for verdict\.kind == "unbiased"'):
            assert verdict


def test_the_last_digits_of_denormal_numbers_convict_nobody():
    mdp = FiniteMDP(np.ones((1, 3, 1)), np.zeros((1, 3, 1), int), np.array([[[1.0], [2.0], [3.3]]]) * 1e-100, np.ones((1, 3, 1), bool),
                    initial=[1.0], gamma=1.0, horizon=1)  # fmt: skip
    problem = mdp, TabularSoftmax(1, 3), np.array([0.0, -1.0, -500.0])
    assert judge(Estimator(RewardToGo(0.7e-100)), *problem).kind == "unbiased"
    assert (
        judge(lambda batch, theta: 1.01 * algorithms.reinforce().gradient(batch, *problem), *problem).kind
        == "proportional"
    )


def rare(logit):
    """A bandit whose second action pays 1 and is next to impossible: moments of the gradient near the ends of float64."""
    return moments(
        algorithms.reinforce(), examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.array([0.0, logit])
    )


def test_batches_needed_at_the_ends_of_float64():
    assert rare(0.0).batches_needed(standard_error=0.01) == 625
    p = math.exp(-400.0)  # E = ±p, Var = p each
    found = rare(-400.0)
    assert found.signal_to_noise == pytest.approx(math.sqrt(p), rel=1e-12)
    assert found.batches_needed(signal_to_noise=1.0) == pytest.approx(1 / p, rel=1e-12)
    assert found.batches_needed(standard_error=1e-80) == 1
    for options in (
        {"standard_error": 1e-200},
        {"standard_error": 1e-160},
        {"standard_error": 5e-324},
        {"signal_to_noise": 1e200},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(options))}=.* is out of reach: it takes more batches"):
            rare(0.0).batches_needed(**options)


def test_a_class_is_no_policy():
    with pytest.raises(
        TypeError, match=r"policy=<class .*TabularSoftmax'> is no policy; pass one such as TabularSoftmax\(mdp.n_states"
    ):
        judge(algorithms.reinforce(), examples.referee(horizon=2), TabularSoftmax, np.zeros(9))


@pytest.mark.parametrize("f", [exact.largest_contributions, exact.variance_parts, judge])
@pytest.mark.parametrize("size", [1e160, 1e-200])
def test_functions_whose_squares_leave_float64_are_refused(f, size):
    mdp = FiniteMDP(
        [[[1.0]] * 2], [[[0]] * 2], [[[size], [-size]]], [[[False]] * 2], initial=[1.0], gamma=1.0, horizon=2
    )
    problem = mdp, TabularSoftmax(1, 2), np.array([1.0, 0.0])
    with pytest.raises(
        ValueError, match=r"estimates of size .* have second moments that leave float64; divide rewards"
    ):
        f(lambda batch, theta: algorithms.reinforce().gradient(batch, *problem), *problem)


@pytest.mark.parametrize("f", [exact.moments, judge, compare_routes, lambda e, *p: confirm(e, *p, 100, rng=0)])
def test_a_network_is_refused_in_words(f):
    network = NeuralSoftmax(features.OneHot(3), 3, 2).on(np.arange(3)[:, None])
    arguments = examples.referee(horizon=2), network, np.sin(np.arange(float(network.n_parameters)))
    arguments = arguments if f is compare_routes else (algorithms.reinforce(), *arguments)
    with pytest.raises(
        NotImplementedError,
        match=r"policy=VisitedNetwork has logits that are not linear in theta.*use a TabularSoftmax",
    ):
        f(*arguments)
    assert np.isfinite(exact.gradient(*arguments[-3:])).all()
