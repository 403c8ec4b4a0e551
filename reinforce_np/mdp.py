"""The model: a finite Markov decision process, as data."""

import dataclasses
import os
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np

from reinforce_np import arguments, files, tables
from reinforce_np.neighbours import Neighbours

LARGEST_REWARD = 1e300  # so that values are not infinite after a step


def _rewards(reward, shape):
    reward = arguments.real_array("reward", reward, shape=shape)
    wrong = np.abs(reward) > LARGEST_REWARD
    if wrong.any():
        index = arguments.first_index(wrong)
        raise ValueError(
            f"{arguments.at('reward', index)}={float(reward[index])} is so large that returns overflow; divide all rewards "
            f"(at most {LARGEST_REWARD:g})"
        )
    return reward


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """A finite Markov decision process in outcome form.

    Taking action ``a`` in state ``s`` leads to one of K *outcomes*: outcome
    ``k`` happens with ``probability[s, a, k]``, pays ``reward[s, a, k]``,
    moves to ``next_state[s, a, k]``, and ends the episode there when
    ``terminated[s, a, k]``. Termination belongs to the outcome, never to the
    state. An episode that is still alive after ``horizon`` steps is
    *truncated*: it simply stops counting.

    The record is data, not a simulator: it has no ``step``. Its arrays are
    copies and read-only.

    Parameters
    ----------
    probability : array (S, A, K)
        Outcome probabilities; each ``probability[s, a]`` sums to one.
    next_state : int array (S, A, K)
        State after the outcome, also for terminated outcomes.
    reward : array (S, A, K)
        Reward paid for the outcome.
    terminated : bool array (S, A, K)
        Whether the outcome ends the episode.
    initial : array (S,)
        Distribution of the first state.
    gamma : float
        Discount per step, in [0, 1].
    horizon : int or None
        Number of steps after which an episode is truncated; None when
        episodes end only by termination or fade by discounting.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, the offending index and value, and the remedy.

    Examples
    --------
    One state, two actions: the first pays 1 and stays, the second ends.

    >>> mdp = FiniteMDP(
    ...     probability=[[[1.0], [1.0]]], next_state=[[[0], [0]]],
    ...     reward=[[[1.0], [0.0]]], terminated=[[[False], [True]]],
    ...     initial=[1.0], gamma=0.5, horizon=3)
    >>> mdp
    FiniteMDP(n_states=1, n_actions=2, n_outcomes=1, gamma=0.5, horizon=3)
    """

    probability: np.ndarray
    next_state: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    _: KW_ONLY
    initial: np.ndarray
    gamma: float
    horizon: int | None

    def __post_init__(self):
        probability = arguments.probability_array("probability", self.probability, shape=(None, None, None))
        if probability.size == 0:
            raise ValueError(
                f"probability has shape {probability.shape}; there must be a state, an action and an outcome"
            )
        shape = probability.shape
        arguments.check_sums("probability", probability.sum(axis=2))
        initial = arguments.probability_array("initial", self.initial, shape=shape[:1])
        arguments.check_sums("initial", initial.sum())
        checked = {
            "probability": probability,
            "next_state": arguments.integer_array("next_state", self.next_state, low=0, high=shape[0], shape=shape),
            "reward": _rewards(self.reward, shape),
            "terminated": arguments.boolean_array("terminated", self.terminated, shape=shape),
            "initial": initial,
            "gamma": arguments.number("gamma", self.gamma, low=0.0, high=1.0, rule="a discount in [0, 1]"),
            "horizon": self.horizon
            if self.horizon is None
            else arguments.integer("horizon", self.horizon, remedy="pass a number of steps >= 0, or None"),
        }
        for name, value in checked.items():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __getstate__(self):
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # and nothing derived

    def __setstate__(self, state):
        for name, value in state.items():  # arrays come back writable from a pickle
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __repr__(self):
        return (
            f"FiniteMDP(n_states={self.n_states}, n_actions={self.n_actions}, n_outcomes={self.n_outcomes}, "
            f"gamma={self.gamma:g}, horizon={self.horizon})"
        )

    @property
    def n_states(self):
        """Number of states S."""
        return self.probability.shape[0]

    @property
    def n_actions(self):
        """Number of actions A."""
        return self.probability.shape[1]

    @property
    def n_outcomes(self):
        """Largest number of outcomes K of a state-action pair."""
        return self.probability.shape[2]

    @cached_property
    def expected_reward(self):
        """r(s, a) = Σₖ p·r, shape (S, A)."""
        expected = np.einsum("sak,sak->sa", self.probability, self.reward)
        expected.setflags(write=False)
        return expected

    @cached_property
    def continuation(self):
        """Probability of each outcome *and* of going on after it, shape (S, A, K)."""
        continuation = np.where(self.terminated, 0.0, self.probability)
        continuation.setflags(write=False)
        return continuation

    @property
    def magnitudes(self):
        """The model that pays |r| instead, sharing everything else: its values are what rounding is relative to."""
        other = object.__new__(type(self))
        reward = np.abs(self.reward)
        reward.setflags(write=False)
        vars(other).update(
            {name: value for name, value in dict(vars(self)).items() if name != "expected_reward"}, reward=reward
        )
        return other

    @cached_property
    def neighbours(self):
        """Distinct next states of each state, found once per model: a `Neighbours`.

        Examples
        --------
        >>> mdp = FiniteMDP.from_tables([[[0.5, 0.5], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]], 0.0, layout="SAS",
        ...                             initial=0, gamma=0.9, horizon=4)
        >>> mdp.neighbours.into.T.tolist(), mdp.neighbours.pair.tolist()
        ([[0, 1], [1, 1]], [[[0, 2], [2, 0]], [[1, 1], [1, 1]]])
        """
        return Neighbours.of(self.next_state, self.continuation > 0)

    def replace(self, **changes):
        """Return a copy with some fields changed, validated anew.

        Examples
        --------
        >>> from reinforce_np import examples
        >>> examples.short_corridor().replace(horizon=7).horizon
        7
        """
        other = dataclasses.replace(self, **changes)
        if changes.keys().isdisjoint(("probability", "next_state", "terminated")):  # what these are found from
            vars(other).update({x: vars(self)[x] for x in ("continuation", "neighbours") if x in vars(self)})
        return other

    @classmethod
    def from_tables(cls, transition, reward, *, layout, initial, gamma, horizon, terminal_states=(), terminated=None):
        """Build an MDP from a dense transition array and rewards.

        Parameters
        ----------
        transition : array
            Probabilities of the next state, in the axis order of `layout`.
        reward : float or array
            One number; (S,) paid for leaving a state; (S, A); or a
            three-axis array in the order of `layout` (axes of length one are
            repeated, so a reward for *entering* a state has shape
            (1, 1, S) in layout "SAS").
        layout : {"SAS", "ASS", "SSA"}
            Axis order of the three-axis arrays: (state, action, next state),
            (action, state, next state) as in pymdptoolbox, or (state, next
            state, action). It must be said: when A equals S the orders cannot
            be told apart.
        initial : int or array (S,)
            The first state, or its distribution.
        gamma, horizon
            As in `FiniteMDP`.
        terminal_states : sequence of int
            Every transition *into* one of these ends the episode.
        terminated : bool array, optional
            Which transitions end the episode, in the order of `layout`
            (axes of length one are repeated); joined with `terminal_states`.

        Returns
        -------
        FiniteMDP
            With one outcome per next state of positive probability.

        Examples
        --------
        >>> right_or_stay = [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]
        >>> FiniteMDP.from_tables(right_or_stay, [0.0, 1.0], layout="SAS", initial=0,
        ...                       gamma=0.9, horizon=4, terminal_states=[1])
        FiniteMDP(n_states=2, n_actions=2, n_outcomes=1, gamma=0.9, horizon=4)
        """
        fields = tables.from_dense(transition, reward, layout, initial, terminal_states, terminated)
        return cls(**fields, gamma=gamma, horizon=horizon)

    @classmethod
    def from_gymnasium(cls, env, *, gamma, horizon):
        """Build an MDP from the transition table of a Gymnasium toy-text environment.

        Parameters
        ----------
        env : gymnasium.Env or str
            An environment with a table ``env.unwrapped.P``, or an id such as
            ``"FrozenLake-v1"`` (this needs the ``gymnasium`` extra).
        gamma : float
            Discount; Gymnasium's environments do not name one.
        horizon : int, None or "time limit"
            Steps before truncation; "time limit" takes the environment's own
            ``spec.max_episode_steps``.

        Raises
        ------
        ValueError
            When there is no table, or when the table is not the dynamics of
            ``step`` (Taxi with a fickle passenger; a wrapper that changes
            observations, actions or rewards).

        Examples
        --------
        >>> import pytest; gymnasium = pytest.importorskip("gymnasium")
        >>> FiniteMDP.from_gymnasium("FrozenLake-v1", gamma=0.99, horizon="time limit")
        FiniteMDP(n_states=16, n_actions=4, n_outcomes=3, gamma=0.99, horizon=100)
        """
        fields, time_limit = tables.from_gymnasium(env)
        if isinstance(horizon, str):
            if horizon != "time limit":
                raise ValueError(f'horizon={horizon!r} is unknown; pass a number of steps, None or "time limit"')
            if time_limit is None:
                raise ValueError('horizon="time limit", but the environment has none; pass a number of steps or None')
            horizon = time_limit
        return cls(**fields, gamma=gamma, horizon=horizon)

    def save(self, path):
        """Write the model to `path`, a ``.npz`` (compact) or ``.json`` (readable) file.

        The file appears whole or not at all.

        Parameters
        ----------
        path : str or os.PathLike
            The suffix chooses the format.
        """
        files.write(os.fspath(path), {f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    @classmethod
    def load(cls, path):
        """Read a model that `save` wrote.

        Parameters
        ----------
        path : str or os.PathLike
            A ``.npz`` or ``.json`` file.

        Raises
        ------
        FileFormatError
            When the file is damaged, hostile, or not a model.
        OSError
            When it cannot be read at all.
        """
        path = os.fspath(path)
        fields = files.read(path)
        try:
            return cls(**fields)
        except (ValueError, TypeError) as error:
            raise arguments.FileFormatError(f"{path}: {error}") from None
