"""Monte Carlo confirmation: right estimators pass, wrong ones are caught, and the numbers it prints are exact."""

import dataclasses
import math

import numpy as np
import pytest
import reference
from problems import PROBLEMS
from tolerances import assert_exact

from reinforce_np import (
    Discounted,
    Estimator,
    LinearSoftmax,
    Problem,
    RewardToGo,
    TabularSoftmax,
    TotalReturn,
    algorithms,
    confirm,
    enumerate_trajectories,
    exact,
    examples,
    sample,
    smallest_detectable_bias,
    trajectories_needed,
)
from reinforce_np.checks import confirmation, estimates
from reinforce_np.checks.laws import law_of
from reinforce_np.checks.runs import RunTest
from reinforce_np.estimators import rewards_to_go
from reinforce_np.sampling import draw

REFEREE = examples.referee()
POLICY = TabularSoftmax(3, 3)
THETA = np.array([0.3, -0.5, 1.0, 0.0, 0.7, -1.2, -0.4, 0.2, 0.9])
PROBLEM = (REFEREE, POLICY, THETA)
N = 20_000
REINFORCE = algorithms.reinforce()
ESTIMATORS = (
    Estimator(RewardToGo()), Estimator(RewardToGo(baseline=np.array([0.5, -1.0, 2.0]))), Estimator(TotalReturn()), Estimator(TotalReturn(2.0)),
)  # fmt: skip


def law_for(mdp, policy, theta, estimator=REINFORCE, components=None):
    return law_of(estimator, Problem(mdp, policy, theta), Discounted(), components)


def confirm_law(law, problem, n, estimator, seed):
    return confirmation.confirm_law(law, estimator, Problem(*problem), n, rng=seed)


# --- the right ones pass


@pytest.mark.parametrize("name", PROBLEMS)
def test_right_estimators_pass(name):
    """Every one of these fails with probability at most 1e-6."""
    for advantage in (RewardToGo(), TotalReturn(0.5)):
        result = confirm(Estimator(advantage), *PROBLEMS[name], 1500, rng=1)
        assert result
        assert not result.rejected
        assert "not rejected at alpha=1e-06 over 1500 trajectories" in str(result)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_right_estimators_pass_in_long_runs(estimator):
    result = confirm(estimator, *PROBLEM, 50_000, rng=2)
    assert result
    assert result.conclusive
    assert np.abs(result.z).max() < 7


