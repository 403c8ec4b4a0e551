"""What a walk through the model looks up: prepared once per policy, and once per model where θ does not enter."""

import weakref
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments, graph
from reinforce_np.sampling.alias import AliasTables, alias_tables, log_columns, pass_over_words

JOINT_CELLS = 64  # pairs (action, outcome) of a state up to which both are drawn at once
SMALL = 2**13  # columns up to which they always are, and
WORTH_ONE = 16  # steps to be drawn for each column of larger tables, so that those for both pay
MOST_COLUMNS = 2**16  # of tables for several steps at once: they fit into a cache
MOST_AT_ONCE = 16  # steps: each has its part of the tables, also where there is but one path
MOST_OF_ONE = 2**18  # of tables for one step at once: fewer than tables of outcomes alone may have
WORTH = 64  # steps to be drawn for each column of larger tables, so that they pay
EPISODE = 64  # steps of an episode without a horizon, for want of better


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
class Begin:
    """In place of a stage with a single row that has a single entry: where all begin. Its random words are passed over."""

    base: int

    def step(self, base, bits, scratch, out):
        """Overwrite `base`; nothing is written to `out`."""
        pass_over_words(bits, len(base))
        base[:] = self.base


@dataclass(frozen=True, eq=False)
class Walk:
    """All that a block needs to be drawn: the only thing sent to workers."""

    start: Stage | Begin
    stages: tuple[Stage, ...]  # of one draw: (a path of actions and outcomes,) or (action, outcome)
    last: tuple[Stage, ...]  # the same for a draw that the horizon cuts short
    at_once: int  # steps of a draw
    finished: int  # rows of the first stage that begin here or later are those of finished trajectories
    horizon: int | None

    def left_over(self, base):
        """Return how many steps of their last draw trajectories did not take, from where the rows begin they ended in."""
        shift = self.stages[0].alias.log_columns
        return left_over(base >> shift, self.finished >> shift, self.at_once)


@dataclass(frozen=True, eq=False)
class Meaning:
    """What the slots of the last stage stand for; those of finished trajectories have the value of padding.

    A slot stands for a path, of as many steps as are drawn at once, and the
    pairs (s, a) of a path are looked up at its place.
    """

    path: np.ndarray | None  # (slots,) int; None where each slot is a path of its own
    pair_shift: int  # ``path >> pair_shift`` is the place
    pair: np.ndarray  # (steps, places) int32: s·A + a, and S·A for finished trajectories
    log_probability: np.ndarray  # (S·A + 1,) of the behaviour
    reward: np.ndarray  # (steps, paths)
    first_finished: int  # slots from here on are those of finished trajectories
    n_actions: int
    n_states: int  # rows from here on are those of finished trajectories
    paid: int | None  # and from here on of those whose last reward is not zero; None where others may be paid too
    row_shift: int  # ``base >> row_shift`` is the row, where to look up
    state_of_row: np.ndarray  # of a finished row, the final state

    @property
    def at_once(self):
        """Steps of a draw."""
        return len(self.pair)

    def paths(self, slots):
        """Return the paths that slots stand for, and their places."""
        paths = slots if self.path is None else self.path.take(slots)
        return paths, paths >> self.pair_shift if self.pair_shift else paths

    @property
    def n_pairs(self):
        """S·A."""
        return self.n_states * self.n_actions

    def of_pairs(self, weights):
        """Return weights (steps, places) added up per pair, and for finished trajectories, (S·A + 1,)."""
        return np.bincount(self.pair.ravel(), weights=weights.ravel(), minlength=self.n_pairs + 1)

    def left_over(self, rows):
        """Return how many steps of their last draw trajectories that ended in `rows` did not take."""
        return left_over(rows, self.n_states, self.at_once)


def left_over(rows, n_states, at_once):
    """Return how many steps of a draw were left over: below the rows of states, there is a row for each such number."""
    return np.maximum(rows - n_states, 0) % at_once


