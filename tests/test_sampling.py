"""Sampling: the same bits however the work is split, and the law of the model, by bounds that hold for every n."""

import concurrent.futures
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest

from reinforce_np import (
    LinearSoftmax,
    TabularSoftmax,
    TooLargeError,
    enumerate_trajectories,
    examples,
    parallel,
    sample,
    sample_blocks,
)
from reinforce_np.mdp import FiniteMDP
from reinforce_np.sampling import alias, blocks, tables
from reinforce_np.sampling import draw as drawing
from reinforce_np.sampling.alias import LOW_BITS, Scratch, alias_tables
from reinforce_np.sampling.naive import columns_of, naive_block, pick
from reinforce_np.trajectories import concatenate

FALSE_ALARM = 1e-9  # of every statistical test here, over all its comparisons together

FIELDS = (
    "states",
    "actions",
    "rewards",
    "lengths",
    "terminated",
    "truncated",
    "final_states",
    "log_probabilities",
    "groups",
)
REFEREE = examples.referee()
POLICY = TabularSoftmax(3, 3)
THETA = np.array([0.3, -0.5, 1.0, 0.0, 0.7, -1.2, -0.4, 0.2, 0.9])
TABLE = np.array([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8], [1.0, 0.0, 0.0]])


def same(a, b):
    return all(
        getattr(a, name).dtype == getattr(b, name).dtype and np.array_equal(getattr(a, name), getattr(b, name))
        for name in FIELDS
    )


