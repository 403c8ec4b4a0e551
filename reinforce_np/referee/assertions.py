"""Assertions for your tests: a verdict that is not the one you claim fails with everything that is known about it.

    def test_my_loss():
        assert_unbiased(torch_loss(my_loss), problem)

The message names the objective, how far off the mean is, the components that are worst, the batches that
carry the bias, the likely cause where one is known, and the problem as code. A problem on which nothing can
be told apart is refused, never passed.
"""

import functools
import sys

import numpy as np

from reinforce_np.arguments import TooLargeError, number
from reinforce_np.checks.differences import check_gradient
from reinforce_np.exact import callables
from reinforce_np.exact.batches import LIMIT
from reinforce_np.exact.contributions import largest_contributions
from reinforce_np.exact.derivatives import gradient as exact_gradient
from reinforce_np.exact.derivatives import gradient_scale
from reinforce_np.exact.laws import moments as exact_moments
from reinforce_np.exact.objectives import Discounted, EntropyRegularised, KLRegularised, Undiscounted
from reinforce_np.exact.verdicts import ROUNDING, judge, one_direction, verdict_of
from reinforce_np.policies import TabularSoftmax
from reinforce_np.problem import problem_of
from reinforce_np.referee.causes import likely_cause

WORST = 4  # components and batches in a message
EQUAL = 1e-9  # relative difference of two variances, computed by different routes, that is none


class Convicted(AssertionError):
    """An estimator that failed an assertion; the evidence is put together when it is read.

    A test that looks for the smallest counterexample fails a thousand times on
    the way, and only its last failure is ever printed.
    """

    __module__ = "reinforce_np"

    def __init__(self, evidence):
        super().__init__()
        self.evidence = functools.cache(evidence)

    def __str__(self):
        return self.evidence()


def assert_unbiased(
    estimator,
    mdp,
    policy=None,
    theta=None,
    *,
    objective=Discounted(),
    prompts=None,
    group_size=None,
    behaviour=None,
    exchangeable=False,
    precision=None,
    limit=LIMIT,
):
    """Assert that E[ĝ] = ∇J, by the exact mean of the estimator.

    Parameters
    ----------
    estimator, mdp, policy, theta, objective, prompts, group_size, behaviour, exchangeable, precision, limit
        As in `judge`.

    Returns
    -------
    Verdict
        Of kind "unbiased".

    Raises
    ------
    Convicted
        When it is biased, or not finite for some batch; the message is the verdict and its evidence.
    ValueError
        When the gradient is zero here, and so is the mean, so that nothing can be told apart.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3)
    >>> assert_unbiased(algorithms.rloo(), mdp, policy, np.zeros(3), group_size=2).kind
    'unbiased'
    >>> assert_unbiased(algorithms.dr_grpo(), mdp, policy, np.zeros(3), group_size=2)
    Traceback (most recent call last):
        ...
    reinforce_np.Convicted: proportional to the gradient of Discounted with factor 0.5 (relative bias 0.5); all ratios were 1: pass a behaviour to judge others
    ...
    """
    __tracebackhide__ = True
    problem = problem_of(mdp, policy, theta, prompts=prompts, group_size=group_size, behaviour=behaviour)
    options = {"exchangeable": exchangeable, "limit": limit}
    verdict = judge(estimator, problem, objective=objective, precision=precision, **options)
    if verdict.kind == "unbiased":
        return verdict
    _refuse_nothing(verdict)
    raise Convicted(lambda: _message(verdict, estimator, problem, options))


