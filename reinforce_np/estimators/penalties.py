"""Penalties for leaving a reference policy, and bonuses for entropy: in the reward, or in the loss.

In the *reward* a penalty is a number subtracted from r_t; it is credited to
the actions that led there, like any reward. In the *loss* it is differentiated
on the spot and adds its own weight to the score of the same step; what it does
to the states visited later is left out. That difference decides what is
estimated.

With d = log π(a|s) − log π_ref(a|s), the three sampled estimators of
KL(π‖π_ref) = E_π[d] and what differentiating them gives:

    k1 = d                    ∇k1 = ψ                    E = 0
    k2 = d²/2                 ∇k2 = d ψ                  E = ∇KL(π‖π_ref)
    k3 = exp(−d) − 1 + d      ∇k3 = (1 − exp(−d)) ψ      E = ∇KL(π_ref‖π)

(J. Schulman, "Approximating KL Divergence", 2020, for the three of them.)

`loss_weights` are what a penalty adds to the weights; `reward` is what it adds
to the reward; `all_actions` is for the closed forms, whose derivative involves
every action of a state and not only the one that was taken; where actions are
continuous that is an integral, which the policy knows: `of_density`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators.batch import exponential

KINDS = ("k1", "k2", "k3", "full")
PLACES = ("reward", "loss")


@dataclass(frozen=True, eq=False)
class KLPenalty:
    """−β times an estimate of KL(π_θ ‖ π_ref), in the reward or in the loss.

    For J − β·KL (`KLRegularised`), with an unbiased advantage:

    - k1 in the reward is *unbiased*, off-policy too (with a ratio that is);
    - k2 in the reward, k3 in the reward and the full KL in the reward are *biased*: their
      dependence on θ through the action just taken is missing or wrong;
    - k1 in the loss has expectation zero on-policy: no penalty at all;
    - k2 and the full KL in the loss are exact for episodes of one step (k2 on-policy only), *biased* otherwise;
    - k3 in the loss gives the gradient of the other divergence KL(π_ref‖π),
      and of that for one step only;
    - k1 and k3 in the loss, corrected, are exact for episodes of one step, off-policy too.

    Parameters
    ----------
    reference : array (D,) or (S, A)
        π_ref: parameters of the same policy, or a table of probabilities.
    beta : float
        β >= 0, in units of reward per nat.
    kind : {"k1", "k2", "k3", "full"}
        The estimate; "full" is the closed form Σₐ π log(π/π_ref).
    place : {"reward", "loss"}
        Where it is put.
    corrected : bool
        In the loss, off-policy: multiply the estimate by ρ_t *and*
        differentiate that too, which gives the weight ρ_t (k + k'). On-policy
        too this is the gradient of E_π[k], unlike k' alone.

    References
    ----------
    In the reward: Ziegler et al. (2019), equation (2); Ouyang et al.,
    "Training language models to follow instructions with human feedback" (2022), equation (2). In the
    loss: Shao et al., "DeepSeekMath" (2024), equations (3) and (4).

    Examples
    --------
    >>> KLPenalty(reference=np.zeros(4), beta=0.1).kind
    'k1'
    """

    reference: Any
    beta: float
    kind: str = "k1"
    place: str = "reward"
    corrected: bool = False

    def __post_init__(self):
        object.__setattr__(self, "reference", arguments.real_array("reference", self.reference, minus_infinity=True))
        object.__setattr__(
            self, "beta", arguments.number("beta", self.beta, low=0.0, high=1e100, rule="a number in [0, 1e100]")
        )
        one_of("kind", self.kind, KINDS)
        one_of("place", self.place, PLACES)
        arguments.flag("corrected", self.corrected)
        if self.corrected and (self.place == "reward" or self.kind == "full"):
            raise ValueError(
                f"corrected={self.corrected} is for sampled estimates in the loss, but kind={self.kind!r}, place={self.place!r}: "
                "in the reward the ratio of the estimator corrects it, and the full KL needs no correction"
            )

    def reward(self, batch):
        """Return −β k, shape (N, T), if it belongs into the reward."""
        if self.place == "loss":
            return 0.0
        if self.kind == "full":
            kl = batch.policy.kl(batch.theta, self.reference)
            return -self.beta * kl[batch.trajectories.states]
        return -self.beta * self._estimates(batch)[0]

    def loss_weights(self, batch):
        """Return −β k', or −β ρ (k + k') when corrected, shape (N, T), if it belongs into the loss."""
        if self.place == "reward" or self.kind == "full":
            return 0.0
        k, slope = self._estimates(batch)
        if self.corrected:
            return -self.beta * exponential(batch.log_ratio, batch.mask) * (k + slope)
        return -self.beta * slope

    def all_actions(self, batch):
        """Return −β π log(π/π_ref), shape (S, A): ∇KL(s) = Σₐ π log(π/π_ref) ∇log π."""
        if self.place == "reward" or self.kind != "full" or batch.is_density:
            return None
        return (
            -self.beta * batch.policy.probabilities(batch.theta) * batch.policy.log_ratio(batch.theta, self.reference)
        )

    def of_density(self, batch, state_weights):
        """Return −β Σ_s d(s) ∇KL(s), shape (..., D), the same for continuous actions; d of shape (..., S)."""
        if self.place == "reward" or self.kind != "full":
            return 0.0
        return -self.beta * batch.policy.kl_gradient(batch.theta, self.reference, state_weights)

    def _estimates(self, batch):
        """Return k and its derivative with respect to log π, both (N, T)."""
        d = np.where(batch.mask, batch.at_steps(batch.policy.log_ratio(batch.theta, self.reference)), 0.0)
        if self.kind == "k1":
            return d, np.ones_like(d)
        if self.kind == "k2":
            return d**2 / 2, d
        inverse = exponential(-d, batch.mask, "π_ref/π")
        return np.where(batch.mask, inverse - 1 + d, 0.0), 1 - inverse


@dataclass(frozen=True)
class EntropyBonus:
    """+β times the entropy of the policy, or a sample of it, in the reward or in the loss.

    For J + β·H (`EntropyRegularised`), with an unbiased advantage:

    - −log π(a|s) in the reward is *unbiased*;
    - H(s) in the reward is *biased*: the entropy of the present state is
      credited to nobody;
    - H(s) in the loss is exact for episodes of one step, *biased* otherwise:
      it pays for entropy here, not for reaching states where it is high;
    - −log π(a|s) in the loss has expectation zero: no bonus at all.

    Parameters
    ----------
    beta : float
        β >= 0, in units of reward per nat.
    place : {"reward", "loss"}
        Where it is put.
    sampled : bool
        −log π of the action taken, instead of the closed form H.

    References
    ----------
    In the loss: Mnih et al., "Asynchronous Methods for Deep Reinforcement
    Learning", ICML 2016, section 4. In the reward: Haarnoja et al., "Reinforcement
    Learning with Deep Energy-Based Policies", ICML 2017.

    Examples
    --------
    >>> EntropyBonus(0.01)
    EntropyBonus(beta=0.01, place='reward', sampled=True)
    """

    beta: float
    place: str = "reward"
    sampled: bool = True

    def __post_init__(self):
        object.__setattr__(
            self, "beta", arguments.number("beta", self.beta, low=0.0, high=1e100, rule="a number in [0, 1e100]")
        )
        one_of("place", self.place, PLACES)
        arguments.flag("sampled", self.sampled)

    def reward(self, batch):
        """Return −β log π(a|s) or β H(s), shape (N, T), if it belongs into the reward."""
        if self.place == "loss":
            return 0.0
        if self.sampled:
            return -self.beta * batch.at_steps(batch.policy.log_ratio(batch.theta, None))
        return self.beta * batch.policy.entropy(batch.theta)[batch.trajectories.states]

    def loss_weights(self, batch):
        """Return −β, the derivative of −β log π(a|s), shape (N, T), if it belongs into the loss."""
        return -self.beta * np.ones(batch.mask.shape) if self.place == "loss" and self.sampled else 0.0

    def all_actions(self, batch):
        """Return −β π log π, shape (S, A): ∇H(s) = −Σₐ π log π ∇log π."""
        if self.place == "reward" or self.sampled or batch.is_density:
            return None
        return -self.beta * batch.policy.probabilities(batch.theta) * batch.policy.log_ratio(batch.theta, None)

    def of_density(self, batch, state_weights):
        """Return β Σ_s d(s) ∇H(s), shape (..., D), the same for continuous actions; d of shape (..., S)."""
        if self.place == "reward" or self.sampled:
            return 0.0
        return self.beta * batch.policy.entropy_gradient(batch.theta, state_weights)


def one_of(name, value, allowed):
    """Refuse a word that is not one of those allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; pass one of {', '.join(map(repr, allowed))}")