def draw(n=100, mdp=REFEREE, policy=POLICY, theta=THETA, **options):
    return sample(mdp, policy, theta, n, **options)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 7 trajectories, so that a hundred make fifteen."""
    monkeypatch.setattr(drawing, "MAX_BLOCK", 7)


# --- the same seed, the same bits


def test_sample_is_the_blocks_joined(small_blocks):
    blocks = list(sample_blocks(REFEREE, POLICY, THETA, 100, rng=5))
    assert [len(block) for block in blocks] == [7] * 14 + [2]
    assert same(draw(rng=5), concatenate(blocks))


def test_blocks_are_independent_of_how_many_follow(small_blocks):
    assert same(draw(21, rng=5), draw(100, rng=5).take(slice(21)))


def test_seeds_differ_and_repeat():
    assert same(draw(rng=1), draw(rng=1))
    assert not same(draw(rng=1), draw(rng=2))
    assert not same(draw(), draw())


def test_blocks_differ_from_each_other(small_blocks):
    batch = draw(14, rng=5)
    assert not np.array_equal(batch.actions[:7], batch.actions[7:])


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_change_nothing(small_blocks, workers):
    with concurrent.futures.ThreadPoolExecutor(workers) as executor:
        assert same(draw(rng=5), draw(rng=5, executor=executor))


class LazyExecutor:
    """Runs a job only when its result is asked for, the newest first, and counts those in flight."""

    def __init__(self):
        self.in_flight = self.most = 0

    def submit(self, function, *arguments):
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)

        def result():
            self.in_flight -= 1
            return function(*arguments)

        return type("Future", (), {"result": staticmethod(result)})


def test_a_bounded_number_of_blocks_is_in_flight(small_blocks):
    executor = LazyExecutor()
    assert same(draw(rng=5), draw(rng=5, executor=executor))
    assert executor.most == parallel.IN_FLIGHT
    assert executor.in_flight == 0


def test_a_generator_is_advanced():
    rng = np.random.default_rng(3)
    first, second = draw(rng=rng), draw(rng=rng)
    assert not same(first, second)
    assert same(first, draw(rng=np.random.default_rng(3)))


def test_generator_is_advanced_by_the_call_not_by_n():
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    draw(1, rng=one), draw(50, rng=other)
    assert one.random() == other.random()


def test_seed_sequences_and_their_children():
    root = np.random.SeedSequence(3)
    assert same(draw(rng=root), draw(rng=3))
    child = np.random.SeedSequence(3, spawn_key=(4,))
    assert same(draw(rng=child), draw(rng=root.spawn(5)[4]))
    assert not same(draw(rng=child), draw(rng=3))
    assert not same(draw(rng=child), draw(rng=np.random.SeedSequence(3, spawn_key=(5,))))
    assert root.n_children_spawned == 5  # sampling spawns nothing from the caller's object


GOLDEN = {
    "states": [[0, 1, 2, 0], [0, 1, 1, 0], [0, 1, 2, 1], [1, 0, 0, 0]],
    "actions": [[0, 2, 1, 1], [0, 1, 0, 1], [0, 2, 2, 2], [0, 2, 0, 0]],
    "lengths": [4, 4, 4, 2],
    "final_states": [1, 0, 2, 0],
}


def test_golden_integers_of_seed_0():
    """Integer paths are the same for every NumPy version, so they are written down."""
    batch = draw(4, theta=np.zeros(9), rng=0)
    assert batch.states.tolist() == GOLDEN["states"]
    assert batch.actions.tolist() == GOLDEN["actions"]
    assert batch.lengths.tolist() == GOLDEN["lengths"]
    assert batch.final_states.tolist() == GOLDEN["final_states"]


# --- the sampler as one would write it first, on the same random numbers


def path_of(mdp, path):
    return [(s, a, float(mdp.reward[s, a, k])) for s, a, k in path]


def steps(batch, n):
    T = batch.lengths[n]
    return list(
        zip(batch.states[n, :T].tolist(), batch.actions[n, :T].tolist(), batch.rewards[n, :T].tolist(), strict=True)
    )


@pytest.fixture
def at_once(monkeypatch):
    """A function that fixes how many steps are drawn at once, whatever their number is worth."""
    return lambda k: monkeypatch.setattr(tables, "steps_at_once", lambda mdp, n: k)


@pytest.mark.parametrize("k", [0, 1, 2, 3], ids=["action, then outcome", "one step", "two at once", "three at once"])
@pytest.mark.parametrize(
    ("mdp", "group_size"),
    [
        (REFEREE, 5),
        (REFEREE.replace(horizon=1), 1),
        (REFEREE.replace(initial=[0.0, 1.0, 0.0]), 2),
        (examples.random_mdp(n_outcomes=3, n_actions=3, horizon=11, termination=0.1, rng=2), 1),
    ],
)
def test_against_the_naive_sampler(at_once, mdp, group_size, k):
    at_once(k)
    batch = draw(90, mdp=mdp, rng=8, group_size=group_size)
    paths, final = naive_block(
        mdp, POLICY.probabilities(THETA), 8, (0,), 90, group_size=group_size, joint=k > 0, at_once=max(k, 1)
    )
    assert [steps(batch, n) for n in range(90)] == [path_of(mdp, path) for path in paths]
    assert batch.final_states.tolist() == final
    last = [mdp.terminated[path[-1]] for path in paths]
    assert batch.terminated.tolist() == last
    assert batch.truncated.tolist() == np.logical_not(last).tolist()


DENSE = examples.random_mdp(n_states=200, n_actions=5, n_outcomes=200, horizon=50, termination=0.0, rng=0)

WIDE = examples.random_mdp(n_states=4000, n_actions=4, n_outcomes=3, horizon=50, termination=0.0, rng=0)

LINE = FiniteMDP(
    [[[1.0]]] * 2, [[[1]], [[0]]], [[[1.0]]] * 2, [[[False]], [[True]]], initial=[1.0, 0.0], gamma=0.9, horizon=10**5
)


@pytest.mark.parametrize(("mdp", "n", "k"), [
    (examples.frozen_lake(map="8x8", horizon=100), 1, 1),
    (examples.frozen_lake(map="8x8", horizon=100), 10**4, 1),
    (examples.frozen_lake(map="8x8", horizon=100), 10**5, 2),
    (examples.frozen_lake(map="8x8", horizon=None), 10**6, 2),
    (examples.short_corridor(), 10**6, 8),
    (examples.short_corridor().replace(horizon=7), 10**6, 4),  # no more than there are
    (examples.short_corridor().replace(horizon=0), 10**6, 1),
    (LINE, 10**6, 16),  # one path of any length, and still no more: tables have a part for every step
    (DENSE, 10**5, 0),  # an action, and then its outcome
    (DENSE, 10**6, 1),
    (WIDE, 10**3, 0),  # tables for both would not pay, and do for many
    (WIDE, 20479, 0),
    (WIDE, 20480, 1),
    (WIDE.replace(horizon=None), 10**4, 0),
    (examples.random_mdp(n_states=512, n_actions=4, n_outcomes=3, horizon=50, termination=0.0, rng=0), 1, 1),
    (examples.frozen_lake(map=["S" + 99 * "F"] * 9 + [99 * "F" + "G"], horizon=100), 10**6, 1),  # too large for a cache
])  # fmt: skip
def test_several_steps_at_once_where_that_pays(mdp, n, k):
    assert tables.steps_at_once(mdp, n) == k


def test_each_block_has_its_own_stream(monkeypatch):
    """Blocks of eight, in which one finished trajectory is just enough to drop it."""
    monkeypatch.setattr(drawing, "MAX_BLOCK", 8)
    mdp = REFEREE.replace(horizon=12)
    batch = draw(64, mdp=mdp, rng=8)
    for block in range(8):
        paths, _ = naive_block(mdp, POLICY.probabilities(THETA), 8, (block,), 8)
        assert [steps(batch, 8 * block + n) for n in range(8)] == [path_of(mdp, path) for path in paths]


@pytest.mark.parametrize("k", [0, 1, 2])
def test_what_is_remembered_of_a_model_depends_on_nothing_else(at_once, k):
    at_once(k)
    mdp, again = REFEREE.replace(), REFEREE.replace()
    draw(mdp=mdp, rng=1, theta=-THETA)
    assert same(draw(mdp=mdp, rng=2), draw(mdp=again, rng=2))
    assert tables.of_model(mdp, k) is tables.of_model(mdp, k)


# --- the record


def test_shapes_and_types():
    batch = draw(20, rng=0)
    assert [getattr(batch, name).shape for name in FIELDS] == [(20, 4)] * 3 + [(20,)] * 4 + [(20, 4), (20,)]
    assert batch.states.dtype == batch.final_states.dtype == np.intp
    assert batch.rewards.dtype == batch.log_probabilities.dtype == np.float64
    assert batch.terminated.dtype == batch.truncated.dtype == bool


@pytest.mark.parametrize("horizon", [4, None])
def test_padding_is_zero(horizon):
    batch = draw(500, mdp=REFEREE.replace(horizon=horizon), rng=0)
    padding = ~batch.mask
    assert padding.any()
    for name in ("states", "actions", "rewards", "log_probabilities"):
        assert not getattr(batch, name)[padding].any()


def test_terminated_or_truncated_never_both():
    batch = draw(1000, rng=0)
    assert np.all(batch.terminated ^ batch.truncated)
    assert 0 < batch.terminated.sum() < 1000
    assert np.all(batch.lengths[batch.truncated] == REFEREE.horizon)
    assert (batch.terminated & (batch.lengths == REFEREE.horizon)).any()  # the last step may still terminate


def test_every_step_is_an_outcome_of_the_model():
    batch = draw(1000, rng=0)
    for n in range(1000):
        for t in range(batch.lengths[n]):
            s, a, last = batch.states[n, t], batch.actions[n, t], t + 1 == batch.lengths[n]
            after = batch.final_states[n] if last else batch.states[n, t + 1]
            ends = last and batch.terminated[n]
            outcomes = zip(REFEREE.next_state[s, a], REFEREE.reward[s, a], REFEREE.terminated[s, a], strict=True)
            assert (after, batch.rewards[n, t], ends) in [(int(s2), float(r), bool(e)) for s2, r, e in outcomes]


def test_log_probabilities_are_the_behaviours():
    batch, mask = draw(300, rng=0), draw(300, rng=0).mask
    assert np.array_equal(
        batch.log_probabilities[mask], POLICY.log_probabilities(THETA)[batch.states, batch.actions][mask]
    )
    other = draw(300, rng=0, behaviour=-THETA)
    log_mu = POLICY.log_probabilities(-THETA)
    assert np.array_equal(other.log_probabilities[other.mask], log_mu[other.states, other.actions][other.mask])


def test_groups_share_the_first_state():
    batch = draw(300, rng=0, group_size=4)
    assert np.array_equal(batch.groups, np.arange(300) // 4)
    first = batch.states[:, 0].reshape(-1, 4)
    assert np.all(first == first[:, :1])
    assert len(np.unique(first[:, 0])) == 3
    assert len({tuple(row) for row in batch.actions[:4].tolist()}) > 1  # the start is shared, the rest is not


def test_groups_are_numbered_across_blocks(small_blocks):
    batch = draw(36, rng=0, group_size=4)
    assert np.array_equal(batch.groups, np.arange(36) // 4)
    assert [len(b) for b in sample_blocks(REFEREE, POLICY, THETA, 36, group_size=4, rng=0)] == [4] * 9
    assert np.array_equal(draw(20, rng=0).groups, np.arange(20))


def test_behaviour_as_parameters_and_as_a_table():
    assert same(draw(rng=0, behaviour=THETA), draw(rng=0))
    mu = POLICY.probabilities(-THETA)
    by_table, by_theta = draw(rng=0, behaviour=mu), draw(rng=0, behaviour=-THETA)
    assert np.array_equal(by_table.actions, by_theta.actions)
    assert not np.array_equal(by_table.actions, draw(rng=0).actions)
    np.testing.assert_allclose(by_table.log_probabilities, by_theta.log_probabilities, rtol=1e-12)


# --- nothing impossible is ever drawn


def test_actions_of_probability_zero_are_never_drawn():
    batch = draw(3000, rng=0, behaviour=TABLE)
    visited = TABLE[batch.states, batch.actions][batch.mask]
    assert visited.min() > 0
    assert np.isfinite(batch.log_probabilities).all()


@pytest.mark.parametrize("how", ["mask", "minus infinity"])
def test_masked_actions_are_never_drawn(how):
    mask = TABLE > 0
    if how == "mask":
        policy, theta = TabularSoftmax(3, 3, mask=mask), THETA
    else:
        policy, theta = POLICY, np.where(mask.ravel(), THETA, -np.inf)
    batch = draw(3000, policy=policy, theta=theta, rng=0)
    assert mask[batch.states, batch.actions][batch.mask].all()
    assert {(s, a) for s, a in zip(batch.states[batch.mask], batch.actions[batch.mask], strict=True)} == set(
        zip(*np.nonzero(mask), strict=True)
    )


def test_outcomes_and_starts_of_probability_zero_are_never_drawn():
    mdp = FiniteMDP(
        [[[0.0, 0.3, 0.0, 0.7, 0.0]]] * 3, [[[0, 1, 0, 2, 0]]] * 3, [[[9.0, 1.0, 9.0, 2.0, 9.0]]] * 3,
        [[[True, False, True, False, True]]] * 3, initial=[0.0, 1.0, 0.0], gamma=1.0, horizon=5,
    )  # fmt: skip
    batch = sample(mdp, TabularSoftmax(3, 1), np.zeros(3), 2000, rng=0)
    assert set(batch.rewards.ravel()) == {1.0, 2.0}
    assert set(batch.states[:, 0]) == {1}
    assert batch.truncated.all()


# --- the probabilities drawn, exactly

TENTHS = [0.1] * 10  # their floating-point sum is 1 − 1.1e-16
ROWS = [
    [1.0],
    [0.5, 0.5],
    [0.0, 1.0],
    TENTHS,
    [0.0, *TENTHS, 0.0, 0.0],
    [1 / 3, 2 / 3, 1e-320],
    [1e-9, 1 - 1e-9],
    [2.0**-70, 1 - 2.0**-53, 2.0**-53],
    [0.5, 0.5 + 1e-10, 0.0],  # a sum that is not quite one
    [2.0**-i for i in range(1, 60)] + [2.0**-59],
    np.random.default_rng(0).dirichlet(np.full(200, 0.1)),
]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_probabilities_drawn_are_those_of_the_model_to_53_bits(row):
    """By counting the numbers of 62 bits; zero stays zero, and only what is less likely than 2⁻⁶³ is never drawn."""
    p = [Fraction(float(x)) for x in row]
    drawn = alias_tables(np.array([row])).drawn(0)
    assert sum(drawn.values()) == 1
    for i, exact in enumerate(x / sum(p) for x in p):
        assert abs(drawn.get(i, 0) - exact) <= Fraction(2) ** -53
        assert (drawn.get(i, 0) > 0) == (exact > Fraction(2) ** -63)


def test_probabilities_of_many_rows_at_once():
    """Every row of a table is the table of that row."""
    rng = np.random.default_rng(1)
    rows = rng.gamma(0.3, size=(50, 11)) * (rng.random((50, 11)) < 0.7) + np.eye(11)[rng.integers(11, size=50)] * 1e-3
    rows /= rows.sum(axis=1, keepdims=True)
    together = alias_tables(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alias, "AT_ONCE", 3 << together.log_columns)  # three rows at once
        few = alias_tables(rows)
    assert all(np.array_equal(getattr(few, name), getattr(together, name)) for name in ("high", "low", "entry"))
    for r, row in enumerate(rows):
        drawn = together.drawn(r)
        assert drawn == alias_tables(rows[[r]]).drawn(0)
        assert drawn.keys() == set(np.flatnonzero(row))


def test_joint_probabilities_are_policy_times_model(at_once):
    mu = [[Fraction(float(x)) for x in row] for row in POLICY.probabilities(THETA)]
    for joint in (1, 0):
        at_once(joint)
        walk, _ = tables.sampling_tables(REFEREE.replace(), POLICY, THETA)
        for s, a, k in np.ndindex(REFEREE.probability.shape):
            if joint:
                p = walk.stages[0].alias.drawn(s)[a * REFEREE.n_outcomes + k]
            else:
                p = walk.stages[0].alias.drawn(s)[a] * walk.stages[1].alias.drawn(s * 3 + a)[k]
            assert abs(p - mu[s][a] / sum(mu[s]) * Fraction(float(REFEREE.probability[s, a, k]))) <= Fraction(2) ** -52


@pytest.mark.parametrize("k", [2, 4])
def test_probabilities_of_paths_are_the_products_of_their_steps(at_once, k):
    """Of every path from every state, to within 2⁻⁵² for each step, and what cannot happen is never drawn."""
    at_once(k)
    mdp = examples.random_mdp(n_states=3, n_actions=2, n_outcomes=2, horizon=8, termination=0.3, rng=5)
    policy = TabularSoftmax(3, 2)
    mu, (_, A, K) = policy.probabilities(THETA[:6]), mdp.probability.shape
    walk, meaning = tables.sampling_tables(mdp, policy, THETA[:6])
    for s in range(3):
        drawn, total = walk.stages[0].alias.drawn(s), Fraction(0)
        for path in np.ndindex(*[A * K] * k):
            state, ended, p, pairs, rewards = s, False, Fraction(1), [], []
            for a, outcome in (divmod(cell, K) for cell in path):
                if ended:
                    p *= a == outcome == 0  # there is one way to wait
                else:
                    p *= Fraction(float(mu[state, a])) * Fraction(float(mdp.probability[state, a, outcome]))
                pairs.append(mdp.n_states * A if ended else state * A + a)
                rewards.append(0.0 if ended else mdp.reward[state, a, outcome])
                state, ended = mdp.next_state[state, a, outcome], ended or mdp.terminated[state, a, outcome]
            number = int(np.ravel_multi_index(path, [A * K] * k))
            assert abs(drawn.get(number, 0) - p) <= k * Fraction(2) ** -52
            assert (drawn.get(number, 0) > 0) == (p > 0)
            total += p
            if p:
                i = s * (A * K) ** k + number
                assert (meaning.pair[:, i].tolist(), meaning.reward[:, i].tolist()) == (pairs, rewards)
        assert abs(total - 1) < 1e-12


class Bits:
    """A generator that gives the words and tails it was told to give."""

    def __init__(self, words, tails):
        self.outputs = [low + (high << 32) for low, high in zip(words[::2], words[1::2], strict=True)]
        self.outputs += [tail << (64 - LOW_BITS) for tail in tails]

    def random_raw(self, n=None):
        taken, self.outputs = self.outputs[: n or 1], self.outputs[n or 1 :]
        return np.array(taken, dtype=np.uint64) if n else taken[0]


@pytest.mark.parametrize("row", ROWS[1:], ids=range(1, len(ROWS)))
def test_words_that_tie_are_decided_by_their_tails(row):
    """Words at, below and above every limit, and tails at, below and above it: as the naive sampler decides."""
    table = alias_tables(np.array([row]))
    words = [w for high in table.high.tolist() for w in (high - 1, high, high, high, high + 1, 0) if 0 <= w < 2**32]
    words += words[: len(words) % 2]
    limits = dict(zip(table.high.tolist(), table.low.tolist(), strict=True))
    tails, seen = [], {}
    for word in (word for word in words if word in limits and column_high(table, word) == word):
        seen[word] = seen.get(word, -1) + 1
        tails.append((limits[word] + (0, 1, -1, 0)[seen[word] % 4]) % 2**LOW_BITS)
    slots = np.empty(len(words), dtype=np.int32)
    table.draw(np.zeros(len(words), dtype=np.int32), Bits(words, tails), Scratch.of(len(words)), slots)
    tail_bits, columns = Bits([], tails), columns_of(row)
    assert table.entry[slots].tolist() == [pick(columns, word, tail_bits) for word in words]
    assert not tail_bits.outputs
    assert len(tails) >= 2


def column_high(table, word):
    return int(table.high[word >> (32 - table.log_columns)])


def test_what_is_sent_to_workers_is_what_they_need():
    table = alias_tables(np.array([TENTHS]))
    sent = pickle.loads(pickle.dumps(table))
    assert sent.entry is None and np.array_equal(sent.high, table.high) and np.array_equal(sent.low, table.low)
    slots = np.empty((2, 100), dtype=np.int32)
    for one, out in zip((table, sent), slots, strict=True):
        one.draw(np.zeros(100, dtype=np.int32), np.random.PCG64(0), Scratch.of(100), out)
    assert np.array_equal(*slots)


def test_tables_that_would_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr("reinforce_np.sampling.alias.MAX_COLUMNS", 2**5)
    alias_tables(np.ones((4, 5)))
    with pytest.raises(TooLargeError, match="5 rows of 8 columns are above the limit of 32"):
        alias_tables(np.ones((5, 5)))


# --- the law of the model


def paths(batch):
    """One row of numbers per trajectory: all that can be seen of it."""
    ends = np.column_stack([batch.lengths, batch.terminated, batch.final_states])
    return np.concatenate([batch.states, batch.actions, batch.rewards, ends], axis=1)


def frequencies_fit(batch, trajectories, probabilities):
    """Bernstein's bound on every frequency: a right sampler fails with probability at most FALSE_ALARM, for every n."""
    n = len(batch)
    rows = np.ascontiguousarray(np.concatenate([paths(trajectories), paths(batch)]) + 0.0)  # no −0
    rows = rows.view(np.dtype((np.void, rows[0].nbytes))).ravel()  # compared as bytes, which is quick
    distinct, kind = np.unique(rows, return_inverse=True)
    kind = kind.ravel()
    p = np.bincount(kind[: len(probabilities)], weights=probabilities, minlength=len(distinct))
    frequency = np.bincount(kind[len(probabilities) :], minlength=len(distinct)) / n
    log_bound = math.log(2 * len(distinct) / FALSE_ALARM)
    e = (log_bound / 3 + np.sqrt((log_bound / 3) ** 2 + 2 * n * p * (1 - p) * log_bound)) / n
    return bool(np.all(np.abs(frequency - p) <= np.where(p > 0, e, 0.0)))


