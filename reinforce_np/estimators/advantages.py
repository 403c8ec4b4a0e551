"""What an action is credited with: the first slot of an estimator.

Each choice is a frozen record whose `credit` returns the (N, T) array that
multiplies the score of step t. A baseline is subtracted wherever it leaves
the expectation alone: it may depend on the state and the time, never on the
action.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators.returns import returns, rewards_to_go


@dataclass(frozen=True, eq=False)
class TotalReturn:
    """R − b for every step of the trajectory, R = Σᵤ γᵘ r_u.

    The log-derivative trick as it falls out of the algebra: every action is
    credited with everything, also with what was paid before it. R is measured
    from the start of the episode, so it already carries the discount and the
    score carries none.

    Parameters
    ----------
    baseline : float
        A number subtracted from every return.

    References
    ----------
    Williams, "Simple Statistical Gradient-Following Algorithms for
    Connectionist Reinforcement Learning", Machine Learning 8 (1992), equation (11).

    Examples
    --------
    >>> TotalReturn(baseline=0.5)
    TotalReturn(baseline=0.5)
    """

    baseline: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "baseline", arguments.number("baseline", self.baseline))

    def credit(self, trajectories, gamma, discounted_score):
        """Return R − b, shape (N, T)."""
        if not discounted_score:
            raise ValueError(
                "discounted_score=False has no meaning with TotalReturn: the total return is discounted from the start of "
                "the episode and its score carries no factor; use RewardToGo, or the Undiscounted objective"
            )
        total = returns(trajectories.rewards, gamma) - self.baseline
        return np.repeat(total[:, None], trajectories.n_steps, axis=1)


@dataclass(frozen=True, eq=False)
class RewardToGo:
    """γᵗ (G_t − b(s_t)), G_t = Σ_{u≥t} γ^{u−t} r_u: only what an action could have caused.

    Parameters
    ----------
    baseline : float, array (S,) or array (T or T+1, S)
        A number, b(s), or b(t, s) such as `exact.values`.

    References
    ----------
    Sutton & Barto, *Reinforcement Learning: An Introduction*, 2nd ed.,
    equation (13.8), and (13.11) with a baseline.

    Examples
    --------
    >>> RewardToGo(baseline=np.zeros(3)).baseline.shape
    (3,)
    """

    baseline: Any = 0.0

    def __post_init__(self):
        baseline = arguments.real_array("baseline", self.baseline)
        if baseline.ndim > 2:
            raise ValueError(f"baseline has shape {baseline.shape}; pass a number, (S,) or (T, S)")
        baseline.setflags(write=False)
        object.__setattr__(self, "baseline", baseline)

    def credit(self, trajectories, gamma, discounted_score):
        """Return γᵗ (G_t − b), shape (N, T); without γᵗ when the score is not discounted."""
        T = trajectories.n_steps
        t = np.arange(T)
        if self.baseline.ndim == 2 and len(self.baseline) < T:
            raise ValueError(
                f"baseline has {len(self.baseline)} rows, but trajectories have {T} steps; pass one row per step"
            )
        if self.baseline.ndim and trajectories.mask.any() and trajectories.states.max() >= self.baseline.shape[-1]:
            raise ValueError(
                f"baseline covers {self.baseline.shape[-1]} states, but state {trajectories.states.max()} was visited"
            )
        if self.baseline.ndim == 2:
            b = self.baseline[t, trajectories.states]
        else:
            b = self.baseline[trajectories.states] if self.baseline.ndim else self.baseline
        discount = gamma**t if discounted_score else np.ones(T)
        return discount * (rewards_to_go(trajectories.rewards, gamma) - b)
