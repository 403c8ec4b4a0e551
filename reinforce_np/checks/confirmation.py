"""Does a Monte Carlo run agree with the exact gradient? Three verbs, one law.

`confirm` runs the estimator and judges its mean and its second moment;
`smallest_detectable_bias` says what a run of n could have caught, and
`trajectories_needed` how many it takes. All rest on the law of the estimator
under the hypothesis that it is right: its exact mean and variance, and a test
that needs nothing else and holds for every n (see `checks.means`).
"""

import math
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments
from reinforce_np.checks import means
from reinforce_np.estimators import algorithms
from reinforce_np.exact.batches import table_of
from reinforce_np.exact.derivatives import gradient as exact_gradient
from reinforce_np.exact.laws import DirectionalMoments, directional_moments
from reinforce_np.exact.objectives import Undiscounted
from reinforce_np.exact.values import largest_return, occupancy
from reinforce_np.sampling import sample_blocks

ALPHA = 1e-6
MISS = 0.01
MOST = 2**60  # trajectories anybody could ask for
CELLS = 2**22  # (trajectory, parameter) numbers held at once
ROUNDING = 16 * np.finfo(np.float64).eps  # per step, relative to the terms of an estimate
TINY = 1e-140  # deviation of what is always zero, so that anything else is noticed


