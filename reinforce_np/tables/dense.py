"""Dense arrays of transitions and rewards, as in pymdptoolbox and most textbooks."""

from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.tables import outcomes

# For each layout, the axes of the caller's array that hold state, action and next state.
LAYOUTS = {"SAS": (0, 1, 2), "ASS": (1, 0, 2), "SSA": (0, 2, 1)}
AXES = {"SAS": "(S, A, S)", "ASS": "(A, S, S)", "SSA": "(S, S, A)"}

SUM_TOLERANCE = 1e-9  # that of arguments.check_sums, which cannot name rows in the caller's axis order


def from_dense(
    transition: Any, reward: Any, layout: str, initial: Any, terminal_states: Any = (), terminated: Any = None
) -> dict[str, np.ndarray]:
    """Turn a dense transition array into outcome form.

    Parameters
    ----------
    transition : array
        Probabilities of the next state, in the axis order of `layout`; rows
        of `terminal_states` may be all zero.
    reward : float or array
        A number, (S,), (S, A), or three axes in the order of `layout`, each
        of full length or of length one.
    layout : {"SAS", "ASS", "SSA"}
        Axis order of three-axis arrays.
    initial : int or array (S,)
        First state, or its distribution.
    terminal_states : sequence of int
        Transitions into these end the episode. One that starts in such a state takes a step there,
        as its rows say.
    terminated : bool array, optional
        Which transitions end the episode, three axes as for `reward`.

    Returns
    -------
    dict
        ``probability``, ``next_state``, ``reward``, ``terminated``, each
        (S, A, K), and ``initial`` (S,). K is the largest number of next
        states of positive probability; shorter rows are padded with outcomes
        of probability zero that stay where they are.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, index, value and remedy.

    Examples
    --------
    >>> fields = from_dense([[[0.5, 0.5]], [[0.0, 0.0]]], [1.0, 0.0], "SAS", 0, terminal_states=[1])
    >>> fields["next_state"].tolist(), fields["terminated"].tolist()
    ([[[0, 1]], [[1, 1]]], [[[False, True]], [[True, False]]])
    """
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(f'layout={layout!r} is unknown; pass "SAS", "ASS" or "SSA"')
    P = _transition(transition, layout)
    n_states, n_actions, _ = P.shape
    terminal = _terminal_mask(terminal_states, n_states)
    ends = _terminated(terminated, layout, P.shape) | terminal  # terminal: of the next state, the last axis
    rewards = _reward(reward, layout, P.shape)

    # A row left empty says that nothing happens after the terminal state: a self-loop that ends and pays nothing.
    empty = ~P.any(axis=2) & terminal[:, None]
    s, a = np.nonzero(empty)
    P[s, a, s] = 1.0
    _check_rows(P, layout)

    s, a, n = np.nonzero(P)
    fields = outcomes.padded_fields(
        n_states,
        n_actions,
        s=s,
        a=a,
        probability=P[s, a, n],
        next_state=n,
        reward=np.where(empty[s, a], 0.0, rewards[s, a, n]),
        terminated=ends[s, a, n],
    )
    fields["initial"] = _initial(initial, n_states)
    return fields


def _transition(transition, layout):
    """Return `transition` as an (S, A, S) array of probabilities that may be changed."""
    _refuse_sparse("transition", transition)
    array = arguments.real_array("transition", transition)
    fits = [name for name in LAYOUTS if _is_square(array, name)]
    if layout not in fits:
        remedy = f'; it fits layout="{fits[0]}"' if fits else ""
        raise ValueError(
            f'transition has shape {array.shape}; layout="{layout}" means {AXES[layout]} '
            f"with the same S twice and no axis of length zero{remedy}"
        )
    array = arguments.probability_array("transition", array, shape=array.shape)
    return np.transpose(array, LAYOUTS[layout])


def _is_square(array, layout):
    if array.ndim != 3 or array.size == 0:
        return False
    state, _, successor = LAYOUTS[layout]
    return array.shape[state] == array.shape[successor]


