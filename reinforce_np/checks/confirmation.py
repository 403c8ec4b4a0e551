"""Does a Monte Carlo run agree with the exact gradient? Three verbs, one law.

`confirm` runs the estimator and judges its mean and its second moment;
`smallest_detectable_bias` says what a run of n could have caught, and
`trajectories_needed` how many it takes. All rest on the law of the estimator
under the hypothesis that it is right: its exact mean and variance (see
`checks.laws`), and a test that needs nothing else and holds for every n (see
`checks.means`). Where the variance is not known there is no verdict, but an
interval that says so.
"""

import math
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments
from reinforce_np.checks.estimates import batches_drawn, estimates_of, name_of_batches
from reinforce_np.checks.facts import SamplerFacts, call_size
from reinforce_np.checks.intervals import interval_of
from reinforce_np.checks.laws import LIMIT, law_of
from reinforce_np.checks.means import MISS
from reinforce_np.checks.runs import RunTest
from reinforce_np.exact.callables import bound as bound_to
from reinforce_np.exact.callables import name_of
from reinforce_np.exact.objectives import Discounted
from reinforce_np.exact.verdicts import objective_of
from reinforce_np.problem import problem_of

ALPHA = 1e-6
MOST = 2**60  # batches anybody could ask for


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Outcome of `confirm`; prints as a short paragraph and is true when nothing was rejected.

    Parameters
    ----------
    n : int
        Batches drawn: trajectories, where a batch is one.
    alpha : float
        Chance that a *correct* estimator is rejected, over all components
        and both moments together (and all facts about a sampler).
    components : int array (C,)
        Which components of the gradient were judged.
    estimate, gradient : array (C,)
        Monte Carlo mean, and exact gradient.
    standard_error : array (C,)
        Exact: the square root of the estimator's variance over n; of the
        bound on it, where only that was stated.
    z : array (C,)
        (estimate − gradient)/standard_error, for description only; zero where
        both are zero.
    smallest_detectable : array (C,)
        Bias that this run would have caught with probability 0.99.
    log_probability : array (2, C)
        Bounds on the log-probability of deviations as large as seen, of the
        first and second moments.
    log_e_value : float
        The evidence of all components and moments taken together, where the
        whole law is known (`checks.processes`); zero where it is not.
    log_odds : float
        log(1/share of `alpha`) of each test: what was less probable is rejected.
    rejected : bool
        Whether something was.
    batches : str
        What was drawn, in words.
    source : str
        Where the variance is from.
    facts : tuple of Fact
        What was found out about the user's sampler; empty without one.
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
    log_e_value: float
    log_odds: float
    rejected: bool
    batches: str = "trajectories"
    source: str = "recursion"
    facts: tuple = ()

    guaranteed = True

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
        over = f"at alpha={self.alpha:g} over {self.n} {self.batches}"
        if not self.rejected:
            text = f"not rejected {over} in {len(self.components)} components"
            few = f", but too few {self.batches.split()[0]} to notice even a missing gradient"
            return text + self._power() if self.conclusive else text + few
        wrong = [fact for fact in self.facts if fact.rejected]
        if wrong:  # in causal order: the first may explain the others
            others = f". Rejected too: {', '.join(fact.name for fact in wrong[1:])}" if wrong[1:] else ""
            return f"REJECTED {over}: {wrong[0]}{others}"
        if self.log_probability.min() >= -self.log_odds:
            i = int(np.argmax(np.abs(self.z)))
            return (
                f"REJECTED {over}: all components and moments together would deviate this much with probability below "
                f"10^{-self.log_e_value / math.log(10):.1f} if the estimator were right; farthest in component {self.components[i]}: "
                f"estimate {self.estimate[i]:.6g} ± {self.standard_error[i]:.2g}, exact gradient {self.gradient[i]:.6g}"
            )
        i = int(np.argmin(self.log_probability.min(axis=0)))
        moment = "mean" if self.log_probability[0, i] <= self.log_probability[1, i] else "second moment"
        return (
            f"REJECTED {over}: the {moment} of component {self.components[i]} would deviate this much with probability below "
            f"10^{self.log_probability[:, i].min() / math.log(10):.1f} if the estimator were right; "
            f"estimate {self.estimate[i]:.6g} ± {self.standard_error[i]:.2g}, exact gradient {self.gradient[i]:.6g}"
        )

    def _power(self):
        """Return in words what the run would have noticed: the smallest detectable bias of the largest component."""
        i = int(np.argmax(np.abs(self.gradient)))
        share = self.smallest_detectable[i] / abs(self.gradient[i]) if self.gradient[i] else math.inf
        return f"; a bias of {100 * share:.2g} % of the largest component would be noticed" if share < 1 else ""


