"""How far a mean can stray: Bernstein's inequality, with the exact variance.

A t-test is no verdict here: with rare large terms it rejects correct
estimators far more often than it promises. The law under the null is known,
so its exact variance and range are used, and the promise holds for every n.

    P(|mean − μ| ≥ e) ≤ 2 exp(−n e² / (2σ² + 2Me/3)),     |X − μ| ≤ M
"""

import numpy as np


def bernstein_threshold(n, variance, bound, alpha):
    """Return the deviation e that a mean of n exceeds with probability at most `alpha`.

    The positive root of n e² = L (2σ² + 2Me/3), L = log(2/α).

    Parameters
    ----------
    n : int
        Number of independent terms.
    variance : array
        σ², exact.
    bound : array
        M, on the deviation of one term from its mean.
    alpha : float
        Two-sided error probability.

    Returns
    -------
    array
        e >= 0, in the units of the terms.

    References
    ----------
    Boucheron, Lugosi & Massart, *Concentration Inequalities* (2013),
    section 2.8, equation (2.10) and Corollary 2.11.

    Examples
    --------
    >>> float(bernstein_threshold(1000, 1.0, 0.0, 2 * np.exp(-2)))
    0.0632455532033675...
    """
    L = np.log(2 / alpha)
    linear = L * bound / (3 * n)
    return linear + np.sqrt(linear**2 + 2 * L * variance / n)


def bernstein_log_probability(n, variance, bound, deviation):
    """Return the logarithm of the bound on P(|mean − μ| ≥ deviation), at most 0.

    Parameters
    ----------
    n, variance, bound
        As in `bernstein_threshold`.
    deviation : array
        e >= 0.

    Returns
    -------
    array

    Examples
    --------
    >>> float(bernstein_log_probability(1000, 1.0, 0.0, 0.1)) == np.log(2) - 5
    True
    """
    deviation = np.asarray(deviation, dtype=np.float64)
    spread = 2 * np.asarray(variance) + 2 * np.asarray(bound) * deviation / 3
    exponent = np.full(np.broadcast(deviation, spread).shape, np.inf)  # no spread: any deviation is impossible
    np.divide(n * deviation**2, spread, out=exponent, where=spread > 0)
    return np.where(deviation == 0, 0.0, np.minimum(0.0, np.log(2) - exponent))


def bernstein_sample_size(deviation, variance, bound, alpha):
    """Return the least n whose threshold is at most `deviation`: n = L (2σ² + 2Me/3)/e², rounded up.

    Parameters
    ----------
    deviation : array
        e > 0.
    variance, bound, alpha
        As in `bernstein_threshold`.

    Returns
    -------
    float array

    Examples
    --------
    >>> float(bernstein_sample_size(0.1, 1.0, 0.0, 2 * np.exp(-5)))
    1000.0
    """
    L = np.log(2 / alpha)
    return np.ceil(L * (2 * np.asarray(variance) + 2 * np.asarray(bound) * deviation / 3) / deviation**2 - 1e-9)
