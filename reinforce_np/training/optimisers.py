"""What turns a gradient into a step: pure functions over flat θ, that ascend.

Each choice is a frozen record of numbers with two methods,

    state = optimiser.start(theta)
    theta, state = optimiser.step(theta, gradient, state)

where the state is a tuple of arrays and counts, and nothing else is remembered: the
same arguments give the same step. `rate` is a number, or a function of the number of
steps taken (see `schedules`). A component of θ that is −inf (a masked
action) has gradient zero and stays where it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from reinforce_np import arguments, exact
from reinforce_np.exact.derivatives import smallest_solution
from reinforce_np.exact.record import norm
from reinforce_np.training.schedules import rate_at


class Steps(NamedTuple):
    """How many steps have been taken."""

    t: int


class Velocity(NamedTuple):
    """How many steps, and the running sum of gradients, shape (D,)."""

    t: int
    m: np.ndarray


class Square(NamedTuple):
    """How many steps, and the running mean of squared gradients, shape (D,)."""

    t: int
    v: np.ndarray


class Moments(NamedTuple):
    """How many steps, and the running means of gradients and of their squares, shape (D,)."""

    t: int
    m: np.ndarray
    v: np.ndarray


@dataclass(frozen=True)
class SGD:
    """θ ← θ + α_t g: stochastic gradient ascent.

    Parameters
    ----------
    rate : float or callable
        α > 0, or a schedule.

    References
    ----------
    Sutton & Barto, *Reinforcement Learning: An Introduction*, 2nd ed., equation (13.1).

    Examples
    --------
    >>> optimiser = SGD(0.5)
    >>> theta = np.array([1.0, 2.0])
    >>> optimiser.step(theta, np.array([2.0, 0.0]), optimiser.start(theta))
    (array([2., 2.]), Steps(t=1))
    """

    rate: Any

    def __post_init__(self):
        object.__setattr__(self, "rate", step_size(self.rate))

    def start(self, theta):
        """Return the state before the first step."""
        return Steps(0)

    def step(self, theta, gradient, state, draw=None):
        """Return θ + α_t g, and the state after it."""
        return theta + rate_at(self.rate, state.t) * gradient, Steps(state.t + 1)


@dataclass(frozen=True)
class Momentum:
    """m ← μ m + g, θ ← θ + α_t m: a heavy ball.

    The gradient enters m whole, so that a constant gradient ends up counting
    1/(1 − μ) times.

    Parameters
    ----------
    rate : float or callable
        α > 0, or a schedule.
    decay : float
        μ in [0, 1).

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration
    methods", USSR Computational Mathematics and Mathematical Physics 4 (1964).

    Examples
    --------
    >>> optimiser, theta = Momentum(1.0, decay=0.5), np.zeros(1)
    >>> state = optimiser.start(theta)
    >>> for _ in range(2):
    ...     theta, state = optimiser.step(theta, np.ones(1), state)
    >>> theta
    array([2.5])
    """

    rate: Any
    decay: float = 0.9

    def __post_init__(self):
        object.__setattr__(self, "rate", step_size(self.rate))
        object.__setattr__(self, "decay", share("decay", self.decay))

    def start(self, theta):
        """Return the state before the first step."""
        return Velocity(0, np.zeros(len(theta)))

    def step(self, theta, gradient, state, draw=None):
        """Return θ + α_t m, and the state after it."""
        m = self.decay * state.m + gradient
        return theta + rate_at(self.rate, state.t) * m, Velocity(state.t + 1, m)


@dataclass(frozen=True)
class RMSProp:
    """v ← ρ v + (1 − ρ) g², θ ← θ + α_t g / (√v + ε).

    Parameters
    ----------
    rate : float or callable
        α > 0, or a schedule.
    decay : float
        ρ in [0, 1).
    epsilon : float
        ε > 0, added to the root (some libraries add it under the root).

    References
    ----------
    Tieleman & Hinton, "Lecture 6.5: rmsprop", Coursera: Neural Networks for Machine Learning (2012).

    Examples
    --------
    >>> optimiser, theta = RMSProp(1.0, decay=0.75, epsilon=1e-300), np.zeros(1)
    >>> optimiser.step(theta, np.array([3.0]), optimiser.start(theta))[0]
    array([2.])
    """

    rate: Any
    decay: float = 0.9
    epsilon: float = 1e-8

    def __post_init__(self):
        object.__setattr__(self, "rate", step_size(self.rate))
        object.__setattr__(self, "decay", share("decay", self.decay))
        object.__setattr__(self, "epsilon", arguments.number("epsilon", self.epsilon, low=0.0, open_low=True))

    def start(self, theta):
        """Return the state before the first step."""
        return Square(0, np.zeros(len(theta)))

    def step(self, theta, gradient, state, draw=None):
        """Return θ + α_t g/(√v + ε), and the state after it."""
        v = self.decay * state.v + (1.0 - self.decay) * gradient**2
        return theta + rate_at(self.rate, state.t) * gradient / (np.sqrt(v) + self.epsilon), Square(state.t + 1, v)


@dataclass(frozen=True)
class Adam:
    """m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², θ ← θ + α_t m̂ / (√v̂ + ε).

    m̂ = m/(1 − β₁ᵗ) and v̂ = v/(1 − β₂ᵗ) undo that both began at zero.

    Parameters
    ----------
    rate : float or callable
        α > 0, or a schedule.
    beta1, beta2 : float
        β₁ and β₂ in [0, 1).
    epsilon : float
        ε > 0.

    References
    ----------
    Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015,
    Algorithm 1 (written there for descent).

    Examples
    --------
    The first step has length α in every component, whatever the gradient:

    >>> optimiser, theta = Adam(0.1), np.zeros(2)
    >>> optimiser.step(theta, np.array([1e-3, -1e3]), optimiser.start(theta))[0].round(5)
    array([ 0.1, -0.1])
    """

    rate: Any = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self):
        object.__setattr__(self, "rate", step_size(self.rate))
        object.__setattr__(self, "beta1", share("beta1", self.beta1))
        object.__setattr__(self, "beta2", share("beta2", self.beta2))
        object.__setattr__(self, "epsilon", arguments.number("epsilon", self.epsilon, low=0.0, open_low=True))

    def start(self, theta):
        """Return the state before the first step."""
        return Moments(0, np.zeros(len(theta)), np.zeros(len(theta)))

    def step(self, theta, gradient, state, draw=None):
        """Return θ + α_t m̂/(√v̂ + ε), and the state after it."""
        t = state.t + 1
        m = self.beta1 * state.m + (1.0 - self.beta1) * gradient
        v = self.beta2 * state.v + (1.0 - self.beta2) * gradient**2
        m_hat, v_hat = m / (1.0 - self.beta1**t), v / (1.0 - self.beta2**t)
        return theta + rate_at(self.rate, state.t) * m_hat / (np.sqrt(v_hat) + self.epsilon), Moments(t, m, v)


def estimated_fisher(draw, theta):
    """Return F̂(θ) = (1/N) Σ_{n,t} γᵗ Σₐ π(a|s_nt) ∇log π ∇log πᵀ, shape (D, D).

    The states are those that were visited, the sum over actions is exact.
    *Unbiased* for `exact.fisher_information` when θ drew the trajectories.

    Parameters
    ----------
    draw : Draw
        What was drawn.
    theta : array (D,)
        Parameters.

    Returns
    -------
    array (D, D)

    References
    ----------
    Kakade, "A Natural Policy Gradient", NIPS 14 (2001), section 2.
    """
    trajectories, gamma = draw.trajectories, draw.mdp.gamma
    live = trajectories.mask
    weights = np.broadcast_to(gamma ** np.arange(trajectories.n_steps), live.shape)[live]
    visits = np.bincount(trajectories.states[live], weights=weights, minlength=draw.policy.n_states)
    return draw.policy.fisher_information(theta, visits / len(trajectories))


def exact_fisher(draw, theta):
    """Return F(θ) of the finite MDP that was drawn from, shape (D, D): `exact.fisher_information`.

    Parameters
    ----------
    draw : Draw
        Names the model and the policy.
    theta : array (D,)
        Parameters.

    Returns
    -------
    array (D, D)
    """
    return exact.fisher_information(draw.mdp, draw.policy, theta)


@dataclass(frozen=True)
class NaturalGradient:
    """θ ← θ + α_t (F + λI)⁻¹ g: the steepest ascent when distance is measured between policies.

    For a tabular softmax with the exact F and λ = 0 it multiplies every
    π(a|s) by exp(α A(s,a)), up to the normalisation: multiplicative weights.

    Parameters
    ----------
    rate : float or callable
        α > 0, or a schedule.
    damping : float
        λ >= 0. With 0, directions in which F is zero are left alone
        (F⁺g): right for the exact F, and risky for an estimated one, in which
        a rarely visited state looks almost like such a direction.
    fisher : callable
        ``fisher(draw, theta) -> (D, D)``: `estimated_fisher`, `exact_fisher`, or your own.

    References
    ----------
    Kakade, "A Natural Policy Gradient", NIPS 14 (2001), section 2.

    Examples
    --------
    >>> from reinforce_np import Draw, TabularSoftmax, examples, exact
    >>> mdp, policy, theta = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2)
    >>> optimiser = NaturalGradient(1.0, damping=0.0, fisher=exact_fisher)
    >>> g = exact.gradient(mdp, policy, theta)
    >>> optimiser.step(theta, g, optimiser.start(theta), Draw(None, mdp, policy))[0]
    array([-0.5,  0.5])
    """

    rate: Any
    damping: float = 1e-3
    fisher: Callable = estimated_fisher

    def __post_init__(self):
        object.__setattr__(self, "rate", step_size(self.rate))
        object.__setattr__(self, "damping", arguments.number("damping", self.damping, low=0.0))
        if not callable(self.fisher):
            raise TypeError(f"fisher={self.fisher!r} cannot be called; pass estimated_fisher or exact_fisher")

    def start(self, theta):
        """Return the state before the first step."""
        return Steps(0)

    def step(self, theta, gradient, state, draw=None):
        """Return θ + α_t (F + λI)⁻¹ g, and the state after it; F is that of `draw`."""
        if draw is None:
            raise ValueError(
                "draw=None: the natural gradient needs a model or trajectories to take F from; pass a Draw"
            )
        F = self.fisher(draw, theta)
        if self.damping:
            direction = np.linalg.solve(F + self.damping * np.eye(len(theta)), gradient)
        else:
            direction = smallest_solution(F, gradient)
        return theta + rate_at(self.rate, state.t) * direction, Steps(state.t + 1)


def clipped(gradient, limit):
    """Return g · min(1, c/‖g‖): the same direction, at most as long as c.

    The mean of a clipped estimate is not the clipped mean: *biased*.

    Parameters
    ----------
    gradient : array (D,)
        g.
    limit : float or None
        c > 0; None leaves g alone.

    Returns
    -------
    array (D,)

    References
    ----------
    Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural
    networks", ICML 2013, Algorithm 1.

    Examples
    --------
    >>> clipped(np.array([3.0, 4.0]), 1.0)
    array([0.6, 0.8])
    """
    if limit is None or norm(gradient) <= limit:
        return gradient
    unit = gradient / np.abs(gradient).max()  # so that the length itself may be beyond float64
    return unit * (limit / norm(unit))


def step_size(rate):
    """Return a step size as a float > 0, or the schedule as it is."""
    if callable(rate):
        return rate
    return arguments.number("rate", rate, low=0.0, open_low=True, rule="a number > 0, or a function of the step")


def share(name, value):
    """Return a number in [0, 1)."""
    value = arguments.number(name, value, low=0.0, high=1.0, rule="a number in [0, 1)")
    if value == 1.0:
        raise ValueError(f"{name}={value!r} is out of range; it must be a number in [0, 1)")
    return value
