"""List every batch there can be, with its probability, a block at a time.

A batch is ``prompts`` groups; each draws its first state, and its members are
drawn independently from there. Where the order does not matter, batches are
multisets with multinomial weights; where it may, they are sequences.
"""

import math

import numpy as np


def n_batches(sizes, prompts, group_size, *, in_order, most=None):
    """Return how many batches there are, exactly, however many; or where that is more than `most`, some number above it.

    Parameters
    ----------
    sizes : sequence of int
        Number of trajectories from each first state.
    prompts, group_size : int
        Shape of a batch.
    in_order : bool
        Whether batches are sequences.
    most : int, optional
        Where to stop counting: powers of large groups have millions of digits.

    Returns
    -------
    int

    Examples
    --------
    >>> n_batches([3], 1, 2, in_order=False), n_batches([3], 1, 2, in_order=True)
    (6, 9)
    >>> n_batches([3], 1, 10**6, in_order=True, most=1000) > 1000
    True
    """
    n_draws = _n_sequences if in_order else _n_multisets
    return n_draws(sum(n_draws(n, group_size, most) for n in sizes), prompts, most)


def _n_sequences(n, size, most):
    """Return n^size, or a number above `most`: from two on, every power of as many as `most` has bits is."""
    return n**size if most is None else n ** min(size, most.bit_length() + 1)


def _n_multisets(n, size, most):
    """Return the number of multisets of `size` out of n, or a number above `most`."""
    if most is None or n == 0:
        return math.comb(n + size - 1, size)
    k = min(size, n - 1)  # C(m, k), of which C(m − k + i, i) is at least twice C(m − k + i − 1, i − 1)
    found = 1
    for i in range(1, k + 1):
        found = found * (n + size - 1 - k + i) // i
        if found > most:
            break
    return found


def batches(starts, p, initial, prompts, group_size, *, in_order, rows):
    """Yield all batches as rows of indices (B, prompts·group_size), and their probabilities (B,), B <= `rows`.

    Parameters
    ----------
    starts : list of int arrays
        For each first state, the indices of what can follow.
    p : array
        Probability of each, first state included.
    initial : array
        Probability of each first state.
    prompts, group_size : int
        Shape of a batch.
    in_order : bool
        Whether batches are sequences.
    rows : int
        Size of a block.
    """
    groups, group_p = [], []
    for start, p_start in zip(starts, initial, strict=True):
        members, weight = _draws(len(start), p[start] / p_start, group_size, in_order)
        groups.append(start[members])
        group_p.append(p_start * weight)
    of_group, p_group = np.concatenate(groups), np.concatenate(group_p)
    if in_order:
        for first in range(0, len(of_group) ** prompts, rows):
            members = _digits(np.arange(first, min(first + rows, len(of_group) ** prompts)), len(of_group), prompts)
            yield of_group[members].reshape(len(members), -1), p_group[members].prod(axis=1)
        return
    members, weight = _draws(len(of_group), p_group, prompts, False)
    for first in range(0, len(members), rows):
        part = members[first : first + rows]
        yield of_group[part].reshape(len(part), -1), weight[first : first + rows]


def _draws(n, p, size, in_order):
    """Return all draws of `size` out of n as rows of indices, and their probabilities."""
    if in_order:
        rows = _digits(np.arange(n**size), n, size)
        return rows, p[rows].prod(axis=1)
    rows = _multisets(n, size)
    counted, run = np.ones(len(rows)), np.ones(len(rows))
    for j in range(1, size):  # size! / Π counts!, one member at a time
        run = np.where(rows[:, j] == rows[:, j - 1], run + 1, 1)
        counted *= (j + 1) / run
    return rows, counted * p[rows].prod(axis=1)


def _digits(index, base, size):
    """Return the numbers in `index` written with `size` digits, most significant first, shape (B, size)."""
    return np.stack(np.unravel_index(index, (base,) * size), axis=1) if size else np.zeros((len(index), 0), np.intp)


def _multisets(n, size):
    """Return all non-decreasing rows of `size` numbers below n, in lexicographic order.

    Examples
    --------
    >>> _multisets(2, 2).tolist()
    [[0, 0], [0, 1], [1, 1]]
    """
    rows = np.arange(n)[:, None]
    for _ in range(size - 1):
        last = rows[:, -1]
        longer = np.repeat(rows, n - last, axis=0)  # each row continues with last, last + 1, ..., n − 1
        first = np.repeat(np.cumsum(n - last) - (n - last), n - last)
        rows = np.column_stack([longer, longer[:, -1] + np.arange(len(longer)) - first])
    return rows
