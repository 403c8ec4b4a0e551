"""Derivatives by differences: how often the error bound holds, and which wrong gradients are noticed and named."""

import functools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_exact

from reinforce_np import TabularSoftmax, check_gradient, complex_step, exact, finite_difference, random_mdp, taylor_test
from reinforce_np.checks.differences import SAFETY, STEP, diagnose

EPS = np.finfo(float).eps


def family(kind, D, rng):
    """A random smooth function of D parameters, f(x) = Σ_d f_d(x_d), with a point and its gradient there."""
    a, b, c = rng.normal(size=(3, D))
    x = rng.normal(size=D) * rng.choice([0.1, 1.0, 5.0], size=D)
    u = b * x + c
    return {
        "sine": (x, lambda X: (a * np.sin(b * X + c)).sum(-1), a * b * np.cos(u)),
        "exponential": (x, lambda X: (a * np.exp(b * X / 4)).sum(-1), a * b / 4 * np.exp(b * x / 4)),
        "cubic": (x, lambda X: (a * X**3 + b * X**2 + c * X).sum(-1), 3 * a * x**2 + 2 * b * x + c),
        "quintic": (x, lambda X: (a * X**5 + c * X).sum(-1), 5 * a * x**4 + c),
        "tanh": (x, lambda X: (a * np.tanh(b * X + c)).sum(-1), a * b / np.cosh(u) ** 2),
        "softplus": (x, lambda X: (a * np.logaddexp(0, b * X + c)).sum(-1), a * b / (1 + np.exp(-u))),
        "wave": (x, lambda X: (a * np.sin(8 * b * X + c)).sum(-1), 8 * a * b * np.cos(8 * b * x + c)),
        "bump": (x, lambda X: (a * np.exp(-((b * X + c) ** 2))).sum(-1), -2 * a * b * u * np.exp(-(u**2))),
        "rational": (x, lambda X: (a / (1 + (b * X + c) ** 2)).sum(-1), -2 * a * b * u / (1 + u**2) ** 2),
    }[kind]


KINDS = ("sine", "exponential", "cubic", "quintic", "tanh", "softplus", "wave", "bump", "rational")


@functools.cache
def mdp_objective(seed):
    """J of a random model, as a function of θ, with a point and the gradient there."""
    rng = np.random.default_rng(seed)
    S, A = int(rng.integers(1, 4)), int(rng.integers(2, 4))
    mdp = random_mdp(
        n_states=S, n_actions=A, gamma=float(rng.choice([0.5, 0.9, 1.0])), horizon=int(rng.integers(1, 6)), rng=seed
    )
    policy, theta = TabularSoftmax(S, A), rng.normal(size=S * A) * rng.choice([0.1, 1.0, 3.0])
    return theta, lambda points: exact.objective(mdp, policy, points), exact.gradient(mdp, policy, theta)


def cubes(x):
    return np.sum(x**3, axis=-1)


# --- complex step


@pytest.mark.parametrize("kind", ["sine", "exponential", "cubic", "quintic", "tanh", "bump", "rational"])
def test_complex_step_is_exact(kind):
    for seed in range(50):
        x, f, g = family(kind, 7, np.random.default_rng(seed))
        np.testing.assert_allclose(complex_step(f, x), g, rtol=1e-12, atol=1e-13 * np.abs(g).max())


def test_complex_step_of_objectives_is_exact():
    for seed in range(100):
        theta, J, g = mdp_objective(seed)
        assert_exact(complex_step(J, theta), g, scale=10)


def test_complex_step_in_batches_and_components():
    theta, J, _ = mdp_objective(3)
    whole = complex_step(J, theta)
    sizes = []

    def counted(points):
        sizes.append(len(points))
        return J(points)

    assert_exact(complex_step(counted, theta, batch=2), whole)
    assert max(sizes) <= 2
    assert sum(sizes) == len(theta)
    assert np.array_equal(complex_step(J, theta, components=[1, 0]), whole[[1, 0]])
    assert complex_step(J, theta, components=[]).shape == (0,)


def test_complex_step_of_minus_infinity_is_zero():
    mdp = random_mdp(rng=0)
    J = lambda points: exact.objective(mdp, TabularSoftmax(3, 2), points)  # noqa: E731
    g = complex_step(J, [0.3, -np.inf, 1.0, 0.5, 0.0, 0.0])
    assert g[0] == g[1] == 0.0
    assert np.abs(g[2:]).min() > 0


