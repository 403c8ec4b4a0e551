"""The oracle against itself and against answers found on paper, all in exact fractions."""

import ast
import math
import random
from fractions import Fraction as F
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import reference

GAMMA = F(1, 2)


def model(probability, next_state, reward, terminated, initial, gamma=GAMMA, horizon=3):
    return SimpleNamespace(
        probability=probability, next_state=next_state, reward=reward, terminated=terminated,
        initial=initial, gamma=gamma, horizon=horizon,
    )  # fmt: skip


def bandit(rewards):
    A = len(rewards)
    return model([[[1]] * A], [[[0]] * A], [[[r] for r in rewards]], [[[True]] * A], [1], horizon=1)


def chain(gamma=GAMMA):
    """State 0: stop and be paid 1, or go on to state 1 for nothing. State 1: stop and be paid 3, or stop for nothing."""
    ends = [[[True], [False]], [[True], [True]]]
    return model([[[1], [1]]] * 2, [[[1], [1]]] * 2, [[[1], [0]], [[3], [0]]], ends, [1, 0], gamma, horizon=2)


CHAIN_PI = [[F(1, 3), F(2, 3)], [F(1, 4), F(3, 4)]]


def random_rationals(rng, n, zero_at=None):
    """n probabilities summing to exactly one."""
    counts = [0 if i == zero_at else rng.randint(1, 5) for i in range(n)]
    return [F(c, sum(counts)) for c in counts]


def random_problem(seed, S=2, A=2, K=2, horizon=3):
    """A model and the unnormalised weights of a softmax policy, with some impossible and some final outcomes."""
    rng = random.Random(seed)
    pairs = [(s, a) for s in range(S) for a in range(A)]

    def table(entry):
        return [[entry(s * A + a) for a in range(A)] for s in range(S)]

    impossible = rng.choice(range(len(pairs)))
    mdp = model(
        probability=table(lambda i: random_rationals(rng, K, zero_at=0 if i == impossible else None)),
        next_state=table(lambda i: [rng.randrange(S) for _ in range(K)]),
        reward=table(lambda i: [F(rng.randint(-6, 6), 3) for _ in range(K)]),
        terminated=table(lambda i: [rng.random() < 0.2 for _ in range(K)]),
        initial=random_rationals(rng, S), gamma=F(rng.randint(1, 4), 5), horizon=horizon,
    )  # fmt: skip
    return mdp, [[rng.randint(1, 5) for _ in range(A)] for _ in range(S)]


def normalised(weights):
    return [[F(w, sum(row)) for w in row] for row in weights]


def tabular_score(pi):
    features = reference.tabular_features(len(pi), len(pi[0]))
    return lambda s, a: reference.score_exact(features, pi, s, a)


def random_features(seed, S=2, A=2, D=3):
    rng = random.Random(seed)
    return [[[F(rng.randint(-4, 4), 2) for _ in range(D)] for _ in range(A)] for _ in range(S)]


SEEDS = range(3)


def test_imports_only_the_standard_library():
    tree = ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"functools", "itertools", "math", "fractions"}


# ---- paper answers


def test_chain_trajectories_by_hand():
    assert list(reference.trajectories(chain(), CHAIN_PI)) == [
        (F(1, 3), [(0, 0, 1)], True, 1),
        (F(1, 6), [(0, 1, 0), (1, 0, 3)], True, 1),
        (F(1, 2), [(0, 1, 0), (1, 1, 0)], True, 1),
    ]
    assert reference.count_trajectories(chain(), CHAIN_PI) == 3


def test_chain_by_hand():
    mdp = chain()
    assert reference.objective(mdp, CHAIN_PI) == F(7, 12)  # 1/3 + γ 2/3 1/4 3
    assert reference.objective(mdp, CHAIN_PI, gamma=1) == F(5, 6)
    assert reference.values(mdp, CHAIN_PI) == [[F(7, 12), F(3, 4)], [F(1, 3), F(3, 4)], [0, 0]]
    assert reference.action_values(mdp, CHAIN_PI) == [[[1, F(3, 8)], [3, 0]], [[1, 0], [3, 0]]]
    assert reference.occupancy(mdp, CHAIN_PI) == [[1, 0], [0, F(1, 3)]]  # γ 2/3
    gradient = reference.gradient_by_log_derivative(mdp, CHAIN_PI, tabular_score(CHAIN_PI))
    assert gradient == [F(5, 36), -F(5, 36), F(3, 16), -F(3, 16)]  # d π (Q − V)
    assert reference.derivative_in_probabilities(mdp, CHAIN_PI) == [[1, F(3, 8)], [1, 0]]  # d Q


