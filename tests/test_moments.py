"""Exact moments of an estimate by recursion, against the list of all trajectories."""

import math

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from problems import PROBLEMS, Problem, problems, reward_scale, score_by_loops, table
from tolerances import assert_exact

from reinforce_np import (
    Estimator,
    RewardToGo,
    TabularSoftmax,
    TotalReturn,
    algorithms,
    enumerate_trajectories,
    exact,
    examples,
    sample,
)
from reinforce_np.exact import recursion
from reinforce_np.exact.laws import directional_moments

REFEREE = examples.referee()
POLICY = TabularSoftmax(3, 3)
THETA = np.array([0.3, -0.5, 1.0, 0.0, 0.7, -1.2, -0.4, 0.2, 0.9])
DIRECTIONS = np.concatenate([np.eye(9), np.random.default_rng(0).normal(size=(3, 9)), np.zeros((1, 9))])
FALSE_ALARM = 1e-9


def compare(estimator, problem, directions):
    """Assert mean, second moment and range of v·ĝ against all trajectories."""
    trajectories, p = enumerate_trajectories(*problem)
    estimates = estimator.per_trajectory(trajectories, *problem) @ directions.T
    moments = directional_moments(estimator, *problem, directions)
    b = np.abs(estimator.advantage.baseline).max(initial=0.0)
    score = np.abs(problem.policy.score(problem.theta) @ directions.T).max(axis=(0, 1))
    largest = (reward_scale(problem.mdp) + b) * (problem.mdp.horizon or 1) * np.maximum(score, 1e-300)
    assert_exact(moments.mean, p @ estimates, largest)
    assert_exact(moments.second_moment, p @ estimates**2, largest**2)
    assert_exact(moments.variance, np.maximum(p @ estimates**2 - (p @ estimates) ** 2, 0), largest**2)
    slack = 1e-12 * largest
    assert np.all(moments.low - slack <= estimates.min(axis=0))
    assert np.all(estimates.max(axis=0) <= moments.high + slack)
    return moments, estimates


def advantages(mdp, values):
    yield from (
        TotalReturn(),
        TotalReturn(1.5),
        RewardToGo(),
        RewardToGo(-0.75),
        RewardToGo(np.linspace(-1, 2, mdp.n_states)),
    )
    yield from (RewardToGo(values), RewardToGo(values[:-1]))


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_moments_and_range_on_the_fixed_problems(problem):
    D = problem.policy.n_parameters
    directions = np.concatenate([np.eye(D)[:6], np.random.default_rng(0).normal(size=(2, D))])
    for advantage in advantages(problem.mdp, exact.values(*problem)):
        compare(Estimator(advantage), problem, directions)
        if isinstance(advantage, RewardToGo):
            compare(Estimator(advantage, discounted_score=False), problem, directions)


@given(problem=problems(extreme=True), data=st.data())
def test_moments_and_range_of_random_problems(problem, data):
    T, S, D = problem.mdp.horizon, problem.mdp.n_states, problem.policy.n_parameters
    shape = data.draw(st.sampled_from([(), (S,), (max(T, 1), S), (T + 1, S)]))
    baseline = np.cos(np.arange(np.prod(shape, dtype=int))).reshape(shape)
    directions = np.concatenate([np.eye(D), [np.sin(1.0 + np.arange(D))]])
    compare(Estimator(RewardToGo(baseline), discounted_score=data.draw(st.booleans())), problem, directions)
    compare(Estimator(TotalReturn(float(baseline.ravel()[0]) if baseline.size else 0.0)), problem, directions)


