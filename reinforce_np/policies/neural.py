"""Softmax on top of one hidden layer, with backpropagation written out by hand.

    h = tanh(φ W₁ + b₁),      z = h W₂ + b₂,      π(a|o) = softmax(z)_a

Backwards, for weights w(s,a) on the scores:

    δz = ∂/∂z Σ w log π = w − π Σ w
    ∂W₂ = hᵀ δz,      ∂b₂ = Σ_s δz
    δu = (δz W₂ᵀ) (1 − h²)                  because tanh' = 1 − tanh²
    ∂W₁ = φᵀ δu,      ∂b₁ = Σ_s δu
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from reinforce_np import arguments
from reinforce_np.policies import softmax
from reinforce_np.policies.base import LARGEST_MATRIX, SoftmaxPolicy
from reinforce_np.policies.observed import check_features, contract_rows, drawn

SCORES = 2**22  # entries of the scores that are held at once


class Layers(NamedTuple):
    """The parts of θ, in the order in which they stand in it; leading axes are those of θ."""

    W1: np.ndarray  # (..., F, H)
    b1: np.ndarray  # (..., 1, H)
    W2: np.ndarray  # (..., H, A)
    b2: np.ndarray  # (..., 1, A)


def split(theta, shapes):
    """Cut θ (..., D) into parts of the given shapes."""
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    parts = np.split(theta, ends[:-1], axis=-1)
    return [part.reshape(*theta.shape[:-1], *shape) for part, shape in zip(parts, shapes)]


def layer_shapes(n_features, n_hidden, n_actions):
    """Return the shapes of W₁, b₁, W₂ and b₂."""
    return [(n_features, n_hidden), (1, n_hidden), (n_hidden, n_actions), (1, n_actions)]


@dataclass(frozen=True, eq=False)
class NeuralSoftmax:
    """Softmax over finitely many actions on top of one hidden layer of tanh units.

    θ holds W₁ (F, H), b₁ (H), W₂ (H, A) and b₂ (A), one after the other, row by row.

    Parameters
    ----------
    features : callable
        φ, as for `FeatureSoftmax`; `features.Scaled` is enough.
    n_actions : int
        A.
    n_hidden : int
        H.

    References
    ----------
    Rumelhart, Hinton & Williams, "Learning representations by
    back-propagating errors", Nature 323 (1986).

    Examples
    --------
    >>> from reinforce_np import check_gradient, features
    >>> policy = NeuralSoftmax(features.Scaled(low=[-1.0, -1.0], high=[1.0, 1.0]), n_actions=3, n_hidden=4)
    >>> theta = np.random.default_rng(0).normal(size=policy.n_parameters)
    >>> visited, weights = policy.on(np.array([[0.5, -0.2], [0.1, 0.9]])), np.array([[1.0, 0, 0], [0, 0, -2.0]])
    >>> objective = lambda theta: np.sum(weights * visited.log_probabilities(theta))
    >>> print(check_gradient(objective, visited.contract(theta, weights), theta))
    gradient confirmed: 27 components, largest difference ...
    """

    features: Any
    n_actions: int
    n_hidden: int

    is_density = False

    def __post_init__(self):
        check_features("features", self.features)
        for name in ("n_actions", "n_hidden"):
            object.__setattr__(self, name, arguments.integer(name, getattr(self, name), low=1))

    @property
    def n_parameters(self):
        """D = F·H + H + H·A + A."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    @property
    def shapes(self):
        """Shapes of the parts of θ."""
        return layer_shapes(self.features.n_features, self.n_hidden, self.n_actions)

    def real_theta(self, theta):
        """Return θ as one real vector (D,), or say what is wrong with it."""
        return arguments.real_array("theta", theta, shape=(self.n_parameters,))

    def initial_theta(self, *, rng=None):
        """Return W₁ of variance 1/F and zeros: hidden units that differ, and the uniform policy, shape (D,)."""
        F = self.features.n_features
        W1 = arguments.generator(rng).normal(size=F * self.n_hidden) / np.sqrt(F)
        return np.concatenate([W1, np.zeros(self.n_parameters - len(W1))])

    def actor(self, theta):
        """Return the function that acts: (observations (B, d), rng) -> actions (B,), log π (B,)."""
        W1, b1, W2, b2 = split(self.real_theta(theta), self.shapes)

        def act(observations, rng):
            return drawn(np.tanh(self.features(observations) @ W1 + b1) @ W2 + b2, rng)

        return act

    def on(self, observations, actions=None):
        """Return the policy over finite states in which state i is ``observations[i]``."""
        return VisitedNetwork(self.features(observations), self.n_actions, self.n_hidden)

    def for_environment(self, actions):
        """Return the actions as they are."""
        return actions


