"""Mean and covariance of any estimator by listing every batch it could see.

A batch is ``prompts`` groups of ``group_size`` trajectories; each group draws
its first state, and its members are drawn independently from there. The order
within a group, and of the groups, does not matter to an `Estimator`, so
batches are listed as multisets with multinomial weights. Listed batches
are evaluated many at once.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments, enumeration, graph
from reinforce_np.estimators import BatchStandardised, Constant, GroupStandardised, PerComponent
from reinforce_np.exact.values import largest_return, occupancy
from reinforce_np.policies import softmax
from reinforce_np.trajectories import Trajectories

LARGEST = 1e120  # rewards and baselines whose squares, summed over an episode, are certain to fit
LIMIT = 2**22  # evaluations: trajectories in all listed batches together
AT_ONCE = 2**16  # of them held at once


@dataclass(frozen=True, eq=False)
class Moments:
    """Exact mean and covariance of an estimate from one batch.

    Parameters
    ----------
    mean : array (D,)
        E[ĝ].
    variance : array (D,)
        Var[ĝ_i].
    covariance : array (D, D) or None
        Cov[ĝ], where it was asked for.
    second_moment : array (D,)
        E[ĝ_i²]: what rounding is judged against.
    scale : array (D,)
        Size of the rewards and baselines that may have cancelled in ĝ_i.
    n_steps : int
        T, the number of terms a component may be the sum of.
    n_batches : int or None
        How many batches were listed, if any.
    route : str
        How it was computed.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples, moments
    >>> found = moments(algorithms.reinforce(), examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2))
    >>> found.total_variance, found.batches_needed(standard_error=0.01)
    (0.125, 625)
    """

    mean: np.ndarray
    variance: np.ndarray
    covariance: np.ndarray | None
    second_moment: np.ndarray
    scale: np.ndarray
    n_steps: int
    n_batches: int | None
    route: str

    @property
    def total_variance(self):
        """Σ_i Var[ĝ_i], a float."""
        return float(self.variance.sum())

    @property
    def signal_to_noise(self):
        """‖E[ĝ]‖ / sqrt(Σ_i Var[ĝ_i]) of one batch; infinite without variance, None when both are zero."""
        signal, noise = float(np.linalg.norm(self.mean)), math.sqrt(self.total_variance)
        return signal / noise if noise else math.inf if signal else None

    def batches_needed(self, *, standard_error=None, signal_to_noise=None):
        """Return how many independent batches, averaged, reach an accuracy.

        Parameters
        ----------
        standard_error : float, optional
            Largest allowed standard error of any component.
        signal_to_noise : float, optional
            ‖E[ĝ]‖ over the root of the total variance of the average; give
            this or `standard_error`.

        Returns
        -------
        int
        """
        if (standard_error is None) == (signal_to_noise is None):
            raise ValueError(
                f"standard_error={standard_error!r} and signal_to_noise={signal_to_noise!r}: give exactly one of them"
            )
        if standard_error is not None:
            target = arguments.number("standard_error", standard_error, low=0.0, open_low=True, rule="a number > 0")
            ratio = float(self.variance.max(initial=0.0)) / target**2
        else:
            target = arguments.number("signal_to_noise", signal_to_noise, low=0.0, open_low=True, rule="a number > 0")
            if not np.any(self.mean):
                raise ValueError(f"signal_to_noise={target!r} is out of reach: the mean is zero, so there is no signal")
            ratio = target**2 * self.total_variance / float(self.mean @ self.mean)
        return max(1, math.ceil(ratio * (1 - 1e-12)))


def moments_by_enumeration(estimator, mdp, policy, theta, *, prompts=1, group_size=1, behaviour=None, limit=LIMIT):
    """Return the exact moments of an estimator by listing every batch.

    Parameters
    ----------
    estimator : Estimator
        Any of the family.
    mdp : FiniteMDP
        The model, small enough to be listed.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (D,)
        Its parameters.
    prompts : int
        Number of groups in a batch.
    group_size : int
        Trajectories in a group; they share their first state.
    behaviour : array (D,) or (S, A), optional
        The policy that draws the actions.
    limit : int
        Largest number of trajectories in all listed batches together.

    Returns
    -------
    Moments

    Raises
    ------
    TooLargeError
        Before any work, with the count.
    ValueError
        When the behaviour never does what the policy can do.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> moments = moments_by_enumeration(algorithms.rloo(), mdp, policy, np.zeros(2), group_size=2)
    >>> moments.mean, moments.n_batches
    (array([-0.25,  0.25]), 3)
    """
    prompts = arguments.integer("prompts", prompts, low=1)
    group_size = arguments.integer("group_size", group_size, low=1)
    theta = policy.real_theta(theta)
    check_support(mdp, policy, theta, behaviour)
    check_sizes(estimator, mdp)
    trajectories, p = enumeration.enumerate_trajectories(mdp, policy, theta, behaviour=behaviour, limit=limit)
    first = trajectories.states[:, 0] if trajectories.n_steps else trajectories.final_states
    starts = [np.flatnonzero(first == s) for s in np.flatnonzero(mdp.initial > 0)]
    check_count([len(start) for start in starts], prompts, group_size, limit)
    members, weights = listed(starts, p, mdp.initial[mdp.initial > 0], prompts, group_size)

    D = policy.n_parameters
    mean, second = np.zeros(D), np.zeros((D, D))
    size = max(AT_ONCE // (prompts * group_size), 1)
    for i in range(0, len(members), size):
        estimates = evaluate(estimator, trajectories, members[i : i + size], group_size, mdp, policy, theta)
        mean += weights[i : i + size] @ estimates
        second += (weights[i : i + size, None] * estimates).T @ estimates
    covariance = np.zeros((D, D))
    for i in range(0, len(members), size):  # around the mean, so that nothing cancels
        centred = evaluate(estimator, trajectories, members[i : i + size], group_size, mdp, policy, theta) - mean
        covariance += (weights[i : i + size, None] * centred).T @ centred
    return Moments(
        mean=mean,
        variance=np.diag(covariance).copy(),
        covariance=covariance,
        second_moment=np.diag(second).copy(),
        scale=estimate_scale(estimator, mdp, policy, theta),
        n_steps=trajectories.n_steps,
        n_batches=len(members),
        route="enumeration",
    )


def evaluate(estimator, trajectories, members, group_size, mdp, policy, theta):
    """Return the estimate of each batch, shape (B, D), for batches given as rows of indices (B, prompts·group_size)."""
    n_batches, size = members.shape
    picked = trajectories.take(members.ravel())
    labels = np.repeat(np.arange(n_batches), size)
    fields = {name: getattr(picked, name) for name in picked.__dataclass_fields__}
    batch = estimator.batch(
        Trajectories(**{**fields, "groups": np.arange(n_batches * size) // group_size}),
        mdp,
        policy,
        theta,
        labels=labels,
    )
    return estimator.contract(batch, labels, n_batches)


def estimate_scale(estimator, mdp, policy, theta):
    """Return the size of the rewards and baselines that may cancel in an estimate, per component, shape (D,).

    Parameters
    ----------
    estimator, mdp, policy, theta
        As in `moments_by_enumeration`.

    Returns
    -------
    array (D,)
    """
    d, pi = occupancy(mdp, policy, theta), policy.probabilities(theta)
    visits = (d if mdp.horizon is None else d.sum(axis=0))[:, None] * pi
    scores = visits * softmax.sum_of_others(pi) + pi * softmax.sum_of_others(visits)  # E Σ|ψ|, on the logits
    size = largest_return(mdp, policy, theta) + np.max(np.abs(table_of(estimator)))
    if isinstance(estimator.advantage, PerComponent):
        size += np.max(np.abs(estimator.advantage.baseline))
    if isinstance(estimator.advantage, GroupStandardised | BatchStandardised):
        size = 1.0  # a standardised advantage has no unit
    constant = estimator.normaliser.c if isinstance(estimator.normaliser, Constant) else 1.0
    return policy.pull_back_magnitudes(scores) / policy.temperature * float(size / constant)


def check_sizes(estimator, mdp):
    """Refuse rewards and baselines whose squares leave float64, above or below."""
    largest = max(np.abs(mdp.reward).max(), np.max(np.abs(table_of(estimator))))
    if isinstance(estimator.advantage, PerComponent):
        largest = max(largest, np.max(np.abs(estimator.advantage.baseline)))
    if largest > LARGEST or 0 < largest < 1 / LARGEST:
        raise ValueError(
            f"rewards and baselines of size {largest:.3g} have second moments that leave float64; divide them by {largest:.1g}"
        )


def table_of(estimator):
    """Return the baseline or critic of an estimator, zero where it has none."""
    advantage = getattr(estimator.advantage, "of", estimator.advantage)
    table = np.asarray(getattr(advantage, "critic", getattr(advantage, "baseline", 0.0)))
    return table if table.size else np.zeros(1)


def check_support(mdp, policy, theta, behaviour):
    """Refuse a behaviour that gives probability zero to what the policy can do: no ratio repairs that."""
    if behaviour is None:
        return
    pi = policy.probabilities(theta)
    reached = graph.reachable(mdp, graph.possible_outcomes(mdp, pi))
    missing = (pi > 0) & reached[:, None] & (policy.log_probabilities_of("behaviour", behaviour) == -np.inf)
    if missing.any():
        s, a = arguments.first_index(missing)
        raise ValueError(
            f"behaviour[{s}, {a}]=0 where the policy has probability {float(pi[s, a]):.3g}: "
            "no importance ratio corrects what is never seen; give it probability"
        )


def check_count(n_from, prompts, group_size, limit):
    n_groups = sum(math.comb(n + group_size - 1, group_size) for n in n_from)
    evaluations = math.comb(n_groups + prompts - 1, prompts) * prompts * group_size
    if evaluations > limit:
        raise arguments.TooLargeError(
            f"enumeration refused: batches of prompts={prompts} x group_size={group_size} from {sum(n_from)} trajectories need "
            f"{evaluations} evaluations, above limit={limit}: use smaller groups, fewer prompts or a shorter horizon"
        )


def listed(starts, p, initial, prompts, group_size):
    """Return all batches as rows of indices (B, prompts·group_size), and their probabilities (B,).

    Parameters
    ----------
    starts : list of int arrays
        For each first state, the indices of what can follow.
    p : array
        Probability of each, first state included.
    initial : array
        Probability of each first state.
    prompts, group_size : int
        Shape of a batch.
    """
    groups, group_p = _groups(starts, p, initial, group_size)
    members, weights = _multisets(len(groups), group_p, prompts)
    return groups[members].reshape(len(members), prompts * group_size), weights


def _groups(starts, p, initial, group_size):
    """Return all groups as rows of trajectory indices (G, group_size), and their probabilities (G,)."""
    rows, weights = [], []
    for start, p_start in zip(starts, initial, strict=True):
        members, weight = _multisets(len(start), p[start] / p_start, group_size)
        rows.append(start[members])
        weights.append(p_start * weight)
    return np.concatenate(rows), np.concatenate(weights)


def _multisets(n, p, size):
    """Return all multisets of `size` out of n as rows of indices, and their multinomial probabilities."""
    rows = np.array(list(itertools.combinations_with_replacement(range(n), size)), dtype=np.intp).reshape(-1, size)
    counted = np.ones(len(rows))
    run = np.ones(len(rows))
    for j in range(1, size):  # size! / Π counts!, one member at a time
        run = np.where(rows[:, j] == rows[:, j - 1], run + 1, 1)
        counted *= (j + 1) / run
    return rows, counted * p[rows].prod(axis=1)