@pytest.mark.parametrize("kind", ["total", "to_go"])
def test_covariance_in_fractions(kind):
    """The oracle shares no line with the package; E[XY] = (E[(X+Y)²] − E[(X−Y)²])/4."""
    mdp, psi = REFEREE.replace(horizon=2), score_by_loops(POLICY, THETA)
    mean, covariance = reference.estimator_mean_and_second_moment(
        mdp,
        table(POLICY, THETA),
        lambda steps, *_: reference.reinforce(steps, lambda s, a: psi[s, a], mdp.gamma, kind, lambda t, s: 0.5),
    )
    estimator = Estimator(TotalReturn(0.5) if kind == "total" else RewardToGo(0.5))
    e = np.eye(9)
    plus, minus = (directional_moments(estimator, mdp, POLICY, THETA, e[0] + sign * e) for sign in (1, -1))
    assert_exact((plus.mean + minus.mean) / 2, np.full(9, float(mean[0])), scale=10)
    assert_exact((plus.variance - minus.variance) / 4, np.array(covariance[0], dtype=float), scale=10)


def test_the_range_is_attained_after_one_step():
    problem = Problem(REFEREE.replace(horizon=1), POLICY, THETA)
    for advantage in (RewardToGo(0.3), TotalReturn(0.3)):
        moments, estimates = compare(Estimator(advantage), problem, np.eye(9))
        if isinstance(advantage, RewardToGo):
            assert_exact(moments.low, estimates.min(axis=0), scale=10)
            assert_exact(moments.high, estimates.max(axis=0), scale=10)


def test_the_range_is_not_uselessly_wide():
    for advantage in (RewardToGo(), TotalReturn()):
        moments, estimates = compare(Estimator(advantage), Problem(REFEREE, POLICY, THETA), np.eye(9))
        assert np.all(moments.high - moments.low <= 4 * np.ptp(estimates, axis=0))


@pytest.mark.parametrize("impossible", [1e6, -1e6])
def test_impossible_outcomes_do_not_widen_the_range(impossible):
    reward = np.array(REFEREE.reward)
    reward[0, 1] = impossible
    problem = Problem(
        REFEREE.replace(reward=reward), TabularSoftmax(3, 3, mask=[[True, False, True], [True] * 3, [True] * 3]), THETA
    )
    for advantage in (RewardToGo(), TotalReturn()):
        moments, _ = compare(Estimator(advantage), problem, np.eye(9))
        assert max(-moments.low.min(), moments.high.max()) < 1e3


def test_states_that_cannot_start_do_not_widen_the_range():
    mdp = examples.short_corridor(horizon=1)
    reward = np.array(mdp.reward)
    reward[2] = 1e6
    for advantage in (RewardToGo(), TotalReturn()):
        moments = directional_moments(
            Estimator(advantage), mdp.replace(reward=reward), TabularSoftmax(4, 2), np.zeros(8), np.eye(8)
        )
        assert max(-moments.low.min(), moments.high.max()) <= 1.0


def test_directions_are_rows_and_scale():
    one = directional_moments(algorithms.reinforce(), REFEREE, POLICY, THETA, DIRECTIONS)
    two = directional_moments(algorithms.reinforce(), REFEREE, POLICY, THETA, -2 * DIRECTIONS)
    assert one.mean.shape == (13,)
    assert_exact(two.mean, -2 * one.mean)
    assert_exact(two.second_moment, 4 * one.second_moment)
    assert_exact(two.low, -2 * one.high)
    assert_exact(one.mean, DIRECTIONS @ exact.gradient(REFEREE, POLICY, THETA))


def test_no_steps():
    for advantage in (RewardToGo(2.0), TotalReturn(2.0)):
        moments = directional_moments(Estimator(advantage), REFEREE.replace(horizon=0), POLICY, THETA, np.eye(9))
        assert not np.any([moments.mean, moments.second_moment, moments.low, moments.high, moments.variance])


def test_a_deterministic_policy_has_no_variance():
    theta = np.tile([0.0, -np.inf, -np.inf], 3)
    moments = directional_moments(algorithms.reinforce(), REFEREE, POLICY, theta, np.eye(9))
    assert not np.any([moments.mean, moments.second_moment, moments.low, moments.high])


# --- without a horizon