def test_an_acquittal_says_what_would_have_been_noticed():
    long, short = (confirm(Estimator(RewardToGo()), *PROBLEM, n, rng=1) for n in (50_000, 50))
    i = np.argmax(np.abs(long.gradient))
    percent = 100 * long.smallest_detectable[i] / abs(long.gradient[i])
    assert (
        str(long).endswith(f"; a bias of {percent:.2g} % of the largest component would be noticed")
        and 1 < percent < 20
    )
    assert "noticed" not in str(short).replace("too few trajectories to notice", "")
    flat = confirm(
        Estimator(RewardToGo()), examples.bandit(means=[1.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2), 1000, rng=0
    )
    assert flat.conclusive and str(flat).endswith("in 2 components")


@pytest.mark.parametrize("n", [1, 2, 30])
def test_short_runs_of_right_estimators_pass(n):
    """1e-4 false alarms would show in 200 runs of nine components and two moments; the rate asked for is 1e-6."""
    law = law_for(*PROBLEM)
    for seed in range(200):
        assert confirm_law(law, PROBLEM, n, REINFORCE, seed)


def test_a_short_run_says_that_it_says_nothing():
    result = confirm(REINFORCE, *PROBLEM, 5, rng=0)
    assert not result.conclusive
    assert np.all(result.smallest_detectable == np.inf)
    assert "too few trajectories to notice even a missing gradient" in str(result)


def test_without_horizon():
    result = confirm(REINFORCE, REFEREE.replace(horizon=None), POLICY, THETA, N, rng=0)
    assert result
    assert result.conclusive
    assert not result.log_probability[1].any()  # the second moment is not judged
    wrong = Sabotaged(RewardToGo(), change=lambda w: -w)
    assert not confirm(wrong, REFEREE.replace(horizon=None), POLICY, THETA, N, rng=0)


# --- negative controls: every wrong one is caught


@dataclasses.dataclass(frozen=True, eq=False)
class Sabotaged(Estimator):
    """An estimator whose weights are changed on the way."""

    change: object = None

    def batch_weights(self, batch):
        return self.change(super().batch_weights(batch))


@dataclasses.dataclass(frozen=True, eq=False)
class OfOtherTrajectories(Estimator):
    """An estimator that is shown changed trajectories."""

    change: object = None

    def batch(self, trajectories, *given, labels=None):
        changed = dataclasses.replace(trajectories, **self.change(trajectories))
        return super().batch(changed, *given, labels=labels)


def later(array):
    """The entries of the next step, zero at the end."""
    return np.concatenate([array[:, 1:], np.zeros_like(array[:, :1])], axis=1)


class OffByOne(RewardToGo):
    """Credits an action with what is paid from the next step on."""

    def credit(self, batch):
        return later(rewards_to_go(batch.rewards, batch.gamma))


class WithPrevious(RewardToGo):
    """Credits an action also with what was paid just before it: the same mean, another variance."""

    def credit(self, batch):
        before = np.concatenate([np.zeros_like(batch.rewards[:, :1]), batch.rewards[:, :-1]], axis=1)
        return super().credit(batch) + before


WRONG = {
    "sign": Sabotaged(RewardToGo(), change=lambda w: -w),
    "factor 1.1": Sabotaged(RewardToGo(), change=lambda w: 1.1 * w),
    "zero": Sabotaged(RewardToGo(), change=lambda w: 0 * w),
    "gamma^t dropped": Estimator(RewardToGo(), discounted_score=False),
    "return off by one": Estimator(OffByOne()),
    "next action's score": OfOtherTrajectories(RewardToGo(), change=lambda b: {"actions": later(b.actions)}),
    "next state's score": OfOtherTrajectories(RewardToGo(), change=lambda b: {"states": later(b.states)}),
    "last step forgotten": OfOtherTrajectories(
        RewardToGo(), change=lambda b: {"lengths": np.maximum(b.lengths - 1, 0)}
    ),
    "clipped reward": OfOtherTrajectories(RewardToGo(), change=lambda b: {"rewards": b.rewards.clip(-1, 1)}),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_estimators_are_caught(name):
    result = confirm(WRONG[name], *PROBLEM, N, rng=0)
    assert result.rejected
    assert not result
    assert "REJECTED at alpha=1e-06 over 20000 trajectories" in str(result)


def test_a_wrong_second_moment_is_caught_though_the_mean_is_right():
    """The previous reward does not change the mean, since the next action cannot cause it."""
    estimator = Estimator(WithPrevious())
    trajectories, p = enumerate_trajectories(*PROBLEM)
    assert_exact(p @ estimator.per_trajectory(trajectories, *PROBLEM), exact.gradient(*PROBLEM), scale=10)
    result = confirm(estimator, *PROBLEM, 200_000, rng=0)
    assert result.rejected
    assert "second moment of component" in str(result)
    assert result.log_probability[0].min() > -math.log(1e6)


MU = POLICY.probabilities(THETA)


@pytest.mark.parametrize("change", [
    {"behaviour": MU[:, ::-1]},
    {"behaviour": MU + 0.1 * (np.eye(3)[0] - MU)},
    {"probability": REFEREE.probability[..., ::-1]},
    {"initial": np.eye(3)[0]},
    {"terminated": np.zeros_like(REFEREE.terminated)},
    {"next_state": REFEREE.next_state[..., ::-1]},
    {"reward": REFEREE.reward[..., ::-1]},
    {"horizon": 3},
], ids=["actions reversed", "first actions too often", "outcomes reversed", "start", "termination", "next state", "reward", "horizon"])  # fmt: skip
def test_a_wrong_sampler_is_caught(monkeypatch, change):
    """The sampler reads another model or another policy than it was given."""
    original, behaviour = draw.sampling_tables, change.get("behaviour")
    other = REFEREE.replace(**{name: value for name, value in change.items() if name != "behaviour"})
    monkeypatch.setattr(
        draw, "sampling_tables", lambda mdp, policy, theta, _, n: original(other, policy, theta, behaviour, n)
    )
    assert not confirm(REINFORCE, *PROBLEM, N, rng=0)


@pytest.mark.parametrize(("name", "wrong"), [
    ("contract", lambda policy, theta, w, **_: 2 * TABULAR.contract(theta, w)),
    ("contract", lambda policy, theta, w, **_: policy.pull_back(w)),
    ("contract", lambda policy, theta, w, **_: np.roll(TABULAR.contract(theta, w), 1, axis=-1)),
    ("score_along", lambda policy, theta, v: 2 * TABULAR.score_along(theta, v)),
    ("score_along", lambda policy, theta, v: np.roll(TABULAR.score_along(theta, v), 1, axis=-1)),
], ids=["contract doubled", "contract without mean", "contract rolled", "along doubled", "along rolled"])  # fmt: skip
def test_a_wrong_score_is_caught(monkeypatch, name, wrong):
    """The estimate goes through `contract`, its law through `score_along`: a mistake in one contradicts the other."""
    monkeypatch.setattr(TabularSoftmax, name, wrong)
    assert not confirm(REINFORCE, *PROBLEM, N, rng=0)


TABULAR = LinearSoftmax(np.eye(9).reshape(3, 3, 9))  # the same policy by other code, not sabotaged


def test_wrong_signs_are_caught_wherever_the_run_can_see_them():
    """A wrong sign is a bias of twice the gradient, with the spread of the right estimator."""
    seen = []
    for name, (mdp, policy, theta) in PROBLEMS.items():
        mdp = mdp.replace(
            reward=np.where(mdp.next_state % 2, 1.0, -0.5) + mdp.reward
        )  # dense, so that something can be seen
        result = confirm(WRONG["sign"], mdp, policy, theta, 3000, rng=0)
        if np.any(result.smallest_detectable <= 2 * np.abs(result.gradient)):
            seen.append(name)
            assert result.rejected, name
    assert len(seen) >= len(PROBLEMS) / 2


# --- the numbers


def test_the_numbers_are_those_of_the_run():
    result = confirm(REINFORCE, *PROBLEM, 5000, rng=3)
    batch = sample(*PROBLEM, 5000, rng=3)
    variance = enumerated_variance(algorithms.reinforce())
    g = exact.gradient(*PROBLEM)
    assert_exact(result.estimate, algorithms.reinforce().gradient(batch, *PROBLEM))
    assert_exact(result.gradient, g)
    assert_exact(result.standard_error, np.sqrt(variance / 5000))
    np.testing.assert_allclose(result.z, (result.estimate - g) / np.sqrt(variance / 5000), rtol=1e-9)
    assert_exact(result.smallest_detectable, smallest_detectable_bias(REINFORCE, *PROBLEM, 5000))
    assert (result.n, result.alpha, result.components.tolist()) == (5000, 1e-6, list(range(9)))
    assert result.log_probability.shape == (2, 9)
    assert result.log_probability.max() <= 0


def enumerated_variance(estimator, problem=PROBLEM):
    trajectories, p = enumerate_trajectories(*problem)
    estimates = estimator.per_trajectory(trajectories, *problem)
    return p @ (estimates - p @ estimates) ** 2


def test_the_verdict_compares_the_least_log_probability_with_its_share_of_alpha():
    """The bounds depend a little on alpha, through the scale of the test; the verdict is theirs against alpha/4C."""
    verdicts = set()
    for factor in (1.02, 1.05, 1.08, 1.12, 1.2):
        biased = Sabotaged(RewardToGo(), change=lambda w, factor=factor: factor * w)
        result = confirm(biased, *PROBLEM, N, rng=0)
        least = min(result.log_probability.min(), -result.log_e_value)
        assert result.rejected == bool(math.exp(least) * 37 < 1e-6)
        verdicts.add(result.rejected)
    assert verdicts == {True, False}


def test_the_same_seed_the_same_verdict(monkeypatch):
    one, two = (
        confirm(REINFORCE, *PROBLEM, 3000, rng=5),
        confirm(REINFORCE, *PROBLEM, 3000, rng=np.random.SeedSequence(5)),
    )
    assert np.array_equal(one.log_probability, two.log_probability)
    assert np.array_equal(one.estimate, two.estimate)
    assert not np.array_equal(one.estimate, confirm(REINFORCE, *PROBLEM, 3000, rng=6).estimate)
    monkeypatch.setattr(estimates, "CELLS", 9 * 100)  # smaller parts of a block: the same sums, otherwise rounded
    parts = confirm(WRONG["sign"], *PROBLEM, 3000, rng=5)
    monkeypatch.undo()
    whole = confirm(WRONG["sign"], *PROBLEM, 3000, rng=5)
    np.testing.assert_allclose(parts.log_probability, whole.log_probability, rtol=1e-10, atol=1e-10)
    assert_exact(parts.estimate, whole.estimate)


def test_without_a_seed_every_run_is_another():
    assert not np.array_equal(confirm(REINFORCE, *PROBLEM, 100).estimate, confirm(REINFORCE, *PROBLEM, 100).estimate)


def test_components_are_judged_alone():
    whole, some = (
        confirm(REINFORCE, *PROBLEM, 2000, rng=0),
        confirm(REINFORCE, *PROBLEM, 2000, components=[7, 2], rng=0),
    )
    assert some.components.tolist() == [7, 2]
    for name in ("estimate", "gradient", "standard_error", "z"):
        assert_exact(getattr(some, name), getattr(whole, name)[[7, 2]])
    wrong_in_7 = OnePart(RewardToGo())
    assert not confirm(wrong_in_7, *PROBLEM, N, rng=0)
    assert not confirm(wrong_in_7, *PROBLEM, N, components=[2, 7], rng=0)
    assert confirm(wrong_in_7, *PROBLEM, N, components=[2, 6], rng=0)


@dataclasses.dataclass(frozen=True, eq=False)
class OnePart(Estimator):
    """Wrong in component 7 alone."""

    def contract(self, *arguments):
        return super().contract(*arguments) * np.where(np.arange(9) == 7, -1.0, 1.0)


def test_law_of_squares_bounds_their_variance():
    law = law_for(*PROBLEM)
    trajectories, p = enumerate_trajectories(*PROBLEM)
    squares = algorithms.reinforce().per_trajectory(trajectories, *PROBLEM) ** 2
    true = p @ (squares - p @ squares) ** 2
    assert_exact(law.means, [exact.gradient(*PROBLEM), p @ squares])
    assert_exact(law.variances[1], true)
    assert_exact(law.values, REINFORCE.per_trajectory(trajectories, *PROBLEM))
    bounded = law_of(
        REINFORCE, Problem(*PROBLEM), Discounted(), limit=1000
    )  # by the range, when there are too many to list
    assert bounded.values is None
    assert np.all(bounded.variances[1] >= true)
    assert np.all(bounded.variances[1] <= 100 * true)
    assert_exact(law.variances[0], enumerated_variance(algorithms.reinforce()), scale=1e3)
    assert law.log_odds(1e-6) == math.log(4 * 9 + 1) - math.log(1e-6)  # two sides of two moments, and all together


def test_scales_are_those_that_detect_the_smallest_bias():
    law = law_for(*PROBLEM)
    log_odds = math.log(37 / 1e-4) - math.log(0.05)
    np.testing.assert_allclose(
        RunTest(law, 500, 1e-4, miss=0.05).of_means.scales, np.sqrt(log_odds / 500 / law.variances), rtol=1e-12
    )


def test_law_of_unreachable_states_without_horizon_is_no_nan():
    """Where the second moment is zero and the range unknown, the variance of the square is unknown, not NaN."""
    mdp = REFEREE.replace(initial=[1.0, 0.0, 0.0], horizon=None, next_state=np.zeros((3, 3, 2), int))
    law = law_for(mdp, POLICY, THETA)
    assert not np.isnan(law.variances).any()
    assert np.all(law.variances[1] == np.inf)
    result = confirm(REINFORCE, mdp, POLICY, THETA, 2000, rng=0)
    assert result
    assert not np.isnan(result.log_probability).any()


# --- how many, how small


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_needed_and_detectable_invert_one_another(estimator):
    for bias in (0.02, 0.3):
        n = trajectories_needed(estimator, *PROBLEM, bias=bias)
        assert smallest_detectable_bias(estimator, *PROBLEM, n).max() <= bias
        assert smallest_detectable_bias(estimator, *PROBLEM, n - 1).max() > bias
    bias = smallest_detectable_bias(estimator, *PROBLEM, 40_000)
    assert trajectories_needed(estimator, *PROBLEM, bias=bias) == 40_000


def test_needed_and_detectable_depend_on_rates_and_components():
    base = smallest_detectable_bias(REINFORCE, *PROBLEM, N)
    assert np.all(smallest_detectable_bias(REINFORCE, *PROBLEM, N, alpha=1e-3) < base)
    assert np.all(smallest_detectable_bias(REINFORCE, *PROBLEM, N, miss=1e-4) > base)
    few = smallest_detectable_bias(REINFORCE, *PROBLEM, N, components=[7, 2])
    assert np.all(few < base[[7, 2]])
    np.testing.assert_allclose(few, base[[7, 2]], rtol=0.1)
    assert trajectories_needed(REINFORCE, *PROBLEM, bias=0.1, miss=1e-4) > trajectories_needed(
        REINFORCE, *PROBLEM, bias=0.1
    )
    assert trajectories_needed(REINFORCE, *PROBLEM, bias=0.1, alpha=1e-3) < trajectories_needed(
        REINFORCE, *PROBLEM, bias=0.1
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_trajectories_for_a_standard_error(estimator):
    variance = enumerated_variance(estimator).max()
    for target in (0.5, 0.01):
        n = trajectories_needed(estimator, *PROBLEM, standard_error=target)
        assert math.sqrt(variance / n) <= target * (1 + 1e-9)
        assert math.sqrt(variance / (n - 1)) > target
    each = np.sqrt(enumerated_variance(estimator) / 777)
    assert trajectories_needed(estimator, *PROBLEM, standard_error=each) == 777


def test_a_detectable_bias_is_caught_in_nearly_every_run():
    """Missed with probability at most 0.01 each; more than five of 60 runs with probability below 1e-4."""
    n = 2000
    bias = smallest_detectable_bias(REINFORCE, *PROBLEM, n, components=[2])[0]
    shifted = Shifted(RewardToGo(), bias=float(bias))
    law = law_for(*PROBLEM, components=[2])

    def passed(estimator, runs):
        return sum(bool(confirm_law(law, PROBLEM, n, estimator, seed)) for seed in range(runs))

    assert passed(shifted, 60) <= 5
    assert passed(Shifted(RewardToGo(), bias=float(bias) / 3), 20) >= 15


@dataclasses.dataclass(frozen=True, eq=False)
class Shifted(Estimator):
    """The right estimate plus a constant."""

    bias: float = 0.0

    def contract(self, *arguments):
        return super().contract(*arguments) + self.bias


# --- degenerate problems


def test_no_steps():
    problem = (REFEREE.replace(horizon=0), POLICY, THETA)
    result = confirm(REINFORCE, *problem, 50, rng=0)
    assert result
    assert not result.estimate.any()
    assert not result.z.any()
    assert not result.standard_error.any()
    assert result.conclusive  # any other estimate would have been noticed
    assert not result.smallest_detectable.any()
    assert trajectories_needed(REINFORCE, *problem, standard_error=1.0) == 1
    assert not confirm(Shifted(RewardToGo(), bias=1e-6), *problem, 50, rng=0)


def test_zero_variance_still_notices_a_constant():
    """A deterministic policy: every estimate is zero, and anything else is wrong."""
    problem = (REFEREE, POLICY, np.tile([0.0, -np.inf, -np.inf], 3))
    assert confirm(REINFORCE, *problem, 1000, rng=0)
    assert not confirm(Shifted(RewardToGo(), bias=1e-9), *problem, 1000, rng=0)


def test_zero_gradient_with_variance():
    mdp = examples.bandit(means=[1.0, 1.0])
    problem = (mdp, TabularSoftmax(1, 2), np.zeros(2))
    result = confirm(REINFORCE, *problem, N, rng=0)
    assert result
    assert result.conclusive
    assert result.standard_error.min() > 0
    assert np.abs(result.gradient).max() < 1e-15
    assert not confirm(Shifted(RewardToGo(), bias=0.1), *problem, N, rng=0)


def test_constant_estimates_of_a_bandit():
    """One arm that is always pulled; and a fair one whose estimate never varies in sign and size."""
    problem = (examples.bandit(means=[3.0]), TabularSoftmax(1, 1), np.zeros(1))
    assert confirm(REINFORCE, *problem, 10, rng=0)
    symmetric = (examples.bandit(means=[-1.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2))
    result = confirm(REINFORCE, *symmetric, 1000, rng=0)
    assert result
    assert result.standard_error.max() < 1e-9
    assert_exact(result.estimate, [-0.5, 0.5])
    assert not confirm(Sabotaged(RewardToGo(), change=lambda w: 1.001 * w), *symmetric, 1000, rng=0)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.3, 0.45])
def test_rounding_of_a_constant_estimate_is_no_evidence(p):
    """Rewards −p and 1 − p make every estimate the same number, but for its rounding."""
    problem = (examples.bandit(means=[-p, 1 - p]), TabularSoftmax(1, 2), np.log([p, 1 - p]))
    result = confirm(REINFORCE, *problem, N, rng=0)
    assert result.standard_error.max() < 1e-8
    assert result


def test_unreachable_states():
    mdp = REFEREE.replace(initial=[1.0, 0.0, 0.0], horizon=1)
    result = confirm(REINFORCE, mdp, POLICY, THETA, N, rng=0)
    assert result
    assert not result.estimate[3:].any()
    assert not result.standard_error[3:].any()
    wrong = OfOtherTrajectories(RewardToGo(), change=lambda b: {"states": b.states + 1})
    assert not confirm(wrong, mdp, POLICY, THETA, N, rng=0)


def test_a_component_that_is_always_zero_makes_nothing_else_conclusive():
    result = confirm(REINFORCE, REFEREE.replace(initial=[1.0, 0.0, 0.0], horizon=1), POLICY, THETA, 5, rng=0)
    assert np.abs(result.gradient).max() > 0.1
    assert np.isinf(result.smallest_detectable[:3]).all()
    assert not result.conclusive


@pytest.mark.parametrize("scale", [1e-60, 1e-12, 1e12, 1e60, 1e100])
def test_units_of_reward_do_not_matter(scale):
    mdp = REFEREE.replace(reward=REFEREE.reward * scale)
    assert confirm(REINFORCE, mdp, POLICY, THETA, N, rng=0)
    assert not confirm(WRONG["sign"], mdp, POLICY, THETA, N, rng=0)
    np.testing.assert_allclose(
        smallest_detectable_bias(REINFORCE, mdp, POLICY, THETA, N) / scale,
        smallest_detectable_bias(REINFORCE, *PROBLEM, N),
        rtol=1e-9,
    )


def test_a_start_far_from_every_reward_passes():
    mdp, theta = examples.delayed_chain(length=60, gamma=0.5).replace(horizon=None), np.tile([9.0, 0.0], 61)
    assert confirm(REINFORCE, mdp, TabularSoftmax(61, 2), theta, 1000, rng=0)


@pytest.mark.parametrize("offset", [1e4, 1e8])
def test_large_returns_that_a_baseline_takes_away_are_no_evidence(offset):
    """Returns near `offset`/(1 − γ), weights near 1: the moments are those of U = G − V, and rounding is allowed for."""
    mdp = REFEREE.replace(reward=REFEREE.reward + offset)
    estimator = Estimator(RewardToGo(exact.values(mdp, POLICY, THETA)))
    result = confirm(estimator, mdp, POLICY, THETA, N, rng=0)
    assert result
    assert result.conclusive
    wrong = Sabotaged(estimator.advantage, change=lambda w: -w)
    assert confirm(wrong, mdp, POLICY, THETA, N, rng=0).rejected
    half = Sabotaged(estimator.advantage, change=lambda w: 0.5 * w)
    assert confirm(half, mdp, POLICY, THETA, N, rng=0).rejected


@pytest.mark.parametrize("seed", range(5))
def test_offset_rewards_without_horizon_are_no_evidence(seed):
    mdp = REFEREE.replace(reward=REFEREE.reward + 1e8, horizon=None)
    estimator = Estimator(RewardToGo(exact.values(mdp, POLICY, THETA)))
    assert confirm(estimator, mdp, POLICY, THETA, 2000, rng=seed)


@pytest.mark.parametrize("offset", [0.0, 0.1 * 2**20])
def test_rounding_of_the_law_bounds_that_of_every_estimate(offset):
    """Against the textbook formula in fractions; the bound is in the units of the rewards, and not idle."""
    mdp = REFEREE.replace(reward=REFEREE.reward + offset)
    law = law_for(mdp, POLICY, THETA)
    batch, psi = sample(mdp, POLICY, THETA, 40, rng=0), POLICY.score(THETA)
    expected = []
    for n in range(40):
        rows = (array[n, : batch.lengths[n]].tolist() for array in (batch.states, batch.actions, batch.rewards))
        expected.append(
            reference.reinforce(list(zip(*rows, strict=True)), lambda s, a: psi[s, a], mdp.gamma, "to_go", None, True)
        )
    error = np.abs(algorithms.reinforce().per_trajectory(batch, mdp, POLICY, THETA) - np.array(expected, dtype=float))
    assert law.rounding.shape == (9,)
    assert np.all(error <= law.rounding)
    assert np.all(law.rounding < 2e-13 * (1 + offset))
    assert np.array_equal(law.roundings[0], law.rounding)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_estimates_that_are_no_numbers_are_refused(value):
    broken = Shifted(RewardToGo(), bias=value)
    with pytest.raises(ValueError, match=f"returned {value} for component 0 of the batch of s0 a"):
        confirm(broken, *PROBLEM, 10, rng=0)


# --- refusals


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"n": 0}, ValueError, "n=0 is out of range"),
    ({"n": 1.5}, TypeError, "n=1.5 is not a whole number"),
    ({"alpha": 0.0}, ValueError, r"alpha=0.0 .* a probability in \(0, 1\)"),
    ({"alpha": 1.0}, ValueError, r"alpha=1.0 .* a probability in \(0, 1\)"),
    ({"alpha": -0.1}, ValueError, "alpha=-0.1"),
    ({"alpha": np.nan}, ValueError, "alpha=nan"),
    ({"alpha": "1"}, TypeError, "alpha='1' is not a real number"),
    ({"components": [9]}, ValueError, r"components\[0\]=9 is out of range; it must be in \[0, 8\]"),
    ({"components": [0, -1]}, ValueError, r"components\[1\]=-1"),
    ({"components": [0.5]}, TypeError, "components holds float64 values"),
    ({"components": [[1]]}, ValueError, "components has 2 axes"),
    ({"theta": np.zeros(8)}, ValueError, "theta has shape"),
    ({"n": None}, TypeError, "n=None: say how many"),
])  # fmt: skip
def test_refusals(options, error, message):
    arguments = {"estimator": REINFORCE, "mdp": REFEREE, "policy": POLICY, "theta": THETA, "n": 10, **options}
    with pytest.raises(error, match=message):
        confirm(**arguments, rng=0)
    with pytest.raises(error, match=message):
        smallest_detectable_bias(**arguments)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({}, ValueError, "bias=None and standard_error=None: give exactly one"),
    ({"bias": 0.1, "standard_error": 0.1}, ValueError, "give exactly one"),
    ({"bias": 0.0}, ValueError, "bias=0.0 must be > 0: no finite number"),
    ({"standard_error": -1.0}, ValueError, "standard_error=-1.0 must be > 0"),
    ({"bias": np.nan}, ValueError, "bias=nan"),
    ({"bias": 0.1, "miss": 0.0}, ValueError, "miss=0.0"),
    ({"bias": 0.1, "miss": 1.0}, ValueError, "miss=1.0"),
    ({"bias": 0.1, "alpha": 2}, ValueError, "alpha=2"),
])  # fmt: skip
def test_refusals_of_trajectories_needed(options, error, message):
    with pytest.raises(error, match=message):
        trajectories_needed(REINFORCE, *PROBLEM, **options)


def test_miss_is_refused_by_smallest_detectable_bias():
    for miss in (0.0, 1.0, -1):
        with pytest.raises(ValueError, match=f"miss={miss}"):
            smallest_detectable_bias(REINFORCE, *PROBLEM, 10, miss=miss)


def test_no_components_are_nothing_to_judge():
    with pytest.raises(ValueError, match="components"):
        confirm(REINFORCE, *PROBLEM, 10, components=[], rng=0)


def test_shapes_of_targets_are_checked():
    with pytest.raises(ValueError, match="bias"):
        trajectories_needed(REINFORCE, *PROBLEM, bias=np.ones(4))