@dataclass(frozen=True, eq=False)
class VisitedNetwork(SoftmaxPolicy):
    """`NeuralSoftmax` over a list of observations.

    The one policy here whose logits are not linear in θ, so score,
    contraction and Fisher matrix are its own.

    Parameters
    ----------
    features : array (S, F)
        φ of each observation.
    n_actions, n_hidden : int
        A and H.

    Examples
    --------
    >>> VisitedNetwork(np.array([[1.0]]), 2, 1).probabilities([0.0, 0.0, 0.0, 0.0, 0.0, np.log(3.0)])
    array([[0.25, 0.75]])
    """

    features: np.ndarray
    n_actions: int
    n_hidden: int

    temperature = 1.0
    mask = None

    @property
    def n_states(self):
        """Number of observations S."""
        return len(self.features)

    @property
    def n_parameters(self):
        """D = F·H + H + H·A + A."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    @property
    def shapes(self):
        """Shapes of the parts of θ."""
        return layer_shapes(self.features.shape[1], self.n_hidden, self.n_actions)

    def hidden(self, layers, states=slice(None)):
        """h = tanh(φ W₁ + b₁), shape (..., S, H)."""
        return np.tanh(self.features[states] @ layers.W1 + layers.b1)

    def linear_logits(self, theta, states=slice(None)):
        """z = h W₂ + b₂ of some of the states, shape (..., S, A); linear in W₂ and b₂ only."""
        layers = Layers(*split(theta, self.shapes))
        return self.hidden(layers, states) @ layers.W2 + layers.b2

    def at(self, steps):
        """Return the policy over some of the observations."""
        return dataclasses.replace(self, features=self.features[steps])

    def contract(self, theta, weights, *, probabilities=None):
        """Σ_{s,a} w(s,a) ∇_θ log π_θ(a|s), shape (..., D): one pass forwards, one pass back.

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.
        weights : array (..., S, A)
            Weight on each score; leading axes broadcast against those of `theta`.
        probabilities : array (..., S, A), optional
            π_θ where it is at hand already.

        Returns
        -------
        array (..., D)
        """
        return contract_rows(self, functools.partial(self._backwards, probabilities=probabilities), theta, weights)

    def _backwards(self, theta, weights, probabilities=None):
        theta, weights = self.check_theta(theta), np.asarray(weights)
        if weights.shape[-2:] != (self.n_states, self.n_actions):
            raise ValueError(
                f"weights have shape {weights.shape}; the last axes must be ({self.n_states}, {self.n_actions})"
            )
        layers = Layers(*split(theta, self.shapes))
        h = self.hidden(layers)
        pi = self.probabilities(theta) if probabilities is None else probabilities
        dz = softmax.contract_logit_score(pi, weights)
        du = (dz @ np.swapaxes(layers.W2, -1, -2)) * (1.0 - h**2)
        parts = (self.features.T @ du, du.sum(axis=-2), np.swapaxes(h, -1, -2) @ dz, dz.sum(axis=-2))
        return np.concatenate([part.reshape(*dz.shape[:-2], -1) for part in parts], axis=-1)

    def score(self, theta):
        """∇_θ log π_θ(a|s) for every state-action pair, shape (..., S, A, D).

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.

        Returns
        -------
        array (..., S, A, D)
        """
        theta = self.check_theta(theta)
        layers = Layers(*split(theta, self.shapes))
        h, dz = self.hidden(layers)[..., None, :], softmax.logit_score(self.probabilities(theta))  # (..., S, A, A)
        du = (dz @ np.swapaxes(layers.W2, -1, -2)[..., None, :, :]) * (1.0 - h**2)
        parts = (self.features[:, None, :, None] * du[..., None, :], du, h[..., None] * dz[..., None, :], dz)
        return np.concatenate([part.reshape(*dz.shape[:-1], -1) for part in parts], axis=-1)

    def score_along(self, theta, directions):
        """v·∇_θ log π_θ(a|s) for directions v, shape (S, A, E).

        Parameters
        ----------
        theta : array (D,)
            Parameters.
        directions : array (E, D)
            One direction a row.

        Returns
        -------
        array (S, A, E)
        """
        return self.score(self.real_theta(theta)) @ np.transpose(directions)

    def fisher_information(self, theta, state_weights):
        """Σ_s d(s) Σₐ π(a|s) ∇log π(a|s) ∇log π(a|s)ᵀ, shape (D, D).

        Parameters
        ----------
        theta : array (D,)
            Parameters.
        state_weights : array (S,)
            d(s).

        Returns
        -------
        array (D, D)
        """
        theta, state_weights, D = self.real_theta(theta), np.asarray(state_weights), self.n_parameters
        arguments.check_shape("state_weights", state_weights, shape=(self.n_states,))
        if D > LARGEST_MATRIX:
            raise arguments.TooLargeError(
                f"a matrix of {D} x {D} parameters is above the limit of {LARGEST_MATRIX}; use fewer hidden units"
            )
        F, size = np.zeros((D, D)), max(SCORES // (self.n_actions * D), 1)
        counted = np.flatnonzero(state_weights)
        for first in range(0, len(counted), size):
            s = counted[first : first + size]
            part = self.at(s)
            psi = part.score(theta).reshape(-1, D)
            F += psi.T @ ((state_weights[s, None] * part.probabilities(theta)).reshape(-1, 1) * psi)
        return F

    def hessian_contract(self, theta, weights):
        """Refuse: the Hessian of a network is not that of logits linear in θ.

        Parameters
        ----------
        theta, weights
            Of no use.
        """
        raise TypeError(
            "the Hessian of log π of a network is not written out here; difference contract(theta, weights), or use "
            "fisher_information"
        )
