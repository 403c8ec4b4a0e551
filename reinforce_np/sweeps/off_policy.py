"""Sweeps on trajectories of another policy: what importance sampling costs."""

from functools import partial

import numpy as np

from reinforce_np.estimators import (
    GAE,
    Estimator,
    PerDecisionRatio,
    RewardToGo,
    TokenRatio,
    TotalReturn,
    TrajectoryRatio,
    VTrace,
)
from reinforce_np.exact import Undiscounted, occupancy
from reinforce_np.exact import values as exact_values
from reinforce_np.sweeps.table import BATCH_SIZE, Sweep, count, finite_horizon, given, measured, rows_of, several, share

HORIZONS = (2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40)
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def mixed_with_uniform(policy, theta, epsilon):
    """Return the behaviour (1 − ε) π + ε · uniform over the actions that π can take, shape (S, A).

    Parameters
    ----------
    policy, theta
        π.
    epsilon : float
        Share of the uniform policy, in [0, 1].

    Returns
    -------
    array (S, A)

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax
    >>> mixed_with_uniform(TabularSoftmax(1, 2), np.log([3.0, 1.0]), 0.5)
    array([[0.625, 0.375]])
    """
    pi = policy.probabilities(policy.real_theta(theta))
    uniform = np.where(pi > 0, 1.0, 0.0) / (pi > 0).sum(axis=1, keepdims=True)
    epsilon = share("epsilon", epsilon)
    return (1 - epsilon) * pi + epsilon * uniform


def trajectory_divergence(mdp, policy, theta, behaviour):
    """Return KL(trajectories of π ‖ trajectories of μ) = Σ_t,s P_π(s_t = s) Σ_a π log(π/μ), in nats.

    Parameters
    ----------
    mdp, policy, theta
        The problem, with a horizon; π.
    behaviour : array (S, A)
        μ.

    Returns
    -------
    float

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> mdp, policy, theta = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.log([3.0, 1.0])
    >>> round(trajectory_divergence(mdp, policy, theta, np.array([[0.5, 0.5]])), 4)  # .75 log 1.5 + .25 log .5
    0.1308
    """
    pi, log_pi = policy.probabilities(theta), policy.log_probabilities(theta)
    possible = pi > 0
    gaps = np.zeros(pi.shape)
    gaps[possible] = log_pi[possible] - np.log(behaviour[possible])
    visits = occupancy(mdp, policy, theta, objective=Undiscounted()).sum(axis=0)
    return max(float(visits @ (pi * gaps).sum(axis=1)), 0.0)


def over_horizon(
    mdp,
    policy,
    theta,
    values=HORIZONS,
    *,
    epsilon=1.0,
    batch_size=BATCH_SIZE,
    estimators=None,
    group_size=1,
    executor=None,
):
    """How variance grows with the length of the episode, on-policy and by importance sampling.

    On-policy it grows like a power of the horizon, and stops when episodes
    end. The second moment of a ratio is a product over steps: off-policy it grows geometrically.

    Parameters
    ----------
    mdp, policy, theta
        The problem; its own horizon is replaced.
    values : sequence of int
        T, at least 1.
    epsilon : float
        The behaviour is the policy, and uniform with this probability.
    batch_size : int
        N of the errors.
    estimators : dict, optional
        {name: estimator} to compare in place of those of this sweep, on data of the behaviour: in any of the forms that `judge` takes, a loss too.
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
    >>> sweep = over_horizon(examples.gridworld_4x4(), TabularSoftmax(16, 4), np.sin(np.arange(64)), [20, 40])
    >>> for row in sweep.rows[-3:]:
    ...     print(f"{row.estimator:26} {row.variance:.1e}")
    whole-trajectory ratio     7.3e+10
    per-decision ratio         6.5e+08
    V-trace (truncated ratio)  1.8e+02
    """
    n, cases, group_size = count("batch_size", batch_size), [], count("group_size", group_size)
    mu = mixed_with_uniform(policy, theta, epsilon)
    for horizon in several("values", values, count):
        model = mdp.replace(horizon=horizon)
        V = exact_values(model, policy, theta)
        kl = trajectory_divergence(model, policy, theta, mu)
        family = (
            ("on-policy, total return", Estimator(TotalReturn()), True),
            ("on-policy, reward-to-go", Estimator(RewardToGo()), True),
            ("on-policy, baseline V", Estimator(RewardToGo(V)), True),
            ("whole-trajectory ratio", Estimator(TotalReturn(), ratio=TrajectoryRatio()), False),
            ("per-decision ratio", Estimator(RewardToGo(), ratio=PerDecisionRatio()), False),
            ("V-trace (truncated ratio)", Estimator(GAE(V, 1.0), ratio=VTrace()), False),
        )
        for name, estimator, on_policy in given(estimators, family, False, group_size=group_size):
            source = {} if on_policy else {"behaviour": mu, "kl": kl}
            cases.append(
                partial(
                    measured,
                    horizon,
                    name,
                    estimator,
                    model,
                    policy,
                    theta,
                    batch_size=n,
                    group_size=group_size,
                    **source,
                )
            )
    return Sweep("horizon", rows_of(cases, executor))


