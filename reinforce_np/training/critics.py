"""Value functions learned along the way: V(s) = φ(s)·w, for baselines and critics.

A critic is a frozen record with

    state = critic.start(draw)                a `critic.State`
    V     = critic.values(state, draw)        shape (S,): what the estimator is given
    state = critic.fit(state, draw)

The loop asks for V *before* it fits, so that a batch is never judged by
itself. That is not pedantry: a V fitted on the batch it is used on depends on the very
actions whose score it multiplies, so that E[V(s) ∇log π(a|s)] is no longer zero.
With one trajectory and one weight per state such a baseline equals the return it is
subtracted from, and nothing is left of the gradient. In a bandit with N trajectories the share 1/N
of the gradient is lost; with several states, another share in each.
``in_sample=True`` does it all the same: a *specimen*.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators.advantages import GAE
from reinforce_np.estimators.batch import Batch
from reinforce_np.estimators.returns import rewards_to_go

REFINED = 16  # times that a solution is
FADED = 1e-200  # of a visit: numbers as small as that soon have no digits


class Sums(NamedTuple):
    """Σ φφᵀ and Σ φ G over the visits so far: (F, F) and (F,), or (S,) and (S,) with one weight per state."""

    squares: np.ndarray
    products: np.ndarray


class Weights(NamedTuple):
    """w, shape (F,)."""

    w: np.ndarray


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """w = argmin Σ (G_t − φ(s_t)·w)² + ridge·‖w‖²: regression of the reward-to-go on the state.

    Parameters
    ----------
    features : array (S, F), record of `features`, or callable, optional
        φ(s); or φ of the observations of a black box; or your own ``features(draw) -> (S, F)``. One weight per
        state of the model if not given.
    ridge : float
        >= 0; in units of visits. With 0 a state never visited has V = 0.
    memory : float
        In [0, 1): what earlier batches count for beside the newest. They
        were drawn by older policies, whose values differ a little. A feature whose squares have faded to 1e-200 is
        forgotten; with one weight per state, V stays what it was.
    in_sample : bool
        Fit on a batch before using it on the same batch: *biased*.

    References
    ----------
    Sutton & Barto, *Reinforcement Learning: An Introduction*, 2nd ed.,
    section 9.2, equation (9.1), with the returns as targets.

    Examples
    --------
    >>> from reinforce_np import ModelSource, TabularSoftmax, examples
    >>> critic, source = LeastSquares(), ModelSource(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2))
    >>> draw = source.draw(np.zeros(2), 4, rng=0)
    >>> critic.values(critic.fit(critic.start(draw), draw), draw)
    array([0.5])
    """

    features: Any = None
    ridge: float = 0.0
    memory: float = 0.0
    in_sample: bool = False
    State = Sums

    def __post_init__(self):
        object.__setattr__(self, "features", _features(self.features))
        object.__setattr__(self, "ridge", arguments.number("ridge", self.ridge, low=0.0))
        memory = arguments.number("memory", self.memory, low=0.0, high=1.0, rule="a number in [0, 1)")
        if memory == 1.0:
            raise ValueError("memory=1.0 would never forget the first policy; pass a number in [0, 1)")
        object.__setattr__(self, "memory", memory)
        arguments.flag("in_sample", self.in_sample)

    def start(self, draw):
        """Return the sums over nothing."""
        if self.features is None:
            return Sums(np.zeros(per_state(draw)), np.zeros(per_state(draw)))
        n = features_of(self.features, draw).shape[1]
        return Sums(np.zeros((n, n)), np.zeros(n))

    def values(self, state, draw):
        """Return V(s) = φ(s)·w, shape (S,)."""
        if self.features is None:
            total = state.squares + self.ridge
            return np.divide(state.products, total, out=np.zeros_like(total), where=total > 0)
        gram = state.squares + self.ridge * np.eye(len(state.products))
        size = np.sqrt(np.where(gram.diagonal() > 0, gram.diagonal(), 1.0))
        scaled, wanted = (
            gram / size / size[:, None],
            state.products / size,
        )  # without units, so that nothing small is lost
        inverse, w = (
            np.linalg.pinv(scaled, rcond=len(size) * np.finfo(float).eps, hermitian=True),
            np.zeros_like(wanted),
        )
        for _ in range(REFINED):  # what was seen long ago is small, and each time comes out 16 digits better
            w += inverse @ (wanted - scaled @ w)
        return features_of(self.features, draw) @ (
            w / size
        )  # of features never seen, or that say the same, with the smallest w

    def fit(self, state, draw):
        """Return the sums with those of the draw added."""
        live = draw.trajectories.mask
        rewards = np.where(live, draw.trajectories.rewards, 0.0)
        states, G = draw.trajectories.states[live], rewards_to_go(rewards, draw.mdp.gamma)[live]
        visits = np.bincount(states, minlength=draw.mdp.n_states).astype(float)
        returns = np.bincount(states, weights=G, minlength=draw.mdp.n_states)
        if self.features is None:
            squares, products = visits, returns
        else:
            phi = features_of(self.features, draw)
            squares, products = (phi * visits[:, None]).T @ phi, phi.T @ returns
        older = Sums(self.memory * state.squares, self.memory * state.products)
        if self.features is None:  # a mean is the same at any size of its sums: they stay above nothing
            faded = (older.squares > 0) & (older.squares < FADED)
            older = Sums(*(np.where(faded, now, fading) for now, fading in zip(state, older, strict=True)))
        squares, products = older.squares + squares, older.products + products
        if self.features is not None:
            forgotten = squares.diagonal() < FADED
            squares[forgotten], squares[:, forgotten], products[forgotten] = 0.0, 0.0, 0.0
        return Sums(squares, products)


@dataclass(frozen=True, eq=False)
class TemporalDifference:
    """w ← w + α (1/N) Σ_{n,t} φ(s_t) Σ_l (γλ)ˡ δ_{t+l}, δ_t = r_t + γV(s_{t+1}) − V(s_t): offline TD(λ).

    One step per batch (`sweeps` of them), all with the V from before: the sum over l is the λ-return
    minus V(s_t), in which eligibility traces are written forwards. λ = 1
    moves towards the returns and asks no V for help; λ = 0 is TD(0).

    Parameters
    ----------
    rate : float
        α > 0, per trajectory.
    lam : float
        λ in [0, 1].
    features : array (S, F), record of `features`, or callable, optional
        φ(s); or φ of the observations of a black box; or your own ``features(draw) -> (S, F)``. One weight per
        state of the model if not given.
    sweeps : int
        Steps per batch, at least one.
    bootstrap_at_truncation : bool
        Whether V of the final state stands in for what the horizon cut off, as in `GAE`.
    in_sample : bool
        Fit on a batch before using it on the same batch: *biased*.

    References
    ----------
    Sutton & Barto, *Reinforcement Learning: An Introduction*, 2nd ed.,
    section 12.1, equations (12.3) and (12.4).

    Examples
    --------
    >>> from reinforce_np import ModelSource, TabularSoftmax, examples
    >>> source = ModelSource(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2))
    >>> critic, draw = TemporalDifference(rate=0.5), source.draw(np.zeros(2), 4, rng=0)
    >>> critic.values(critic.fit(critic.start(draw), draw), draw)
    array([0.25])
    """

    rate: float
    lam: float = 1.0
    features: Any = None
    sweeps: int = 1
    bootstrap_at_truncation: bool = False
    in_sample: bool = False
    State = Weights

    def __post_init__(self):
        object.__setattr__(self, "features", _features(self.features))
        object.__setattr__(self, "rate", arguments.number("rate", self.rate, low=0.0, open_low=True))
        object.__setattr__(self, "lam", arguments.number("lam", self.lam, low=0.0, high=1.0, rule="a number in [0, 1]"))
        object.__setattr__(self, "sweeps", arguments.integer("sweeps", self.sweeps, low=1))
        arguments.flag("bootstrap_at_truncation", self.bootstrap_at_truncation)
        arguments.flag("in_sample", self.in_sample)

    def start(self, draw):
        """Return w = 0."""
        n = per_state(draw) if self.features is None else features_of(self.features, draw).shape[1]
        return Weights(np.zeros(n))

    def values(self, state, draw):
        """Return V(s) = φ(s)·w, shape (S,)."""
        return state.w if self.features is None else features_of(self.features, draw) @ state.w

    def fit(self, state, draw):
        """Return w after a step (or several) on the draw."""
        trajectories = draw.trajectories
        rewards = np.where(trajectories.mask, trajectories.rewards, 0.0)
        labels = np.zeros(len(trajectories), dtype=np.intp)
        batch = Batch(trajectories, draw.mdp.gamma, draw.policy, np.zeros(0), rewards, labels)  # GAE looks at no θ
        states = trajectories.states[batch.mask]
        phi = None if self.features is None else features_of(self.features, draw)
        w = state.w
        for _ in range(self.sweeps):
            V = w if phi is None else phi @ w
            error = GAE(V, self.lam, self.bootstrap_at_truncation).credit(batch)[batch.mask]
            per_state = np.bincount(states, weights=error, minlength=draw.mdp.n_states)
            w = w + self.rate / len(trajectories) * (per_state if phi is None else phi.T @ per_state)
        return Weights(w)


def features_of(features, draw):
    """Return φ at every state of a draw, shape (S, F)."""
    if callable(features):
        seen = draw.observations if hasattr(features, "n_features") else draw
        if seen is None:
            raise ValueError(
                f"features={features!r} see observations, and a finite model has none; pass an array (S, F)"
            )
        features = arguments.real_array("features", features(seen), ndim=2)
    if len(features) != draw.mdp.n_states:
        raise ValueError(
            f"features have {len(features)} rows; they must have one for each of the {draw.mdp.n_states} states"
        )
    return features


def per_state(draw):
    """Return the number of states, refusing a black box, whose states never come again."""
    if draw.observations is not None:
        raise ValueError(
            "features=None: a black box never shows the same state twice; pass features of its observations"
        )
    return draw.mdp.n_states


def _features(features):
    if features is None or callable(features):
        return features
    features = arguments.real_array("features", features, ndim=2)
    features.setflags(write=False)
    return features
