"""What the softmax policies over finite states share: everything but their logits.

A policy is a choice of logits z(s, a; θ), linear in θ. `SoftmaxPolicy` turns
logits into probabilities, scores and contractions; the two policies beside it
say only how θ makes logits, and how weights on logits are pulled back to θ.
This is the package's one base class: the alternative was the same twelve
methods written twice.
"""

from typing import TYPE_CHECKING

import numpy as np

from reinforce_np import arguments
from reinforce_np.policies import softmax

LARGEST_MATRIX = 2**14  # parameters of a dense (D, D) matrix: 2 GiB


class SoftmaxPolicy:
    """π_θ(a|s) = exp(z(s,a;θ)/τ) / Σ_b exp(z(s,b;θ)/τ), with logits linear in θ.

    θ is always an argument: a flat float64 (or complex) vector of shape (D,),
    or a batch of them of shape (..., D) where a method says so.
    """

    temperature: float
    mask: np.ndarray | None

    if TYPE_CHECKING:  # fields of the one policy, properties of the other

        @property
        def n_states(self) -> int: ...

        @property
        def n_actions(self) -> int: ...

        @property
        def n_parameters(self) -> int: ...

    has_one_logit_per_parameter = False  # and `pull_back` changes nothing but the shape

    def linear_logits(self, theta: np.ndarray, states=slice(None)) -> np.ndarray:
        """Return z(s, a; θ) before masking, shape (..., S, A), or its rows of some states."""
        raise NotImplementedError("a policy defines its logits")

    def pull_back(self, weights: np.ndarray) -> np.ndarray:
        """Return Σ_{s,a} w(s,a) ∂z(s,a)/∂θ, from (..., S, A) to (..., D)."""
        raise self._not_linear()

    def pull_back_magnitudes(self, weights: np.ndarray) -> np.ndarray:
        """Return Σ_{s,a} w(s,a) |∂z(s,a)/∂θ|, the size of the terms in `pull_back`, for weights >= 0."""
        raise self._not_linear()

    def _not_linear(self):
        return NotImplementedError(
            f"policy={type(self).__name__} has logits that are not linear in theta, and exact moments, verdicts and confirmation "
            "need them to be; use a TabularSoftmax, LinearSoftmax or FeatureSoftmax (exact.gradient takes any)"
        )

    def check_theta(self, theta):
        """Return θ as a float64 or complex128 array of shape (..., D), or say what is wrong with it."""
        if np.ma.isMaskedArray(theta):
            raise TypeError("theta is a masked array; pass plain numbers, and -inf or mask= to mask actions")
        theta = np.asarray(theta)
        if theta.dtype.kind not in "iufc":
            raise TypeError(f"theta holds {theta.dtype} values; it must hold real (or complex) numbers")
        if theta.ndim == 0 or theta.shape[-1] != self.n_parameters:
            raise ValueError(
                f"theta has shape {theta.shape}; its last axis must have length n_parameters={self.n_parameters}"
            )
        theta = theta.astype(np.complex128 if theta.dtype.kind == "c" else np.float64)
        if arguments.all_finite(theta):
            return theta
        wrong = ~(np.isfinite(theta.real) & np.isfinite(theta.imag))
        if self.allows_minus_infinity:
            wrong &= theta.real != -np.inf
        if wrong.any():
            index = arguments.first_index(wrong)
            remedy = (
                "use a finite number, or -inf to mask an action" if self.allows_minus_infinity else "use finite numbers"
            )
            raise ValueError(f"{arguments.at('theta', index)}={theta[index]} is not allowed; {remedy}")
        return theta

    allows_minus_infinity = False

    def real_theta(self, theta):
        """Return θ as one real vector (D,), where neither complex numbers nor batches make sense."""
        theta = self.check_theta(theta)
        if theta.dtype.kind == "c" or theta.ndim != 1:
            raise ValueError(
                f"theta has shape {theta.shape} and dtype {theta.dtype}; it must be one real vector ({self.n_parameters},)"
            )
        return theta

    @property
    def slopes(self):
        """Largest |∂(z/τ)/∂θ_d| of each parameter, shape (D,): how fast it can change the policy."""
        raise self._not_linear()

    def logits(self, theta, states=slice(None)):
        """Logits z(s, a; θ), −inf where masked, shape (..., S, A).

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.
        states : int array, optional
            Only of these states.

        Returns
        -------
        array (..., S, A)
        """
        theta = self.check_theta(theta)
        with np.errstate(over="ignore", invalid="ignore"):
            logits = self.linear_logits(theta, states)
        if self.mask is None and arguments.all_finite(logits):
            return logits
        if not self.allows_minus_infinity:
            logits = np.where(logits.real == -np.inf, np.inf, logits)  # overflow is no mask
        if self.mask is not None:
            logits = np.where(self.mask[states], logits, -np.inf)
        real = logits.real
        wrong = np.isnan(real) | (real == np.inf)
        if wrong.any():
            index = arguments.first_index(wrong)
            raise ValueError(
                f"{arguments.at('logits', self._whole(index, states))}={real[index]}: features times theta overflow; scale them down"
            )
        blocked = (real == -np.inf).all(axis=-1)
        if blocked.any():
            index = arguments.first_index(blocked)
            raise ValueError(
                f"{arguments.at('logits', self._whole((*index, 0), states)[:-1])} are all -inf: leave at least one action of every state unmasked"
            )
        return logits

    def _whole(self, index, states):
        """Return an index (..., s, a) into rows of some states as one into the whole table."""
        return *index[:-2], int(np.arange(self.n_states)[states][index[-2]]), index[-1]

    def probabilities(self, theta):
        """π_θ(a|s), shape (..., S, A).

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.

        Returns
        -------
        array (..., S, A)
            Zero where masked; every row sums to one.
        """
        return softmax.softmax(self.logits(theta), self.temperature)

    def log_probabilities(self, theta, states=slice(None)):
        """log π_θ(a|s) in nats, shape (..., S, A); −inf where masked, right where π underflows.

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.
        states : int array, optional
            Only of these states.

        Returns
        -------
        array (..., S, A)
        """
        return softmax.log_softmax(self.logits(theta, states), self.temperature)

    def score(self, theta):
        """∇_θ log π_θ(a|s) for every state-action pair, shape (..., S, A, D).

        ∇ log π(a|s) = (1/τ) [∇z(s,a) − Σ_b π(b|s) ∇z(s,b)], zero where masked.
        The array has S·A·D entries: for large models use `contract`, which
        never builds it.

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.

        Returns
        -------
        array (..., S, A, D)
        """
        logits = self.logits(theta)
        score = softmax.logit_score(softmax.softmax(logits, self.temperature))
        score = np.where((logits.real == -np.inf)[..., None], 0.0, score) / self.temperature
        pulled = [self._pull_back_rows(score[..., a, :]) for a in range(self.n_actions)]
        return np.stack(pulled, axis=-2)

    def score_along(self, theta, directions):
        """v·∇_θ log π_θ(a|s) for directions v, shape (S, A, E), without building the scores.

        Parameters
        ----------
        theta : array (D,)
            Parameters.
        directions : array (E, D)
            One direction a row.

        Returns
        -------
        array (S, A, E)
            Zero where masked.
        """
        logits = self.logits(self.real_theta(theta))
        directions = arguments.real_array("directions", directions, shape=(None, self.n_parameters))
        pi = softmax.softmax(logits, self.temperature)
        slopes = np.where(logits.real == -np.inf, 0.0, self.linear_logits(directions))
        centred = slopes * softmax.sum_of_others(pi) - softmax.sum_of_others(pi * slopes)
        return np.moveaxis(np.where(logits.real == -np.inf, 0.0, centred), 0, -1) / self.temperature

    def contract(self, theta, weights, *, probabilities=None):
        """Σ_{s,a} w(s,a) ∇_θ log π_θ(a|s), shape (..., D), without building the scores.

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.
        weights : array (..., S, A)
            Weight on each score; leading axes broadcast against those of
            `theta`. Weights of masked actions count for nothing.
        probabilities : array (..., S, A), optional
            π_θ where it is at hand already; the weights of masked actions must then be zero.

        Returns
        -------
        array (..., D)
        """
        logits = self.logits(theta) if probabilities is None else None
        weights = np.asarray(weights)
        if weights.dtype.kind not in "biufc":
            raise TypeError(f"weights hold {weights.dtype} values; they must hold numbers")
        if weights.shape[-2:] != (self.n_states, self.n_actions):
            raise ValueError(
                f"weights have shape {weights.shape}; the last axes must be ({self.n_states}, {self.n_actions})"
            )
        if logits is not None:
            masked = logits.real == -np.inf
            weights = np.where(masked, 0.0, weights) if masked.any() else weights
            probabilities = softmax.softmax(logits, self.temperature)
        pulled = self.pull_back(softmax.contract_logit_score(probabilities, weights))
        return pulled if self.temperature == 1.0 else pulled / self.temperature

    def contract_to(self, out, weights, probabilities):
        """Write what `contract` returns for rows of weights (N, S, A) to `out` (N, D), contiguous, without a copy where that can be."""
        room = out.reshape(weights.shape) if self.has_one_logit_per_parameter else None
        pulled = self.pull_back(softmax.contract_logit_score(probabilities, weights, room))
        if self.temperature != 1.0:
            pulled /= self.temperature
        if pulled.ctypes.data != out.ctypes.data or pulled.strides != out.strides:
            out[...] = pulled

    def hessian_contract(self, theta, weights):
        """Σ_{s,a} w(s,a) ∇²_θ log π_θ(a|s), shape (D, D).

        For logits linear in θ the Hessian of log π(a|s) is −Cov_π[∇z(s,·)]/τ²,
        the same for every action.

        Parameters
        ----------
        theta : array (D,)
            Parameters.
        weights : array (S, A)
            Weight on each Hessian.

        Returns
        -------
        array (D, D)
        """
        theta, weights = self.real_theta(theta), np.asarray(weights)
        arguments.check_shape("weights", weights, shape=(self.n_states, self.n_actions))
        weights = np.where(self.logits(theta) == -np.inf, 0.0, weights)
        return -self.fisher_information(theta, weights.sum(axis=-1))

    def fisher_information(self, theta, state_weights):
        """Σ_s d(s) Σₐ π(a|s) ∇log π(a|s) ∇log π(a|s)ᵀ, shape (D, D).

        Parameters
        ----------
        theta : array (D,)
            Parameters.
        state_weights : array (S,)
            d(s): how much each state counts (a distribution, an occupancy,
            or any weights).

        Returns
        -------
        array (D, D)
            Symmetric; positive semi-definite when `state_weights` are >= 0.
        """
        covariance = softmax.logit_covariance(self.probabilities(self.real_theta(theta)))
        if self.n_parameters > LARGEST_MATRIX:
            raise arguments.TooLargeError(
                f"a matrix of {self.n_parameters} x {self.n_parameters} parameters is above the limit of {LARGEST_MATRIX}; "
                "use fewer parameters (LinearSoftmax), or exact.gradient alone"
            )
        state_weights = np.asarray(state_weights)
        arguments.check_shape("state_weights", state_weights, shape=(self.n_states,))
        F = self._sandwich(state_weights[:, None, None] * covariance) / self.temperature / self.temperature
        return (F + F.T) / 2

    def entropy(self, theta):
        """H(s) = −Σₐ π(a|s) log π(a|s) in nats, shape (..., S).

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.

        Returns
        -------
        array (..., S)
        """
        pi, log_pi = self.probabilities(theta), self.log_probabilities(theta)
        return -(pi * np.where(pi == 0, 0.0, log_pi)).sum(axis=-1)

    def kl(self, theta, reference):
        """KL(π_θ(·|s) ‖ π_ref(·|s)) = Σₐ π log(π/π_ref) in nats, shape (..., S).

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.
        reference : array (D,) or (S, A)
            Parameters of this same policy, or a table of probabilities.

        Returns
        -------
        array (..., S)

        Raises
        ------
        ValueError
            Where the reference gives probability zero to an action that π_θ
            can take: the divergence is infinite there.
        """
        pi, x = self.probabilities(theta), self.log_ratio(theta, reference)
        # Σ π x loses its digits when the policies are close; Σ π (x + π_ref/π − 1) has none but positive terms, and the
        # second sum is zero but for what the reference does and π cannot
        never = np.where(pi == 0, np.exp(self.log_probabilities_of("reference", reference)), 0.0)
        return (pi * (np.expm1(-x) + x) + never).sum(axis=-1)

    def log_ratio(self, theta, reference):
        """log π_θ(a|s) − log π_ref(a|s) in nats, shape (..., S, A); zero where π_θ is zero.

        Parameters
        ----------
        theta : array (..., D)
            Parameters, real or complex.
        reference : array (D,) or (S, A), or None
            As in `kl`; None leaves log π_θ itself.

        Returns
        -------
        array (..., S, A)

        Raises
        ------
        ValueError
            As `kl`.
        """
        pi, log_pi = self.probabilities(theta), self.log_probabilities(theta)
        log_reference = (
            np.zeros_like(pi, dtype=float) if reference is None else self.log_probabilities_of("reference", reference)
        )
        wrong = (pi.real > 0) & (log_reference == -np.inf)
        if wrong.any():
            s, a = arguments.first_index(wrong)[-2:]
            raise ValueError(f"reference[{s}, {a}]=0 where the policy can act: the KL is infinite; give it probability")
        return np.where(pi == 0, 0.0, log_pi) - np.where(pi == 0, 0.0, log_reference)

    def log_probabilities_of(self, name, other):
        """Return log-probabilities (S, A) of a policy given as θ (D,) or as a table of probabilities (S, A).

        Parameters
        ----------
        name : str
            What to call it in messages.
        other : array (D,) or (S, A)
            Parameters of this policy, or probabilities.

        Returns
        -------
        array (S, A)
        """
        if other is None:
            raise ValueError(
                f"{name}=None: there is none here; pass one, parameters (D,) or a table (S, A), as in Problem({name}=...)"
            )
        other = arguments.as_array(name, other)
        if other.ndim == 1:
            return self.log_probabilities(
                arguments.real_array(name, other, shape=(self.n_parameters,), minus_infinity=self.allows_minus_infinity)
            )
        table = arguments.probability_array(name, other, shape=(self.n_states, self.n_actions))
        arguments.check_sums(name, table.sum(axis=1))
        with np.errstate(divide="ignore"):
            return np.log(table)

    def _pull_back_rows(self, weights):
        """Return Σₐ w(s,a) ∂z(s,a)/∂θ for each state, from (..., S, A) to (..., S, D)."""
        raise NotImplementedError

    def _sandwich(self, blocks):
        """Return Σ_s Σ_{a,b} ∂z(s,a)/∂θ B(s,a,b) ∂z(s,b)/∂θᵀ, from (S, A, A) to (D, D)."""
        raise NotImplementedError


def check_options(policy, temperature, mask):
    """Set `temperature` and `mask` of a frozen policy record, checked."""
    temperature = arguments.number(
        "temperature", temperature, low=1e-100, high=1e100, rule="a number in [1e-100, 1e100]"
    )
    object.__setattr__(policy, "temperature", temperature)
    if mask is not None:
        mask = arguments.boolean_array("mask", mask, shape=(policy.n_states, policy.n_actions))
        blocked = ~mask.any(axis=1)
        if blocked.any():
            s = arguments.first_index(blocked)
            raise ValueError(f"{arguments.at('mask', s)} allows no action; allow at least one in every state")
        mask.setflags(write=False)
    object.__setattr__(policy, "mask", mask)
