"""Policies for observations: softmax in preferences that are linear in features.

A policy over finite states is a table; a policy over observations has no
table, because nobody can list the observations. What every estimator needs is
only the policy *at the steps that were visited*, and those can be listed:
``policy.on(observations)`` is a policy over finite states in which state i is
the i-th observation. It has the score, the contraction, the Fisher matrix and
the entropy of any other, so every estimator works on it unchanged.

What a policy for observations has:

    n_parameters                     D
    real_theta(theta)                θ, checked
    initial_theta(rng=)              where to begin, shape (D,)
    actor(theta)                     a function (observations (B, d), rng) -> actions (B, ...), log π (B,)
    on(observations, actions)        the policy over the visited steps
    for_environment(actions)         what the environment is given
    is_density                       whether the actions are continuous
"""

import dataclasses
import functools
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.policies.base import SoftmaxPolicy

FEW = 2**12  # (step, action) cells that are faster contracted at once for every row


@dataclass(frozen=True, eq=False)
class FeatureSoftmax:
    """π_θ(a|o) ∝ exp(Σ_f φ(o)_f θ[f·A + a] / τ): softmax over finitely many actions, linear in features.

    With `OneHot` features it is `TabularSoftmax`, parameter by parameter. A
    draw holds the features of all its steps at once.

    Parameters
    ----------
    features : callable
        φ, from observations (M, d) to (M, F), with an attribute
        ``n_features``: a record such as `Polynomial`, or `FeatureFunction`.
    n_actions : int
        A; θ has D = F·A entries.
    temperature : float
        τ > 0, dividing the preferences.

    References
    ----------
    Sutton & Barto, *Reinforcement Learning: An Introduction*, 2nd ed.,
    equations (13.2), (13.3) and, for the score, Exercise 13.3.

    Examples
    --------
    >>> from reinforce_np import check_gradient, features
    >>> policy = FeatureSoftmax(features.Polynomial(low=[-1.0], high=[1.0], order=1), n_actions=2)
    >>> observations, theta = np.array([[0.5], [-1.0]]), np.array([0.1, 0.0, 0.2, -0.3])
    >>> visited = policy.on(observations)
    >>> visited.probabilities(theta).round(3)
    array([[0.587, 0.413],
           [0.401, 0.599]])
    >>> bool(check_gradient(lambda t: visited.log_probabilities(t)[0, 1], visited.score(theta)[0, 1], theta))
    True
    """

    features: Any
    n_actions: int
    _: KW_ONLY
    temperature: float = 1.0

    is_density = False

    def __post_init__(self):
        check_features("features", self.features)
        object.__setattr__(self, "n_actions", arguments.integer("n_actions", self.n_actions, low=1))
        temperature = arguments.number(
            "temperature", self.temperature, low=1e-100, high=1e100, rule="a number in [1e-100, 1e100]"
        )
        object.__setattr__(self, "temperature", temperature)

    @property
    def n_parameters(self):
        """D = F·A."""
        return self.features.n_features * self.n_actions

    def real_theta(self, theta):
        """Return θ as one real vector (D,), or say what is wrong with it."""
        return arguments.real_array("theta", theta, shape=(self.n_parameters,))

    def initial_theta(self, *, rng=None):
        """Return zeros, the uniform policy, shape (D,)."""
        return np.zeros(self.n_parameters)

    def actor(self, theta):
        """Return the function that acts: (observations (B, d), rng) -> actions (B,), log π (B,)."""
        weights = self.real_theta(theta).reshape(-1, self.n_actions) / self.temperature

        def act(observations, rng):
            return drawn(self.features(observations) @ weights, rng)

        return act

    def on(self, observations, actions=None):
        """Return the policy over finite states in which state i is ``observations[i]``."""
        return VisitedSoftmax(self.features(observations), self.n_actions, temperature=self.temperature)

    def for_environment(self, actions):
        """Return the actions as they are."""
        return actions


