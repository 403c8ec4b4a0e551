"""Baselines fitted from data, and specimens of baselines that are not allowed.

Exact baselines come from the model: `exact.values`, `exact.optimal_baseline`.
A fitted one is unbiased on *other* trajectories than those it was fitted on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators.advantages import spread
from reinforce_np.estimators.batch import Batch, total
from reinforce_np.estimators.returns import returns, rewards_to_go


def fit_state_baseline(trajectories, gamma, n_states):
    """Return b(s), the mean reward-to-go over all visits of s, shape (S,); zero where never visited.

    Parameters
    ----------
    trajectories : Trajectories
        Data to fit on: use the baseline on *other* trajectories.
    gamma : float
        Discount per step.
    n_states : int
        S.

    Returns
    -------
    array (S,)

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples, sample
    >>> mdp = examples.bandit(means=[0.0, 1.0])
    >>> fit_state_baseline(sample(mdp, TabularSoftmax(1, 2), np.zeros(2), 4, rng=0), 1.0, 1)
    array([0.5])
    """
    live = trajectories.mask
    visited = arguments.integer_array("states", trajectories.states[live], low=0, high=n_states)
    rewards = np.where(live, trajectories.rewards, 0.0)
    sums = np.bincount(visited, weights=rewards_to_go(rewards, gamma)[live], minlength=n_states)
    return sums / np.maximum(np.bincount(visited, minlength=n_states), 1)


def fit_optimal_baseline(trajectories, policy, theta, gamma, *, per_component=False):
    """Return b = Σ ‖z‖² R / Σ ‖z‖², z the score sum of a trajectory: the least variance of (R − b) z.

    Parameters
    ----------
    trajectories : Trajectories
        Data to fit on: use the baseline on *other* trajectories.
    policy, theta
        Whose score is weighted.
    gamma : float
        Discount per step.
    per_component : bool
        One baseline for each component of the gradient, with z_i² in place of ‖z‖².

    Returns
    -------
    float, or array (D,)
        For `TotalReturn`, or for `PerComponent`.

    References
    ----------
    Greensmith, Bartlett & Baxter, "Variance Reduction Techniques for Gradient
    Estimates in Reinforcement Learning", JMLR 5 (2004); per component Peters & Schaal, "Reinforcement
    Learning of Motor Skills with Policy Gradients", Neural Networks 21 (2008), equation (20).

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples, sample
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> fit_optimal_baseline(sample(mdp, policy, np.zeros(2), 4, rng=0), policy, np.zeros(2), 1.0)
    0.5
    """
    z = score_sums(trajectories, policy, theta)
    R = returns(np.where(trajectories.mask, trajectories.rewards, 0.0), gamma)
    weight = z**2 if per_component else (z**2).sum(axis=1, keepdims=True)
    norm = weight.sum(axis=0)
    b = np.divide((weight * R[:, None]).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0)
    return b if per_component else float(b[0])


def score_sums(trajectories, policy, theta):
    """Return Σ_t ∇log π(a_t|s_t) of each trajectory, shape (N, D)."""
    n, t = np.nonzero(trajectories.mask)
    counts = np.zeros((len(trajectories), policy.n_states, policy.n_actions))
    np.add.at(counts, (n, trajectories.states[n, t], trajectories.actions[n, t]), 1.0)
    return policy.contract(theta, counts)


@dataclass(frozen=True, eq=False)
class PerComponent:
    """Another advantage minus a baseline of its own for each component of the gradient.

        ĝ_i = Σ_t ψ_{t,i} (credit_t − b_i(s_t))

    The one choice that is no single weight per step. *Unbiased* whenever the
    advantage without it is.

    Parameters
    ----------
    of : record of `advantages` or `groups`
        The advantage.
    baseline : array (D,) or (S, D)
        b_i, or b_i(s).

    References
    ----------
    Peters & Schaal, "Reinforcement Learning of Motor Skills with Policy
    Gradients", Neural Networks 21 (2008), equation (20).

    Examples
    --------
    >>> from reinforce_np import TotalReturn
    >>> PerComponent(TotalReturn(), np.zeros(4)).baseline.shape
    (4,)
    """

    of: Any
    baseline: Any

    def __post_init__(self):
        if not hasattr(self.of, "credit") or isinstance(self.of, type | PerComponent):
            raise TypeError(f"of={self.of!r} takes no baseline per component; pass an advantage such as TotalReturn()")
        baseline = arguments.real_array("baseline", self.baseline)
        if baseline.ndim not in (1, 2):
            raise ValueError(f"baseline has shape {baseline.shape}; pass (D,) or (S, D)")
        object.__setattr__(self, "baseline", baseline)

    def check_policy(self, policy):
        """Refuse a policy that has another number of parameters, or of states."""
        S, D = policy.n_states, policy.n_parameters
        if self.baseline.shape not in ((D,), (S, D)):
            raise ValueError(
                f"baseline has shape {self.baseline.shape}; for this policy it must be ({D},) or ({S}, {D})"
            )

    @property
    def from_start(self):
        """As the advantage."""
        return self.of.from_start

    def credit(self, batch):
        """Return the credit of the advantage, shape (N, T); the estimator subtracts the baseline."""
        return self.of.credit(batch)


@dataclass(frozen=True, eq=False)
class InSampleOptimal:
    """R − b with the optimal baseline b fitted on the very same batch. A *specimen*.

    *Biased*: b depends on the actions it is used on, mostly by more than the
    in-sample mean does, and in general not by a factor.

    References
    ----------
    Greensmith, Bartlett & Baxter, "Variance Reduction Techniques for Gradient
    Estimates in Reinforcement Learning", JMLR 5 (2004).

    Examples
    --------
    >>> InSampleOptimal()
    InSampleOptimal()
    """

    from_start = True

    def credit(self, batch: Batch):
        """Return R − Σ‖z‖²R/Σ‖z‖² over the batch, shape (N, T)."""
        squares = (score_sums(batch.trajectories, batch.policy, batch.theta) ** 2).sum(axis=1)
        R = returns(batch.rewards, batch.gamma)
        norm = total(squares, batch.batch)
        b = np.divide(total(squares * R, batch.batch), norm, out=np.zeros_like(norm), where=norm > 0)
        return spread(R - b, batch)


@dataclass(frozen=True, eq=False)
class ActionDependent:
    """G_t − b(s_t, a_t): reward-to-go minus a baseline that knows the action. A *specimen*.

    *Biased*: E[b(s,a) ∇log π(a|s)] is not zero. (Corrected for that term it
    would be a control variate; the correction is what is missing here.)

    Parameters
    ----------
    baseline : array (S, A)
        b(s, a), such as Q.

    References
    ----------
    Tucker et al., "The Mirage of Action-Dependent Baselines in
    Reinforcement Learning", ICML 2018, equation (2) (with the correction).

    Examples
    --------
    >>> ActionDependent(np.zeros((3, 2))).baseline.shape
    (3, 2)
    """

    baseline: Any
    from_start = False

    def __post_init__(self):
        object.__setattr__(self, "baseline", arguments.real_array("baseline", self.baseline, ndim=2))

    def credit(self, batch):
        """Return G_t − b(s_t, a_t), shape (N, T)."""
        arguments.check_shape("baseline", self.baseline, shape=(batch.policy.n_states, batch.policy.n_actions))
        return rewards_to_go(batch.rewards, batch.gamma) - batch.at_steps(self.baseline)
