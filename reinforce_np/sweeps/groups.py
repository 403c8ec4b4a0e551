"""Sweeps over the size of a group: RLOO against GRPO, under a verifier that says right or wrong."""

from functools import partial

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators import Estimator, GroupMean, GroupStandardised, LeaveOneOut
from reinforce_np.mdp import FiniteMDP
from reinforce_np.policies import TabularSoftmax
from reinforce_np.sweeps.table import BATCH_SIZE, Sweep, count, finite_horizon, given, measured, rows_of, several

GROUP_SIZES = (2, 4, 8, 16, 32, 64)
SUCCESS = (0.5, 0.1, 0.02)
FAMILY = (
    ("RLOO", LeaveOneOut()),
    ("group mean (Dr. GRPO)", GroupMean()),
    ("group mean and deviation (GRPO)", GroupStandardised(ddof=0, eps=0.0)),
)


def verifier(success, n_actions=4):
    """Return prompts answered in one step, right with a given probability: model, policy and parameters.

    Action 0 is right and is paid 1; the others are equally likely and paid nothing.

    Parameters
    ----------
    success : sequence of float
        Probability of the right answer, for each prompt; prompts are equally likely.
    n_actions : int
        Answers to choose from, at least 2.

    Returns
    -------
    mdp : FiniteMDP
    policy : TabularSoftmax
    theta : array (D,)

    Examples
    --------
    >>> mdp, policy, theta = verifier([0.25, 0.7], n_actions=4)
    >>> policy.probabilities(theta).round(3)
    array([[0.25, 0.25, 0.25, 0.25],
           [0.7 , 0.1 , 0.1 , 0.1 ]])
    """
    n_actions = arguments.integer("n_actions", n_actions, low=2)
    p = np.array(several("success", success, _probability))
    S = len(p)
    reward, theta = np.zeros((S, n_actions, 1)), np.zeros((S, n_actions))
    reward[:, 0] = 1.0
    theta[:, 0] = np.log(p) - np.log1p(-p) + np.log(n_actions - 1)
    mdp = FiniteMDP(
        probability=np.ones(reward.shape),
        next_state=np.zeros(reward.shape, dtype=int),
        reward=reward,
        terminated=np.ones(reward.shape, dtype=bool),
        initial=np.full(S, 1 / S),
        gamma=1.0,
        horizon=1,
    )
    return mdp, TabularSoftmax(S, n_actions), theta.ravel()


def over_group_size(
    mdp, policy, theta, values=GROUP_SIZES, *, batch_size=BATCH_SIZE, setting="", estimators=None, executor=None
):
    """RLOO, the group's mean, and its mean and deviation, for groups of N trajectories from one first state.

    Parameters
    ----------
    mdp, policy, theta
        The problem, with a horizon.
    values : sequence of int
        N, at least 2.
    batch_size : int
        Trajectories of the errors: batch_size / N groups.
    setting : str
        A name for this problem.
    estimators : dict, optional
        {name: estimator} to compare in place of those of this sweep: in any of the forms that `judge` takes, a loss too.
        Each is judged on batches of one group; the errors are those of the average of ``batch_size / N`` estimates.
    executor : concurrent.futures.Executor, optional
        Computes the rows side by side; the result is the same, bit for bit.

    Returns
    -------
    Sweep

    Examples
    --------
    >>> for row in over_group_size(*verifier([0.5]), [2, 8]).rows:
    ...     print(f"{row.value} {row.estimator:31} {row.factor:.3f} {row.noise:.2f}")
    2 RLOO                            1.000 4.00
    2 group mean (Dr. GRPO)           0.500 4.00
    2 group mean and deviation (GRPO) 1.000 4.00
    8 RLOO                            1.000 1.43
    8 group mean (Dr. GRPO)           0.875 1.43
    8 group mean and deviation (GRPO) 1.856 1.28
    """
    cases = _cases(mdp, policy, theta, values, batch_size=batch_size, setting=setting, estimators=estimators)
    return Sweep("group-size", rows_of(cases, executor))


def _cases(mdp, policy, theta, values, *, batch_size, setting, estimators=None):
    """Return the cases of one problem."""
    finite_horizon(mdp)
    options = {"batch_size": count("batch_size", batch_size), "setting": setting}
    return [
        partial(measured, N, name, estimator, mdp, policy, theta, group_size=N, **options)
        for N in several("values", values, _group_size)
        for name, estimator in given(estimators, [(name, Estimator(advantage)) for name, advantage in FAMILY])
    ]


def over_group_size_of_verifier(
    success=SUCCESS, values=GROUP_SIZES, *, n_actions=4, batch_size=BATCH_SIZE, executor=None
):
    """`over_group_size` for a prompt of each success probability alone, and for all of them together.

    With one prompt GRPO is the gradient times a factor, which nears
    1/√(p(1 − p)) in large groups. The factor differs between prompts, so together they do not follow the gradient.

    Parameters
    ----------
    success : sequence of float
        p, in (0, 1).
    values : sequence of int
        N, at least 2.
    n_actions : int
        As in `verifier`.
    batch_size : int
        As in `over_group_size`.
    executor : concurrent.futures.Executor, optional
        Computes the rows side by side; the result is the same, bit for bit.

    Returns
    -------
    Sweep

    Examples
    --------
    >>> sweep = over_group_size_of_verifier([0.5, 0.02], [16])
    >>> for row in sweep.rows[2::3]:
    ...     print(row.setting, row.verdict, round(row.cosine, 3))
    p = 0.5 proportional 1.0
    p = 0.02 proportional 1.0
    all prompts biased 0.998
    """
    success = several("success", success, _probability)
    problems = [(f"p = {p:g}", [p]) for p in success] + ([("all prompts", success)] if len(success) > 1 else [])
    cases = []
    for setting, probabilities in problems:
        mdp, policy, theta = verifier(probabilities, n_actions)
        cases += _cases(mdp, policy, theta, values, batch_size=batch_size, setting=setting)
    return Sweep("group-size", rows_of(cases, executor))


def _probability(name, value):
    p = arguments.number(name, value, low=0.0, high=1.0, rule="a probability strictly between 0 and 1")
    if not 0 < p < 1:
        raise ValueError(f"{name}={value!r} is out of range; it must be a probability strictly between 0 and 1")
    return p


def _group_size(name, value):
    return arguments.integer(name, value, low=2, remedy="a group compares at least 2 trajectories")
