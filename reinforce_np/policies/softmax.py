"""The softmax and its derivatives, by hand, accurate when one action dominates.

All functions act on the last axis (actions) and accept complex arrays, so
that derivatives of everything built on them can be checked by complex step.

The one numerical trap is 1 − π(a): when action a dominates it loses every
digit by subtraction. It is the sum of the *other* probabilities, and that sum
is what is used everywhere below.
"""

from functools import lru_cache, reduce

import numpy as np

MANY = 32  # rows of weights from which a product of matrices is quicker than a loop over actions
SQUARE = 128  # actions up to which it is
LINE = 8  # numbers of a line of the cache
FEW = 16  # actions up to which a loop over them is quicker than a running sum along them
SMALL = 2**12  # numbers up to which one product is quicker still


def shifted_logits(logits, temperature):
    """Return (z − max z)/τ of each row, which entries are masked, and which one is the maximum.

    Masked entries (−inf, also by overflow of the difference: probability
    zero, correctly) are returned as zero, so that no arithmetic meets an
    infinity.
    """
    best = np.arange(logits.shape[-1]) == np.argmax(logits.real, axis=-1, keepdims=True)  # the first, of several
    masked = logits.real == -np.inf
    with np.errstate(over="ignore", invalid="ignore"):
        shifted = np.where(masked, 0.0, logits) - np.where(best, logits, 0.0).sum(axis=-1, keepdims=True)
        shifted = np.where(masked, 0.0, shifted) / temperature
    masked = masked | (shifted.real == -np.inf)
    return np.where(masked, 0.0, shifted), masked, best


def softmax(logits, temperature=1.0):
    """π(a) = exp(zₐ/τ) / Σ_b exp(z_b/τ), shape as `logits`.

    Examples
    --------
    >>> softmax(np.array([0.0, np.log(3.0), -np.inf]))
    array([0.25, 0.75, 0.  ])
    """
    if logits.shape[-1] <= FEW and logits.dtype.kind == "f":  # the same, an action at a time; exp(−∞) is zero
        columns = [logits[..., a] for a in range(logits.shape[-1])]
        with np.errstate(over="ignore"):
            shifted = logits - reduce(np.maximum, columns)[..., None]
            weights = np.exp(shifted if temperature == 1.0 else shifted / temperature)
        return weights / reduce(np.add, [weights[..., a] for a in range(logits.shape[-1])])[..., None]
    shifted, masked, _ = shifted_logits(logits, temperature)
    weights = np.where(masked, 0.0, np.exp(shifted))
    return weights / weights.sum(axis=-1, keepdims=True)


def log_softmax(logits, temperature=1.0):
    """log π(a) = zₐ/τ − log Σ_b exp(z_b/τ), shape as `logits`; −inf where masked.

    The sum over the actions other than the largest goes through log1p, so
    log π keeps its digits when it is close to zero.
    """
    shifted, masked, best = shifted_logits(logits, temperature)
    others = np.where(masked | best, 0.0, np.exp(shifted))
    return np.where(masked, -np.inf, shifted - np.log1p(others.sum(axis=-1, keepdims=True)))


def sum_of_others(x):
    """Σ_{b≠a} x_b for every a, without subtracting: sums from the left plus sums from the right.

    Examples
    --------
    >>> sum_of_others(np.array([1.0, 1e-30, 2e-30])) * 1e30
    array([3.e+00, 1.e+30, 1.e+30])
    """
    if x.shape[-1] <= FEW and x.size <= SMALL:
        others = _all_but_one(x.shape[-1])
        return x.dot(others) if x.ndim == 2 else x @ others  # the same, of two matrices a little quicker
    left = np.zeros_like(x)
    right = np.zeros_like(x)
    if x.shape[-1] <= FEW:  # the same sums, for all rows at once
        for a in range(1, x.shape[-1]):
            np.add(left[..., a - 1], x[..., a - 1], out=left[..., a])
            np.add(right[..., -a], x[..., -a], out=right[..., -a - 1])
        return left + right
    np.cumsum(x[..., :-1], axis=-1, out=left[..., 1:])
    np.cumsum(x[..., :0:-1], axis=-1, out=right[..., -2::-1])
    return left + right


@lru_cache(maxsize=FEW)
def _all_but_one(n):
    """Return the matrix of ones with zeros on its diagonal."""
    matrix = 1.0 - np.eye(n)
    matrix.setflags(write=False)
    return matrix


def logit_score(probabilities):
    """∂ log π(a) / ∂z_b = 1{a=b} − π(b) at τ = 1, shape (..., A, A).

    Rows of actions with probability zero are zero: a masked action is never
    taken, and its score is defined as zero.
    """
    pi = probabilities
    n_actions = pi.shape[-1]
    score = np.repeat(-pi[..., None, :], n_actions, axis=-2)
    diagonal = np.arange(n_actions)
    score[..., diagonal, diagonal] = sum_of_others(pi)
    return score


def contract_logit_score(probabilities, weights, out=None):
    """Σₐ w(a) ∂ log π(a)/∂z_b = w(b) − π(b) Σₐ w(a), shape (..., A), written to `out` if that is given.

    Written as w(b)·Σ_{a≠b} π(a) − π(b)·Σ_{a≠b} w(a), which keeps its digits.
    """
    pi = probabilities
    as_products = pi.ndim == 2 and weights.ndim == 3 and len(weights) >= MANY and pi.shape[1] <= SQUARE
    if as_products:  # the same sums, a few states at a time
        out = np.empty(weights.shape, dtype=np.result_type(weights, pi)) if out is None else out
        blocks = logit_score_of_states(pi)
        rows, pulled = (x.reshape(len(x), len(blocks), -1).swapaxes(0, 1) for x in (weights, out))
        np.matmul(rows, blocks, out=pulled)
        return out
    return np.subtract(weights * sum_of_others(pi), pi * sum_of_others(weights), out=out)


def logit_score_of_states(probabilities):
    """Return `logit_score` of a few states at a time, with zeros between states, (S/n, n·A, n·A): one line of the cache a row.

    A product with these is quicker than many with smaller ones.
    """
    S, A = probabilities.shape
    n = max(n for n in range(1, max(LINE // A, 1) + 1) if S % n == 0)
    blocks, s = np.zeros((S // n, n, A, n, A), dtype=probabilities.dtype), np.arange(n)
    blocks[:, s, :, s, :] = logit_score(probabilities).reshape(S // n, n, A, A).swapaxes(0, 1)
    return blocks.reshape(S // n, n * A, n * A)


def logit_covariance(probabilities):
    """Cov_π[1{a=b}, 1{a=c}] = diag(π) − ππᵀ, shape (..., A, A): minus the Hessian of any log π(a) at τ = 1."""
    return probabilities[..., :, None] * logit_score(probabilities)
