"""Moments of a linear trace over pairs of a state and its successor: the fast path of `recursion`.

With a finite horizon, one trace and no passive weights, the equations of `traces` need of the future only
v, E[U²] and, per direction, x = E[X] and z = E[UX] of the next state. So the outcomes that lead to the same
successor j are merged:

    x = Σₐ ψ E[w] + Σ_j K x_j                 K(s,j)   = Σ μpη                (all sums over a and k that lead to j)
    z = Σₐ ψ E[wU] + Σ_j C x_j + L z_j        C_t(s,j) = Σ μpη c̃,    L(s,j) = Σ μpηκ
    y = Σ_j B_t x_j + D z_j                   B_t(s,a,j) = Σₖ μpη p̃,  D(s,a,j) = Σₖ μpηq

which is one small matrix product per state. What concerns the credit alone, that is everything but x, z and y, is
found for many steps at a time. A score that lives on one state only (a tabular policy's) needs y there and nowhere
else, if no covariance is wanted.
"""

from typing import NamedTuple

import numpy as np

from reinforce_np.exact import bellman

OUTCOMES = 2**16  # of so many steps together the credit is found at once
NUMBERS = 2**16  # of the successors of so many states are looked at together


class Credit(NamedTuple):
    """What B steps contribute through the credit, before any direction is looked at; o is the occupancy of η²."""

    o: np.ndarray  # (B, S)
    squares: np.ndarray  # (B, S, A): Σₖ μp w²
    w: np.ndarray  # (B, S, 2, A): Σₖ μp w and Σₖ μp wU
    C: np.ndarray  # (B, S, J)
    B: np.ndarray  # (B, S, A, J)


