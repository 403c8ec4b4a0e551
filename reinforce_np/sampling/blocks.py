"""Draw one block of trajectories, and write it out as the arrays of the record.

A block is a pure function of its arguments. All its trajectories draw
together, a step at a time or several at once (`tables`); those that have
finished keep drawing without effect until an eighth of the block has, and are
then dropped. So the random numbers used are: words for the first states, one
for each group (passed over where there is but one first state); then for every draw and stage a word for each trajectory not
yet dropped, in their order, and after them a tail for each word that ties with
its limit (`alias`).
"""

import contextlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from reinforce_np import arguments
from reinforce_np.sampling.alias import Scratch
from reinforce_np.sampling.tables import Meaning
from reinforce_np.trajectories import of_packed

DROP = 8  # finished trajectories are dropped when they are 1/DROP of those that draw
FIRST_CAPACITY = 64  # steps after which episodes without a horizon are looked at, and so on, doubling
FEW = 2**12  # of a block, whose memory counts though they have finished: one may be alive for ever
MAX_CELLS_WITHOUT_HORIZON = 2**27  # a block of endless episodes is refused rather than swapped to disk
COLUMNS = {"states": np.intp, "actions": np.intp, "rewards": np.float64, "log_probabilities": np.float64}


class Move(NamedTuple):
    """Which trajectories stop drawing, and which of the others take their places, so that the first `n_left` draw on."""

    n_left: int
    finished: np.ndarray  # int: their positions, ascending: those below `n_left` are filled
    movers: np.ndarray  # int: from here, in the same order

    @classmethod
    def of(cls, going_on, n_left):
        """Return the move after which those marked in `going_on` (number drawing,), `n_left` of them, draw on."""
        finished = np.flatnonzero(~going_on)
        return cls(n_left, finished, n_left + np.flatnonzero(going_on[n_left:]))

    def apply(self, array):
        """Return `array` (number drawing, ...) as it is after the move, overwritten."""
        array[self.finished[: len(self.movers)]] = array[self.movers]
        return array[: self.n_left]

    def follow(self, position):
        """Return where those that were at `position`, and draw on, are after the move; it is overwritten."""
        moved = np.flatnonzero(position >= self.n_left)
        position[moved] = self.finished[np.searchsorted(self.movers, position[moved])]
        return position

    def undo(self, array):
        """Put what belongs to the first `n_left` of `array` back to where it was; the others, those that stopped, are zero."""
        holes = self.finished[: len(self.movers)]
        array[self.movers] = array[holes]
        array[holes] = 0


