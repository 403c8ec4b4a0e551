"""How a run of n batches is judged, from sums over its batches alone.

`confirm` adds up the terms of the batches it draws. Who knows the law of the
estimates may as well draw how often each value occurs, and multiply: so the
rates of error are measured on the very statistic that judges
(``benchmarks/bench_promises.py``).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from reinforce_np.checks.means import MISS, MeanTest


@dataclass(frozen=True, eq=False)
class RunTest:
    """The test of X and X² over n batches, each component of each by Catoni's function, and all together by cumulants.

    Parameters
    ----------
    law : Law
        What the estimates must do if the estimator is right.
    n : int
        Number of batches.
    alpha : float
        Shared by all tests.
    others : int
        Tests of something else that share it too.
    miss : float
        As in `MeanTest`.

    Examples
    --------
    >>> from reinforce_np import Discounted, Problem, TabularSoftmax, algorithms, examples
    >>> from reinforce_np.checks.laws import law_of
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2))
    >>> law = law_of(algorithms.reinforce(), problem, Discounted())
    >>> test = RunTest(law, n=1000, alpha=1e-6)
    >>> occurrences = np.random.default_rng(0).multinomial(1000, law.probabilities, size=5)    # five runs
    >>> test.rejects(np.tensordot(occurrences, test.terms(law.values), axes=1))
    array([False, False, False, False, False])
    """

    law: Any
    n: int
    alpha: float
    others: int = 0
    miss: float = MISS

    @property
    def log_odds(self):
        """log(1/share of alpha) of each test."""
        return self.law.log_odds(self.alpha, self.others)

    @cached_property
    def of_means(self):
        """The `MeanTest` of X and X², its arrays of shape (2, C)."""
        law = self.law
        return MeanTest(self.n, law.means, law.variances, law.roundings, self.log_odds, self.miss)

    def terms(self, X):
        """Return what is added up of estimates X (N, C): φ(a(X − μ)) and X − μ, of X and of X², shape (N, 2, 2, C)."""
        statistics = self.law.statistics(X)
        return np.stack([self.of_means.terms(statistics), statistics - self.law.means], axis=1)

    def log_probability(self, sums):
        """Return bounds on the log-probability of each moment's deviation from sums (..., 2, 2, C), shape (..., 2, C)."""
        return self.of_means.log_probability(sums[..., 0, :, :])

    def log_e_value(self, sums):
        """Return log E of all moments together, shape (...); zero where not all values are known."""
        process = self.law.process
        if not process.listed:
            return np.zeros(sums.shape[:-3])
        return process.log_e_value(process.sums_of_listed(sums[..., 1, :, :]), self.n)

    def rejects(self, sums):
        """Return whether a run with these sums (..., 2, 2, C) is rejected, shape (...)."""
        least = self.log_probability(sums).min(axis=(-2, -1))
        return np.minimum(least, -self.log_e_value(sums)) < -self.log_odds
