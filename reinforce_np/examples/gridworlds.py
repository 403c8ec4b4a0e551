"""Gridworlds: cells numbered row by row, a step off the grid stays."""

import numpy as np

from reinforce_np import arguments
from reinforce_np.examples.building import DOWN, LEFT, RIGHT, UP, from_moves, grid_moves, slips, start_at
from reinforce_np.mdp import FiniteMDP

# The two lakes of Gymnasium's FrozenLake: start, frozen, hole, goal.
LAKES = {
    "4x4": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "8x8": ("SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG"),
}


def gridworld_4x4(*, horizon=None):
    """The 4x4 gridworld with two terminal corners.

    Every move costs 1 until a corner, state 0 or 15, is reached. Actions:
    up, right, down, left. The start is uniform over the other 14 cells (the
    book names none).

    **Known answer.** Under the uniform policy

        V =   0 −14 −20 −22
            −14 −18 −20 −20
            −20 −20 −18 −14
            −22 −20 −14   0

    *exactly*, minus the expected number of moves.

    *Source*: Sutton & Barto, Reinforcement Learning, 2nd ed. (2018),
    Example 4.1 and Figure 4.1 (k = ∞).

    Parameters
    ----------
    horizon : int or None
        Steps before truncation; the book has none.

    Returns
    -------
    FiniteMDP
        16 states, 4 actions, 1 outcome, γ = 1.

    Examples
    --------
    >>> mdp = gridworld_4x4()
    >>> mdp.next_state[5, :, 0], mdp.terminated[1, :, 0]
    (array([1, 6, 9, 4]), array([False, False, False,  True]))
    """
    return from_moves(
        grid_moves(4, 4),
        reward=-1.0,
        ends=[0, 15],
        initial=start_at(np.arange(1, 15), 16),
        gamma=1.0,
        horizon=horizon,
    )


def gridworld_5x5(*, gamma=0.9, horizon=None):
    """The 5x5 gridworld with two jumps, which never ends.

    Every action in cell A = 1 pays 10 and jumps to 21; in cell B = 3 it pays
    5 and jumps to 13. A step off the grid stays and costs 1; all others
    pay 0. Actions: up, right, down, left. The start is uniform (the book
    names none).

    **Known answer.** Under the uniform policy, rounded to one digit,

        V =  3.3  8.8  4.4  5.3  1.5
             1.5  3.0  2.3  1.9  0.5
             0.1  0.7  0.7  0.4 −0.4
            −1.0 −0.4 −0.4 −0.6 −1.2
            −1.9 −1.3 −1.2 −1.4 −2.0

    The best value is that of A, 10 / (1 − γ⁵) ≈ 24.4.

    *Source*: Sutton & Barto, Reinforcement Learning, 2nd ed. (2018),
    Example 3.5 and Figure 3.2; Example 3.8 and Figure 3.5 for the optimum.

    Parameters
    ----------
    gamma : float
        Discount per step; 0.9 in the book.
    horizon : int or None
        Steps before truncation; the book has none.

    Returns
    -------
    FiniteMDP
        25 states, 4 actions, 1 outcome. No outcome terminates.

    Examples
    --------
    >>> mdp = gridworld_5x5()
    >>> mdp.next_state[[1, 3], 0, 0], mdp.reward[0, :, 0]
    (array([21, 13]), array([-1.,  0.,  0., -1.]))
    """
    next_state = grid_moves(5, 5)
    reward = np.where(next_state == np.arange(25)[:, None], -1.0, 0.0)
    next_state[[1, 3]] = [[21], [13]]
    reward[[1, 3]] = [[10.0], [5.0]]
    return from_moves(next_state, reward=reward, initial=np.full(25, 1 / 25), gamma=gamma, horizon=horizon)


def cliff(*, slippery=False, gamma=1.0, horizon=100):
    """Cliff walking, cell for cell Gymnasium's ``CliffWalking-v1``.

    A 4×12 grid; start in the bottom left corner, state 36, goal in the
    bottom right, state 47, and between them a cliff. A step costs 1; a step
    into the cliff costs 100 and goes back to the start. Actions: up, right,
    down, left. When slippery, a step goes in the intended direction or to
    its left or right, each with probability ⅓.

    **Known answer.** Not slippery and undiscounted: the shortest path (up,
    11 × right, down) returns −13, the safe one along the top row −17; these
    are what Q-learning and Sarsa settle on in the book's figure.

    *Source*: Sutton & Barto, Reinforcement Learning, 2nd ed. (2018),
    Example 6.6. Slippery: Gymnasium's ``CliffWalkingSlippery-v1``.

    Parameters
    ----------
    slippery : bool
        Whether steps go astray.
    gamma : float
        Discount per step.
    horizon : int or None
        Steps before truncation; neither the book nor Gymnasium has one.

    Returns
    -------
    FiniteMDP
        48 states, 4 actions, 1 outcome (3 when slippery).

    Examples
    --------
    >>> mdp = cliff()
    >>> mdp.next_state[36, :, 0], mdp.reward[36, :, 0]
    (array([24, 36, 36, 36]), array([  -1., -100.,   -1.,   -1.]))
    """
    start, goal = 36, 47
    moves = grid_moves(4, 12)
    cell = slips(moves) if arguments.flag("slippery", slippery) else moves[..., None]
    fell = (start < cell) & (cell < goal)
    return FiniteMDP(
        probability=np.full(cell.shape, 1.0 / cell.shape[2]),
        next_state=np.where(fell, start, cell),
        reward=np.where(fell, -100.0, -1.0),
        terminated=cell == goal,
        initial=start_at(start, 48),
        gamma=gamma,
        horizon=horizon,
    )


