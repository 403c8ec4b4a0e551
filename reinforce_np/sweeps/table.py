"""One row for each value and estimator: exact bias, exact variance, and the error they make together.

    MSE of a batch of N trajectories  =  ‖bias‖² + (variance per trajectory) / N

A biased estimator looks good by being small; the error does not let it.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments, parallel
from reinforce_np.exact import Discounted, judge

BATCH_SIZE = 100  # trajectories the error is stated for, unless told otherwise


@dataclass(frozen=True)
class Row:
    """One estimator at one value of what is varied; None where a number is not defined.

    Parameters
    ----------
    value : float
        Of what is varied.
    setting : str
        Which of several problems, or nothing.
    estimator : str
        Its name in words.
    verdict : str
        "unbiased", "proportional", "biased" or "undefined", as `exact.judge` says.
    factor : float or None
        E[ĝ] = factor · ∇J, where that holds.
    bias : float
        ‖E[ĝ] − ∇J‖; exactly zero when the difference is rounding.
    relative_bias : float or None
        bias / ‖∇J‖.
    cosine : float or None
        Between E[ĝ] and ∇J.
    variance : float
        Total variance (sum over components) of the estimate, times the trajectories it took.
    noise : float or None
        variance / ‖E[ĝ]‖²: trajectories until the standard error is as long as the mean. Not changed by
        a factor on the estimate.
    batch_size : int
        N, for the two errors.
    rmse : float
        Root of the mean squared error of a batch of N trajectories.
    relative_rmse : float or None
        rmse / ‖∇J‖.
    gradient_norm : float
        ‖∇J‖.
    group_size : int
        Trajectories the estimator compares; 1 when it looks at each by itself.
    kl : float or None
        KL(π ‖ μ) between the trajectories of policy and behaviour, in nats; None on-policy.
    route : str
        How the moments were computed.
    """

    value: float
    setting: str
    estimator: str
    verdict: str
    factor: float | None
    bias: float
    relative_bias: float | None
    cosine: float | None
    variance: float
    noise: float | None
    batch_size: int
    rmse: float
    relative_rmse: float | None
    gradient_norm: float
    group_size: int
    kl: float | None
    route: str

    def averaged_over(self, batch_size):
        """Return the row of the same estimator with the errors of another N."""
        rmse = math.sqrt(self.bias**2 + self.variance / batch_size)
        relative = None if self.relative_rmse is None else rmse / self.gradient_norm
        return dataclasses.replace(self, batch_size=batch_size, rmse=rmse, relative_rmse=relative)


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


@dataclass(frozen=True)
class Sweep:
    """A table of rows.

    Parameters
    ----------
    parameter : str
        What was varied, in a word.
    rows : tuple of Row
        In the order of the values.
    """

    parameter: str
    rows: tuple

    def lines(self, column):
        """Return {(setting, estimator): (values, numbers)}, leaving out rows where the number is not defined."""
        found: dict = {}
        for row in self.rows:
            if getattr(row, column) is not None:
                found.setdefault((row.setting, row.estimator), []).append((row.value, getattr(row, column)))
        return {key: tuple(np.array(pairs, dtype=float).T) for key, pairs in found.items()}


def rows_of(cases, executor):
    """Return the row of each case, in their order, whoever computes it.

    Parameters
    ----------
    cases : iterable of callable
        Each returns a `Row`: `measured` with its arguments.
    executor : concurrent.futures.Executor or None
        Runs them; this process does if there is none.

    Returns
    -------
    tuple of Row
    """
    parallel.check_executor(executor)
    return tuple(parallel.in_order(_row_of, ((case,) for case in cases), executor))


def _row_of(case):
    return case()


def measured(
    value,
    name,
    estimator,
    mdp,
    policy,
    theta,
    *,
    batch_size,
    setting="",
    group_size=1,
    behaviour=None,
    kl=None,
    objective=Discounted(),
):
    """Return the row of one estimator.

    Parameters
    ----------
    value : float
        Of what is varied.
    name : str
        Of the estimator.
    estimator, mdp, policy, theta
        What to judge, and where.
    batch_size : int
        N of the errors.
    setting, group_size, kl
        As in `Row`.
    behaviour, objective
        As in `exact.judge`.

    Returns
    -------
    Row
    """
    with np.errstate(over="ignore", invalid="ignore"):  # looked at below
        try:
            verdict = judge(
                estimator, mdp, policy, theta, objective=objective, group_size=group_size, behaviour=behaviour
            )
        except ValueError as error:
            error.args = (f"{name} at {value:g}: {error}",)  # of whatever kind it is
            raise
        if verdict.moments is None:
            raise ValueError(f"{name} at {value:g}: {verdict.reason}")
        variance = verdict.moments.total_variance * group_size
        length = float(np.linalg.norm(verdict.moments.mean))
    size = float(np.linalg.norm(verdict.gradient))
    if not (math.isfinite(variance) and math.isfinite(length)):
        raise ValueError(
            f"{name} at {value:g}: its variance leaves float64; use smaller values, or a behaviour nearer to the policy"
        )
    right = verdict.kind in ("unbiased", "undefined")
    bias = 0.0 if right else float(np.linalg.norm(verdict.bias))
    nothing = verdict.kind == "undefined" or not math.isfinite(verdict.relative_bias)
    row = Row(
        value=value,
        setting=setting,
        estimator=name,
        verdict=verdict.kind,
        factor=verdict.factor,
        bias=bias,
        relative_bias=None if nothing else bias / size,
        cosine=verdict.cosine,
        variance=variance,
        noise=None if nothing or verdict.cosine is None else variance / length**2,
        batch_size=batch_size,
        rmse=0.0,
        relative_rmse=None if nothing else 0.0,
        gradient_norm=size,
        group_size=group_size,
        kl=kl,
        route=verdict.moments.route,
    )
    return row.averaged_over(batch_size)


def given(estimators, family, *more, group_size=1):
    """Return what a sweep compares: (name, estimator, ...) of its own family, or of yours.

    Parameters
    ----------
    estimators : dict or None
        {name: estimator}, what `exact.judge` takes.
    family : sequence of tuple
        What is compared if there are none.
    *more
        What a tuple of the family has besides, for each of yours.
    group_size : int
        Of yours; refused if there are none.

    Returns
    -------
    list of tuple
    """
    if estimators is None and group_size > 1:
        raise ValueError(
            f"group_size={group_size} is for estimators of yours; pass estimators={{name: estimator}}, or leave it out"
        )
    if estimators is None:
        return list(family)
    if not isinstance(estimators, dict) or not estimators or not all(isinstance(name, str) for name in estimators):
        raise TypeError(f"estimators={estimators!r}: pass a dictionary of what to compare, {{name: estimator}}")
    return [(name, estimator, *more) for name, estimator in estimators.items()]


def several(name, values, check):
    """Return the values as a list, each passed through `check`, refusing an empty one and doubles.

    Parameters
    ----------
    name : str
        Of the argument.
    values : sequence
        The values.
    check : callable
        ``check(name, value)``.

    Returns
    -------
    list
    """
    found = [check(f"{name}[{i}]", value) for i, value in enumerate(values)]
    if not found:
        raise ValueError(f"{name} is empty; pass at least one value")
    if len(set(found)) < len(found):
        raise ValueError(f"{name}={list(values)!r} repeats itself; pass every value once")
    return found


def finite_horizon(mdp):
    """Refuse a model without a horizon.

    Parameters
    ----------
    mdp : FiniteMDP
        The model.
    """
    if mdp.horizon is None:
        raise ValueError("horizon=None: a sweep needs a horizon; use mdp.replace(horizon=...)")


def share(name, value):
    """Return a number in [0, 1].

    Parameters
    ----------
    name, value
        The argument.

    Returns
    -------
    float
    """
    return arguments.number(name, value, low=0.0, high=1.0, rule="a number in [0, 1]")


def count(name, value):
    """Return a whole number of at least one.

    Parameters
    ----------
    name, value
        The argument.

    Returns
    -------
    int
    """
    return arguments.integer(name, value, low=1)
