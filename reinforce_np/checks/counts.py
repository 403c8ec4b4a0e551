"""Do counts agree with probabilities? A likelihood ratio that may be looked at whenever one likes.

Draws come one after the other, each from the same probabilities p of A cells, and how
many there will be may depend on what was drawn. If p is right, the ratio of
the counts' probability under a mixture of all others to that under p,

    E = [Γ(A/2)/Γ(N + A/2) Πᵢ Γ(kᵢ + ½)/Γ(½)] / Πᵢ pᵢ^kᵢ,

is a martingale that starts at one, so that it ever exceeds 1/α with
probability at most α (Ville). So is an average of such ratios.

References
----------
Lindon & Malek, "Anytime-Valid Inference for Multinomial Count Data", NeurIPS 2022; Krichevsky & Trofimov, "The
performance of universal encoding", IEEE Transactions on Information Theory 27 (1981), for the mixture.
"""

import math

import numpy as np

HALF = 0.5  # Dirichlet prior of every cell: costs (A − 1)/2 log N at most, whatever the truth is


def log_ratio(counts, p):
    """Return log E of counts (..., A) against probabilities p (..., A); cells of probability zero must be empty.

    Examples
    --------
    >>> p = np.array([0.5, 0.5])
    >>> log_ratio(np.array([[50, 50], [80, 20]]), p).round(1)
    array([-2.5, 16.7])
    """
    p = np.broadcast_to(p, counts.shape)
    cells = (p > 0).sum(axis=-1)
    log_p = np.log(np.where(p > 0, p, 1.0))
    mixture = np.where(p > 0, _log_gamma(counts + HALF) - math.lgamma(HALF), 0.0).sum(axis=-1)
    mixture = (
        mixture
        + _log_gamma(HALF * np.maximum(cells, 1))
        - _log_gamma(counts.sum(axis=-1) + HALF * np.maximum(cells, 1))
    )
    return np.where(cells > 1, mixture - (counts * log_p).sum(axis=-1), 0.0)


def log_average(log_e):
    """Return the logarithm of the average of exp(log_e), zero of none."""
    if not log_e.size:
        return 0.0
    largest = float(log_e.max())
    return largest + math.log(float(np.exp(log_e - largest).mean()))


def _log_gamma(x):
    return np.asarray(np.frompyfunc(math.lgamma, 1, 1)(x), dtype=np.float64)