def test_chain_without_the_discount_on_the_score_is_the_gradient_of_neither_objective():
    mdp, score = chain(), tabular_score(CHAIN_PI)

    def dropped(steps, terminated, final_state):
        return reference.reinforce(steps, score, mdp.gamma, "to_go", discounted_score=False)

    mean, _ = reference.estimator_mean_and_second_moment(mdp, CHAIN_PI, dropped)
    assert mean == [F(5, 36), -F(5, 36), F(3, 8), -F(3, 8)]  # the second step counts 1/γ times too much
    undiscounted = reference.gradient_by_log_derivative(mdp, CHAIN_PI, score, gamma=1)
    assert undiscounted == [F(1, 18), -F(1, 18), F(3, 8), -F(3, 8)]


@pytest.mark.parametrize("rewards", [[1, 0], [F(1, 2), -3, 4]])
def test_bandit_gradient_is_probability_times_advantage(rewards):
    pi = normalised([[1, 2, 4][: len(rewards)]])
    J = sum(p * r for p, r in zip(pi[0], rewards, strict=True))
    gradient = reference.gradient_by_log_derivative(bandit(rewards), pi, tabular_score(pi))
    assert gradient == [p * (r - J) for p, r in zip(pi[0], rewards, strict=True)]


def test_bandit_covariance_by_hand():
    pi = [[F(1, 4), F(3, 4)]]
    score = tabular_score(pi)  # of action 0: (3/4, −3/4), the only one that is paid
    mean, covariance = reference.estimator_mean_and_second_moment(
        bandit([1, 0]), pi, lambda steps, *_: reference.reinforce(steps, score, 1)
    )
    c = F(27, 256)  # 1/4 (3/4)² − (3/16)²
    assert mean == [F(3, 16), -F(3, 16)]
    assert covariance == [[c, -c], [-c, c]]


# ---- trajectories


@pytest.mark.parametrize("seed", SEEDS)
def test_probabilities_of_trajectories_sum_to_one(seed):
    mdp, weights = random_problem(seed)
    total, ends = F(0), set()
    for p, steps, terminated, _ in reference.trajectories(mdp, normalised(weights)):
        assert p > 0 and (terminated or len(steps) == mdp.horizon)
        total += p
        ends.add(terminated)
    assert total == F(1) and isinstance(total, F)
    assert ends == {True, False}  # otherwise half of the claim above was not tried


def test_truncation_reports_the_state_it_stopped_in():
    ring = model([[[1]]] * 2, [[[1]], [[0]]], [[[5]], [[7]]], [[[False]]] * 2, [1, 0])
    assert list(reference.trajectories(ring, [[1], [1]])) == [(1, [(0, 0, 5), (1, 0, 7), (0, 0, 5)], False, 1)]


def test_termination_at_the_horizon_is_termination():
    assert [end for _, _, end, _ in reference.trajectories(bandit([1, 0]), [[F(1, 2), F(1, 2)]])] == [True, True]


def test_horizon_zero_gives_empty_episodes():
    mdp, weights = random_problem(0, horizon=0)
    pi = normalised(weights)
    assert list(reference.trajectories(mdp, pi)) == [(p, [], False, s) for s, p in enumerate(mdp.initial)]
    assert (reference.objective(mdp, pi), reference.occupancy(mdp, pi), reference.values(mdp, pi)) == (0, [], [[0, 0]])
    assert reference.gradient_by_log_derivative(mdp, pi, tabular_score(pi)) == [0] * 4
    assert reference.reinforce([], tabular_score(pi), 1) == [0] * 4


def test_impossible_outcomes_actions_and_starts_are_skipped():
    mdp = model([[[0, 1], [1, 0]]] * 2, [[[0, 0]] * 2] * 2, [[[9, 1], [2, 9]]] * 2, [[[True] * 2] * 2] * 2, [0, 1])
    assert list(reference.trajectories(mdp, [[1, 0], [0, 1]])) == [(1, [(1, 1, 2)], True, 0)]


def test_infinite_horizon_is_refused():
    with pytest.raises(ValueError, match="horizon=None"):
        list(reference.trajectories(model([[[1]]], [[[0]]], [[[0]]], [[[True]]], [1], horizon=None), [[1]]))


