"""Exact mean and covariance of an estimator, by the cheapest route that applies.

`moments` picks the route and says which: by recursion, at any horizon, where the
estimator is a linear trace, sees the return of its trajectory, or compares the
returns of a group linearly (`traces`, `total_return`); by histogram of
returns where it sees its batch only through them (`histogram`); by listing
every batch otherwise (`batches`).
"""

from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators import (
    GAE,
    Estimator,
    GroupMean,
    LeaveOneOut,
    NStep,
    OnPolicy,
    PerComponent,
    RewardToGo,
    TotalReturn,
)
from reinforce_np.exact.batches import (
    LIMIT,
    check_sizes,
    check_support,
    estimate_scale,
    moments_by_enumeration,
)
from reinforce_np.exact.callables import bound, check_family
from reinforce_np.exact.histogram import has_histogram, moments_by_histogram
from reinforce_np.exact.ranges import estimate_range
from reinforce_np.exact.record import Moments
from reinforce_np.exact.recursion import sweep
from reinforce_np.exact.total_return import return_moments
from reinforce_np.exact.traces import linear_trace, tables_of
from reinforce_np.problem import problem_of

TOGETHER = 64  # directions carried at once when no covariance is wanted, or more
NUMBERS = 2**20  # while their scores are no more than so many numbers
ROUTES = ("recursion", "histogram", "enumeration")


def moments(
    estimator,
    mdp,
    policy=None,
    theta=None,
    *,
    prompts=None,
    group_size=None,
    behaviour=None,
    covariance=False,
    exchangeable=False,
    precision=None,
    route=None,
    limit=LIMIT,
):
    """Return the exact moments of the estimate from one batch.

    Parameters
    ----------
    estimator : Estimator or callable
        Any of the family, or a function of yours; see `judge`.
    mdp : FiniteMDP or Problem
        The model; or a `Problem`, which says all that follows.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (D,)
        Its parameters.
    prompts : int, optional
        Number of groups in a batch; one if nothing says otherwise.
    group_size : int, optional
        Trajectories in a group, which share their first state; one if nothing says otherwise.
    behaviour : array (D,) or (S, A), optional
        The policy that draws the actions.
    covariance : bool
        Whether the (D, D) covariance is wanted; variances always are there,
        and listing gives the covariance anyway.
    exchangeable : bool
        Declares that a function does not depend on the order of its batch, so
        that fewer batches have to be listed. A few are shown in one other order each, so that a function
        that does depend on it is refused, unless it does so in none of these.
    precision : dtype, optional
        The floating-point type a function computes in; that of its result if not given.
    route : {"recursion", "histogram", "enumeration"}, optional
        Insist on a route; the cheapest that applies if not given.
    limit : int
        Largest number of trajectories in all batches that are listed.

    Returns
    -------
    Moments

    Raises
    ------
    ValueError
        When the route asked for does not apply, an estimate is not finite, or a function answers differently when it is
        asked again, or in another order though it was declared exchangeable.
    TooLargeError
        When only listing applies and there is too much to list.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> exact = moments(algorithms.rloo(), mdp, policy, np.zeros(2), group_size=64)
    >>> exact.mean, exact.route
    (array([-0.25,  0.25]), 'recursion')
    """
    limit = arguments.integer("limit", limit, low=1)
    covariance = arguments.flag("covariance", covariance)
    if route is not None and route not in ROUTES:
        raise ValueError(f"route={route!r} is unknown; pass one of {', '.join(map(repr, ROUTES))}")
    problem = problem_of(mdp, policy, theta, prompts=prompts, group_size=group_size, behaviour=behaviour)
    estimator = bound(estimator, problem)
    given, options = (problem.mdp, problem.policy, problem.theta), problem.options
    if not isinstance(estimator, Estimator):
        if route not in (None, "enumeration"):
            raise ValueError(
                f"route={route!r} is for an Estimator: what a function does is only known by listing batches"
            )
        return moments_by_enumeration(
            estimator, *given, exchangeable=exchangeable, precision=precision, limit=limit, **options
        )
    if route == "enumeration":
        return moments_by_enumeration(estimator, *given, limit=limit, **options)
    if route == "recursion" or (route is None and has_recursion(estimator, *given, options["behaviour"])):
        return moments_by_recursion(estimator, *given, covariance=covariance, **options)
    if route == "histogram" or has_histogram(estimator, given[0], options["behaviour"]):
        try:
            return moments_by_histogram(estimator, *given, covariance=covariance, limit=limit, **options)
        except arguments.TooLargeError:  # the covariance of all nodes may be what is too large: listing may still do
            if route is not None or not covariance:
                raise
    return moments_by_enumeration(estimator, *given, limit=limit, **options)