@pytest.mark.parametrize(
    "mdp",
    [
        REFEREE.replace(horizon=3),
        examples.random_mdp(n_actions=3, n_outcomes=3, horizon=2, rng=4),
        examples.random_mdp(n_actions=3, horizon=3, rng=6, start=1),
    ],
)
def test_frequencies_are_those_of_the_enumeration(mdp):
    batch = draw(100_000, mdp=mdp, rng=1)
    assert frequencies_fit(batch, *enumerate_trajectories(mdp, POLICY, THETA))


def test_frequencies_of_a_behaviour_and_of_groups():
    mdp = REFEREE.replace(horizon=2)
    batch = draw(100_000, mdp=mdp, rng=1, behaviour=TABLE)
    truth = enumerate_trajectories(mdp, POLICY, THETA, behaviour=TABLE)
    assert frequencies_fit(batch, *truth)
    one_of_each_group = draw(100_000, mdp=mdp, rng=1, group_size=4).take(slice(3, None, 4))
    assert frequencies_fit(one_of_each_group, *enumerate_trajectories(mdp, POLICY, THETA))


def test_frequencies_reject_a_wrong_model():
    """Negative control: a policy, a start or an outcome changed by a tenth."""
    mdp = REFEREE.replace(horizon=3)
    batch = draw(100_000, mdp=mdp, rng=1)
    assert not frequencies_fit(batch, *enumerate_trajectories(mdp, POLICY, THETA + 0.2 * np.eye(9)[0]))
    assert not frequencies_fit(batch, *enumerate_trajectories(mdp.replace(initial=[0.6, 0.2, 0.2]), POLICY, THETA))
    probability = np.array(mdp.probability)
    probability[0, 2] = [0.7, 0.3]
    assert not frequencies_fit(batch, *enumerate_trajectories(mdp.replace(probability=probability), POLICY, THETA))