def test_complex_step_takes_a_step():
    assert complex_step(cubes, [1.0], step=0.5)[0] == 3 - 0.25  # Im (1 + ih)³/h = 3 − h²
    for step in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="step="):
            complex_step(cubes, [1.0], step=step)


def test_complex_step_refuses_real_functions():
    with pytest.raises(TypeError, match=r"f returned real values for complex theta.*use finite_difference"):
        complex_step(lambda x: np.abs(x).sum(axis=-1), [1.0, 2.0])


# --- finite differences and their error bound


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_bound_holds_and_is_tight(kind):
    """Every one of 2000 derivatives of random smooth functions of five parameters.

    The rounding of f is given, as the docstring asks when f is a sum that may cancel; it is that of terms of size 5.
    """
    relative = []
    for seed in range(400):
        x, f, g = family(kind, 5, np.random.default_rng(seed))
        gradient, bound = finite_difference(f, x, noise=32 * EPS * max(abs(float(f(x[None])[0])), 1.0))
        assert np.all(np.abs(gradient - g) <= bound), seed
        relative += list(bound / np.maximum(np.abs(g), 1e-300))
    assert len(relative) >= 2000
    assert np.median(relative) < (1e-6 if kind == "wave" else 1e-7 if kind == "quintic" else 1e-8 * 5)


def test_sums_that_cancel_need_their_noise_given():
    """A small difference of large terms: only who wrote f knows how large they were."""
    x, g = np.array([0.3]), np.array([1 / 3])
    f = lambda points: (1e8 + points[:, 0] / 3) - 1e8  # noqa: E731
    by_default, given_noise = finite_difference(f, x), finite_difference(f, x, noise=32 * EPS * 1e8)
    assert np.any(np.abs(by_default.gradient - g) > by_default.error_bound)
    assert np.all(np.abs(given_noise.gradient - g) <= given_noise.error_bound)


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_bound_holds_for_single_parameters(kind):
    """With one parameter no other term hides an error: the hardest case for the bound on rounding."""
    relative = []
    for seed in range(300):
        x, f, g = family(kind, 1, np.random.default_rng(seed))
        gradient, bound = finite_difference(f, x)
        assert np.all(np.abs(gradient - g) <= bound), seed
        relative.append(bound[0] / max(abs(g[0]), 1e-300))
    assert np.median(relative) < (1e-6 if kind == "wave" else 1e-7 if kind == "quintic" else 1e-8)


def test_the_error_bound_holds_for_objectives_and_is_tight():
    """Every one of some 2500 derivatives of J; half of the bounds are below 1e-8 of the derivative."""
    relative = []
    for seed in range(500):
        theta, J, g = mdp_objective(seed)
        gradient, bound = finite_difference(J, theta)
        assert np.all(np.abs(gradient - g) <= bound), seed
        relative += list(bound / np.maximum(np.abs(g), 1e-300))
    assert len(relative) > 2000
    assert np.median(relative) < 1e-8


def test_the_error_bound_is_needed():
    """Negative control: without the safety factor and the rounding part the bound would often fail."""
    missed = 0
    for seed in range(200):
        x, f, g = family("softplus", 1, np.random.default_rng(seed))
        gradient, bound = finite_difference(f, x, noise=0.0)
        missed += int(np.abs(gradient - g)[0] > bound[0] / SAFETY)
    assert missed > 20


def test_polynomials_up_to_degree_six_are_exact():
    """Two extrapolations leave an error of order h⁶ times the seventh derivative."""
    for degree in range(1, 7):
        gradient, _ = finite_difference(lambda x, d=degree: x[:, 0] ** d, [1.5], step=0.5)
        assert abs(gradient[0] - degree * 1.5 ** (degree - 1)) < 1e-12 * 100
    gradient, bound = finite_difference(lambda x: x[:, 0] ** 7, [1.5], step=0.5)
    assert 1e-6 < abs(gradient[0] - 7 * 1.5**6) <= bound[0]


def test_the_three_steps_and_their_weights():
    """f is asked at θ ± h, ± h/2, ± h/4 only, and the answer is the Richardson table of those six values."""
    asked = []

    def f(points):
        asked.extend(points[:, 0])
        return np.exp(points[:, 0])

    gradient, _ = finite_difference(f, [0.5], step=0.25)
    assert sorted(asked) == [0.25, 0.375, 0.4375, 0.5625, 0.625, 0.75]
    D = [(math.exp(0.5 + h) - math.exp(0.5 - h)) / (2 * h) for h in (0.25, 0.125, 0.0625)]
    assert_exact(gradient, [(64 * D[2] - 20 * D[1] + D[0]) / 45])


