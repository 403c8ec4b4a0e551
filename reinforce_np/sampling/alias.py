"""Alias tables: one random number picks a column, and which of its two entries.

A row of probabilities is written as whole numbers that add up to 2⁶², and cut
into L columns of equal mass 2⁶²/L, L a power of two. Column c keeps ``keep[c]``
of entry ``own[c]``, and fills up with entry ``other[c]``. So an entry is drawn
by two look-ups, however many there are (Walker, "An Efficient Method for
Generating Discrete Random Variables with General Distributions", ACM TOMS 3 (1977)).

The random number has 62 bits, of which the first 32 nearly always decide: its
first log₂ L bits are the column, and together with the others of the 32 they
are compared with the upper half of the column's limit. Only when the two are
equal, once in 2³²/L draws, 30 more bits are drawn. All of this is
whole-number arithmetic, so the probabilities drawn are known exactly: the
`drawn` probabilities are what the tables add up to.
"""

import functools
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import numpy as np

from reinforce_np import arguments

TOTAL = 2**62  # the whole of a row of probabilities
MAX_COLUMNS = 2**29  # of a table, so that slots fit into 32 bits
AT_ONCE = 2**13  # columns prepared at once: all that this takes then fits into a cache
LOW_BITS = 30  # of a limit, those that only matter when the first 32 tie


