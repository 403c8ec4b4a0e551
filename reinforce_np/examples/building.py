"""What several examples are built from: starts, move tables, deterministic models."""

import numpy as np

from reinforce_np.mdp import FiniteMDP

# Rows of a grid count downwards, as in Gymnasium.
UP, RIGHT, DOWN, LEFT = (-1, 0), (0, 1), (1, 0), (0, -1)


def start_at(states, n_states):
    """Return the uniform distribution over `states` (an index or several), shape (n_states,)."""
    initial = np.zeros(n_states)
    initial[states] = 1.0 / np.size(states)
    return initial


def grid_moves(rows, columns, steps=(UP, RIGHT, DOWN, LEFT)):
    """Return the cell reached from each cell by each step, shape (rows·columns, len(steps)).

    Cells are numbered row by row; a step off the grid stays where it is.
    """
    row, column = np.divmod(np.arange(rows * columns)[:, None], columns)
    down, right = np.array(steps).T
    return columns * np.clip(row + down, 0, rows - 1) + np.clip(column + right, 0, columns - 1)


def slips(moves):
    """Return the cells reached by turning left, not, or right of each direction, shape (S, 4, 3).

    Directions must be listed in circular order.
    """
    directions = np.arange(moves.shape[1])
    return moves[:, (directions[:, None] + [-1, 0, 1]) % directions.size]


def from_moves(next_state, *, reward, ends=(), initial, gamma, horizon):
    """Build the deterministic MDP of a move table.

    Parameters
    ----------
    next_state : int array (S, A)
        The move table.
    reward : float or array, broadcast to (S, A)
        Reward of each move.
    ends : sequence of int
        Moving into one of these states terminates the episode. Nothing
        happens in them afterwards: their own rows stay, pay 0 and terminate.
    initial, gamma, horizon
        As in `FiniteMDP`.

    Returns
    -------
    FiniteMDP
        With one outcome per state and action.
    """
    next_state = np.array(next_state)
    reward = np.array(np.broadcast_to(reward, next_state.shape), dtype=float)
    ends = list(ends)
    next_state[ends] = np.reshape(ends, (-1, 1))
    reward[ends] = 0.0
    return FiniteMDP(
        probability=np.ones((*next_state.shape, 1)),
        next_state=next_state[..., None],
        reward=reward[..., None],
        terminated=np.isin(next_state, ends)[..., None],
        initial=initial,
        gamma=gamma,
        horizon=horizon,
    )
