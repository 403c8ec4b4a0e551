"""Transition tables of other libraries, turned into outcome form.

Two sources: dense arrays, as in pymdptoolbox and most textbooks, and the
tables ``P[s][a]`` of Gymnasium's toy-text environments. Both give the fields
of `reinforce_np.mdp.FiniteMDP` as a dict of arrays; letters for the axes are
S states, A actions and K outcomes.
"""

import warnings
from typing import Any

import numpy as np

from reinforce_np import arguments

# For each layout, the axes of the caller's array that hold state, action and next state.
LAYOUTS = {"SAS": (0, 1, 2), "ASS": (1, 0, 2), "SSA": (0, 2, 1)}
AXES = {"SAS": "(S, A, S)", "ASS": "(A, S, S)", "SSA": "(S, S, A)"}

SUM_TOLERANCE = 1e-9

# Wrappers of gymnasium.wrappers whose step() returns what the environment's own step() returns, apart from
# `truncated` and `info`. Autoreset is not one of them: its dummy step ignores the action.
NEUTRAL_WRAPPERS = frozenset(
    {
        "AddWhiteNoise",
        "HumanRendering",
        "ObstructView",
        "OrderEnforcing",
        "PassiveEnvChecker",
        "RecordEpisodeStatistics",
        "RecordVideo",
        "RenderCollection",
        "TimeLimit",
    }
)
MAX_WRAPPERS = 100


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
        Transitions into these end the episode.
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
    P = _dense_transition(transition, layout)
    n_states, n_actions, _ = P.shape
    terminal = _terminal_mask(terminal_states, n_states)
    ends = _dense_terminated(terminated, layout, P.shape) | terminal  # terminal: of the next state, the last axis
    rewards = _dense_reward(reward, layout, P.shape)

    # A row left empty says that nothing happens after the terminal state: a self-loop that ends and pays nothing.
    empty = ~P.any(axis=2)
    _check_rows(P, empty & terminal[:, None], layout, empty)
    s, a = np.nonzero(empty)
    P[s, a, s] = 1.0

    s, a, n = np.nonzero(P)
    counts = np.count_nonzero(P, axis=2)
    starts = np.cumsum(counts) - counts.ravel()
    k = np.arange(s.size) - starts[s * n_actions + a]
    fields = _padding(n_states, n_actions, int(counts.max()))
    fields["probability"][s, a, k] = P[s, a, n]
    fields["next_state"][s, a, k] = n
    fields["reward"][s, a, k] = np.where(empty[s, a], 0.0, rewards[s, a, n])
    fields["terminated"][s, a, k] = ends[s, a, n] | empty[s, a]
    fields["initial"] = _initial(initial, n_states)
    return fields


def from_gymnasium(env: Any) -> tuple[dict[str, np.ndarray], int | None]:
    """Read the transition table of a Gymnasium toy-text environment.

    Outcomes of probability zero are dropped, and outcomes that agree in next
    state, reward *and* termination are merged.

    Parameters
    ----------
    env : gymnasium.Env or str
        An environment whose ``unwrapped`` has ``P`` and
        ``initial_state_distrib``, or an id. It is neither stepped nor reset.

    Returns
    -------
    fields : dict
        As for `from_dense`.
    time_limit : int or None
        Steps after which the environment truncates.

    Raises
    ------
    ValueError, TypeError
        When there is no table, it is malformed, or it is not the dynamics of
        ``step``.
    ImportError
        When `env` is an id and Gymnasium is not installed.
    """
    if isinstance(env, str):
        made = _make(env)
        try:
            return from_gymnasium(made)
        finally:
            made.close()
    base, wrappers = _unwrap(env)
    fields = _outcome_fields(_table_rows(base.P))
    fields["initial"] = _start_distribution(base.initial_state_distrib, len(fields["probability"]))
    return fields, _time_limit(env, wrappers)


# --- dense arrays -----------------------------------------------------------------------------------------------


def _dense_transition(transition, layout):
    """Return `transition` as a fresh (S, A, S) array of probabilities."""
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
    return np.transpose(array, LAYOUTS[layout]).copy()


def _is_square(array, layout):
    if array.ndim != 3 or array.size == 0:
        return False
    state, _, successor = LAYOUTS[layout]
    return array.shape[state] == array.shape[successor]


def _check_rows(P, allowed, layout, empty):
    """Refuse rows that do not sum to one, naming the worst in the caller's own axis order."""
    sums = P.sum(axis=2)
    error = np.where(allowed, 0.0, np.abs(sums - 1.0))
    wrong = error > SUM_TOLERANCE
    if not wrong.any():
        return
    s, a = (int(i) for i in np.unravel_index(np.argmax(error), error.shape))
    row = {"SAS": f"[{s}, {a}]", "ASS": f"[{a}, {s}]", "SSA": f"[{s}, :, {a}]"}[layout]
    remedy = "complete the missing probabilities or divide by the sum yourself"
    if empty[s, a]:
        remedy = f"give the row, or put state {s} in terminal_states"
    raise ValueError(
        f"transition{row} (state {s}, action {a}) sums to {float(sums[s, a])!r}, the worst of {int(wrong.sum())} "
        f"that are not 1 (tolerance {SUM_TOLERANCE:g}); {remedy}"
    )


