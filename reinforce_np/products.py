"""Products of matrices on one thread.

Several threads wait for each other at every product: that costs more than it
gains where there are many, and several times as much on a machine that is busy.
"""

import numpy as np

ONE_THREAD = 2**18  # multiplications up to which OpenBLAS keeps a product of two matrices to one thread
ONE_THREAD_ROW = 9216  # the same for a product of a vector and a matrix


def rows_of_one_thread(y):
    """Return how many rows to multiply by y at a time so that BLAS keeps to one thread."""
    return ONE_THREAD // max(y.size, 1)


def one_thread_will_do(y):
    """Say whether BLAS keeps a product of a vector and y to one thread."""
    return y.size < ONE_THREAD_ROW


def on_one_thread(x, y, out):
    """Return x y (n, m), written to `out`, by as many rows at a time as BLAS keeps to one thread; at least one.

    Examples
    --------
    >>> on_one_thread(np.ones((2, 3)), np.ones((3, 1)), np.empty((2, 1)))
    array([[3.],
           [3.]])
    """
    rows = max(rows_of_one_thread(y), 1)
    for i in range(0, len(x), rows):
        np.dot(x[i : i + rows], y, out=out[i : i + rows])
    return out