def _check_rows(P, layout):
    """Refuse rows that do not sum to one, naming the worst in the caller's own axis order."""
    sums = P.sum(axis=2)
    error = np.abs(sums - 1.0)
    wrong = error > SUM_TOLERANCE
    if not wrong.any():
        return
    s, a = (int(i) for i in np.unravel_index(np.argmax(error), error.shape))
    row = {"SAS": f"[{s}, {a}]", "ASS": f"[{a}, {s}]", "SSA": f"[{s}, :, {a}]"}[layout]
    remedy = "complete the missing probabilities or divide by the sum yourself"
    if not P[s, a].any():
        remedy = f"give the row, or put state {s} in terminal_states"
    raise ValueError(
        f"transition{row} (state {s}, action {a}) sums to {float(sums[s, a])!r}, the worst of {int(wrong.sum())} "
        f"that are not 1 (tolerance {SUM_TOLERANCE:g}); {remedy}"
    )


def _reward(reward, layout, shape):
    """Return `reward` broadcast to (S, A, S)."""
    _refuse_sparse("reward", reward)
    array = arguments.real_array("reward", reward)
    n_states, n_actions, _ = shape
    if array.ndim == 3:
        return _three_axes("reward", array, layout, shape, "a number, (S,), (S, A) or ")
    if array.shape in ((), (n_states,), (n_states, n_actions)):
        return np.broadcast_to(array.reshape(array.shape + (1,) * (3 - array.ndim)), shape)
    hint = "; transpose it" if array.shape == (n_actions, n_states) else ""
    raise ValueError(
        f"reward has shape {array.shape}; with S={n_states} and A={n_actions} it must be a number, (S,) paid for "
        f"leaving a state, (S, A), or {AXES[layout]} whose axes may have length one{hint}"
    )


def _terminated(terminated, layout, shape):
    """Return `terminated` broadcast to (S, A, S); none given means none ends."""
    if terminated is None:
        return np.zeros(shape, dtype=bool)
    _refuse_sparse("terminated", terminated)
    array = np.asarray(terminated)
    array = arguments.boolean_array("terminated", array, shape=array.shape)
    return _three_axes("terminated", array, layout, shape, "", "; for states that end the episode pass terminal_states")


def _three_axes(name, array, layout, shape, others, hint=""):
    """Broadcast a three-axis `array` in the order of `layout` to (S, A, S)."""
    canonical = np.transpose(array, LAYOUTS[layout]) if array.ndim == 3 else array
    if canonical.ndim != 3 or any(have not in (1, want) for have, want in zip(canonical.shape, shape, strict=True)):
        raise ValueError(
            f"{name} has shape {array.shape}; with S={shape[0]} and A={shape[1]} it must be {others}{AXES[layout]} "
            f"whose axes may have length one{hint}"
        )
    return np.broadcast_to(canonical, shape)


def _terminal_mask(terminal_states, n_states):
    if isinstance(terminal_states, (set, frozenset)):
        terminal_states = list(terminal_states)
    if np.asarray(terminal_states).dtype.kind == "b":
        raise TypeError(
            "terminal_states holds bool values; pass the numbers of the states, np.flatnonzero(terminal_states)"
        )
    if np.ndim(terminal_states) == 0:
        raise ValueError(f"terminal_states has 0 axes; pass a sequence of states, [{terminal_states!r}]")
    states = arguments.integer_array("terminal_states", terminal_states, low=0, high=n_states, ndim=1)
    mask = np.zeros(n_states, dtype=bool)
    mask[states] = True
    return mask


def _initial(initial, n_states):
    """Return the distribution of the first state, (S,), of a state or a distribution."""
    if isinstance(initial, np.ndarray) and initial.ndim == 0:
        initial = initial[()]
    if not np.isscalar(initial):
        return outcomes.start_distribution("initial", initial, n_states)
    remedy = f"it must be a state in [0, {n_states - 1}]"
    state = arguments.integer("initial", initial, remedy=remedy)
    if state >= n_states:
        raise ValueError(f"initial={state} is out of range; {remedy}")
    return np.eye(1, n_states, state)[0]


def _refuse_sparse(name, value):
    """Refuse scipy.sparse matrices, alone or in a list, without importing scipy."""
    if hasattr(value, "toarray"):
        raise TypeError(f"{name} is a sparse {type(value).__name__}; pass {name}.toarray()")
    listed = isinstance(value, (list, tuple)) or (
        isinstance(value, np.ndarray) and value.dtype.kind == "O" and value.ndim
    )
    for i, part in enumerate(value if listed else ()):
        if hasattr(part, "toarray"):
            raise TypeError(
                f"{name}[{i}] is a sparse {type(part).__name__}; pass [matrix.toarray() for matrix in {name}]"
            )
