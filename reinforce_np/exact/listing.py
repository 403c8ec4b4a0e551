"""List every batch there can be, with its probability, a block at a time.

A batch is ``prompts`` groups; each draws its first state, and its members are
drawn independently from there. Where the order does not matter, batches are
multisets with multinomial weights; where it may, they are sequences.
"""

import math

import numpy as np


def n_batches(sizes, prompts, group_size, *, in_order):
    """Return how many batches there are, exactly.

    Parameters
    ----------
    sizes : sequence of int
        Number of trajectories from each first state.
    prompts, group_size : int
        Shape of a batch.
    in_order : bool
        Whether batches are sequences.

    Returns
    -------
    int

    Examples
    --------
    >>> n_batches([3], 1, 2, in_order=False), n_batches([3], 1, 2, in_order=True)
    (6, 9)
    """
    if in_order:
        return sum(n**group_size for n in sizes) ** prompts
    n_groups = sum(math.comb(n + group_size - 1, group_size) for n in sizes)
    return math.comb(n_groups + prompts - 1, prompts)


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