@pytest.mark.parametrize(("gamma", "baseline"), [
    (0.9, 1.25), *[(gamma, np.array([0.5, -1.0, 2.0])) for gamma in (0.0, 0.5, 1.0)],
])  # fmt: skip
def test_without_horizon_the_limit_of_long_ones(gamma, baseline):
    mdp = REFEREE.replace(gamma=gamma, horizon=None)
    for discounted in (True, False):
        estimator = Estimator(RewardToGo(baseline), discounted_score=discounted)
        endless = directional_moments(estimator, mdp, POLICY, THETA, DIRECTIONS)
        long = directional_moments(estimator, mdp.replace(horizon=400), POLICY, THETA, DIRECTIONS)
        assert_exact(endless.mean, long.mean)
        assert_exact(endless.second_moment, long.second_moment)
        assert np.all(endless.low == -np.inf)
        assert np.all(endless.high == np.inf)
    assert_exact(
        directional_moments(Estimator(RewardToGo(baseline)), mdp, POLICY, THETA, np.eye(9)).mean,
        exact.gradient(mdp, POLICY, THETA),
    )


def test_without_horizon_and_termination_discounting_is_enough():
    mdp = examples.baxter_bartlett(gamma=0.95)
    policy, theta = TabularSoftmax(3, 2), np.sin(np.arange(6.0))
    endless = directional_moments(algorithms.reinforce(), mdp, policy, theta, np.eye(6))
    long = directional_moments(algorithms.reinforce(), mdp.replace(horizon=800), policy, theta, np.eye(6))
    assert_exact(endless.second_moment, long.second_moment)
    assert_exact(endless.mean, exact.gradient(mdp, policy, theta))


# --- large values that the baseline takes away


@pytest.mark.parametrize("horizon", [4, None])
@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_an_offset_of_all_rewards_changes_nothing_when_the_baseline_is_the_value(horizon, gamma):
    """In episodes of fixed length G − V does not see it. Squares of G would have lost all digits of those of G − V."""
    mdp = REFEREE.replace(terminated=np.zeros_like(REFEREE.terminated), horizon=horizon, gamma=gamma)

    def of(mdp):
        V = exact.values(mdp, POLICY, THETA)
        return directional_moments(Estimator(RewardToGo(V)), mdp, POLICY, THETA, DIRECTIONS)

    plain, offset = of(mdp), of(mdp.replace(reward=mdp.reward + 1e8))
    lost = 1e9 * 1e-14  # the digits of V itself
    assert np.abs(offset.mean - plain.mean).max() < 10 * lost
    assert np.abs(offset.second_moment - plain.second_moment).max() < 100 * lost
    assert np.abs(offset.variance - plain.variance).max() < 100 * lost
    assert plain.second_moment.max() > 0.1


def test_offset_rewards_of_episodes_that_end_against_the_list_of_trajectories():
    """Where the length matters: estimates of size 1e8 and of size 1 in one problem."""
    mdp = REFEREE.replace(reward=REFEREE.reward + 1e8)
    V = exact.values(mdp, POLICY, THETA)
    for baseline in (V, V[0], 0.0):
        compare(Estimator(RewardToGo(baseline)), Problem(mdp, POLICY, THETA), DIRECTIONS)


# --- against a Monte Carlo run of 256 parameters


def bernstein_agrees(values, mean, second, low, high):
    """Every mean of `values` (N, D) and of their squares within Bernstein's bound, all together at FALSE_ALARM."""
    n, D = values.shape
    L = math.log(4 * D / FALSE_ALARM)
    largest = np.maximum(low**2, high**2)
    for x, mu, variance, span in (
        (values, mean, second - mean**2, high - low),
        (values**2, second, second * largest, largest),
    ):
        e = (span * L / 3 + np.sqrt((span * L / 3) ** 2 + 2 * n * np.maximum(variance, 0) * L)) / n
        if np.any(np.abs(x.mean(axis=0) - mu) > e + 1e-12):
            return False
    return True


