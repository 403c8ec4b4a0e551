"""Tables ``P[s][a]`` of Gymnasium's toy-text environments: FrozenLake, CliffWalking, Taxi and their like."""

import functools
import warnings
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.tables import outcomes

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
MAX_WRAPPERS = 100  # so that a wrapper around itself is an error and no endless loop


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
    base = _base(env)
    wrappers = _neutral_wrappers(env, base)
    fields = _outcome_fields(_table_rows(base.P))
    fields["initial"] = _initial(base.initial_state_distrib, len(fields["probability"]))
    return fields, _time_limit(env, wrappers)


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


def _base(env):
    """Return the environment inside all wrappers, which holds the table."""
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
    return base


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
    """Drop and merge the outcomes of the rows ``table[s][a]``, and pad them to arrays (S, A, K)."""
    p, n, r, t = _checked_columns(table)
    used = np.nonzero(p)
    s, a, _ = used
    merged: dict[tuple, float] = {}
    columns = (s, a, n[used], r[used], t[used], p[used])
    for *outcome, chance in zip(*(column.tolist() for column in columns), strict=True):
        merged[tuple(outcome)] = merged.get(tuple(outcome), 0.0) + chance
    s, a, n, r, t = map(np.array, zip(*merged, strict=True))
    return outcomes.padded_fields(
        len(table),
        len(table[0]),
        s=s,
        a=a,
        probability=list(merged.values()),
        next_state=n,
        reward=r,
        terminated=t,
    )


def _checked_columns(table):
    """Return the four entries of all outcomes as arrays of the shape of the table, zero where a row is shorter."""
    listed = [
        (s, a, k, *outcome)
        for s, actions in enumerate(table)
        for a, row in enumerate(actions)
        for k, outcome in enumerate(row)
    ]
    s, a, k, p, n, r, t = zip(*listed, strict=True)
    # Whole arrays rather than one entry at a time, so that messages carry the table's own indices.
    index, shape = (s, a, k), (len(table), len(table[0]), max(k) + 1)
    states = functools.partial(arguments.integer_array, low=0, high=len(table))
    columns = (
        _checked("probability in P", p, index, shape, arguments.probability_array),
        _checked("next_state in P", n, index, shape, states),
        _checked("reward in P", r, index, shape, arguments.real_array),
        _checked("terminated in P", t, index, shape, arguments.boolean_array),
    )
    arguments.check_sums("P", columns[0].sum(axis=2))
    return columns


def _checked(name, values, index, shape, check):
    """Return `values` as the entries ``[index]`` of an array of `shape`, zero elsewhere, checked by `check`."""
    try:
        flat = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} cannot be read: {error}; every entry must be one number") from None
    if flat.ndim != 1:
        raise ValueError(f"{name} has entries of shape {flat.shape[1:]}; every entry must be one number")
    array = np.zeros(shape, dtype=flat.dtype)
    array[index] = flat
    return check(name, array, shape=shape)


def _initial(distribution, n_states):
    name = "initial_state_distrib"
    if isinstance(distribution, np.ndarray) and distribution.dtype.kind == "f" and np.isnan(distribution).any():
        raise ValueError(f"{name}=nan in env.unwrapped: the map has no start; give it one (an S)")
    return outcomes.start_distribution(name, distribution, n_states)