def test_linear_policies_are_sampled_too():
    features = np.random.default_rng(0).normal(size=(3, 3, 2))
    policy, theta, mdp = LinearSoftmax(features), np.array([0.5, -1.0]), REFEREE.replace(horizon=2)
    assert frequencies_fit(
        draw(100_000, mdp=mdp, policy=policy, theta=theta, rng=1), *enumerate_trajectories(mdp, policy, theta)
    )


# --- sizes and edges


def test_no_steps():
    batch = draw(5, mdp=REFEREE.replace(horizon=0), rng=0)
    assert batch.states.shape == (5, 0)
    assert not batch.lengths.any()
    assert batch.truncated.all()
    assert not batch.terminated.any()
    assert np.array_equal(batch.final_states, draw(5, mdp=REFEREE.replace(horizon=1), rng=0).states[:, 0])


@pytest.mark.parametrize("horizon", [0, 4, None])
def test_no_trajectories(horizon):
    batch = draw(0, mdp=REFEREE.replace(horizon=horizon), rng=0)
    assert len(batch) == 0
    assert batch.n_steps == (horizon or 0)
    assert len(list(sample_blocks(REFEREE, POLICY, THETA, 0, rng=0))) == 1


def test_without_horizon_episodes_end_by_termination():
    batch = draw(2000, mdp=REFEREE.replace(horizon=None), rng=0)
    assert batch.terminated.all()
    assert not batch.truncated.any()
    assert batch.n_steps == batch.lengths.max() > 8