def assert_proportional(
    estimator,
    mdp,
    policy=None,
    theta=None,
    *,
    factor=None,
    objective=Discounted(),
    prompts=None,
    group_size=None,
    behaviour=None,
    exchangeable=False,
    precision=None,
    limit=LIMIT,
):
    """Assert that E[ĝ] = factor · ∇J: the right direction, whatever a constant divisor did to its length.

    Parameters
    ----------
    estimator, mdp, policy, theta, objective, prompts, group_size, behaviour, exchangeable, precision, limit
        As in `judge`.
    factor : float, optional
        Which factor; any that is positive if not given.

    Returns
    -------
    Verdict
        Of kind "proportional" or "unbiased".

    Raises
    ------
    Convicted
        An AssertionError: when the mean points elsewhere, or the factor is another; the message is the verdict and its evidence.
    ValueError
        When the gradient is zero here; or when no factor is given and all estimates of this problem lie on one line,
        as with one state and two actions, so that every estimator is proportional. In a test by Hypothesis, such an
        example is rejected instead, as by ``assume``.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3)
    >>> round(assert_proportional(algorithms.dr_grpo(), mdp, policy, np.zeros(3), group_size=4).factor, 12)
    0.75
    """
    __tracebackhide__ = True
    problem = problem_of(mdp, policy, theta, prompts=prompts, group_size=group_size, behaviour=behaviour)
    if factor is not None:
        factor = number("factor", factor)
        if factor == 0:
            raise ValueError("factor=0.0 is no direction; pass another number, or None for any positive one")
    elif one_direction(problem):
        _reject_the_example()
        raise ValueError(
            "factor=None: all scores of this problem lie on one line, so that every estimator is proportional here; use more "
            "states or actions, or name the factor"
        )
    options = {"exchangeable": exchangeable, "limit": limit}
    verdict = judge(estimator, problem, objective=objective, precision=precision, **options)
    _refuse_nothing(verdict)
    if verdict.kind in ("unbiased", "proportional"):
        if factor is None and verdict.factor > 0:
            return verdict
        if factor is not None and verdict.is_multiple(factor):
            return verdict
    meant = "no positive multiple of the gradient" if factor is None else f"not {factor:g} times the gradient"
    raise Convicted(lambda: _message(verdict, estimator, problem, options, meant=meant, factor=factor))


def assert_variance_at_most(
    estimator,
    other,
    mdp,
    policy=None,
    theta=None,
    *,
    ratio=1.0,
    objective=Discounted(),
    prompts=None,
    group_size=None,
    behaviour=None,
    exchangeable=False,
    precision=None,
    limit=LIMIT,
):
    """Assert that Σ_i Var[ĝ_i] is at most `ratio` times that of another estimator, on the same batches.

    It says nothing of the bias, and zero has no variance at all: assert that `estimator` is unbiased, too.

    Parameters
    ----------
    estimator, other : Estimator or callable
        As in `judge`; both of one batch.
    mdp, policy, theta, objective, prompts, group_size, behaviour, exchangeable, precision, limit
        As in `judge`.
    ratio : float
        Largest allowed ratio of the total variances.

    Returns
    -------
    Verdict
        Of `estimator`, whatever its kind; ``verdict.moments`` holds the variance.

    Raises
    ------
    Convicted
        An AssertionError: when the variance is larger, or an estimate is not finite; the message names components and batches.
    ValueError
        When neither estimator varies, so that there is nothing to compare.

    Examples
    --------
    The reward of the step before is no mistake (γ = 1), and no help:

    >>> from reinforce_np import Estimator, RewardToGo, TabularSoftmax, algorithms, examples
    >>> mdp, policy, theta = examples.referee(horizon=2).replace(gamma=1.0), TabularSoftmax(3, 3), np.zeros(9)
    >>> whole_return, to_go = algorithms.reinforce(reward_to_go=False), Estimator(RewardToGo())
    >>> assert_variance_at_most(to_go, whole_return, mdp, policy, theta).kind
    'unbiased'
    >>> assert_variance_at_most(whole_return, to_go, mdp, policy, theta)
    Traceback (most recent call last):
        ...
    reinforce_np.Convicted: the total variance is ... times that of the other estimator, above 1: ...
    ...
    """
    __tracebackhide__ = True
    ratio = number("ratio", ratio, low=0.0, open_low=True, rule="a number > 0")
    problem = problem_of(mdp, policy, theta, prompts=prompts, group_size=group_size, behaviour=behaviour)
    options = {"exchangeable": exchangeable, "limit": limit}
    verdict = judge(estimator, problem, objective=objective, precision=precision, **options)
    if verdict.moments is None:
        raise Convicted(lambda: _message(verdict, estimator, problem, options))
    reference = exact_moments(other, problem, precision=precision, **options)
    if _deterministic(verdict.moments) and _deterministic(reference):
        raise ValueError(
            "neither estimator varies here, so that there is nothing to compare: choose another theta or model"
        )
    ours, theirs = verdict.moments.total_variance, reference.total_variance
    rounding = max(EQUAL, ROUNDING * verdict.moments.precision, ROUNDING * reference.precision)
    if ours <= ratio * theirs * (1 + rounding):
        return verdict
    raise Convicted(lambda: _variance_message(verdict, reference, ratio, estimator, problem, options))


