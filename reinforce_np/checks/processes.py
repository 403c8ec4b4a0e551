"""Supermartingales that start at one: evidence against an estimator that may be looked at whenever one likes.

For X of mean μ, every scale a and both signs,

    E_n = exp(Σₙ φ(±a(Xₙ − μ)))/(1 + a²v/2)ⁿ          when only a bound v on the variance is known,
    E_n = exp(Σₙ ±a(Xₙ − μ) − n K(±a))                 when K(l) = log E exp(l(X − μ)) is: all batches were listed,

start at one and are not expected to grow, whatever happened before: nonnegative
supermartingales. So is their average over moments, components, signs and a grid
of scales, and it ever exceeds 1/α with probability at most α (Ville's
inequality), however often one looks. φ is Catoni's function (`checks.means`).

References
----------
Wang & Ramdas, "Catoni-style confidence sequences for heavy-tailed mean estimation", Stochastic
Processes and their Applications 163 (2023), 168-202; Ramdas, Grünwald, Vovk & Shafer, "Game-theoretic
statistics and safe anytime-valid inference", Statistical Science 38 (2023), 576-601, for the rest.
"""

from dataclasses import dataclass

import numpy as np

from reinforce_np.checks.means import catoni

SCALES = 2.0 ** -np.arange(11)  # a, in units of 1/σ: each is best for 4 times as many batches as the one before


@dataclass(frozen=True, eq=False)
class EProcess:
    """The average of many supermartingales, as sums that grow with every batch.

    Parameters
    ----------
    judged : bool array (2, C)
        Which moments of which components are judged: those of known variance.
    means, roundings : array (Q,)
        Of these.
    scales : array (G, Q)
        a.
    costs : array (2, G, Q)
        log E of one factor, for +a and −a.
    listed : bool
        Whether the costs are cumulants, and φ the identity.
    """

    judged: np.ndarray
    means: np.ndarray
    roundings: np.ndarray
    scales: np.ndarray
    costs: np.ndarray
    listed: bool

    def terms(self, statistics):
        """Return φ(a(X − μ)) of statistics (N, 2, C), shape (N, G, Q), to be added up."""
        terms = self.scales * (statistics[:, self.judged] - self.means)[:, None, :]
        return terms if self.listed else catoni(terms)

    def sums_of_listed(self, deviations):
        """Return the sum of the terms of batches with the total deviations Σ(X − μ) (..., 2, C), where φ is the identity."""
        return self.scales * deviations[..., self.judged][..., None, :]

    def log_e_value(self, sums, n):
        """Return log E_n of sums (..., G, Q) over n batches."""
        by_rounding = n * self.scales * self.roundings
        each = np.stack([sums - n * self.costs[0] - by_rounding, -sums - n * self.costs[1] - by_rounding], axis=-3)
        each = each.reshape(*each.shape[:-3], -1)
        largest = each.max(axis=-1)
        return largest + np.log(np.exp(each - largest[..., None]).mean(axis=-1))


def e_process_of(law):
    """Return the `EProcess` of a law: by its cumulants where all values are listed, by its variances otherwise.

    Examples
    --------
    >>> from reinforce_np import Discounted, Problem, TabularSoftmax, algorithms, examples
    >>> from reinforce_np.checks.laws import law_of
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2))
    >>> process = e_process_of(law_of(algorithms.reinforce(), problem, Discounted()))
    >>> float(process.log_e_value(np.zeros((11, 4)), 0))
    0.0
    """
    judged = np.isfinite(law.variances)
    means, roundings = law.means[judged], law.roundings[judged]
    scales = SCALES[:, None] / np.sqrt(law.variances[judged])
    if law.values is None:
        cost = np.broadcast_to(np.log1p(0.5 * SCALES[:, None] ** 2), scales.shape)
        return EProcess(judged, means, roundings, scales, np.stack([cost, cost]), False)
    happens = law.probabilities > 0  # not so where it underflows
    p, values = law.probabilities[happens], law.values[happens]
    values = np.stack([values, values**2], axis=1)[:, judged]
    apart, log_p = values - p @ values, np.log(p)[:, None]
    costs = np.array([[_log_sum(log_p + sign * a * apart) for a in scales] for sign in (1.0, -1.0)])
    return EProcess(judged, means, roundings, scales, costs, True)


def _log_sum(x):
    """Return log Σ exp(x) along the first axis."""
    largest = x.max(axis=0)
    return largest + np.log(np.exp(x - largest).sum(axis=0))
