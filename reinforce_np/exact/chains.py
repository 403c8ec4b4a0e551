"""The gradient's two recursions on the chain that a policy makes of a model: the fast path of `bellman`.

What all actions and outcomes of a state do together is a chain with few successors,

    P(s,j) = γ Σ_{a,k that lead from s to its j-th successor} π(a|s) p(k|s,a),

so that a step of either recursion touches S·J numbers and not S·A·K:

    V_t(s) = r_π(s) + Σ_j P(s,j) V_{t+1}(j),        d_{t+1}(j) = Σ_s P(s,j) d_t(s).

Actions return once, at the end. The gradient needs Q_t only in the sum

    Σ_t d_t(s) Q_t(s,a) = r(s,a) Σ_t d_t(s) + γ Σ_k p(k|s,a) M(s,s'),        M(s,j) = Σ_t d_t(s) V_{t+1}(j).

Neither recursion scatters: values are gathered from the states that follow, and occupancy from
the states before. Who follows whom is found once per model (`FiniteMDP.neighbours`).
"""

from functools import partial

import numpy as np

from reinforce_np.exact import bellman

SMALL = 96  # states up to which the chain is quicker as a dense matrix
DENSE = 2  # and so many times the successors of a state, if that is more
TOGETHER = 2**20  # T S J up to which it is quicker to run both recursions as one
APART = 8  # numbers between rows: a power of two from each other, they would compete for the same lines of the cache
ONE_THREAD_ROWS = 9216  # numbers up to which OpenBLAS multiplies a vector by a matrix in one thread
WORTH = 40_000  # n S³/T up to which it pays to square the dense chain from n to 2n steps at a time


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
    S, T, batch = mdp.n_states, mdp.horizon, pi.shape[2:]
    into, pair, *entered = mdp.neighbours
    n_pairs, dense = into.size, not batch and S <= max(SMALL, DENSE * len(into))
    if dense:
        pair, n_pairs = mdp.next_state + S * np.arange(S)[:, None, None], S * S
    p = bellman.trailing(gamma * mdp.continuation, len(batch))
    P = bellman.summed(pair, n_pairs)(pi[:, :, None] * p)
    r_pi, start = np.einsum("sa...,sa...->s...", pi, r), bellman.trailing(mdp.initial, len(batch))
    if dense:
        d, M = _by_powers(P, r_pi, start, T)
    elif not batch and len(entered[0]) and 0 < T * n_pairs <= TOGETHER:
        d, M = _together(P, r_pi, start, T, into, *mdp.adjacent)
    else:
        d, M = _by_steps(P, r_pi, start, T, into, *entered)
    following = M.reshape(n_pairs, *batch).take(pair, axis=0)
    return d[:, None] * r + np.einsum("sak...,sak...->sa...", p, following)


def visited_values_by_outcomes(mdp, pi, r, gamma):
    """Return the same, step by step over all actions and outcomes, as the equations of `bellman` are written."""
    d, total = list(bellman.forward(mdp, pi, gamma)), np.zeros(pi.shape, dtype=np.result_type(pi, r))
    for t, Q, _ in bellman.backward(mdp, pi, r, gamma):
        total += d[t][:, None] * Q
    return total


def _by_steps(P, r_pi, start, T, into, entered_by, entered_from):
    """Return Σ_t d_t and M: one sweep forwards, and one backwards over the pairs of a state and its successor."""
    d = np.empty((T, *r_pi.shape), dtype=P.dtype)
    d[:1] = start
    entering = np.concatenate([P, np.zeros_like(P[:1])])[entered_by]
    P = P.reshape(*into.shape, *P.shape[1:])
    arrive = bellman.summed(into, len(start))
    for t in range(1, T):
        if len(entered_by):
            np.einsum("is...,is...->s...", entering, d[t - 1].take(entered_from, axis=0), out=d[t])
        else:
            d[t] = arrive(P * d[t - 1])
    V, M = np.zeros_like(r_pi), np.zeros_like(P, dtype=r_pi.dtype)
    for t in reversed(range(T)):
        ahead = V.take(into, axis=0)
        V = r_pi + np.einsum("js...,js...->s...", P, ahead)
        ahead *= d[t]
        M += ahead
    return d.sum(axis=0), M


