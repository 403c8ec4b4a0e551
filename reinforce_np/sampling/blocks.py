"""Draw one block of trajectories, and write it out as the arrays of the record.

A block is a pure function of its arguments. All its trajectories take a step
together; those that have finished keep drawing without effect until an eighth
of the block has, and are then dropped. So the random numbers used are: words
for the first states, one for each group; then for every step and stage a word
for each trajectory not yet dropped, in their order, and after them a tail for
each word that ties with its limit (`alias`).
"""

import contextlib
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments
from reinforce_np.sampling.alias import Scratch
from reinforce_np.sampling.tables import Meaning
from reinforce_np.trajectories import of_packed

DROP = 8  # finished trajectories are dropped when they are 1/DROP of those that draw
FIRST_CAPACITY = 64  # steps after which episodes without a horizon are looked at, and so on, doubling
MAX_CELLS_WITHOUT_HORIZON = 2**27  # a block of endless episodes is refused rather than swapped to disk
COLUMNS = {"states": np.intp, "actions": np.intp, "rewards": np.float64, "log_probabilities": np.float64}


@dataclass(frozen=True, eq=False)
class Paths:
    """A block as it was drawn: one slot per step and trajectory that had not been dropped."""

    n: int
    slots: list[np.ndarray]  # of each step, (number drawing,) int32
    kept: dict[int, np.ndarray]  # after t steps, which positions among those drawing went on to draw
    rows: dict[int, np.ndarray]  # and where all of those drawing were then, (number drawing,) int32; at the end, too
    n_transitions: int  # steps of trajectories that had not finished

    def steps(self):
        """Yield t, its slots, and the trajectories they belong to: None for all of them."""
        lanes = None
        for t, slots in enumerate(self.slots):
            if t in self.kept:
                lanes = self.kept[t] if lanes is None else lanes[self.kept[t]]
            yield t, slots, lanes

    def lengths(self, first_finished):
        """Return the number of steps before the first slot that a finished trajectory drew, (n,)."""
        lengths, here = np.zeros(self.n, dtype=np.intp), np.zeros(self.n, dtype=np.int32)
        for t, slots, lanes in self.steps():
            here += slots < first_finished
            if t + 1 in self.kept or t + 1 == len(self.slots):
                lengths[slice(None) if lanes is None else lanes] += here
                here = np.zeros(len(self.kept.get(t + 1, ())), dtype=np.int32)
        return lengths

    def final(self):
        """Return the row each trajectory ended in, (n,)."""
        times = sorted(self.rows, reverse=True)
        final = self.rows[times[0]]
        for t in times[1:]:
            later, final = final, self.rows[t].copy()
            final[self.kept[t]] = later
        return final

    def paid(self, meaning):
        """Return which trajectories ended with a reward, (n,)."""
        return self.final() >> meaning.row_shift >= meaning.paid

    def only(self, wanted):
        """Return the paths of the trajectories marked in `wanted` (n,) alone, without rows and number of transitions."""
        slots, kept, n = [], {}, int(np.count_nonzero(wanted))
        position = np.flatnonzero(wanted)
        for t, all_slots in enumerate(self.slots):
            if t in self.kept:
                goes_on = np.zeros(len(wanted), dtype=bool)
                goes_on[self.kept[t]] = True
                kept[t] = np.flatnonzero(goes_on[position])
                wanted = wanted[self.kept[t]]
                position = np.flatnonzero(wanted)
            slots.append(all_slots[position])
        return Paths(n, slots, kept, {}, 0)


class Arena:
    """Memory for whole numbers of 32 bits, handed out piece by piece; after `clear` it is handed out again.

    New memory costs more than what is written to it, and a block needs much.
    """

    def __init__(self):
        self.chunks = [np.empty(2**16, dtype=np.int32)]
        self.clear()

    def clear(self):
        """Take everything back."""
        self.current, self.used = 0, 0

    def piece(self, n):
        """Return room for n numbers."""
        while self.used + n > len(self.chunks[self.current]):
            self.current, self.used = self.current + 1, 0
            if self.current == len(self.chunks):
                self.chunks.append(np.empty(max(2 * len(self.chunks[-1]), n), dtype=np.int32))
        self.used += n
        return self.chunks[self.current][self.used - n : self.used]

    def copy(self, array):
        """Return a copy of `array` in the arena."""
        piece = self.piece(len(array))
        piece[:] = array
        return piece


_spare: list[Arena] = []  # at most one is kept, and it has room for no more than a block


@contextlib.contextmanager
def borrowed_arena():
    """Lend the arena of the last block drawn in this process, or a new one where it is in use."""
    try:
        arena = _spare.pop()
    except IndexError:
        arena = Arena()
    try:
        yield arena
    finally:
        arena.clear()
        _spare[:] = [arena]


