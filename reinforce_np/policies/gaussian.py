"""Gaussian policies for continuous actions, squashed or not, with analytic scores.

    u = μ(o) + σ(o) z,  z ~ N(0, 1),      μ = Σ_f φ(o)_f M[f, i],      log σ = ρ_i or Σ_g χ(o)_g R[g, i]

    ∂ log π/∂μ_i = z_i/σ_i,      ∂ log π/∂(log σ_i) = z_i² − 1

The components are independent given the observation. u is what is recorded as the
action. The environment is given u, or when squashed a = middle + half·tanh(u),
whose density has the factor |da/du|⁻¹ = Π 1/(half (1 − tanh² u)): it depends on
the action but not on θ, so the score is the same.
"""

import dataclasses
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.policies.neural import split
from reinforce_np.policies.observed import check_features, contract_rows

LOG_2PI = np.log(2 * np.pi)
WIDEST = 300.0  # |log σ|: σ⁻² still fits into float64


@dataclass(frozen=True, eq=False)
class GaussianPolicy:
    """π_θ(u|o) = N(u; μ(o), diag σ(o)²), with a mean linear in features, for continuous actions.

    θ holds M (F, m) and then ρ (m,), or R (G, m), row by row. At θ = 0 the
    mean is zero and the deviation one.

    Parameters
    ----------
    features : callable
        φ of the mean, as for `FeatureSoftmax`.
    n_components : int
        m, the components of an action.
    deviation_features : callable, optional
        χ, for a log-deviation that is linear in features; without it the
        deviation is the same everywhere.
    low, high : array (m,), optional
        Squash the action by tanh into these bounds. Without them an
        environment's own bounds clip it, which is a part of the
        environment: the score is that of the action before.

    References
    ----------
    Williams, "Simple Statistical Gradient-Following Algorithms for
    Connectionist Reinforcement Learning", Machine Learning 8 (1992), section 6;
    Sutton & Barto, 2nd ed., section 13.7 and, for the score, Exercise 13.4; squashed,
    Haarnoja et al., "Soft Actor-Critic" (2018), appendix C.

    Examples
    --------
    >>> from reinforce_np import check_gradient, features
    >>> policy = GaussianPolicy(features.Polynomial(low=[-1.0], high=[1.0], order=1), n_components=1)
    >>> theta = np.array([0.1, -0.5, np.log(0.5)])       # mean 0.1 − 0.5 o, deviation 0.5
    >>> visited = policy.on(np.array([[0.2]]), np.array([[0.7]]))
    >>> visited.score(theta)[0, 0].round(4)
    array([2.8 , 0.56, 0.96])
    >>> bool(check_gradient(lambda t: visited.log_probabilities(t)[0, 0], visited.score(theta)[0, 0], theta))
    True
    """

    features: Any
    n_components: int
    _: KW_ONLY
    deviation_features: Any = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    is_density = True

    def __post_init__(self):
        check_features("features", self.features)
        if self.deviation_features is not None:
            check_features("deviation_features", self.deviation_features)
        m = arguments.integer("n_components", self.n_components, low=1)
        if (self.low is None) != (self.high is None):
            raise ValueError(f"low={self.low!r} and high={self.high!r}: give both bounds or neither")
        if self.low is not None:
            low = arguments.real_array("low", self.low, shape=(m,))
            high = arguments.real_array("high", self.high, shape=(m,))
            if not np.all(low < high):
                raise ValueError(f"low={low} is not below high={high} everywhere; state the bounds of each component")
            object.__setattr__(self, "low", low)
            object.__setattr__(self, "high", high)

    @property
    def shapes(self):
        """Shapes of the parts of θ."""
        G = 1 if self.deviation_features is None else self.deviation_features.n_features
        return [(self.features.n_features, self.n_components), (G, self.n_components)]

    @property
    def n_parameters(self):
        """D = F·m + m, or F·m + G·m."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def real_theta(self, theta):
        """Return θ as one real vector (D,), or say what is wrong with it."""
        return arguments.real_array("theta", theta, shape=(self.n_parameters,))

    def initial_theta(self, *, rng=None):
        """Return zeros: mean zero, deviation one, shape (D,)."""
        return np.zeros(self.n_parameters)

    def actor(self, theta):
        """Return the function that acts: (observations (B, d), rng) -> u (B, m), log π (B,)."""
        M, R = split(self.real_theta(theta), self.shapes)

        def act(observations, rng):
            log_sigma = checked_deviation(self._deviation_features(observations) @ R)
            z = rng.standard_normal((len(observations), self.n_components))
            u = self.features(observations) @ M + np.exp(log_sigma) * z
            return u, normal_log_density(z, log_sigma) - log_stretch(u, self.half)

        return act

    def on(self, observations, actions):
        """Return the policy over finite states in which state i is ``observations[i]``; its only action is ``actions[i]``."""
        actions = arguments.real_array("actions", actions, shape=(len(observations), self.n_components))
        return VisitedGaussian(self.features(observations), self._deviation_features(observations), actions, self.half)

    @property
    def half(self):
        """(high − low)/2, or None when actions are not squashed."""
        return None if self.low is None else (self.high - self.low) / 2

    def for_environment(self, actions):
        """Return u, or middle + half·tanh(u)."""
        return actions if self.low is None else (self.low + self.high) / 2 + self.half * np.tanh(actions)

    def _deviation_features(self, observations):
        if self.deviation_features is None:
            return np.ones((len(observations), 1))
        return self.deviation_features(observations)


@dataclass(frozen=True, eq=False)
class VisitedGaussian:
    """`GaussianPolicy` over a list of observations, with what was done there as the only action of each.

    Its tables of shape (S, 1) hold densities, not probabilities: a
    log-density may be positive, and nothing sums to one over the column. Closed forms over all
    actions are Gaussian integrals instead of sums.

    Parameters
    ----------
    features : array (S, F)
        φ of each observation.
    deviation_features : array (S, G)
        χ of each observation.
    actions : array (S, m)
        u.
    half : array (m,) or None
        Half the width of the bounds, when squashed.

    Examples
    --------
    >>> visited = VisitedGaussian(np.ones((1, 1)), np.ones((1, 1)), np.array([[0.0]]), None)
    >>> visited.log_probabilities([0.0, 0.0]).round(6)
    array([[-0.918939]])
    """

    features: np.ndarray
    deviation_features: np.ndarray
    actions: np.ndarray
    half: np.ndarray | None

    is_density = True
    n_actions = 1

    @property
    def n_states(self):
        """Number of observations S."""
        return len(self.features)

    @property
    def shapes(self):
        """Shapes of the parts of θ."""
        m = self.actions.shape[1]
        return [(self.features.shape[1], m), (self.deviation_features.shape[1], m)]

    @property
    def n_parameters(self):
        """D = F·m + G·m."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def real_theta(self, theta):
        """Return θ as one real vector (D,), or say what is wrong with it."""
        return arguments.real_array("theta", theta, shape=(self.n_parameters,))

    def at(self, steps):
        """Return the policy over some of the observations."""
        columns = ("features", "deviation_features", "actions")
        return dataclasses.replace(self, **{name: getattr(self, name)[steps] for name in columns})

    def law(self, theta):
        """Return μ and log σ of every state, both (..., S, m), for real or complex θ."""
        theta = np.asarray(theta)
        if theta.ndim == 0 or theta.shape[-1] != self.n_parameters:
            raise ValueError(
                f"theta has shape {theta.shape}; its last axis must have length n_parameters={self.n_parameters}"
            )
        M, R = split(theta, self.shapes)
        return self.features @ M, checked_deviation(self.deviation_features @ R)

    def standardised(self, theta):
        """Return z = (u − μ)/σ and log σ, both (..., S, m)."""
        mu, log_sigma = self.law(theta)
        return (self.actions - mu) * np.exp(-log_sigma), log_sigma

    def log_probabilities(self, theta):
        """log π_θ of the action of each state, the density of what the environment was given, shape (..., S, 1).

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.

        Returns
        -------
        array (..., S, 1)
        """
        return (normal_log_density(*self.standardised(theta)) - log_stretch(self.actions, self.half))[..., None]

    def probabilities(self, theta):
        """Refuse: a density is no probability, and no weight on the score.

        Parameters
        ----------
        theta
            Of no use.
        """
        raise TypeError(
            "a Gaussian policy has densities, not probabilities; use log_probabilities, and for sums over all actions the "
            "closed forms entropy, kl, entropy_gradient, kl_gradient and fisher_information"
        )

    def score(self, theta):
        """∇_θ log π_θ of the action of each state, shape (..., S, 1, D).

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.

        Returns
        -------
        array (..., S, 1, D)
        """
        z, log_sigma = self.standardised(theta)
        mean = self.features[:, :, None] * (z * np.exp(-log_sigma))[..., None, :]
        deviation = self.deviation_features[:, :, None] * (z**2 - 1)[..., None, :]
        return np.concatenate([part.reshape(*z.shape[:-1], 1, -1) for part in (mean, deviation)], axis=-1)

    def contract(self, theta, weights):
        """Σ_s w(s) ∇_θ log π_θ(u_s|s), shape (..., D), without building the scores.

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.
        weights : array (..., S, 1)
            Weight on each score; leading axes broadcast against those of `theta`.

        Returns
        -------
        array (..., D)
        """
        return contract_rows(self, self._contract, theta, weights)

    def _contract(self, theta, weights):
        weights = np.asarray(weights)
        if weights.shape[-2:] != (self.n_states, 1):
            raise ValueError(f"weights have shape {weights.shape}; the last axes must be ({self.n_states}, 1)")
        z, log_sigma = self.standardised(theta)
        parts = (
            self.features.T @ (weights * z * np.exp(-log_sigma)),
            self.deviation_features.T @ (weights * (z**2 - 1)),
        )
        return np.concatenate([part.reshape(*part.shape[:-2], -1) for part in parts], axis=-1)

    def fisher_information(self, theta, state_weights):
        """Σ_s d(s) E[∇log π ∇log πᵀ], shape (D, D): φφᵀ/σ² for the mean, 2χχᵀ for the log-deviation.

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
        _, log_sigma = self.law(self.real_theta(theta))
        state_weights, m = np.asarray(state_weights), self.actions.shape[1]
        arguments.check_shape("state_weights", state_weights, shape=(self.n_states,))
        (F, _), (G, _) = self.shapes
        mean, deviation = np.zeros((F, m, F, m)), np.zeros((G, m, G, m))
        for i in range(m):
            mean[:, i, :, i] = self.features.T @ (
                (state_weights * np.exp(-2 * log_sigma[:, i]))[:, None] * self.features
            )
            deviation[:, i, :, i] = 2 * self.deviation_features.T @ (state_weights[:, None] * self.deviation_features)
        result = np.zeros((self.n_parameters, self.n_parameters))
        result[: F * m, : F * m] = mean.reshape(F * m, F * m)
        result[F * m :, F * m :] = deviation.reshape(G * m, G * m)
        return result

    def entropy(self, theta):
        """H(s) = Σ_i [log σ_i + ½ log 2πe] in nats, shape (..., S).

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.

        Returns
        -------
        array (..., S)
            May be negative: it is the entropy of a density.
        """
        self._refuse_squashed()
        return (self.law(theta)[1] + (1 + LOG_2PI) / 2).sum(axis=-1)

    def entropy_gradient(self, theta, state_weights):
        """Σ_s d(s) ∇H(s), shape (..., D): χ(s) for every log-deviation, nothing for the mean.

        Parameters
        ----------
        theta : array (D,)
            Parameters.
        state_weights : array (..., S)
            d(s).

        Returns
        -------
        array (..., D)
        """
        self._refuse_squashed()
        (F, m), _ = self.shapes
        deviation = np.asarray(state_weights) @ self.deviation_features
        mean = np.zeros((*deviation.shape[:-1], F * m))
        return np.concatenate([mean, np.repeat(deviation, m, axis=-1)], axis=-1)

    def kl_gradient(self, theta, reference, state_weights):
        """Σ_s d(s) ∇KL(s), shape (..., D): φ (μ − μ_ref)/σ_ref² for the mean, χ (e^{2δ} − 1) for the log-deviation.

        Parameters
        ----------
        theta : array (D,)
            Parameters.
        reference : array (D,)
            As in `kl`.
        state_weights : array (..., S)
            d(s).

        Returns
        -------
        array (..., D)
        """
        (mu, log_sigma), (mu_ref, log_ref) = self.law(theta), self.law(self._parameters("reference", reference))
        d = np.asarray(state_weights)[..., None]
        mean = self.features.T @ (d * (mu - mu_ref) * np.exp(-2 * log_ref))
        deviation = self.deviation_features.T @ (d * np.expm1(2 * (log_sigma - log_ref)))
        return np.concatenate([part.reshape(*d.shape[:-2], -1) for part in (mean, deviation)], axis=-1)

    def _refuse_squashed(self):
        if self.half is not None:
            raise TypeError("the entropy of a squashed Gaussian has no closed form; use EntropyBonus(sampled=True)")

    def kl(self, theta, reference):
        """KL(π_θ(·|s) ‖ π_ref(·|s)) = Σ_i [½(e^{2δ} − 1) − δ + (μ − μ_ref)²/2σ_ref²], δ = log σ − log σ_ref, shape (..., S).

        Squashed or not: a change of variables leaves it alone.

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.
        reference : array (D,)
            Parameters of this same policy.

        Returns
        -------
        array (..., S)
        """
        (mu, log_sigma), (mu_ref, log_ref) = self.law(theta), self.law(self._parameters("reference", reference))
        delta = log_sigma - log_ref
        return (np.expm1(2 * delta) / 2 - delta + ((mu - mu_ref) * np.exp(-log_ref)) ** 2 / 2).sum(axis=-1)

    def log_ratio(self, theta, reference):
        """log π_θ − log π_ref of the action of each state in nats, shape (..., S, 1).

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.
        reference : array (D,) or None
            As in `kl`; None leaves log π_θ itself.

        Returns
        -------
        array (..., S, 1)
        """
        log_pi = self.log_probabilities(theta)
        return log_pi if reference is None else log_pi - self.log_probabilities_of("reference", reference)

    def log_probabilities_of(self, name, other):
        """Return log-densities (S, 1) under other parameters of this policy.

        Parameters
        ----------
        name : str
            What to call it in messages.
        other : array (D,)
            Parameters; there is no table of probabilities.

        Returns
        -------
        array (S, 1)
        """
        return self.log_probabilities(self._parameters(name, other))

    def _parameters(self, name, other):
        return arguments.real_array(name, other, shape=(self.n_parameters,))


def normal_log_density(z, log_sigma):
    """Σ_i [−z_i²/2 − log σ_i − ½ log 2π], shape (...)."""
    return (-(z**2) / 2 - log_sigma - LOG_2PI / 2).sum(axis=-1)


def log_stretch(u, half):
    """Σ_i log |da_i/du_i| of a = middle + half·tanh(u); zero when not squashed.

    log(1 − tanh² u) = 2 (log 2 − |u| − log(1 + e^{−2|u|})), which neither
    overflows nor loses its digits where tanh u is ±1 to rounding.

    Examples
    --------
    >>> float(log_stretch(np.array([400.0]), np.array([1.0])))
    -798.6137...
    """
    if half is None:
        return 0.0
    size = np.abs(u)
    return (np.log(half) + 2 * (np.log(2.0) - size - np.log1p(np.exp(-2 * size)))).sum(axis=-1)


def checked_deviation(log_sigma):
    """Return log σ, refusing deviations that float64 cannot square."""
    wrong = ~(np.abs(log_sigma.real) <= WIDEST)
    if wrong.any():
        index = arguments.first_index(wrong)
        raise ValueError(
            f"{arguments.at('log_sigma', index)}={log_sigma[index]} is out of range; it must be within ±{WIDEST:g}: smaller "
            "steps, or scaled features"
        )
    return log_sigma