def assert_gradient(f, gradient, theta, *, relative=1e-7, step=None, noise=None, vectorised=False):
    """Assert that a claimed gradient of a scalar function agrees with differences.

    Parameters
    ----------
    f, gradient, theta, relative, step, noise, vectorised
        As in `check_gradient`.

    Returns
    -------
    GradientCheck
        That passed.

    Raises
    ------
    AssertionError
        When it does not; the message says by how much, where, and what the mistake looks like.

    Examples
    --------
    >>> theta = np.array([0.5, -1.0, 2.0])
    >>> bool(assert_gradient(lambda x: np.sum(x**3), lambda x: 3 * x**2, theta))
    True
    >>> assert_gradient(lambda x: np.sum(x**3), lambda x: 2 * x**2, theta)
    Traceback (most recent call last):
        ...
    AssertionError: gradient WRONG in 3 of 3 components: a constant factor is wrong (claimed = 0.666667 × expected)
    ...
    """
    __tracebackhide__ = True
    found = check_gradient(f, gradient, theta, relative=relative, step=step, noise=noise, vectorised=vectorised)
    if found:
        return found
    raise AssertionError(str(found))


def _reject_the_example():
    """Leave an example of Hypothesis out, if this is one: it is not the test's fault that it tells nothing."""
    hypothesis = sys.modules.get("hypothesis")
    if hypothesis is not None and hypothesis.currently_in_test_context():
        hypothesis.reject()


def _refuse_nothing(verdict):
    """Refuse to pass, or to fail, what cannot be told apart from anything."""
    __tracebackhide__ = True
    if verdict.kind == "undefined" and verdict.moments is not None:
        raise ValueError(f"the gradient proves nothing: {verdict.reason}. Choose another theta, or another model")


def _deterministic(moments):
    return bool(np.all(moments.variance <= (ROUNDING * moments.precision) ** 2 * moments.second_moment))


def _message(verdict, estimator, problem, options, *, meant="", factor=None):
    """Return the verdict and its evidence."""
    lines = [str(verdict)]
    if verdict.moments is None:
        return "\n".join([*lines, *_ending(verdict, estimator, problem)])
    if meant:
        lines.append(f"It is {meant}.")
    if verdict.kind == "biased" and meant and factor is None and (verdict.cosine or 0.0) > 0:
        factor = verdict.moments.mean @ verdict.gradient / (verdict.gradient @ verdict.gradient)
        lines[-1] = f"It is {meant}; the nearest is {factor:.6g} times it."
    factor = 1.0 if factor is None else factor
    lines += _other_objectives(verdict, problem)
    lines += _worst_components(verdict, problem.policy, factor)
    if verdict.kind == "biased":
        lines += _carriers(estimator, problem, options, objective=verdict.objective, by_bias=True, factor=factor)
    return "\n".join([*lines, *_ending(verdict, estimator, problem)])