def sampling_tables(mdp, policy, theta, behaviour=None, n=1):
    """Return the `Walk` and the `Meaning` of its slots, refusing episodes that never end.

    A state has one row: of pairs (action, outcome), which makes one draw per
    step; or of actions, after which the outcome is drawn from the row of
    (state, action); or of paths of two steps or more, which one draw takes.
    `steps_at_once` chooses, for `n` trajectories. A terminated trajectory goes
    to a row that leads to itself, one for each final state and number of steps
    left over in the draw.
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
    at_once = steps_at_once(mdp, n)
    model = of_model(mdp, at_once)
    stages: tuple[Stage, ...]
    last: tuple[Stage, ...] = ()
    path, pair, reward = None, model.pair, model.reward
    if model.outcome is None:
        p = with_waiting((mu[:, :, None] * mdp.probability).reshape(S, A * K), len(model.after_one))
        first, path = stage(joint(p, model.after_one, at_once)[:S], model.after)
        stages, pair_shift, finished = (first,), 0, S << 1 + first.alias.log_columns
        if model.after_last is not None:
            last = (Stage(first.alias, bases(model.after_last, first.alias.log_columns).take(path)),)
        if at_once == 1:
            path, pair, reward = None, pair.take(path, axis=1), reward.take(path, axis=1)
    else:
        columns = model.outcome.alias.log_columns
        first, _ = stage(mu, model.after, columns)
        stages, pair_shift, finished = (first, model.outcome), 1 + columns, S * A << 1 + columns
    meaning = Meaning(
        path=path,
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
    return Walk(model.start, stages, last, max(at_once, 1), S << first.alias.log_columns, mdp.horizon), meaning


def steps_at_once(mdp, n):
    """Return how many steps to draw at once, a power of two, or none: an action, and then its outcome.

    More where n trajectories are worth larger tables. It depends on nothing but
    the sizes of the model and n, and so do the trajectories that a seed gives.
    """
    S, A, K = mdp.probability.shape
    steps, E = EPISODE if mdp.horizon is None else mdp.horizon, len(endings(mdp)[1])

    def columns(k):
        return (S + k * E) << log_columns((A * K) ** k)

    at_once = int(K == 1 or (A * K <= JOINT_CELLS and (columns(1) <= SMALL or columns(1) * WORTH_ONE <= n * steps)))
    while True:
        more = 2 * at_once or 1
        limit = MOST_COLUMNS if more > 1 else MOST_OF_ONE
        if more > min(steps, MOST_AT_ONCE) or columns(more) > limit or columns(more) * WORTH > n * steps:
            return at_once
        at_once = more


def joint(probability, after, at_once):
    """Return the probabilities of paths of several steps, (R, Cⁿ), from those of one, (R, C), and the rows (R, C) after it."""
    paths = probability
    for _ in range(at_once - 1):
        paths = (probability[:, :, None] * paths[after]).reshape(len(probability), -1)
    return paths


@dataclass(frozen=True, eq=False)
class ModelTables:
    """The part of the tables that no policy changes. Below the rows of states are those of finished trajectories."""

    final_states: np.ndarray  # of the rows of finished trajectories: those without a reward at the end, then the others
    paid: int | None  # as in `Meaning`
    start: Stage | Begin
    after: np.ndarray  # (R, paths) int: the row of the first stage after each path, or of the second after each action
    after_one: np.ndarray | None  # (S + E, A·K) int: the same after one step; a row for each way to be finished
    after_last: np.ndarray | None  # the same as `after` for a draw that the horizon cuts short
    outcome: Stage | None  # None where (action, outcome) are drawn at once
    pair: np.ndarray  # (steps, R·paths) or (1, S·A + E), as in `Meaning`
    reward: np.ndarray  # (steps, R·paths) or (1, slots), as in `Meaning`


_prepared: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # models cannot change, so theirs never do


def of_model(mdp, at_once):
    """Return the `ModelTables` for so many steps at once, remembered as long as the model lives."""
    return remembered(mdp, at_once, _by_paths if at_once else _by_stages)


def endings(mdp):
    """Return the row after each step (S, A, K), beyond those of states where it ends an episode, and what those stand for.

    That is final states: first those reached without a reward at the end, then
    the others. Last is how many come first, or None where other steps pay, too.
    """
    return remembered(mdp, "endings", _endings)


def remembered(mdp, name, make):
    """Return ``make(mdp, name)``, made once for each model and name."""
    found = _prepared.setdefault(mdp, {})
    if name not in found:
        found[name] = make(mdp, name)
    return found[name]


def _endings(mdp, _):
    S = mdp.n_states
    end = mdp.next_state + S * (mdp.reward != 0)
    ends = np.unique(end[mdp.terminated])
    after = np.where(mdp.terminated, S + np.searchsorted(ends, end), mdp.next_state)
    return after, ends % S, None if np.any(mdp.reward[~mdp.terminated]) else int(np.searchsorted(ends, S))


def _by_paths(mdp, at_once):
    """Return the tables where a draw is a path of so many steps."""
    after_step, final_states, n_unpaid = endings(mdp)
    S, K, C, E, T = mdp.n_states, mdp.n_outcomes, mdp.n_actions * mdp.n_outcomes, len(final_states), mdp.horizon
    after_one = with_ends(after_step.reshape(S, C), S, E)
    pair_of, reward_of = np.full((S + E, C), S * mdp.n_actions, dtype=np.int32), np.zeros((S + E, C))
    pair_of[:S], reward_of[:S] = np.arange(S * mdp.n_actions).repeat(K).reshape(S, C), mdp.reward.reshape(S, C)
    n_rows, n_paths, cut = S + E * at_once, C**at_once, 0 if T is None else T % at_once
    pair = np.full((at_once, n_rows, n_paths), S * mdp.n_actions, dtype=np.int32)
    reward = np.zeros((at_once, n_rows, n_paths))
    row, taken, after = np.arange(S)[:, None], np.zeros((S, n_paths), dtype=np.int32), {}
    for i in range(at_once):
        cell = row * C + np.arange(n_paths) // C ** (at_once - 1 - i) % C
        pair[i, :S], reward[i, :S] = pair_of.take(cell), reward_of.take(cell)
        taken += row < S
        row = after_one.take(cell)
        if i + 1 in (cut, at_once):  # the row of the first stage that so many steps of the path lead to
            leads_to = np.where(row < S, row, S + (row - S) * at_once + i + 1 - taken)
            after[i + 1] = with_ends(leads_to, S, E * at_once)
    return ModelTables(
        final_states=final_states.repeat(at_once),
        paid=None if n_unpaid is None else S + at_once * n_unpaid,
        start=beginning(mdp.initial, log_columns(n_paths)),
        after=after[at_once],
        after_one=after_one,
        after_last=after.get(cut),
        outcome=None,
        pair=pair.reshape(at_once, -1),
        reward=reward.reshape(at_once, -1),
    )


def _by_stages(mdp, _):
    """Return the tables where an action is drawn, and then its outcome."""
    (S, A, K), (after, final_states, n_unpaid) = mdp.probability.shape, endings(mdp)
    E = len(final_states)
    after = with_ends(after.reshape(S * A, K), S, E)
    outcome, cell = stage(mdp.probability.reshape(S * A, K), after, log_columns(A))
    pair = np.append(np.arange(S * A), np.full(E, S * A)).astype(np.int32)
    reward = np.append(mdp.reward.ravel(), np.zeros(E * K)).take(cell)
    return ModelTables(
        final_states=final_states,
        paid=None if n_unpaid is None else S + n_unpaid,
        start=beginning(mdp.initial, log_columns(A)),
        after=with_ends(np.arange(S * A).reshape(S, A), S * A, E),
        after_one=None,
        after_last=None,
        outcome=outcome,
        pair=pair[None],
        reward=reward[None],
    )


def beginning(initial, next_log_columns):
    """Return the stage that draws the first state from `initial` (S,)."""
    possible = np.flatnonzero(initial)
    if len(possible) == 1:
        return Begin(int(possible[0]) << next_log_columns)
    return stage(initial[None], np.arange(len(initial))[None], next_log_columns)[0]


def with_ends(after, first, E):
    """Return `after` (R, C) with E rows appended, whose entries all lead to row `first`, the next one, and so on."""
    return np.concatenate([after, first + np.arange(E)[:, None].repeat(after.shape[1], axis=1)])


def with_waiting(probability, n_rows):
    """Return `probability` (R, C) with rows appended that always draw their first entry, `n_rows` altogether."""
    return np.concatenate([probability, np.eye(1, probability.shape[1]).repeat(n_rows - len(probability), axis=0)])


def stage(probability, after, next_log_columns=None):
    """Return the stage that draws from `probability` (R, C) and goes to rows `after` (R + E, C) of the next.

    The last E rows are those of finished trajectories. The next stage has
    2**`next_log_columns` columns, by default those of this one. Also returned is
    what each slot stands for, a flat index into (R + E, C).
    """
    alias = alias_tables(with_waiting(probability, len(after)))
    path = (alias.entry.reshape(alias.n_rows, -1) + after.shape[1] * np.arange(alias.n_rows)[:, None]).ravel()
    return Stage(
        alias, bases(after, alias.log_columns if next_log_columns is None else next_log_columns).take(path)
    ), path


def bases(rows, shift):
    """Return where rows of 2**`shift` columns begin."""
    return (rows << shift).astype(np.int32)