@dataclass(frozen=True, eq=False)
class Paths:
    """A block as it was drawn: one slot per draw and trajectory that drew."""

    n: int
    n_steps: int  # of all draws: of the last, only those up to the horizon count
    slots: list[np.ndarray]  # of each draw, (number drawing,) int32
    moves: dict[int, Move]  # before draw i: who stopped drawing, and who took their places
    n_draws: np.ndarray  # (n,) int32: of each trajectory
    final: np.ndarray  # (n,) int32: where the row begins that it ended in
    n_transitions: int  # steps of trajectories that had not finished

    def draws(self):
        """Yield i, its slots, and the trajectories they belong to: None for all of them."""
        lanes = None
        for i, slots in enumerate(self.slots):
            if i in self.moves:
                lanes = self.moves[i].apply(np.arange(self.n) if lanes is None else lanes.copy())
            yield i, slots, lanes

    def lengths(self, meaning):
        """Return the number of steps before trajectories finished, (n,)."""
        live = np.zeros(self.n, dtype=np.int32)  # draws in which they had not finished yet
        for _, slots, lanes in self.draws():
            going_on = slots < meaning.first_finished
            if lanes is None:
                live += going_on
            else:
                live[lanes] += going_on
        if meaning.at_once == 1:
            return live.astype(np.intp)
        steps = np.minimum(live.astype(np.intp) * meaning.at_once, self.n_steps)
        return steps - meaning.left_over(self.final_rows(meaning))

    def final_rows(self, meaning):
        """Return the row each trajectory ended in, (n,)."""
        return self.final >> meaning.row_shift

    def paid(self, meaning):
        """Return which trajectories ended with a reward, (n,)."""
        return self.final >= meaning.paid << meaning.row_shift

    def slots_of_all(self, nothing):
        """Return the slots of all trajectories (n,) in each draw, and `nothing` where they did not draw."""
        rows = []
        for _, slots, lanes in self.draws():
            rows.append(slots if lanes is None else np.full(self.n, nothing, dtype=np.int32))
            if lanes is not None:
                rows[-1][lanes] = slots
        return rows

    def slots_of(self, index, nothing):
        """Return the slots of a few trajectories (m,), ascending, in every draw, (draws, m), and `nothing` where they did not draw."""
        slots, who, position = np.full((len(self.slots), len(index)), nothing, np.int32), np.arange(len(index)), index
        for i, all_slots in enumerate(self.slots):
            if i in self.moves:
                going_on = self.n_draws[index[who]] > i
                who, position = who[going_on], self.moves[i].follow(position[going_on])
            slots[i, who] = all_slots.take(position)
        return slots

    def only(self, wanted):
        """Return the paths of the trajectories marked in `wanted` (n,) alone, without the number of transitions."""
        position = np.flatnonzero(wanted)
        n, n_draws, slots, moves = len(position), self.n_draws[position], [], {}
        left = n_draws
        for i, all_slots in enumerate(self.slots):
            if i in self.moves:
                going_on = left > i
                moves[i] = Move.of(going_on, np.count_nonzero(going_on))
                left, position = moves[i].apply(left.copy()), self.moves[i].follow(moves[i].apply(position))
            slots.append(all_slots.take(position))
        return Paths(n, self.n_steps, slots, moves, n_draws, self.final[wanted], 0)


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
    bits = np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=spawn_key))
    arena = Arena() if arena is None else arena
    scratch = Scratch.of(n, arena.piece)
    first = arena.piece(n // group_size)
    first[:] = 0
    walk.start.step(first, bits, scratch.first(len(first)), arena.piece(len(first)))
    base = first if group_size == 1 else arena.copy(np.repeat(first, group_size))
    slots: list[np.ndarray] = []
    final, n_draws = arena.piece(n), arena.piece(n)
    moves: dict[int, Move] = {}
    lanes: Any = slice(None)  # all, until some are dropped
    n_steps, n_transitions, n_live = 0, 0, n
    while n_live and n_steps != walk.horizon:
        refuse_endless(walk.horizon, n_steps, max(n_transitions, min(n, FEW) * n_steps))
        new_steps = walk.at_once if walk.horizon is None else min(walk.at_once, walk.horizon - n_steps)
        slots.append(arena.piece(base.size))
        for stage in walk.stages if new_steps == walk.at_once else walk.last:
            stage.step(base, bits, scratch, slots[-1])
        n_steps, n_transitions = n_steps + new_steps, n_transitions + new_steps * n_live
        going_on = np.less(base, walk.finished, out=scratch.second)
        n_live = np.count_nonzero(going_on)
        if n_live and DROP * (base.size - n_live) >= base.size:
            lanes = lanes if moves else arena.copy(np.arange(n, dtype=np.int32))
            move = moves[len(slots)] = Move.of(going_on, n_live)
            stopped = lanes[move.finished]
            final[stopped], n_draws[stopped] = base[move.finished], len(slots)
            base, lanes, scratch = move.apply(base), move.apply(lanes), scratch.first(n_live)
    final[lanes], n_draws[lanes] = base, len(slots)
    if walk.at_once > 1:
        n_transitions -= int(walk.left_over(final).sum())
    return Paths(n, n_steps, slots, moves, n_draws, final, n_transitions)


def refuse_endless(horizon, t, cells):
    """Refuse episodes without a horizon when their memory would be swapped to disk."""
    looked_at = t >= FIRST_CAPACITY and t % FIRST_CAPACITY == 0 and (t // FIRST_CAPACITY).bit_count() == 1
    if horizon is None and looked_at and 2 * cells > MAX_CELLS_WITHOUT_HORIZON:
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

    def reader(self, block):
        """Return the number of trajectories of a block, and a function of which of them, and of how many steps T.

        It returns their pairs s·A + a, S·A after the end, and their rewards, each (T, trajectories).
        """
        meaning, slots_of = self.meaning, block.slots_of_all(self.meaning.first_finished)
        pair = meaning.pair.astype(np.intp)  # what indices have to be in the end

        def read(index, n_steps):
            draws = slots_of[: -(-n_steps // meaning.at_once)]
            slots = np.concatenate([draw[index] for draw in draws], dtype=np.intp)
            paths, places = meaning.paths(slots.reshape(len(draws), -1))
            return tuple(
                _in_turn([of_step.take(index) for of_step in table])[:n_steps]
                for table, index in ((pair, places), (meaning.reward, paths))
            )

        return block.n, read

    def unpack(self):
        """Return states, actions, rewards and log-probabilities, each (N, T), zero after the end."""
        n, meaning = sum(paths.n for paths in self.blocks), self.meaning
        columns = {name: np.zeros((self.n_steps, n), dtype) for name, dtype in COLUMNS.items()}  # a step is a row
        state, action = (
            np.append(x, 0) for x in divmod(np.arange(len(meaning.log_probability) - 1), meaning.n_actions)
        )
        first = 0
        for block in self.blocks:
            for i, slots, lanes in block.draws():
                paths, places = meaning.paths(slots)
                t = i * meaning.at_once
                for step in range(min(meaning.at_once, self.n_steps - t)):
                    pair = meaning.pair[step].take(places)
                    for name, table, index in (
                        ("states", state, pair),
                        ("actions", action, pair),
                        ("rewards", meaning.reward[step], paths),
                        ("log_probabilities", meaning.log_probability, pair),
                    ):
                        row = columns[name][t + step, first : first + block.n]
                        if lanes is None:
                            table.take(index, out=row, mode="clip")
                        else:
                            row[lanes] = table.take(index, mode="clip")
            first += block.n
        return {name: rows.T for name, rows in columns.items()}


def _in_turn(arrays):
    """Return the first rows of the arrays, the second ones, and so on."""
    return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1).reshape(-1, *arrays[0].shape[1:])


def trajectories(blocks, meaning, horizon, first, group_size):
    """Return the record of consecutive blocks of `Paths`, the first of which begins with trajectory number `first`."""
    lengths = np.concatenate([paths.lengths(meaning) for paths in blocks])
    n_steps = int(lengths.max(initial=0)) if horizon is None else horizon
    final_row = np.concatenate([paths.final_rows(meaning) for paths in blocks])
    terminated = final_row >= meaning.n_states
    narrow = {
        "lengths": lengths,
        "terminated": terminated,
        "truncated": ~terminated,
        "final_states": meaning.state_of_row[final_row],
        "groups": (first + np.arange(len(lengths))) // group_size,
    }
    return of_packed(Packed(blocks, meaning, n_steps), narrow)