def _variance_message(verdict, reference, ratio, estimator, problem, options):
    """Return how much larger a variance is, and where it comes from."""
    ours, theirs = verdict.moments.total_variance, reference.total_variance
    times = f"{ours / theirs:.6g}" if theirs else "infinitely many"
    apart = float(np.linalg.norm(verdict.moments.mean - reference.mean))
    lines = [
        f"the total variance is {times} times that of the other estimator, above {ratio:g}: {ours:.6g} against {theirs:.6g}",
        f"itself, it is {verdict}",
        f"the means of the two differ by {apart:.3g}",
        "largest excess:",
    ]
    excess = verdict.moments.variance - ratio * reference.variance
    for i in np.argsort(-excess, kind="stable")[:WORST]:
        if excess[i] > 0:
            lines.append(
                f"  {component(problem.policy, i)}: variance {verdict.moments.variance[i]:.6g}, other {reference.variance[i]:.6g}"
            )
    lines += _carriers(estimator, problem, options, objective=verdict.objective)
    return "\n".join([*lines, *_ending(verdict, estimator, problem)])


def _other_objectives(verdict, problem):
    """Say of which other objective it is the gradient, if it is one."""
    others = [Discounted(), Undiscounted()]
    if problem.beta:
        others.append(EntropyRegularised(problem.beta))
        others += [KLRegularised(problem.reference, problem.beta)] * (problem.reference is not None)
    given = problem.mdp, problem.policy, problem.theta
    found = []
    for other in others:
        if type(other) is not type(verdict.objective):
            g = exact_gradient(*given, objective=other)
            kind = verdict_of(verdict.moments, g, other, scale=gradient_scale(*given, objective=other)).kind
            if kind == "unbiased":
                found.append(f"It is unbiased for the gradient of another objective, {other!r}.")
    return found


def component(policy, i):
    """Return the name of a parameter: the state and action whose logit it is, where it is one.

    Parameters
    ----------
    policy : TabularSoftmax or LinearSoftmax
        Whose parameter.
    i : int
        Which.

    Returns
    -------
    str

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax
    >>> component(TabularSoftmax(3, 2), 5)
    'theta[5] (state 2, action 1)'
    """
    if not isinstance(policy, TabularSoftmax):
        return f"theta[{i}]"
    s, a = divmod(int(i), policy.n_actions)
    return f"theta[{i}] (state {s}, action {a})"


def _worst_components(verdict, policy, factor):
    """Name the components that are furthest off, those that rounding explains left out."""
    mean, gradient = verdict.moments.mean, factor * verdict.gradient
    off = mean - gradient
    name = "gradient" if factor == 1.0 else f"{factor:.6g} x gradient"
    allowed = max(abs(factor), 1.0) * verdict.rounding
    worst = [i for i in np.argsort(-np.abs(off), kind="stable")[:WORST] if abs(off[i]) > allowed[i]]
    return ["worst components:"] * bool(worst) + [
        f"  {component(policy, i)}: mean {mean[i]:.6g}, {name} {gradient[i]:.6g}, off by {off[i]:+.3g}" for i in worst
    ]


def _carriers(estimator, problem, options, **which):
    """Name the batches that carry bias and variance, where they can be listed."""
    what = "bias" if which.get("by_bias") else "variance"
    try:
        found = largest_contributions(estimator, problem, n=WORST, **which, **options)
    except (TooLargeError, callables.NotFiniteError) as error:
        return [f"what carries the {what} is not listed: {error}"]
    kind = "trajectories" if found.batch_size == 1 else "batches"
    return [f"{kind} that carry the {what}:", *("  " + line for line in str(found).splitlines())]


def _ending(verdict, estimator, problem):
    cause = likely_cause(verdict, estimator, problem)
    return [f"likely cause: {cause}"] * bool(cause) + [f"problem: {problem!r}"]