def _dense_reward(reward, layout, shape):
    """Return `reward` broadcast to (S, A, S)."""
    _refuse_sparse("reward", reward)
    array = arguments.real_array("reward", reward)
    n_states, n_actions, _ = shape
    if array.ndim == 3:
        return _three_axes("reward", array, layout, shape, "a number, (S,), (S, A) or ")
    if array.ndim == 0:
        return np.broadcast_to(array, shape)
    if array.shape == (n_states,):
        return np.broadcast_to(array[:, None, None], shape)
    if array.shape == (n_states, n_actions):
        return np.broadcast_to(array[:, :, None], shape)
    hint = "; transpose it" if array.shape == (n_actions, n_states) else ""
    raise ValueError(
        f"reward has shape {array.shape}; with S={n_states} and A={n_actions} it must be a number, (S,) paid for "
        f"leaving a state, (S, A), or {AXES[layout]} whose axes may have length one{hint}"
    )


def _dense_terminated(terminated, layout, shape):
    """Return `terminated` broadcast to (S, A, S); none given means none ends."""
    if terminated is None:
        return np.zeros(shape, dtype=bool)
    _refuse_sparse("terminated", terminated)
    array = arguments.real_array("terminated", terminated)
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
    states = arguments.integer_array("terminal_states", terminal_states, low=0, high=n_states, ndim=1)
    mask = np.zeros(n_states, dtype=bool)
    mask[states] = True
    return mask


def _initial(initial, n_states):
    """Return the distribution of the first state, (S,)."""
    if isinstance(initial, np.ndarray) and initial.ndim == 0:
        initial = initial[()]
    if np.isscalar(initial):
        state = arguments.integer("initial", initial, remedy=f"it must be a state in [0, {n_states - 1}]")
        if state >= n_states:
            raise ValueError(f"initial={state} is out of range; it must be a state in [0, {n_states - 1}]")
        return np.eye(1, n_states, state)[0]
    distribution = arguments.probability_array("initial", initial, shape=(n_states,))
    arguments.check_sums("initial", distribution.sum(), tolerance=SUM_TOLERANCE)
    return distribution


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


def _padding(n_states, n_actions, n_outcomes):
    """Return fields whose every outcome has probability zero and stays where it is."""
    shape = (n_states, n_actions, n_outcomes)
    return {
        "probability": np.zeros(shape),
        "next_state": np.broadcast_to(np.arange(n_states)[:, None, None], shape).copy(),
        "reward": np.zeros(shape),
        "terminated": np.zeros(shape, dtype=bool),
    }


# --- Gymnasium --------------------------------------------------------------------------------------------------


def _make(env_id):
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(
            f"making env={env_id!r} needs Gymnasium ({error}); pip install 'reinforce-np[gymnasium]'"
        ) from error
    try:
        with warnings.catch_warnings():
            # A deprecated id warns first and raises then; the reason is wanted once.
            warnings.simplefilter("ignore", DeprecationWarning)
            return gymnasium.make(env_id)
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"env={env_id!r} cannot be made: {error}") from error


def _unwrap(env):
    """Return the environment that holds the table, and the wrappers around it, outermost first."""
    name = type(env).__name__
    if hasattr(env, "num_envs"):
        raise ValueError(f"env is a vector environment ({name}); pass one of its environments, or the id")
    base = getattr(env, "unwrapped", env)
    for field in ("P", "initial_state_distrib"):
        if not hasattr(base, field):
            raise ValueError(
                f"env={type(base).__name__} has no table env.unwrapped.{field}; only environments such as FrozenLake, "
                "CliffWalking and Taxi have one: build others with FiniteMDP or from_tables"
            )
    if getattr(base, "fickle_passenger", False):
        raise ValueError(
            f"env={type(base).__name__} has fickle_passenger={base.fickle_passenger!r}, which its table P leaves out; "
            "make it with fickle_passenger=False"
        )
    return base, _neutral_wrappers(env, base)


def _neutral_wrappers(env, base):
    """Return the wrappers from `env` down to `base`, refusing those that change what an agent sees or earns."""
    wrappers = []
    while env is not base:
        if type(env).__name__ not in NEUTRAL_WRAPPERS:
            raise ValueError(
                f"env has the wrapper {type(env).__name__}, which may change observations, actions, rewards or "
                "dynamics, so the table P is not what step does; remove it or pass env.unwrapped"
            )
        wrappers.append(env)
        env = getattr(env, "env", None)
        if len(wrappers) > MAX_WRAPPERS:
            raise ValueError(f"env has more than {MAX_WRAPPERS} wrappers; pass env.unwrapped")
    return wrappers