def has_recursion(estimator, mdp, policy, theta, behaviour=None):
    """Return whether `moments_by_recursion` applies.

    Parameters
    ----------
    estimator, mdp, policy, theta, behaviour
        As in `moments`.

    Returns
    -------
    bool
    """
    return isinstance(estimator, Estimator) and (
        _form(estimator, mdp, policy, policy.real_theta(theta), behaviour) is not None
    )


def moments_by_recursion(estimator, mdp, policy, theta, *, prompts=1, group_size=1, behaviour=None, covariance=False):
    """Return the exact moments of the estimate from one batch, without listing anything.

    Applies to reward-to-go with any baseline, GAE, n-step and actor-critic,
    on-policy or with a ratio per token, per decision, over the whole
    trajectory, truncated, masked or V-trace, with penalties; to the
    total return; and on-policy to RLOO and the in-sample mean. Time grows with
    T·S·A·K·D; no array of size S·D·D is built.

    Parameters
    ----------
    estimator, mdp, policy, theta, prompts, group_size, behaviour, covariance
        As in `moments`.

    Returns
    -------
    Moments

    Raises
    ------
    ValueError
        When the estimator has no such form.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.frozen_lake(), TabularSoftmax(16, 4)
    >>> moments_by_recursion(algorithms.reinforce(), mdp, policy, np.zeros(64)).mean.shape
    (64,)
    """
    check_family(estimator)
    prompts = arguments.integer("prompts", prompts, low=1)
    group_size = arguments.integer("group_size", group_size, low=1)
    arguments.check_same_model(mdp, policy)
    theta = policy.real_theta(theta)
    check_support(mdp, policy, theta, behaviour)
    _check_tables(estimator, mdp)
    with np.errstate(over="ignore", invalid="ignore"):  # refused below, by name
        form = _form(estimator, mdp, policy, theta, behaviour)
    if form is None:
        raise ValueError(f"estimator={estimator!r} has no recursion; use moments_by_enumeration")
    kind, tables = form
    if kind == "group" and group_size < 2:
        raise ValueError(
            f"group_size={group_size}: {type(getattr(estimator.advantage, 'of', estimator.advantage)).__name__} compares the members "
            "of a group; draw at least two"
        )
    D = policy.n_parameters
    step = D if covariance else max(TOGETHER, NUMBERS // (mdp.n_states * mdp.n_actions))
    parts = []
    for first in range(0, D, step):
        directions = np.eye(D)[first : first + step]
        psi = policy.score_along(theta, directions)
        with np.errstate(over="ignore", invalid="ignore"):
            parts.append(_batch_moments(kind, tables, psi, slice(first, first + step), prompts, group_size, covariance))
    mean = np.concatenate([part[0] for part in parts])
    spread = parts[0][1] if covariance else np.concatenate([part[1] for part in parts])
    if not (np.isfinite(mean).all() and np.isfinite(spread).all()):
        raise ValueError(
            f"the second moments leave float64: rewards or the ratios of ratio={estimator.ratio!r} are too large; rescale the "
            "rewards, limit the ratios, or draw from a behaviour closer to the policy"
        )
    variance = np.maximum(np.diag(spread) if covariance else spread, 0.0)
    residuals = [part[2] for part in parts if part[2] is not None]
    return Moments(
        mean=mean,
        variance=variance,
        covariance=spread if covariance else None,
        second_moment=variance + mean**2,
        scale=estimate_scale(estimator, mdp, policy, theta),
        n_steps=mdp.horizon if mdp.horizon is not None else mdp.n_states,
        n_batches=None,
        route="recursion",
        residual=max(residuals, default=None),
    )


def _form(estimator, mdp, policy, theta, behaviour):
    """Return ("trace" | "return" | "group", tables), or None when no recursion applies."""
    trace = linear_trace(estimator, mdp, policy, theta, behaviour)
    if trace is not None:
        return "trace", trace
    advantage = estimator.advantage
    inner = advantage.of if isinstance(advantage, PerComponent) else advantage
    if isinstance(advantage, PerComponent):
        advantage.check_policy(policy)
    if mdp.horizon is None or not isinstance(inner, TotalReturn | LeaveOneOut | GroupMean):
        return None
    if isinstance(advantage, PerComponent) and advantage.baseline.ndim == 2:
        return None
    if isinstance(inner, LeaveOneOut) and inner.per_step:
        return None
    tables = tables_of(estimator, mdp, policy, theta, behaviour)
    if tables is None or tables.passive is not None or np.any(tables.loss):
        return None
    if not isinstance(inner, TotalReturn):
        return ("group", tables) if isinstance(tables.estimator.ratio, OnPolicy) and behaviour is None else None
    return "return", tables


def _batch_moments(kind, tables, psi, rows, prompts, group_size, covariance):
    """Return mean and covariance (or variance) of the estimate from a batch, for the directions in `psi`, and the residual."""
    mdp, scale, residual = tables.mdp, tables.scale(), None
    square = (lambda x: np.einsum("...d,...e->...de", x, x)) if covariance else (lambda x: x**2)
    if kind == "trace":
        mean, outer, by_state, residual = _trace(tables, psi, covariance)
        between = np.einsum("s,s...->...", mdp.initial, square(by_state)) if group_size > 1 else 0.0
    elif kind == "return" and group_size == 1:
        mean, outer = _return(tables, psi, rows, mdp.initial, covariance)
        between = 0.0
    else:  # the first state is shared: its part of the variance is not averaged away
        one = _return if kind == "return" else _group
        starts = np.flatnonzero(mdp.initial > 0)
        each = [one(tables, psi, rows, np.eye(mdp.n_states)[s], covariance, group_size) for s in starts]
        p = mdp.initial[starts]
        mean = sum(p_s * mean_s for p_s, (mean_s, _) in zip(p, each, strict=True))
        outer = sum(p_s * outer_s for p_s, (_, outer_s) in zip(p, each, strict=True))
        between = sum(p_s * square(mean_s) for p_s, (mean_s, _) in zip(p, each, strict=True))
    if kind == "group" or group_size == 1:
        return scale * mean, scale**2 * (outer - square(mean)) / prompts, residual
    return scale * mean, scale**2 * ((outer - between) / group_size + between - square(mean)) / prompts, residual


def _trace(trace, psi, covariance):
    """Return E[X], E[XXᵀ] (or its diagonal), E[X | first state], and what has not settled."""
    found = sweep(trace, psi, covariance=covariance)
    squares = sweep(trace, psi, power=2, covariance=covariance) if trace.whole_trajectory else found
    residual = None if found.residual is None else max(found.residual, squares.residual)
    return found.first, squares.outer if covariance else squares.second, found.by_state, residual


def _return(tables, psi, rows, initial, covariance, group_size=1):
    """Return E[X] and E[XXᵀ] of X = F (R − b) for one trajectory.

    Returns are freed of b before they are squared, or of the median b where components differ.
    """
    advantage, b = tables.estimator.advantage, np.zeros(psi.shape[-1])
    if isinstance(advantage, PerComponent):
        middle = float(np.median(advantage.baseline))
        centre, b = advantage.of.baseline + middle, advantage.baseline[rows] - middle
    else:
        centre = advantage.baseline
    options = {"initial": initial, "centre": centre, "covariance": covariance}
    psi = psi * tables.factor[:, :, None]
    first = second = return_moments(tables.mdp, tables.measure(1), tables.rewards, psi, **options)
    if tables.whole_trajectory:
        second = return_moments(tables.mdp, tables.measure(2), tables.rewards, psi, **options)
    mean = first.z[1] - b * first.z[0]
    if covariance:
        return mean, second.m[2] - (b[:, None] + b) * second.m[1] + b[:, None] * b * second.m[0]
    return mean, second.m[2] - 2 * b * second.m[1] + b**2 * second.m[0]


def _group(tables, psi, rows, initial, covariance, group_size):
    """Return E[ĝ] and E[ĝĝᵀ] of one group: RLOO is the sample covariance of score and return, a U-statistic.

    With z and r of mean zero, θ = E[zr], v = E[r²] and N members,

        Cov = 4(N−2)/(N(N−1)) ζ₁ + 2/(N(N−1)) ζ₂,    ζ₁ = ¼ (E[zzᵀr²] − θθᵀ),    ζ₂ = ½ (E[zzᵀr²] + v E[zzᵀ]),

    (Hoeffding 1948, equation (5.13)); the in-sample mean is (N−1)/N of it. A baseline b per component takes
    b times the mean of z away, whose covariance with RLOO is E[zzᵀr]/N.
    """
    N = group_size
    centre = float(initial @ tables.mean_returns)
    options = {"initial": initial, "centre": centre, "covariance": covariance}
    found = return_moments(tables.mdp, tables.measure(1), tables.rewards, psi, **options)
    theta = found.z[1]
    square = np.outer(theta, theta) if covariance else theta**2
    zeta1 = (found.m[2] - square) / 4
    zeta2 = (found.m[2] + found.n[2] * found.m[0]) / 2
    spread = 4 * (N - 2) / (N * (N - 1)) * zeta1 + 2 / (N * (N - 1)) * zeta2
    advantage = tables.estimator.advantage
    factor = (N - 1) / N if isinstance(getattr(advantage, "of", advantage), GroupMean) else 1.0
    second = factor**2 * (spread + square)
    if isinstance(advantage, PerComponent):
        b = advantage.baseline[rows]
        sums, products = (b[:, None] + b, np.outer(b, b)) if covariance else (2 * b, b**2)
        second += (products * found.m[0] - factor * sums * found.m[1]) / N
    return factor * theta, second


@dataclass(frozen=True, eq=False)
class DirectionalMoments:
    """What one trajectory's estimate v·ĝ can be, for E directions v.

    Parameters
    ----------
    mean, second_moment : array (E,)
        E[v·ĝ] and E[(v·ĝ)²].
    low, high : array (E,)
        Bounds on v·ĝ over all possible trajectories; not always attained,
        infinite where none is known.
    """

    mean: np.ndarray
    second_moment: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def variance(self):
        """Var[v·ĝ], shape (E,)."""
        return np.maximum(self.second_moment - self.mean**2, 0.0)


def directional_moments(estimator, mdp, policy, theta, directions):
    """Return the exact moments and the range of v·ĝ for one trajectory, by recursion.

    Parameters
    ----------
    estimator : Estimator
        One that looks at a single trajectory, and has a recursion.
    mdp : FiniteMDP
        The model.
    policy, theta
        The policy that draws the trajectory and whose score is weighted.
    directions : array (E, D)
        One direction a row.

    Returns
    -------
    DirectionalMoments

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> found = directional_moments(algorithms.reinforce(), mdp, policy, np.zeros(2), np.eye(2))
    >>> found.mean, found.variance
    (array([-0.25,  0.25]), array([0.0625, 0.0625]))
    """
    arguments.check_same_model(mdp, policy)
    theta = policy.real_theta(theta)
    _check_tables(estimator, mdp)
    form = _form(estimator, mdp, policy, theta, None)
    if form is None or form[0] == "group" or isinstance(estimator.advantage, PerComponent):
        raise ValueError(
            f"advantage={estimator.advantage!r} has no law of a single trajectory by recursion; use RewardToGo, GAE, NStep or TotalReturn"
        )
    kind, tables = form
    pi = policy.probabilities(theta)
    parts = []
    for first in range(0, len(directions), TOGETHER):
        psi = policy.score_along(theta, directions[first : first + TOGETHER])
        scaled = psi * tables.scale()
        mean, second = (
            _trace(tables, scaled, False)[:2] if kind == "trace" else _return(tables, scaled, None, mdp.initial, False)
        )
        parts.append((mean, second, *estimate_range(estimator, mdp, pi, psi)))
    return DirectionalMoments(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _check_tables(estimator, mdp):
    """Refuse baselines of another shape than the model's, and sizes whose squares leave float64."""
    advantage = estimator.advantage.of if isinstance(estimator.advantage, PerComponent) else estimator.advantage
    name = "critic" if isinstance(advantage, GAE | NStep) else "baseline"
    table = np.asarray(getattr(advantage, name, 0.0))
    steps = () if mdp.horizon is None else (mdp.horizon, mdp.horizon + 1)
    if table.ndim and (table.shape[-1] != mdp.n_states or (table.ndim == 2 and len(table) not in steps)):
        raise ValueError(
            f"{name} has shape {table.shape}; for this model it must be a number, ({mdp.n_states},)"
            + (f" or ({mdp.horizon}, {mdp.n_states})" if steps else "; without a horizon it cannot depend on t")
        )
    if mdp.horizon is None and not isinstance(advantage, RewardToGo | GAE | NStep):
        raise ValueError(
            "horizon=None: the moments of TotalReturn and of groups need a horizon; use RewardToGo or replace(horizon=...)"
        )
    check_sizes(estimator, mdp)