def draw_block(walk, entropy, spawn_key, n, group_size, arena=None):
    """Draw n trajectories: a pure function of its arguments. What it returns lives in `arena`."""
    bits, scratch = np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=spawn_key)), Scratch.of(n)
    arena = Arena() if arena is None else arena
    first = np.zeros(n // group_size, dtype=np.int32)
    walk.start.step(first, bits, scratch.first(len(first)), arena.piece(len(first)))
    base = arena.copy(np.repeat(first, group_size))
    slots: list[np.ndarray] = []
    kept, rows, n_transitions, n_live = {}, {}, 0, n
    while base.size and len(slots) != walk.horizon:
        refuse_endless(walk.horizon, len(slots), n)
        slots.append(arena.piece(base.size))
        for stage in walk.stages:
            stage.step(base, bits, scratch, slots[-1])
        n_transitions += n_live
        going_on = np.less(base, walk.finished, out=scratch.second)
        n_live = np.count_nonzero(going_on)
        if DROP * (base.size - n_live) >= base.size:
            t = len(slots)
            rows[t], kept[t] = base, arena.copy(np.flatnonzero(going_on))
            base = arena.copy(base.take(kept[t]))
            scratch = scratch.first(base.size)
    rows.setdefault(len(slots), base)
    return Paths(n, slots, kept, rows, n_transitions)


def refuse_endless(horizon, t, n):
    """Refuse episodes without a horizon when their memory would be swapped to disk."""
    looked_at = t >= FIRST_CAPACITY and t % FIRST_CAPACITY == 0 and (t // FIRST_CAPACITY).bit_count() == 1
    if horizon is None and looked_at and n * 2 * t > MAX_CELLS_WITHOUT_HORIZON:
        raise arguments.TooLargeError(
            f"horizon=None, and an episode is still alive after {t} steps: give a horizon, or terminate more often "
            "(cutting the episode here would bias every return)"
        )


@dataclass(frozen=True, eq=False)
class Packed:
    """Trajectories as they were drawn, in 4 bytes a transition; `unpack` writes out the (N, T) arrays of the record."""

    blocks: list[Paths]
    meaning: Meaning
    n_steps: int

    def is_of(self, n_states, n_actions):
        """Say whether the model drawn from has so many states and actions."""
        return (self.meaning.n_states, self.meaning.n_actions) == (n_states, n_actions)

    def paid(self):
        """Return which trajectories ended with a reward, (N,)."""
        return np.concatenate([paths.paid(self.meaning) for paths in self.blocks])

    def only(self, wanted):
        """Return the trajectories marked in `wanted` (N,) alone."""
        ends = np.cumsum([paths.n for paths in self.blocks])[:-1]
        blocks = [paths.only(part) for paths, part in zip(self.blocks, np.split(wanted, ends), strict=True)]
        return Packed(blocks, self.meaning, self.n_steps)

    def unpack(self):
        """Return states, actions, rewards and log-probabilities, each (N, T), zero after the end."""
        n, meaning = sum(paths.n for paths in self.blocks), self.meaning
        columns = {name: np.zeros((self.n_steps, n), dtype) for name, dtype in COLUMNS.items()}  # a step is a row
        state, action = (
            np.append(x, 0) for x in divmod(np.arange(len(meaning.log_probability) - 1), meaning.n_actions)
        )
        first = 0
        for paths in self.blocks:
            for t, slots, lanes in paths.steps():
                pair = meaning.pair.take(slots >> meaning.pair_shift)
                for name, table, index in (
                    ("states", state, pair),
                    ("actions", action, pair),
                    ("rewards", meaning.reward, slots),
                    ("log_probabilities", meaning.log_probability, pair),
                ):
                    row = columns[name][t, first : first + paths.n]
                    if lanes is None:
                        table.take(index, out=row, mode="clip")
                    else:
                        row[lanes] = table.take(index, mode="clip")
            first += paths.n
        return {name: rows.T for name, rows in columns.items()}


def trajectories(blocks, meaning, horizon, first, group_size):
    """Return the record of consecutive blocks of `Paths`, the first of which begins with trajectory number `first`."""
    n_steps = max(len(paths.slots) for paths in blocks) if horizon is None else horizon
    lengths = np.concatenate([paths.lengths(meaning.first_finished) for paths in blocks])
    final_row = np.concatenate([paths.final() for paths in blocks]) >> meaning.row_shift
    terminated = final_row >= meaning.n_states
    narrow = {
        "lengths": lengths,
        "terminated": terminated,
        "truncated": ~terminated,
        "final_states": meaning.state_of_row[final_row],
        "groups": (first + np.arange(len(lengths))) // group_size,
    }
    return of_packed(Packed(blocks, meaning, n_steps), narrow)
