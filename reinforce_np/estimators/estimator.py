"""The one formula: an estimator is a choice of weight on the score.

    ĝ = Σₙ Σₜ w[n,t] ∇log π(a[n,t]|s[n,t])

Four slots make the weight, in this order:

    rewards    r + (penalties in the reward)
    credit     the advantage, corrected by the ratio
    weight     γᵗ · credit + γᵗ · (penalties in the loss)
    divided    by the normaliser
"""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators.baselines import PerComponent
from reinforce_np.estimators.batch import Batch
from reinforce_np.estimators.each import gradients_of_each, paid_part, rows_at_once
from reinforce_np.estimators.normalisers import PerTrajectory
from reinforce_np.estimators.packed import finite, packed_weights
from reinforce_np.estimators.ratios import OnPolicy, PerDecisionRatio, VTrace
from reinforce_np.estimators.ways import added_up, row_width
from reinforce_np.trajectories import Trajectories


@dataclass(frozen=True, eq=False)
class Estimator:
    """A policy-gradient estimator, as the weight it puts on every score.

    Parameters
    ----------
    advantage : record of `advantages`, `groups` or `baselines`
        What each action is credited with.
    ratio : record of `ratios`, optional
        Importance correction; `OnPolicy` if not given.
    penalty : record of `penalties` or tuple of them, optional
        KL penalties and entropy bonuses.
    normaliser : record of `normalisers`, optional
        What the weights are divided by; `PerTrajectory` if not given.
    discounted_score : bool
        Whether the score of step t carries γᵗ. True estimates ∇J_γ; False,
        the usual shortcut, estimates the gradient of neither J_γ nor J₁
        (Nota & Thomas 2020), unless γ = 1. Advantages measured from the
        start of the episode carry their discount already.

    References
    ----------
    Nota & Thomas, "Is the Policy Gradient a Gradient?", AAMAS 2020.

    Examples
    --------
    >>> from reinforce_np import RewardToGo, TabularSoftmax, examples, sample
    >>> mdp, policy, theta = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2)
    >>> batch = sample(mdp, policy, theta, 4, rng=0)
    >>> batch.actions[:, 0]
    array([1, 1, 0, 0])
    >>> Estimator(RewardToGo()).weights(batch, mdp, policy, theta)[:, 0]
    array([0.25, 0.25, 0.  , 0.  ])
    >>> Estimator(RewardToGo()).gradient(batch, mdp, policy, theta)
    array([-0.25,  0.25])
    """

    advantage: Any
    _: KW_ONLY
    ratio: Any = field(default_factory=OnPolicy)
    penalty: Any = ()
    normaliser: Any = field(default_factory=PerTrajectory)
    discounted_score: bool = True

    def __post_init__(self):
        arguments.flag("discounted_score", self.discounted_score)
        penalties = self.penalty if isinstance(self.penalty, tuple) else () if self.penalty is None else (self.penalty,)
        object.__setattr__(self, "penalty", penalties)
        slots = [
            ("advantage", self.advantage, "credit"),
            ("advantage", self.advantage, "from_start"),
            ("ratio", self.ratio, "weigh"),
            ("normaliser", self.normaliser, "scale"),
        ]
        slots += [("penalty", penalty, "loss_weights") for penalty in penalties]
        for name, record, method in slots:
            if not hasattr(record, method) or isinstance(record, type):
                raise TypeError(
                    f"{name}={record!r} does not fit into this slot; pass a record such as those of reinforce_np.estimators, "
                    f"with its method {method!r}, or judge a function of your own, f(trajectories, theta)"
                )
        if isinstance(self.ratio, PerDecisionRatio | VTrace) and not hasattr(self.advantage, "trace"):
            raise TypeError(
                f"ratio={self.ratio!r} corrects reward by reward, which advantage={self.advantage!r} has none of; use RewardToGo or GAE"
            )
        if self.advantage.from_start and not self.discounted_score:
            raise ValueError(
                f"discounted_score=False has no meaning with advantage={self.advantage!r}, which is measured from the start of the "
                "episode and whose score carries no factor; use RewardToGo, or the Undiscounted objective"
            )
        if isinstance(self.advantage, PerComponent) and not isinstance(self.ratio, OnPolicy):
            raise ValueError(f"ratio={self.ratio!r} with a baseline per component is not defined here; use OnPolicy()")

    def weights(self, trajectories, mdp, policy, theta):
        """Return w[n, t], normaliser included, zero after the end of an episode, shape (N, T).

        Parameters
        ----------
        trajectories : Trajectories
            N of them.
        mdp : FiniteMDP
            Names γ.
        policy, theta
            Whose score is weighted.

        Returns
        -------
        array (N, T)
        """
        return self.batch_weights(self.batch(trajectories, mdp, policy, theta))

    def gradient(self, trajectories, mdp, policy, theta):
        """Return ĝ = Σₙₜ w[n,t] ∇log π(a|s), shape (D,).

        Weights are added up per state-action pair and contracted once, so
        that no score is ever built. Reward-to-go adds them up without the
        (N, T) arrays where a sampled batch is still packed (`packed`).

        Parameters
        ----------
        trajectories, mdp, policy, theta
            As in `weights`.

        Returns
        -------
        array (D,)
        """
        _check(trajectories, mdp, policy)
        weights = packed_weights(self, trajectories, mdp)
        if weights is not None:
            return finite(policy.contract(policy.real_theta(theta), weights))
        batch = self.batch(trajectories, mdp, policy, theta)
        with np.errstate(over="ignore", invalid="ignore"):
            return finite(self.contract(batch, np.zeros(len(trajectories), dtype=np.intp), 1)[0])

    def per_trajectory(self, trajectories, mdp, policy, theta):
        """Return N·Σₜ w[n,t] ∇log π(a|s) of each trajectory, shape (N, D); their mean is the gradient.

        Reward-to-go is done part by part (`each`).

        Parameters
        ----------
        trajectories, mdp, policy, theta
            As in `weights`.

        Returns
        -------
        array (N, D)
        """
        _check(trajectories, mdp, policy)
        trajectories = trajectories.of_model(mdp.n_states, mdp.n_actions)
        part = paid_part(self, trajectories)
        if part is None:
            return self._of_each(trajectories, mdp, policy, theta)
        paid, result = part[0], np.zeros((len(trajectories), len(policy.real_theta(theta))))
        if paid.any():
            result[paid] = self._of_each(part[1], mdp, policy, theta)
        return result

    def _of_each(self, trajectories, mdp, policy, theta):
        result = gradients_of_each(self, trajectories, mdp, policy, policy.real_theta(theta))
        if result is not None:
            return result
        batch, n = self.batch(trajectories, mdp, policy, theta), len(trajectories)
        with np.errstate(over="ignore", invalid="ignore"):
            return finite(self.contract(batch, np.arange(n), n, times=n))

    def batch(self, trajectories, mdp, policy, theta, labels=None):
        """Return what the slots look at; `labels` (N,) tell apart independent batches held at once."""
        _check(trajectories, mdp, policy)
        theta = policy.real_theta(theta)
        trajectories = trajectories.of_model(mdp.n_states, mdp.n_actions)
        labels = np.zeros(len(trajectories), dtype=np.intp) if labels is None else labels
        rewards = np.asarray(trajectories.rewards, dtype=np.float64)
        if trajectories.lengths.min() < trajectories.n_steps and "packed" not in vars(trajectories):
            rewards = np.where(trajectories.mask, rewards, 0.0)
        plain = Batch(trajectories, mdp.gamma, policy, theta, rewards, labels)
        if not self.penalty:
            return plain
        rewards = plain.rewards + sum(penalty.reward(plain) for penalty in self.penalty)
        return Batch(trajectories, mdp.gamma, policy, theta, np.where(plain.mask, rewards, 0.0), labels)

    def batch_weights(self, batch):
        """Return w[n, t] of what `batch` returned, shape (N, T)."""
        discount = batch.gamma ** np.arange(batch.trajectories.n_steps) if self.discounted_score else 1.0
        with np.errstate(over="ignore", invalid="ignore"):  # refused below, by name
            w = np.where(batch.mask, self.ratio.weigh(batch, self.advantage), 0.0)
            if not self.advantage.from_start:
                w *= discount
            if self.penalty:
                w += np.where(batch.mask, discount * sum(penalty.loss_weights(batch) for penalty in self.penalty), 0.0)
            w *= self.normaliser.scale(batch)
            all_finite = np.isfinite(w.sum())  # if one is not, neither is the sum
        if not all_finite and not np.isfinite(w).all():
            index = arguments.first_index(~np.isfinite(w))
            raise ValueError(
                f"{arguments.at('weights', index)}={float(w[index])} overflows: rewards, ratios or penalties of that trajectory "
                "are too large for float64; rescale the rewards, or truncate the ratio"
            )
        return w

    def contract(self, batch, row, n_rows, times=1):
        """Return Σ w ∇log π over the trajectories of each row, shape (n_rows, D).

        Parameters
        ----------
        batch : Batch
            From `batch`.
        row : int array (N,)
            Non-decreasing: which row each trajectory is added to.
        n_rows : int
            Number of rows.
        times : float
            What everything is multiplied by.
        """
        w = self.batch_weights(batch)
        trajectories, S, A = batch.trajectories, batch.policy.n_states, batch.policy.n_actions
        chunk = rows_at_once(row_width(S * A), trajectories.n_steps, n_rows)
        result = np.empty((n_rows, batch.policy.n_parameters))
        for first in range(0, n_rows, chunk):
            n = slice(*np.searchsorted(row, [first, first + chunk]))
            rows, of_row = min(chunk, n_rows - first), (row[n] - first)[:, None]
            states, actions = (x[n].astype(np.intp, copy=False) for x in (trajectories.states, trajectories.actions))
            cell = states * A
            cell += actions
            cell += of_row * row_width(S * A)
            state = states + of_row * row_width(S) if self.penalty else None
            cells = added_up(cell, w[n] * times, rows, S * A).reshape(rows, S, A)
            for penalty in self.penalty:
                table = penalty.all_actions(batch)
                if table is not None:
                    cells += added_up(state, times * self._passive(batch, n), rows, S)[..., None] * table
            gradients = batch.policy.contract(batch.theta, cells)
            if batch.is_density and self.penalty:
                visits = added_up(state, times * self._passive(batch, n), rows, S)
                gradients = gradients + sum(penalty.of_density(batch, visits) for penalty in self.penalty)
            if isinstance(self.advantage, PerComponent):
                visits = added_up(cell, times * self._passive(batch, n, not self.advantage.from_start), rows, S * A)
                visits = visits.reshape(rows, S, A)
                gradients -= self._component_baseline(batch, visits)
            result[first : first + chunk] = gradients
        return result

    def _passive(self, batch, n, discounted=True):
        """Return what multiplies closed forms, which carry no credit, at the steps of the trajectories `n`."""
        gamma = batch.gamma if self.discounted_score and discounted else 1.0
        return (
            np.where(batch.mask[n], gamma ** np.arange(batch.trajectories.n_steps), 0.0)
            * self.normaliser.scale(batch)[n]
        )

    def _component_baseline(self, batch, visits):
        """Return Σ_{s,a} visits(s,a) b_i(s) ψ_i(s,a), shape (rows, D)."""
        psi = batch.policy.score(batch.theta)
        self.advantage.check_policy(batch.policy)
        b = np.broadcast_to(self.advantage.baseline, (batch.policy.n_states, batch.policy.n_parameters))
        return np.tensordot(visits, psi * b[:, None, :], axes=2)


def _check(trajectories, mdp, policy):
    if not isinstance(trajectories, Trajectories):
        raise TypeError(
            f"trajectories={trajectories!r} are no Trajectories; pass what sample returns, or build the record"
        )
    if not len(trajectories):
        raise ValueError("trajectories are empty (n=0): an estimate needs at least one")
    arguments.check_same_model(mdp, policy)