def frozen_lake(*, map="4x4", slippery=True, success_rate=1 / 3, gamma=1.0, horizon=100):
    """A frozen lake of any map, with the dynamics of Gymnasium's ``FrozenLake-v1``.

    Cross the ice from a start S over frozen cells F to a goal G, which pays
    1; a hole H ends the episode with nothing. Actions: left, down, right,
    up. When slippery, a step goes in the intended direction with probability
    `success_rate` and to its left or right with half the rest each. No
    Gymnasium is needed.

    **Known answer.** The return is 1 or 0, so with γ = 1 J is the
    probability of arriving in time. On the slippery 4×4 lake without a time
    limit the best policy arrives with probability 14/17 ≈ 0.8235; on the
    8×8 lake it arrives surely. Not slippery, the 4×4 lake takes six steps:
    the best return is γ⁵.

    *Source*: Gymnasium, ``toy_text/frozen_lake.py`` (Farama Foundation); the
    two optima follow from value iteration, run in the tests.

    Parameters
    ----------
    map : str or sequence of str
        A name in `LAKES` ("4x4", "8x8"), or the rows of a map in the letters
        S, F, H, G, all of one length. Several S share the start equally.
    slippery : bool
        Whether steps go astray.
    success_rate : float
        Probability of the intended direction on a slippery lake.
    gamma : float
        Discount per step.
    horizon : int or None
        Steps before truncation. Gymnasium truncates "4x4" after 100 and
        "8x8" after 200.

    Returns
    -------
    FiniteMDP
        One state per cell, 4 actions, 1 outcome (3 when slippery). Holes and
        goals stay, pay 0 and terminate, whatever one does.

    Raises
    ------
    ValueError
        When the map is unknown, empty or ragged, has no S, or has a letter
        other than S, F, H, G.

    Examples
    --------
    >>> mdp = frozen_lake(map=["SFG"], success_rate=0.5)
    >>> mdp.probability[1, 2], mdp.next_state[1, 2]
    (array([0.25, 0.5 , 0.25]), array([1, 2, 1]))
    >>> frozen_lake(map=["SF", "G"])
    Traceback (most recent call last):
    ValueError: map[1]='G' has 1 cells, but map[0] has 2; give every row the same length
    """
    if not isinstance(map, str | list | tuple):
        raise TypeError(f"map={map!r} is no map; pass a name of LAKES or a list of rows")
    letters, columns = _lake_cells(map)
    success_rate = arguments.number("success_rate", success_rate, low=0.0, high=1.0, rule="a probability in [0, 1]")
    moves = grid_moves(letters.size // columns, columns, steps=(LEFT, DOWN, RIGHT, UP))
    astray = (1.0 - success_rate) / 2.0
    next_state = slips(moves) if arguments.flag("slippery", slippery) else moves[..., None]
    over = np.isin(letters, ["G", "H"])
    next_state[over] = np.flatnonzero(over)[:, None, None]
    return FiniteMDP(
        probability=np.broadcast_to([astray, success_rate, astray] if slippery else [1.0], next_state.shape),
        next_state=next_state,
        reward=np.where(over[:, None, None], 0.0, letters[next_state] == "G"),
        terminated=over[next_state],
        initial=start_at(np.flatnonzero(letters == "S"), letters.size),
        gamma=gamma,
        horizon=horizon,
    )


def _lake_cells(map):
    """Return the letters of a map row by row, and its number of columns; refuse bad maps."""
    if isinstance(map, str):
        if map not in LAKES:
            raise ValueError(f"map={map!r} is unknown; pass one of {', '.join(LAKES)} or a sequence of rows")
        map = LAKES[map]
    rows = list(map)
    if not rows or not rows[0]:
        raise ValueError(f"map={map!r} has no cells; pass rows such as ['SF', 'FG']")
    for i, row in enumerate(rows):
        if not isinstance(row, str):
            raise TypeError(f"map[{i}]={row!r} is not a string; pass rows such as 'SFFG'")
        if len(row) != len(rows[0]):
            wanted = f"but map[0] has {len(rows[0])}; give every row the same length"
            raise ValueError(f"map[{i}]={row!r} has {len(row)} cells, {wanted}")
        unknown = sorted(set(row) - set("SFHG"))
        if unknown:
            legend = "S (start), F (frozen), H (hole), G (goal)"
            raise ValueError(f"map[{i}]={row!r} has the letter {unknown[0]!r}; use {legend}")
    letters = np.array(list("".join(rows)))
    if "S" not in letters:
        raise ValueError(f"map={rows!r} has no start; mark at least one cell S")
    return letters, len(rows[0])
