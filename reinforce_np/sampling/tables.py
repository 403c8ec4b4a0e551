"""What a walk through the model looks up: prepared once per policy, and once per model where θ does not enter."""

import weakref
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments, graph
from reinforce_np.sampling.alias import AliasTables, alias_tables, log_columns

JOINT_CELLS = 64  # up to so many pairs (action, outcome) of a state are drawn at once


@dataclass(frozen=True, eq=False)
class Stage:
    """A draw from the row that begins at `base`, and where in the next stage's tables each slot leads."""

    alias: AliasTables
    leads_to: np.ndarray  # (slots,) int: where the next row begins

    def step(self, base, bits, scratch, out):
        """Write the slots drawn to `out`, and overwrite `base` with where they lead."""
        self.alias.draw(base, bits, scratch, out)
        self.leads_to.take(out, out=base, mode="clip")


@dataclass(frozen=True, eq=False)
class Walk:
    """All that a block needs to be drawn: the only thing sent to workers."""

    start: Stage
    stages: tuple[Stage, ...]  # of one step: (action and outcome,) or (action, outcome)
    finished: int  # rows of the first stage that begin here or later are those of finished trajectories
    horizon: int | None


@dataclass(frozen=True, eq=False)
class Meaning:
    """What the slots of the last stage stand for; those of finished trajectories have the value of padding."""

    pair_shift: int  # ``slot >> pair_shift`` is where to look up the pair
    pair: np.ndarray  # int32: s·A + a, and S·A for finished trajectories
    log_probability: np.ndarray  # (S·A + 1,) of the behaviour
    reward: np.ndarray  # (slots,)
    first_finished: int  # slots from here on are those of finished trajectories
    n_actions: int
    n_states: int  # rows from here on are those of finished trajectories
    paid: int | None  # and from here on of those whose last reward is not zero; None where others may be paid too
    row_shift: int  # ``base >> row_shift`` is the row, where to look up
    state_of_row: np.ndarray  # of a finished row, the final state


def sampling_tables(mdp, policy, theta, behaviour=None):
    """Return the `Walk` and the `Meaning` of its slots, refusing episodes that never end.

    A state has one row: of pairs (action, outcome) where they are few, which
    makes one draw per step, and otherwise of actions, after which the outcome
    is drawn from the row of (state, action). A terminated trajectory goes to a
    row that leads to itself, one for each final state.
    """
    arguments.check_same_model(mdp, policy)
    theta = policy.real_theta(theta)
    if behaviour is None:
        mu, log_mu = policy.probabilities(theta), policy.log_probabilities(theta)
    else:
        log_mu = policy.log_probabilities_of("behaviour", behaviour)
        mu = policy.probabilities(behaviour) if np.ndim(behaviour) == 1 else np.asarray(behaviour, dtype=float)
    if mdp.horizon is None:
        graph.require_end(mdp, graph.possible_outcomes(mdp, mu), "needs episodes that end")
    S, A, K = mdp.probability.shape
    model = of_model(mdp)
    stages: tuple[Stage, ...]
    E = len(model.final_states)
    if model.outcome is None:
        joint = (mu[:, :, None] * mdp.probability).reshape(S, A * K)
        first, cell = stage(joint, model.after.reshape(S, A * K), S + np.arange(E))
        stages, pair_shift, finished = (first,), 0, S << 1 + first.alias.log_columns
        pair, reward = model.pair.take(cell), model.reward.take(cell)
    else:
        columns = model.outcome.alias.log_columns
        first, _ = stage(mu, np.arange(S * A).reshape(S, A), S * A + np.arange(E), columns)
        stages, pair_shift, finished = (first, model.outcome), 1 + columns, S * A << 1 + columns
        pair, reward = model.pair, model.reward
    meaning = Meaning(
        pair_shift=pair_shift,
        pair=pair,
        log_probability=np.append(log_mu, 0.0),
        reward=reward,
        first_finished=finished,
        n_actions=A,
        n_states=S,
        paid=model.paid,
        row_shift=first.alias.log_columns,
        state_of_row=np.concatenate([np.arange(S), model.final_states]),
    )
    return Walk(model.start, stages, S << first.alias.log_columns, mdp.horizon), meaning


@dataclass(frozen=True, eq=False)
class ModelTables:
    """The part of the tables that no policy changes."""

    final_states: np.ndarray  # (E,) where termination can lead: without a reward first, then with one
    paid: int | None  # as in `Meaning`
    after: np.ndarray  # (S, A, K) int: the row of the first stage after each outcome
    start: Stage
    outcome: Stage | None  # None where (action, outcome) are drawn at once
    pair: np.ndarray  # as in `Meaning`, of each entry of the first stage then, and otherwise of each row of the second
    reward: np.ndarray  # as in `Meaning`, of each entry of the first stage then, and otherwise of each slot


_prepared: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # models cannot change, so theirs never do


def of_model(mdp):
    """Return the `ModelTables`, remembered as long as the model lives."""
    found = _prepared.get(mdp)
    if found is None:
        found = _prepared[mdp] = _of_model(mdp)
    return found


def _of_model(mdp):
    S, A, K = mdp.probability.shape
    end = mdp.next_state + S * (mdp.reward != 0)
    ends = np.unique(end[mdp.terminated])
    after = np.where(mdp.terminated, S + np.searchsorted(ends, end), mdp.next_state)
    paid = None if np.any(mdp.reward[~mdp.terminated]) else S + int(np.searchsorted(ends, S))
    joint = K == 1 or A * K <= JOINT_CELLS
    columns = log_columns(A * K if joint else A)
    start, _ = stage(mdp.initial[None], np.arange(S)[None], np.arange(0), columns)
    pair = np.arange(S * A, dtype=np.int32)
    if joint:
        n = (S + len(ends)) * A * K
        pair, reward = padded(pair.repeat(K), n, S * A), padded(mdp.reward.ravel(), n)
        return ModelTables(ends % S, paid, after, start, None, pair, reward)
    outcome, cell = stage(mdp.probability.reshape(S * A, K), after.reshape(S * A, K), S + np.arange(len(ends)), columns)
    n = S * A + len(ends)
    pair, reward = padded(pair, n, S * A), padded(mdp.reward.ravel(), n * K).take(cell)
    return ModelTables(ends % S, paid, after, start, outcome, pair, reward)


def stage(probability, next_row, end_rows, next_log_columns=None):
    """Return the stage that draws from `probability` (R, C) and goes to rows `next_row` (R, C) of the next.

    Below the R rows it has one for each way to be finished, which leads to its
    entry of `end_rows` (E,). The next stage has 2**`next_log_columns` columns,
    by default those of this one. Also returned is what each slot stands for, a
    flat index into (R + E, C).
    """
    C, E = probability.shape[1], len(end_rows)
    alias = alias_tables(np.concatenate([probability, np.repeat(np.eye(1, C), E, axis=0)]))
    next_row = np.concatenate([next_row, np.repeat(end_rows[:, None], C, axis=1)])
    shift = alias.log_columns if next_log_columns is None else next_log_columns
    cell = (alias.entry.reshape(alias.n_rows, -1) + C * np.arange(alias.n_rows)[:, None]).ravel()
    return Stage(alias, (next_row << shift).astype(np.int32).take(cell)), cell


def padded(values, n, value=0):
    """Return `values` with rows of `value` appended to length n."""
    return np.concatenate([values, np.full((n - len(values), *values.shape[1:]), value, dtype=values.dtype)])