def test_every_parameter_may_have_its_own_step():
    asked = []

    def f(points):
        asked.append(points - [1.0, 2.0])
        return cubes(points)

    gradient, bound = finite_difference(f, [1.0, 2.0], step=[0.25, 0.5])
    assert np.abs(np.concatenate(asked)).max(axis=0).tolist() == [0.25, 0.5]
    assert np.all(np.abs(gradient - [3.0, 12.0]) <= bound)
    one = finite_difference(cubes, [1.0, 2.0], step=[0.25, 0.5], components=[1])
    assert_exact(one.gradient, gradient[[1]])
    by_step = complex_step(cubes, [1.0, 1.0], step=[0.5, 0.25])
    assert by_step.tolist() == [3 - 0.25, 3 - 0.0625]
    assert complex_step(cubes, [1.0, 1.0], step=[0.5, 0.25], components=[1]).tolist() == [3 - 0.0625]


def far(kind, seed, offset=1e4):
    """A function of `family` moved to θ + 10⁴, its point and gradient, and its noise, that of θ − 10⁴ included."""
    x, f, g = family(kind, 3, np.random.default_rng(seed))
    a, b, _ = np.random.default_rng(seed).normal(size=(3, 3))
    noise = 64 * EPS * (1 + abs(float(f(x[None])[0])) + 8 * offset * np.abs(a * b).sum())
    return x + offset, lambda X: f(X - offset), g, noise


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_bound_holds_far_from_zero_with_a_step_of_usual_size(kind):
    """The step taken is what float64 makes of it, so that θ + 10⁴ costs digits and nothing else."""
    relative = []
    for seed in range(60):
        x, f, g, noise = far(kind, seed)
        gradient, bound = finite_difference(f, x, noise=noise, step=STEP)
        assert np.all(np.abs(gradient - g) <= bound), seed
        relative += list(bound / np.abs(g).max())
    assert np.median(relative) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_bound_holds_far_from_zero(kind):
    for seed in range(60):
        x, f, g, noise = far(kind, seed)
        gradient, bound = finite_difference(f, x, noise=noise)
        assert np.all(np.abs(gradient - g) <= bound), seed


@pytest.mark.parametrize(("function", "derivative"), [
    (np.sin, lambda x: math.cos(x)), (np.tanh, lambda x: math.cosh(x) ** -2), (np.exp, lambda x: math.exp(x)), (lambda x: 1 / (1 + x**2), lambda x: -2 * x / (1 + x**2) ** 2),
], ids=["sine", "tanh", "exponential", "rational"])  # fmt: skip
def test_rough_steps_are_reduced(function, derivative):
    """A step over which f bends is reduced by eights until the three differences look smooth; the bound holds there."""
    for step in (4.0, 16.0, 64.0):
        asked = []

        def f(points, asked=asked):
            asked.append(np.ptp(points))
            return function(points[:, 0])

        gradient, bound = finite_difference(f, [0.3], step=step)
        widths = asked[::3]
        assert len(widths) >= 2
        np.testing.assert_allclose(widths, [2 * step / 8**k for k in range(len(widths))], rtol=1e-12)
        assert abs(gradient[0] - derivative(0.3)) <= bound[0] < 0.01


def test_smooth_steps_are_not_reduced():
    asked = []
    finite_difference(lambda x: asked.append(len(x)) or x[:, 0] ** 3, [0.3], step=64.0)
    assert asked == [2, 2, 2]


def test_what_stays_rough_has_a_wide_bound():
    """|x| has no derivative at zero, and a step function none anywhere near its step."""
    gradient, bound = finite_difference(lambda x: np.where(x[:, 0] > 0.3, 1.0, 0.0), [0.3])
    assert bound[0] > gradient[0] > 1e3
    kinked, bound = finite_difference(lambda x: np.abs(x[:, 0] - 1e-4), [0.0])
    assert abs(kinked[0] + 1) <= bound[0]


def test_default_steps_are_the_same_near_zero_and_not_lost_beside_large_parameters():
    asked, large = [], 2.0**20
    finite_difference(lambda points: asked.append(points - [large, 100.0]) or points.sum(axis=1), [large, 100.0])
    assert np.abs(np.concatenate(asked)).max(axis=0).tolist() == [1.0, STEP]