def test_a_lake_of_256_parameters_agrees_with_monte_carlo():
    mdp, policy = examples.frozen_lake(map="8x8", horizon=12), TabularSoftmax(64, 4)
    reward = np.where(mdp.next_state > 20, 1.0, -0.5)  # dense, so that every state's score has a mean
    mdp, theta = mdp.replace(reward=reward, gamma=0.8), np.random.default_rng(1).normal(size=256)
    estimator, batch = algorithms.reinforce(), sample(mdp, policy, theta, 20_000, rng=0)
    m = directional_moments(estimator, mdp, policy, theta, np.eye(256))
    values = estimator.per_trajectory(batch, mdp, policy, theta)
    assert bernstein_agrees(values, m.mean, m.second_moment, m.low, m.high)
    assert np.all(values >= m.low - 1e-9)
    assert np.all(values <= m.high + 1e-9)
    wrong = estimator.per_trajectory(batch, mdp.replace(gamma=0.7), policy, theta)
    assert not bernstein_agrees(wrong, m.mean, m.second_moment, m.low, m.high)  # negative control


# --- refusals


def test_refusals():
    def of(estimator=None, mdp=REFEREE, policy=POLICY):
        theta = THETA[: policy.n_parameters]
        return directional_moments(estimator or algorithms.reinforce(), mdp, policy, theta, np.eye(len(theta)))

    endless = REFEREE.replace(horizon=None)
    for arguments, error, message in (
        ((Estimator(TotalReturn()), endless), ValueError, "moments of TotalReturn and of groups need a horizon; use RewardToGo"),
        ((Estimator(RewardToGo(np.zeros(2))),), ValueError, r"baseline has shape \(2,\); .* a number, \(3,\) or \(4, 3\)"),
        ((Estimator(RewardToGo(np.zeros((3, 3)))),), ValueError, r"baseline has shape \(3, 3\)"),
        ((Estimator(RewardToGo(np.zeros((6, 3)))),), ValueError, r"baseline has shape \(6, 3\)"),
        ((Estimator(RewardToGo(np.zeros((4, 2)))),), ValueError, r"baseline has shape \(4, 2\)"),
        ((Estimator(RewardToGo(np.zeros((4, 3)))), endless), ValueError, "without a horizon it cannot depend on t"),
        ((Estimator(Foreign()),), ValueError, "has no law of a single trajectory by recursion; use RewardToGo"),
        ((None, REFEREE, TabularSoftmax(3, 2)), ValueError, "build the policy for this model"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            of(*arguments)


class Foreign:
    """An advantage the recursion does not know."""

    from_start, baseline = False, 0.0

    def credit(self, batch):
        return np.zeros(batch.trajectories.states.shape)


def test_fixed_points_that_do_not_settle_are_refused(monkeypatch):
    monkeypatch.setattr(recursion, "MOST_STEPS", 64)
    mdp = examples.baxter_bartlett(gamma=1 - 1e-7)
    with pytest.raises(ValueError, match="horizon=None"):
        directional_moments(algorithms.reinforce(), mdp, TabularSoftmax(3, 2), np.zeros(6), np.eye(6))


def test_second_moments_that_grow_for_ever_are_refused(monkeypatch):
    """Scores without γᵗ in episodes that never end: E[ĝ²] grows linearly, and is infinite."""
    monkeypatch.setattr(recursion, "MOST_STEPS", 2**10)
    estimator = Estimator(RewardToGo(), discounted_score=False)
    with pytest.raises(ValueError, match="horizon=None"):
        directional_moments(
            estimator, examples.baxter_bartlett(gamma=0.9), TabularSoftmax(3, 2), np.zeros(6), np.eye(6)
        )


def test_a_start_far_from_every_reward_has_its_moments():
    mdp, policy, theta = examples.delayed_chain(length=60, gamma=0.5), TabularSoftmax(61, 2), np.tile([3.0, 0.0], 61)
    v = np.eye(122)[:2]
    endless = directional_moments(algorithms.reinforce(), mdp.replace(horizon=None), policy, theta, v)
    long = directional_moments(algorithms.reinforce(), mdp.replace(horizon=61), policy, theta, v)
    assert long.second_moment.min() > 0
    assert_exact(endless.second_moment, long.second_moment)