def test_numpy_arrays_and_lists_of_floats_are_exact_too():
    tables = [
        [[[0.25, 0.75]] * 2] * 2,
        [[[0, 1]] * 2] * 2,
        [[[0.1, -2.0]] * 2] * 2,
        [[[False, True]] * 2] * 2,
        [0.5, 0.5],
    ]
    pi = [[0.375, 0.625], [0.5, 0.5]]
    lists, arrays = model(*tables, gamma=0.9), model(*map(np.array, tables), gamma=np.float64(0.9))
    assert reference.objective(lists, pi) == reference.objective(arrays, np.array(pi))
    assert type(reference.objective(arrays, np.array(pi)).numerator) is int  # not an int64 that overflows
    assert reference.values(lists, pi) == reference.values(arrays, np.array(pi))
    assert reference.occupancy(lists, pi) == reference.occupancy(arrays, np.array(pi))


@pytest.mark.parametrize("x", [3, 0.1, np.int64(2**62 + 1), np.float32(0.1), np.float64(0.1), F(1, 3), np.True_])
def test_exact_does_not_round(x):
    assert reference.exact(x) == (x.item() if isinstance(x, np.generic) else x)


@pytest.mark.parametrize("x", [math.nan, math.inf, np.float64("-inf"), 1j, None])
def test_exact_refuses_what_is_no_number(x):
    with pytest.raises((ValueError, OverflowError, TypeError)):
        reference.exact(x)


def test_vectors_of_different_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        reference.moments([(F(1, 2), [1, 2]), (F(1, 2), [1])])


# ---- recursions against enumeration


@pytest.mark.parametrize("seed", SEEDS)
def test_values_give_the_objective(seed):
    mdp, weights = random_problem(seed)
    pi = normalised(weights)
    V, Q = reference.values(mdp, pi), reference.action_values(mdp, pi)
    assert (len(V), len(Q)) == (mdp.horizon + 1, mdp.horizon)
    assert sum(p * v for p, v in zip(mdp.initial, V[0], strict=True)) == reference.objective(mdp, pi)
    for t in range(mdp.horizon):
        assert V[t] == [sum(p * q for p, q in zip(pi[s], Q[t][s], strict=True)) for s in range(2)]
        later = SimpleNamespace(**vars(mdp) | {"horizon": mdp.horizon - t, "initial": [0, 1]})
        assert V[t][1] == reference.objective(later, pi)


@pytest.mark.parametrize("seed", SEEDS)
def test_occupancy_is_a_count_of_visits_and_gives_the_objective(seed):
    mdp, weights = random_problem(seed)
    pi = normalised(weights)
    visits = [[F(0), F(0)] for _ in range(mdp.horizon)]
    for p, steps, _, _ in reference.trajectories(mdp, pi):
        for t, (s, _, _) in enumerate(steps):
            visits[t][s] += p * mdp.gamma**t
    d = reference.occupancy(mdp, pi)
    assert d == visits
    one_step = SimpleNamespace(**vars(mdp) | {"horizon": 1})  # whose V[0] is the expected reward of a state
    mean_reward = reference.values(one_step, pi)[0]
    assert sum(d[t][s] * mean_reward[s] for t in range(mdp.horizon) for s in range(2)) == reference.objective(mdp, pi)


# ---- softmax and scores


def test_softmax():
    assert math.fsum(reference.softmax([0.3, -1.2, 2.0])) == pytest.approx(1, rel=1e-15)
    assert reference.softmax([math.log(1), math.log(3)]) == pytest.approx([0.25, 0.75], rel=1e-15)
    assert reference.softmax([800.0, 0.0, -800.0]) == [1.0, 0.0, 0.0]
    assert reference.softmax([1.0, 3.0], temperature=2) == reference.softmax([0.5, 1.5])


def test_three_routes_to_the_score_agree():
    weights = [[1, 2, 5], [3, 1, 1]]
    theta = [math.log(w) for row in weights for w in row]
    features = reference.tabular_features(2, 3)
    score = tabular_score(normalised(weights))
    for s in range(2):
        for a in range(3):
            by_formula = reference.score_tabular(theta, s, a, 2, 3)
            assert by_formula == pytest.approx(reference.score_linear(features, theta, s, a), rel=1e-15, abs=1e-15)
            assert by_formula == pytest.approx([float(x) for x in score(s, a)], rel=1e-14, abs=1e-15)


def test_score_is_the_difference_quotient_of_the_log_probability():
    features, theta, h = random_features(5), [0.3, -0.7, 0.2], 1e-5
    for s, a in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        for d, x in enumerate(reference.score_linear(features, theta, s, a)):
            log_pi = []
            for sign in (1, -1):
                moved = [y + sign * h * (e == d) for e, y in enumerate(theta)]
                logits = [math.fsum(u * v for u, v in zip(phi, moved, strict=True)) for phi in features[s]]
                log_pi.append(math.log(reference.softmax(logits)[a]))
            assert x == pytest.approx((log_pi[0] - log_pi[1]) / (2 * h), abs=1e-9)


