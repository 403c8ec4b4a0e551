"""A test of a mean that needs only the exact variance, and holds for every n.

Policy-gradient estimates are rare and large: their tails are far from normal,
a t-test rejects correct estimators, and bounds that use the range (Bernstein,
Hoeffding) are helpless when the range is a thousand standard deviations. But
the variance is known exactly, and that is enough. With Catoni's function

    φ(x) = sign(x) log(1 + |x| + x²/2),      exp(φ(x)) <= 1 + x + x²/2,

and X of mean μ and variance at most v, for every a > 0

    E exp(Σₙ φ(a(Xₙ − μ))) <= (1 + a²v/2)ᴺ,

so by Markov's inequality S = Σₙ φ(a(Xₙ − μ)) exceeds L + N log(1 + a²v/2)
with probability at most exp(−L). Large terms enter only by their logarithm.

References
----------
Catoni, "Challenging the empirical mean and empirical variance: a deviation
study", Annales de l'IHP Probabilités et Statistiques 48 (2012), section 2.
"""

import numpy as np


def catoni(x):
    """φ(x) = sign(x) log(1 + |x| + x²/2): x when small, logarithmic when large.

    Examples
    --------
    >>> catoni(np.array([-1e-9, 0.0, 2.0]))
    array([-1.00000000e-09,  0.00000000e+00,  1.60943791e+00])
    """
    size = np.abs(x)
    return np.copysign(np.log1p(size + 0.5 * size * size), x)


def catoni_scale(n, variance, log_odds):
    """a = sqrt(log_odds / (n v)): the scale that lets a mean of n detect the smallest bias.

    Parameters
    ----------
    n : int
        Number of terms.
    variance : array
        v > 0; where it is infinite the scale is zero, and nothing is tested.
    log_odds : float
        log(1/false alarm) + log(1/miss).

    Returns
    -------
    array
    """
    return np.sqrt(log_odds / n) / np.sqrt(variance)


def catoni_log_probability(statistic, n, variance, scale):
    """Return the log of the bound on P(Σφ(a(X − μ)) >= statistic), at most zero.

    Parameters
    ----------
    statistic : array
        Σₙ φ(a(Xₙ − μ)), or minus that for the other side.
    n, variance, scale
        N, v and a.

    Returns
    -------
    array
    """
    return np.minimum(0.0, n * np.log1p(_half_square(scale, variance)) - statistic)


def catoni_detectable(n, variance, scale, log_false_alarm, log_miss):
    """Return the bias b that is rejected with probability 1 − miss.

    A biased X has mean μ + b and variance at most v. Then, as above,
    E exp(−S) <= (1 − ab + a²(v + b²)/2)ᴺ, and S exceeds the threshold with
    probability 1 − miss as soon as

        (1 − ab + a²(v + b²)/2) (1 + a²v/2) <= exp(−(log 1/false alarm + log 1/miss)/N).

    Parameters
    ----------
    n, variance, scale
        N, v and a.
    log_false_alarm, log_miss : float
        log(1/probability), both > 0.

    Returns
    -------
    array
        Infinite where n is too small for any bias to be noticed.

    Examples
    --------
    >>> a = catoni_scale(10_000, 1.0, 20.0)
    >>> float(catoni_detectable(10_000, np.array(1.0), a, 15.0, 5.0)) < 0.1
    True
    """
    half = _half_square(scale, variance)
    c = half - np.expm1(-(log_false_alarm + log_miss) / n - np.log1p(half))
    with np.errstate(divide="ignore", invalid="ignore"):
        root = 2 * c / (1 + np.sqrt(np.maximum(1 - 2 * c, 0.0)))  # 1 − sqrt(1 − 2c), without cancellation
        return np.where((c < 0.5) & (scale > 0), root / scale, np.inf)


def _half_square(scale, variance):
    """Return a²v/2, zero where nothing is tested."""
    variance = np.asarray(variance, dtype=np.float64)
    return 0.5 * (np.where(scale > 0, scale, 0.0) * np.sqrt(np.where(np.isfinite(variance), variance, 0.0))) ** 2
