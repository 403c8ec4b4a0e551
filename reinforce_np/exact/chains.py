"""The gradient's two recursions on the chain that a policy makes of a model: the fast path of `bellman`.

What all actions and outcomes of a state do together is a chain with few successors,

    P(s,j) = γ Σ_{a,k that lead from s to its j-th successor} π(a|s) p(k|s,a),

so that a step of either recursion touches S·J numbers and not S·A·K:

    V_t(s) = r_π(s) + Σ_j P(s,j) V_{t+1}(j),        d_{t+1}(j) = Σ_s P(s,j) d_t(s).

Actions return once, at the end. The gradient needs Q_t only in the sum

    Σ_t d_t(s) Q_t(s,a) = r(s,a) Σ_t d_t(s) + γ Σ_k p(k|s,a) M(s,s'),        M(s,j) = Σ_t d_t(s) V_{t+1}(j).

Neither recursion scatters: values are gathered from the states that follow, and occupancy from
the states before. Who follows whom is found once per model (`FiniteMDP.neighbours`). There are five ways:
`_by_steps` is as the equations are written; the others trade arithmetic for fewer calls, or cheaper ones, where states
are few: both sweeps at once (`_together`), or by products with a dense matrix, and with its n-th power for n steps at a time
(`_by_powers`); and either of them for the chain of two steps (`_by_double_steps`, `_by_double_powers`). `quickest` chooses
by sizes alone, so that a model's answer is always the same.
"""

import itertools
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from reinforce_np.exact import bellman
from reinforce_np.products import adding_rows, inner, product_of, row_product_of

SMALL = 64  # states up to which BLAS multiplies two of their matrices in one thread, and
SMALL_ENOUGH = 95  # up to which a row and a matrix
MOST_DENSE = 200  # states up to which a sparse chain may be quicker as a dense matrix
DENSE = 2  # times the successors of a state: with so many states or fewer it always is
TOGETHER = 2**20  # T S J up to which both recursions may be run as one
TWICE = 2**14  # S J² up to which that may be done by two steps at once
SUMS = 2**7  # rows up to which running sums are quickest as a product with a matrix, and
SUMMED = 2**14  # numbers in them
APART = 8  # states between rows: a power of two from each other, they would compete for the same lines of the cache


def visited_values(mdp, pi, r, gamma):
    """Return Σ_t d_t(s) Q_t(s,a) of an episode with a horizon, shape (S, A, ...).

    Costs O(S·A·K + T·S·J) time with J successors of a state, and O(T·S) memory.

    Parameters
    ----------
    mdp : FiniteMDP
        The model, with a horizon.
    pi, r : array (S, A, ...)
        Policy and expected reward of a step.
    gamma : float
        Discount.

    Returns
    -------
    array (S, A, ...)
    """
    T, batch, links = mdp.horizon, pi.shape[2:], mdp.neighbours
    way = _by_steps if batch else quickest(mdp)
    p = bellman.trailing(gamma * mdp.continuation, len(batch))
    P = bellman.summed(links.pair, links.into.size + 1)(pi[:, :, None] * p)  # the last is zero: of no pair
    r_pi, start = np.einsum("sa...,sa...->s...", pi, r), bellman.trailing(mdp.initial, len(batch))
    d, M, _ = way(P, r_pi, start, T, links)
    following = M.reshape(links.into.size, *batch).take(links.pair, axis=0)
    return d[:, None] * r + (np.einsum("sak...,sak...->sa...", p, following) if batch else inner(p, following))


def visited_values_by_outcomes(mdp, pi, r, gamma):
    """Return the same, step by step over all actions and outcomes, as the equations of `bellman` are written."""
    d, total = list(bellman.forward(mdp, pi, gamma)), np.zeros(pi.shape, dtype=np.result_type(pi, r))
    for t, Q, _ in bellman.backward(mdp, pi, r, gamma):
        total += d[t][:, None] * Q
    return total


def quickest(mdp):
    """Return the way that takes the least time for one policy."""
    links, T = mdp.neighbours, mdp.horizon
    J, S = links.into.shape
    n_entries = len(links.entered_by)
    beside = [len(links.adjacent.beside)] if n_entries and 1 < T <= TOGETHER // (S * J) else []
    if beside and S * J**2 <= TWICE and len(links.twice.neighbours.entered_by):
        twice = links.twice.neighbours
        beside.extend([len(twice.into), len(twice.adjacent.beside)])
    return quickest_of(S, T, J, *beside)


