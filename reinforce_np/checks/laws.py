"""What an estimator must do if it is right: its mean is the gradient, and its variance is known.

The variance is where a guarantee comes from. It is known exactly for every
`Estimator` by recursion or histogram of returns, and for any function when all
its batches can be listed. For another function its user may know it: it
scatters like an `Estimator` he names, or at most so much.
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.checks.estimates import batch_size, estimates_of, precision_of
from reinforce_np.checks.means import MISS, TINY, catoni_detectable, catoni_scale
from reinforce_np.checks.processes import e_process_of
from reinforce_np.estimators import GAE, BatchStandardised, Estimator, GroupStandardised, NStep, RewardToGo, TotalReturn
from reinforce_np.exact import bellman
from reinforce_np.exact.batches import (
    LARGEST,
    check_exchangeable,
    check_sizes,
    check_support,
    every_batch,
    spread,
    table_of,
)
from reinforce_np.exact.derivatives import gradient as exact_gradient
from reinforce_np.exact.derivatives import gradient_scale
from reinforce_np.exact.laws import directional_moments, has_recursion, moments
from reinforce_np.exact.record import DOUBLE
from reinforce_np.exact.values import largest_return
from reinforce_np.exact.verdicts import verdict_of

LIMIT = 2**16  # trajectories in all batches that are listed to learn a law
NUMBERS = 2**19  # of listed values that are kept
ROUNDING = 16 * DOUBLE  # per step, relative to the terms of an estimate
LARGEST_SQUARE = 1e300


@dataclass(frozen=True, eq=False)
class Law:
    """What the estimate of one batch must do if the estimator is right, in the components that are judged.

    Parameters
    ----------
    components : int array (C,)
        Which components of the gradient are judged.
    gradient : array (C,)
        Exact gradient there: E[X] under the hypothesis, X the estimate of one batch.
    variance : array (C,)
        Var[X], or an upper bound on it.
    second_moment : array (C,)
        E[X²]; zero where it is not known.
    variance_of_square : array (C,)
        Upper bound on Var[X²]; infinite where none is known, so that X² is not judged.
    rounding : array (C,)
        How far the arithmetic may move X.
    source : str
        Where the variance comes from.
    values : array (B, C) or None
        X of every batch there can be, where they were listed.
    probabilities : array (B,) or None
        Of these batches.
    bound : array (C,) or None
        What |X| never exceeds, where that was stated.
    """

    components: np.ndarray
    gradient: np.ndarray
    variance: np.ndarray
    second_moment: np.ndarray
    variance_of_square: np.ndarray
    rounding: np.ndarray
    source: str
    values: Any = None
    probabilities: Any = None
    bound: Any = None

    @property
    def means(self):
        """Mean of X and of X² under the hypothesis, shape (2, C)."""
        return np.array([self.gradient, self.second_moment])

    @property
    def variances(self):
        """Upper bounds on the variances of X and of X², shape (2, C); infinite where unknown."""
        with np.errstate(over="ignore"):  # too large to be judged
            rounded = (
                np.array([self.variance, self.variance_of_square]) + self.roundings**2
            )  # what never varies still rounds
        return np.maximum(rounded, TINY**2)

    @property
    def roundings(self):
        """How far rounding may move X and X², shape (2, C)."""
        size = np.sqrt(np.maximum(self.second_moment, self.variance + self.gradient**2))
        return np.array([self.rounding, self.rounding * (2 * size + self.rounding)])

    @property
    def n_tests(self):
        """How many tests there are: two sides of two moments of every component, and one of all where values are known."""
        return 4 * len(self.components) + (self.values is not None)

    @cached_property
    def process(self):
        """The `EProcess` of all moments together, by cumulants where all values are known, by variances otherwise."""
        return e_process_of(self)

    def log_odds(self, alpha, others=0):
        """log(1/false alarm) of one test of one side: all of them, and `others`, share `alpha`."""
        return math.log(self.n_tests + others) - math.log(alpha)

    def statistics(self, X):
        """Return X and X² of estimates X (N, C), shape (N, 2, C), refusing those above the bound."""
        if self.bound is not None and np.any(wrong := np.abs(X) > self.bound * (1 + 1e-6)):
            n, i = arguments.first_index(wrong)
            raise ValueError(
                f"bound={self.bound[i]:.6g} is contradicted: an estimate of component {self.components[i]} is {X[n, i]:.6g}"
            )
        with np.errstate(over="ignore"):
            return np.stack([X, np.minimum(X**2, LARGEST_SQUARE)], axis=1)

    def detectable(self, n, alpha, miss=MISS, others=0):
        """Return the bias of the mean that n batches catch with probability 1 − miss, per component."""
        log_odds = self.log_odds(alpha, others)
        variance = self.variances[0]
        scale = catoni_scale(n, variance, log_odds - math.log(miss))
        bias = catoni_detectable(n, variance, scale, log_odds, -math.log(miss))
        never = (self.variance == 0) & (self.gradient == 0)
        return np.where(never, 0.0, bias + 2 * self.rounding)


def law_of(
    estimator,
    problem,
    objective,
    components=None,
    *,
    like=None,
    variance=None,
    bound=None,
    exchangeable=False,
    precision=None,
    limit=LIMIT,
):
    """Return the law of an unbiased estimator, or None when nothing is known of its variance.

    Parameters
    ----------
    estimator : Estimator or callable
        In the form that `callables.bound` returns.
    problem : Problem
        Model, policy, parameters, behaviour and shape of a batch.
    objective : Objective
        Whose gradient is meant.
    components : sequence of int, optional
        Which components; all if not given.
    like : Estimator, optional
        One that has the mean and the variance which a function should have.
    variance : float or array (C,), optional
        An upper bound on the variance of an estimate, such as its second moment.
    bound : float or array (C,), optional
        An upper bound on the size of an estimate.
    exchangeable : bool
        Declares that a function does not depend on the order of its batch.
    precision : dtype, optional
        The floating-point type a function computes in; that of its result if not given.
    limit : int
        Largest number of trajectories in all batches that are listed.

    Returns
    -------
    Law or None
    """
    stated = {"like": like, "variance": variance, "bound": bound}
    stated = {name: value for name, value in stated.items() if value is not None}
    if len(stated) > 1:
        raise ValueError(f"{' and '.join(stated)} are given: say once how much an estimate scatters")
    components = _components(components, problem)
    gradient = exact_gradient(problem.mdp, problem.policy, problem.theta, objective=objective)[components]
    check_support(problem.mdp, problem.policy, problem.theta, problem.behaviour)
    eps = precision_of(estimator, problem) if precision is None else float(np.finfo(precision).eps)
    if "variance" in stated or "bound" in stated:
        return _rounded(_stated_law(components, gradient, problem, estimator, variance, bound), eps)
    if like is not None and not isinstance(like, Estimator):
        raise TypeError(
            f"like={like!r} is no Estimator; pass one such as algorithms.reinforce(), or variance=, or bound="
        )
    known = estimator if like is None else like
    law = _law_of_family(known, problem, components, gradient) if isinstance(known, Estimator) else None
    law = _with_listing(law, known, problem, components, gradient, exchangeable, limit, eps)
    if like is not None:
        if law is None:
            raise arguments.TooLargeError(
                f"like={like!r}: its variance is only known by listing batches, and there are too many; pass variance= or bound="
            )
        _check_unbiased(problem, objective, like)
        law = dataclasses.replace(law, values=None, probabilities=None)  # the function shares its moments, not its law
    return _rounded(law, eps)


def _rounded(law, eps):
    """Return the law with the rounding of arithmetic with this unit."""
    return None if law is None else dataclasses.replace(law, rounding=law.rounding * max(eps / DOUBLE, 1.0))


def _components(components, problem):
    """Return the components as an int array."""
    if components is None:
        return np.arange(len(problem.theta))
    components = arguments.integer_array("components", components, low=0, high=len(problem.theta), ndim=1)
    if not len(components):
        raise ValueError("components=[] is empty; judge at least one component")
    return components


def _stated_law(components, gradient, problem, estimator, variance, bound):
    """Return the law of a function that scatters at most so much: its square is not judged."""
    name, value = ("variance", variance) if bound is None else ("bound", bound)
    stated = arguments.real_array(name, value)
    if stated.ndim:
        arguments.check_shape(name, stated, shape=(len(components),))
    if np.any(stated < 0):
        raise ValueError(f"{name}={value!r} is out of range; it must be >= 0")
    variance = stated = np.broadcast_to(stated, gradient.shape)
    if bound is not None:
        if np.any(np.abs(gradient) > stated):
            i = int(np.argmax(np.abs(gradient) - stated))
            raise ValueError(
                f"bound={value!r} is below the gradient {gradient[i]:.6g} of component {components[i]}: no function of that size is unbiased"
            )
        variance = (stated - gradient) * (stated + gradient)  # (B − μ)(μ + B) when |X| <= B (Bhatia & Davis 2000)
    size = np.sqrt(variance + gradient**2)
    unknown = np.full_like(gradient, np.inf)
    rounding = _rounding(estimator, problem, components, size)
    law = Law(components, gradient, variance, np.zeros_like(gradient), unknown, rounding, f"{name}, as stated")
    return law if bound is None else dataclasses.replace(law, bound=stated)


def _law_of_family(estimator, problem, components, gradient):
    """Return the law of an `Estimator` by the cheapest route, or None when there is too much to list."""
    given, single = (problem.mdp, problem.policy, problem.theta), batch_size(problem) == 1
    check_sizes(estimator, problem.mdp)
    plain = problem.behaviour is None and isinstance(estimator.advantage, RewardToGo | TotalReturn | GAE | NStep)
    largest = np.full(len(components), np.inf)
    if single and plain and has_recursion(estimator, *given):
        directions = np.zeros((len(components), len(problem.theta)))
        directions[np.arange(len(components)), components] = 1.0
        found = directional_moments(estimator, *given, directions)
        mean, second, variance, source = found.mean, found.second_moment, found.variance, "recursion"
        largest = np.maximum(found.high**2, found.low**2)
    else:
        try:
            exact = moments(estimator, problem)
        except arguments.TooLargeError:
            return None
        mean, second, variance, source = exact.mean, exact.second_moment, exact.variance, exact.route
        mean, second, variance = mean[components], second[components], variance[components]
    with np.errstate(invalid="ignore", over="ignore"):  # a square is at most its largest value B times itself
        of_square = np.where(np.isfinite(largest), second * np.maximum(largest - second, 0.0), np.inf)
    rounding = _rounding(estimator, problem, components, np.sqrt(second))
    return Law(components, gradient, variance, second, of_square, rounding, source)


def _with_listing(law, estimator, problem, components, gradient, exchangeable, limit, eps):
    """Return the law with what listing all batches adds to it, when they are few: Var[X²], and every value."""
    found = all_estimates(estimator, problem, exchangeable=exchangeable, limit=limit, eps=eps)
    if found is None:
        return law
    X, p = found[0][:, components], found[1]
    if not isinstance(estimator, Estimator) and np.abs(X).max(initial=0.0) > LARGEST:
        raise ValueError(
            f"estimates of size {np.abs(X).max():.3g} have moments that leave float64; divide the rewards by that"
        )
    second = p @ X**2
    if law is None:
        rounding = _rounding(estimator, problem, components, np.sqrt(second))
        variance, unknown = p @ (X - p @ X) ** 2, np.full_like(gradient, np.inf)
        law = Law(components, gradient, variance, second, unknown, rounding, "enumeration")
    with np.errstate(over="ignore"):  # too large to be judged
        of_square = p @ (X**2 - second) ** 2
    values, probabilities = (X, p) if X.size <= NUMBERS else (None, None)
    return dataclasses.replace(law, variance_of_square=of_square, values=values, probabilities=probabilities)


def all_estimates(estimator, problem, *, exchangeable=False, limit=LIMIT, eps=DOUBLE):
    """Return the estimates (B, D) of all batches there can be, and their probabilities (B,).

    Parameters
    ----------
    estimator, problem, exchangeable, limit
        As in `law_of`.
    eps : float
        Unit rounding of what a function computes in.

    Returns
    -------
    (array (B, D), array (B,)) or None
        None when there are too many, or when a function does not answer the
        same when it is asked again.
    """
    try:
        trajectories, blocks = every_batch(estimator, problem, exchangeable=exchangeable, limit=limit)
    except arguments.TooLargeError:
        return None
    estimates: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for members, weight in blocks:
        if not isinstance(estimator, Estimator) and not estimates:
            few = members[spread(len(members))]
            one, two = (estimates_of(estimator, trajectories.take(few.ravel()), problem) for _ in range(2))
            if not np.array_equal(one, two):
                return None
            if exchangeable:
                check_exchangeable(estimator, trajectories, problem, few, one, eps)
        estimates.append(estimates_of(estimator, trajectories.take(members.ravel()), problem))
        weights.append(weight)
    return np.concatenate(estimates), np.concatenate(weights)


def _check_unbiased(problem, objective, like):
    """Refuse to take the variance of an estimator that is itself biased: a right function does not scatter like that."""
    given = (problem.mdp, problem.policy, problem.theta)
    gradient = exact_gradient(*given, objective=objective)
    verdict = verdict_of(moments(like, problem), gradient, objective, scale=gradient_scale(*given, objective=objective))
    if verdict.kind in ("proportional", "biased"):
        raise ValueError(f"like={like!r} is itself {verdict}; name an unbiased one")


def _rounding(estimator, problem, components, size):
    """Return how far rounding may move the estimate of one batch, shape (C,).

    Every step adds a score times a return minus a baseline, of which the
    return may be as large as the sum of all |r| to come; and the sum rounds
    relative to its own size.
    """
    mdp, policy, theta = problem.mdp, problem.policy, problem.theta
    mu = np.exp(
        policy.log_probabilities(theta)
        if problem.behaviour is None
        else policy.log_probabilities_of("behaviour", problem.behaviour)
    )
    visits = [bellman.fixed_occupancy(mdp, mu, 1.0)] if mdp.horizon is None else bellman.forward(mdp, mu, 1.0)
    steps = float(sum(d.sum() for d in visits))
    largest = largest_return(mdp, policy, theta)
    if isinstance(estimator, Estimator):
        largest += float(np.max(np.abs(table_of(estimator))))
        if isinstance(estimator.advantage, GroupStandardised | BatchStandardised):
            largest = 1.0 + batch_size(problem) * largest
    return ROUNDING * max(steps, 1.0) * (steps * largest * np.abs(policy.slopes[components]) + size)
