"""The statistical tier: functions and samplers that are not enumerated, and verdicts that may be looked at any time."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from tolerances import assert_exact

from benchmarks import bench_promises
from reinforce_np import (
    Discounted,
    EntropyBonus,
    EntropyRegularised,
    Estimator,
    KLPenalty,
    KLRegularised,
    PerDecisionRatio,
    Problem,
    RewardToGo,
    TabularSoftmax,
    Trajectories,
    Undiscounted,
    algorithms,
    concatenate,
    confirm,
    confirm_on_panel,
    confirm_stream,
    enumerate_trajectories,
    examples,
    moments,
    sample,
    smallest_detectable_bias,
    trajectories_needed,
)
from reinforce_np.checks import counts, estimates, facts, independence
from reinforce_np.checks.estimates import estimates_of
from reinforce_np.checks.laws import law_of
from reinforce_np.checks.processes import SCALES
from reinforce_np.checks.runs import RunTest
from reinforce_np.estimators import rewards_to_go
from reinforce_np.referee.catalogue import CATALOGUE
from reinforce_np.referee.panel import PANEL

MDP, POLICY = examples.referee(horizon=3), TabularSoftmax(3, 3)
THETA = np.array([0.3, -0.5, 1.0, 0.0, 0.7, -1.2, -0.4, 0.2, 0.9])
PROBLEM = Problem(MDP, POLICY, THETA)
GROUPS = PROBLEM.replace(prompts=2, group_size=2)
ELSEWHERE = PROBLEM.replace(behaviour=np.array([[0.5, 0.25, 0.25], [0.3, 0.3, 0.4], [0.2, 0.6, 0.2]]))
REINFORCE, N = algorithms.reinforce(), 4000
FEW = 300  # batches for a function, which is called for each
NOT_LISTED = {"limit": 10}  # too small a limit to learn the law of a function by listing its batches


def as_function(estimator, factor=1.0, dtype=np.float64):
    """An `Estimator` as a foreign function, times a factor."""

    def function(trajectories, theta, problem):
        return (factor * estimator.gradient(trajectories, problem.mdp, problem.policy, theta)).astype(dtype)

    return function


MINE, SIGN = as_function(REINFORCE), as_function(REINFORCE, -1.0)


# --- any function


ELSEWHERE_ESTIMATOR = Estimator(RewardToGo(), ratio=PerDecisionRatio())
KNOWN = {  # what is known, and where the law then comes from
    "listed": ({"exchangeable": True}, "enumeration"),
    "like": ({}, "recursion"),
    "variance": (NOT_LISTED, "variance, as stated"),
    "bound": ({"bound": 40.0, **NOT_LISTED}, "bound, as stated"),
}


@pytest.mark.parametrize(("knowledge", "estimator", "problem"), [
    ("listed", REINFORCE, PROBLEM), ("like", REINFORCE, PROBLEM), ("variance", REINFORCE, PROBLEM), ("bound", REINFORCE, PROBLEM),
    ("listed", algorithms.rloo(), GROUPS.replace(prompts=1)), ("like", algorithms.rloo(), GROUPS),
    ("listed", ELSEWHERE_ESTIMATOR, ELSEWHERE), ("like", ELSEWHERE_ESTIMATOR, ELSEWHERE),
])  # fmt: skip
def test_functions_are_judged_by_whatever_is_known(knowledge, estimator, problem):
    options, source = KNOWN[knowledge]
    if knowledge == "listed":
        problem = problem.replace(mdp=MDP.replace(horizon=2 if problem.group_size == 1 else 1))
    options = options | {
        "like": {"like": estimator},
        "variance": {"variance": moments(estimator, problem).second_moment},
    }.get(knowledge, {})
    n = 450 if problem.behaviour is not None else FEW
    right = confirm(as_function(estimator), problem, n=n, rng=0, **options)
    assert right.guaranteed
    assert right
    assert right.source == source
    assert (right.log_e_value != 0) == (knowledge == "listed")  # only then is the whole law known
    if knowledge in ("listed", "like"):
        assert_exact(right.standard_error**2 * n, moments(estimator, problem).variance, scale=10)
    if knowledge != "bound":  # which allows for 20 times the scatter there is
        wrong = confirm(as_function(estimator, -1.0), problem, n=n, rng=0, **options)
        assert wrong.rejected
        size = f"batches of {problem.prompts} x {problem.group_size} " if problem.group_size > 1 else ""
        assert f"over {n} {size}trajectories" in str(wrong)


def test_a_function_may_depend_on_the_order_of_its_batch():
    """The first of a batch as baseline of all is fine for the others and biases none but itself: unbiased for (B − 1)/B."""

    def first_as_baseline(trajectories, theta):
        returns = trajectories.rewards.sum(axis=1)
        weights = np.zeros((1, 2))
        np.add.at(weights, (0, trajectories.actions[1:, 0]), returns[1:] - returns[0])
        return POLICIES[2].contract(theta, weights) / (len(trajectories) - 1)

    problem = Problem(examples.bandit(means=[0.0, 1.0]), POLICIES[2], np.array([0.3, -0.2]), group_size=3)
    assert confirm(first_as_baseline, problem, n=2000, rng=0)
    assert not confirm(lambda b, theta: first_as_baseline(b, theta) * 2 / 3, problem, n=2000, rng=0)


POLICIES = {2: TabularSoftmax(1, 2)}


@pytest.mark.parametrize(("objective", "right"), [
    (Discounted(), REINFORCE),
    (Undiscounted(), algorithms.reinforce()),
    (KLRegularised(np.zeros(9), 0.5), Estimator(RewardToGo(), penalty=KLPenalty(np.zeros(9), 0.5, kind="k1", place="reward"))),
    (EntropyRegularised(0.5), Estimator(RewardToGo(), penalty=EntropyBonus(0.5))),
], ids=["discounted", "undiscounted", "KL", "entropy"])  # fmt: skip
def test_every_objective(objective, right):
    """Undiscounted: an estimator written for γ = 1, as a function; the others carry their penalty in the reward."""
    undiscounted = isinstance(objective, Undiscounted)

    def f(trajectories, theta, problem):
        return right.gradient(trajectories, MDP.replace(gamma=1.0), POLICY, theta)

    problem, n = PROBLEM.replace(mdp=MDP.replace(gamma=0.4)), 30_000
    estimator, n_right = (f, FEW) if undiscounted else (right, n)
    assert confirm(estimator, problem, n=n_right, objective=objective, rng=0)
    other = Undiscounted() if isinstance(objective, Discounted) else Discounted()
    wrong, for_what = (right, objective) if undiscounted else (right, other)
    assert confirm(wrong, problem, n=n, objective=for_what, rng=0).rejected
    needed = trajectories_needed(right, problem, bias=0.1, objective=objective)
    assert smallest_detectable_bias(right, problem, n=needed, objective=objective).max() <= 0.1


def test_a_variance_that_differs_is_caught_where_the_mean_does_not():
    """At γ = 1 the previous reward joins the return: unbiased, but it scatters more than the estimator it should be like."""
    problem = PROBLEM.replace(mdp=MDP.replace(gamma=1.0))

    def with_previous(trajectories, theta):
        previous = np.concatenate([np.zeros((len(trajectories), 1)), trajectories.rewards[:, :-1]], axis=1)
        w = np.where(trajectories.mask, rewards_to_go(trajectories.rewards, 1.0) + previous, 0.0)
        cells = np.zeros((3, 3))
        np.add.at(cells, (trajectories.states, trajectories.actions), w)
        return POLICY.contract(theta, cells)

    assert confirm(with_previous, problem, n=FEW, rng=0)  # its own law: it is unbiased
    caught = confirm(with_previous, problem, n=2000, like=REINFORCE, rng=0)
    assert caught.rejected
    assert "second moment" in str(caught)


def test_without_a_law_there_is_an_interval_that_says_so():
    for function, outside in ((MINE, False), (SIGN, True)):
        interval = confirm(function, PROBLEM, n=FEW, rng=0, **NOT_LISTED)
        assert not interval.guaranteed
        assert not interval.rejected
        assert interval.outside.any() == outside
        assert "NO GUARANTEE" in str(interval)
        assert "like=" in str(interval)
        with pytest.raises(TypeError, match="carries no guarantee"):
            bool(interval)
    estimates = -REINFORCE.per_trajectory(sample(MDP, POLICY, THETA, FEW, rng=0), MDP, POLICY, THETA)
    assert_exact(interval.estimate, estimates.mean(axis=0), scale=10)
    assert_exact(interval.standard_error, estimates.std(axis=0, ddof=1) / math.sqrt(FEW), scale=10)


def test_a_function_that_draws_random_numbers_is_not_listed():
    rng, calls = np.random.default_rng(0), []

    def noisy(trajectories, theta):
        calls.append(1)
        return REINFORCE.gradient(trajectories, MDP, POLICY, theta) + rng.standard_normal(9)

    assert not confirm(noisy, PROBLEM, n=300, rng=0).guaranteed
    exact, before = moments(REINFORCE, PROBLEM), len(calls)
    assert confirm(noisy, PROBLEM, n=300, variance=exact.variance + 1.0, rng=0)
    assert len(calls) - before >= 300  # not once for each different batch


def test_functions_in_float32():
    """Rounding relative to 1e-7 is no evidence, though a component never varies; a missing hundredth is."""
    bandit = Problem(examples.bandit(means=[-0.3, 0.7]), POLICIES[2], np.log([0.3, 0.7]))
    single = as_function(REINFORCE, dtype=np.float32)
    assert confirm(single, bandit, n=100, like=REINFORCE, rng=0)
    assert not confirm(as_function(REINFORCE, 0.99, np.float32), bandit, n=100, like=REINFORCE, rng=0)
    assert confirm(as_function(REINFORCE, 1 + 1e-8), bandit, n=100, like=REINFORCE, precision=np.float32, rng=0)
    assert not confirm(as_function(REINFORCE, 1 + 1e-8), bandit, n=100, like=REINFORCE, rng=0)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"variance": 1.0, "bound": 1.0}, ValueError, "variance and bound are given: say once"),
    ({"variance": -1.0}, ValueError, "variance=-1.0 is out of range; it must be >= 0"),
    ({"variance": np.ones(3)}, ValueError, r"variance has shape \(3,\)"),
    ({"bound": 1e-3}, ValueError, "bound=0.001 is below the gradient"),
    ({"bound": 0.5}, ValueError, "bound=0.5 is contradicted: an estimate of component"),
    ({"like": MINE}, TypeError, "is no Estimator"),
    ({"like": Estimator(RewardToGo(), discounted_score=False)}, ValueError, "is itself biased for the gradient of Discounted"),
    ({"call": 5}, TypeError, "call=5 is how many batches are asked of a sampler, and there is none"),
    ({"sampler": 3, "like": REINFORCE}, TypeError, "sampler=3 is no function"),
    ({"sampler": lambda n, rng: None, "like": REINFORCE}, ValueError, "it must return Trajectories of 12 episodes"),
    ({"sampler": lambda n, rng: None, **NOT_LISTED}, ValueError, "is judged by an estimator of known variance"),
], ids=lambda given: given if isinstance(given, str) else "")  # fmt: skip
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        confirm(MINE, PROBLEM, n=30, rng=0, **options)


def test_what_needs_a_law_says_so():
    for judge in (
        lambda: smallest_detectable_bias(MINE, PROBLEM, n=10, **NOT_LISTED),
        lambda: confirm_stream(MINE, PROBLEM, **NOT_LISTED),
    ):
        with pytest.raises(ValueError, match="nothing is known of how much"):
            judge()
    with pytest.raises(TypeError, match="given twice"):
        confirm(MINE, PROBLEM, POLICY, n=10)


# --- samplers


def draw(n, rng, problem=PROBLEM, **changes):
    """A right sampler, or one of a changed problem."""
    changed = problem.replace(**changes)
    return sample(
        changed.mdp,
        changed.policy,
        changed.theta,
        n,
        behaviour=changed.behaviour,
        group_size=changed.group_size,
        rng=rng,
    )


def with_dummy_step(n, rng):
    """Autoreset on the next step: what it returns for an action that it ignores is recorded as a step."""
    batch = draw(n, rng)

    def before(array, first):
        return np.concatenate([np.broadcast_to(first, (n,))[:, None], array], axis=1)

    return Trajectories(
        states=before(batch.states, np.roll(batch.final_states, 1)),
        actions=before(batch.actions, 0),
        rewards=before(batch.rewards, 0.0),
        log_probabilities=before(batch.log_probabilities, POLICY.log_probabilities(THETA)[0, 0]),
        lengths=batch.lengths + 1,
        terminated=batch.terminated, truncated=batch.truncated, final_states=batch.final_states, groups=batch.groups,
    )  # fmt: skip


def first_finished(n, rng):
    """Of four environments at a time, the two that finish first."""
    batch = draw(2 * n, rng)
    order = np.argsort(batch.lengths.reshape(-1, 4), axis=1, kind="stable")[:, :2]
    return batch.take((order + 4 * np.arange(len(order))[:, None]).ravel())


def same_seeds(workers, interleaved=False):
    def sampler(n, rng):
        stream = draw(-(-n // workers), rng)
        return stream.take(np.arange(n) // workers if interleaved else np.arange(n) % len(stream))

    return sampler


def relabelled(**fields):
    def sampler(n, rng):
        batch = draw(n, rng)
        return dataclasses.replace(batch, **{name: change(batch) for name, change in fields.items()})

    return sampler


def not_recorded(batch):
    return np.full(batch.rewards.shape, np.nan)


WRONG_SAMPLERS = {  # what is wrong, and which fact shows it
    "dummy step scored": (with_dummy_step, "possible"),
    "truncated is called terminated": (relabelled(terminated=lambda b: np.ones(len(b), bool), truncated=lambda b: np.zeros(len(b), bool)), "possible"),
    "the limit is a step early": (lambda n, rng: draw(n, rng, mdp=MDP.replace(horizon=2)), "possible"),
    "the limit is a step late": (lambda n, rng: draw(n, rng, mdp=MDP.replace(horizon=4)), "possible"),
    "another state is recorded at the cut": (relabelled(final_states=lambda b: (b.final_states + 1) % 3), "possible"),
    "the previous reward is added": (relabelled(rewards=lambda b: b.rewards + np.roll(b.rewards, 1, axis=1)), "possible"),
    "log-probabilities of a colder policy": (relabelled(log_probabilities=lambda b: 1.1 * b.log_probabilities), "possible"),
    "drawn from a colder policy": (lambda n, rng: dataclasses.replace(b := draw(n, rng, behaviour=1.4 * THETA), log_probabilities=not_recorded(b)), "actions"),
    "first finished are kept": (first_finished, "first states"),
    "another start": (lambda n, rng: draw(n, rng, mdp=MDP.replace(initial=[0.6, 0.25, 0.15])), "first states"),
    "outcomes too alike": (lambda n, rng: draw(n, rng, mdp=MDP.replace(probability=0.85 * MDP.probability + 0.15 * MDP.probability[..., ::-1])), "outcomes"),
    "two workers, one seed": (same_seeds(2), "independence"),
    "seven workers, one seed": (same_seeds(7), "independence"),
    "interleaved workers, one seed": (same_seeds(4, interleaved=True), "independence"),
    "every call has the same seed": (lambda n, rng: draw(n, 0), "independence"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_SAMPLERS)
def test_wrong_samplers_are_caught(name):
    sampler, fact = WRONG_SAMPLERS[name]
    result = confirm(REINFORCE, PROBLEM, n=N, sampler=sampler, rng=1)
    assert result.rejected
    assert fact in [found.name for found in result.facts if found.rejected]


@pytest.mark.parametrize("problem", [
    PROBLEM, ELSEWHERE, GROUPS, PROBLEM.replace(mdp=MDP.replace(horizon=None)), PROBLEM.replace(theta=np.tile([9.0, 0.0, -1.0], 3)),
    PROBLEM.replace(mdp=MDP.replace(horizon=0)), PROBLEM.replace(mdp=MDP.replace(horizon=1, initial=[0.0, 1.0, 0.0])),
], ids=["plain", "elsewhere", "groups", "no horizon", "near-deterministic", "no steps", "one start"])  # fmt: skip
def test_right_samplers_pass(problem):
    estimator = Estimator(RewardToGo(), ratio=PerDecisionRatio()) if problem is ELSEWHERE else REINFORCE
    result = confirm(estimator, problem, n=1000, sampler=lambda n, rng: draw(n, rng, problem), rng=2)
    assert result
    assert [fact.name for fact in result.facts] == [
        "possible", "first states", "actions", "outcomes", "length", "return", "independence"
    ]  # fmt: skip
    assert "every trajectory is one that the model has" in str(result.facts[0])
    assert result.log_odds > confirm(estimator, problem, n=5, rng=0).log_odds  # all share alpha


def test_members_of_a_group_share_their_start():
    result = confirm(algorithms.rloo(), GROUPS, n=100, sampler=lambda n, rng: draw(n, rng, PROBLEM), rng=0)
    assert "its group started in another state" in str(result)


def test_what_is_not_recorded_is_not_judged_but_what_is_wrong_is_named():
    silent = relabelled(log_probabilities=not_recorded)
    assert confirm(REINFORCE, PROBLEM, n=1000, sampler=silent, rng=0)
    text = str(confirm(REINFORCE, PROBLEM, n=1000, sampler=WRONG_SAMPLERS["two workers, one seed"][0], rng=0))
    assert "of batches 1/" in text
    assert "are not independent: their products average" in text
    one_start = PROBLEM.replace(mdp=MDP.replace(initial=[0.0, 1.0, 0.0]))
    assert "the model never starts there" in str(confirm(REINFORCE, one_start, n=30, sampler=draw, rng=0))
    called = []
    confirm(REINFORCE, PROBLEM, n=30, call=7, sampler=lambda n, rng: draw(called.append(n) or n, rng), rng=0)
    assert called == [7, 7, 7, 7, 2]


def test_states_that_the_model_does_not_have_are_said_to_be_the_samplers():
    def numbered_otherwise(n, rng):
        drawn = draw(n, rng, PROBLEM)
        return dataclasses.replace(drawn, states=drawn.states + PROBLEM.mdp.n_states)

    with pytest.raises(
        ValueError, match=r"states\[0, 0\]=.* is out of range(?s:.)*of what sampler\(.*, rng\) returned"
    ):
        confirm(REINFORCE, PROBLEM, n=1000, sampler=numbered_otherwise, rng=0)


def test_facts_add_up_call_by_call():
    """Ten batches in calls of 3, 3, 3 and 1: calls are compared in pairs, and every test is counted."""
    law, alpha = law_of(algorithms.rloo(), GROUPS, Discounted()), 1e-3
    found = facts.SamplerFacts(GROUPS, law, lambda n, rng: draw(n, rng, GROUPS), 10, 3, alpha, 0)
    says, steps = [], 0
    for batches in found.calls():
        X = estimates_of(algorithms.rloo(), batches, GROUPS)
        found.add(batches, X)
        own = (
            np.stack([batches.lengths, rewards_to_go(batches.rewards, MDP.gamma)[:, 0]], axis=1)
            .reshape(-1, 4, 2)
            .mean(axis=1)
        )
        says.append(np.concatenate([own, X], axis=1) - np.concatenate([found.of_means.means, law.gradient]))
        steps += batches.lengths.sum()
    assert [len(Z) for Z in says] == [3, 3, 3, 1]
    assert found.n_starts.sum() == 2 * 10
    assert found.n_actions.sum() == found.n_outcomes.sum() == steps
    assert found.n_sets == {
        "neighbours": 3, "batches 1/2 of a call apart": 3, "batches 1/3 of a call apart": 3, "a whole call": 3,
        "two calls, place by place": 4,
    }  # fmt: skip
    expected = (says[0] * says[1]).sum(axis=0) + (says[2][:1] * says[3]).sum(axis=0)
    assert_exact(found.product_totals["two calls, place by place"], expected, scale=100)
    assert_exact(found.totals / 10, found.of_means.means + np.concatenate(says).mean(axis=0)[:2], scale=10)
    n_tests = 2 * 2 + 5 * 2 * (2 + 9) + 3  # length and return; five kinds of sets; three tables of counts
    assert math.isclose(found.log_odds, math.log((law.n_tests + n_tests) / alpha), rel_tol=1e-12)


def test_lengths_and_returns_have_their_exact_moments():
    for problem in (PROBLEM, ELSEWHERE, GROUPS):
        trajectories, p = enumerate_trajectories(MDP, POLICY, THETA, behaviour=problem.behaviour)
        own = np.stack([trajectories.lengths, rewards_to_go(trajectories.rewards, MDP.gamma)[:, 0]])
        means, variances, _ = facts._length_and_return(problem, behaviour_of(problem))
        assert_exact(means, own @ p)
        if problem is not GROUPS:
            assert_exact(variances, (own - means[:, None]) ** 2 @ p, scale=10)
            continue
        first, within, between = trajectories.states[:, 0], 0.0, 0.0
        for s, start in enumerate(MDP.initial):
            q = np.where(first == s, p, 0.0) / start
            within = within + start * ((own - (own @ q)[:, None]) ** 2 @ q)
            between = between + start * (own @ q - means) ** 2
        assert_exact(variances, (within / 2 + between) / 2, scale=10)


def behaviour_of(problem):
    return POLICY.probabilities(THETA) if problem.behaviour is None else problem.behaviour


def test_products_of_independent_batches_have_their_exact_moments():
    """Over all sequences of four draws from a law of three values: mean zero, and variance v²."""
    z, p = np.array([-1.0, 0.5, 4.0]), np.array([0.6, 0.3, 0.1])
    z = z - p @ z
    sequences = np.array(list(itertools.product(range(3), repeat=4)))
    weight = p[sequences].prod(axis=1)
    for name in independence.SETS:
        products = np.array(
            [independence.products(name, z[row][:, None], z[row[::-1]][:, None])[:, 0] for row in sequences]
        )
        assert products.shape[1] == independence.n_sets(name, 4, 4)
        if not products.shape[1]:
            continue  # sets of more than four
        if name != "two calls, place by place":  # here not independent
            np.testing.assert_allclose(weight @ products, 0.0, atol=1e-14)
            np.testing.assert_allclose(weight @ products**2, (p @ z**2) ** 2, rtol=1e-12)
    same = independence.products("a whole call", np.ones((5, 1)))
    assert_exact(same, [[math.sqrt(10)]])


def test_the_ratio_of_counts_is_expected_to_be_one():
    """Over all sequences of six draws of three cells, also when the seventh stops at the first surprise."""
    p = np.array([0.7, 0.2, 0.1])
    sequences = np.array(list(itertools.product(range(3), repeat=6)))
    weight = p[sequences].prod(axis=1)
    found = np.stack([(sequences == i).sum(axis=1) for i in range(3)], axis=1)
    assert_exact(weight @ np.exp(counts.log_ratio(found, p)), 1.0)
    stopped = np.where((sequences[:, :2] == 2).any(axis=1), 2, 6)
    part = np.stack([((sequences == i) & (np.arange(6) < stopped[:, None])).sum(axis=1) for i in range(3)], axis=1)
    assert_exact(weight @ np.exp(counts.log_ratio(part, p)), 1.0)
    assert counts.log_ratio(np.array([5, 0]), np.array([1.0, 0.0])) == 0.0
    assert math.isclose(counts.log_average(np.array([0.0, 1000.0])), 1000 - math.log(2))


# --- rates: what is simulated are runs, by how often each listed value occurs in them

RUNS, ALPHA = 4000, 1e-3
STREAMS, ALPHA_EVER = 400, 0.05


def listed(problem=PROBLEM, estimator=REINFORCE):
    law = law_of(estimator, problem, Discounted(), [4, 6])
    return law, law.values, law.probabilities / law.probabilities.sum()


LAWS = {
    "plain": listed(),
    "near-deterministic": listed(PROBLEM.replace(theta=np.tile([6.0, 0.0, -1.0], 3))),
    "elsewhere": listed(ELSEWHERE, Estimator(RewardToGo(), ratio=PerDecisionRatio())),
}


def false_alarms(law, values, p, n=200, seed=0):
    """The share of runs of n batches in which `confirm` rejects."""
    test, occurrences = RunTest(law, n, ALPHA), np.random.default_rng(seed).multinomial(n, p, size=RUNS)
    return test.rejects(np.tensordot(occurrences.astype(float), test.terms(values), axes=1)).mean()


@pytest.mark.parametrize("name", LAWS)
def test_false_alarms_are_fewer_than_alpha(name):
    assert false_alarms(*LAWS[name]) < ALPHA


def test_all_moments_together_see_what_each_does_not():
    """Rare estimates of the wrong sign: too rare for a test by the variance, impossible for the law."""
    near = PROBLEM.replace(theta=np.tile([6.0, 0.0, -1.0], 3))
    rejected = (r for seed in range(40) if not (r := confirm(SIGN, near, n=10_000, rng=seed)))
    found = next(r for r in rejected if r.log_probability.min() > -r.log_odds)
    assert found.log_e_value > found.log_odds
    assert "all components and moments together would deviate this much" in str(found)


def test_batches_are_drawn_whole_and_in_the_order_of_sample(monkeypatch):
    problem = ELSEWHERE.replace(prompts=3, group_size=2)
    whole = sample(MDP, POLICY, THETA, 6 * 6000, behaviour=ELSEWHERE.behaviour, group_size=2, rng=5)
    for cells in (estimates.CELLS, 9 * 6 * 100):
        monkeypatch.setattr(estimates, "CELLS", cells)
        parts = list(estimates.batches_drawn(problem, 6000, rng=5))
        assert [len(part) % 6 for part in parts] == [0] * len(parts)
        assert max(map(len, parts)) <= cells // 9
        assert np.array_equal(concatenate(parts).actions, whole.actions)


def test_batches_are_different_when_anything_recorded_is():
    """Three batches of two: equal, but for what is changed in the last trajectory of the last."""
    one = sample(MDP, POLICY, THETA, 1, rng=0)
    six = concatenate([one] * 6)
    assert [len(part) for part in estimates._different(six, 3)] == [1, 3]
    for name in (
        "states",
        "actions",
        "rewards",
        "lengths",
        "terminated",
        "truncated",
        "final_states",
        "log_probabilities",
    ):
        array = getattr(six, name).copy()
        array[5] = ~array[5] if array.dtype == bool else array[5] - 1
        first, kind = estimates._different(dataclasses.replace(six, **{name: array}), 3)
        assert kind[0] == kind[1] != kind[2]
        assert sorted(first) == [0, 2]


def test_half_the_variance_has_more_false_alarms_than_alpha():
    """Negative control; and so has a mean that is slightly wrong."""
    law, values, p = LAWS["plain"]
    half = dataclasses.replace(law, variance=law.variance / 2, variance_of_square=law.variance_of_square / 2)
    assert false_alarms(half, values, p) > 2 * ALPHA
    moved = dataclasses.replace(law, gradient=law.gradient + 0.4 * np.sqrt(law.variance))
    assert false_alarms(moved, values, p) > 2 * ALPHA


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("kind", ["cumulant", "variance"])
def test_factors_of_the_e_process_are_expected_to_be_one(name, kind):
    """Exactly so with the cumulant; at most so with the variance; more than so with half of it (the negative control)."""
    law, values, p = LAWS[name]
    process = (law if kind == "cumulant" else dataclasses.replace(law, values=None)).process
    terms = process.terms(law.statistics(values))
    for sign, cost in ((1.0, process.costs[0]), (-1.0, process.costs[1])):
        largest = (sign * terms).max(axis=0)
        log_expected = np.log(np.tensordot(p, np.exp(sign * terms - largest), axes=1)) + largest - cost
        if kind == "cumulant":
            assert np.abs(log_expected).max() < 1e-8
        else:
            assert log_expected.max() < 1e-9
            assert (log_expected + np.log1p(SCALES**2 / 2)[:, None] - np.log1p(SCALES**2 / 4)[:, None]).max() > 1e-3


def ever_rejected(law, values, p, looks=50, each=20, seed=0):
    """The share of streams in which the e-process ever reaches 1/ALPHA_EVER at one of its looks."""
    process, rng = law.process, np.random.default_rng(seed)
    terms = process.terms(law.statistics(values))
    sums, reached = np.zeros((STREAMS, *process.scales.shape)), np.zeros(STREAMS, dtype=bool)
    for look in range(1, looks + 1):
        sums += terms[rng.choice(len(p), size=(len(sums), each), p=p)].sum(axis=1)
        reached |= process.log_e_value(sums, look * each) >= -math.log(ALPHA_EVER)
    return reached.mean()


def test_streams_may_be_looked_at_whenever_one_likes():
    law, values, p = LAWS["plain"]
    assert ever_rejected(law, values, p) < ALPHA_EVER
    by_variance = dataclasses.replace(law, values=None)
    assert ever_rejected(by_variance, values, p) < ALPHA_EVER
    fifth = dataclasses.replace(by_variance, variance=law.variance / 5, variance_of_square=law.variance_of_square / 5)
    assert ever_rejected(fifth, values, p) > 2 * ALPHA_EVER


# --- the watch


def test_a_watch_rejects_what_is_wrong_and_stays_with_it():
    right, wrong = confirm_stream(MINE, PROBLEM), confirm_stream(SIGN, PROBLEM, alpha=1e-9)
    rng, looks = np.random.default_rng(3), 0
    while wrong:
        batch = sample(MDP, POLICY, THETA, 20, rng=rng)
        assert right.update(batch)
        wrong.update(batch)
        looks += 1
        assert looks < 40
    assert wrong.rejected
    assert wrong.e_value >= 1e9
    assert (right.n, wrong.n) == (20 * looks, 20 * looks)
    assert "REJECTED at alpha=1e-09 after" in str(wrong)
    assert f"not rejected at alpha=1e-06 after {right.n} trajectories in 9 components" in str(right)
    wrong.log_e_value = 0.0  # as if later batches had spoken for it
    assert wrong.rejected


@pytest.mark.parametrize("options", [{}, {"like": REINFORCE}], ids=["cumulant", "variance"])
def test_a_watch_adds_up_however_it_is_fed(options):
    batch = sample(MDP, POLICY, THETA, 60, rng=0)
    whole, parts = (confirm_stream(MINE, PROBLEM, components=[2, 5], **options) for _ in range(2))
    whole.update(batch)
    for first in range(0, 60, 7):
        parts.update(batch.take(slice(first, first + 7)))
    assert math.isclose(whole.log_e_value, parts.log_e_value, abs_tol=1e-10)
    assert_exact(whole.estimate, REINFORCE.gradient(batch, MDP, POLICY, THETA)[[2, 5]])
    assert parts.largest_log_e_value >= whole.log_e_value
    with pytest.raises(ValueError, match="3 trajectories are no whole batches of 4"):
        confirm_stream(algorithms.rloo(), GROUPS).update(batch.take(slice(3)))
    with pytest.raises(TypeError, match="are no Trajectories"):
        whole.update(None)


def test_a_watch_of_groups():
    watch, wrong = confirm_stream(algorithms.rloo(), GROUPS), confirm_stream(algorithms.dr_grpo(), GROUPS)
    batch = concatenate([draw(4000, 0, GROUPS)])
    assert watch.update(batch)
    assert not wrong.update(batch)


# --- the panel, and what is promised


PANEL_OF = {problem.name: problem for problem in PANEL}


@pytest.mark.parametrize(
    "name", ["gamma_t_dropped", "ratio_forgotten", "group_of_one_set_to_zero", "leave_one_out", "all_actions"]
)
def test_the_catalogue_by_monte_carlo(name):
    specimen = next(specimen for specimen in CATALOGUE if specimen.name == name)
    found = confirm_on_panel(
        specimen.function, n=3000, objective=specimen.objective, off_policy="behaviour" in specimen.needs,
        exchangeable=specimen.exchangeable, problems=[PANEL_OF[specimen.on]], rng=0,
    )  # fmt: skip
    assert found.rejected == (specimen.verdict == "biased")
    assert bool(found) != found.rejected
    assert specimen.on in str(found)


def test_the_panel_shares_alpha_and_says_what_is_not_applicable():
    found = confirm_on_panel(algorithms.rloo(), n=300, group_size=2, alpha=1e-4, rng=0)
    assert found
    assert [row.confirmation.alpha for row in found.judged] == [1e-4 / 8] * 8
    assert "its data are of another policy" in str(found)
    unknown = confirm_on_panel(MINE, n=20, problems=[PROBLEM], limit=10, rng=0)
    assert not unknown.judged
    assert "nothing is known" in str(unknown)
    assert confirm_on_panel(MINE, n=20, problems=[PROBLEM], limit=10, like=lambda problem: REINFORCE, rng=0).judged
    with pytest.raises(ValueError, match="none of them is applicable"):
        confirm_on_panel(REINFORCE, problems=[ELSEWHERE])
    with pytest.raises(ValueError, match="compares the members of a group") as caught:
        confirm_on_panel(algorithms.rloo(), n=20, problems=[PROBLEM])
    assert "of the panel" in caught.value.__notes__[0]


def test_the_promises_in_the_readme_are_those_of_the_benchmark():
    """A ten-thousandth of two of its parts: they run, and README names their rows."""
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    rows = bench_promises.monte_carlo(10_000) + bench_promises.optional_stopping(10_000)
    for what, runs, errors, *_, promised in rows:
        assert what in readme, what
        assert runs >= 20
        assert errors == 0 or promised.startswith(">")
