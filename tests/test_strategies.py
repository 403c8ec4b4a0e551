"""Strategies: what is forced is there, bounds are kept, examples shrink and are printed as code that can be pasted."""

import dataclasses
import importlib.metadata

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.vendor import pretty

import reinforce_np
from reinforce_np import FiniteMDP, LinearSoftmax, Problem, TabularSoftmax, Trajectories, exact, examples, judge
from reinforce_np.enumeration import count_trajectories, enumerate_trajectories
from reinforce_np.exact import listing
from reinforce_np.problem import code
from reinforce_np.strategies import Features, behaviours, critics, finite_mdps, policies, problems, thetas, trajectories
from reinforce_np.traits import BOOTSTRAPPED, CHANCE, EPISODES, GROUPS, OFF_POLICY, PENALISED, PROMPTS, features_of

NAMES = {name: getattr(reinforce_np, name) for name in reinforce_np.__all__}
PHASES = [hypothesis.Phase.generate, hypothesis.Phase.shrink]
EACH = [Features(**{f.name: True}) for f in dataclasses.fields(Features)]
PROFILES = [EPISODES | CHANCE, EPISODES | OFF_POLICY | PENALISED | BOOTSTRAPPED, CHANCE | GROUPS, PROMPTS]


def drawn(strategy, n):
    """The first n examples of a strategy."""
    found = []

    @hypothesis.given(strategy)
    @hypothesis.settings(max_examples=n, phases=PHASES[:1])
    def collect(example):
        found.append(example)

    collect()
    return found


def n_batches(problem):
    """How many batches there are, in every order."""
    found, _ = enumerate_trajectories(problem.mdp, problem.policy, problem.theta)
    sizes = np.unique(found.states[:, 0], return_counts=True)[1].tolist()
    return listing.n_batches(sizes, problem.prompts, problem.group_size, in_order=True)


@pytest.mark.parametrize("force", [*PROFILES, Features()], ids=["episodes", "off-policy", "groups", "prompts", "none"])
def test_what_is_forced_is_there_and_the_batches_can_be_listed(force):
    found = drawn(problems(force), 25)
    for problem in found:
        assert force <= features_of(problem), force.names - features_of(problem).names
        assert n_batches(problem) <= 400
        assert np.abs(exact.gradient(problem.mdp, problem.policy, problem.theta)).max() > 1e-4
        dyadic = 64 * np.concatenate([problem.mdp.probability.ravel(), problem.mdp.initial])
        assert np.all(dyadic == np.round(dyadic)) and np.all(problem.mdp.reward == np.round(problem.mdp.reward))
    if force == Features():
        for name in (EPISODES | CHANCE).names - {"three_actions"}:
            assert sum(name in features_of(problem).names for problem in found) >= 0.15 * len(found), name


def test_the_simplest_problem_with_each_feature():
    """Hypothesis tries the simplest draw first; it has one feature, and nothing else that could be left out."""
    others = {"unequal_lengths": {"termination"}}
    for force in EACH:
        (problem,) = drawn(problems(force), 1)
        found, (name,) = features_of(problem), force.names
        assert force <= found
        assert found.names <= {"truncation", "rewards", name} | others.get(name, set()), name
        mdp = problem.mdp
        assert (mdp.n_states, mdp.n_actions) == (1 + force.uneven_start, 2 + force.three_actions)
        assert mdp.n_outcomes == 1 + force.several_outcomes
        assert mdp.horizon == (3 if force.three_steps else 2 if force.unequal_lengths else 1)
        assert np.abs(mdp.reward).max() <= 1 + force.rewards
        assert np.abs(problem.theta).max() == 0.5 * force.uneven_policy
        assert mdp.gamma == (0.5 if force.discount else 1.0)
        assert not features_of(problem.replace(beta=0.0)).reference


def test_models_keep_their_bounds():
    bounds = {"states": 2, "outcomes": (2, 3), "gammas": (1.0, 0.5), "rewards": (-9, 9), "max_trajectories": 24}
    for mdp in drawn(finite_mdps(EPISODES, **bounds), 25):
        assert mdp.n_states == 2 and mdp.n_outcomes in (2, 3) and mdp.gamma == 0.5 and mdp.horizon == 3
        assert np.all((mdp.probability > 0).sum(axis=2) >= 2) and np.abs(mdp.reward).max() <= 9
        assert count_trajectories(mdp) <= 24
    bounds = {"states": 1, "actions": 2, "outcomes": 1, "horizon": 1, "rewards": (-3, 3)}
    for mdp in drawn(finite_mdps(Features(rewards=True), **bounds), 25):  # the mean is zero in one of seven if let
        assert mdp.reward.sum() != 0 and np.abs(mdp.reward).max() > 1


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("problems(EPISODES, horizon=2)", "three_steps, horizon must allow 3"),
        ("problems(Features(discount=True), gammas=(0.0, 1.0))", "gammas must hold one between 0 and 1"),
        ("problems(Features(rewards=True), rewards=(0, 3))", "rewards must allow 3"),
        ("problems(GROUPS, group_size=1)", "group_size must allow 2"),
        (
            "problems(EPISODES | PROMPTS)",
            "max_batches=400 is too small: the smallest problem within these bounds has 1024",
        ),
        ("problems(rewards=2)", "leave no choice"),
        ("problems(states=(3, 2))", "is empty"),
        ("problems(gammas=())", "is empty"),
        ("problems(actions=1)", "at least 2"),
        ("finite_mdps(max_trajectories=2, horizon=2)", "max_trajectories=2 is too small"),
        ("finite_mdps(OFF_POLICY)", "more than a model has"),
        ("critics(0)", "at least 1"),
        ("trajectories(Problem(examples.random_walk(), TabularSoftmax(7, 2), np.zeros(14)))", "horizon=None"),
        ("problems('EPISODES')", "is no Features"),
        ("problems(horizon=1.5)", "is not a whole number"),
        ("thetas(3)", "is no policy"),
        ("trajectories(3)", "is no Problem"),
        ("policies(linear=1)", "is not a flag"),
    ],
)
def test_bounds_that_contradict_each_other_are_refused_at_once(wrong, said):
    with pytest.raises((ValueError, TypeError), match=said):
        eval(wrong)


