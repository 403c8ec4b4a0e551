"""Sweeps on the policy's own trajectories: discount, λ, baseline, batch size."""

from dataclasses import replace
from functools import partial

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators import GAE, Estimator, LeaveOneOut, RewardToGo, TotalReturn
from reinforce_np.exact import Undiscounted, objective, occupancy, optimal_baseline
from reinforce_np.exact import values as exact_values
from reinforce_np.sweeps.table import BATCH_SIZE, Sweep, count, finite_horizon, given, measured, rows_of, several, share

GAMMAS = (0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.96, 0.98, 0.99, 1.0)
LAMBDAS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
BATCHES = tuple(4**k for k in range(10))
GROUP = 4  # members of a group in the sweep over batch sizes
BIASED_LAMBDA = 0.8


def over_gamma(
    mdp, policy, theta, values=GAMMAS, *, batch_size=BATCH_SIZE, estimators=None, group_size=1, executor=None
):
    """Bias and variance of discounting more than the objective asks for.

    The objective is the undiscounted return. Estimators use γ < 1 all the
    same, for its smaller variance: on the rewards and the score, or, as
    published code does, on the rewards alone. The baseline is the true V of that γ.

    Parameters
    ----------
    mdp, policy, theta
        The problem, with a horizon.
    values : sequence of float
        γ, in [0, 1].
    batch_size : int
        N of the errors.
    estimators : dict, optional
        {name: estimator} to compare in place of those of this sweep: in any of the forms that `judge` takes, a loss too.
        Each is judged on batches of one group; the errors are those of the average of ``batch_size / group_size`` estimates.
    group_size : int
        Trajectories in a batch that share their first state, for `estimators` of yours.
    executor : concurrent.futures.Executor, optional
        Computes the rows side by side; the result is the same, bit for bit.

    Returns
    -------
    Sweep

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> for row in over_gamma(examples.referee(), TabularSoftmax(3, 3), np.zeros(9), [0.9, 1.0]).rows:
    ...     print(row.value, row.estimator, row.verdict)
    0.9 gamma on rewards and score biased
    0.9 gamma on rewards only biased
    1.0 gamma on rewards and score unbiased
    1.0 gamma on rewards only unbiased
    """
    finite_horizon(mdp)
    n, cases, group_size = count("batch_size", batch_size), [], count("group_size", group_size)
    for gamma in several("values", values, share):
        model = mdp.replace(gamma=gamma)
        V = exact_values(model, policy, theta)
        family = [
            (name, Estimator(RewardToGo(V), discounted_score=discounted))
            for name, discounted in (("gamma on rewards and score", True), ("gamma on rewards only", False))
        ]
        options = {"batch_size": n, "group_size": group_size, "objective": Undiscounted()}
        for name, estimator in given(estimators, family, group_size=group_size):
            cases.append(partial(measured, gamma, name, estimator, model, policy, theta, **options))
    return Sweep("gamma", rows_of(cases, executor))


def over_lambda(mdp, policy, theta, values=LAMBDAS, *, batch_size=BATCH_SIZE, executor=None):
    """Bias and variance of GAE(λ): with the true critic, that of the uniform policy, and none.

    Parameters
    ----------
    mdp, policy, theta
        The problem, with a horizon.
    values : sequence of float
        λ, in [0, 1].
    batch_size : int
        N of the errors.
    executor : concurrent.futures.Executor, optional
        Computes the rows side by side; the result is the same, bit for bit.

    Returns
    -------
    Sweep

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> sweep = over_lambda(examples.referee(), TabularSoftmax(3, 3), np.linspace(-1, 1, 9), [0.5, 1.0])
    >>> for row in sweep.rows:
    ...     print(row.value, row.estimator, row.verdict)
    0.5 true critic unbiased
    0.5 wrong critic biased
    0.5 no critic biased
    1.0 true critic unbiased
    1.0 wrong critic unbiased
    1.0 no critic unbiased
    """
    finite_horizon(mdp)
    n, cases = count("batch_size", batch_size), []
    critics = (
        ("true critic", exact_values(mdp, policy, theta)),
        ("wrong critic", wrong_critic(mdp, policy)),
        ("no critic", 0.0),
    )
    for lam in several("values", values, share):
        for name, critic in critics:
            cases.append(partial(measured, lam, name, Estimator(GAE(critic, lam)), mdp, policy, theta, batch_size=n))
    return Sweep("lambda", rows_of(cases, executor))


def wrong_critic(mdp, policy):
    """Return the values of the uniform policy: plausible, and wrong.

    Parameters
    ----------
    mdp, policy
        The problem.

    Returns
    -------
    array (T+1, S)
    """
    return exact_values(mdp, policy, np.zeros(policy.n_parameters))


