"""Is an estimator unbiased? For which objective? By which factor? Decided exactly.

A verdict compares the exact mean of an estimator with the exact gradient of a
*named* objective. What counts as zero is what rounding could have left: per
component, c·ε·T times the root mean square of the estimate, and c·ε times the
rewards and baselines that cancelled in it. Where that is not small beside the
gradient, only a mean that agrees to 0.1 % is acquitted; else the verdict is "undefined". The cosine is
reported and never decides: dropping γᵗ keeps it above 0.99 while a quarter of
the gradient is wrong.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reinforce_np import arguments, graph
from reinforce_np.estimators import Estimator, OnPolicy
from reinforce_np.exact.batches import LIMIT
from reinforce_np.exact.callables import NotFiniteError, bound, estimate_of
from reinforce_np.exact.derivatives import gradient as exact_gradient
from reinforce_np.exact.derivatives import gradient_scale
from reinforce_np.exact.laws import moments as exact_moments
from reinforce_np.exact.objectives import Discounted
from reinforce_np.exact.record import DOUBLE, norm
from reinforce_np.problem import problem_of
from reinforce_np.sampling import sample

ROUNDING = 256  # times the unit rounding, per step, relative to the root mean square of an estimate
SINGLE = float(np.finfo(np.float32).eps)
RESOLVED = 1e-3  # of the gradient: a mean off by more is never acquitted, however much rounding may have left
ALL_ONE = "all ratios were 1: pass a behaviour to judge others"
ALL_ZERO = (
    "every estimate is zero: because it does not depend on the log-probabilities, because its weights are zero or cancel here, "
    "or because it compares the members of groups and each is alone (pass group_size=2)"
)
DRAWN = 64  # batches, of which
SHOWN = 4  # are shown to a function as if another policy had drawn them
NO_BOOL = (
    'a verdict is one of four kinds, neither true nor false: ask for verdict.kind == "unbiased", or use assert_unbiased'
)


@dataclass(frozen=True, eq=False)
class Verdict:
    """What an estimator estimates; prints as a short paragraph.

    Parameters
    ----------
    kind : str
        "unbiased", "proportional", "biased", or "undefined" when the gradient is zero and so is
        the mean, so that nothing can be told apart, when rounding may have made a difference that would
        matter, or when some estimate is not finite.
    factor : float or None
        The mean is `factor` times the gradient, when it is.
    relative_bias : float or None
        ‖E[ĝ] − ∇J‖ / ‖∇J‖; infinite when only the gradient is zero; None when there is no mean.
    cosine : float or None
        Between the mean and the gradient; None when one of them is zero.
    bias : array (D,) or None
        E[ĝ] − ∇J.
    gradient : array (D,)
        ∇J.
    objective : Objective
        Whose gradient.
    moments : Moments or None
        Of the estimate; None when they do not exist.
    rounding : array (D,) or None
        What counted as zero.
    reason : str
        Why a verdict is "undefined", or what else a reader should know: such as that *every* estimator
        is proportional here, where one state with two actions leaves the scores a single direction; or that
        all importance ratios were 1, so that nothing is said about what becomes of them.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples, judge
    >>> verdict = judge(algorithms.reinforce(), examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2))
    >>> verdict.kind, verdict.mean_squared_error(n_batches=100)
    ('unbiased', 0.00125)
    """

    kind: str
    factor: float | None
    relative_bias: Any
    cosine: float | None
    bias: Any  # None where there are no moments, as the next
    gradient: np.ndarray
    objective: Any
    moments: Any
    rounding: Any
    reason: str = ""

    def __bool__(self):
        raise TypeError(NO_BOOL)

    def mean_squared_error(self, n_batches):
        """Return E‖average of n batches − ∇J‖² = ‖bias‖² + Σ_i Var[ĝ_i]/n.

        Parameters
        ----------
        n_batches : int
            How many independent batches are averaged.

        Returns
        -------
        float
        """
        n_batches = arguments.integer("n_batches", n_batches, low=1)
        if self.moments is None:
            raise ValueError(f"this verdict is undefined, so that there is no mean squared error: {self.reason}")
        return float(self.bias @ self.bias) + self.moments.total_variance / n_batches

    def is_multiple(self, factor):
        """Return whether the mean is `factor` times the gradient, within rounding.

        Parameters
        ----------
        factor : float

        Returns
        -------
        bool
        """
        if self.moments is None:
            return False
        off = np.abs(self.moments.mean - factor * self.gradient)
        return bool(np.all(off <= max(abs(factor), 1.0) * self.rounding))

    def as_dict(self):
        """Return the verdict as plain numbers and lists, ready for JSON."""
        return {
            "kind": self.kind,
            "objective": type(self.objective).__name__,
            "factor": self.factor,
            "relative_bias": _finite(self.relative_bias),
            "cosine": self.cosine,
            "gradient": self.gradient.tolist(),
            "reason": self.reason,
            **self._numbers(),
        }

    def _numbers(self):
        """Return what there is only when the estimate has moments."""
        if self.moments is None:
            return {}
        return {
            "bias": self.bias.tolist(),
            "mean": self.moments.mean.tolist(),
            "variance": self.moments.variance.tolist(),
            "total_variance": self.moments.total_variance,
            "signal_to_noise": _finite(self.moments.signal_to_noise),
            "rounding": self.rounding.tolist(),
            "route": self.moments.route,
        }

    def __str__(self):
        name = type(self.objective).__name__
        if self.kind == "unbiased":
            return (
                f"unbiased for the gradient of {name}: largest difference {np.abs(self.bias).max():.1e} is rounding"
                + (f"; {self.reason}" if self.reason else "")
            )
        if self.kind == "undefined":
            return f"undefined for the gradient of {name}: {self.reason}"
        if self.kind == "proportional":
            return (
                f"proportional to the gradient of {name} with factor {self.factor:.6g} (relative bias {self.relative_bias:.3g})"
                + ("; its mean points away from the gradient" if (self.factor or 0.0) < 0 else "")
                + (f"; {self.reason}" if self.reason else "")
            )
        cosine = "" if self.cosine is None else f", cosine {self.cosine:.4f}"
        worst = int(np.argmax(np.abs(self.bias)))
        return (
            f"biased for the gradient of {name}: relative bias {self.relative_bias:.3g}{cosine}; worst component {worst}: mean "
            f"{self.moments.mean[worst]:.6g}, gradient {self.gradient[worst]:.6g}"
            + (f" ({self.reason})" if self.reason else "")
        )


def judge(
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
    route=None,
    limit=LIMIT,
):
    """Decide what an estimator estimates, by its exact moments.

    Parameters
    ----------
    estimator : Estimator or callable
        Any of the family; or a function of yours that returns an estimate (D,)
        from one batch, ``f(trajectories, theta)`` or ``f(trajectories, theta,
        problem)``; or ``f(problem)``, which returns one of these. All batches
        there can be are listed, in every order, and shown to the function, which
        must draw no random numbers and keep nothing between calls.
    mdp : FiniteMDP or Problem
        The model; or a `Problem`, which says all that follows.
    policy, theta : optional
        Of a model.
    objective : Discounted, Undiscounted, KLRegularised or EntropyRegularised
        Whose gradient it should be; or a function that makes it from the `Problem`.
    prompts, group_size, behaviour, exchangeable, precision, route, limit
        As in `moments`.

    Returns
    -------
    Verdict

    Raises
    ------
    TooLargeError
        When what has to be listed is above `limit`, before any estimate is made.
    ValueError
        When a function answers differently when it is asked again, is declared exchangeable and is not, or estimates leave
        float64.
    TypeError
        When `estimator` or `objective` is none.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.referee(horizon=2), TabularSoftmax(3, 3)
    >>> theta = np.linspace(-1, 1, 9)
    >>> print(judge(algorithms.reinforce(), mdp, policy, theta))
    unbiased for the gradient of Discounted: largest difference ... is rounding
    >>> print(judge(algorithms.dr_grpo(), mdp, policy, theta, group_size=2))
    proportional to the gradient of Discounted with factor 0.5 (relative bias 0.5); all ratios were 1: pass a behaviour to judge others

    A function of yours: here the discount of the score is forgotten.

    >>> def mine(trajectories, theta):
    ...     estimate = np.zeros_like(theta)
    ...     for states, actions, rewards, length in zip(
    ...         trajectories.states, trajectories.actions, trajectories.rewards, trajectories.lengths
    ...     ):
    ...         for t in range(length):
    ...             G = sum(mdp.gamma ** (u - t) * rewards[u] for u in range(t, length))
    ...             estimate += G * policy.score(theta)[states[t], actions[t]]
    ...     return estimate / len(trajectories)
    >>> judge(mine, mdp, policy, theta).kind
    'biased'
    """
    problem = problem_of(mdp, policy, theta, prompts=prompts, group_size=group_size, behaviour=behaviour)
    given = (problem.mdp, problem.policy, problem.theta)
    objective = objective_of(objective, problem)
    gradient = exact_gradient(*given, objective=objective)
    estimator = bound(estimator, problem)
    try:
        moments = exact_moments(
            estimator, problem, exchangeable=exchangeable, precision=precision, route=route, limit=limit
        )
    except NotFiniteError as error:
        return Verdict("undefined", None, None, None, None, gradient, objective, None, None, reason=str(error))
    verdict = verdict_of(moments, gradient, objective, scale=gradient_scale(*given, objective=objective))
    remarks = []
    if verdict.kind == "biased" and not moments.second_moment.any():
        remarks.append(ALL_ZERO)
    if verdict.kind == "proportional" and one_direction(problem):
        remarks.append("so is every estimator here, where all scores lie on one line")
    if verdict.kind in ("unbiased", "proportional") and is_on_policy(problem) and reads_ratios(estimator, problem):
        remarks.append(ALL_ONE)
    return replace(verdict, reason="; ".join(remarks)) if remarks else verdict


def is_on_policy(problem):
    """Return whether the behaviour is the policy itself, so that every importance ratio is 1.

    Examples
    --------
    >>> from reinforce_np import Problem, TabularSoftmax, examples
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2))
    >>> is_on_policy(problem), is_on_policy(problem.replace(behaviour=np.array([[0.25, 0.75]])))
    (True, False)
    """
    if problem.behaviour is None:
        return True
    log_pi = problem.policy.log_probabilities(problem.theta)
    return bool(np.array_equal(log_pi, problem.policy.log_probabilities_of("behaviour", problem.behaviour)))


def reads_ratios(estimator, problem):
    """Return whether an estimator looks at the probabilities with which the actions were drawn, as importance ratios do.

    A function is shown a few batches of its problem as if another policy had drawn them, and looks at them if it answers otherwise.

    Examples
    --------
    >>> from reinforce_np import Problem, TabularSoftmax, algorithms, examples
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2))
    >>> reads_ratios(algorithms.grpo(), problem), reads_ratios(algorithms.rloo(), problem)
    (True, False)
    >>> def surrogate(trajectories, theta):
    ...     pi = problem.policy.probabilities(theta)[trajectories.states, trajectories.actions]
    ...     return (pi / np.exp(trajectories.log_probabilities) * trajectories.rewards).sum() * np.ones(2)
    >>> reads_ratios(surrogate, problem), reads_ratios(lambda trajectories, theta: theta, problem)
    (True, False)
    """
    if isinstance(estimator, Estimator):
        return not isinstance(estimator.ratio, OnPolicy)
    given = problem.mdp, problem.policy, problem.theta
    size, rng = problem.prompts * problem.group_size, np.random.default_rng(0)
    drawn = sample(*given, DRAWN * size, group_size=problem.group_size, rng=rng)
    returns = np.where(drawn.mask, drawn.rewards, 0.0).sum(axis=1).reshape(DRAWN, size)
    telling = np.ptp(returns, axis=1) + np.abs(returns).max(axis=1)  # where all are zero, so is what they weigh
    for i in np.argsort(-telling, kind="stable")[:SHOWN]:
        batch = drawn.take(slice(i * size, (i + 1) * size))
        batch = replace(batch, groups=batch.groups - batch.groups[0])
        log_ratios = rng.uniform(
            0.0, 0.15, size=batch.mask.shape
        )  # another at each step, and within the usual clipping
        otherwise = replace(batch, log_probabilities=np.where(batch.mask, batch.log_probabilities - log_ratios, 0.0))
        try:
            ours, theirs = (estimate_of(estimator, x, problem.theta) for x in (batch, otherwise))
        except Exception:  # it may refuse what it is not meant for: then nothing is known
            return False
        if not np.allclose(ours, theirs, rtol=1e-3, atol=0.0):
            return True
    return False


def one_direction(problem):
    """Return whether the scores of all states that can be reached span no more than a line.

    Examples
    --------
    >>> from reinforce_np import Problem, TabularSoftmax, examples
    >>> [one_direction(Problem(examples.bandit(means=[0.0] * A), TabularSoftmax(1, A), np.zeros(A))) for A in (2, 3)]
    [True, False]
    """
    mdp, pi = problem.mdp, problem.policy.probabilities(problem.theta)
    last = None if mdp.horizon is None else max(mdp.horizon - 1, 0)
    reached = graph.reachable(mdp, graph.possible_outcomes(mdp, pi), last)
    plane = np.random.default_rng(0).normal(size=(2, len(problem.theta)))  # what is flat is flat in a plane at random
    psi = problem.policy.score_along(problem.theta, plane)[reached]
    return bool(np.linalg.matrix_rank(psi.reshape(-1, psi.shape[2])) <= 1)


def objective_of(objective, problem):
    """Return the objective, made from the `Problem` where a function of it is given."""
    if not hasattr(objective, "bonus") and callable(objective):
        objective = objective(problem)
    if not hasattr(objective, "bonus") or isinstance(objective, type):
        raise TypeError(
            f"objective={objective!r} is no objective; pass Discounted(), Undiscounted(), KLRegularised(reference, beta) or "
            "EntropyRegularised(beta), or a function that makes one from the Problem"
        )
    return objective


def _finite(x):
    """Return a number that JSON can hold, or None."""
    return x if x is not None and math.isfinite(x) else None


def verdict_of(moments, gradient, objective, *, scale=None):
    """Compare exact moments with an exact gradient.

    Parameters
    ----------
    moments : Moments
        Of the estimate.
    gradient : array (D,)
        ∇J.
    objective : Objective
        Its name.
    scale : array (D,), optional
        The size of the terms that the gradient is the sum of; its own size if not given.

    Returns
    -------
    Verdict
    """
    mean, bias = moments.mean, moments.mean - gradient
    steps = max(moments.n_steps, 1)
    rounds = ROUNDING * moments.precision
    in_mean = rounds * steps * np.sqrt(moments.second_moment) + rounds * moments.scale
    in_mean = in_mean + np.finfo(np.float64).tiny  # numbers below that have fewer digits
    in_gradient = ROUNDING * DOUBLE * steps * (np.abs(gradient) if scale is None else scale)
    zero_gradient, zero_mean = np.all(np.abs(gradient) <= in_gradient), np.all(np.abs(mean) <= in_mean)
    size, length = norm(gradient), norm(mean)
    cosine = None if zero_gradient or zero_mean else float(np.clip((mean / length) @ (gradient / size), -1.0, 1.0))
    factor = None if cosine is None else cosine * length / size
    rounding = in_mean + in_gradient
    resolved = RESOLVED * np.abs(gradient).max(initial=0.0)
    reason = ""
    if np.all(np.abs(gradient) <= rounding) and np.all(np.abs(mean) <= rounding):
        kind, factor = "undefined", None  # whatever one of them is, it is not above what the other may hide
        reason = "it is zero here, or below rounding, and so is the mean of the estimate"
    elif np.all(np.abs(bias) <= rounding):
        kind, factor = ("unbiased", 1.0) if np.abs(bias).max() <= resolved else ("undefined", None)
    elif factor is not None and np.all(np.abs(mean - factor * gradient) <= in_mean + abs(factor) * in_gradient):
        multiple = np.abs(mean - factor * gradient).max() <= abs(factor) * resolved
        kind, factor = ("proportional", factor) if multiple else ("undefined", None)
    elif zero_mean and in_mean.max() > resolved:
        kind = "undefined"
    else:
        kind, factor = "biased", None
        if zero_mean:
            reason = "its mean cannot be told from zero"
        in_single = np.minimum(SINGLE / DOUBLE * rounding, resolved)
        if moments.precision < SINGLE and np.all(np.abs(bias) <= in_single):
            reason = "of the size of single-precision rounding; a function that computes in float32 is judged as such with precision=np.float32"
    if kind == "undefined" and not reason:
        reason = (
            f"it is {np.abs(gradient).max():.1e} and the mean is off by {np.abs(bias).max():.1e}, of which rounding may have left "
            f"{rounding.max():.1e}; rewards around zero and policies that are less sure lose fewer digits"
        )
    return Verdict(
        kind=kind,
        factor=factor,
        relative_bias=norm(bias) / size if not zero_gradient else (0.0 if zero_mean else math.inf),
        cosine=cosine,
        bias=bias,
        gradient=gradient,
        objective=objective,
        moments=moments,
        rounding=rounding,
        reason=reason,
    )
