"""Catoni's test of a mean: its inequality, its false alarms on nasty laws, and what it can detect."""

import functools
import math

import numpy as np
import pytest

from reinforce_np import TabularSoftmax, algorithms, enumerate_trajectories, examples
from reinforce_np.checks.means import MeanTest, catoni, catoni_detectable, catoni_log_probability, catoni_scale

RUNS = 20_000
ALPHA = MISS = 1e-2
CONFIDENCE = 1e-9  # chance that a simulated rate contradicts the true one


def near_deterministic():
    """The estimates of REINFORCE in one component of a policy that hardly ever explores."""
    problem = (examples.referee(horizon=3), TabularSoftmax(3, 3), np.tile([9.0, 0.0, -1.0], 3))
    trajectories, p = enumerate_trajectories(*problem)
    return algorithms.reinforce().per_trajectory(trajectories, *problem)[:, 1], p


LAWS = {  # values and their probabilities
    "fair coin": ([-1.0, 1.0], [0.5, 0.5]),
    "rare and large": ([0.0, 1e4], [1 - 1e-4, 1e-4]),
    "rare and large, negative": ([0.0, -1e4], [1 - 1e-4, 1e-4]),
    "rare and huge, tiny unit": ([0.0, 1e-140], [1 - 1e-6, 1e-6]),
    "skewed": ([-1.0, 9.0], [0.9, 0.1]),
    "heavy tail": (2.0 ** np.arange(24), 0.5 ** np.minimum(np.arange(1, 25), 23)),
    "two tails": ([-1e3, 0.0, 1e3], [1e-3, 0.998, 1e-3]),
    "nearly deterministic policy": near_deterministic(),
}


def law(name):
    values, p = (np.array(x, dtype=float) for x in LAWS[name])
    mean = p @ values
    return values, p, mean, p @ (values - mean) ** 2


@functools.lru_cache(maxsize=1)  # the same for a bias up and a bias down
def counts(name, n):
    """How often each value occurs in n draws, for RUNS independent runs, shape (RUNS, values)."""
    _, p, *_ = law(name)
    return np.random.default_rng(0).multinomial(n, p / p.sum(), size=RUNS)


def rejections(occurrences, values, mean, variance, n, alpha, side=0):
    """How many runs Catoni's test rejects, on both sides (sharing alpha) or on one."""
    scale = catoni_scale(n, variance, math.log(2 / alpha) - math.log(MISS))
    statistic = occurrences @ catoni(scale * (values - mean))
    statistic = np.abs(statistic) if side == 0 else side * statistic
    return int(
        (catoni_log_probability(statistic, n, variance, scale) < -math.log((2 if side == 0 else 1) / alpha)).sum()
    )


def chernoff(k, rate):
    """Bound on the probability of a count of RUNS on the far side of k, when the rate is `rate`: exp(−RUNS·KL(k/RUNS ‖ rate))."""
    q = np.clip(k / RUNS, 1e-300, 1 - 1e-16)
    return math.exp(-RUNS * (q * math.log(q / rate) + (1 - q) * math.log((1 - q) / (1 - rate))))


def surely_below(k, rate):
    return k < RUNS * rate and chernoff(k, rate) < CONFIDENCE


def surely_above(k, rate):
    return k > RUNS * rate and chernoff(k, rate) < CONFIDENCE


# --- the function


def test_catonis_inequality():
    """exp(φ(x)) <= 1 + x + x²/2 and exp(−φ(x)) <= 1 − x + x²/2, over a wide grid; the two meet to second order at zero."""
    x = np.concatenate([sign * np.logspace(-12, 6, 200_001) for sign in (1, -1)])
    slack = 64 * np.finfo(float).eps * (1 + np.abs(x) + x**2 / 2)
    assert np.all(np.exp(catoni(x)) <= 1 + x + x**2 / 2 + slack)
    assert np.all(np.exp(-catoni(x)) <= 1 - x + x**2 / 2 + slack)


def test_catoni_is_odd_increasing_and_logarithmic():
    x = np.linspace(-50, 50, 100_001)
    assert np.array_equal(catoni(-x), -catoni(x))
    assert np.all(np.diff(catoni(x)) > 0)
    np.testing.assert_allclose(catoni(np.array([0.0, 1.0, -2.0])), [0.0, math.log(2.5), -math.log(5.0)], rtol=1e-15)
    assert catoni(1e-12) == 1e-12  # no cancellation
    assert abs(catoni(1e100) - (200 * math.log(10) - math.log(2))) < 1e-12 * 500


def test_scale_is_that_of_the_formula():
    assert catoni_scale(100, 4.0, 9.0) == 3 / 10 / 2
    assert catoni_scale(100, np.array([4.0, np.inf]), 9.0).tolist() == [0.15, 0.0]


def test_scales_are_those_of_the_variance_however_small_or_large():
    scale = catoni_scale(50, np.array([1e-250, 1.0, 1e250]), 7.0)
    np.testing.assert_allclose(scale * np.sqrt([1e-250, 1.0, 1e250]), math.sqrt(7 / 50), rtol=1e-14)