def over_baseline(mdp, policy, theta, values=WEIGHTS, *, batch_size=BATCH_SIZE, seed=0, executor=None):
    """What a baseline removes, from none (w = 0) over the true one (w = 1) to twice as much (w = 2).

    For the total return b = w J; for reward-to-go b(t, s) = w V(t, s), and
    b = V + (1 − w) z with noise z of the same mean square over the visited
    states as V. All are unbiased, whatever w; only the variance changes. The
    row of the optimal baseline per state is the same at each w.

    Parameters
    ----------
    mdp, policy, theta
        The problem, with a horizon.
    values : sequence of float
        w, any number.
    batch_size : int
        N of the errors.
    seed : int
        Of the noise.
    executor : concurrent.futures.Executor, optional
        Computes the rows side by side; the result is the same, bit for bit.

    Returns
    -------
    Sweep

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> sweep = over_baseline(examples.referee(), TabularSoftmax(3, 3), np.linspace(-1, 1, 9), [1.0])
    >>> for row in sweep.rows:
    ...     print(f"{row.estimator:33} {row.variance:.2f}")
    total return, b = w J             10.13
    reward-to-go, b = w V(s)          5.68
    reward-to-go, b = V(s) + noise    5.68
    reward-to-go, best b(s)           5.61
    """
    finite_horizon(mdp)
    n, cases = count("batch_size", batch_size), []
    J, V = float(objective(mdp, policy, theta)), exact_values(mdp, policy, theta)[:-1]
    visits = occupancy(mdp, policy, theta, objective=Undiscounted())
    z = np.random.default_rng(arguments.integer("seed", seed)).normal(size=V.shape)
    size = float((visits * z**2).sum())
    z *= np.sqrt(float((visits * V**2).sum()) / size) if size else 0.0
    best = optimal_baseline(mdp, policy, theta, level="state")
    for w in several("values", values, arguments.number):
        for name, advantage in (
            ("total return, b = w J", TotalReturn(w * J)),
            ("reward-to-go, b = w V(s)", RewardToGo(w * V)),
            ("reward-to-go, b = V(s) + noise", RewardToGo(V + (1 - w) * z)),
            ("reward-to-go, best b(s)", RewardToGo(best)),
        ):
            cases.append(partial(measured, w, name, Estimator(advantage), mdp, policy, theta, batch_size=n))
    return Sweep("baseline", rows_of(cases, executor))


def over_batch(mdp, policy, theta, values=BATCHES, *, estimators=None, group_size=1, executor=None):
    """The error against the number of trajectories: noise falls as 1/√N, bias stays.

    Parameters
    ----------
    mdp, policy, theta
        The problem, with a horizon.
    values : sequence of int
        N; RLOO, which compares trajectories in groups of 4, has a row where N is a multiple of that.
    estimators : dict, optional
        {name: estimator} to compare in place of those of this sweep: in any of the forms that `judge` takes, a loss too.
        Each is judged on batches of one group; the errors are those of the average of ``batch_size / group_size`` estimates.
    group_size : int
        Trajectories in a batch that share their first state, for `estimators` of yours.
    executor : concurrent.futures.Executor, optional
        Computes the rows side by side; the result is the same, bit for bit.

    Returns
    -------
    Sweep

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> sweep = over_batch(examples.referee(), TabularSoftmax(3, 3), np.linspace(-1, 1, 9), [10**8])
    >>> for row in sweep.rows:
    ...     print(f"{row.estimator:25} {row.relative_rmse:.4f}")
    REINFORCE, total return   0.0005
    reward-to-go, baseline V  0.0003
    RLOO, groups of 4         0.0004
    GAE 0.8, wrong critic     0.0063
    GAE 0, wrong critic       0.0510
    """
    finite_horizon(mdp)
    V, wrong = exact_values(mdp, policy, theta), wrong_critic(mdp, policy)
    family = (
        ("REINFORCE, total return", Estimator(TotalReturn()), 1),
        ("reward-to-go, baseline V", Estimator(RewardToGo(V)), 1),
        (f"RLOO, groups of {GROUP}", Estimator(LeaveOneOut()), GROUP),
        (f"GAE {BIASED_LAMBDA:g}, wrong critic", Estimator(GAE(wrong, BIASED_LAMBDA)), 1),
        ("GAE 0, wrong critic", Estimator(GAE(wrong, 0.0)), 1),
    )
    values, group_size = several("values", values, count), count("group_size", group_size)
    if estimators is not None and not any(n % group_size == 0 for n in values):
        raise ValueError(
            f"values={values!r}: none is a multiple of group_size={group_size}; pass whole numbers of groups"
        )
    once = rows_of(
        (
            partial(measured, 1, name, estimator, mdp, policy, theta, batch_size=1, group_size=size)
            for name, estimator, size in given(estimators, family, group_size, group_size=group_size)
        ),
        executor,
    )
    rows = [replace(row.averaged_over(n), value=n) for n in values for row in once if n % row.group_size == 0]
    return Sweep("batch", tuple(rows))