@lru_cache
def quickest_of(S, T, J, L=None, J2=None, L2=None):
    """Return the same, by nanoseconds once measured: for S states, T steps, at most J successors of a state, L states beside one,
    and J2 and L2 if steps are taken by two (None where they are not looked for)."""
    if S <= DENSE * J:
        return _by_powers
    ways: dict[Callable, float] = {_by_steps: 3500 + T * (5200 + 2.6 * S * J)}
    if S <= MOST_DENSE:
        ways[_by_powers] = _of_powers(S, T)
    if L is not None:
        ways[_together] = _of_steps_together(S, T, J, L)
    if J2 is not None and T > 1:
        both = 12_000 + 8 * S * J**2
        ways[_by_double_steps] = _of_steps_together(S, T // 2, J2, L2) + both
        ways[_by_double_powers] = _of_powers(S, T // 2) + both
    return min(ways, key=lambda way: ways[way])


def _of_steps_together(S, T, J, L):
    """Return what `_together` takes."""
    return 10_000 + T * (900 + S * (L + 1 + 0.45 * J))


def _of_powers(S, T):
    """Return what `_by_powers` takes."""
    return 8000 + 2 * S**2 + _of_rows(S, T) + _of_product(T, S)


def _of_rows(S, T, squarings=None):
    """Return what `_rows` takes, going 1, 2, 4, ... steps at a time after so many squarings."""
    squarings = most_at_a_time(S, T).bit_length() - 1 if squarings is None else squarings
    if squarings == 0:
        return 1000 + 2 * (T - 1) * _of_row(S) + T * (0.036 * T * S if T <= SUMS and T * S <= SUMMED else 450)
    whole, rest = divmod(max(T - 2**squarings, 0), 2**squarings)
    at_a_time = [2**k for k in range(squarings)] + [2**squarings] * min(whole, 1) + [rest] * (rest > 0)
    blocks = [1400 + 2 * _of_product(n, S) for n in at_a_time]
    return sum(blocks) + (whole - 1) * (whole > 1) * blocks[squarings] + squarings * _of_product(S, S)


def _of_row(S):
    """Return what the product of a row with a dense chain of S states takes."""
    return 260 + 0.08 * S**2 if S <= SMALL_ENOUGH else 500 + 0.12 * S**2


def _of_product(n, S):
    """Return what the product of n rows takes."""
    return 250 + S**2 * (0.3 + 0.036 * n) if S <= SMALL else 1500 + S**2 * (0.3 + 0.047 * n)


def _by_steps(P, r, start, T, links):
    """Return Σ_t d_t, M and V_0: one sweep forwards, and one backwards over the pairs of a state and its successor."""
    into, entered_by, entered_from = links.into, links.entered_by, links.entered_from
    d = np.empty((T, *r.shape), dtype=P.dtype)
    d[:1] = start
    entering, P = P[entered_by], P[:-1].reshape(*into.shape, *P.shape[1:])
    arrive, index = bellman.summed(into, len(start)), entered_from.copy()  # `take` copies a read-only one at every call
    for t in range(1, T):
        if len(entered_by):
            np.einsum("is...,is...->s...", entering, d[t - 1].take(index, axis=0), out=d[t])
        else:
            d[t] = arrive(P * d[t - 1])
    V, M, index = np.zeros_like(r), np.zeros_like(P, dtype=r.dtype), into.copy()
    for t in reversed(range(T)):
        ahead = V.take(index, axis=0)
        V = r + np.einsum("js...,js...->s...", P, ahead)
        ahead *= d[t]
        M += ahead
    return d.sum(axis=0), M, V


def _together(P, r, start, T, links):
    """Return the same for few states: both sweeps as one, because what takes the time is the number of calls.

    D_t = Σ_{u<=t} d_u and w_t = Pᵗ r follow from those of one step before, and V_t is Σ_{i<T−t} w_i, so

        D_{t+1}(s) = start(s) + Σ_s' P(s',s) D_t(s'),        M(s,j) = Σ_t w_t(j) D_{T−2−t}(s).

    D_t(s) and w_t(s) lie side by side: one gather from the states beside s serves both. `start` is one more term.
    """
    into, (beside, between) = links.into, links.adjacent
    (L, S), J, dtype = beside.shape, len(into), np.result_type(P, r)
    x, terms = np.empty((T, S + APART, 2), dtype=dtype), np.zeros((L + 1, 2 * S), dtype=dtype)
    x[0, :S, 0], x[0, :S, 1], terms[L, ::2] = start, r, start
    x, rows = x[:, :S], x.reshape(T, -1)[:, : 2 * S]
    weight, flows = P.take(between).reshape(L, 2 * S), terms[:L]
    beside = beside.copy()  # `take` copies a read-only index, at every call
    gathered, multiply, add_up = flows.reshape(L, S, 2), np.multiply, adding_rows(terms)
    for now, after in zip(x, rows[1:], strict=False):
        now.take(beside, 0, gathered, "clip")
        multiply(flows, weight, flows)
        add_up(terms, out=after)
    room = np.empty((2 + J, S, T - 1), dtype=dtype)  # the times of a state side by side
    D, w, ahead = room[0], room[1], room[2:]
    D[:], w[:] = x[-2::-1, :, 0].T, x[:-1, :, 1].T
    w.take(into, 0, ahead, "clip")
    M = np.matmul(ahead[:, :, None], D[:, :, None])[..., 0, 0]
    return x[-1, :, 0], M, adding_rows(w.T)(w.T) + x[-1, :, 1]


def _by_double_steps(P, r, start, T, links, way=_together):
    """Return the same, two steps at a time and these by a way of their own: M follows from what those give.

    With t = 0, 2, 4, ... and E = Σ_t d_t V_{t+2}ᵀ, of the chain that takes two steps at once,

        Σ_t (d_t V_{t+1}ᵀ + d_{t+1} V_{t+2}ᵀ) = Σ_t d_t rᵀ + E Pᵀ + Pᵀ E,

    where few entries of either product are wanted, each of which is a few terms. Where T is odd the first step is by itself.
    """
    into, (twice, cells, weights) = links.into, links.twice
    J, weights, step = len(into), P.take(weights), P[:-1].reshape(into.shape)
    two_steps = bellman.summed(cells[:J], twice.into.size + 1)(weights[:J] * step)
    first = bellman.summed(into, len(start))(step * start) if T % 2 else start
    add_up, paid = adding_rows(step), r.take(into)
    d, E, V = way(two_steps, r + add_up(step * paid), first, T // 2, twice)
    weights *= E.take(cells)
    M = adding_rows(weights)(weights.reshape(len(weights), -1)).reshape(into.shape)
    M += d * paid
    visits = d + bellman.summed(into, len(start))(step * d)
    if T % 2:
        ahead = V.take(into)
        M, visits, V = M + start * ahead, visits + start, r + add_up(step * ahead)
    return visits, M, V


def _by_double_powers(P, r, start, T, links):
    """Return the same, where a chain of two steps is small enough to be a dense matrix and one of one step to be gathered."""
    return _by_double_steps(P, r, start, T, links, way=_by_powers)


def _by_powers(P, r, start, T, links):
    """Return the same for a chain so small that it is a dense matrix: n steps at a time by its n-th power."""
    P = bellman.summed(links.cells, len(start) ** 2)(P[:-1]).reshape(len(start), -1)
    d, v = _rows(P, r, start, T)
    M = product_of(len(start), v)(d.T, v[:T], np.empty_like(P))
    return adding_rows(d)(d), M.take(links.cells), v[T]


def _rows(P, r, start, T):
    """Return the occupancies d_t of T steps of a dense chain, the last first, and the values v_k with k = 0, ..., T steps to go.

    They follow from those of n steps before,

        d_{t+n} = d_t Pⁿ,        v_{k+n} = v_n + Pⁿ v_k.
    """
    S, dtype = len(start), r.dtype
    d, v = np.empty((T, S), dtype=dtype), np.empty((T + 1, S), dtype=dtype)
    d[-1:], v[:1], v[1:2] = start, 0.0, r
    most = most_at_a_time(S, T)
    if most == 1:  # v_k are the sums of Pⁱ r
        powers, now, ahead = v[1:], start, r
        forwards, backwards = row_product_of(P), row_product_of(P.T)
        for after, further in zip(d[-2::-1], v[2:], strict=True):
            now, ahead = forwards(now, after), backwards(ahead, further)
        if T <= SUMS and T * S <= SUMMED:
            return d, product_of(T + 1, powers)(_running_sums(T), powers, np.empty_like(v))
        for before, after in itertools.pairwise(powers):
            after += before
        return d, v
    product = product_of(max(most, S), P)
    for n, squared, from_d, to_d, from_v, to_v in plan(T, most):
        if squared:
            P = product(P, P, np.empty_like(P))
        product(d[from_d], P, d[to_d])
        values = product(v[from_v], P.T, v[to_v])
        values += v[n]
    return d, v


@lru_cache(maxsize=8)
def _running_sums(T):
    """Return the matrix (T + 1, T) that adds up the first 0, ..., T of T rows."""
    matrix = np.tri(T + 1, T, -1)
    matrix.setflags(write=False)
    return matrix


@lru_cache
def plan(T, most):
    """Return in which blocks `_rows` goes, with 1, 2, 4, ..., `most` steps at a time: how many at a time, whether P is to be squared
    before, and from which rows of d and of v which follow.

    >>> for n, squared, from_d, to_d, from_v, to_v in plan(6, 2):
    ...     print(n, squared, from_d, to_d, from_v, to_v)
    1 False slice(5, 6, None) slice(4, 5, None) slice(1, 2, None) slice(2, 3, None)
    2 True slice(4, 6, None) slice(2, 4, None) slice(1, 3, None) slice(3, 5, None)
    2 False slice(2, 4, None) slice(0, 2, None) slice(3, 5, None) slice(5, 7, None)
    """
    blocks, n, t, squared = [], 1, 1, False
    while t < T:
        m, first = min(n, T - t), T - t  # d_t is kept in row T − 1 − t, where M wants it
        rows = (
            slice(first + n - m, first + n),
            slice(first - m, first),
            slice(t - n + 1, t - n + 1 + m),
            slice(t + 1, t + 1 + m),
        )
        blocks.append((n, squared, *rows))
        t, squared = t + m, n < most
        n = min(2 * n, most)
    return tuple(blocks)


@lru_cache
def most_at_a_time(S, T):
    """Return how many steps at a time, of T, a dense chain of S states goes in the end: a power of two, as far as it pays to square."""
    return 2 ** min(range(max(T - 1, 1).bit_length()), key=lambda squarings: _of_rows(S, T, squarings))