def test_without_horizon_the_first_steps_are_those_with_one():
    long, short = draw(300, mdp=REFEREE.replace(horizon=None), rng=0), draw(300, rng=0)
    assert np.array_equal(long.states[:, :4] * short.mask, short.states)
    assert np.array_equal(long.lengths.clip(max=4), short.lengths)


def test_memory_grows_without_changing_anything(monkeypatch):
    endless = REFEREE.replace(horizon=None)
    expected = draw(300, mdp=endless, rng=0)
    monkeypatch.setattr(blocks, "FIRST_CAPACITY", 1)
    assert same(expected, draw(300, mdp=endless, rng=0))


LONG = 1  # a seed with an episode of 9 to 16 steps among the first eight


@pytest.mark.parametrize(("cells", "refused"), [(8 * 16, False), (8 * 16 - 1, True)])
def test_endless_episodes_are_refused_before_memory_is_taken(monkeypatch, cells, refused):
    monkeypatch.setattr(blocks, "FIRST_CAPACITY", 8)
    mdp = REFEREE.replace(horizon=None)
    monkeypatch.setattr(blocks, "MAX_CELLS_WITHOUT_HORIZON", cells)
    if refused:
        with pytest.raises(
            TooLargeError, match="horizon=None, and an episode is still alive after 8 steps: give a horizon"
        ):
            draw(8, mdp=mdp, rng=LONG)
    else:
        assert 8 < draw(8, mdp=mdp, rng=LONG).n_steps <= 16


