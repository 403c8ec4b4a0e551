"""Are batches independent? The one thing about a sampler that no single trajectory shows.

Workers with equal seeds each draw from the right law, but not independently:
what they say together is worth less than it seems. For Z of mean zero and
variance v, and a set of G batches,

    P = Σ_{i<j} Zᵢ Zⱼ / sqrt(G(G−1)/2)

has mean zero and variance v² when the batches are independent: exactly, since different
products are uncorrelated. Batches that resemble one another make it positive.

The sets are neighbours; batches that lie a half, a third, ... of a call apart,
where a sampler that shares a call among workers puts the same place of
different streams; a whole call; and the same place of two calls.
"""

import math

SHARES = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 15)
SETS = (
    "neighbours",
    *(f"batches 1/{G} of a call apart" for G in SHARES),
    "a whole call",
    "two calls, place by place",
)
"""The kinds of sets, in words."""


def products(kind, Z, before=None):
    """Return P of every set of one kind in a call.

    Parameters
    ----------
    kind : str
        One of `SETS`.
    Z : array (B, Q)
        What B batches of a call say, less its mean.
    before : array (B', Q), optional
        The same of the call that this one is compared with.

    Returns
    -------
    array (sets, Q)

    Examples
    --------
    >>> import numpy as np
    >>> products("batches 1/2 of a call apart", np.array([[1.0], [2.0], [1.0], [-2.0]]))[:, 0]
    array([ 1., -4.])
    """
    if kind == "two calls, place by place":
        m = 0 if before is None else min(len(Z), len(before))
        return Z[:m] * before[:m] if m else Z[:0]
    if kind == "neighbours":
        return Z[: len(Z) // 2 * 2 : 2] * Z[1::2]
    G = len(Z) if kind == "a whole call" else SHARES[SETS.index(kind) - 1]
    if G < 2 or len(Z) < G:
        return Z[:0]
    sets = Z[: len(Z) // G * G].reshape(G, -1, Z.shape[1])
    return (sets.sum(axis=0) ** 2 - (sets**2).sum(axis=0)) / 2 / math.sqrt(G * (G - 1) / 2)


def n_sets(kind, size, before=0):
    """Return how many sets of one kind a call of so many batches has, compared with one of `before`."""
    if kind == "two calls, place by place":
        return min(size, before)
    if kind in ("neighbours", "a whole call"):
        return size // 2 if kind == "neighbours" else int(size > 1)
    return size // SHARES[SETS.index(kind) - 1]
