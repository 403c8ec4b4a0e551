"""Draw many trajectories at once, in blocks that any number of workers may compute.

A block is a pure function of (model, policy, seed, block index, n): block i
has its own child of the seed, its size depends on the horizon (without one, on
a few episodes drawn to see how long they are), and the number n of all
trajectories only decides how many steps are drawn at once. So the same seed
and n give the same trajectories however the blocks are consumed, and however
many workers draw them.
"""

import dataclasses

import numpy as np

from reinforce_np import arguments, parallel
from reinforce_np.sampling.blocks import borrowed_arena, draw_block, trajectories
from reinforce_np.sampling.tables import sampling_tables

BLOCK_CELLS = 2**22  # (trajectory, step) cells of a block: at most 128 MB of arrays
MAX_BLOCK = 2**15  # trajectories of a block, so that the work of one step stays in the cache
BLOCK_WITHOUT_HORIZON = 2**12, 2**14  # at least, and at most: few episodes may last much longer than all seen before
PILOT = 64  # episodes drawn to see how long they are without a horizon
PILOT_STEPS = 2**10  # of each, at most


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

    Raises
    ------
    ValueError, TypeError
        When model, policy and theta do not fit together, or an option is out of range; by name.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> mdp = examples.short_corridor().replace(horizon=4)
    >>> batch = sample(mdp, TabularSoftmax(mdp.n_states, 2), np.zeros(2 * mdp.n_states), 1000, rng=0)
    >>> bool(np.all(batch.terminated ^ batch.truncated))
    True
    """
    n, group_size = whole_groups(n, group_size)
    walk, meaning, _, blocks = _paths(mdp, policy, theta, n, behaviour, group_size, executor, rng)
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
    walk, meaning, size, blocks = _paths(mdp, policy, theta, n, behaviour, group_size, executor, rng)
    return (trajectories([paths], meaning, walk.horizon, i * size, group_size) for i, paths in enumerate(blocks))


def _paths(mdp, policy, theta, n, behaviour, group_size, executor, rng):
    """Check the arguments; return the `Walk`, the `Meaning` of its slots, the size of a block, and an iterator of `Paths`."""
    parallel.check_executor(executor)
    seed = seed_sequence(rng)
    walk, meaning = sampling_tables(mdp, policy, theta, behaviour, n)
    size, blocks = blocks_of(n, walk, group_size, seed)
    jobs = ((walk, *block, group_size) for block in blocks)
    return walk, meaning, size, parallel.in_order(draw_block, jobs, executor)


def whole_groups(n, group_size):
    """Return both as Python's whole numbers, refusing a part of a group."""
    n = arguments.integer("n", n)
    group_size = arguments.integer("group_size", group_size, low=1)
    if n % group_size:
        raise ValueError(f"n={n} is not a multiple of group_size={group_size}; draw whole groups")
    return n, group_size


def blocks_of(n, walk, group_size, seed):
    """Return the size of a block, and an iterator over blocks: entropy and spawn key, number of trajectories."""
    size = block_size(n, walk, group_size, seed)
    firsts = enumerate(range(0, max(n, 1), size))
    return size, ((seed.entropy, (*seed.spawn_key, i), min(size, n - first)) for i, first in firsts)


def block_size(n, walk, group_size, seed):
    """Return how many of n trajectories a block has: whole groups, and bounded memory."""
    if walk.horizon is not None:
        size = min(MAX_BLOCK, BLOCK_CELLS // max(walk.horizon, 1))
    else:
        size, most = BLOCK_WITHOUT_HORIZON
        if n > size:  # the longest of so many lasts about twice as long as the longest of a few
            size = max(size, min(most, BLOCK_CELLS // (2 * longest_of_pilot(walk, seed))))
    return max(size // group_size, 1) * group_size


def longest_of_pilot(walk, seed):
    """Return how many steps the longest of a few episodes takes, drawn from a child of the seed that no block has."""
    with borrowed_arena() as arena:
        cut = dataclasses.replace(walk, horizon=PILOT_STEPS)
        return draw_block(cut, seed.entropy, (*seed.spawn_key, 0, 0), PILOT, 1, arena).n_steps


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