def test_the_bound_holds_where_the_extrapolations_cancel():
    """f = x³ + e(x⁵ − c x⁷) with c such that the last extrapolation changes nothing, though the answer is wrong."""
    h, e = 0.5, 4e-4
    c = (1 / 4 - 1 / 64) / (0.3125 * 63 / 64) / h**2
    f = lambda x: x[:, 0] ** 3 + e * (x[:, 0] ** 5 - c * x[:, 0] ** 7)  # noqa: E731
    gradient, bound = finite_difference(f, [0.0], step=h)
    assert 1e-7 < abs(gradient[0]) <= bound[0]


def test_noise_is_part_of_the_bound():
    silent = finite_difference(cubes, [1.0, 2.0], noise=0.0).error_bound
    noisy = finite_difference(cubes, [1.0, 2.0], noise=1e-6).error_bound
    np.testing.assert_allclose(noisy - silent, 1e-6 * (297 / 45) / STEP, rtol=1e-6)
    with pytest.raises(ValueError, match="noise="):
        finite_difference(cubes, [1.0], noise=-1.0)


def test_given_noise_covers_a_noisy_function():
    for seed in range(100):
        rng = np.random.default_rng(seed)
        gradient, bound = finite_difference(
            lambda x, rng=rng: cubes(x) + rng.uniform(-1e-8, 1e-8, size=len(x)), [1.0, -2.0], noise=1e-8
        )
        assert np.all(np.abs(gradient - [3.0, 12.0]) <= bound)


def test_the_size_of_f_is_the_largest_of_all_batches():
    """The rounding of f is that of its largest value, also when the last batch holds only small ones."""
    f = lambda x: 1e8 * x[:, 0] ** 2 + x[:, 1]  # noqa: E731
    one_by_one, together = (finite_difference(f, [0.0, 0.0], batch=batch).error_bound for batch in (1, 64))
    assert np.array_equal(one_by_one, together)


def test_a_large_constant_widens_the_bound():
    _, bound = finite_difference(cubes, [1.0])
    gradient, wide = finite_difference(lambda x: cubes(x) + 1e8, [1.0])
    assert abs(gradient[0] - 3) <= wide[0]
    assert wide[0] > 1e5 * bound[0]


@pytest.mark.parametrize("components", [[0], [2, 0], [1], []])
def test_components_and_batches(components):
    theta, J, _ = mdp_objective(3)
    whole = finite_difference(J, theta, noise=1e-15)
    for batch in (1, 2, 64):
        some = finite_difference(J, theta, components=components, batch=batch, noise=1e-15)
        assert_exact(some.gradient, whole.gradient[components], scale=1.0)
        assert some.error_bound.shape == (len(components),)


def test_minus_infinity_has_derivative_zero():
    mdp = random_mdp(rng=0)
    theta = np.array([0.3, -np.inf, 1.0, 0.5, 0.0, 0.0])
    J = lambda points: exact.objective(mdp, TabularSoftmax(3, 2), points)  # noqa: E731
    gradient, bound = finite_difference(J, theta)
    assert gradient[1] == bound[1] == 0.0
    assert np.all(np.abs(gradient - exact.gradient(mdp, TabularSoftmax(3, 2), theta)) <= bound)