@dataclass(frozen=True, eq=False)
class VisitedSoftmax(SoftmaxPolicy):
    """`FeatureSoftmax` over a list of observations: z(s, a; θ) = Σ_f φ(s)_f θ[f·A + a].

    The same as `LinearSoftmax` with φ(s, a) one block per action, without
    the zeros.

    Parameters
    ----------
    features : array (S, F)
        φ of each observation.
    n_actions : int
        A.
    temperature : float
        τ.

    Examples
    --------
    >>> VisitedSoftmax(np.array([[1.0, 0.5]]), 2).probabilities([0.0, np.log(3.0), 0.0, 0.0])
    array([[0.25, 0.75]])
    """

    features: np.ndarray
    n_actions: int
    _: KW_ONLY
    temperature: float = 1.0
    mask = None

    @property
    def n_states(self):
        """Number of observations S."""
        return len(self.features)

    @property
    def n_parameters(self):
        """D = F·A."""
        return self.features.shape[1] * self.n_actions

    @property
    def slopes(self):
        """max |φ(s)_f|/τ, shape (D,)."""
        return np.repeat(np.abs(self.features).max(axis=0), self.n_actions) / self.temperature

    def at(self, steps):
        """Return the policy over some of the observations."""
        return dataclasses.replace(self, features=self.features[steps])

    def contract(self, theta, weights, *, probabilities=None):
        """Σ_{s,a} w(s,a) ∇_θ log π_θ(a|s), shape (..., D), without building the scores.

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
        return contract_rows(self, functools.partial(super().contract, probabilities=probabilities), theta, weights)

    def linear_logits(self, theta, states=slice(None)):
        """z(s, a; θ) = Σ_f φ(s)_f θ[f·A + a] of some of the states, shape (..., S, A)."""
        return self.features[states] @ theta.reshape(*theta.shape[:-1], -1, self.n_actions)

    def pull_back(self, weights):
        """Σ_s φ(s)_f w(s,a), from (..., S, A) to (..., D)."""
        return (self.features.T @ weights).reshape(*weights.shape[:-2], self.n_parameters)

    def pull_back_magnitudes(self, weights):
        """Return Σ_s |φ(s)_f| w(s,a), the size of the terms in `pull_back`, for weights >= 0."""
        return (np.abs(self.features).T @ weights).reshape(self.n_parameters)

    def _pull_back_rows(self, weights):
        rows = self.features[:, :, None] * weights[..., :, None, :]
        return rows.reshape(*weights.shape[:-1], self.n_parameters)

    def _sandwich(self, blocks):
        F, A = self.features.shape[1], self.n_actions
        result = np.empty((F, A, F, A))
        for a, b in np.ndindex(A, A):
            result[:, a, :, b] = self.features.T @ (blocks[:, a, b, None] * self.features)
        return result.reshape(F * A, F * A)


def contract_rows(visited, contract, theta, weights):
    """Return ``contract(theta, weights)``, for several rows of weights each over the steps that it weighs.

    A row is a trajectory, which visits a few of all the steps: so the work for N
    trajectories grows like their steps, and not like N times all steps.

    Parameters
    ----------
    visited : policy
        Over visited steps, with ``at`` to pick some of them.
    contract : callable
        Of the same policy, for one row.
    theta : array (..., D)
        Parameters.
    weights : array (..., S, A)
        Weight on each score.

    Returns
    -------
    array (..., D)
    """
    weights = np.asarray(weights)
    S, A = visited.n_states, visited.n_actions
    if np.ndim(theta) != 1 or weights.ndim < 3 or weights.shape[-2:] != (S, A) or S * A <= FEW:
        return contract(theta, weights)
    rows = []
    for w in weights.reshape(-1, S, A):
        s = np.flatnonzero(w.any(axis=-1))
        rows.append(visited.at(s).contract(theta, w[s]))
    return np.array(rows).reshape(*weights.shape[:-2], visited.n_parameters)


def drawn(preferences, rng):
    """Draw one action per row of preferences (B, A), and return it with its log-probability, both (B,)."""
    preferences = preferences - preferences.max(axis=-1, keepdims=True)
    cumulative = np.exp(preferences).cumsum(axis=-1)
    total = cumulative[:, -1].copy()  # without gaps: NumPy 1.26 rounds a logarithm by where they and the result lie
    if not np.isfinite(total).all():
        raise ValueError("features times theta are not finite at an observation; scale the features or theta down")
    u = rng.random(len(total)) * total
    actions = (cumulative[:, :-1] <= u[:, None]).sum(axis=-1)
    return actions, preferences[np.arange(len(actions)), actions] - np.log(total)


def check_features(name, features):
    """Refuse what is no function of observations with a stated number of features."""
    if not callable(features) or isinstance(features, type) or not hasattr(features, "n_features"):
        raise TypeError(
            f"{name}={features!r} has no n_features; pass a record such as Polynomial, or "
            "FeatureFunction(function, n_features)"
        )
