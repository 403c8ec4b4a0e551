"""Draw many trajectories at once, in blocks that any number of workers may compute.

A block is a pure function of (model, policy, seed, block index): block i has
its own child of the seed, and its size depends on the model alone. So the
same seed gives the same trajectories however the blocks are consumed, and
however many workers draw them.
"""

import collections
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments, graph
from reinforce_np.trajectories import PADDING, Trajectories, concatenate

BLOCK_CELLS = 2**21  # (trajectory, step) cells of a block: about 64 MB of arrays
MAX_BLOCK = 2**14  # trajectories of a block, so that the work of one step stays in the cache
BLOCK_WITHOUT_HORIZON = 2**12
MAX_CELLS_WITHOUT_HORIZON = 2**27  # a block of endless episodes is refused rather than swapped to disk
FIRST_CAPACITY = 64  # steps of memory for episodes without a horizon, doubled when they last longer
COLUMNS = {"states": np.intp, "actions": np.intp, "rewards": np.float64, "log_probabilities": np.float64}
IN_FLIGHT = 8  # blocks submitted to an executor before the first is consumed


def sample(mdp, policy, theta, n, *, behaviour=None, group_size=1, executor=None, rng=None):
    """Draw `n` trajectories.

    Parameters
    ----------
    mdp : FiniteMDP
        The model. Without a horizon every episode must be able to terminate.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (D,)
        Its parameters.
    n : int
        Number of trajectories.
    behaviour : array (D,) or (S, A), optional
        Draw the actions from this policy instead: parameters of the same
        policy, or a table of probabilities. Its log-probabilities are
        recorded either way.
    group_size : int
        Consecutive trajectories that share their first state; `n` must be a
        multiple of it.
    executor : concurrent.futures.Executor, optional
        Draws the blocks; the result is the same, bit for bit.
    rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
        Seed. A generator is advanced by the call, so that the next call
        draws other trajectories.

    Returns
    -------
    Trajectories
        With T = horizon, or the longest episode when there is none.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> mdp = examples.short_corridor().replace(horizon=4)
    >>> batch = sample(mdp, TabularSoftmax(mdp.n_states, 2), np.zeros(2 * mdp.n_states), 1000, rng=0)
    >>> bool(np.all(batch.terminated ^ batch.truncated))
    True
    """
    blocks = sample_blocks(
        mdp, policy, theta, n, behaviour=behaviour, group_size=group_size, executor=executor, rng=rng
    )
    return concatenate(blocks)


def sample_blocks(mdp, policy, theta, n, *, behaviour=None, group_size=1, executor=None, rng=None):
    """Yield `n` trajectories block by block, so that memory stays bounded for any `n`.

    The blocks joined are exactly what `sample` returns for the same seed.

    Parameters
    ----------
    mdp, policy, theta, n, behaviour, group_size, executor, rng
        As in `sample`.

    Yields
    ------
    Trajectories
        At least one block, also for n = 0.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> mdp = examples.bandit(means=[0.0, 1.0])
    >>> [len(block) for block in sample_blocks(mdp, TabularSoftmax(1, 2), [0.0, 0.0], 40_000, rng=0)]
    [16384, 16384, 7232]
    """
    n = arguments.integer("n", n)
    if executor is not None and not hasattr(executor, "submit"):
        raise TypeError(f"executor={executor!r} has no submit; pass a concurrent.futures.Executor, or None")
    group_size = arguments.integer("group_size", group_size, low=1)
    if n % group_size:
        raise ValueError(f"n={n} is not a multiple of group_size={group_size}; draw whole groups")
    tables = sampling_tables(mdp, policy, theta, behaviour)
    seed = seed_sequence(rng)
    size = block_size(mdp.horizon, group_size)
    jobs = (
        (tables, seed.entropy, (*seed.spawn_key, i), first, min(size, n - first), group_size)
        for i, first in enumerate(range(0, max(n, 1), size))
    )
    return _run(jobs, executor)


