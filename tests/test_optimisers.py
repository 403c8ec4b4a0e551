"""Steps uphill: each rule against its sum written out, and what is known on paper of the paths they take."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_exact

from reinforce_np import Draw, LinearSoftmax, TabularSoftmax, enumerate_trajectories, exact, examples
from reinforce_np.training import (
    SGD,
    Adam,
    Exponential,
    InverseTime,
    Linear,
    Momentum,
    NaturalGradient,
    RMSProp,
    ascend,
    clipped,
    estimated_fisher,
    exact_fisher,
    exact_path,
)

GRADIENTS = np.random.default_rng(0).normal(size=(7, 3)) * [1e-3, 1.0, 1e3]
START = np.array([1.0, -2.0, 0.5])


def path(optimiser, gradients=GRADIENTS, theta=START):
    """θ after every step on given gradients."""
    steps = iter(gradients)
    return ascend(lambda theta: next(steps), optimiser, theta, iterations=len(gradients))


def displacements(weights, rates, scale=None):
    """θ_t − θ_0 when step u is rate_u times Σ_i weights[u, i] g_i, divided by scale_u."""
    steps = rates[:, None] * (weights @ GRADIENTS)
    return np.cumsum(steps if scale is None else steps / scale, axis=0)


def powers(decay):
    """decay^(u−i) for i <= u, else 0: what a running sum remembers."""
    u, i = np.indices((len(GRADIENTS),) * 2)
    return np.where(i <= u, decay ** np.maximum(u - i, 0.0), 0.0)


def root_of_mean_square(decay, corrected):
    squares = (1 - decay) * powers(decay) @ GRADIENTS**2
    t = np.arange(1, len(GRADIENTS) + 1)[:, None]
    return np.sqrt(squares / (1 - decay**t) if corrected else squares)


def test_each_rule_is_its_sum():
    """The recursions against the sums they unroll to (Kingma & Ba 2015, section 3, for Adam)."""
    n = len(GRADIENTS)
    t = np.arange(1, n + 1)
    bias = (1 - 0.8) / (1 - 0.8**t)
    rate, rates = InverseTime(0.1, 4), 0.1 / (1 + (t - 1) / 4)
    cases = [
        (SGD(0.1), np.eye(n), np.full(n, 0.1), None),
        (SGD(rate), np.eye(n), rates, None),
        (Momentum(rate, decay=0.7), powers(0.7), rates, None),
        (RMSProp(rate, decay=0.7, epsilon=0.25), np.eye(n), rates, root_of_mean_square(0.7, False) + 0.25),
        (Adam(rate, 0.8, 0.95, 0.5), powers(0.8) * bias[:, None], rates, root_of_mean_square(0.95, True) + 0.5),
    ]  # fmt: skip
    for optimiser, weights, rates, scale in cases:
        expected = START + displacements(weights, rates, scale)
        assert_exact(path(optimiser)[1:], expected, (np.abs(expected) + np.abs(START)).ravel())


def test_steps_are_pure():
    """The state before a step is what it was, so that a step can be taken again."""
    for optimiser in (SGD(0.1), Momentum(0.1), RMSProp(0.1), Adam(0.1)):
        theta, state = optimiser.step(START, GRADIENTS[0], optimiser.start(START))
        twice = [optimiser.step(theta, GRADIENTS[1], state)[0] for _ in range(2)]
        assert np.array_equal(*twice)
        assert np.array_equal(START, [1.0, -2.0, 0.5])


def test_masked_actions_stay_masked():
    for optimiser in (SGD(0.1), Momentum(0.1), RMSProp(0.1), Adam(0.1)):
        found = path(optimiser, np.array([[1.0, 0.0]] * 3), np.array([0.0, -np.inf]))
        assert found[-1, 1] == -np.inf
        assert np.isfinite(found[:, 0]).all()


def test_schedules():
    assert [Linear(1.0, 0.5, 2)(t) for t in range(4)] == [1.0, 0.75, 0.5, 0.5]
    assert [Exponential(1.0, 2)(t) for t in (0, 2, 4)] == [1.0, 0.5, 0.25]
    t = np.arange(100_000)
    rates = InverseTime(1.0, 10)(t)
    assert rates.sum() > 80 and (rates**2).sum() < 11  # grows like 10 log t; is less than h + 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_clipping_keeps_the_direction(gradient, limit):
    gradient = np.array(gradient)
    found = clipped(gradient, limit)
    assert np.linalg.norm(found) <= limit * (1 + 1e-12)
    norm = np.linalg.norm(gradient)
    assert_exact(found * max(norm, limit), gradient * limit, max(norm, limit) * limit)
    assert clipped(gradient, None) is gradient


def test_clipping_a_gradient_too_large_to_be_squared():
    np.testing.assert_allclose(clipped(np.array([3e200, -4e200]), 1.0), [0.6, -0.8], rtol=1e-15)
    np.testing.assert_allclose(clipped(np.full(4, 1.5e308), 1.0), np.full(4, 0.5), rtol=1e-15)  # whose length is none
    np.testing.assert_allclose(clipped(np.array([3e-200, -4e-200]), 1e-200), [0.6e-200, -0.8e-200], rtol=1e-15)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SGD(0.0), "rate=0.0"),
        (lambda: SGD("fast"), "rate='fast'"),
        (lambda: Momentum(0.1, decay=1.0), "decay=1.0"),
        (lambda: RMSProp(0.1, epsilon=0.0), "epsilon=0.0"),
        (lambda: Adam(0.1, beta2=-0.1), "beta2=-0.1"),
        (lambda: NaturalGradient(0.1, damping=-1.0), "damping=-1.0"),
        (lambda: NaturalGradient(0.1, fisher="exact"), "fisher='exact'"),
        (lambda: NaturalGradient(0.1).step(START, START, None), "draw=None"),
        (lambda: InverseTime(0.1, 0), "halved_after=0"),
        (lambda: Linear(0.1, -1.0, 10), "final=-1.0"),
        (lambda: path(SGD(lambda t: float("nan"))), "rate=nan"),
    ],
)
def test_refusals(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


# --- what is known on paper ---------------------------------------------------------------------------------------

RIVER = (examples.river_swim(), TabularSoftmax(6, 2))
REFEREE = (examples.referee(), TabularSoftmax(3, 3))
LINEAR = (examples.referee(), LinearSoftmax(np.random.default_rng(3).normal(size=(3, 3, 4))))


@pytest.mark.parametrize("problem, rate", [(REFEREE, 0.1), (LINEAR, 0.02), (RIVER, 1e-3)])
@pytest.mark.parametrize("natural", [False, True])
def test_small_exact_steps_never_go_down(problem, rate, natural):
    optimiser = NaturalGradient(rate, damping=1e-6, fisher=exact_fisher) if natural else SGD(rate)
    theta = np.random.default_rng(1).normal(size=problem[1].n_parameters)
    found = exact_path(*problem, optimiser, iterations=60, theta=theta).objective
    assert np.diff(found).min() > 0


def test_down_is_seen():
    """The negative control: steps that jump over the one peak of the short corridor."""
    problem = examples.short_corridor(horizon=100), LinearSoftmax(examples.action_features(4, 2))
    assert np.diff(exact_path(*problem, SGD(0.2), iterations=10, theta=[0.0, 1.0]).objective).min() < -0.1


@pytest.mark.parametrize("mdp", [examples.bandit(), examples.recycling_robot()])
def test_the_natural_gradient_multiplies_weights(mdp):
    """π' ∝ π exp(η A): tabular softmax, exact F, no damping (Kakade 2001; Agarwal et al. 2021, Lemma 15)."""
    policy, eta = TabularSoftmax(mdp.n_states, mdp.n_actions), 0.7
    theta = np.random.default_rng(0).normal(size=policy.n_parameters)
    A = exact.advantages(mdp, policy, theta).reshape(mdp.n_states, mdp.n_actions)
    expected = policy.probabilities(theta) * np.exp(eta * A)
    expected /= expected.sum(axis=1, keepdims=True)
    draw = Draw(None, mdp, policy)
    found = [
        NaturalGradient(eta, damping=damping, fisher=exact_fisher).step(theta, exact.gradient(mdp, policy, theta), exact_start, draw)[0]
        for damping in (0.0, 1e-9) for exact_start in [SGD(1.0).start(theta)]
    ]  # fmt: skip
    assert_exact(policy.probabilities(found[0]), expected)
    assert np.abs(policy.probabilities(found[1]) - expected).max() < 1e-6
    shift = (found[0] - theta).reshape(A.shape) - eta * A  # and θ + η A itself, but for a constant in each state
    assert_exact(shift - shift[:, :1], np.zeros_like(shift), np.abs(eta * A).max())