def confirm(
    estimator,
    mdp,
    policy=None,
    theta=None,
    n=None,
    *,
    objective=Discounted(),
    prompts=None,
    group_size=None,
    behaviour=None,
    like=None,
    variance=None,
    bound=None,
    exchangeable=False,
    precision=None,
    sampler=None,
    call=None,
    alpha=ALPHA,
    components=None,
    limit=LIMIT,
    executor=None,
    rng=None,
):
    """Draw `n` batches and judge the estimator's mean and second moment against the exact gradient.

    The mean should be the gradient. How far an average may stray from it is
    decided by the variance of an estimate: known exactly for every `Estimator`, and for a
    function when all batches can be listed. For other functions say it by
    ``like=``, ``variance=`` or ``bound=``; when nothing does, the answer is an
    interval without guarantee, and says so.

    Parameters
    ----------
    estimator : Estimator or callable
        Any of the family; or a function of yours, as in `judge`.
    mdp : FiniteMDP or Problem
        The model; or a `Problem`, which says all that follows, and then pass
        ``n=``. Without a horizon every episode must be able to terminate.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (D,)
        Its parameters.
    n : int
        Number of batches, at least 1.
    objective : Discounted, Undiscounted, KLRegularised or EntropyRegularised
        Whose gradient it should be; or a function that makes it from the `Problem`.
    prompts, group_size, behaviour : optional
        How a batch is drawn, as in `moments`.
    like : Estimator, optional
        An unbiased one whose variance a function should have: then its second
        moments are judged too.
    variance : float or array (C,), optional
        An upper bound on the variance of a function's estimates, per judged
        component; their second moment is one.
    bound : float or array (C,), optional
        An upper bound on the size of a function's estimates.
    exchangeable : bool
        Declares that a function does not depend on the order of its batch.
    precision : dtype, optional
        The floating-point type a function computes in; that of its result if not given.
    sampler : callable, optional
        ``sampler(n, rng)`` returns `Trajectories` of n episodes, which should
        be independent (group by group, where they are grouped): judged too.
        `rng` is a `numpy.random.Generator`.
    call : int, optional
        How many batches are asked of the sampler at a time; 840, which most
        small numbers of workers divide, or fewer when `n` is small.
    alpha : float
        Family-wise false-alarm rate: a correct estimator is rejected with
        probability at most `alpha`, for every n and every model.
    components : sequence of int, optional
        Judge only these components of the gradient.
    limit : int
        Largest number of trajectories in all batches that are listed to learn
        the variance of a function.
    executor : concurrent.futures.Executor, optional
        Draws the trajectories.
    rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
        Seed.

    Returns
    -------
    Confirmation or Interval
        An `Interval` when the law of the estimate is not known.

    Raises
    ------
    NotFiniteError
        When an estimate is NaN or infinite.
    ValueError
        When a function was declared exchangeable and is not.

    References
    ----------
    Catoni, "Challenging the empirical mean and empirical variance: a
    deviation study", Annales de l'IHP 48 (2012), section 2.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy, theta = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2)
    >>> print(confirm(algorithms.reinforce(), mdp, policy, theta, 10_000, rng=0))
    not rejected at alpha=1e-06 over 10000 trajectories in 2 components; a bias of 9.1 % of the largest component would be noticed

    A function of yours, on a model too large to list its batches of eight:

    >>> def mine(trajectories, theta):
    ...     returns = trajectories.rewards.sum(axis=1)
    ...     weights = np.zeros((1, 2))
    ...     np.add.at(weights, (0, trajectories.actions[:, 0]), returns - returns.mean())
    ...     return policy.contract(theta, weights) / len(trajectories)
    >>> confirm(mine, mdp, policy, theta, 2000, group_size=8, like=algorithms.rloo(), limit=100, rng=0).rejected
    True
    """
    problem = problem_of(mdp, policy, theta, prompts=prompts, group_size=group_size, behaviour=behaviour)
    n, alpha = _count(n), probability("alpha", alpha)
    estimator, objective = bound_to(estimator, problem), objective_of(objective, problem)
    law = law_of(
        estimator, problem, objective, components,
        like=like, variance=variance, bound=bound, exchangeable=exchangeable, precision=precision, limit=limit,
    )  # fmt: skip
    if law is None and sampler is not None:
        raise ValueError(
            f"sampler={sampler!r} is judged by an estimator of known variance, and that of {name_of(estimator)} is not known; "
            "pass an Estimator, or like=, variance= or bound="
        )
    if law is None:
        return _describe(estimator, problem, objective, components, n, alpha, executor, rng)
    return confirm_law(law, estimator, problem, n, sampler=sampler, call=call, alpha=alpha, executor=executor, rng=rng)