def test_temperature_divides_the_logits_and_the_score():
    theta, features = [0.3, -0.7, 0.2, 1.1], reference.tabular_features(2, 2)
    expected = [x / 4 for x in reference.score_tabular([x / 4 for x in theta], 1, 0, 2, 2)]
    assert reference.score_tabular(theta, 1, 0, 2, 2, temperature=4) == expected
    assert reference.score_linear(features, theta, 1, 0, temperature=4) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_expected_score_is_zero(seed):
    mdp, weights = random_problem(seed)
    pi, features = normalised(weights), random_features(seed)
    for s in range(2):
        per_action = [reference.score_exact(features, pi, s, a) for a in range(2)]
        assert [sum(p * x[d] for p, x in zip(pi[s], per_action, strict=True)) for d in range(3)] == [0, 0, 0]

    def sum_of_scores(steps, terminated, final_state):
        return [sum(reference.score_exact(features, pi, s, a)[d] for s, a, _ in steps) for d in range(3)]

    assert reference.estimator_mean_and_second_moment(mdp, pi, sum_of_scores)[0] == [0, 0, 0]


# ---- the gradient


@pytest.mark.parametrize("gamma", [None, 1, 0])
@pytest.mark.parametrize("seed", SEEDS)
def test_gradient_by_log_derivative_equals_gradient_by_quotient(seed, gamma):
    mdp, weights = random_problem(seed)
    pi = normalised(weights)
    for features in (reference.tabular_features(2, 2), random_features(seed)):
        by_quotient = reference.gradient_by_quotient(
            mdp, pi, lambda s, a, phi=features: reference.softmax_derivative(phi, weights, s, a), gamma
        )
        by_score = reference.gradient_by_log_derivative(
            mdp, pi, lambda s, a, phi=features: reference.score_exact(phi, pi, s, a), gamma
        )
        assert by_score == by_quotient
        assert any(by_score)


@pytest.mark.parametrize("seed", SEEDS)
def test_policy_gradient_theorem(seed):
    mdp, weights = random_problem(seed)
    pi, features = normalised(weights), random_features(seed)
    d, Q = reference.occupancy(mdp, pi), reference.action_values(mdp, pi)
    theorem = [F(0)] * 3
    for t, s, a in [(t, s, a) for t in range(mdp.horizon) for s in range(2) for a in range(2)]:
        for i, x in enumerate(reference.score_exact(features, pi, s, a)):
            theorem[i] += d[t][s] * pi[s][a] * Q[t][s][a] * x
    assert theorem == reference.gradient_by_log_derivative(
        mdp, pi, lambda s, a: reference.score_exact(features, pi, s, a)
    )


def test_gradient_from_theta_in_floats_is_the_difference_quotient_of_the_objective():
    mdp, _ = random_problem(1)
    theta, h = [0.2, -0.5, 0.9, 0.1], 1e-5

    def J(theta):
        return float(reference.objective(mdp, [reference.softmax(theta[:2]), reference.softmax(theta[2:])]))

    pi = [reference.softmax(theta[:2]), reference.softmax(theta[2:])]
    gradient = reference.gradient_by_log_derivative(mdp, pi, lambda s, a: reference.score_tabular(theta, s, a, 2, 2))
    for d in range(4):
        up, down = ([x + sign * h * (e == d) for e, x in enumerate(theta)] for sign in (1, -1))
        assert float(gradient[d]) == pytest.approx((J(up) - J(down)) / (2 * h), abs=1e-9)


def test_derivative_in_probabilities_sees_actions_that_are_never_taken():
    assert reference.derivative_in_probabilities(bandit([2, 7]), [[1, 0]]) == [[2, 7]]


def test_derivative_in_probabilities_is_an_exact_difference_quotient():
    mdp, weights = random_problem(2, horizon=2)  # J is then a quadratic in one entry: central differences are exact
    pi = normalised(weights)
    derivative = reference.derivative_in_probabilities(mdp, pi)
    for s, a in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        J = []
        for h in (F(1, 10), -F(1, 10)):
            moved = [row[:] for row in pi]
            moved[s][a] += h
            J.append(reference.objective(mdp, moved))
        assert derivative[s][a] == (J[0] - J[1]) / F(1, 5)


# ---- estimators


