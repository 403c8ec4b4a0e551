"""The one formula: an estimator is a choice of weight on the score.

ĝ = Σₙ Σₜ w[n,t] ∇log π(a[n,t]|s[n,t])
"""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from reinforce_np.estimators.advantages import RewardToGo, TotalReturn

PER_TRAJECTORY_CELLS = 2**22  # (trajectory, state, action) weights held at once


@dataclass(frozen=True, eq=False)
class Estimator:
    """A policy-gradient estimator, as the weight it puts on every score.

    Parameters
    ----------
    advantage : TotalReturn or RewardToGo
        What each action is credited with.
    discounted_score : bool
        Whether the score of step t carries γᵗ. True estimates ∇J_γ; False,
        the usual shortcut, estimates the gradient of neither J_γ nor J₁
        (Nota & Thomas 2020), unless γ = 1.

    References
    ----------
    Nota & Thomas, "Is the Policy Gradient a Gradient?", AAMAS 2020.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples, sample
    >>> mdp, policy, theta = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2)
    >>> batch = sample(mdp, policy, theta, 4, rng=0)
    >>> batch.actions[:, 0]
    array([0, 1, 0, 1])
    >>> Estimator(RewardToGo()).weights(batch, mdp, policy, theta)[:, 0]
    array([0.  , 0.25, 0.  , 0.25])
    >>> Estimator(RewardToGo()).gradient(batch, mdp, policy, theta)
    array([-0.25,  0.25])
    """

    advantage: TotalReturn | RewardToGo
    _: KW_ONLY
    discounted_score: bool = True

    def __post_init__(self):
        if not hasattr(self.advantage, "credit"):
            raise TypeError(f"advantage={self.advantage!r} is no advantage; pass TotalReturn() or RewardToGo()")
        if isinstance(self.advantage, TotalReturn) and not self.discounted_score:
            self.advantage.credit(None, None, False)

    def weights(self, trajectories, mdp, policy, theta):
        """Return w[n, t] = A[n, t] / N, zero after the end of an episode, shape (N, T).

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
        if not len(trajectories):
            raise ValueError("trajectories are empty (n=0): an estimate needs at least one")
        credit = self.advantage.credit(trajectories, mdp.gamma, self.discounted_score)
        return np.where(trajectories.mask, credit, 0.0) / len(trajectories)

    def gradient(self, trajectories, mdp, policy, theta):
        """Return ĝ = Σₙₜ w[n,t] ∇log π(a|s), shape (D,).

        Weights are added up per state-action pair and contracted once, so
        that no score is ever built.

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
        array (D,)
        """
        w = self.weights(trajectories, mdp, policy, theta)
        return policy.contract(theta, _per_cell(policy, trajectories, w).sum(axis=0))

    def per_trajectory(self, trajectories, mdp, policy, theta):
        """Return N·Σₜ w[n,t] ∇log π(a|s) of each trajectory, shape (N, D); their mean is the gradient.

        Parameters
        ----------
        trajectories, mdp, policy, theta
            As in `gradient`.

        Returns
        -------
        array (N, D)
        """
        w = self.weights(trajectories, mdp, policy, theta) * len(trajectories)
        chunk = max(PER_TRAJECTORY_CELLS // (policy.n_states * policy.n_actions), 1)
        rows = [slice(i, i + chunk) for i in range(0, len(trajectories), chunk)]
        return np.concatenate(
            [policy.contract(theta, _per_cell(policy, trajectories.take(n), w[n], True)) for n in rows]
        )


def _per_cell(policy, trajectories, weights, separate=False):
    """Return the weights added up per (s, a), shape (N, S, A), or (1, S, A) for all trajectories together."""
    n = len(trajectories) if separate else 1
    shape = (n, policy.n_states, policy.n_actions)
    row = np.arange(n)[:, None] if separate else 0
    cell = (row * policy.n_states + trajectories.states) * policy.n_actions + trajectories.actions
    return np.bincount(cell.ravel(), weights=weights.ravel(), minlength=n * shape[1] * shape[2]).reshape(shape)