@pytest.mark.parametrize("function", [finite_difference, complex_step])
def test_refusals(function):
    for theta, options, message in (
        ([np.nan], {}, r"theta\[0\]=nan"), ([np.inf], {}, r"theta\[0\]=inf"), ([[1.0]], {}, "theta has 2 axes"), ([1.0], {"batch": 0}, "batch=0"),
        ([1.0], {"components": [1]}, r"components\[0\]=1 is out of range"), ([1.0], {"step": 0.0}, "step=0.0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            function(cubes, theta, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_functions_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="f is not finite near theta"):
        finite_difference(lambda x: np.where(x[:, 0] > 1, value, 0.0), [1.0])


# --- Taylor test


def test_taylor_passes_right_gradients():
    """Right gradients pass; of the families none in 900 is refused."""
    for kind in KINDS:
        for seed in range(100):
            x, f, g = family(kind, 4, np.random.default_rng(seed))
            result = taylor_test(f, g, x, rng=seed)
            assert result.passed, (kind, seed)
            assert result.slope > 1.9


def test_taylor_passes_gradients_of_objectives():
    for seed in range(300):
        theta, J, g = mdp_objective(seed)
        assert taylor_test(J, g, theta, rng=seed).passed, seed


def test_taylor_rejects_every_wrong_component():
    """One part in ten thousand in any one component, along a dense direction, wherever it stands clear of rounding."""
    seen = 0
    for seed in range(150):
        theta, J, g = mdp_objective(seed)
        v = np.where(np.arange(len(theta)) % 2, 1.0, -0.9)
        curved, noise = np.abs(taylor_test(J, g, theta, direction=v).remainders), 32 * EPS * abs(float(J(theta)))
        for i in range(len(g)):
            wrong = g * (1 + 1e-4 * (np.arange(len(g)) == i))
            result = taylor_test(J, wrong, theta, direction=v)
            linear = abs((wrong - g) @ v) * result.steps
            if np.all(linear[-6:] > 10 * curved[-6:] + 200 * noise):
                seen += 1
                assert not result.passed, (seed, i)
    assert seen > 100


@pytest.mark.parametrize(
    "wrong",
    [lambda g: -g, lambda g: 0 * g, lambda g: 2 * g, lambda g: np.roll(g, 1), lambda g: g + 0.1, lambda g: np.abs(g)],
)
def test_taylor_rejects_wrong_gradients(wrong):
    for seed in range(100):
        x, f, g = family("sine", 4, np.random.default_rng(seed))
        if np.abs(wrong(g) - g).max() > 0.01:
            result = taylor_test(f, wrong(g), x, direction=np.sign(wrong(g) - g) + 0.01)
            assert not result.passed
            assert result.slope < 1.5


def test_taylor_of_linear_functions_sees_only_rounding():
    result = taylor_test(lambda x: x @ [2.0, -3.0], [2.0, -3.0], [1.0, 5.0], rng=0)
    assert result.passed
    assert result.slope == np.inf
    assert not taylor_test(lambda x: x @ [2.0, -3.0], [2.0, -3.0001], [1.0, 5.0], rng=0).passed


def test_taylor_slopes_of_known_remainders():
    quadratic = taylor_test(cubes, [3.0], [1.0], direction=[1.0])
    cubic = taylor_test(cubes, [0.0], [0.0], direction=[1.0])
    linear = taylor_test(cubes, [4.0], [1.0], direction=[1.0])
    assert abs(quadratic.slope - 2) < 0.01
    assert abs(cubic.slope - 3) < 0.01
    assert abs(linear.slope - 1) < 0.01
    assert quadratic.passed
    assert cubic.passed
    assert not linear.passed
    assert quadratic.steps.tolist() == [2.0**-k for k in range(3, 21)]
    h = quadratic.steps
    np.testing.assert_allclose(quadratic.remainders, 3 * h**2 + h**3, atol=1e-14)


def test_taylor_directions_are_random_or_given():
    x, f, g = family("sine", 4, np.random.default_rng(0))
    one, same, other = (taylor_test(f, g, x, rng=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.remainders, same.remainders)
    assert not np.array_equal(one.remainders, other.remainders)
    blind = taylor_test(f, g + [1.0, 0, 0, 0], x, direction=[0.0, 1.0, 1.0, 1.0])
    assert blind.passed  # a direction sees only what it moves


def test_taylor_allows_for_given_noise():
    rng = np.random.default_rng(0)
    assert taylor_test(
        lambda x: cubes(x) + rng.uniform(-1e-9, 1e-9, len(x)), [3.0], [1.0], noise=1e-9, direction=[1.0]
    ).passed


def test_taylor_leaves_minus_infinity_alone():
    mdp, theta = random_mdp(rng=0), np.array([0.3, -np.inf, 1.0, 0.5, 0.0, 0.0])
    J = lambda points: exact.objective(mdp, TabularSoftmax(3, 2), points)  # noqa: E731
    g = exact.gradient(mdp, TabularSoftmax(3, 2), theta)
    assert taylor_test(J, g, theta, rng=0).passed
    assert not taylor_test(J, -g, theta, rng=0).passed


def test_taylor_refusals():
    for theta, gradient, options, message in (
        ([np.nan], [1.0], {}, r"theta\[0\]=nan"), ([1.0], [np.nan], {}, r"gradient\[0\]=nan"), ([1.0], [1.0, 2.0], {}, "gradient has shape"),
        ([1.0], [1.0], {"direction": [1.0, 2.0]}, "direction has shape"), ([1.0], [1.0], {"direction": [np.inf]}, r"direction\[0\]=inf"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            taylor_test(cubes, gradient, theta, **options)


def test_taylor_passes_right_gradients_whose_remainder_changes_sign():
    """Where the h² and h³ terms cancel near the fitted steps, the slope is not 2: about one in a thousand random models."""
    for seed in (421, 3828, 3978, 4853, 5482):
        rng = np.random.default_rng(seed)
        S, A = int(rng.integers(1, 4)), int(rng.integers(2, 4))
        mdp = random_mdp(
            n_states=S, n_actions=A, gamma=float(rng.choice([0.5, 0.9, 1.0])), horizon=int(rng.integers(1, 6)), rng=seed
        )
        policy, theta = TabularSoftmax(S, A), rng.normal(size=S * A) * rng.choice([0, 0.1, 1, 3])
        assert taylor_test(
            lambda x, m=mdp, p=policy: exact.objective(m, p, x), exact.gradient(mdp, policy, theta), theta, rng=seed
        ).passed


def test_taylor_says_when_rounding_hides_everything():
    f = lambda x: cubes(x) + 1e8  # noqa: E731
    assert taylor_test(cubes, [3.0], [1.0], direction=[1.0]).conclusive
    hidden = taylor_test(lambda x: cubes(x) + 1e14, [-3.0], [1.0], direction=[1.0])
    assert not hidden.conclusive
    assert taylor_test(f, [3.0], [1.0], direction=[1.0]).conclusive
    assert not taylor_test(f, [-3.0], [1.0], direction=[1.0]).passed
    noisy = taylor_test(cubes, [3.0], [1.0], noise=1.0, direction=[1.0])
    assert noisy.passed
    assert not noisy.conclusive
    assert taylor_test(lambda x: 0 * x[:, 0], [0.0], [1.0], direction=[1.0]).conclusive  # nothing moves, as claimed


# --- check_gradient


@pytest.mark.parametrize("kind", KINDS)
def test_right_gradients_are_confirmed(kind):
    for seed in range(60):
        x, f, g = family(kind, 6, np.random.default_rng(seed))
        result = check_gradient(f, g, x, vectorised=True)
        assert result
        assert result.passed
        assert not len(result.wrong)
        assert result.diagnosis == ""


def test_right_gradients_of_objectives_are_confirmed_and_wrong_ones_are_not():
    for seed in range(200):
        theta, J, g = mdp_objective(seed)
        assert check_gradient(J, g, theta, vectorised=True), seed
        i = seed % len(g)
        wrong = g + (np.arange(len(g)) == i) * 1e-5 * max(np.abs(g).max(), 1e-3)
        result = check_gradient(J, wrong, theta, vectorised=True)
        assert not result, seed
        assert result.wrong.tolist() == [i]


X = np.array([0.5, -1.0, 2.0, 1.5, -0.25, 0.75, 1.25, -1.75])
G = 3 * X**2 + np.cos(X)


def smooth(x):
    return float(np.sum(x**3 + np.sin(x)))


WRONG = {  # a wrong gradient, which components differ, and what must be said
    "sign": (-G, 8, r"the sign is wrong \(claimed = -1 × expected\)"),
    "factor": (0.5 * G, 8, r"a constant factor is wrong \(claimed = 0.5 × expected\)"),
    "negative factor": (-3 * G, 8, r"a constant factor is wrong \(claimed = -3 × expected\)"),
    "slightly too large": (1.001 * G, 8, r"a constant factor is wrong \(claimed = 1.001 × expected\)"),
    "zero": (0 * G, 8, "it is zero everywhere"),
    "permutation": (G[[1, 0, 2, 3, 4, 5, 6, 7]], 2, r"the same numbers stand in another order .*: components 0, 1$"),
    "reversed": (G[::-1], 8, r"the same numbers stand in another order .*: components 0, 1, 2, 3, 4, 5, 6, 7$"),
    "one missing": (np.where(np.arange(8) == 5, 0.0, G), 1, "a term is missing or extra in component 5 only"),
    "two missing": (
        np.where(np.isin(np.arange(8), [3, 6]), 0.0, G),
        2,
        "a term is missing or extra in components 3, 6 only",
    ),
    "one sign": (np.where(np.arange(8) == 2, -G, G), 1, "the sign is wrong in components 2$"),
    "some signs": (np.where(np.arange(8) % 2, -G, G), 4, "the sign is wrong in components 1, 3, 5, 7$"),
    "offset": (G + 0.25, 8, r"every component is off by the same amount \(0.25\)"),
    "nonsense": (
        G * np.linspace(0.5, 2, 8),
        8,
        r"no simple factor, sign or permutation explains it \(cosine with the expected gradient 0.9",
    ),
}


@pytest.mark.parametrize("scale", [1e-170, 1e170])
@pytest.mark.parametrize("name", WRONG)
def test_diagnoses_do_not_depend_on_units(name, scale):
    claimed, n, message = WRONG[name]
    message = message.replace("0.25", "2.5e(-171|\\+169)") if name == "offset" else message
    apart = np.flatnonzero(np.abs(claimed - G) > 1e-12)
    assert re.search(message, diagnose(scale * claimed, scale * G, apart)) and len(apart) == n


@pytest.mark.parametrize("name", WRONG)
def test_diagnoses(name):
    claimed, n, message = WRONG[name]
    result = check_gradient(smooth, claimed, X)
    assert not result
    with pytest.raises(AssertionError):
        assert result

    assert re.search(message, result.diagnosis), result.diagnosis
    assert len(result.wrong) == n
    assert str(result).startswith(
        f"gradient WRONG in {n} of 8 components: {result.diagnosis}\n  component {result.wrong[0]}: claimed "
    )


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    how=st.sampled_from(["sign", "roll", "one", "factor", "offset", "zero"]),
)
def test_wrong_gradients_never_pass_and_right_ones_always(seed, kind, how):
    x, f, g = family(kind, 5, np.random.default_rng(seed))
    assert check_gradient(f, g, x, vectorised=True)
    one = np.arange(5) == seed % 5
    wrong = {
        "sign": -g,
        "roll": np.roll(g, 1),
        "one": np.where(one, 1.001 * g, g),
        "factor": g * 1.0001,
        "offset": g + 1e-4,
        "zero": 0 * g,
    }[how]
    result = check_gradient(f, wrong, x, vectorised=True)
    different = np.abs(wrong - g) > 2 * result.tolerance
    assert set(np.flatnonzero(different)) <= set(result.wrong.tolist())
    assert bool(result) == (not len(result.wrong))


def test_message_of_success_and_of_many_wrong_components():
    assert str(check_gradient(smooth, G, X)).startswith("gradient confirmed: 8 components, largest difference ")
    lines = str(check_gradient(smooth, -G, X)).splitlines()
    assert len(lines) == 7
    assert lines[-1] == "  ... and 3 more"
    order = [int(line.split()[1][:-1]) for line in lines[1:6]]
    assert order == list(np.argsort(-np.abs(2 * G), kind="stable")[:5])
    assert len(str(check_gradient(smooth, np.where(X > 1, 0, G), X)).splitlines()) == 4


def test_many_wrong_components_are_abbreviated():
    x = np.linspace(-1, 1, 12)
    assert (
        "components 0, 1, 2, 3, 4, 5, 6, 7, ..."
        in check_gradient(smooth, (3 * x**2 + np.cos(x)) * np.where(np.arange(12) == 11, 1, -1), x).diagnosis
    )


def test_numbers_of_the_check():
    result = check_gradient(cubes, [3.0, 12.5], [1.0, 2.0], relative=1e-3)
    gradient, bound = finite_difference(cubes, [1.0, 2.0])
    assert np.array_equal(result.expected, gradient)
    assert result.claimed.tolist() == [3.0, 12.5]
    np.testing.assert_allclose(result.tolerance, bound + 1e-3 * gradient.max(), rtol=1e-12)
    assert result.wrong.tolist() == [1]
    assert check_gradient(cubes, [3.0, 12.5], [1.0, 2.0], relative=0.05)


def test_a_gradient_may_be_a_function():
    assert check_gradient(smooth, lambda x: 3 * x**2 + np.cos(x), X)
    assert not check_gradient(smooth, lambda x: 3 * x**2, X)


def test_vectorised_and_single_functions_agree():
    one = check_gradient(smooth, G, X)
    batched = check_gradient(lambda x: np.sum(x**3 + np.sin(x), axis=-1), G, X, vectorised=True)
    np.testing.assert_allclose(one.expected, batched.expected, rtol=1e-9)


def test_step_and_noise_are_passed_on():
    coarse = check_gradient(lambda x: float(np.sum(x**7)), [7.0], [1.0], step=0.5)
    assert coarse.tolerance[0] > 1e-2
    assert check_gradient(cubes, [3.01], [1.0], noise=1e-3)


def test_gradients_of_one_component_and_of_none():
    assert check_gradient(cubes, [-3.0], [1.0]).diagnosis == "the sign is wrong in components 0"
    assert check_gradient(cubes, [4.0], [1.0]).diagnosis == "a term is missing or extra in component 0 only"
    assert check_gradient(lambda x: 1.0, [0.0], [1.0])
    assert check_gradient(lambda x: 1.0, [], [])


def test_a_gradient_that_should_vanish():
    result = check_gradient(lambda x: 1.0, [0.5, 0.5], [1.0, 2.0])
    assert not result
    assert "off by the same amount (0.5)" in result.diagnosis


def test_diagnose_directly():
    e = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    assert diagnose(e * 2, e, np.arange(5)) == "a constant factor is wrong (claimed = 2 × expected)"
    assert diagnose(np.array([1.0, 2.0, 4.0, 8.0, 17.0]), e, [4]) == "a term is missing or extra in component 4 only"
    cosine = (e @ e[[0, 0, 0, 0, 4]]) / np.linalg.norm(e) / np.linalg.norm(e[[0, 0, 0, 0, 4]])
    assert f"{cosine:.4f}" in diagnose(e[[0, 0, 0, 0, 4]], e, [1, 2, 3])


@pytest.mark.parametrize("vectorised", [False, True])
def test_functions_in_single_precision_are_judged_by_their_own_rounding(vectorised):
    """The right gradient passes though f has seven digits, and one wrong by a few percent does not."""

    def f(x):
        value = np.sum(np.asarray(x, dtype=np.float32) ** 3, axis=-1)
        assert value.dtype == np.float32
        return value

    for seed in range(40):
        x = np.random.default_rng(seed).normal(size=4)
        g = 3 * x**2
        assert check_gradient(f, g, x, vectorised=vectorised), seed
        assert not check_gradient(f, -g, x, vectorised=vectorised)
        assert not check_gradient(f, np.where(g == g.max(), 1.05 * g + 0.1, g), x, vectorised=vectorised)
        assert taylor_test(lambda X: f(np.atleast_2d(X)), g, x, rng=seed).passed


def test_check_gradient_refusals():
    for claimed, theta, message in (
        ([1.0, 2.0], [1.0], r"gradient has shape \(2,\); it must have shape \(1,\)"), ([np.nan], [1.0], r"gradient\[0\]=nan"),
        (lambda x: [np.inf], [1.0], r"gradient\[0\]=inf"), ([1.0], [[1.0]], "theta has 2 axes"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            check_gradient(cubes, claimed, theta)
    with pytest.raises(ValueError, match="relative=-1"):
        check_gradient(cubes, [3.0], [1.0], relative=-1)
    with pytest.raises(ValueError, match="f is not finite"):
        check_gradient(lambda x: np.nan, [3.0], [1.0])


CUBE = np.array([0.5, -1.0, 2.0])


@pytest.mark.parametrize("f", [
    lambda x: 1e14 + np.sum(x**3), lambda x: np.float32(1e4) + np.sum(x.astype(np.float32) ** 3),
], ids=["beside a large constant", "in float32"])  # fmt: skip
@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_a_gradient_below_what_differences_can_see_is_not_confirmed(f, factor):
    """Neither the right one nor its opposite; zero is, which claims no more than that."""
    found = check_gradient(f, factor * 3 * CUBE**2, CUBE)
    assert not found and not found.conclusive and not len(found.wrong)
    assert "NOT confirmed" in str(found) and "at most 12" in str(found)
    assert check_gradient(f, np.zeros(3), CUBE).conclusive
    assert check_gradient(lambda x: np.sum(x**3), 3 * CUBE**2, CUBE).conclusive


@pytest.mark.parametrize(
    "check", [lambda f: check_gradient(f, 3 * CUBE**2, CUBE), lambda f: taylor_test(f, 3 * CUBE**2, CUBE, rng=0)]
)
@pytest.mark.parametrize("noise", [1e-3, 1e-12])
def test_a_random_function_is_refused(check, noise):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"f is random: it gave .* for the same theta; fix its seed"):
        check(lambda x: np.sum(x**3, axis=-1) + noise * rng.normal())
