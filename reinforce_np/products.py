"""Products of matrices on one thread.

Several threads wait for each other at every product: that costs more than it
gains where there are many, and several times as much on a machine that is busy.
"""

import math
from functools import lru_cache, partial

import numpy as np

ONE_THREAD = 2**18  # real multiplications up to which OpenBLAS keeps a product of two matrices to one thread
ONE_THREAD_ROW = 9216  # the same for a product of a vector and a matrix
INNER = 2**8  # terms of a sum that are added up at a time, so that blocks do not become too small
dot = np.ndarray.dot  # the same as np.dot, of arrays, and 0.2 µs quicker: two thirds of a small product
FEW_COLUMNS = 32  # at a time, below which BLAS is not quicker than a loop


def rows_of_one_thread(y):
    """Return how many rows to multiply by y at a time so that BLAS keeps to one thread."""
    return ONE_THREAD // max(_multiplications(y), 1)


def one_thread_will_do(y):
    """Say whether BLAS keeps a product of a vector and y to one thread."""
    return _multiplications(y) < ONE_THREAD_ROW


def columns_of_one_thread(y):
    """Return which columns of y (slices) to multiply a vector with at a time so that BLAS keeps to one thread.

    Examples
    --------
    >>> columns_of_one_thread(np.ones((100, 150)))
    [slice(0, 75, None), slice(75, 150, None)]
    """
    m = y.shape[1]
    width = _even(m, m * (ONE_THREAD_ROW - 1) // max(_multiplications(y), 1))
    return [slice(j, j + width) for j in range(0, m, width)]


def product_of(rows, y):
    """Return the quickest function on one thread that multiplies so many rows, and fewer, with y: ``product(x, y, out)``."""
    return dot if rows * _multiplications(y) <= ONE_THREAD else on_one_thread


def row_product_of(y):
    """Return the quickest function on one thread that multiplies single rows with y: ``product(x, out)``, of vectors.

    Examples
    --------
    >>> row_product_of(np.array([[1.0, 0.5], [0.0, 0.5]]))(np.array([2.0, 4.0]), np.empty(2))
    array([2., 3.])
    """
    if one_thread_will_do(y):
        return y.T.dot
    columns = np.ascontiguousarray(y.T)
    blocks = [(columns[part].dot, part) for part in columns_of_one_thread(y)]

    def product(x, out):
        for of_part, part in blocks:
            of_part(x, out[part])
        return out

    return product


def adding_rows(terms):
    """Return the quickest function on one thread that adds up the rows of `terms`, and of what is as large: ``add_up(terms, out)``."""
    if one_thread_will_do(terms):
        return _ones(len(terms), terms.dtype).dot
    return partial(np.add.reduce, axis=0)


def inner(x, y):
    """Return Σᵢ x y over the last axis of arrays of the same shape; where that is little, quicker than `einsum` begins.

    Examples
    --------
    >>> inner(np.array([[1.0, 2.0], [0.5, 0.0]]), np.array([[1.0, 1.0], [2.0, 2.0]]))
    array([3., 1.])
    """
    if not one_thread_will_do(x):
        return np.einsum("...i,...i->...", x, y)
    terms = x * y
    n = terms.shape[-1]
    return terms.reshape(-1, n).dot(_ones(n, terms.dtype)).reshape(terms.shape[:-1])


@lru_cache
def _ones(n, dtype):
    ones = np.ones(n, dtype)
    ones.setflags(write=False)
    return ones


def on_one_thread(x, y, out):
    """Return x y (n, m), written to `out`, in blocks as large as BLAS keeps to one thread, and as square as they can be.

    A single row is quickest where y lies by columns, as transposed matrices do, and is not too large.

    Examples
    --------
    >>> on_one_thread(np.ones((2, 3)), np.ones((3, 1)), np.empty((2, 1)))
    array([[3.],
           [3.]])
    """
    (n, inner), m = x.shape, y.shape[1]
    if n == 1 and not one_thread_will_do(y):
        parts = columns_of_one_thread(y)
        if parts[0].stop < FEW_COLUMNS or not y.flags.f_contiguous:
            return np.einsum("ni,im->nm", x, y, out=out)
        for part in parts:
            dot(y.T[part], x[0], out[0, part])
        return out
    at_once = max(m * ONE_THREAD // max(_multiplications(y), 1), 1)  # entries of a block
    if inner > INNER and min(n, m) ** 2 > at_once:  # they would be small
        on_one_thread(x[:, :INNER], y[:INNER], out)
        room = np.empty_like(out)
        for i in range(INNER, inner, INNER):
            out += on_one_thread(x[:, i : i + INNER], y[i : i + INNER], room)
        return out
    width = _even(m, max(at_once // max(n, 1), math.isqrt(at_once)))
    height = _even(n, at_once // max(width, 1))
    if height >= n and width >= m:
        return dot(x, y, out)
    for j in range(0, m, width):
        for i in range(0, n, height):
            np.matmul(x[i : i + height], y[:, j : j + width], out=out[i : i + height, j : j + width])
    return out


def _multiplications(y):
    """Return what a row times y takes, in multiplications of real numbers."""
    return y.size * (5 if y.dtype.kind == "c" else 1)  # of complex numbers a quarter, and not as many as that


def _even(n, most):
    """Return the size of parts, all about as large and none above `most`, of n things."""
    parts = max(-(-n // max(most, 1)), 1)
    return max(-(-n // parts), 1)
