"""Sampling: the same bits however the work is split, and the law of the model, by bounds that hold for every n."""

import concurrent.futures
import math
import multiprocessing

import numpy as np
import pytest

from reinforce_np import (
    LinearSoftmax,
    TabularSoftmax,
    TooLargeError,
    enumerate_trajectories,
    examples,
    sample,
    sample_blocks,
    sampling,
)
from reinforce_np.mdp import FiniteMDP
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
    monkeypatch.setattr(sampling, "MAX_BLOCK", 7)


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


def test_processes_change_nothing(small_blocks):
    expected = [draw(rng=5), draw(rng=6, group_size=4)]
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert same(expected[0], draw(rng=5, executor=executor))
        assert same(expected[1], draw(rng=6, group_size=4, executor=executor))


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
    assert executor.most == sampling.IN_FLIGHT
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
    "states": [[2, 0, 0, 0], [0, 1, 2, 0], [1, 0, 2, 0], [0, 2, 0, 1]],
    "actions": [[1, 0, 0, 0], [1, 2, 1, 0], [0, 2, 1, 2], [2, 0, 0, 2]],
    "lengths": [1, 4, 4, 4],
    "final_states": [2, 1, 2, 2],
}


def test_golden_integers_of_seed_0():
    """Integer paths are the same for every NumPy version, so they are written down."""
    batch = draw(4, theta=np.zeros(9), rng=0)
    assert batch.states.tolist() == GOLDEN["states"]
    assert batch.actions.tolist() == GOLDEN["actions"]
    assert batch.lengths.tolist() == GOLDEN["lengths"]
    assert batch.final_states.tolist() == GOLDEN["final_states"]


# --- an obvious sampler, one trajectory at a time, on the same stream of uniforms


def first_above(probabilities, u):
    """The entry u falls into, by adding probabilities up one by one."""
    total = 0.0
    for i, p in enumerate(probabilities):
        total += p
        if u < total:
            return i
    raise AssertionError("u is beyond the sum")