def smallest_detectable_bias(
    estimator,
    mdp,
    policy=None,
    theta=None,
    n=None,
    *,
    objective=Discounted(),
    prompts=None,
    group_size=None,
    behaviour=None,
    like=None,
    variance=None,
    bound=None,
    exchangeable=False,
    alpha=ALPHA,
    miss=MISS,
    components=None,
    limit=LIMIT,
):
    """Return the bias that `confirm` with `n` batches catches with probability 1 − `miss`.

    A biased estimator is taken to scatter like the right one around its own
    mean; then a bias of this size is rejected with the stated probability.

    Parameters
    ----------
    estimator, mdp, policy, theta, n, objective, prompts, group_size, behaviour
        As in `confirm`.
    like, variance, bound, exchangeable, alpha, components, limit
        As in `confirm`.
    miss : float
        Probability of not noticing it.

    Returns
    -------
    array (C,)
        One per judged component, in the units of the gradient.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> smallest_detectable_bias(algorithms.reinforce(), mdp, policy, np.zeros(2), 10_000).round(3)
    array([0.023, 0.023])
    """
    problem = problem_of(mdp, policy, theta, prompts=prompts, group_size=group_size, behaviour=behaviour)
    n, alpha, miss = _count(n), probability("alpha", alpha), probability("miss", miss)
    options = {"like": like, "variance": variance, "bound": bound, "exchangeable": exchangeable, "limit": limit}
    law = known_law(bound_to(estimator, problem), problem, objective, components, options)
    return law.detectable(n, alpha, miss)


def trajectories_needed(
    estimator,
    mdp,
    policy=None,
    theta=None,
    *,
    bias=None,
    standard_error=None,
    objective=Discounted(),
    prompts=None,
    group_size=None,
    behaviour=None,
    like=None,
    variance=None,
    bound=None,
    exchangeable=False,
    alpha=ALPHA,
    miss=MISS,
    components=None,
    limit=LIMIT,
):
    """Return how many batches catch a given bias, or reach a given standard error, in every component.

    Parameters
    ----------
    estimator, mdp, policy, theta, objective, prompts, group_size, behaviour
        As in `confirm`.
    like, variance, bound, exchangeable, alpha, components, limit
        As in `confirm`.
    bias : float or array (C,), optional
        Bias that must be noticed with probability 1 − `miss`.
    standard_error : float or array (C,), optional
        Standard error to be reached; give this or `bias`.
    miss : float
        Probability of not noticing it.

    Returns
    -------
    int
        Trajectories, where a batch is one.

    Raises
    ------
    ValueError
        When nothing is to be reached, or it needs more trajectories than can be counted.
    TooLargeError
        When the variance is known by listing batches alone, and they are too many.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> trajectories_needed(algorithms.reinforce(), mdp, policy, np.zeros(2), standard_error=0.01)
    625
    >>> n = trajectories_needed(algorithms.reinforce(), mdp, policy, np.zeros(2), bias=0.025)
    >>> bool(smallest_detectable_bias(algorithms.reinforce(), mdp, policy, np.zeros(2), n).max() <= 0.025)
    True
    """
    problem = problem_of(mdp, policy, theta, prompts=prompts, group_size=group_size, behaviour=behaviour)
    alpha, miss = probability("alpha", alpha), probability("miss", miss)
    if (bias is None) == (standard_error is None):
        raise ValueError(f"bias={bias!r} and standard_error={standard_error!r}: give exactly one of them")
    name, value = ("bias", bias) if standard_error is None else ("standard_error", standard_error)
    target = arguments.real_array(name, value)
    if target.ndim:
        arguments.check_shape(name, target, shape=(len(problem.theta) if components is None else len(components),))
    if target.size == 0 or np.any(target <= 0):
        raise ValueError(f"{name}={value!r} must be > 0: no finite number of trajectories reaches zero")
    options = {"like": like, "variance": variance, "bound": bound, "exchangeable": exchangeable, "limit": limit}
    law = known_law(bound_to(estimator, problem), problem, objective, components, options)
    if standard_error is not None:
        if np.max(np.sqrt(law.variance) / target) > math.sqrt(MOST):
            raise ValueError(
                f"standard_error={np.min(target):.3g} needs more than {MOST} trajectories; ask for a larger one"
            )
        return max(1, math.ceil(np.max(law.variance / target**2) * (1 - 1e-12)))
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


