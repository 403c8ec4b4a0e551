"""Draw many trajectories at once, in blocks that any number of workers may compute.

A block is a pure function of (model, policy, seed, block index, n): block i
has its own child of the seed, its size depends on the model alone, and the
number n of all trajectories only decides how many steps are drawn at once. So
the same seed and n give the same trajectories however the blocks are consumed,
and however many workers draw them.
"""

import numpy as np

from reinforce_np import arguments, parallel
from reinforce_np.sampling.blocks import draw_block, trajectories
from reinforce_np.sampling.tables import sampling_tables

BLOCK_CELLS = 2**22  # (trajectory, step) cells of a block: at most 128 MB of arrays
MAX_BLOCK = 2**15  # trajectories of a block, so that the work of one step stays in the cache
BLOCK_WITHOUT_HORIZON = 2**12


def sample(mdp, policy, theta, n, *, behaviour=None, group_size=1, executor=None, rng=None):
    """Draw `n` trajectories.

    Each action and each outcome is drawn with the probability of the policy
    and of the model to within 2⁻⁵³ (to 2⁻⁵² for the two of them at once, and
    a path of several steps at once to 2⁻⁵² a step), never when its probability
    is zero, and always when it is one (`alias`).

    Parameters
    ----------
    mdp : FiniteMDP
        The model. Without a horizon every episode must be able to terminate.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (D,)
        Its parameters.
    n : int
        Number of trajectories. The same seed with another `n` gives other
        trajectories: of many, several steps are drawn at once.
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
    n, group_size = whole_groups(n, group_size)
    walk, meaning, blocks = _paths(mdp, policy, theta, n, behaviour, group_size, executor, rng)
    return trajectories(list(blocks), meaning, walk.horizon, 0, group_size)


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
    [32768, 7232]
    """
    n, group_size = whole_groups(n, group_size)
    walk, meaning, blocks = _paths(mdp, policy, theta, n, behaviour, group_size, executor, rng)
    size = block_size(mdp.horizon, group_size)
    return (trajectories([paths], meaning, walk.horizon, i * size, group_size) for i, paths in enumerate(blocks))


def _paths(mdp, policy, theta, n, behaviour, group_size, executor, rng):
    """Check the arguments; return the `Walk`, the `Meaning` of its slots, and an iterator of blocks of `Paths`."""
    parallel.check_executor(executor)
    seeds = block_seeds(n, mdp, group_size, rng)
    walk, meaning = sampling_tables(mdp, policy, theta, behaviour, n)
    jobs = ((walk, *seed, group_size) for seed in seeds)
    return walk, meaning, parallel.in_order(draw_block, jobs, executor)


def whole_groups(n, group_size):
    """Return both as Python's whole numbers, refusing a part of a group."""
    n = arguments.integer("n", n)
    group_size = arguments.integer("group_size", group_size, low=1)
    if n % group_size:
        raise ValueError(f"n={n} is not a multiple of group_size={group_size}; draw whole groups")
    return n, group_size


def block_seeds(n, mdp, group_size, rng):
    """Check the seed; return an iterator over blocks: entropy and spawn key of the seed, number of trajectories."""
    seed, size = seed_sequence(rng), block_size(mdp.horizon, group_size)
    return (
        (seed.entropy, (*seed.spawn_key, i), min(size, n - first)) for i, first in enumerate(range(0, max(n, 1), size))
    )


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
