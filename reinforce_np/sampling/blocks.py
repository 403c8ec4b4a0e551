"""Draw one block of trajectories, and write it out as the arrays of the record.

A block is a pure function of its arguments. All its trajectories take a step
together; those that have finished keep drawing without effect until an eighth
of the block has, and are then dropped. So the random numbers used are: words
for the first states, one for each group; then for every step and stage a word
for each trajectory not yet dropped, in their order, and after them a tail for
each word that ties with its limit (`alias`).
"""

from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments
from reinforce_np.trajectories import Trajectories

DROP = 8  # finished trajectories are dropped when they are 1/DROP of those that draw
FIRST_CAPACITY = 64  # steps after which episodes without a horizon are looked at, and so on, doubling
MAX_CELLS_WITHOUT_HORIZON = 2**27  # a block of endless episodes is refused rather than swapped to disk
COLUMNS = {"states": np.intp, "actions": np.intp, "rewards": np.float64, "log_probabilities": np.float64}


@dataclass(frozen=True, eq=False)
class Paths:
    """A block as it was drawn: one slot per step and trajectory that had not been dropped."""

    n: int
    slots: list[np.ndarray]  # of each step, (number drawing,) int32
    kept: dict[int, np.ndarray]  # before step t, which positions among those drawing went on to draw
    final: np.ndarray  # (n,): the row each trajectory ended in

    def steps(self):
        """Yield the slots of each step, and the trajectories they belong to: None for all of them."""
        lanes = None
        for t, slots in enumerate(self.slots):
            if t in self.kept:
                lanes = self.kept[t] if lanes is None else lanes[self.kept[t]]
            yield slots, lanes


def draw_block(walk, entropy, spawn_key, n, group_size):
    """Draw n trajectories: a pure function of its arguments."""
    bits = np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=spawn_key))
    _, base = walk.start.step(np.zeros(n // group_size, dtype=np.int32), bits)
    base = np.repeat(base, group_size)
    final, lanes = np.empty_like(base), np.arange(n)
    slots: list[np.ndarray] = []
    kept = {}
    while base.size and len(slots) != walk.horizon:
        refuse_endless(walk.horizon, len(slots), n)
        for stage in walk.stages:
            slot, base = stage.step(base, bits)
        slots.append(slot)
        finished = base >= walk.finished
        if np.count_nonzero(finished) * DROP >= base.size:
            final[lanes[finished]] = base[finished]
            going_on = np.flatnonzero(~finished)
            base, lanes, kept[len(slots)] = base[going_on], lanes[going_on], going_on
    final[lanes] = base
    return Paths(n, slots, kept, final)


def refuse_endless(horizon, t, n):
    """Refuse episodes without a horizon when their memory would be swapped to disk."""
    looked_at = t >= FIRST_CAPACITY and t % FIRST_CAPACITY == 0 and (t // FIRST_CAPACITY).bit_count() == 1
    if horizon is None and looked_at and n * 2 * t > MAX_CELLS_WITHOUT_HORIZON:
        raise arguments.TooLargeError(
            f"horizon=None, and an episode is still alive after {t} steps: give a horizon, or terminate more often "
            "(cutting the episode here would bias every return)"
        )


def trajectories(blocks, meaning, horizon, first, group_size):
    """Return the record of consecutive blocks of `Paths`, the first of which begins with trajectory number `first`."""
    n = sum(paths.n for paths in blocks)
    n_steps = max(len(paths.slots) for paths in blocks) if horizon is None else horizon
    columns = {name: np.zeros((n_steps, n), dtype) for name, dtype in COLUMNS.items()}  # a step is a row
    lengths = np.zeros(n, dtype=np.intp)
    begin = 0
    for paths in blocks:
        here = slice(begin, begin + paths.n)
        for t, (slots, lanes) in enumerate(paths.steps()):
            pair = slots >> meaning.pair_shift
            for column, table, index in (
                (columns["states"], meaning.state, pair),
                (columns["actions"], meaning.action, pair),
                (columns["rewards"], meaning.reward, slots),
                (columns["log_probabilities"], meaning.log_probability, pair),
            ):
                if lanes is None:
                    table.take(index, out=column[t, here], mode="clip")
                else:
                    column[t, here][lanes] = table.take(index, mode="clip")
            lengths[here][slice(None) if lanes is None else lanes] += slots < meaning.first_finished
        begin += paths.n
    final_row = np.concatenate([paths.final for paths in blocks]) >> meaning.row_shift
    terminated = final_row >= meaning.n_states
    return Trajectories(
        **{name: rows.T for name, rows in columns.items()},
        lengths=lengths,
        terminated=terminated,
        truncated=~terminated,
        final_states=meaning.state_of_row[final_row],
        groups=(first + np.arange(n)) // group_size,
    )