class Scratch(NamedTuple):
    """Room for a draw of n at once: memory that is used again stays in the cache."""

    column: np.ndarray  # int32
    high: np.ndarray  # uint32
    second: np.ndarray  # bool

    @classmethod
    def of(cls, n, piece=partial(np.empty, dtype=np.int32)):
        """Return room for n, in what `piece` returns for a number of whole numbers of 32 bits."""
        return cls(piece(n), piece(n).view(np.uint32), piece((n + 3) // 4).view(bool)[:n])

    def first(self, n):
        """Return the same room for fewer."""
        return Scratch(*(array[:n] for array in self))


@dataclass(frozen=True, eq=False)
class AliasTables:
    """R rows of L columns, flat: column c of row r is at r·L + c, its two entries at 2(r·L + c) and one after.

    The position of an entry is called its slot.
    """

    log_columns: int
    """log₂ L."""
    high: np.ndarray  # (R·L,) uint32
    low: np.ndarray  # (R·L,) uint32: a random number above (high, low) picks the second entry
    entry: np.ndarray  # (2·R·L,) int: which of its row's probabilities each slot stands for

    def __getstate__(self):
        """Leave out `entry`: drawing does without it, and it would be half of what workers are sent."""
        return vars(self) | {"entry": None}

    @functools.cached_property
    def shift(self):
        """What is left of a word of 32 bits when the column is cut off."""
        return np.uint32(32 - self.log_columns)

    @property
    def n_rows(self):
        """R."""
        return len(self.high) >> self.log_columns

    def draw(self, base, bits, scratch, out):
        """Write to `out` (n,) int32 one slot for each row start `base` = r·L (n,) int32; `scratch` has room for n."""
        column, high, second = scratch
        word = random_words(bits, len(base))
        np.right_shift(word, self.shift, out=column.view(np.uint32))
        np.add(column, base, out=column)
        self.high.take(column, out=high, mode="clip")
        np.equal(word, high, out=second)
        tied = np.flatnonzero(second) if np.count_nonzero(second) else None
        np.greater(word, high, out=second)
        if tied is not None:
            second[tied] = random_tails(bits, len(tied)) > self.low[column[tied]]
        np.add(column, column, out=out)
        np.add(out, second, out=out)

    def drawn(self, row):
        """Return the probabilities that `draw` has for one row, {entry: Fraction}: each number of 62 bits, counted."""
        L = 1 << self.log_columns
        found: dict[int, Fraction] = {}
        for c in range(L):
            i = row * L + c
            limit = (int(self.high[i]) << LOW_BITS) + int(self.low[i])
            keep = limit + 1 - c * (TOTAL // L)
            for slot, mass in ((2 * i, keep), (2 * i + 1, TOTAL // L - keep)):
                if mass:
                    found[int(self.entry[slot])] = found.get(int(self.entry[slot]), Fraction(0)) + Fraction(mass, TOTAL)
        return found


def random_words(bits, n):
    """Return n random whole numbers below 2³²: both halves of each output, the lower one first, on every machine."""
    return bits.random_raw((n + 1) // 2).astype("<u8", copy=False).view("<u4")[:n]


def pass_over_words(bits, n):
    """Leave `bits` as it is after `random_words`."""
    bits.advance((n + 1) // 2)


def random_tails(bits, n):
    """Return n random whole numbers below 2³⁰: what `random_words` lacks to 62 bits."""
    return bits.random_raw(n) >> np.uint64(64 - LOW_BITS)


def alias_tables(probability):
    """Prepare to draw from the rows of `probability` (R, C), whose sums are 1 to within 1e-9.

    Examples
    --------
    >>> alias_tables(np.array([[0.5, 0.25, 0.25]])).drawn(0)
    {0: Fraction(1, 2), 1: Fraction(1, 4), 2: Fraction(1, 4)}
    """
    n_rows, n_entries = probability.shape
    b = log_columns(n_entries)
    L = 1 << b
    if n_rows << b > MAX_COLUMNS:
        raise arguments.TooLargeError(
            f"{n_rows} rows of {L} columns are above the limit of {MAX_COLUMNS} of a table to draw from; use a smaller model"
        )
    high, low = np.empty((2, n_rows, L), dtype=np.uint32)
    entry = np.empty((n_rows, L, 2), dtype=np.intp)
    for i in range(0, n_rows, max(AT_ONCE >> b, 1)):
        rows = slice(i, i + max(AT_ONCE >> b, 1))
        entry[rows, :, 0], keep, entry[rows, :, 1] = split(whole_numbers(probability[rows], L))
        limit = np.arange(L) * (TOTAL // L) + keep - 1  # keep >= 1, so that the last column stays below 2⁶²
        high[rows], low[rows] = limit >> LOW_BITS, limit & (2**LOW_BITS - 1)
    return AliasTables(b, high.ravel(), low.ravel(), entry.ravel())


def log_columns(n_entries):
    """Return the smallest b >= 1 with 2ᵇ >= n_entries."""
    return max((n_entries - 1).bit_length(), 1)


def whole_numbers(probability, n_columns):
    """Return the rows of `probability` (R, C) as whole numbers that add up to 2⁶², padded with zeros to `n_columns`.

    A sum that is not quite one is divided out. Zero stays zero. What rounding
    leaves, a few times 2⁻⁶², goes to the largest entry. Sums of whole numbers
    are the same on every machine, which those of floats are not.
    """
    weights = np.zeros((len(probability), n_columns), dtype=np.int64)
    live = weights[:, : probability.shape[1]]
    live += np.rint(probability * TOTAL).astype(np.int64)
    live += np.rint(probability * missing(weights)[:, None]).astype(np.int64)
    weights[np.arange(len(weights)), weights.argmax(axis=1)] += missing(weights)
    return weights


def missing(weights):
    """Return what each row lacks to 2⁶²."""
    return TOTAL - weights.sum(axis=1)


def split(weights):
    """Return own, keep and other, each (R, L), of weights (R, L) that add up to 2⁶².

    Lay the gaps of the entries below 2⁶²/L end to end, and beside them the
    surpluses of the entries above. The surplus beside the start of a gap fills
    it whole. A surplus that ends inside a gap has then given more than it
    had: that is the gap of its own column, and the next surplus, whose start
    is here, fills it. (After the sweep of Hübschle-Schneider & Sanders, "Parallel
    Weighted Random Sampling", ESA 2019, for all rows at once.)
    """
    R, L = weights.shape
    full = TOTAL // L
    first, column = np.arange(0, R * L, L)[:, None], np.arange(L)  # flat indices: those of `*_along_axis` take longer
    larger = weights > full
    before = np.cumsum(larger, axis=1)  # how many surpluses come up to here
    n_surplus = before[:, -1:]
    place = np.where(larger, before - 1, n_surplus + column - before) + first  # the surpluses first, then the gaps
    order, w = np.empty((R, L), dtype=np.intp), np.empty((R, L), dtype=np.int64)
    order.reshape(-1)[place], w.reshape(-1)[place] = column, weights
    surplus = column < n_surplus
    position = np.where(surplus, column, column - n_surplus)  # among those of its kind
    change = np.cumsum(w - full, axis=1)
    end = np.where(surplus, change, change.max(axis=1, keepdims=True).clip(min=0) - change)
    rank = np.empty((R, L), dtype=np.intp)
    rank.reshape(-1)[np.argsort(end, axis=1, kind="stable") + first] = column
    passed = rank - position  # how many of the other kind end before this one, or with it
    gap = np.minimum(n_surplus + passed, L - 1)  # where a surplus ends
    beside = np.zeros((R, L), dtype=np.intp)
    beside[:, 1:] = passed[:, :-1]
    beside[position == 0] = 0  # the first gap starts beside the first surplus
    keep = np.where(surplus, full - (end.take(gap + first) - end), w)
    other = order.take(np.minimum(np.where(surplus, position + 1, beside), L - 1) + first)
    keep, other = keep.take(place), other.take(place)
    other = np.where(keep == full, column, other)  # nobody fills a full column
    return np.where(keep == 0, other, column), np.where(keep == 0, full, keep), other
