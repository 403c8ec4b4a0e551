"""The record of an estimator's exact moments, and the accuracy they buy."""

import math
import sys
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments

DOUBLE = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Moments:
    """Exact mean and covariance of an estimate from one batch.

    Parameters
    ----------
    mean : array (D,)
        E[ĝ].
    variance : array (D,)
        Var[ĝ_i].
    covariance : array (D, D) or None
        Cov[ĝ], where it was asked for.
    second_moment : array (D,)
        E[ĝ_i²]: what rounding is judged against.
    scale : array (D,)
        Size of the rewards and baselines that may have cancelled in ĝ_i.
    n_steps : int
        T, the number of terms a component may be the sum of.
    n_batches : int or None
        How many batches were listed, if any.
    route : str
        How it was computed.
    precision : float
        Unit rounding of the arithmetic that estimates were computed in.
    residual : float or None
        Without a horizon the recursion ends when it has settled: how much its last step still changed, relative
        to the moment that changed most. None where nothing is left to settle.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples, moments
    >>> found = moments(algorithms.reinforce(), examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2))
    >>> found.total_variance, found.batches_needed(standard_error=0.01)
    (0.125, 625)
    """

    mean: np.ndarray
    variance: np.ndarray
    covariance: np.ndarray | None
    second_moment: np.ndarray
    scale: np.ndarray
    n_steps: int
    n_batches: int | None
    route: str
    precision: float = DOUBLE
    residual: float | None = None

    @property
    def total_variance(self):
        """Σ_i Var[ĝ_i], a float."""
        return float(self.variance.sum())

    @property
    def signal_to_noise(self):
        """‖E[ĝ]‖ / sqrt(Σ_i Var[ĝ_i]) of one batch; infinite without variance, None when both are zero."""
        signal, noise = norm(self.mean), math.sqrt(self.total_variance)
        return signal / noise if noise else math.inf if signal else None

    def batches_needed(self, *, standard_error=None, signal_to_noise=None):
        """Return how many independent batches, averaged, reach an accuracy.

        Parameters
        ----------
        standard_error : float, optional
            Largest allowed standard error of any component.
        signal_to_noise : float, optional
            ‖E[ĝ]‖ over the root of the total variance of the average; give
            this or `standard_error`.

        Returns
        -------
        int
        """
        if (standard_error is None) == (signal_to_noise is None):
            raise ValueError(
                f"standard_error={standard_error!r} and signal_to_noise={signal_to_noise!r}: give exactly one of them"
            )
        if standard_error is not None:
            target = arguments.number("standard_error", standard_error, low=0.0, open_low=True, rule="a number > 0")
            ratio = _squared(math.sqrt(self.variance.max(initial=0.0)), target)
        else:
            target = arguments.number("signal_to_noise", signal_to_noise, low=0.0, open_low=True, rule="a number > 0")
            if not np.any(self.mean):
                raise ValueError(f"signal_to_noise={target!r} is out of reach: the mean is zero, so there is no signal")
            ratio = _squared(target * math.sqrt(self.total_variance), norm(self.mean))
        if math.isinf(ratio):
            raise ValueError(
                f"{'standard_error' if standard_error is not None else 'signal_to_noise'}={target!r} is out of reach: it takes more "
                "batches than a number can hold; ask for less"
            )
        return max(1, math.ceil(ratio * (1 - 1e-12)))


def norm(x):
    """Return ‖x‖, however large or small its entries are."""
    largest = float(np.abs(x).max(initial=0.0))
    return largest * float(np.linalg.norm(x / largest)) if largest else 0.0


def _squared(a, b):
    """Return (a/b)², infinite where it leaves float64."""
    ratio = a / b if b >= sys.float_info.min else math.inf if a else 0.0
    return ratio * ratio