def over_behaviour(
    mdp, policy, theta, values=SHARES, *, batch_size=BATCH_SIZE, estimators=None, group_size=1, executor=None
):
    """What distance between behaviour and policy costs: variance with the ratio, bias without.

    All use the true V as baseline or critic. The distance is in the rows as `kl`.

    Parameters
    ----------
    mdp, policy, theta
        The problem, with a horizon.
    values : sequence of float
        ε in [0, 1]: the behaviour is the policy, and uniform with this probability.
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
    >>> sweep = over_behaviour(examples.referee(), TabularSoftmax(3, 3), np.linspace(-1, 1, 9), [1.0])
    >>> for row in sweep.rows:
    ...     print(f"{row.estimator:25} {row.verdict:8} {row.variance:.2f}")
    whole-trajectory ratio    unbiased 6.47
    per-decision ratio        unbiased 6.57
    per-step ratio            biased   5.56
    V-trace (truncated ratio) biased   4.25
    no ratio                  biased   5.85

    A loss of yours, as data get older:

    >>> from reinforce_np import numpy_loss
    >>> def clipped(log_probs, batch):
    ...     ratio, G = np.exp(log_probs - batch.log_probabilities), (batch.rewards * batch.mask).sum(axis=1, keepdims=True)
    ...     return -(np.minimum(ratio * G, np.clip(ratio, 0.8, 1.2) * G) * batch.mask).sum(axis=1).mean()
    >>> mdp, theta = examples.referee(horizon=2).replace(gamma=1.0), np.linspace(-1, 1, 9)
    >>> sweep = over_behaviour(mdp, TabularSoftmax(3, 3), theta, [0.0, 0.1, 1.0], estimators={"mine": numpy_loss(clipped)})
    >>> for row in sweep.rows:
    ...     print(f"{row.value} {row.estimator} {row.verdict:8} {row.relative_bias:.3f}")
    0.0 mine unbiased 0.000
    0.1 mine biased   0.011
    1.0 mine biased   1.364
    """
    finite_horizon(mdp)
    n, cases, group_size = count("batch_size", batch_size), [], count("group_size", group_size)
    V = exact_values(mdp, policy, theta)
    for epsilon in several("values", values, share):
        mu = mixed_with_uniform(policy, theta, epsilon)
        kl = trajectory_divergence(mdp, policy, theta, mu)
        family = (
            ("whole-trajectory ratio", Estimator(RewardToGo(V), ratio=TrajectoryRatio())),
            ("per-decision ratio", Estimator(RewardToGo(V), ratio=PerDecisionRatio())),
            ("per-step ratio", Estimator(RewardToGo(V), ratio=TokenRatio())),
            ("V-trace (truncated ratio)", Estimator(GAE(V, 1.0), ratio=VTrace())),
            ("no ratio", Estimator(RewardToGo(V))),
        )
        where = {"behaviour": mu, "kl": kl, "batch_size": n, "group_size": group_size}
        for name, estimator in given(estimators, family, group_size=group_size):
            cases.append(partial(measured, epsilon, name, estimator, mdp, policy, theta, **where))
    return Sweep("behaviour", rows_of(cases, executor))
