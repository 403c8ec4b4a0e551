"""An interval for the mean of a function about whose scatter nothing is known: a description, not a verdict.

No interval can be guaranteed then (Bahadur & Savage, "The nonexistence of certain
statistical procedures in nonparametric problems", Annals of Mathematical Statistics 27, 1956): a rare and large
estimate that the sample did not meet moves the mean as far as it likes.
"""

import statistics
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Interval:
    """What `confirm` returns when the law of the estimate is not known: it has no guarantee, and no truth value.

    Parameters
    ----------
    n : int
        Batches drawn.
    alpha : float
        The interval would miss the mean in some component with this
        probability if averages of n estimates were normal, which they need not be.
    components : int array (C,)
        Which components of the gradient.
    estimate, gradient : array (C,)
        Monte Carlo mean, and exact gradient.
    standard_error : array (C,)
        Of the sample: an estimate, not a bound.
    low, high : array (C,)
        Ends of the interval.
    batches : str
        What was drawn, in words.
    """

    n: int
    alpha: float
    components: np.ndarray
    estimate: np.ndarray
    gradient: np.ndarray
    standard_error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    batches: str = "trajectories"

    guaranteed = False
    rejected = False  # nothing ever is, without a guarantee

    @property
    def outside(self):
        """In which components the gradient lies outside the interval, bool array (C,)."""
        return (self.gradient < self.low) | (self.gradient > self.high)

    def __bool__(self):
        raise TypeError(
            "this interval carries no guarantee, so it neither confirms nor rejects: read low, high and outside, or say how much an "
            "estimate scatters, with like= (an Estimator), variance= or bound="
        )

    def __str__(self):
        i = int(np.argmax(np.abs(self.estimate - self.gradient) / np.maximum(self.standard_error, 1e-300)))
        outside = int(self.outside.sum())
        where = (
            f"the gradient lies outside the interval in {outside} of"
            if outside
            else "the gradient lies within the intervals of all"
        )
        return (
            f"NO GUARANTEE, no verdict: nothing is known of how much this function scatters, and a sample may not show it; over {self.n} "
            f"{self.batches} {where} {len(self.components)} components, farthest in component {self.components[i]}: estimate "
            f"{self.estimate[i]:.6g}, interval [{self.low[i]:.6g}, {self.high[i]:.6g}] (nominal level 1 - {self.alpha:g}), exact gradient "
            f"{self.gradient[i]:.6g}. For a verdict pass like= (an Estimator whose variance it should have), variance= or bound="
        )


def interval_of(n, alpha, components, gradient, total, squares, batches):
    """Return the normal interval, all components together at level 1 − alpha.

    Parameters
    ----------
    n, alpha, components, gradient, batches
        As in `Interval`.
    total, squares : array (C,)
        Σ (X − gradient) and Σ (X − gradient)².

    Returns
    -------
    Interval
    """
    mean = total / n
    variance = np.maximum(squares - n * mean**2, 0.0) / max(n - 1, 1)
    error = np.sqrt(variance / n) if n > 1 else np.full_like(mean, np.inf)
    width = -statistics.NormalDist().inv_cdf(alpha / (2 * len(components))) * error
    estimate = gradient + mean
    return Interval(n, alpha, components, estimate, gradient, error, estimate - width, estimate + width, batches)