def block_size(horizon, group_size):
    """Return how many trajectories a block has: whole groups, and bounded memory."""
    size = BLOCK_WITHOUT_HORIZON if horizon is None else min(MAX_BLOCK, BLOCK_CELLS // max(horizon, 1))
    return max(size // group_size, 1) * group_size


def seed_sequence(rng):
    """Return the root of the blocks' seeds.

    Parameters
    ----------
    rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
        As in `sample`.

    Returns
    -------
    numpy.random.SeedSequence
    """
    if isinstance(rng, np.random.SeedSequence):
        return rng
    if isinstance(rng, np.random.Generator):
        return np.random.SeedSequence([int(word) for word in rng.integers(2**32, size=4)])
    if rng is None:
        return np.random.SeedSequence()
    try:
        return np.random.SeedSequence(arguments.integer("rng", rng))
    except TypeError:
        raise TypeError(f"rng={rng!r} is no seed; pass None, an int >= 0, a SeedSequence or a Generator") from None


@dataclass(frozen=True, eq=False)
class SamplingTables:
    """All that a block needs, as plain arrays: cumulative probabilities and what each cell means."""

    start: np.ndarray  # (S,)
    action: np.ndarray  # (S, A)
    outcome: np.ndarray  # (S, A, K)
    log_probability: np.ndarray  # (S, A)
    next_state: np.ndarray  # (S, A, K)
    reward: np.ndarray  # (S, A, K)
    terminated: np.ndarray  # (S, A, K)
    horizon: int | None


def sampling_tables(mdp, policy, theta, behaviour=None):
    """Prepare what `draw_block` reads, and refuse episodes that never end."""
    arguments.check_same_model(mdp, policy)
    theta = policy.real_theta(theta)
    log_mu = (
        policy.log_probabilities(theta) if behaviour is None else policy.log_probabilities_of("behaviour", behaviour)
    )
    mu = np.exp(log_mu)
    if mdp.horizon is None:
        graph.require_end(mdp, graph.possible_outcomes(mdp, mu), "needs episodes that end")
    return SamplingTables(
        start=cumulative(mdp.initial),
        action=cumulative(mu),
        outcome=cumulative(mdp.probability),
        log_probability=log_mu,
        next_state=mdp.next_state,
        reward=mdp.reward,
        terminated=mdp.terminated,
        horizon=mdp.horizon,
    )


def cumulative(probability):
    """Return cumulative sums whose last possible entry, and all after it, are exactly one.

    A uniform u in [0, 1) then picks entry ``(cumulative <= u).sum()``: never
    one past the end by rounding, and never one of probability zero.
    """
    total = np.cumsum(probability, axis=-1)
    total /= total[..., -1:]
    last = np.flip(np.cumsum(np.flip(probability, -1), axis=-1), -1)  # 0 after the last possible entry
    beyond = np.concatenate([last[..., 1:], np.zeros_like(last[..., :1])], axis=-1) == 0
    return np.where(beyond, 1.0, total)


def draw_block(tables, entropy, spawn_key, first, n, group_size):
    """Draw one block: a pure function of its arguments.

    All live trajectories take a step together; finished ones are dropped.
    """
    bits = np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=spawn_key))
    groups = np.arange(n) // group_size
    state = np.searchsorted(tables.start, _uniform(bits, n // group_size), side="right")[groups]
    lengths = np.zeros(n, dtype=np.intp)
    terminated = np.zeros(n, dtype=bool)
    live = np.arange(n) if tables.horizon != 0 else np.arange(0)
    capacity = FIRST_CAPACITY if tables.horizon is None else tables.horizon
    columns = {name: np.zeros((capacity, n), dtype) for name, dtype in COLUMNS.items()}  # a step is a row
    t = 0
    while live.size and t != tables.horizon:
        if t == capacity:
            capacity = _more_capacity(capacity, n)
            columns = {
                name: np.pad(rows, ((0, capacity - t), (0, 0)), constant_values=PADDING)
                for name, rows in columns.items()
            }
        s = state[live]
        a = _pick(tables.action, s, _uniform(bits, live.size))
        k = _pick(tables.outcome, (s, a), _uniform(bits, live.size))
        columns["states"][t, live] = s
        columns["actions"][t, live] = a
        columns["rewards"][t, live] = tables.reward[s, a, k]
        columns["log_probabilities"][t, live] = tables.log_probability[s, a]
        state[live] = tables.next_state[s, a, k]
        lengths[live] += 1
        ended = tables.terminated[s, a, k]
        terminated[live[ended]] = True
        live = live[~ended]
        t += 1
    n_steps = t if tables.horizon is None else tables.horizon
    return Trajectories(
        **{name: rows[:n_steps].T for name, rows in columns.items()},
        lengths=lengths,
        terminated=terminated,
        truncated=~terminated,
        final_states=state,
        groups=(first + np.arange(n)) // group_size,
    )


def _more_capacity(capacity, n):
    """Return twice the capacity for episodes without a horizon, or refuse to swap to disk."""
    if n * 2 * capacity > MAX_CELLS_WITHOUT_HORIZON:
        raise arguments.TooLargeError(
            f"horizon=None, and an episode is still alive after {capacity} steps: give a horizon, or terminate more often "
            "(cutting the episode here would bias every return)"
        )
    return 2 * capacity


def _pick(cumulative_rows, row, u):
    """Return the entry of each row that its uniform falls into, by counting the entries it has passed."""
    passed = np.zeros(len(u), dtype=np.intp)
    for entry in np.moveaxis(cumulative_rows, -1, 0)[:-1]:  # the last one is 1 and is never passed
        passed += entry[row] <= u
    return passed


def _uniform(bits, n):
    """Return n uniforms in [0, 1) with 53 bits; the same on every NumPy version.

    So an outcome less probable than 2⁻⁵³ is drawn up to once in 2⁵³ draws, or never.
    """
    return (bits.random_raw(n) >> np.uint64(11)) * 2.0**-53


def _run(jobs, executor):
    if executor is None:
        for job in jobs:
            yield draw_block(*job)
        return
    pending: collections.deque = collections.deque()
    for job in jobs:
        pending.append(executor.submit(draw_block, *job))
        if len(pending) >= IN_FLIGHT:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
