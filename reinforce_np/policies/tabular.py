"""One parameter per state-action pair."""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from reinforce_np import arguments
from reinforce_np.policies.base import SoftmaxPolicy, check_options

LARGEST = 2**40  # parameters: more than any memory holds


@dataclass(frozen=True, eq=False)
class TabularSoftmax(SoftmaxPolicy):
    """Softmax with one logit per state and action: z(s, a; θ) = θ[s·A + a].

    Parameters
    ----------
    n_states, n_actions : int
        S and A; θ has D = S·A entries, state by state.
    temperature : float
        τ > 0, dividing the logits.
    mask : bool array (S, A), optional
        True where the action may be taken; masked actions have probability
        zero and score zero. An entry of −inf in θ masks as well.

    Examples
    --------
    >>> policy = TabularSoftmax(n_states=1, n_actions=2)
    >>> policy.probabilities([0.0, np.log(3.0)])
    array([[0.25, 0.75]])
    >>> policy.score([0.0, np.log(3.0)])
    array([[[ 0.75, -0.75],
            [-0.25,  0.25]]])
    """

    n_states: int
    n_actions: int
    _: KW_ONLY
    temperature: float = 1.0
    mask: np.ndarray | None = None

    allows_minus_infinity = True
    has_one_logit_per_parameter = True

    def __post_init__(self):
        object.__setattr__(self, "n_states", arguments.integer("n_states", self.n_states, low=1))
        object.__setattr__(self, "n_actions", arguments.integer("n_actions", self.n_actions, low=1))
        if self.n_states * self.n_actions > LARGEST:
            raise arguments.TooLargeError(
                f"n_states={self.n_states} times n_actions={self.n_actions} exceeds {LARGEST} parameters"
            )
        check_options(self, self.temperature, self.mask)

    @property
    def n_parameters(self):
        """D = S·A."""
        return self.n_states * self.n_actions

    @property
    def slopes(self):
        """1/τ for every parameter, shape (D,)."""
        return np.full(self.n_parameters, 1.0 / self.temperature)

    def linear_logits(self, theta, states=slice(None)):
        """z(s, a; θ) = θ[s·A + a], shape (..., S, A), or its rows of some states."""
        return theta.reshape(*theta.shape[:-1], self.n_states, self.n_actions)[..., states, :]

    def pull_back(self, weights):
        """From weights on logits (..., S, A) to (..., D): the same numbers in a row."""
        return weights.reshape(*weights.shape[:-2], self.n_parameters)

    def pull_back_magnitudes(self, weights):
        """Return Σ_{s,a} w(s,a) |∂z(s,a)/∂θ|, the size of the terms in `pull_back`, for weights >= 0."""
        return self.pull_back(weights)

    def _pull_back_rows(self, weights):
        rows = np.zeros((*weights.shape[:-1], self.n_states, self.n_actions), dtype=weights.dtype)
        s = np.arange(self.n_states)
        rows[..., s, s, :] = weights
        return rows.reshape(*weights.shape[:-1], self.n_parameters)

    def _sandwich(self, blocks):
        result = np.zeros((self.n_states, self.n_actions, self.n_states, self.n_actions))
        s = np.arange(self.n_states)
        result[s, :, s, :] = blocks
        return result.reshape(self.n_parameters, self.n_parameters)
