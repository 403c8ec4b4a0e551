"""Four routes to one gradient: they agree on everything right, and any one of them that is wrong is seen."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from problems import PROBLEMS, problems

from reinforce_np import LinearSoftmax, TabularSoftmax, compare_routes, examples, random_mdp
from reinforce_np.checks import routes
from reinforce_np.exact import bellman, derivatives, enumerated
from reinforce_np.policies import softmax

REFEREE = examples.referee()
POLICY = TabularSoftmax(3, 3)
THETA = np.array([0.3, -0.5, 1.0, 0.0, 0.7, -1.2, -0.4, 0.2, 0.9])
PROBLEM = (REFEREE, POLICY, THETA)
NAMES = ["enumeration", "complex_step", "finite_difference"]


def why(comparison):
    """What disagrees, for the message of a failing test."""
    return {
        "objectives": comparison.objectives_agree, "taylor": comparison.taylor.slope,
        **{r.name: (r.disagreement.max(initial=0), r.tolerance.max(initial=0)) for r in comparison.routes if not r.agrees},
    }  # fmt: skip


# --- agreement


@pytest.mark.parametrize("name", PROBLEMS)
def test_routes_agree_on_the_fixed_problems(name):
    comparison = compare_routes(*PROBLEMS[name])
    assert comparison.agree, why(comparison)
    assert [route.name for route in comparison.routes] == NAMES


@given(problem=problems())
def test_routes_agree_on_random_problems(problem):
    comparison = compare_routes(*problem)
    assert comparison.agree, why(comparison)


@pytest.mark.parametrize("largest", [1.0, 37.0, 100.0, 300.0])
def test_routes_agree_for_large_logits(largest):
    for seed in range(15):
        rng = np.random.default_rng(seed)
        comparison = compare_routes(random_mdp(n_actions=3, rng=seed), POLICY, rng.uniform(-largest, largest, size=9))
        assert comparison.agree, (seed, why(comparison))


def test_routes_agree_where_large_logits_nearly_tie():
    """Where a step in proportion to |theta| would be far too long: these models once had differences off their bound."""
    for seed in (0, 1, 36, 79, *range(100, 115)):
        rng = np.random.default_rng(seed)
        theta = rng.choice([-300, 300, 0, 300 * rng.random()], size=9).astype(float)
        comparison = compare_routes(random_mdp(n_actions=3, rng=seed), POLICY, theta)
        assert comparison.agree, (seed, why(comparison))


def test_routes_agree_on_gradients_near_the_smallest_numbers():
    comparison = compare_routes(REFEREE.replace(reward=REFEREE.reward * 1e-295), POLICY, THETA)
    assert comparison.agree, why(comparison)


def test_routes_agree_for_exact_exchanges_of_huge_logits():
    theta = np.array([700.0, 0.0, -700.0, 0.0, 700.0, 700.0, -700.0, -700.0, -700.0])
    comparison = compare_routes(REFEREE, POLICY, theta)
    assert comparison.agree, why(comparison)


@pytest.mark.parametrize("scale", [1e-250, 1e-150, 1e-20, 1e20, 1e150])
def test_routes_agree_in_any_unit_of_reward(scale):
    base = compare_routes(*PROBLEM)
    for seed in range(10):
        comparison = compare_routes(
            random_mdp(n_actions=3, rng=seed).replace(reward=REFEREE_REWARD * scale), POLICY, THETA
        )
        assert comparison.agree, (seed, why(comparison))
    scaled = compare_routes(REFEREE.replace(reward=REFEREE.reward * scale), POLICY, THETA)
    np.testing.assert_allclose(
        [scaled.scale / scale, scaled.objective_tolerance / scale], [base.scale, base.objective_tolerance], rtol=1e-9
    )


REFEREE_REWARD = REFEREE.reward


@pytest.mark.parametrize("offset", [1e3, 1e8, 1e16, -1e16])
def test_routes_agree_with_a_huge_constant_in_every_reward(offset):
    for seed in range(10):
        mdp = random_mdp(n_actions=3, rng=seed)
        comparison = compare_routes(mdp.replace(reward=mdp.reward + offset), POLICY, THETA)
        assert comparison.agree, (seed, why(comparison))


def test_routes_agree_with_masks_temperatures_and_minus_infinity():
    mask = [[True, False, True], [True, True, True], [False, True, True]]
    for policy in (TabularSoftmax(3, 3, mask=mask), TabularSoftmax(3, 3, temperature=0.3), LinearSoftmax(np.random.default_rng(0).normal(size=(3, 3, 2)), temperature=2.0, mask=mask)):  # fmt: skip
        assert compare_routes(REFEREE, policy, THETA[: policy.n_parameters]).agree
    assert compare_routes(REFEREE, POLICY, np.where(np.arange(9) % 4 == 1, -np.inf, THETA)).agree


@pytest.mark.parametrize("horizon", [0, 1, None])
def test_routes_agree_at_other_horizons(horizon):
    comparison = compare_routes(REFEREE.replace(horizon=horizon), POLICY, THETA)
    assert comparison.agree, why(comparison)
    enumeration = comparison.routes[0]
    assert (enumeration.gradient is None) == (horizon is None)
    if horizon is None:
        assert "has a cycle" in enumeration.note


def test_the_record():
    comparison = compare_routes(*PROBLEM)
    assert comparison.objectives.keys() == {"backward", "forward", "enumeration"}
    assert np.ptp(list(comparison.objectives.values())) <= comparison.objective_tolerance < 1e-10
    assert comparison.disagreement == max(route.disagreement.max() for route in comparison.routes)
    assert 0 < comparison.disagreement < 1e-9
    for route in comparison.routes:
        assert route.components.tolist() == list(range(9))
        assert route.note == ""
        np.testing.assert_allclose(route.gradient, comparison.gradient, atol=1e-9)
        np.testing.assert_allclose(np.abs(route.gradient - comparison.gradient), route.disagreement)
    assert all(route.tolerance.max() < 1e-11 for route in comparison.routes[:2])
    assert comparison.routes[2].tolerance.max() < 1e-8


def test_the_scale_is_the_largest_summed_term():
    """With positive rewards nothing cancels in J; the scale of the gradient bounds each of its components."""
    comparison = compare_routes(REFEREE.replace(reward=np.abs(REFEREE.reward)), POLICY, THETA)
    assert np.isclose(comparison.objective_tolerance, 1e-12 * comparison.objectives["backward"])
    assert np.abs(comparison.gradient).max() <= comparison.scale <= 100 * np.abs(comparison.gradient).max()


# --- every single mistake is seen


def doubled(function):
    return lambda *arguments, **options: 2 * function(*arguments, **options)


def slightly(function):
    return lambda *arguments, **options: function(*arguments, **options) * (1 + 1e-6)


def wrong_gamma(mdp, pi, r, gamma):
    yield from ORIGINAL["backward"](mdp, pi, r, 0.99 * gamma)


def short(generator):
    def shorter(mdp, *arguments):
        return generator(mdp.replace(horizon=mdp.horizon - 1), *arguments)

    return shorter


def without_first_step(mdp, pi, r, gamma):
    return (step for step in ORIGINAL["backward"](mdp, pi, r, gamma) if step[0] > 0)


def wrong_probability(*arguments, **options):
    trajectories, p = ORIGINAL["enumerate"](*arguments, **options)
    return type(trajectories)(
        **{f.name: getattr(trajectories, f.name) for f in dataclasses.fields(trajectories)}
    ), p * (1 + 1e-6 * (trajectories.lengths > 2))


def truncated_terminates(mdp, *arguments, **options):
    trajectories, p = ORIGINAL["enumerate"](mdp, *arguments, **options)
    return trajectories, p * ~trajectories.truncated


ORIGINAL = {"backward": bellman.backward, "forward": bellman.forward, "enumerate": enumerated.enumeration.enumerate_trajectories,
            "contract": TabularSoftmax.contract, "score": TabularSoftmax.score, "softmax": softmax.softmax,
            "expected_next": bellman.expected_next, "arrivals": bellman.arrivals}  # fmt: skip

MISTAKES = {
    "contract doubled": (TabularSoftmax, "contract", doubled(ORIGINAL["contract"])),
    "contract off by a millionth": (TabularSoftmax, "contract", slightly(ORIGINAL["contract"])),
    "contract without the mean": (
        TabularSoftmax,
        "contract",
        lambda policy, theta, w, **_: policy.pull_back(np.asarray(w)) / policy.temperature,
    ),
    "contract permuted": (
        TabularSoftmax,
        "contract",
        lambda policy, theta, w, **_: np.roll(ORIGINAL["contract"](policy, theta, w), 1, axis=-1),
    ),
    "contract negated": (
        TabularSoftmax,
        "contract",
        lambda policy, theta, w, **_: -ORIGINAL["contract"](policy, theta, w),
    ),
    "score doubled": (TabularSoftmax, "score", doubled(ORIGINAL["score"])),
    "score off by a millionth": (TabularSoftmax, "score", slightly(ORIGINAL["score"])),
    "softmax of the opposite sign": (
        softmax,
        "softmax",
        lambda z, temperature=1.0: ORIGINAL["softmax"](-z, temperature),
    ),
    "backward with another gamma": (bellman, "backward", wrong_gamma),
    "backward a step short": (
        bellman,
        "backward",
        lambda mdp, pi, r, gamma: ((t + 1, Q, V) for t, Q, V in short(ORIGINAL["backward"])(mdp, pi, r, gamma)),
    ),
    "backward without step 0": (bellman, "backward", without_first_step),
    "forward with another gamma": (
        bellman,
        "forward",
        lambda mdp, pi, gamma: ORIGINAL["forward"](mdp, pi, 0.99 * gamma),
    ),
    "forward undiscounted": (bellman, "forward", lambda mdp, pi, gamma: ORIGINAL["forward"](mdp, pi, 1.0)),
    "values go on after termination": (
        bellman,
        "expected_next",
        lambda mdp, p, V: ORIGINAL["expected_next"](mdp, mdp.probability, V),
    ),
    "enumeration off by a millionth": (enumerated.enumeration, "enumerate_trajectories", wrong_probability),
    "enumeration forgets the truncated": (enumerated.enumeration, "enumerate_trajectories", truncated_terminates),
    "enumerated return undiscounted": (
        enumerated,
        "_returns",
        lambda trajectories, *_: trajectories.rewards.sum(axis=1),
    ),
    "gradient forgets pi": (
        derivatives,
        "score_weights",
        lambda mdp, policy, theta, **o: np.array([1.1, 1, 1]) * WEIGHTS(mdp, policy, theta, **o),
    ),
    "complex step halved": (routes, "complex_step", lambda *a, **o: 0.5 * STEP(*a, **o)),
    "differences negated": (
        routes,
        "finite_difference",
        lambda *a, **o: type(d := DIFFERENCE(*a, **o))(-d.gradient, d.error_bound),
    ),
}
WEIGHTS, STEP, DIFFERENCE = derivatives.score_weights, routes.complex_step, routes.finite_difference


@pytest.mark.parametrize("name", MISTAKES)
def test_a_single_mistake_is_seen(monkeypatch, name):
    module, attribute, mistake = MISTAKES[name]
    monkeypatch.setattr(module, attribute, mistake)
    assert not compare_routes(*PROBLEM).agree


def test_who_disagrees_points_at_the_mistake(monkeypatch):
    monkeypatch.setattr(TabularSoftmax, "score", doubled(ORIGINAL["score"]))
    only_enumeration = compare_routes(*PROBLEM)
    assert [route.agrees for route in only_enumeration.routes] == [False, True, True]
    assert only_enumeration.objectives_agree
    assert only_enumeration.taylor.passed
    monkeypatch.undo()
    monkeypatch.setattr(TabularSoftmax, "contract", doubled(ORIGINAL["contract"]))
    all_against_recursion = compare_routes(*PROBLEM)
    assert not any(route.agrees for route in all_against_recursion.routes)
    assert all_against_recursion.objectives_agree
    assert not all_against_recursion.taylor.passed
    monkeypatch.undo()
    monkeypatch.setattr(bellman, "forward", lambda mdp, pi, gamma: ORIGINAL["forward"](mdp, pi, 0.99 * gamma))
    assert not compare_routes(*PROBLEM).objectives_agree


def test_the_taylor_test_alone_is_enough_to_disagree(monkeypatch):
    monkeypatch.setattr(
        routes, "taylor_test", lambda *a, **o: routes.TaylorTest(1.0, np.zeros(1), np.zeros(1), False, True)
    )
    comparison = compare_routes(*PROBLEM)
    assert not comparison.agree
    assert comparison.objectives_agree
    assert all(route.agrees for route in comparison.routes)


def test_one_wrong_objective_alone_is_enough_to_disagree(monkeypatch):
    original = routes._objective_forward
    monkeypatch.setattr(routes, "_objective_forward", lambda *a: original(*a) * (1 + 1e-10))
    comparison = compare_routes(*PROBLEM)
    assert not comparison.agree
    assert not comparison.objectives_agree
    assert all(route.agrees for route in comparison.routes)
    monkeypatch.setattr(routes, "_objective_forward", original)
    by_list = routes.objective_by_enumeration
    monkeypatch.setattr(routes, "objective_by_enumeration", lambda *a, **o: by_list(*a, **o) * (1 - 1e-10))
    assert not compare_routes(*PROBLEM).agree


# --- too large


def test_a_large_model_is_refused_by_enumeration_alone():
    comparison = compare_routes(*PROBLEM, limit=1000)
    enumeration = comparison.routes[0]
    assert enumeration.gradient is None
    assert enumeration.disagreement.size == 0
    assert enumeration.agrees
    assert "refused" in enumeration.note
    assert "1363 trajectories" in enumeration.note
    assert comparison.objectives["enumeration"] is None
    assert comparison.agree
    assert compare_routes(*PROBLEM, limit=1363).routes[0].gradient is not None


def test_large_work_takes_a_subset_of_the_components():
    cell = REFEREE.probability.size * 4
    comparison = compare_routes(*PROBLEM, work=4 * cell * 5, rng=1)
    _, by_step, by_difference = comparison.routes
    assert len(by_step.components) == 5
    assert len(by_difference.components) == 3
    assert by_step.note == "5 of 9 components, chosen at random (all of them would take too long)"
    assert by_difference.note.startswith("3 of 9 components")
    assert np.all(np.diff(by_step.components) > 0)
    assert np.abs(by_step.gradient - comparison.gradient[by_step.components]).max() < 1e-12
    assert comparison.agree
    assert compare_routes(*PROBLEM, work=1).routes[1].gradient.shape == (1,)
    assert compare_routes(*PROBLEM, work=6 * cell * 9).routes[2].note == ""


def test_subsets_are_random_and_repeat():
    def chosen(rng):
        return compare_routes(*PROBLEM, work=4 * 72 * 3, rng=rng).routes[1].components.tolist()

    assert chosen(0) == chosen(0)
    assert len({tuple(chosen(seed)) for seed in range(8)}) > 1


def test_without_horizon_the_work_is_that_of_a_linear_system():
    comparison = compare_routes(REFEREE.replace(horizon=None), POLICY, THETA, work=4 * 27 * 2)
    assert len(comparison.routes[1].components) == 2


def test_a_mistake_in_one_component_is_seen_among_all(monkeypatch):
    def wrong(policy, theta, w, **_):
        return ORIGINAL["contract"](policy, theta, w) * np.where(np.arange(9) == 7, 1 + 3e-11, 1.0)

    monkeypatch.setattr(TabularSoftmax, "contract", wrong)
    comparison = compare_routes(*PROBLEM)
    assert [route.agrees for route in comparison.routes] == [False, False, True]  # differences do not see 3e-11
    assert np.argmax(comparison.routes[1].disagreement) == 7


@pytest.mark.parametrize(("theta", "message"), [
    (np.zeros(8), r"theta has shape \(8,\); it must have shape \(9,\)"), (np.zeros((2, 9)), "theta has shape"), (np.full(9, np.nan), r"theta\[0\]=nan"),
])  # fmt: skip
def test_refusals(theta, message):
    with pytest.raises(ValueError, match=message):
        compare_routes(REFEREE, POLICY, theta)
    with pytest.raises(ValueError, match="build the policy for this model"):
        compare_routes(REFEREE, TabularSoftmax(4, 3), np.zeros(12))
