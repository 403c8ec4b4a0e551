"""Logits linear in given features."""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from reinforce_np import arguments
from reinforce_np.policies.base import SoftmaxPolicy, check_options
from reinforce_np.products import on_one_thread, one_thread_will_do, rows_of_one_thread

FEW = 4  # rows at a time with which a product of matrices is still quick


@dataclass(frozen=True, eq=False)
class LinearSoftmax(SoftmaxPolicy):
    """Softmax in action preferences linear in features: z(s, a; θ) = Σ_d φ(s,a)_d θ_d.

    Parameters
    ----------
    features : array (S, A, D)
        φ(s, a). States with equal features are aliased: the policy cannot
        tell them apart.
    temperature : float
        τ > 0, dividing the logits.
    mask : bool array (S, A), optional
        True where the action may be taken.

    References
    ----------
    Sutton & Barto, *Reinforcement Learning: An Introduction*, 2nd ed.,
    equations (13.2), (13.3) and, for the score, Exercise 13.3.

    Examples
    --------
    >>> policy = LinearSoftmax([[[1.0], [0.0]]])
    >>> policy.probabilities([np.log(3.0)])
    array([[0.75, 0.25]])
    >>> policy.score([np.log(3.0)])
    array([[[ 0.25],
            [-0.75]]])
    """

    features: np.ndarray
    _: KW_ONLY
    temperature: float = 1.0
    mask: np.ndarray | None = None

    def __post_init__(self):
        features = arguments.real_array("features", self.features, ndim=3)
        if features.size == 0:
            raise ValueError(f"features have shape {features.shape}; there must be a state, an action and a feature")
        features.setflags(write=False)
        object.__setattr__(self, "features", features)
        check_options(self, self.temperature, self.mask)

    @property
    def n_states(self):
        """Number of states S."""
        return self.features.shape[0]

    @property
    def n_actions(self):
        """Number of actions A."""
        return self.features.shape[1]

    @property
    def n_parameters(self):
        """Number of features D."""
        return self.features.shape[2]

    @property
    def slopes(self):
        """max |φ(s,a)_d|/τ, shape (D,)."""
        return np.abs(self.features).max(axis=(0, 1)) / self.temperature

    def linear_logits(self, theta, states=slice(None)):
        """z(s, a; θ) = Σ_d φ(s,a)_d θ_d, shape (..., S, A), or its rows of some states."""
        features = self.features[states]
        if np.ndim(theta) == 1 and one_thread_will_do(features):  # the same, quicker
            return features.reshape(-1, self.n_parameters).dot(theta).reshape(features.shape[:2])
        return np.einsum("sad,...d->...sa", features, theta)

    def pull_back(self, weights):
        """Σ_{s,a} w(s,a) φ(s,a), from (..., S, A) to (..., D)."""
        flat = weights.reshape(*weights.shape[:-2], self.n_states * self.n_actions)
        features = self.features.reshape(-1, self.n_parameters)
        if flat.ndim == 2 and flat.dtype == features.dtype and rows_of_one_thread(features) >= FEW:
            return on_one_thread(flat, features, np.empty((len(flat), self.n_parameters)))
        return flat.dot(features) if flat.ndim == 1 else flat @ features

    def pull_back_magnitudes(self, weights):
        """Return Σ_{s,a} w(s,a) |∂z(s,a)/∂θ|, the size of the terms in `pull_back`, for weights >= 0."""
        return np.einsum("sa,sad->d", weights, np.abs(self.features))

    def _pull_back_rows(self, weights):
        return np.einsum("...sa,sad->...sd", weights, self.features)

    def _sandwich(self, blocks):
        half = np.einsum("sab,sbd->sad", blocks, self.features)
        return np.tensordot(self.features, half, axes=((0, 1), (0, 1)))