def _time_limit(env, wrappers):
    """Return the number of steps after which the environment truncates, or None."""
    limits = [w._max_episode_steps for w in wrappers if hasattr(w, "_max_episode_steps")]
    if limits:
        return int(min(limits))  # the first to strike, whatever the spec says
    limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    return None if limit is None else arguments.integer("env.spec.max_episode_steps", limit, low=1)


def _table_rows(P):
    """Return ``P`` as nested lists ``[s][a][k]`` of four entries each."""
    table = [_entries(actions, f"P[{s}]") for s, actions in enumerate(_entries(P, "P"))]
    n_actions = len(table[0])
    for s, actions in enumerate(table):
        if len(actions) != n_actions:
            raise ValueError(
                f"P[{s}] has {len(actions)} actions, but P[0] has {n_actions}; give every state the same actions"
            )
        for a, row in enumerate(actions):
            if not isinstance(row, (list, tuple)) or not row:
                raise ValueError(f"P[{s}][{a}]={row!r} is not a list of outcomes; every action needs at least one")
            for k, outcome in enumerate(row):
                if not isinstance(outcome, (tuple, list)) or len(outcome) != 4:
                    raise ValueError(
                        f"P[{s}][{a}][{k}]={outcome!r} is not (probability, next_state, reward, terminated)"
                    )
    return table


def _entries(mapping, name):
    """Return ``[mapping[0], mapping[1], ...]`` of a list or a dict with those keys."""
    try:
        entries = [mapping[i] for i in range(len(mapping))]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name} is not a table indexed from 0 ({type(error).__name__}: {error})") from None
    if not entries:
        raise ValueError(f"{name} is empty; there must be a state and an action")
    return entries


def _outcome_fields(table):
    """Check the rows ``table[s][a]``, drop and merge outcomes, and pad them to arrays (S, A, K)."""
    n_states, n_actions = len(table), len(table[0])
    index = [(s, a, k) for s in range(n_states) for a in range(n_actions) for k in range(len(table[s][a]))]
    s, a, k = zip(*index, strict=True)
    p, n, r, t = zip(*(outcome for actions in table for row in actions for outcome in row), strict=True)
    # Checked as whole arrays in the shape of the table, so that messages carry its own indices.
    shape = (n_states, n_actions, max(k) + 1)
    p = _checked("probability in P", p, (s, a, k), shape, arguments.probability_array)
    n = _checked("next_state in P", n, (s, a, k), shape, _states)
    r = _checked("reward in P", r, (s, a, k), shape, arguments.real_array)
    t = _checked("terminated in P", t, (s, a, k), shape, arguments.boolean_array)

    merged: list[dict] = [{} for _ in range(n_states * n_actions)]
    for state, action, *outcome, chance in zip(s, a, n, r, t, p, strict=True):
        if chance > 0:
            row = merged[state * n_actions + action]
            row[tuple(outcome)] = row.get(tuple(outcome), 0.0) + chance
    sums = [sum(row.values()) for row in merged]
    arguments.check_sums("P", np.reshape(sums, (n_states, n_actions)), tolerance=SUM_TOLERANCE)

    fields = _padding(n_states, n_actions, max(map(len, merged)))
    for i, row in enumerate(merged):
        here = divmod(i, n_actions)
        for column, (outcome, chance) in enumerate(row.items()):
            fields["probability"][*here, column] = chance
            for name, value in zip(("next_state", "reward", "terminated"), outcome, strict=True):
                fields[name][*here, column] = value
    return fields


def _checked(name, values, index, shape, check):
    """Return the flat list `values` checked by `check` as entries ``[s, a, k]`` of a padded array."""
    try:
        flat = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} cannot be read: {error}; every entry must be one number") from None
    if flat.ndim != 1:
        raise ValueError(f"{name} has entries of shape {flat.shape[1:]}; every entry must be one number")
    padded = np.zeros(shape, dtype=flat.dtype)
    padded[index] = flat
    return check(name, padded, shape=shape)[index].tolist()


def _states(name, value, *, shape):
    return arguments.integer_array(name, value, low=0, high=shape[0], shape=shape)


def _start_distribution(distribution, n_states):
    name = "initial_state_distrib"
    if isinstance(distribution, np.ndarray) and distribution.dtype.kind == "f" and np.isnan(distribution).any():
        raise ValueError(f"{name}=nan in env.unwrapped: the map has no start; give it one (an S)")
    distribution = arguments.probability_array(name, distribution, shape=(n_states,))
    arguments.check_sums(name, distribution.sum(), tolerance=SUM_TOLERANCE)
    return distribution