def slow_block(mdp, mu, seed, n, block=0, group_size=1):
    """Trajectories (state, action, reward) drawn with the documented stream: starts, then actions and outcomes of each step."""
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(block,)))

    def uniform():
        return (int(bits.random_raw()) >> 11) / 2**53

    starts = [first_above(mdp.initial, uniform()) for _ in range(n // group_size)]
    state = [starts[i // group_size] for i in range(n)]
    paths, ended = [[] for _ in range(n)], [False] * n
    for _ in range(mdp.horizon):
        live = [i for i in range(n) if not ended[i]]
        actions = {i: first_above(mu[state[i]], uniform()) for i in live}
        for i in live:
            s, a = state[i], actions[i]
            k = first_above(mdp.probability[s, a], uniform())
            paths[i].append((s, a, float(mdp.reward[s, a, k])))
            state[i], ended[i] = int(mdp.next_state[s, a, k]), bool(mdp.terminated[s, a, k])
    return paths, ended, state


@pytest.mark.parametrize("group_size", [1, 5])
@pytest.mark.parametrize(
    "mdp", [REFEREE, REFEREE.replace(horizon=1), examples.random_mdp(n_outcomes=3, n_actions=3, rng=2)]
)
def test_against_an_obvious_sampler(mdp, group_size):
    batch = draw(200, mdp=mdp, rng=8, group_size=group_size)
    paths, ended, final = slow_block(mdp, POLICY.probabilities(THETA), 8, 200, group_size=group_size)
    for n, path in enumerate(paths):
        T = batch.lengths[n]
        assert list(zip(batch.states[n, :T], batch.actions[n, :T], batch.rewards[n, :T], strict=True)) == path
    assert batch.terminated.tolist() == ended
    assert batch.final_states.tolist() == final


def test_each_block_has_its_own_stream(small_blocks):
    batch = draw(14, rng=8)
    paths, _, _ = slow_block(REFEREE, POLICY.probabilities(THETA), 8, 7, block=1)
    assert [[tuple(step) for step in path] for path in paths] == [
        list(zip(batch.states[n, :T], batch.actions[n, :T], batch.rewards[n, :T], strict=True))
        for n, T in zip(range(7, 14), batch.lengths[7:], strict=True)
    ]


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


TENTHS = [0.1] * 10  # their floating-point sum is 1 − 1.1e-16


@pytest.mark.parametrize(
    "probability",
    [
        [1.0],
        [0.5, 0.5],
        [0.0, 1.0],
        [1.0, 0.0],
        TENTHS,
        [*TENTHS, 0.0, 0.0],
        [0.0, *TENTHS, 0.0],
        [1 / 3, 2 / 3, 1e-320],
    ],
)
def test_cumulative_picks_only_the_possible(probability):
    probability = np.array(probability)
    total = sampling.cumulative(probability)
    almost_one = 1.0 - 2.0**-53
    for u in (0.0, 0.25, 0.5, almost_one, *total[total < 1]):
        picked = sampling._pick(total[None], np.array([0]), np.array([u]))[0]
        assert probability[picked] > 0
        assert picked == int((total <= u).sum())


def test_cumulative_ends_at_exactly_one_from_the_last_possible_entry():
    assert np.cumsum(TENTHS)[-1] < 1
    total = sampling.cumulative(np.array([*TENTHS, 0.0, 0.0]))
    assert total[9:].tolist() == [1.0, 1.0, 1.0]
    np.testing.assert_allclose(total[:9], np.arange(1, 10) / 10, rtol=1e-15)


def test_cumulative_of_sums_that_are_not_quite_one():
    assert sampling.cumulative(np.array([0.5, 0.5 + 1e-10, 0.0])).tolist()[1:] == [1.0, 1.0]
    assert sampling.cumulative(np.array([[0.25, 0.25], [0.1, 0.4]]))[:, 0].tolist() == [0.5, 0.2]


def test_a_uniform_on_a_boundary_belongs_to_the_next_entry():
    rows = sampling.cumulative(np.array([[0.25, 0.25, 0.5], [0.5, 0.0, 0.5]]))
    u = np.array([0.0, 0.25, 0.5, 0.0, 0.5])
    assert sampling._pick(rows, np.array([0, 0, 0, 1, 1]), u).tolist() == [0, 1, 2, 0, 2]


def test_uniforms_have_53_bits_below_one():
    class Bits:
        def random_raw(self, n):
            return np.array([0, 2**11 - 1, 2**11, 2**63, 2**64 - 1], dtype=np.uint64)[:n]

    assert sampling._uniform(Bits(), 5).tolist() == [0.0, 0.0, 2.0**-53, 0.5, 1 - 2.0**-53]


@pytest.mark.parametrize(
    ("u", "states", "actions"), [(0.0, [1, 1], [1, 1]), (0.25, [2, 2], [2, 2]), (1 - 2.0**-53, [2, 2], [2, 2])]
)
def test_extreme_uniforms_draw_only_the_possible(monkeypatch, u, states, actions):
    """u = 0 skips the impossible entries before the first possible one; u on a boundary belongs to the next."""
    monkeypatch.setattr(sampling, "_uniform", lambda bits, n: np.full(n, u))
    mdp = REFEREE.replace(initial=[0.0, 0.25, 0.75], horizon=1)
    batch = draw(2, mdp=mdp, rng=0, behaviour=np.tile([0.0, 0.25, 0.75], (3, 1)))
    assert batch.states[:, 0].tolist() == states
    assert batch.actions[:, 0].tolist() == actions


def test_rounding_of_the_start_distribution_never_leaves_the_states():
    tables = sampling.sampling_tables(*tenth_starts())
    assert np.searchsorted(tables.start, 1 - 2.0**-53, side="right") == 9
    assert np.searchsorted(tables.start, 0.0, side="right") == 0


def tenth_starts():
    mdp = FiniteMDP(
        np.ones((12, 1, 1)), np.zeros((12, 1, 1), int), np.zeros((12, 1, 1)), np.ones((12, 1, 1), bool),
        initial=[*TENTHS, 0.0, 0.0], gamma=1.0, horizon=1,
    )  # fmt: skip
    return mdp, TabularSoftmax(12, 1), np.zeros(12)


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
    monkeypatch.setattr(sampling, "FIRST_CAPACITY", 1)
    assert same(expected, draw(300, mdp=endless, rng=0))


LONG = 1  # a seed with an episode of 9 to 16 steps among the first eight


@pytest.mark.parametrize(("cells", "refused"), [(8 * 16, False), (8 * 16 - 1, True)])
def test_endless_episodes_are_refused_before_memory_is_taken(monkeypatch, cells, refused):
    monkeypatch.setattr(sampling, "FIRST_CAPACITY", 8)
    mdp = REFEREE.replace(horizon=None)
    monkeypatch.setattr(sampling, "MAX_CELLS_WITHOUT_HORIZON", cells)
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
    (1, 1, 2**14), (0, 1, 2**14), (100, 1, 2**14), (200, 1, 2**21 // 200), (10**7, 1, 1), (10**7, 3, 3), (1, 1000, 16000), (1, 10**6, 10**6),
])  # fmt: skip
def test_block_sizes_are_whole_groups_in_bounded_memory(horizon, group_size, size):
    assert sampling.block_size(horizon, group_size) == size


def test_block_size_without_horizon(monkeypatch):
    monkeypatch.setattr(sampling, "BLOCK_WITHOUT_HORIZON", 100)
    assert [sampling.block_size(None, g) for g in (1, 30, 100, 101)] == [100, 90, 100, 101]


def test_blocks_are_drawn_one_at_a_time(small_blocks):
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
