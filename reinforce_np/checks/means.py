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

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MISS = 0.01  # chance of not noticing what is called detectable
TINY = 1e-140  # deviation of what is always zero, so that anything else is noticed


@dataclass(frozen=True, eq=False)
class MeanTest:
    """Catoni's test of several means at once, each two-sided, with terms that are added up as they come.

    Parameters
    ----------
    n : int
        Number of independent terms of each mean.
    means, variances, roundings : array (...)
        E[X] under the hypothesis, an upper bound on Var[X] (infinite: not
        tested), and how far rounding may move an X.
    log_odds : float
        log(1/false alarm) of one side of one mean.
    miss : float
        The scale is the one that detects the smallest bias with probability 1 − miss.

    Examples
    --------
    >>> test = MeanTest(1000, np.zeros(1), np.ones(1), np.zeros(1), log_odds=15.0)
    >>> x = np.random.default_rng(0).standard_normal((1000, 1))
    >>> bool(test.rejects(test.terms(x).sum(axis=0)).any()), bool(test.rejects(test.terms(x + 0.5).sum(axis=0)).any())
    (False, True)
    """

    n: int
    means: np.ndarray
    variances: np.ndarray
    roundings: np.ndarray
    log_odds: float
    miss: float = MISS

    @cached_property
    def scales(self):
        """The scale a of each test, shape (...)."""
        return catoni_scale(self.n, self.variances, self.log_odds - math.log(self.miss))

    def terms(self, values):
        """Return φ(a(X − μ)) of values (N, ...), to be added up."""
        return catoni(self.scales * (values - self.means))

    def log_probability(self, sums):
        """Return bounds on the log-probability of |Σφ| as large as `sums` (..., shape of the means), either side."""
        by_rounding = self.n * self.scales * self.roundings  # φ grows no faster than its argument
        return catoni_log_probability(np.abs(sums) - by_rounding, self.n, self.variances, self.scales)

    def rejects(self, sums):
        """Return which means are rejected, at the false-alarm rate of a side."""
        return self.log_probability(sums) < -self.log_odds


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