def test_improper_policies_are_refused():
    mdp = examples.short_corridor()
    always_left = np.tile([-np.inf, 0.0], mdp.n_states)
    with pytest.raises(ValueError, match=r"horizon=None needs episodes that end, but from state 0, .* give a horizon"):
        sample(mdp, TabularSoftmax(mdp.n_states, 2), always_left, 1, rng=0)
    with pytest.raises(ValueError, match="needs episodes that end"):
        sample(mdp, TabularSoftmax(mdp.n_states, 2), np.zeros(2 * mdp.n_states), 1, rng=0,
               behaviour=np.tile([0.0, 1.0], (mdp.n_states, 1)))  # fmt: skip
    cut = sample(mdp.replace(horizon=3), TabularSoftmax(mdp.n_states, 2), always_left, 1, rng=0)
    assert cut.truncated.all()


def test_a_target_that_never_ends_may_be_sampled_by_a_behaviour_that_does():
    mdp = examples.short_corridor()
    always_left = np.tile([-np.inf, 0.0], mdp.n_states)
    batch = sample(mdp, TabularSoftmax(mdp.n_states, 2), always_left, 10, behaviour=np.zeros(2 * mdp.n_states), rng=0)
    assert batch.terminated.all()


@pytest.mark.parametrize(("horizon", "group_size", "size"), [
    (1, 1, 2**15), (0, 1, 2**15), (100, 1, 2**15), (200, 1, 2**22 // 200), (10**7, 1, 1), (10**7, 3, 3), (1, 1000, 32000), (1, 10**6, 10**6),
])  # fmt: skip
def test_block_sizes_are_whole_groups_in_bounded_memory(horizon, group_size, size):
    walk, _ = tables.sampling_tables(REFEREE.replace(horizon=horizon), POLICY, THETA)
    assert drawing.block_size(10**9, walk, group_size, drawing.seed_sequence(0)) == size


def ending(probability):
    """A state that is left for good with this probability at each step."""
    stays, ends = [[[1 - probability, probability]]], [[[False, True]]]
    return FiniteMDP(stays, [[[0, 0]]], [[[0.0, 1.0]]], ends, initial=[1.0], gamma=1.0, horizon=None)


@pytest.mark.parametrize(("longest", "n", "group_size", "size"), [
    (100, 4097, 1, 2**14), (200, 4097, 1, 2**22 // 400), (200, 4096, 1, 4096), (200, 3, 1, 4096), (2**10, 10**6, 1, 4096),
    (1, 10**6, 1, 2**14), (200, 10**6, 1000, 10000), (200, 10**6, 20000, 20000), (200, 20, 1000, 4000),
])  # fmt: skip
def test_block_sizes_without_horizon_go_by_the_longest_of_a_few_episodes(monkeypatch, longest, n, group_size, size):
    walk, _ = tables.sampling_tables(REFEREE.replace(horizon=None), POLICY, THETA)
    monkeypatch.setattr(drawing, "longest_of_pilot", lambda *_: longest)
    assert drawing.block_size(n, walk, group_size, drawing.seed_sequence(0)) == size


@pytest.mark.parametrize(("probability", "low", "high"), [(1.0, 1, 1), (0.5, 2, 40), (1e-9, 1024, 1024)])
@pytest.mark.parametrize("k", [1, 2, 16])
def test_the_longest_of_a_few_episodes(at_once, probability, low, high, k):
    at_once(k)
    walk, _ = tables.sampling_tables(ending(probability), TabularSoftmax(1, 1), [0.0])
    lengths = {drawing.longest_of_pilot(walk, drawing.seed_sequence(seed)) for seed in range(10)}
    assert low <= min(lengths) <= max(lengths) <= max(high, k)
    assert drawing.longest_of_pilot(walk, drawing.seed_sequence(3)) in lengths


def test_without_horizon_the_blocks_joined_are_the_sample(monkeypatch):
    """Blocks of a size that a pilot decided, each with a seed of its own: none has that of the pilot."""
    monkeypatch.setattr(drawing, "BLOCK_WITHOUT_HORIZON", (64, 512))
    monkeypatch.setattr(drawing, "BLOCK_CELLS", 2**12)
    mdp, keys = REFEREE.replace(horizon=None), []
    draw_block = drawing.draw_block

    def noting(walk, entropy, spawn_key, *rest):
        keys.append(spawn_key)
        return draw_block(walk, entropy, spawn_key, *rest)

    monkeypatch.setattr(drawing, "draw_block", noting)
    batches = list(sample_blocks(mdp, POLICY, THETA, 600, group_size=2, rng=5))
    size = len(batches[0])
    assert 64 < size < 512
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert keys == [(0, 0)] + [(i,) for i in range(len(batches))]
    joined = concatenate(batches)
    assert same(draw(600, mdp=mdp, group_size=2, rng=5), joined)
    assert np.array_equal(joined.groups, np.arange(600) // 2)
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        assert same(draw(600, mdp=mdp, group_size=2, rng=5, executor=executor), joined)


def test_a_few_long_episodes_among_many_are_not_refused(monkeypatch, at_once):
    """What they take is what counts, and not what the whole block would if all were as long."""
    at_once(1)
    monkeypatch.setattr(blocks, "FIRST_CAPACITY", 8)
    monkeypatch.setattr(blocks, "FEW", 4)
    mdp = REFEREE.replace(horizon=None)
    n_transitions = draw(1000, mdp=mdp, rng=0).lengths.sum()
    monkeypatch.setattr(blocks, "MAX_CELLS_WITHOUT_HORIZON", 2 * n_transitions)
    assert draw(1000, mdp=mdp, rng=0).n_steps > 16
    monkeypatch.setattr(blocks, "MAX_CELLS_WITHOUT_HORIZON", n_transitions)
    with pytest.raises(TooLargeError, match="still alive after 8 steps"):
        draw(1000, mdp=mdp, rng=0)


def test_blocks_are_drawn_one_at_a_time(small_blocks, at_once):
    at_once(1)
    blocks = sample_blocks(REFEREE, POLICY, THETA, 7 * 10**4, rng=0)
    assert same(next(blocks), draw(7, rng=0))
    blocks.close()


def test_arguments_are_refused_before_the_first_block_is_asked_for():
    with pytest.raises(ValueError, match="n=-1"):
        sample_blocks(REFEREE, POLICY, THETA, -1, rng=0)


# --- refusals


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"n": -1}, ValueError, "n=-1 is out of range"),
    ({"n": 2.0}, TypeError, "n=2.0 is not a whole number"),
    ({"n": True}, TypeError, "n=True is not a whole number"),
    ({"n": 5, "group_size": 2}, ValueError, "n=5 is not a multiple of group_size=2; draw whole groups"),
    ({"group_size": 0}, ValueError, "group_size=0 is out of range"),
    ({"group_size": 1.0}, TypeError, "group_size=1.0 is not a whole number"),
    ({"rng": "seed"}, TypeError, "rng='seed' is no seed; pass None, an int >= 0"),
    ({"rng": 0.5}, TypeError, "rng=0.5 is no seed"),
    ({"rng": -1}, ValueError, "rng=-1 is out of range"),
    ({"theta": np.zeros(8)}, ValueError, "theta has shape"),
    ({"theta": np.full(9, np.nan)}, ValueError, r"theta\[0\]=nan"),
    ({"behaviour": np.zeros(8)}, ValueError, "behaviour has shape"),
    ({"behaviour": TABLE * 0.9}, ValueError, r"behaviour\[0\] sums to 0.9"),
    ({"behaviour": TABLE - 0.5}, ValueError, "is not a probability"),
    ({"behaviour": np.zeros((2, 3))}, ValueError, "behaviour has shape"),
    ({"policy": TabularSoftmax(3, 2)}, ValueError, "policy has n_states=3, n_actions=2, but mdp has n_states=3, n_actions=3"),
    ({"policy": TabularSoftmax(4, 3)}, ValueError, "build the policy for this model"),
])  # fmt: skip
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        draw(**options, **({} if "rng" in options else {"rng": 0}))


def test_numpy_integers_are_fine():
    assert same(draw(np.int64(10), rng=np.int64(4), group_size=np.int32(2)), draw(10, rng=4, group_size=2))


def test_narrow_integers_do_not_overflow():
    n, group_size, mdp = np.uint8(200), np.uint8(2), REFEREE.replace(horizon=1000)
    expected = draw(200, mdp=mdp, rng=4, group_size=2)
    assert same(draw(n, mdp=mdp, rng=4, group_size=group_size), expected)
    assert same(concatenate(sample_blocks(mdp, POLICY, THETA, n, rng=4, group_size=group_size)), expected)
