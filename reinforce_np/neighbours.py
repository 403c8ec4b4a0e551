"""Which state can follow which, whatever is done: outcomes merged by next state, and tables that gather by it."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np


class Adjacent(NamedTuple):
    """The states beside each state: those it can lead to and those it is entered from, whatever is done.

    Parameters
    ----------
    beside : int array (L, S)
        Distinct states beside each state, L at most; columns are filled up with the state itself.
    between : int array (L, S, 2)
        The entries of the flattened `Neighbours.into` that lead from there to here, and from here to there;
        ``into.size`` where none does.
    """

    beside: np.ndarray
    between: np.ndarray


class Twice(NamedTuple):
    """The same of two steps, and how to come back to one.

    With P(j,s) what leads from s to its j-th successor, flattened and followed by a zero,

        P²  adds up  P.take(weights)[:J] · P[:-1].reshape(J, S)  by `cells`[:J],
        (E Pᵀ + Pᵀ E)  where s leads to j  =  Σᵢ E.take(cells)[i,j,s] · P.take(weights)[i,j,s],

    for E given where two steps lead.

    Parameters
    ----------
    neighbours : Neighbours
        Those of two steps.
    cells : int array (J + I, J, S)
        Entries of the flattened E, for each entry of `Neighbours.into` of one step: J for E Pᵀ, and I for Pᵀ E.
    weights : int array (J + I, J, S)
        The entries of the flattened P that they are multiplied with: zero where there is none.
    """

    neighbours: "Neighbours"
    cells: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Where each state can lead and from where it is entered, whatever is done.

    Parameters
    ----------
    into : int array (J, S)
        The distinct next states of each state, J at most; columns are filled up with the state itself.
    pair : int array (S, ...)
        Which entry of the flattened `into` each outcome leads to, for every outcome after which the episode
        can go on; any entry of the same state for the others.
    entered_by, entered_from : int array (I, S)
        The entries of the flattened `into` that name this state, and the states they start from; columns are
        filled up with ``into.size`` and 0. A state entered from many others makes I large: above ``2·J + 8``
        the arrays have no rows.
    """

    into: np.ndarray
    pair: np.ndarray
    entered_by: np.ndarray
    entered_from: np.ndarray

    def __post_init__(self):
        _read_only(vars(self).values())

    @classmethod
    def of(cls, next_state, goes_on):
        """Return those of a table of next states (S, ...), of the outcomes after which an episode can go on.

        Examples
        --------
        >>> found = Neighbours.of(np.array([[0, 1], [1, 1]]), np.array([[True, True], [True, False]]))
        >>> found.into.T.tolist(), found.pair.tolist()
        ([[0, 1], [1, 1]], [[0, 2], [1, 1]])
        >>> found.entered_by.T.tolist(), found.entered_from.T.tolist()
        ([[0, 4], [1, 2]], [[0, 0], [1, 0]])
        """
        S, counted = len(next_state), goes_on.reshape(len(next_state), -1)
        into, pair = _distinct(next_state.reshape(S, -1), counted)
        used = np.zeros(into.size, dtype=bool)
        used[pair[counted]] = True
        used = np.flatnonzero(used)
        used = used[np.argsort(into.ravel()[used], kind="stable")]
        target = into.ravel()[used]
        rank = np.arange(len(used)) - np.searchsorted(target, target)
        n_entries = int(rank.max(initial=0)) + 1
        entered_by = np.full((n_entries if n_entries <= 2 * len(into) + 8 else 0, S), into.size)
        if len(entered_by):
            entered_by[rank, target] = used
        return cls(into, pair.reshape(next_state.shape), entered_by, entered_by % S)

    @cached_property
    def cells(self):
        """Entry s·S + s' of a flattened (S, S) matrix for each entry of `into`, shape (J, S)."""
        S = self.into.shape[1]
        return _read_only([self.into + S * np.arange(S)])[0]

    @cached_property
    def leads(self):
        """Which entries of `into` are next states, and not there to fill up, where `entered_by` says so, (J, S)."""
        leads = np.zeros(self.into.size, dtype=bool)
        leads[self.entered_by[self.entered_by < self.into.size]] = True
        return _read_only([leads.reshape(self.into.shape)])[0]

    @cached_property
    def adjacent(self):
        """States beside each state, where `entered_by` says from where each is entered: an `Adjacent`.

        Examples
        --------
        >>> beside, between = Neighbours.of(np.array([[0, 1], [1, 1]]), np.ones((2, 2), bool)).adjacent
        >>> beside.T.tolist(), between[..., 0].T.tolist(), between[..., 1].T.tolist()
        ([[0, 1], [0, 1]], [[0, 4], [2, 1]], [[0, 2], [4, 1]])
        """
        into, entered = self.into, self.entered_by < self.into.size
        beside, place = _distinct(np.concatenate([self.entered_from, into]).T, np.concatenate([entered, self.leads]).T)
        here, there = place.T[: len(entered)], place.T[len(entered) :]
        between = np.full((beside.size, 2), into.size)
        between[here[entered], 0] = self.entered_by[entered]
        between[there[self.leads], 1] = np.flatnonzero(self.leads)
        return Adjacent(*_read_only([beside, between.reshape(*beside.shape, 2)]))

    @cached_property
    def twice(self):
        """Those of two steps, where `entered_by` says from where each is entered: a `Twice`.

        Examples
        --------
        >>> steps = Neighbours.of(np.array([[0, 1], [1, 1]]), np.ones((2, 2), bool))
        >>> P, E, into = np.array([0.2, 1.0, 0.8, 0.0, 0.0]), np.array([[1.0, 2.0], [0.0, 4.0]]), steps.into
        >>> twice, cells, weights = steps.twice
        >>> found = (E.take(twice.cells).take(cells) * P.take(weights)).sum(axis=0)
        >>> P = np.array([[0.2, 0.8], [0.0, 1.0]])
        >>> np.allclose(found[steps.leads], np.take_along_axis(E @ P.T + P.T @ E, into.T, axis=1).T[steps.leads])
        True
        """
        into, S, entries = self.into, self.into.shape[1], np.arange(self.into.size).reshape(self.into.shape)
        goes_on = self.leads & self.leads[:, into]  # (J, J, S): the successors of each successor
        twice = Neighbours.of(np.moveaxis(into[:, into], -1, 0), np.moveaxis(goes_on, -1, 0))
        pair, entered = np.moveaxis(twice.pair, 0, -1), self.entered_by < into.size
        first = np.where(entered, self.entered_by // S, 0)  # which successor of the state before this one is
        before = np.moveaxis(pair[:, first, self.entered_from], 0, 1)  # (I, J, S): from there to this one's successors
        entering = np.broadcast_to(self.entered_by[:, None], before.shape)
        return Twice(twice, *_read_only([np.concatenate([pair, before]), np.concatenate([entries[:, into], entering])]))


def _read_only(arrays):
    """Return the arrays, which are kept with a model, so that nobody writes into them."""
    for array in arrays:
        array.setflags(write=False)
    return arrays


def _distinct(states, counted):
    """Return the distinct counted states of each row (S, N), filled up with the row's own, as (J, S), and the place
    of each entry in that array, flattened."""
    S = len(states)
    following = np.where(counted, states, S)  # S: nowhere, sorted last
    order = np.argsort(following, axis=1, kind="stable")
    following = np.take_along_axis(following, order, axis=1)
    rank = np.zeros_like(order)
    np.cumsum(following[:, 1:] != following[:, :-1], axis=1, out=rank[:, 1:])
    s, i = np.nonzero(following < S)
    distinct = np.tile(np.arange(S), (int(rank[s, i].max(initial=0)) + 1, 1))
    distinct[rank[s, i], s] = following[s, i]
    place = np.tile(np.arange(S)[:, None], (1, order.shape[1]))
    place[s, order[s, i]] += rank[s, i] * S
    return distinct, place