def test_the_estimated_fisher_information_is_unbiased():
    """Every trajectory by itself, weighted with its probability."""
    mdp, policy, theta = examples.referee(horizon=3), REFEREE[1], np.linspace(-1, 1, 9)
    listed = enumerate_trajectories(mdp, policy, theta)
    total = sum(
        p * estimated_fisher(Draw(listed.trajectories.take([i]), mdp, policy), theta)
        for i, p in enumerate(listed.probabilities)
    )
    assert_exact(total, exact.fisher_information(mdp, policy, theta))


def test_the_rate_of_the_softmax_gradient_is_one_over_t():
    """J* − J <= 5/(c² t), c the least π(a*), for rewards in [0, 1] and a rate of 2/5 (Mei et al. 2020, Theorem 2).

    And no faster: t (J* − J) settles, so that J* − J halves when t doubles.
    """
    mdp, policy = examples.bandit(means=[1.0, 0.8, 0.1]), TabularSoftmax(1, 3)
    found = exact_path(mdp, policy, SGD(0.4), iterations=2000)
    t = np.arange(1, 2001)
    gap, best = 1.0 - found.objective[1:], policy.probabilities(found.theta)[1:, 0, 0]
    assert np.all(gap <= 5 / (np.minimum.accumulate(best) ** 2 * t))
    assert abs(np.log2(gap[999] / gap[1999]) - 1) < 0.05
    natural = exact_path(mdp, policy, NaturalGradient(0.4, damping=0.0, fisher=exact_fisher), iterations=100)
    weights = np.exp(0.4 * 100 * np.array([1.0, 0.8, 0.1]))  # where the natural gradient converges linearly
    assert_exact(policy.probabilities(natural.theta[-1]), (weights / weights.sum())[None])