@pytest.mark.parametrize("baseline", [None, lambda t, s: F(7, 3) + t - 2 * s], ids=["no baseline", "baseline"])
@pytest.mark.parametrize("kind", ["total", "to_go"])
@pytest.mark.parametrize("seed", SEEDS)
def test_reinforce_is_unbiased(seed, kind, baseline):
    mdp, weights = random_problem(seed)
    pi = normalised(weights)
    score = tabular_score(pi)
    mean, covariance = reference.estimator_mean_and_second_moment(
        mdp, pi, lambda steps, *_: reference.reinforce(steps, score, mdp.gamma, kind, baseline)
    )
    assert mean == reference.gradient_by_log_derivative(mdp, pi, score)
    assert all(covariance[d][e] == covariance[e][d] for d in range(4) for e in range(4))
    assert all(covariance[d][d] > 0 for d in range(4))


@pytest.mark.parametrize("seed", SEEDS)
def test_leaving_out_the_discount_of_the_score_is_biased(seed):
    mdp, weights = random_problem(seed)
    pi = normalised(weights)
    score = tabular_score(pi)
    mean, _ = reference.estimator_mean_and_second_moment(
        mdp, pi, lambda steps, *_: reference.reinforce(steps, score, mdp.gamma, "to_go", discounted_score=False)
    )
    assert mean != reference.gradient_by_log_derivative(mdp, pi, score)
    assert mean != reference.gradient_by_log_derivative(mdp, pi, score, gamma=1)


def test_reinforce_by_hand():
    def score(s, a):
        return [1, 10 * s + a]

    steps = [(1, 0, 4), (2, 1, 2)]  # R = 4 + 2/2 = 5, G = 5, 2
    assert reference.reinforce(steps, score, GAMMA) == [10, 5 * 10 + 5 * 21]
    assert reference.reinforce(steps, score, GAMMA, "to_go") == [6, 5 * 10 + GAMMA * 2 * 21]
    assert reference.reinforce(steps, score, GAMMA, "to_go", discounted_score=False) == [7, 5 * 10 + 2 * 21]
    assert reference.reinforce(steps, score, GAMMA, "to_go", lambda t, s: t + s) == [F(7, 2), 4 * 10 - GAMMA * 21]
    assert reference.reinforce(steps, score, GAMMA, "total", lambda t, s: t + s) == [6, 4 * 10 + 2 * 21]


@pytest.mark.parametrize(("kind", "discounted_score"), [("togo", True), ("total", False)])
def test_reinforce_refuses_what_has_no_meaning(kind, discounted_score):
    with pytest.raises(ValueError, match="only 'to_go'"):
        reference.reinforce([], lambda s, a: [0], 1, kind, discounted_score=discounted_score)


def test_the_mean_over_a_batch_has_the_same_mean_and_one_nth_of_the_covariance():
    mdp, score = chain(), tabular_score(CHAIN_PI)

    def one(steps, terminated, final_state):
        return reference.reinforce(steps, score, mdp.gamma, "to_go")

    def average(batch):
        return [sum(column) / 3 for column in zip(*(one(*episode) for episode in batch), strict=True)]

    mean, covariance = reference.estimator_mean_and_second_moment(mdp, CHAIN_PI, one)
    batch_mean, batch_covariance = reference.batch_mean_and_second_moment(mdp, CHAIN_PI, average, 3)
    assert batch_mean == reference.batch_mean(mdp, CHAIN_PI, average, 3) == mean
    assert batch_covariance == [[x / 3 for x in row] for row in covariance]


@pytest.mark.parametrize("n", [2, 3])
def test_leave_one_out_is_unbiased_and_the_batch_mean_as_baseline_shrinks_by_one_nth(n):
    mdp, score = chain(), tabular_score(CHAIN_PI)

    def estimate(batch, leave_one_out):
        R = [reference.discounted_return(steps, mdp.gamma) for steps, *_ in batch]
        result = [F(0)] * 4
        for i, (steps, *_) in enumerate(batch):
            b = (sum(R) - R[i]) / (n - 1) if leave_one_out else sum(R) / n
            for d, x in enumerate(reference.reinforce(steps, score, mdp.gamma, "total", lambda t, s, b=b: b)):
                result[d] += x / n
        return result

    gradient = reference.gradient_by_log_derivative(mdp, CHAIN_PI, score)
    assert reference.batch_mean(mdp, CHAIN_PI, lambda batch: estimate(batch, True), n) == gradient
    shrunk = reference.batch_mean(mdp, CHAIN_PI, lambda batch: estimate(batch, False), n)
    assert shrunk == [x * F(n - 1, n) for x in gradient]
