"""Gradients of trajectories that are not kept, of batches still packed, and of batches written out: all the same."""

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import pickle
import signal
import tracemalloc

import numpy as np
import pytest
from tolerances import EXACT, assert_exact

from reinforce_np import (
    GAE,
    BatchStandardised,
    Constant,
    Estimator,
    FeatureSoftmax,
    FiniteMDP,
    GroupStandardised,
    InSampleOptimal,
    KLPenalty,
    LinearSoftmax,
    NeuralSoftmax,
    PerComponent,
    PerLength,
    PerToken,
    RewardToGo,
    SelfNormalisedRatio,
    TabularSoftmax,
    TotalReturn,
    Trajectories,
    TrajectoryRatio,
    algorithms,
    examples,
    features,
    parallel,
    returns,
    sample,
    stream_gradient,
)
from reinforce_np.estimators import each, packed, ways
from reinforce_np.estimators.packed import packed_weights
from reinforce_np.sampling import draw, tables
from reinforce_np.trajectories import FIELDS, WIDE, concatenate

REFEREE = examples.referee()
POLICY = TabularSoftmax(3, 3)
THETA = np.array([0.3, -0.5, 1.0, 0.0, 0.7, -1.2, -0.4, 0.2, 0.9])
PROBLEM = REFEREE, POLICY, THETA
LAKE = examples.frozen_lake(map="4x4", horizon=30, gamma=0.9)  # pays only at the end, mostly nothing
WALKER = TabularSoftmax(16, 4)
BY_STATE, BY_TIME = np.array([0.5, -1.0, 2.0]), np.sin(np.arange(15)).reshape(5, 3)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 8 trajectories, so that a hundred make thirteen."""
    monkeypatch.setattr(draw, "MAX_BLOCK", 8)


def written_out(batch):
    """The same record, with nothing left to unpack."""
    return batch.take(slice(None))


def in_rows(batch):
    """The same record from elsewhere: a trajectory after the other in memory, and anything at all after its end."""
    junk = {"states": -7, "actions": 99, "rewards": 1e3}
    arrays = {name: np.where(batch.mask, getattr(batch, name), after) for name, after in junk.items()}
    return dataclasses.replace(batch, **{name: np.ascontiguousarray(array) for name, array in arrays.items()})


# --- batches that are still packed


@pytest.fixture
def at_once(monkeypatch):
    """A function that fixes how many steps are drawn at once; none stands for an action, and then its outcome."""

    return lambda k: monkeypatch.setattr(tables, "steps_at_once", lambda mdp, n: k)


AT_ONCE = pytest.mark.parametrize(
    "k", [0, 1, 2, 3], ids=["action, then outcome", "one step", "two at once", "three at once"]
)


@AT_ONCE
@pytest.mark.parametrize("options", [{}, {"discounted_score": False}, {"normaliser": Constant(7)}])
@pytest.mark.parametrize("baseline", [0.0, 0.3, BY_STATE, BY_TIME], ids=["none", "number", "by state", "by time"])
def test_packed_weights_are_the_weights_of_every_step_added_up(at_once, small_blocks, k, options, baseline):
    at_once(k)
    mdp, estimator = REFEREE.replace(), Estimator(RewardToGo(baseline), **options)
    batch = sample(mdp, POLICY, THETA, 100, rng=2)
    w = estimator.weights(written_out(batch), mdp, POLICY, THETA)
    expected = np.zeros((3, 3))
    for n in range(100):
        for t in range(batch.lengths[n]):
            expected[batch.states[n, t], batch.actions[n, t]] += w[n, t]
    assert_exact(packed_weights(estimator, batch, mdp), expected)
    assert_exact(estimator.gradient(batch, mdp, POLICY, THETA), POLICY.contract(THETA, expected))
    score = POLICY.score(THETA)
    rows = np.array([sum(100 * w[n, t] * score[batch.states[n, t], batch.actions[n, t]] for t in range(batch.lengths[n]))
                     for n in range(100)])  # fmt: skip
    for given in (batch, written_out(batch), in_rows(batch)):
        assert_exact(estimator.per_trajectory(given, mdp, POLICY, THETA), rows, scale=np.abs(rows).max())


@AT_ONCE
@pytest.mark.parametrize("horizon", [1, 2, 3])
@pytest.mark.parametrize("initial", [[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]], ids=["one start", "many starts"])
@pytest.mark.parametrize("baseline", [0.0, 0.3, BY_STATE, BY_TIME], ids=["none", "number", "by state", "by time"])
def test_weights_of_a_few_steps_are_counted(at_once, small_blocks, k, horizon, initial, baseline):
    """All of them may be taken by a single draw, some of which the horizon cuts short."""
    at_once(k)
    mdp = REFEREE.replace(horizon=horizon, initial=initial)
    for discounted in (True, False):
        estimator = Estimator(RewardToGo(baseline), discounted_score=discounted)
        batch = sample(mdp, POLICY, THETA, 100, rng=2)
        assert (len(batch.packed.blocks[0].slots) == 1) == (horizon <= max(k, 1))
        w = 100 * estimator.weights(written_out(batch), mdp, POLICY, THETA)
        expected = np.bincount((batch.states * 3 + batch.actions).ravel(), w.ravel(), minlength=9).reshape(3, 3)
        assert_exact(100 * packed_weights(estimator, batch, mdp), expected, scale=np.abs(w).sum())
        streamed = stream_gradient(estimator, mdp, POLICY, THETA, 100, rng=2)
        assert_exact(streamed.gradient, POLICY.contract(THETA, expected / 100), scale=np.abs(w).sum() / 100)
        assert_exact(streamed.mean_return, returns(batch.rewards, mdp.gamma).mean())


def test_a_large_baseline_does_not_cost_digits_of_what_is_counted():
    mdp = examples.bandit(means=[1e12, 1e12 + 1.0])
    batch, estimator = sample(mdp, TabularSoftmax(1, 2), np.zeros(2), 1000, rng=0), Estimator(RewardToGo(1e12))
    assert packed_weights(estimator, batch, mdp).tolist() == [[0.0, batch.actions.mean()]]


@AT_ONCE
@pytest.mark.parametrize("policy", [POLICY, TabularSoftmax(3, 3, temperature=0.5), LinearSoftmax(np.cos(np.arange(45.0)).reshape(3, 3, 5))],
                         ids=["table", "cold table", "linear"])  # fmt: skip
def test_trajectories_may_be_looked_at_in_any_order_and_number(at_once, monkeypatch, small_blocks, k, policy):
    """Long ones with long ones, in parts of every size, each beginning in another block."""
    at_once(k)
    problem = REFEREE.replace(horizon=12), policy, THETA[: policy.n_parameters]
    batch, estimator = sample(*problem, 100, rng=0), Estimator(RewardToGo(BY_STATE))
    assert len(np.unique(batch.lengths)) > 3
    w, score = 100 * estimator.weights(written_out(batch), *problem), policy.score(problem[2])
    expected = np.einsum("nt,ntp->np", w, score[batch.states, batch.actions])
    for moved, steps in itertools.product((0.0, np.inf), (1, 30, 10**6)):
        monkeypatch.setattr(each, "MOVED", moved)
        monkeypatch.setattr(each, "FEWEST", 1)
        monkeypatch.setattr(each, "STEPS", steps)
        for given in (batch, written_out(batch), in_rows(batch)):
            assert_exact(estimator.per_trajectory(given, *problem), expected, scale=np.abs(expected).max())


def force(monkeypatch, way):
    """Make gradients of each trajectory be computed in one way."""
    monkeypatch.setattr(each, "quickest", lambda *_: way)


COLD = TabularSoftmax(3, 3, temperature=0.5)
MASKED = TabularSoftmax(3, 3, mask=np.array([[True, True, False], [True, True, True], [False, True, True]]))
LINEAR = LinearSoftmax(np.cos(np.arange(45.0)).reshape(3, 3, 5), temperature=2.0)
HIDDEN = LinearSoftmax(np.cos(np.arange(45.0)).reshape(3, 3, 5), mask=MASKED.mask)
OBSERVED = FeatureSoftmax(features.Polynomial(low=[-1.0], high=[1.0], order=2), 3).on(np.linspace(-1, 1, 3)[:, None])
NETWORK = NeuralSoftmax(features.Polynomial(low=[-1.0], high=[1.0], order=1), 3, n_hidden=2).on(
    np.linspace(-1, 1, 3)[:, None]
)


@pytest.mark.parametrize(("policy", "by_steps"), [
    (POLICY, [ways.Scattered, ways.Gathered]), (COLD, [ways.Scattered, ways.Gathered]), (MASKED, [ways.Scattered, ways.Gathered]),
    (LINEAR, [ways.Gathered]), (HIDDEN, [ways.Gathered]), (OBSERVED, [ways.Gathered, ways.Alone]), (NETWORK, [ways.Gathered, ways.Alone]),
], ids=["table", "cold table", "masked table", "linear", "masked linear", "observed", "network"])  # fmt: skip
def test_ways_to_the_gradient_of_each(at_once, monkeypatch, small_blocks, policy, by_steps):
    """Episodes of every length, in parts of every size, long ones with long ones."""
    at_once(2)
    theta = np.sin(np.arange(policy.n_parameters))
    mdp, behaviour = REFEREE.replace(horizon=12), np.full((3, 3), 1 / 3)  # which may do what is masked
    batch, estimator = sample(mdp, POLICY, THETA, 100, behaviour=behaviour, rng=0), Estimator(RewardToGo(BY_STATE))
    score = policy.score(theta)
    w = 100 * estimator.weights(written_out(batch), mdp, policy, theta)
    expected = np.einsum("nt,ntp->np", w, score[batch.states, batch.actions])
    for way, moved, steps in itertools.product([ways.Contracted, *by_steps], (0.0, np.inf), (1, 30, 10**6)):
        force(monkeypatch, way)
        monkeypatch.setattr(each, "MOVED", moved)
        monkeypatch.setattr(each, "FEWEST", 1)
        monkeypatch.setattr(each, "STEPS", steps)
        for given in (batch, written_out(batch), in_rows(batch)):
            assert_exact(estimator.per_trajectory(given, mdp, policy, theta), expected, scale=np.abs(expected).max())


@pytest.mark.parametrize(("policy", "way"), [
    (POLICY, ways.Scattered), (LINEAR, ways.Gathered), (OBSERVED, ways.Alone), (POLICY, ways.Contracted),
])  # fmt: skip
def test_every_way_knows_trajectories_without_a_step_and_what_leaves_float64(monkeypatch, policy, way):
    force(monkeypatch, way)
    batch, theta = written_out(sample(*PROBLEM, 50, rng=0)), np.sin(np.arange(policy.n_parameters))
    given = dataclasses.replace(batch, lengths=np.where(np.arange(50) % 5, batch.lengths, 0))
    found = Estimator(RewardToGo()).per_trajectory(given, REFEREE, policy, theta)
    assert not found[::5].any() and found[1::5].any()
    monkeypatch.setattr(each, "MOVED", -1.0)  # those without a step by themselves
    monkeypatch.setattr(each, "FEWEST", 1)
    monkeypatch.setattr(each, "STEPS", 5)
    assert_exact(
        Estimator(RewardToGo()).per_trajectory(given, REFEREE, policy, theta), found, scale=np.abs(found).max()
    )
    none = dataclasses.replace(batch, lengths=np.zeros(50, dtype=int))
    assert not Estimator(RewardToGo(2.0)).per_trajectory(none, REFEREE, policy, theta).any()
    with pytest.raises(ValueError, match="the gradient overflows"):
        Estimator(RewardToGo(-1.7e308)).per_trajectory(batch, REFEREE.replace(gamma=1.0), policy, theta)


def one_path(rewards):
    """A record of one trajectory that stays in the first of two states, and takes the first of two actions."""
    T = len(rewards)
    zero = np.zeros((1, T), dtype=int)
    return Trajectories(zero, zero, np.array([rewards]), np.array([T]), np.ones(1, bool), np.zeros(1, bool), zero[:, 0], zero - 0.5,
                        zero[:, 0])  # fmt: skip


@pytest.mark.parametrize("way", [ways.Scattered, ways.Gathered, ways.Contracted])
def test_infinities_of_both_signs_are_refused(monkeypatch, way):
    """Each step is finite, and so would be a sum in which they cancel."""
    force(monkeypatch, way)
    mdp = FiniteMDP(np.ones((2, 2, 1)), np.zeros((2, 2, 1), int), np.zeros((2, 2, 1)), np.zeros((2, 2, 1), bool),
                    initial=[1.0, 0.0], gamma=0.999, horizon=6)  # fmt: skip
    estimator = Estimator(RewardToGo(-1.2e308), discounted_score=False)
    with pytest.raises(ValueError, match="the gradient overflows"):
        estimator.per_trajectory(one_path(6 * [0.0]), mdp, TabularSoftmax(2, 2), np.zeros(4))


@pytest.mark.parametrize("c", [1.0, 1e100])
@pytest.mark.parametrize("discounted", [True, False])
def test_a_large_constant_does_not_make_discounts_underflow(c, discounted):
    """γᵗ/c is zero where the reward is; γᵗ is not, nor is what is paid divided by c."""
    T = 960
    mdp = FiniteMDP(np.ones((2, 2, 1)), np.zeros((2, 2, 1), int), np.zeros((2, 2, 1)), np.zeros((2, 2, 1), bool),
                    initial=[1.0, 0.0], gamma=0.5, horizon=T)  # fmt: skip
    estimator = Estimator(RewardToGo(), normaliser=Constant(c), discounted_score=discounted)
    found = estimator.per_trajectory(one_path((T - 1) * [0.0] + [1e300]), mdp, TabularSoftmax(2, 2), np.zeros(4))
    paid = 0.5 ** (T - 1) * 1e300 / c
    expected = T * paid / 2 if discounted else paid * (2.0**T - 1) / 2
    np.testing.assert_allclose(found[0, :2], [expected, -expected], rtol=1e-12)


@pytest.mark.parametrize(("policy", "lengths", "way"), [
    (TabularSoftmax(1000, 4), [50], ways.Scattered), (TabularSoftmax(1000, 4), [200], ways.Contracted),
    (TabularSoftmax(64, 4), [100], ways.Contracted), (TabularSoftmax(64, 4), [5], ways.Scattered),
    (LinearSoftmax(np.ones((1000, 4, 16))), 1000 * [50], ways.Gathered), (LinearSoftmax(np.ones((1000, 4, 16))), [50], ways.Contracted),
    (LinearSoftmax(np.ones((64, 4, 16))), 1000 * [100], ways.Contracted),
    (FeatureSoftmax(features.Polynomial(low=[-1.0], high=[1.0], order=2), 3).on(np.zeros((9000, 1))), 90 * [100], ways.Alone),
    (OBSERVED, [3], ways.Contracted),
])  # fmt: skip
def test_the_quickest_way_to_the_gradient_of_each(policy, lengths, way):
    class Batch:
        def __len__(self):
            return len(self.lengths)

    batch = Batch()
    batch.lengths = np.array(lengths)
    assert ways.quickest(batch, policy, policy.n_states, policy.n_actions) is way


def test_a_table_that_contracts_as_it_likes_is_left_to_it():
    class Twice(TabularSoftmax):
        def contract(self, theta, weights):
            return 2 * super().contract(theta, weights)

    mdp = examples.random_mdp(n_states=60, n_actions=3, horizon=4, rng=0)
    batch, estimator = sample(mdp, TabularSoftmax(60, 3), np.zeros(180), 50, rng=0), Estimator(RewardToGo())
    plain, twice = (
        estimator.per_trajectory(batch, mdp, policy(60, 3), np.zeros(180)) for policy in (TabularSoftmax, Twice)
    )
    assert plain.any()
    assert_exact(twice, 2 * plain)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int64])
def test_lengths_may_be_any_whole_numbers(monkeypatch, dtype):
    """Of which the negative of the unsigned ones is large; and there are trajectories without a step."""
    monkeypatch.setattr(each, "MOVED", 0.0)
    batch, estimator = written_out(sample(*PROBLEM, 50, rng=0)), Estimator(RewardToGo(0.1))
    given = dataclasses.replace(batch, lengths=np.where(np.arange(50) % 5, batch.lengths, 0).astype(dtype))
    wide = {name: np.pad(getattr(given, name), ((0, 0), (0, 300))) for name in WIDE}  # more steps than 8 bits can count
    expected = np.einsum(
        "nt,ntp->np", 50 * estimator.weights(given, *PROBLEM), POLICY.score(THETA)[given.states, given.actions]
    )
    for record in (given, dataclasses.replace(given, **wide)):
        assert_exact(estimator.per_trajectory(record, *PROBLEM), expected, scale=np.abs(expected).max())


@AT_ONCE
@pytest.mark.parametrize("pays_before", [0.0, 1e-3])
def test_a_large_reward_late_is_not_lost_in_a_block(at_once, k, pays_before):
    """The weights of the first steps are 1e-180; γᵗ is zero where it is paid."""
    at_once(k)
    S = 331
    state, last = np.arange(S)[:, None, None], np.arange(S)[:, None, None] == S - 1
    mdp = FiniteMDP(np.ones((S, 1, 1)), np.minimum(state + 1, S - 1), np.where(last, 1e150, pays_before), last,
                    initial=np.eye(S)[0], gamma=0.1, horizon=S)  # fmt: skip
    policy, estimator = TabularSoftmax(S, 1), Estimator(RewardToGo())
    batch = sample(mdp, policy, np.zeros(S), 3, rng=0)
    expected = estimator.weights(written_out(batch), mdp, policy, np.zeros(S)).sum(axis=0)
    assert expected[0] > 0.0
    np.testing.assert_allclose(packed_weights(estimator, batch, mdp)[:, 0], expected, rtol=1e-12)


def test_masked_actions_of_a_record_have_no_score():
    """As of a behaviour policy that may do more."""
    policy = TabularSoftmax(3, 3, mask=np.array([[True, True, False], [True, True, True], [False, True, True]]))
    batch, estimator = (
        sample(REFEREE, policy, THETA, 50, behaviour=np.full((3, 3), 1 / 3), rng=0),
        Estimator(RewardToGo()),
    )
    assert not policy.mask[batch.states, batch.actions][batch.mask].all()
    w, score = 50 * estimator.weights(written_out(batch), REFEREE, policy, THETA), policy.score(THETA)
    expected = np.einsum("nt,ntp->np", w, score[batch.states, batch.actions])
    for given in (batch, written_out(batch)):
        assert_exact(estimator.per_trajectory(given, REFEREE, policy, THETA), expected, scale=np.abs(expected).max())


def test_a_policy_may_contract_as_it_likes():
    class Twice(TabularSoftmax):
        def contract(self, theta, weights):
            return 2 * super().contract(theta, weights)

    class Backwards(TabularSoftmax):
        def pull_back(self, weights):
            return super().pull_back(weights)[..., ::-1]

    batch, estimator = sample(REFEREE, POLICY, THETA, 50, rng=0), Estimator(RewardToGo())
    each_of = [
        estimator.per_trajectory(batch, REFEREE, policy, THETA) for policy in (POLICY, Twice(3, 3), Backwards(3, 3))
    ]
    assert_exact(each_of[1], 2 * each_of[0])
    assert_exact(each_of[2], each_of[0][:, ::-1])


def test_a_large_reward_late_is_discounted_step_by_step():
    """γᵗ alone would be zero by then."""
    one, T = np.ones((1, 331), dtype=int), 331
    late = Trajectories(one * (np.arange(T) > 0), one, 1e150 * (np.arange(T) == T - 1.0)[None], [np.uint16(T)],
                        one[0, :1] > 0, one[0, :1] < 0, one[0, :1], -one / 2, one[0, :1])  # fmt: skip
    mdp = FiniteMDP(np.ones((2, 2, 1)), np.ones((2, 2, 1), dtype=int), np.ones((2, 2, 1)), np.zeros((2, 2, 1), dtype=bool),
                    initial=[1.0, 0.0], gamma=0.1, horizon=T)  # fmt: skip
    found = Estimator(RewardToGo()).per_trajectory(late, mdp, TabularSoftmax(2, 2), np.zeros(4))
    np.testing.assert_allclose(found[0, :2], [-0.5e-180, 0.5e-180], rtol=1e-12)


def test_a_baseline_by_time_may_end_with_the_longest_episode(at_once):
    at_once(4)
    problem = REFEREE.replace(horizon=None), POLICY, THETA
    batch = sample(*problem, 30, rng=0)
    assert batch.n_steps % 4, "the last draw goes on after the longest episode"
    estimator = Estimator(RewardToGo(np.sin(np.arange(3.0 * batch.n_steps)).reshape(-1, 3)))
    assert packed_weights(estimator, batch, problem[0]) is not None
    w, score = 30 * estimator.weights(written_out(batch), *problem), POLICY.score(THETA)
    expected = np.einsum("nt,ntp->np", w, score[batch.states, batch.actions])
    for given in (batch, written_out(batch), in_rows(batch)):
        assert_exact(estimator.per_trajectory(given, *problem), expected, scale=np.abs(expected).max())
    assert_exact(estimator.gradient(batch, *problem), expected.mean(axis=0), scale=np.abs(expected).max())


def test_gradients_that_leave_float64_are_refused():
    """In the sum over steps; what contraction makes of it would be no number."""
    batch, huge = sample(REFEREE, POLICY, THETA, 50, rng=0), Estimator(RewardToGo(-1.7e308))
    for given in (batch, written_out(batch)):
        with pytest.raises(ValueError, match="the gradient overflows: rewards or baselines are too large"):
            huge.per_trajectory(given, REFEREE.replace(gamma=1.0), POLICY, THETA)


@AT_ONCE
def test_a_large_reward_first_does_not_cost_the_digits_of_what_comes_later(at_once, k):
    at_once(k)
    mdp = FiniteMDP(np.full((6, 2, 1), 1.0), (np.arange(6).clip(max=4) + 1)[:, None, None].repeat(2, axis=1),
                    np.array([1e13, 1.0, 1e-3, 2.0, 1e-6, 3.0])[:, None, None] * [[[1.0], [0.5]]], np.zeros((6, 2, 1), dtype=bool),
                    initial=np.eye(6)[0], gamma=0.9, horizon=9)  # fmt: skip
    batch, estimator = sample(mdp, TabularSoftmax(6, 2), np.zeros(12), 50, rng=0), Estimator(RewardToGo())
    w = estimator.weights(written_out(batch), mdp, TabularSoftmax(6, 2), np.zeros(12))
    expected = np.bincount((batch.states * 2 + batch.actions).ravel(), w.ravel(), minlength=12).reshape(6, 2)
    np.testing.assert_allclose(packed_weights(estimator, batch, mdp), expected, rtol=EXACT)


@AT_ONCE
@pytest.mark.parametrize("few_places", [0, packed.FEW_PLACES])
def test_those_that_have_finished_and_still_draw_count_for_nothing(monkeypatch, at_once, k, few_places):
    """In a block of eight the first to finish is dropped at once, in a large one it is not."""
    at_once(k)
    monkeypatch.setattr(packed, "FEW_PLACES", few_places)
    mdp = examples.random_mdp(n_states=3, n_actions=3, n_outcomes=2, horizon=7, termination=0.05, rng=0)
    policy = TabularSoftmax(3, 3)
    batch = sample(mdp, policy, THETA, 400, rng=2)
    assert sum(block.n_transitions for block in batch.packed.blocks) == batch.lengths.sum() == batch.mask.sum()
    assert len(batch.packed.blocks[0].moves) < 5 and 0 < batch.terminated.mean() < 1
    assert not np.any(np.stack([batch.states, batch.actions, batch.rewards, batch.log_probabilities])[:, ~batch.mask])
    for discounted in (True, False):
        estimator = Estimator(RewardToGo(0.3), discounted_score=discounted)
        w = estimator.weights(written_out(batch), mdp, policy, THETA)
        expected = np.bincount((batch.states * 3 + batch.actions).ravel(), w.ravel(), minlength=9).reshape(3, 3)
        assert_exact(packed_weights(estimator, batch, mdp), expected)


@pytest.mark.parametrize(
    "mdp",
    [LAKE, LAKE.replace(horizon=31), LAKE.replace(reward=LAKE.reward - 0.01 * ~LAKE.terminated), LAKE.replace(horizon=None), LAKE.replace(horizon=0)],
    ids=["paid at the end", "or cut short", "paid at every step", "without horizon", "without steps"],
)  # fmt: skip
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("few", [0, 10**9])
def test_trajectories_that_are_never_paid_may_be_left_out_where_payment_comes_last(monkeypatch, at_once, mdp, k, few):
    at_once(k)
    monkeypatch.setattr(packed, "FEW", few)
    problem = mdp, WALKER, np.sin(np.arange(64))
    batch = sample(*problem, 2000, rng=0)
    assert (batch.packed.meaning.paid is None) == np.any(mdp.reward[~mdp.terminated])
    if batch.packed.meaning.paid is not None:
        assert np.array_equal(batch.packed.paid(), batch.rewards.any(axis=1))
    for baseline, discounted in ((0.0, True), (0.0, False), (0.01, True)):
        estimator = Estimator(RewardToGo(baseline), discounted_score=discounted)
        w = estimator.weights(written_out(batch), *problem)
        expected = np.bincount((batch.states * 4 + batch.actions).ravel(), w.ravel(), minlength=64).reshape(16, 4)
        assert_exact(packed_weights(estimator, batch, mdp), expected)
        assert_exact(estimator.gradient(batch, *problem), WALKER.contract(problem[2], expected))


def test_both_ends_of_an_episode_may_pay_or_not_in_the_same_state():
    """Termination into one state with a reward, and into the same state without."""
    mdp = FiniteMDP([[[0.5, 0.3, 0.2]]] * 2, [[[0, 0, 1]]] * 2, [[[0.0, 2.0, 0.0]]] * 2, [[[True, True, False]]] * 2,
                    initial=[1.0, 0.0], gamma=0.5, horizon=4)  # fmt: skip
    policy = TabularSoftmax(2, 1)
    batch = sample(mdp, policy, np.zeros(2), 3000, rng=0)
    assert 0.3 < returns(batch.rewards, 1.0).mean() / 2 < 0.5
    w = Estimator(RewardToGo()).weights(written_out(batch), mdp, policy, np.zeros(2))
    expected = np.bincount(batch.states.ravel(), w.ravel(), minlength=2)[:, None]
    assert_exact(packed_weights(Estimator(RewardToGo()), batch, mdp), expected)
    assert set(batch.final_states) == {0, 1}


@pytest.mark.parametrize("estimator", [
    Estimator(TotalReturn()), Estimator(RewardToGo(), ratio=TrajectoryRatio()), Estimator(RewardToGo(), normaliser=PerLength()),
    Estimator(RewardToGo(), penalty=KLPenalty(np.zeros(9), 0.1)), Estimator(RewardToGo(np.zeros(4))), Estimator(RewardToGo(BY_TIME[:3])),
])  # fmt: skip
def test_other_estimators_need_the_steps(estimator):
    assert packed_weights(estimator, sample(*PROBLEM, 5, rng=0), REFEREE) is None


def test_other_batches_need_the_steps():
    batch, estimator = sample(*PROBLEM, 5, rng=0), Estimator(RewardToGo())
    assert packed_weights(estimator, batch, REFEREE) is not None
    assert packed_weights(estimator, written_out(batch), REFEREE) is None
    assert packed_weights(estimator, batch, LAKE) is None
    larger = (
        examples.random_mdp(n_states=5, n_actions=4, n_outcomes=2, horizon=4, rng=0),
        TabularSoftmax(5, 4),
        np.sin(np.arange(20)),
    )
    for advantage in (RewardToGo(), RewardToGo(np.arange(5.0))):  # where state 2, action 2 is another pair
        of_larger = [Estimator(advantage).per_trajectory(given, *larger) for given in (batch, written_out(batch))]
        assert_exact(*of_larger)
    with pytest.raises(ValueError, match=r"states\[.*is out of range"):
        estimator.gradient(batch, examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2))


def test_a_packed_batch_is_a_record_like_any_other(small_blocks):
    batch, again = sample(*PROBLEM, 20, rng=1), sample(*PROBLEM, 20, rng=1)
    assert (len(batch), batch.n_steps, repr(batch)) == (20, 4, "Trajectories(n=20, n_steps=4)")
    assert not set(WIDE) & set(vars(batch))
    assert "states" in vars(pickle.loads(pickle.dumps(written_out(batch))))
    copies = [pickle.loads(pickle.dumps(batch)), dataclasses.replace(batch), concatenate([batch]), written_out(batch)]
    for copy in copies:
        for name in FIELDS:
            assert np.array_equal(getattr(copy, name), getattr(again, name))
    assert batch.states is batch.states
    with pytest.raises(ValueError, match="read-only"):
        batch.rewards[0, 0] = 1.0
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        batch.colour


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64])
def test_states_and_actions_may_be_any_whole_numbers(dtype):
    """200 pairs do not fit into 8 bits; nor does the memory order of some arrays change anything for the others."""
    mdp = examples.random_mdp(n_states=50, n_actions=4, n_outcomes=2, horizon=6, rng=0)
    problem = mdp, TabularSoftmax(50, 4), np.sin(np.arange(200))
    batch, estimator = sample(*problem, 300, rng=0), Estimator(RewardToGo(0.1))
    batch = dataclasses.replace(batch, rewards=np.rint(4 * batch.rewards))
    w, score = 300 * estimator.weights(batch, *problem), problem[1].score(problem[2])
    expected = np.einsum("nt,ntp->np", w, score[batch.states, batch.actions])
    narrow = dataclasses.replace(
        batch,
        states=np.ascontiguousarray(batch.states.astype(dtype)),
        actions=np.asfortranarray(batch.actions.astype(dtype)),
        rewards=np.ascontiguousarray(batch.rewards.astype(np.int8)),
    )
    assert_exact(estimator.per_trajectory(narrow, *problem), expected)
    assert_exact(estimator.gradient(narrow, *problem), expected.mean(axis=0))


def test_trajectories_without_reward_have_no_gradient():
    problem = LAKE, WALKER, np.sin(np.arange(64))
    batch, estimator = sample(*problem, 400, rng=0), Estimator(RewardToGo())
    paid = batch.rewards.any(axis=1)
    assert 0 < paid.sum() < 100
    score, discounts = WALKER.score(problem[2]), 0.9 ** np.arange(30)
    expected = np.zeros((400, 64))
    for n in np.flatnonzero(paid):  # one reward of 1, at the end
        for t in range(batch.lengths[n]):
            expected[n] += discounts[batch.lengths[n] - 1] * score[batch.states[n, t], batch.actions[n, t]]
    for same_batch in (sample(*problem, 400, rng=0), written_out(batch), dataclasses.replace(batch)):
        assert_exact(estimator.per_trajectory(same_batch, *problem), expected)
    unpaid = batch.take(~batch.rewards.any(axis=1))
    assert not estimator.per_trajectory(unpaid, *problem).any()
    wrong = dataclasses.replace(unpaid, states=unpaid.states + 16)
    with pytest.raises(ValueError, match=r"states\[0, 0\]=16 is out of range"):
        estimator.per_trajectory(wrong, *problem)


@pytest.mark.parametrize("change", [
    {}, {"ratio": SelfNormalisedRatio()}, {"normaliser": PerToken()}, {"penalty": KLPenalty(np.zeros(64), 0.1)},
    {"normaliser": PerLength()}, {"advantage": TotalReturn()}, {"advantage": TotalReturn(0.1)},
])  # fmt: skip
def test_trajectories_without_reward_count_where_others_depend_on_them(small_blocks, change):
    """Most are paid nothing, in some blocks all; yet the batch may couple them, and penalties are rewards."""
    problem, target = (LAKE, WALKER, np.sin(np.arange(64))), np.sin(np.arange(64)) + 0.1 * np.cos(np.arange(64))
    estimator = Estimator(**({"advantage": RewardToGo()} | change))
    batch = sample(*problem, 100, rng=0)
    assert 0 < batch.rewards.any(axis=1).sum() < 12, "fewer than blocks"
    w, score = 100 * estimator.weights(written_out(batch), LAKE, WALKER, target), WALKER.score(target)
    expected = np.einsum("nt,ntp->np", w, score[batch.states, batch.actions])
    for given in (sample(*problem, 100, rng=0), written_out(batch)):
        assert_exact(estimator.per_trajectory(given, LAKE, WALKER, target), expected, scale=np.abs(expected).max())


# --- streams

ESTIMATORS = {
    "reward-to-go": Estimator(RewardToGo()),
    "constant, baseline": Estimator(RewardToGo(BY_TIME), normaliser=Constant(3), discounted_score=False),
    "total return": Estimator(TotalReturn(0.2), normaliser=PerLength()),
    "leave one out": algorithms.rloo(),
    "GRPO": algorithms.grpo(),
    "GAE, penalty": Estimator(GAE(BY_STATE, 0.9), penalty=KLPenalty(np.zeros(9), 0.1, kind="full", place="loss")),
    "per component": Estimator(PerComponent(TotalReturn(), np.arange(9.0))),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_stream_is_the_batch(small_blocks, name):
    estimator = ESTIMATORS[name]
    batch = sample(*PROBLEM, 100, group_size=4, rng=5)
    streamed = stream_gradient(estimator, *PROBLEM, 100, group_size=4, rng=5)
    assert_exact(streamed.gradient, estimator.gradient(written_out(batch), *PROBLEM), scale=1.0)
    assert_exact(streamed.mean_return, returns(batch.rewards, 0.9).mean())
    assert (streamed.n, streamed.n_transitions) == (100, batch.lengths.sum())


def test_a_stream_of_another_policy(small_blocks):
    estimator = Estimator(RewardToGo(), ratio=TrajectoryRatio())
    batch = sample(*PROBLEM, 50, behaviour=-THETA, rng=5)
    streamed = stream_gradient(estimator, *PROBLEM, 50, behaviour=-THETA, rng=5)
    assert_exact(streamed.gradient, estimator.gradient(batch, *PROBLEM), scale=1.0)
    features = np.random.default_rng(0).normal(size=(3, 3, 2))
    linear = REFEREE.replace(horizon=None), LinearSoftmax(features), np.array([0.5, -1.0])
    estimator = Estimator(RewardToGo())
    assert_exact(
        stream_gradient(estimator, *linear, 50, rng=5).gradient,
        estimator.gradient(written_out(sample(*linear, 50, rng=5)), *linear),
        scale=1.0,
    )


def test_memory_does_not_grow_with_the_number_of_trajectories(monkeypatch):
    monkeypatch.setattr(draw, "MAX_BLOCK", 1024)
    monkeypatch.setattr(tables, "steps_at_once", lambda mdp, n: 2)
    problem = LAKE, WALKER, np.zeros(64)
    stream_gradient(Estimator(RewardToGo()), *problem, 1024, rng=0)
    peaks, steps = [], []
    for n in (2048, 65536):
        tracemalloc.start()
        steps.append(stream_gradient(Estimator(RewardToGo()), *problem, n, rng=0).n_transitions)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    tuples = 2000 * 64  # bytes: so many small tuples Python keeps for later
    assert 4 * (steps[1] - steps[0]) > 10 * tuples  # what the trajectories would take
    assert peaks[1] - peaks[0] < tuples


@pytest.mark.parametrize(("change", "slot"), [
    ({"normaliser": PerToken()}, "normaliser"),
    ({"ratio": SelfNormalisedRatio()}, "ratio"),
    ({"advantage": BatchStandardised(RewardToGo(), ddof=1, eps=1e-8)}, "advantage"),
    ({"advantage": GroupStandardised(ddof=1, eps=1e-8, over_batch=True)}, "advantage"),
    ({"advantage": InSampleOptimal()}, "advantage"),
    ({"advantage": PerComponent(InSampleOptimal(), np.zeros(9))}, "advantage"),
    ({"advantage": type("Mine", (RewardToGo,), {})()}, "advantage"),
])  # fmt: skip
def test_what_looks_at_the_whole_batch_is_refused_by_name(change, slot):
    estimator = Estimator(**({"advantage": RewardToGo()} | change))
    with pytest.raises(
        ValueError, match=rf"^{slot}=.* may look at the whole batch.* use sample and estimator.gradient"
    ):
        stream_gradient(estimator, *PROBLEM, 10, rng=0)


def test_refusals():
    estimator = Estimator(RewardToGo())
    with pytest.raises(TypeError, match=r"estimator=.* is no Estimator"):
        stream_gradient(lambda *a: 0, *PROBLEM, 10)
    with pytest.raises(ValueError, match="n=0 is out of range; an estimate needs at least one trajectory"):
        stream_gradient(estimator, *PROBLEM, 0)
    with pytest.raises(ValueError, match="n=5 is not a multiple of group_size=2"):
        stream_gradient(estimator, *PROBLEM, 5, group_size=2)
    with pytest.raises(TypeError, match="has no submit"):
        stream_gradient(estimator, *PROBLEM, 5, executor=3)
    with pytest.raises(ValueError, match="theta has shape"):
        stream_gradient(estimator, REFEREE, POLICY, THETA[:8], 5)
    huge = Estimator(RewardToGo(-1e308))
    with pytest.raises(ValueError, match=r"the gradient overflows: .* too large for float64"):
        stream_gradient(huge, *PROBLEM, 100, rng=0)
    batch = sample(*PROBLEM, 100, rng=0)
    assert packed_weights(huge, batch, REFEREE) is None  # and the mean, which is finite, comes from the steps
    assert_exact(huge.gradient(batch, *PROBLEM), huge.gradient(written_out(batch), *PROBLEM))


# --- executors


def fields(streamed):
    return streamed.gradient.tolist(), streamed.mean_return, streamed.n, streamed.n_transitions


def run(executor=None, estimator=ESTIMATORS["reward-to-go"], n=200):
    return fields(stream_gradient(estimator, *PROBLEM, n, executor=executor, rng=3))


def test_threads_change_nothing(small_blocks):
    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        for name in ("reward-to-go", "GAE, penalty"):
            assert run(executor, ESTIMATORS[name]) == run(None, ESTIMATORS[name])


class Killing:
    """A process pool that loses a worker when it is given its fifth job."""

    def __init__(self, pool):
        self.pool, self.jobs = pool, 0

    def submit(self, function, *arguments):
        self.jobs += 1
        if self.jobs == 5:
            os.kill(next(iter(self.pool._processes)), signal.SIGKILL)
        return self.pool.submit(function, *arguments)


def test_processes_change_nothing_and_neither_does_the_loss_of_one(monkeypatch):
    """Two pools of one context, to pay for the start of processes once."""
    batch = sample(*PROBLEM, 100_000, rng=3)
    expected = run(n=400_000)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert run(pool, n=400_000) == expected
        drawn = sample(*PROBLEM, 100_000, executor=pool, rng=3)
        assert all(np.array_equal(getattr(drawn, name), getattr(batch, name)) for name in FIELDS)
        with pytest.warns(RuntimeWarning, match="a worker was lost .* this process does its work"):
            assert run(Killing(pool), n=400_000) == expected
        with pytest.warns(RuntimeWarning, match="a worker was lost"):
            assert run(pool, n=400_000) == expected  # a broken pool stays broken


@pytest.mark.filterwarnings("ignore")  # its own
def test_dask_changes_nothing(small_blocks):
    """A cluster on this machine, as in README; run where the extra ``dask`` is installed."""
    distributed = pytest.importorskip("distributed")
    here = {"host": "127.0.0.1", "dashboard_address": None, "processes": False, "protocol": "tcp://"}
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, **here)
    with cluster, distributed.Client(cluster) as client:
        assert run(client.get_executor()) == run()
        drawn, batch = (sample(*PROBLEM, 50, executor=e, rng=3) for e in (client.get_executor(), None))
        assert np.array_equal(drawn.states, batch.states)


def test_errors_of_a_job_are_not_mistaken_for_a_lost_worker():
    with concurrent.futures.ThreadPoolExecutor(1) as executor, pytest.raises(ZeroDivisionError):
        list(parallel.in_order(divmod, [(1, 1), (1, 0)], executor))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.999, 1.0])
def test_sums_from_each_step_on(gamma):
    x = np.cos(np.arange(21.0)).reshape(7, 3)
    expected = [sum(gamma ** (u - t) * x[u] for u in range(t, 7)) for t in range(7)]
    each.to_go(x, gamma)
    assert_exact(x, np.array(expected), scale=7.0)