def test_log_probability_is_markovs_inequality():
    """E exp(S) <= (1 + a²v/2)ⁿ, checked with the exact law of a single draw."""
    for name in LAWS:
        values, p, mean, variance = law(name)
        for a in (0.01, 1.0, 10.0):
            scale = a / math.sqrt(variance)
            for sign in (1, -1):
                left = p @ np.exp(sign * catoni(scale * (values - mean)))
                bound = -catoni_log_probability(0.0, 1, variance, scale) + math.log1p(a * a / 2)
                assert math.log(left) <= bound + 1e-12 <= math.log1p(a * a / 2) + 1e-12
    assert catoni_log_probability(5.0, 10, 2.0, 0.3) == 10 * math.log1p(0.09) - 5.0
    assert catoni_log_probability(0.1, 10, 2.0, 0.3) == 0.0
    assert catoni_log_probability(np.array([5.0]), 10, np.inf, np.zeros(1)).tolist() == [-5.0]


# --- its error rates


@pytest.mark.parametrize("n", [1, 30, 10_000])
@pytest.mark.parametrize("name", LAWS)
def test_false_alarms_are_fewer_than_alpha(name, n):
    values, _, mean, variance = law(name)
    occurrences = counts(name, n)
    assert surely_below(rejections(occurrences, values, mean, variance, n, ALPHA), ALPHA)
    for side in (1, -1):
        assert surely_below(rejections(occurrences, values, mean, variance, n, ALPHA, side), ALPHA)


@pytest.mark.parametrize("name", ["rare and large", "nearly deterministic policy"])
def test_a_z_test_has_more_false_alarms_than_alpha(name):
    """Negative control: the simulation does catch a test whose tails are wrong."""
    values, _, mean, variance = law(name)
    n = 300
    z = (counts(name, n) @ values / n - mean) / math.sqrt(variance / n)
    assert surely_above(int((np.abs(z) > 2.5758).sum()), ALPHA)


def test_a_variance_that_is_too_small_has_more_false_alarms_than_alpha():
    """Negative control: the exact variance is what the test needs."""
    values, _, mean, variance = law("fair coin")
    assert surely_above(rejections(counts("fair coin", 300), values, mean, variance / 9, 300, ALPHA), ALPHA)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n", [100, 30_000])
@pytest.mark.parametrize("name", LAWS)
def test_a_detectable_bias_is_detected(name, n, sign):
    values, _, mean, variance = law(name)
    log_false_alarm, log_miss = math.log(2 / ALPHA), -math.log(MISS)
    scale = catoni_scale(n, variance, log_false_alarm + log_miss)
    bias = catoni_detectable(n, variance, scale, log_false_alarm, log_miss)
    assert 0 < bias < np.inf
    missed = RUNS - rejections(counts(name, n), values + sign * bias, mean, variance, n, ALPHA)
    assert not surely_above(missed, MISS)


@pytest.mark.parametrize("n", [300, 30_000])
def test_detection_is_not_wildly_conservative(n):
    """The bias a perfect z-test would catch is 4.9 standard errors; this one needs no more than twice that, and misses a third."""
    values, _, mean, variance = law("fair coin")
    log_false_alarm, log_miss = math.log(2 / ALPHA), -math.log(MISS)
    scale = catoni_scale(n, variance, log_false_alarm + log_miss)
    bias = catoni_detectable(n, variance, scale, log_false_alarm, log_miss)
    assert 4.9 < bias / math.sqrt(variance / n) < 1.6 * 4.9
    detected = rejections(counts("fair coin", n), values + bias / 3, mean, variance, n, ALPHA)
    assert surely_below(detected, 0.5)


def test_detectable_solves_its_equation():
    n, v, L, M = 500, 3.0, 15.0, 5.0
    a = catoni_scale(n, v, L + M)
    b = catoni_detectable(n, v, a, L, M)
    assert math.isclose(
        (1 - a * b + a * a * (v + b * b) / 2) * (1 + a * a * v / 2), math.exp(-(L + M) / n), rel_tol=1e-12
    )
    assert b < 1 / a  # the smaller root


def test_detectable_is_infinite_when_n_is_too_small_or_nothing_is_known():
    for n, variance in ((1, 1.0), (20, 1.0), (10**6, np.inf)):
        variance = np.array([variance])
        assert catoni_detectable(n, variance, catoni_scale(n, variance, 20.0), 15.0, 5.0).tolist() == [np.inf]


def test_detectable_scales_like_a_standard_error():
    v = np.array([1.0, 100.0, 1e-100, 1e100])
    b = catoni_detectable(10**6, v, catoni_scale(10**6, v, 20.0), 15.0, 5.0)
    np.testing.assert_allclose(b / np.sqrt(v), b[0], rtol=1e-12)
    more = catoni_detectable(4 * 10**6, v, catoni_scale(4 * 10**6, v, 20.0), 15.0, 5.0)
    np.testing.assert_allclose(b / more, 2.0, rtol=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_rounding_may_have_done_is_no_evidence(sign):
    """Every value is off by as much as rounding may move it; ten times that is noticed."""
    test = MeanTest(1000, np.zeros(1), np.array([1e-20]), np.array([1e-10]), log_odds=15.0)
    for times, noticed in ((1, False), (10, True)):
        values = np.full((1000, 1), sign * times * 1e-10)
        assert test.rejects(test.terms(values).sum(axis=0)) == noticed