def confirm_law(law, estimator, problem, n, *, sampler=None, call=None, alpha=ALPHA, executor=None, rng=None):
    """Judge a run against a law that is already known; as `confirm`."""
    facts = None
    if sampler is not None:
        if executor is not None:
            raise TypeError("executor= draws with the library's own sampler; sampler= is yours: pass one of them")
        call = call_size(n) if call is None else arguments.integer("call", call, low=1)
        facts = SamplerFacts(problem, law, sampler, n, call, alpha, rng)
    elif call is not None:
        raise TypeError(f"call={call!r} is how many batches are asked of a sampler, and there is none: pass sampler=")
    test = RunTest(law, n, alpha, others=0 if facts is None else facts.n_tests)
    sums = np.zeros((2, *law.means.shape))
    for batches in batches_drawn(problem, n, executor=executor, rng=rng) if facts is None else facts.calls():
        X = estimates_of(estimator, batches, problem, repeatable=law.values is not None)[:, law.components]
        sums += test.terms(X).sum(axis=0)
        if facts is not None:
            facts.add(batches, X)
    found = () if facts is None else facts.judged()
    standard_error = np.sqrt(law.variance / n)
    deviation = sums[1, 0] / n
    return Confirmation(
        n=n,
        alpha=alpha,
        components=law.components,
        estimate=law.gradient + deviation,
        gradient=law.gradient,
        standard_error=standard_error,
        z=np.divide(deviation, standard_error, out=np.zeros_like(deviation), where=standard_error > 0),
        smallest_detectable=law.detectable(n, alpha, others=test.others),
        log_probability=test.log_probability(sums),
        log_e_value=float(test.log_e_value(sums)),
        log_odds=test.log_odds,
        rejected=bool(test.rejects(sums)) or any(fact.rejected for fact in found),
        batches=name_of_batches(problem),
        source=law.source,
        facts=found,
    )


def _describe(estimator, problem, objective, components, n, alpha, executor, rng):
    """Return the interval of a function of which nothing is known but its estimates."""
    centre = law_of(estimator, problem, objective, components, variance=0.0)  # for the gradient alone
    total, squares = np.zeros_like(centre.gradient), np.zeros_like(centre.gradient)
    for batches in batches_drawn(problem, n, executor=executor, rng=rng):
        deviation = estimates_of(estimator, batches, problem)[:, centre.components] - centre.gradient
        total += deviation.sum(axis=0)
        squares += (deviation**2).sum(axis=0)
    return interval_of(n, alpha, centre.components, centre.gradient, total, squares, name_of_batches(problem))


def known_law(estimator, problem, objective, components, options):
    """Return the law of an estimator in its bound form, or refuse when nothing is known of the variance."""
    law = law_of(estimator, problem, objective_of(objective, problem), components, **options)
    if law is None:
        raise ValueError(
            f"nothing is known of how much estimator={name_of(estimator)} scatters: pass like= (an Estimator whose variance it should have), "
            "variance= or bound=, or a larger limit="
        )
    return law


def _count(n):
    """Return the number of batches."""
    if n is None:
        raise TypeError("n=None: say how many batches to draw")
    return arguments.integer("n", n, low=1)


def probability(name, value):
    value = arguments.number(name, value, low=0.0, high=1.0, open_low=True, rule="a probability in (0, 1)")
    if value == 1.0:
        raise ValueError(f"{name}={value!r} is out of range; it must be a probability in (0, 1)")
    return value