class Pairs:
    """The measure of a trace, merged, and its credit.

    Parameters
    ----------
    trace : LinearTrace
        One trace with a finite horizon and without passive weights.
    """

    def __init__(self, trace):
        self.trace, mdp = trace, trace.mdp
        into, pair = mdp.neighbours.into, mdp.neighbours.pair
        S, A, J = self.shape = mdp.n_states, mdp.n_actions, len(into)
        self.into = np.ascontiguousarray(into.T)
        row = np.arange(S * A).reshape(S, A, 1)
        self.pair, self.next_state, self.W = (
            _outcomes_first(x) for x in (row * J + pair // S, mdp.next_state, trace.measure(1))
        )
        signals, live = trace.at(np.arange(1)), ~_outcomes_first(mdp.terminated)
        kappa, q, eta = (self._table(x) for x in (signals.kappa[0], signals.q, signals.eta))
        self.kappa, self.q, self.flow = kappa * live, q * live, self.W * eta * live
        steady = np.ndim(signals.c[0]) == np.ndim(signals.p) == 3
        self.paid = (self._table(signals.c[0]), self._table(signals.p)) if steady else None
        self.D = self._merged(self.flow * self.q)
        self.K, self.L, self.visits, self.means, self.spreads = (
            self._merged(x).sum(axis=-2)
            for x in (
                self.flow,
                self.flow * self.kappa,
                self.flow * eta,
                self.W * self.kappa,
                self.W * self.kappa**2,
            )
        )

    def _table(self, x):
        """Return a signal (..., S, A, K), or what is broadcast to it, as (..., K, S, A)."""
        return _outcomes_first(np.broadcast_to(x, (*np.shape(x)[:-3], *self.trace.mdp.reward.shape)))

    def _merged(self, x):
        """Return Σₖ x over the outcomes of an action that lead to the same successor: (..., K, S, A) to (..., S, A, J)."""
        n, size = x.size // self.pair.size, int(np.prod(self.shape))
        index = self.pair.ravel() + size * np.arange(n)[:, None]
        return np.bincount(index.ravel(), x.ravel(), n * size).reshape(*x.shape[:-3], *self.shape)

    def blocks(self, E):
        """Return slices of states so small that what E directions need of their successors fits into a cache."""
        size = max(NUMBERS // (2 * self.shape[2] * max(E, 1)), 1)
        return [slice(first, first + size) for first in range(0, self.shape[0], size)]

    def ahead(self, xz, s):
        """Return the x and z of all successors of the states s, from (S, 2, E) to (s, 2·J, E)."""
        found = xz.take(self.into[s], axis=0)
        return found.reshape(len(found), 2 * self.shape[2], found.shape[-1])

    def credits(self):
        """Yield the `Credit` of all steps, many at a time and the last ones first."""
        o, at_once = self._squared_visits(), max(OUTCOMES // self.W.size, 1)
        v, uu = np.zeros(self.shape[0]), np.zeros(self.shape[0])
        for last in range(len(o), 0, -at_once):
            t = np.arange(max(last - at_once, 0), last)
            credit, v, uu = self._credit(o[t], t, v, uu)
            yield credit

    def _credit(self, o, t, v, uu):
        """Return the credit of the steps t, and v and E[U²] before them, given those after them."""
        if self.paid is None:
            signals = self.trace.at(t)
            c, p = self._table(signals.c[0]), self._table(signals.p)
        else:
            c, p = self.paid
        v = _backwards(np.broadcast_to(np.einsum("ksa,...ksa->...s", self.W, c), o.shape), self.means, self.into, v)
        ahead = v[1:].take(self.next_state, axis=1)
        c = c + self.kappa * ahead - v[:-1, None, :, None]  # c̃ and p̃
        p = p + self.q * ahead
        Wp = self.W * p
        uu = _backwards(np.einsum("ksa,bksa,bksa->bs", self.W, c, c), self.spreads, self.into, uu)
        ahead = uu[1:].take(self.next_state, axis=1)
        squares = np.einsum("bksa,bksa->bsa", Wp, p) + np.einsum("ksa,bksa->bsa", self.W * self.q**2, ahead)
        wu = np.einsum("bksa,bksa->bsa", Wp, c) + np.einsum("ksa,bksa->bsa", self.W * self.q * self.kappa, ahead)
        w = np.stack([np.einsum("bksa->bsa", Wp), wu], axis=2)
        return Credit(o, squares, w, self._merged(self.flow * c).sum(axis=-2), self._merged(self.flow * p)), v[0], uu[0]

    def _squared_visits(self):
        arrive = bellman.summed(self.into, self.shape[0])
        o = np.empty((self.trace.mdp.horizon, self.shape[0]))
        o[:1] = self.trace.mdp.initial
        for t in range(1, len(o)):
            o[t] = arrive(self.visits * o[t - 1, :, None])
        return o


def _outcomes_first(x):
    """Move the last axis, the outcomes, in front of states and actions: sums over it are then sums of whole tables."""
    return np.ascontiguousarray(np.moveaxis(x, -1, -3))


def _backwards(source, K, into, after):
    """Return x_b = source_b + Σ_j K x_{b+1}, shape (B + 1, S), ending with `after`."""
    x = np.empty((len(source) + 1, len(after)))
    x[-1] = after
    for b in reversed(range(len(source))):
        np.add(source[b], np.einsum("sj,sj->s", K, x[b + 1].take(into)), out=x[b])
    return x


def moments_over_pairs(trace, psi, covariance):
    """Return E[X], E[X²], E[XXᵀ] where asked for, and E[X | first state].

    Parameters
    ----------
    trace : LinearTrace
        As in `Pairs`.
    psi : array (S, A, E)
        Score along E directions.
    covariance : bool
        Whether E[XXᵀ] is wanted.

    Returns
    -------
    tuple
    """
    pairs, touched = Pairs(trace), (psi != 0).any(axis=1)
    if not covariance and np.all(touched.sum(axis=0) <= 1):
        e, x, second = np.flatnonzero(touched.any(axis=0)), np.zeros(psi.shape[::2]), np.zeros(psi.shape[-1])
        x[:, e], second[e] = _local(pairs, psi[..., e], touched[:, e].argmax(axis=0))
        return trace.mdp.initial @ x, second, None, x
    x, H = _everywhere(pairs, psi)
    outer = None
    if covariance:
        half = np.tensordot(psi, H, axes=((0, 1), (0, 1)))
        outer = half + half.T
    return trace.mdp.initial @ x, 2 * np.einsum("sae,sae->e", psi, H), outer, x


def _everywhere(pairs, psi):
    """Return x at the start, and H with E[XXᵀ] = Σ ψHᵀ + Hψᵀ."""
    (S, A, J), E = pairs.shape, psi.shape[-1]
    xz, H, squares = np.zeros((S, 2, E)), np.zeros((S, A, E)), np.zeros((S, A))
    M = np.zeros((S, 2 + A, J, 2))  # from the x and z of all successors to x, z and o y
    M[:, 0, :, 0], M[:, 1, :, 1] = pairs.K, pairs.L
    for o, squared, w, C, B in pairs.credits():
        squares += np.einsum("bs,bsa->sa", o, squared)
        for b in reversed(range(len(o))):
            after, xz, visits = xz, np.empty_like(xz), o[b, :, None, None]
            for s in pairs.blocks(E):
                M[s, 1, :, 0] = C[b, s]
                M[s, 2:, :, 0] = visits[s] * B[b, s]
                M[s, 2:, :, 1] = visits[s] * pairs.D[s]
                found = M[s].reshape(-1, 2 + A, 2 * J) @ pairs.ahead(after, s)
                xz[s] = found[:, :2] + w[b, s] @ psi[s]
                H[s] += found[:, 2:]
    return xz[:, 0], H + 0.5 * squares[:, :, None] * psi


def _local(pairs, psi, own):
    """Return x at the start, and E[X²], for directions whose score lives on one state each, `own` (E,)."""
    (S, _, J), E = pairs.shape, psi.shape[-1]
    e = np.arange(E)
    psi = psi[own, :, e]  # (E, A)
    here = (2 * own[:, None] + np.arange(2)) * E + e[:, None]  # where x_e and z_e of their own state are
    there = (2 * pairs.into[own][:, :, None] + np.arange(2)) * E + e[:, None, None]  # and of its successors
    xz, second, Z = np.zeros((S, 2, E)), np.zeros(E), np.zeros((E, J))
    M = np.zeros((S, 2, J, 2))  # from the x and z of all successors to x and z
    M[:, 0, :, 0], M[:, 1, :, 1] = pairs.K, pairs.L
    for o, squared, w, C, B in pairs.credits():
        arising = np.einsum("ea,beia->bei", psi, w.take(own, axis=1))
        ahead = np.empty((len(o), *there.shape))
        for b in reversed(range(len(o))):
            after, xz = xz, np.empty_like(xz)
            after.take(there, out=ahead[b], mode="clip")
            M[:, 1, :, 0] = C[b]
            for s in pairs.blocks(E):
                np.matmul(M[s].reshape(-1, 2, 2 * J), pairs.ahead(after, s), out=xz[s])
            xz.reshape(-1)[here] += arising[b]
        o = o.take(own, axis=1)
        ahead *= o[:, :, None, None]
        y = np.einsum("beaj,bej->ea", B.take(own, axis=1), ahead[..., 0])
        second += np.einsum("ea,ea->e", psi, 2 * y + np.einsum("be,bea->ea", o, squared.take(own, axis=1)) * psi)
        Z += ahead[..., 1].sum(axis=0)
    return xz[:, 0], second + 2 * np.einsum("ea,eaj,ej->e", psi, pairs.D[own], Z)