def _together(P, r_pi, start, T, into, beside, between):
    """Return the same for few states: both sweeps as one, because what takes the time is the number of calls.

    D_t = Σ_{u<=t} d_u and w_t = Pᵗ r_π follow from those of one step before, and V_t is Σ_{i<T−t} w_i, so

        D_{t+1}(s) = start(s) + Σ_s' P(s',s) D_t(s'),        M(s,j) = Σ_t w_t(j) D_{T−2−t}(s).

    D_t(s) and w_t(s) lie side by side: one gather from the states beside s serves both. `start` is one more term.
    """
    (L, S), dtype = beside.shape, np.result_type(P, r_pi)
    (x, room), terms = np.empty((2, T, S + APART, 2), dtype=dtype), np.zeros((L + 1, 2 * S), dtype=dtype)
    x[0, :S, 0], x[0, :S, 1], terms[L, ::2] = start, r_pi, start
    x, rows = x[:, :S], x.reshape(T, -1)[:, : 2 * S]
    weight, flows, multiply = np.append(P, 0.0).take(between).reshape(L, 2 * S), terms[:L], np.multiply
    gathered, add_up = flows.reshape(L, S, 2), _adding_rows(terms)
    for now, after in zip(x, rows[1:], strict=False):
        now.take(beside, 0, gathered, "clip")
        multiply(flows, weight, flows)
        add_up(terms, out=after)
    D, w = room.ravel()[: 2 * S * (T - 1)].reshape(2, S, T - 1)  # the times of a state side by side
    D[:], w[:] = x[-2::-1, :, 0].T, x[:-1, :, 1].T
    return x[-1, :, 0], _met(D, w, into)


def _adding_rows(terms):
    """Return the quickest function that adds up the rows of `terms` in one thread."""
    if terms.size < ONE_THREAD_ROWS:
        return np.ones(len(terms), dtype=terms.dtype).dot
    return partial(np.add.reduce, axis=0)


def _met(D, w, into):
    """Return Σ_t D(s,t) w(j,t) for each state and its successors, (J, S)."""
    M, ahead = np.empty(into.shape, dtype=w.dtype), np.empty_like(w)
    for j, met in zip(into, M, strict=True):
        np.matmul(w.take(j, 0, ahead, "clip")[:, None], D[:, :, None], out=met[:, None, None])
    return M


def _by_powers(P, r_pi, start, T):
    """Return the same for a chain so small that it is a dense matrix: n steps at a time by its n-th power.

    The occupancies d_t, and the values v_k with k steps to go, follow from those of n steps before,

        d_{t+n} = d_t Pⁿ,        v_{k+n} = v_n + Pⁿ v_k.
    """
    P = P.reshape(len(start), -1)
    d, v = np.empty((T, len(P)), dtype=r_pi.dtype), np.zeros((T + 1, len(P)), dtype=r_pi.dtype)
    d[:1], v[1:] = start, r_pi
    product = np.dot if len(P) <= SMALL else _product
    n = t = 1
    while t < T:
        m = min(n, T - t)
        product(d[t - n : t - n + m], P, out=d[t : t + m])
        values = product(v[t - n + 1 : t - n + 1 + m], P.T, out=v[t + 1 : t + 1 + m])
        values += v[n]
        t += m
        if t == 2 * n and len(P) <= SMALL and n * len(P) ** 3 <= WORTH * T:
            P, n = P @ P, 2 * n
    return d.sum(axis=0), product(d[::-1].T, v[:T])


def _product(x, P, out=None):
    """Return x P on one thread: several would wait for each other at every step, and long on a busy machine."""
    return np.einsum("ns,st->nt", x, P, out=out)