def assert_same(found, expected):
    """Field by field, down to the last bit."""
    assert type(found) is type(expected)
    for field in dataclasses.fields(expected):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if dataclasses.is_dataclass(b):
            assert_same(a, b)
        else:
            assert np.array_equal(a, b), field.name


def test_printed_records_are_code():
    for problem in drawn(problems(BOOTSTRAPPED | OFF_POLICY | PENALISED, temperatures=(1.0, 0.5), prompts=(1, 2)), 10):
        for printed in (repr(problem), pretty.pretty(problem), code(problem, width=60)):
            assert_same(eval(printed, dict(NAMES)), problem)
        assert "\n" not in repr(problem)
        assert max(map(len, code(problem.mdp.replace(gamma=0.5), width=60).split("\n"))) <= 60
    for strategy in (finite_mdps(), policies(linear=True, masks=True), trajectories()):
        for record in drawn(strategy, 5):
            assert_same(eval(pretty.pretty(record), dict(NAMES)), record)
    masked = Problem(examples.bandit(means=[0.0, 1.0, 2.0]), TabularSoftmax(1, 3), [0.0, 1e-300, -np.inf])
    assert_same(eval(repr(masked), dict(NAMES)), masked)
    large = Problem(examples.gridworld_4x4(), TabularSoftmax(16, 4), np.zeros(64), critic=np.ones(16), group_size=3)
    assert repr(large) == (
        "Problem(FiniteMDP(n_states=16, n_actions=4, n_outcomes=1, gamma=1, horizon=None), TabularSoftmax(...), "
        "theta=<64 numbers>, group_size=3, critic=<16 numbers>)"
    )
    assert pretty.pretty(large) == repr(large)


def test_a_falsifying_example_can_be_pasted():
    def score_only(trajectories, theta, problem):
        return problem.policy.score(theta)[trajectories.states, trajectories.actions].sum(axis=(0, 1))

    judged = []

    @hypothesis.given(problems())
    @hypothesis.settings(phases=PHASES, database=None)
    def test_mine(problem):
        judged.append(judge(score_only, problem).kind)
        assert judged[-1] == "unbiased"

    with pytest.raises(AssertionError) as caught:
        test_mine()
    note = "\n".join(caught.value.__notes__)
    called = note[note.index("test_mine(") :]
    assert "FiniteMDP(\n" in called and "TabularSoftmax(1, 2)," in called
    problem = eval(called, {**NAMES, "test_mine": lambda problem: problem})
    assert judge(score_only, problem).kind == judged[-1] == "biased"


def test_batches_can_happen():
    """Every trajectory drawn is one of those listed, and groups share their start."""
    for problem in drawn(problems(OFF_POLICY | GROUPS | Features(several_outcomes=True)), 8):
        listed, _ = enumerate_trajectories(problem.mdp, problem.policy, problem.theta, behaviour=problem.behaviour)
        paths = [exact.callables.path(listed, n) for n in range(len(listed))]
        for batch in drawn(trajectories(problem), 3):
            assert len(batch) == problem.prompts * problem.group_size
            for n in range(len(batch)):
                same = paths.index(exact.callables.path(batch, n))
                assert np.array_equal(listed.log_probabilities[same], batch.log_probabilities[n])
                assert batch.states[n, 0] == batch.states[n - n % problem.group_size, 0]
                assert batch.truncated[n] != batch.terminated[n]


def test_types_have_strategies_and_parts_have_their_shapes():
    kinds = (FiniteMDP, TabularSoftmax, LinearSoftmax, Problem, Trajectories)
    for kind in kinds:
        assert isinstance(drawn(st.from_type(kind), 1)[0], kind)
    policy = TabularSoftmax(2, 3)
    for theta, table, critic in drawn(st.tuples(thetas(policy), behaviours(2, 3), critics(2)), 5):
        assert theta.shape == (6,) and critic.shape == (2,) and np.all(2 * theta == np.round(2 * theta))
        assert np.all(table > 0) and np.array_equal(table.sum(axis=1), [1.0, 1.0])
    installed = importlib.metadata.entry_points(group="hypothesis")
    assert all(entry.value == "reinforce_np.strategies" for entry in installed if entry.name == "reinforce_np")