@dataclass(frozen=True, eq=False)
class Law:
    """What an estimator must do if it is right, in the components that are judged.

    Parameters
    ----------
    components : int array (C,)
        Which components of the gradient are judged.
    gradient : array (C,)
        Exact ∇J_γ there: the mean under the hypothesis.
    moments : DirectionalMoments
        Exact moments and range of one trajectory's estimate.
    rounding : array (C,)
        How far float64 may move one trajectory's estimate.
    """

    components: np.ndarray
    gradient: np.ndarray
    moments: DirectionalMoments
    rounding: np.ndarray

    @property
    def means(self):
        """Mean of v·ĝ and of (v·ĝ)² under the hypothesis, shape (2, C)."""
        return np.array([self.gradient, self.moments.second_moment])

    @property
    def variances(self):
        """Upper bounds on the variances of v·ĝ and of (v·ĝ)², shape (2, C); infinite where unknown.

        The first is exact. A square is at most its largest value B times
        itself, so Var[X²] <= (B − E[X²]) E[X²].
        """
        square = self.moments.second_moment
        largest = np.maximum(self.moments.high**2, self.moments.low**2)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite where unknown or too large: not tested
            of_square = np.where(np.isfinite(largest), square * np.maximum(largest - square, 0.0), np.inf)
            least = np.maximum(self.rounding, TINY) ** 2
            return np.array([self.moments.variance + least, np.maximum(of_square + least * square, TINY**2)])

    @property
    def roundings(self):
        """How far rounding may move v·ĝ and (v·ĝ)², shape (2, C)."""
        size = np.sqrt(self.moments.second_moment)
        return np.array([self.rounding, self.rounding * (2 * size + self.rounding)])

    def log_odds(self, alpha):
        """log(1/false alarm) of one test of one side: all 4C of them share `alpha`."""
        return math.log(4 * len(self.components)) - math.log(alpha)

    def scales(self, n, alpha, miss=MISS):
        """Return the scale a of each test, shape (2, C)."""
        return means.catoni_scale(n, self.variances, self.log_odds(alpha) - math.log(miss))

    def detectable(self, n, alpha, miss=MISS):
        """Return the bias of the mean that a run of n catches with probability 1 − miss, per component."""
        scale = self.scales(n, alpha, miss)[0]
        bias = means.catoni_detectable(n, self.variances[0], scale, self.log_odds(alpha), -math.log(miss))
        return np.where(self.moments.second_moment == 0, 0.0, bias + 2 * self.rounding)


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Outcome of `confirm`; prints as a short paragraph and is true when nothing was rejected.

    Parameters
    ----------
    n : int
        Trajectories drawn.
    alpha : float
        Chance that a *correct* estimator is rejected, over all components
        and both moments together.
    components : int array (C,)
        Which components of the gradient were judged.
    estimate, gradient : array (C,)
        Monte Carlo mean, and exact gradient.
    standard_error : array (C,)
        Exact: the square root of the estimator's variance over n.
    z : array (C,)
        (estimate − gradient)/standard_error, for description only; zero where
        both are zero.
    smallest_detectable : array (C,)
        Bias that this run would have caught with probability 0.99.
    log_probability : array (2, C)
        Bounds on the log-probability of deviations as large as seen, of the
        first and second moments.
    rejected : bool
        Whether some deviation was less probable than its share of `alpha`.
    """

    n: int
    alpha: float
    components: np.ndarray
    estimate: np.ndarray
    gradient: np.ndarray
    standard_error: np.ndarray
    z: np.ndarray
    smallest_detectable: np.ndarray
    log_probability: np.ndarray
    rejected: bool

    def __bool__(self):
        return not self.rejected

    @property
    def conclusive(self):
        """Whether the run could have caught something as large as the gradient itself.

        True when in some component that is not always zero the smallest
        detectable bias is below the gradient, or, where the gradient vanishes,
        below the spread of a single trajectory's estimate; and when the
        estimate is always zero, so that anything else would be noticed.
        """
        spread = self.standard_error * math.sqrt(self.n)
        scale = np.maximum(np.abs(self.gradient), np.where(np.abs(self.gradient) < 1e-3 * spread, spread, 0.0))
        moves = (spread > 0) | (self.gradient != 0)
        return bool(np.any((self.smallest_detectable <= scale)[moves]) if moves.any() else True)

    def __str__(self):
        i = int(np.argmin(self.log_probability.min(axis=0)))
        moment = "mean" if self.log_probability[0, i] <= self.log_probability[1, i] else "second moment"
        if self.rejected:
            return (
                f"REJECTED at alpha={self.alpha:g} over {self.n} trajectories: the {moment} of component "
                f"{self.components[i]} would deviate this much with probability below "
                f"10^{self.log_probability[:, i].min() / math.log(10):.1f} if the estimator were right; "
                f"estimate {self.estimate[i]:.6g} ± {self.standard_error[i]:.2g}, exact gradient {self.gradient[i]:.6g}"
            )
        text = f"not rejected at alpha={self.alpha:g} over {self.n} trajectories in {len(self.components)} components"
        return text if self.conclusive else text + ", but too few trajectories to notice even a missing gradient"


def confirm(mdp, policy, theta, n, *, estimator=None, alpha=ALPHA, components=None, executor=None, rng=None):
    """Draw `n` trajectories and judge the estimator's mean and second moment against the exact gradient.

    Parameters
    ----------
    mdp : FiniteMDP
        The model. Without a horizon only the mean is judged, not the second
        moment, and every episode must be able to terminate.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (D,)
        Its parameters.
    n : int
        Number of trajectories, at least 1.
    estimator : Estimator, optional
        REINFORCE with reward-to-go if not given.
    alpha : float
        Family-wise false-alarm rate: a correct estimator is rejected with
        probability at most `alpha`, for every n and every model.
    components : sequence of int, optional
        Judge only these components of the gradient.
    executor : concurrent.futures.Executor, optional
        Draws the trajectories.
    rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
        Seed.

    Returns
    -------
    Confirmation

    References
    ----------
    Catoni, "Challenging the empirical mean and empirical variance: a
    deviation study", Annales de l'IHP 48 (2012), section 2.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> print(confirm(mdp, policy, np.zeros(2), 10_000, rng=0))
    not rejected at alpha=1e-06 over 10000 trajectories in 2 components
    """
    estimator = _estimator(estimator)
    law = estimator_law(mdp, policy, theta, estimator, components)
    return confirm_law(law, mdp, policy, theta, n, estimator=estimator, alpha=alpha, executor=executor, rng=rng)


def smallest_detectable_bias(mdp, policy, theta, n, *, estimator=None, alpha=ALPHA, miss=MISS, components=None):
    """Return the bias that `confirm` with `n` trajectories catches with probability 1 − `miss`.

    A biased estimator is taken to scatter like the right one around its own
    mean; then a bias of this size is rejected with the stated probability.

    Parameters
    ----------
    mdp, policy, theta, n, estimator, alpha, components
        As in `confirm`.
    miss : float
        Probability of not noticing it.

    Returns
    -------
    array (C,)
        One per judged component, in the units of the gradient.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> smallest_detectable_bias(mdp, policy, np.zeros(2), 10_000).round(3)
    array([0.023, 0.023])
    """
    alpha, miss = _probability("alpha", alpha), _probability("miss", miss)
    n = arguments.integer("n", n, low=1)
    estimator = _estimator(estimator)
    return estimator_law(mdp, policy, theta, estimator, components).detectable(n, alpha, miss)


def trajectories_needed(
    mdp, policy, theta, *, bias=None, standard_error=None, estimator=None, alpha=ALPHA, miss=MISS, components=None
):
    """Return how many trajectories catch a given bias, or reach a given standard error, in every component.

    Parameters
    ----------
    mdp, policy, theta, estimator, alpha, miss, components
        As in `smallest_detectable_bias`.
    bias : float or array (C,), optional
        Bias that must be noticed with probability 1 − `miss`.
    standard_error : float or array (C,), optional
        Standard error to be reached; give this or `bias`.

    Returns
    -------
    int

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> trajectories_needed(mdp, policy, np.zeros(2), standard_error=0.01)
    625
    >>> n = trajectories_needed(mdp, policy, np.zeros(2), bias=0.025)
    >>> bool(smallest_detectable_bias(mdp, policy, np.zeros(2), n).max() <= 0.025)
    True
    """
    alpha, miss = _probability("alpha", alpha), _probability("miss", miss)
    if (bias is None) == (standard_error is None):
        raise ValueError(f"bias={bias!r} and standard_error={standard_error!r}: give exactly one of them")
    name, value = ("bias", bias) if standard_error is None else ("standard_error", standard_error)
    target = arguments.real_array(name, value)
    if target.ndim and components is None:
        arguments.check_shape(name, target, shape=(policy.n_parameters,))
    elif target.ndim:
        arguments.check_shape(name, target, shape=(len(components),))
    if target.size == 0 or np.any(target <= 0):
        raise ValueError(f"{name}={value!r} must be > 0: no finite number of trajectories reaches zero")
    estimator = _estimator(estimator)
    law = estimator_law(mdp, policy, theta, estimator, components)
    if standard_error is not None:
        if np.max(np.sqrt(law.moments.variance) / target) > math.sqrt(MOST):
            raise ValueError(
                f"standard_error={np.min(target):.3g} needs more than {MOST} trajectories; ask for a larger one"
            )
        return max(1, math.ceil(np.max(law.moments.variance / target**2) * (1 - 1e-12)))
    return needed_for_bias(law, target, alpha, miss)


def needed_for_bias(law, bias, alpha, miss):
    """Return the least n at which every component of `bias` is detectable: by doubling, then bisection."""
    n = 1
    while np.any(law.detectable(n, alpha, miss) > bias):
        n *= 2
        if n > MOST:
            raise ValueError(
                f"bias={np.min(bias):.3g} cannot be noticed with {MOST} trajectories, or is below rounding; ask for a larger one"
            )
    low = n // 2
    while n - low > 1:
        middle = (n + low) // 2
        low, n = (middle, n) if np.any(law.detectable(middle, alpha, miss) > bias) else (low, middle)
    return n


def estimator_law(mdp, policy, theta, estimator, components=None):
    """Return the law that an unbiased `estimator` of ∇J_γ has."""
    if components is None:
        components = np.arange(policy.n_parameters)
    components = arguments.integer_array("components", components, low=0, high=policy.n_parameters, ndim=1)
    if not len(components):
        raise ValueError("components=[] is empty; judge at least one component")
    directions = np.zeros((len(components), policy.n_parameters))
    directions[np.arange(len(components)), components] = 1.0
    moments = directional_moments(estimator, mdp, policy, theta, directions)
    rounding = _rounding(mdp, policy, theta, estimator) * np.abs(policy.slopes[components])
    return Law(components, exact_gradient(mdp, policy, theta)[components], moments, rounding)


def _rounding(mdp, policy, theta, estimator):
    """Return how far rounding may move the estimate of one trajectory, in units of a score of one.

    Every step adds a score times a return minus a baseline, of which the
    return may be as large as the sum of all |r| to come.
    """
    steps = float(occupancy(mdp, policy, theta, objective=Undiscounted()).sum())
    largest = largest_return(mdp, policy, theta) + float(np.max(np.abs(table_of(estimator))))
    return ROUNDING * max(steps, 1.0) * steps * largest


def confirm_law(law, mdp, policy, theta, n, *, estimator, alpha=ALPHA, executor=None, rng=None):
    """Judge a run against a law that is already known; as `confirm`."""
    alpha = _probability("alpha", alpha)
    n = arguments.integer("n", n, low=1)
    scales = law.scales(n, alpha)
    total, statistics = _run(law, scales, mdp, policy, theta, n, estimator, executor, rng)
    standard_error = np.sqrt(law.moments.variance / n)
    deviation = total / n - law.gradient
    by_rounding = n * scales * law.roundings  # φ grows no faster than its argument
    log_probability = means.catoni_log_probability(np.abs(statistics) - by_rounding, n, law.variances, scales)
    return Confirmation(
        n=n,
        alpha=alpha,
        components=law.components,
        estimate=total / n,
        gradient=law.gradient,
        standard_error=standard_error,
        z=np.divide(deviation, standard_error, out=np.zeros_like(deviation), where=standard_error > 0),
        smallest_detectable=law.detectable(n, alpha),
        log_probability=log_probability,
        rejected=bool(np.any(log_probability < -law.log_odds(alpha))),
    )


def _run(law, scales, mdp, policy, theta, n, estimator, executor, rng):
    """Return Σ ĝ (C,) and Catoni's sums (2, C) for ĝ and ĝ², streaming blocks of single-trajectory estimates."""
    total, statistics = np.zeros(len(law.components)), np.zeros_like(scales)
    rows = max(CELLS // policy.n_parameters, 1)
    for block in sample_blocks(mdp, policy, theta, n, executor=executor, rng=rng):
        for first in range(0, len(block), rows):
            part = block.take(slice(first, first + rows))
            estimates = estimator.per_trajectory(part, mdp, policy, theta)[:, law.components]
            if not np.isfinite(estimates).all():
                n, i = arguments.first_index(~np.isfinite(estimates))
                raise ValueError(
                    f"estimator={estimator!r} returned {estimates[n, i]} for component {law.components[i]} of trajectory {n} of a "
                    "block: an estimate must be a finite number"
                )
            total += estimates.sum(axis=0)
            for moment, values in enumerate((estimates, estimates**2)):
                statistics[moment] += means.catoni(scales[moment] * (values - law.means[moment])).sum(axis=0)
    return total, statistics


def _estimator(estimator):
    """Return the estimator, REINFORCE if none is given."""
    if estimator is None:
        return algorithms.reinforce()
    if not hasattr(estimator, "per_trajectory") or isinstance(estimator, type):
        raise TypeError(f"estimator={estimator!r} is no estimator; pass one such as algorithms.reinforce()")
    return estimator


def _probability(name, value):
    value = arguments.number(name, value, low=0.0, high=1.0, open_low=True, rule="a probability in (0, 1)")
    if value == 1.0:
        raise ValueError(f"{name}={value!r} is out of range; it must be a probability in (0, 1)")
    return value
