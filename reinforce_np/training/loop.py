"""Sample, score, update, repeat.

    draw = source.draw(θ, N)
    ĝ    = Σₙ Σₜ w[n,t] ∇log π(a[n,t]|s[n,t])
    θ    ← optimiser.step(θ, ĝ)

Iteration i is a pure function of the state after iteration i − 1 and of child i of the
seed: so a run is the same bits every time, however often it was stopped and whoever drew the trajectories.
"""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from reinforce_np import arguments, exact
from reinforce_np.environments import Draw, ModelSource
from reinforce_np.estimators import Estimator, OnPolicy
from reinforce_np.exact.callables import as_estimate, bound, called, n_required, name_of
from reinforce_np.exact.record import norm
from reinforce_np.problem import Problem
from reinforce_np.sampling import seed_sequence
from reinforce_np.training import checkpoints
from reinforce_np.training.checkpoints import State
from reinforce_np.training.fingerprints import fingerprint, words
from reinforce_np.training.history import History, Recorder
from reinforce_np.training.optimisers import clipped
from reinforce_np.training.updates import Update, divergence, minibatches

DRAWING, SHUFFLING = 0, 1  # which child of an iteration's seed
START = 2**32 - 1  # which child of the run's seed a random first theta comes from


@dataclass(frozen=True)
class Evaluation:
    """What is computed exactly along the way, where the model is finite.

    Parameters
    ----------
    every : int
        Iterations between two evaluations of J(θ) and ∇J(θ), the start included; 0 for none.
    moments : bool
        Also the exact signal, noise and bias of the estimate of a step; see `exact.moments` for what that costs.
    keep_theta : bool
        Also keep θ in the history.

    Examples
    --------
    >>> Evaluation(every=10)
    Evaluation(every=10, moments=False, keep_theta=False)
    """

    every: int = 1
    moments: bool = False
    keep_theta: bool = False

    def __post_init__(self):
        object.__setattr__(self, "every", arguments.integer("every", self.every))
        arguments.flag("moments", self.moments)
        arguments.flag("keep_theta", self.keep_theta)


class Training(NamedTuple):
    """What `train` returns.

    Parameters
    ----------
    theta : array (D,)
        Parameters after the last iteration.
    history : History
        How they came about.
    state : State
        With the states of optimiser and critic.
    seed : numpy.random.SeedSequence
        Where all random numbers came from.
    """

    theta: np.ndarray
    history: History
    state: State
    seed: Any


def train(
    source,
    estimator,
    optimiser,
    *,
    iterations,
    batch_size,
    theta=None,
    update=Update(),
    critic=None,
    evaluation=Evaluation(),
    checkpoint=None,
    executor=None,
    watch=None,
    rng=None,
):
    """θ ← θ + step(ĝ(θ)), again and again: sample, score, update, repeat.

    Parameters
    ----------
    source : (FiniteMDP, policy), ModelSource, EnvironmentSource, RolloutSource, or anything with a `draw`
        Where trajectories come from.
    estimator : Estimator or callable
        What makes a gradient of them; or your own
        ``f(trajectories, theta) -> (D,)`` or ``f(trajectories, theta, problem)``, such as a loss in `numpy_loss`,
        `torch_loss` or `jax_loss`; the `Problem` says model, policy, θ, shape of the batch and the behaviour of the
        source, and nothing of a reference or a penalty: bind those, with `functools.partial`. With a `critic`, a function from V
        to an Estimator, such as `algorithms.reinforce_with_baseline`.
    optimiser : record of `training.optimisers`
        What makes a step of the gradient.
    iterations : int
        Number of batches (times `accumulate`), those of a resumed checkpoint included.
    batch_size : int
        Trajectories in each.
    theta : array (D,), optional
        Where to start; if not given, what the policy says, or zeros.
    update : Update
        Epochs, minibatches, clipping.
    critic : record of `training.critics`, optional
        Learns V along the way.
    evaluation : Evaluation
        What is computed exactly along the way; nothing for a source that is not finite.
    checkpoint : Checkpoint, optional
        Where the run is saved, and whether it goes on from there.
    executor : concurrent.futures.Executor, optional
        Draws the trajectories; the result is the same, bit for bit.
    watch : callable, optional
        ``watch(iteration, row)`` after every iteration, with the row of the history as a dictionary.
    rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
        Seed; None takes that of the checkpoint that is resumed.

    Returns
    -------
    Training
        theta, history, state, seed.

    Raises
    ------
    FileFormatError
        When the checkpoint cannot be read, or is that of another run.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> from reinforce_np.training import SGD, train
    >>> problem = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> run = train(problem, algorithms.reinforce(), SGD(1.0), iterations=50, batch_size=20, rng=0)
    >>> run.history.objective[[0, -1]].round(2)
    array([0.5 , 0.99])
    """
    run = _Run(as_source(source), estimator, optimiser, _size(source, batch_size), update, critic, evaluation)
    iterations = arguments.integer("iterations", iterations)
    seed = None if rng is None else seed_sequence(rng)
    n_parameters = run.n_parameters(theta)
    identity = None if checkpoint is None else run.identity(theta)
    if checkpoint is not None and checkpoint.resume and checkpoints.exists(checkpoint.path):
        first = optimiser.start(np.zeros(n_parameters))
        state, history, seed = checkpoints.read(
            checkpoint.path, identity, seed, n_parameters, first, getattr(critic, "State", None)
        )
        recorder = Recorder(history.theta.shape[1], history)
    else:
        if checkpoint is not None:
            checkpoints.refuse_existing(checkpoint.path)
        seed = seed_sequence(None) if seed is None else seed
        theta = run.first_theta(theta, seed)
        state = State(0, 0, theta, optimiser.start(theta), None)
        recorder = Recorder(n_parameters if evaluation.keep_theta and run.finite else 0)
    first, saved = state.iteration, time.monotonic()

    def save():
        history = recorder.history(state.iteration, state.evaluations)
        checkpoints.write(checkpoint.path, identity, seed, state, history)

    try:
        if state.iteration == 0 and state.evaluations == 0:
            state = run.evaluated(state, recorder)
        while state.iteration < iterations:
            state, row = run.advance(state, recorder, seed, executor)
            if watch is not None:
                watch(state.iteration, row)
            if checkpoint is not None and time.monotonic() - saved >= checkpoint.seconds:
                save()
                saved = time.monotonic()
    except BaseException as error:
        if checkpoint is not None and (state.iteration > first or isinstance(error, KeyboardInterrupt)):
            save()
        raise
    if checkpoint is not None:
        save()
    return Training(state.theta, recorder.history(state.iteration, state.evaluations), state, seed)


@dataclass(frozen=True, eq=False)
class _Run:
    """What stays the same from one iteration to the next."""

    source: Any
    estimator: Any
    optimiser: Any
    batch_size: int
    update: Update
    critic: Any
    evaluation: Evaluation

    def __post_init__(self):
        for name, methods in (("optimiser", ("start", "step")), ("critic", ("start", "values", "fit"))):
            record = getattr(self, name)
            fits = all(hasattr(record, method) for method in methods) and not isinstance(record, type)
            if not fits and not (name == "critic" and record is None):
                raise TypeError(
                    f"{name}={record!r} is no {name}; pass a record of training.{name}s, such as {EXAMPLES[name]}"
                )
        for name, kind in (("update", Update), ("evaluation", Evaluation)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name}={getattr(self, name)!r} is no {kind.__name__}; pass {kind.__name__}(...)")
        if not callable(self.estimator) and not isinstance(self.estimator, Estimator):
            raise TypeError(
                f"estimator={self.estimator!r} is no Estimator and cannot be called; pass one such as algorithms.reinforce()"
            )
        _check_arguments(self.estimator, self.critic)
        if self.critic is not None and isinstance(self.estimator, Estimator):
            raise TypeError(
                "critic=... learns V, so estimator must be a function from V to an Estimator, such as "
                "algorithms.reinforce_with_baseline or lambda V: Estimator(GAE(V, 0.95)); an Estimator was passed"
            )
        if self.evaluation.moments and getattr(self.critic, "in_sample", False):
            raise ValueError(
                "in_sample=True makes V depend on the batch, and evaluation.moments holds for a V that does not: leave one of "
                "them out, or judge a function that fits and estimates"
            )
        if self.evaluation.moments and self.critic is not None and self.update.accumulate > 1:
            raise ValueError(
                f"accumulate={self.update.accumulate}: the critic learns after each of the batches, and evaluation.moments holds for "
                "one V: leave one of them out, or draw one batch that is larger"
            )
        if self.evaluation.moments and self.critic is None and not isinstance(self.estimator, Estimator):
            raise TypeError(
                "evaluation.moments needs an Estimator, whose moments are known; your own function has none here"
            )

    @property
    def finite(self):
        """Whether the source is known exactly."""
        return isinstance(self.source, ModelSource)

    def n_parameters(self, theta):
        """Return D."""
        policy: Any = getattr(self.source, "policy", None)
        if hasattr(policy, "n_parameters"):
            return policy.n_parameters
        if theta is None:
            raise ValueError("theta=None: this source does not say how many parameters its policy has; pass theta")
        return len(theta)

    def first_theta(self, theta, seed):
        """Return where the run starts."""
        policy: Any = getattr(self.source, "policy", None)
        if theta is None:
            child = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, START))
            start = getattr(policy, "initial_theta", None)
            theta = np.zeros(self.n_parameters(theta)) if start is None else start(rng=child)
        return arguments.real_array("theta", theta, ndim=1) if policy is None else policy.real_theta(theta)

    def identity(self, theta):
        """Return what defines the run, {name: [fingerprint, words]}."""
        source = vars(self.source) if self.finite else {"source": self.source}
        parts = {**source, "estimator": self.estimator, "optimiser": self.optimiser, "critic": self.critic,
                 "update": self.update, "batch_size": self.batch_size, "first theta": None if theta is None else np.asarray(theta, dtype=float),
                 "evaluation": dataclasses.replace(self.evaluation, every=1)}  # fmt: skip
        return {name: [fingerprint(part), words(part)] for name, part in parts.items()}

    def advance(self, state, recorder, seed, executor):
        """Return the state after one more iteration, and its row of the history."""
        i = state.iteration
        draws, gradients, critic = [], [], state.critic
        row = {"iteration": i + 1, "trajectories": 0, "steps": 0}
        for j in range(self.update.accumulate):
            child = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, i, DRAWING, j))
            draw = self.source.draw(state.theta, self.batch_size, rng=child, executor=executor)
            estimate, critic = self._with_critic(critic, draw)
            draws.append(_summary(draw))
            if self.update.accumulate > 1:
                gradients.append(estimate(draw, state.theta))
        if self.update.accumulate > 1:
            estimate = _constant(np.mean(gradients, axis=0))
        shuffle = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, i, SHUFFLING))
        theta, optimiser, steps = self._climb(state, draw, estimate, shuffle)
        before = {name: int(recorder.rows[name][i - 1]) if i else 0 for name in ("trajectories", "steps")}
        summed = {name: np.sum([d[name] for d in draws]) for name in before}
        means = {
            name: float(np.mean([d[name] for d in draws])) for name in ("mean_return", "discounted_return", "length")
        }
        row |= {name: before[name] + int(summed[name]) for name in before} | means | steps
        row["kl"] = divergence(draw, theta)
        recorder.write(i, row)
        state = State(i + 1, state.evaluations, theta, optimiser, critic)
        if self.finite and self.evaluation.every and state.iteration % self.evaluation.every == 0:
            state = self.evaluated(state, recorder)
        return state, row

    def _with_critic(self, state, draw):
        """Return the estimate as a function (draw, θ) → (D,), and the critic's state after the draw."""
        if self.critic is None:
            return self._estimate(self.estimator), None
        state = self.critic.start(draw) if state is None else state
        fitted = self.critic.fit(state, draw)
        V = self.critic.values(fitted if getattr(self.critic, "in_sample", False) else state, draw)
        return self._estimate(self._made(V)), fitted

    def _made(self, V):
        estimator = self.estimator(V)
        if not isinstance(estimator, Estimator):
            raise TypeError(f"estimator(V) returned {words(estimator)}; with a critic it must make an Estimator of V")
        return estimator

    def _estimate(self, estimator):
        if not isinstance(estimator, Estimator):
            return lambda draw, theta: _checked(
                called(self._of_draw(estimator, draw, theta), draw.trajectories, theta), theta, estimator
            )
        if self.update.epochs * self.update.minibatches > 1 and isinstance(estimator.ratio, OnPolicy):
            raise ValueError(
                f"epochs={self.update.epochs}, minibatches={self.update.minibatches}: after the first step the batch is data of an "
                "older policy, which ratio=OnPolicy() ignores; use algorithms.ppo, or ratio=TokenRatio() or ClippedRatio(...)"
            )
        return lambda draw, theta: _checked(
            estimator.gradient(draw.trajectories, draw.mdp, draw.policy, theta), theta, estimator
        )

    def _of_draw(self, function, draw, theta):
        """Return a function of (trajectories, θ), given one that may ask for the problem, too."""
        if n_required(function) != 3:
            return function
        if draw.policy is None:
            raise TypeError(
                f"estimator={name_of(function)} wants the problem, whose policy this source does not say; pass f(trajectories, theta)"
            )
        n, prompts = len(draw.trajectories), len(np.unique(draw.trajectories.groups))
        group_size, prompts = (n // prompts, prompts) if prompts and n % prompts == 0 else (1, max(n, 1))
        behaviour = getattr(self.source, "behaviour", None)
        shape: dict[str, Any] = {"prompts": prompts, "group_size": group_size, "behaviour": behaviour}
        return bound(function, Problem(draw.mdp, draw.policy, theta, **shape))

    def _climb(self, state, draw, estimate, shuffle):
        """Return θ and the optimiser's state after all steps on a batch, and what is known of them."""
        theta, optimiser = state.theta, state.optimiser
        first, steps = 0.0, 0
        rng = np.random.Generator(np.random.PCG64(shuffle))
        for _ in range(self.update.epochs):
            for part in minibatches(draw.trajectories, self.update.minibatches, rng):
                if steps and self.update.target_kl is not None and divergence(draw, theta) > self.update.target_kl:
                    return theta, optimiser, {"gradient_norm": first, "updates": steps}
                here = dataclasses.replace(draw, trajectories=part)
                gradient = estimate(here, theta)
                first, gradient = first if steps else norm(gradient), clipped(gradient, self.update.clip_norm)
                with np.errstate(over="ignore", invalid="ignore"):  # said below
                    theta, optimiser = self.optimiser.step(theta, gradient, optimiser, here)
                if np.isnan(theta).any() or np.isposinf(theta).any() or not _all_finite(optimiser):
                    raise ValueError(
                        f"theta or the state of the optimiser left float64 after {state.iteration} iterations and {steps} steps on the batch (gradient of length "
                        f"{first:.3g}); use a smaller rate, or clip_norm"
                    )
                steps += 1
        return theta, optimiser, {"gradient_norm": first, "updates": steps}

    def evaluated(self, state, recorder):
        """Return the state with one more evaluation, which is written."""
        if not self.finite or not self.evaluation.every:
            return state
        problem = self.source.mdp, self.source.policy, state.theta
        gradient = exact.gradient(*problem)
        length = norm(gradient)
        row = {
            "evaluated": state.iteration,
            "objective": float(exact.objective(*problem)),
            "exact_gradient_norm": length,
        }
        if self.evaluation.moments:
            moments = self._moments(state)
            bias = norm(moments.mean - gradient)
            row |= {
                "signal": float(moments.mean @ moments.mean),
                "noise": float(moments.total_variance) / self.update.accumulate,
            }
            row["relative_bias"] = bias / length if length else np.nan
        if self.evaluation.keep_theta:
            row["theta"] = state.theta
        recorder.write(state.evaluations, row)
        return State(state.iteration, state.evaluations + 1, state.theta, state.optimiser, state.critic)

    def _moments(self, state):
        source, estimator = self.source, self.estimator
        if self.critic is not None:
            nothing: Any = None
            model = Draw(nothing, source.mdp, source.policy)
            critic = self.critic.start(model) if state.critic is None else state.critic
            estimator = self._made(self.critic.values(critic, model))
        groups = self.batch_size // source.group_size
        prompts = -(-groups // self.update.minibatches)  # of the first part, which is the largest
        return exact.moments(
            estimator, source.mdp, source.policy, state.theta, prompts=prompts,
            group_size=source.group_size, behaviour=source.behaviour,
        )  # fmt: skip


EXAMPLES = {"optimiser": "Adam(0.1)", "critic": "LeastSquares()"}


def _check_arguments(estimator, critic):
    """Refuse a function that makes an estimator where an estimator is wanted, and the other way round."""
    if isinstance(estimator, Estimator):
        return
    name, n = name_of(estimator), n_required(estimator)
    wanted = f"takes {n} arguments; "
    if critic is not None and n != 1:
        wanted += "with a critic it is a function of V, such as algorithms.reinforce_with_baseline"
    elif critic is None and n == 0:
        wanted += f"call it, {name}(), if it makes an estimator"
    elif critic is None and n == 1:
        wanted += (
            f"if that is V, pass a critic that learns it, such as critic={EXAMPLES['critic']}, or call it first; "
            "a function of yours is f(trajectories, theta)"
        )
    elif critic is None and n not in (2, 3):
        wanted += "pass a function f(trajectories, theta) of two, or f(trajectories, theta, problem) of three"
    else:
        return
    raise TypeError(f"estimator={name} {wanted}")


def _summary(draw):
    trajectories, gamma = draw.trajectories, draw.mdp.gamma
    rewards = np.where(trajectories.mask, trajectories.rewards, 0.0)
    return {
        "trajectories": len(trajectories),
        "steps": int(trajectories.lengths.sum()),
        "mean_return": rewards.sum(axis=1).mean(),
        "discounted_return": (rewards @ gamma ** np.arange(trajectories.n_steps)).mean(),
        "length": trajectories.lengths.mean(),
    }


def _all_finite(state):
    """Return whether the arrays of an optimiser's state are finite: squares overflow first, and stand still then."""
    arrays = state if isinstance(state, tuple) else ()
    return all(arguments.all_finite(x) for x in arrays if isinstance(x, np.ndarray) and x.dtype.kind == "f")


def _constant(gradient):
    return lambda draw, theta: gradient


def _checked(gradient, theta, estimator):
    """Return an estimate, refusing what is no finite vector (D,)."""
    if isinstance(gradient, Estimator):
        raise TypeError(
            f"estimator={words(estimator)} returned an Estimator, not a gradient; call it first, or pass a critic"
        )
    gradient = as_estimate(gradient, theta, f"estimator={words(estimator)}").astype(np.float64)
    wrong = ~np.isfinite(gradient)
    if wrong.any():
        d = arguments.first_index(wrong)
        raise ValueError(f"estimator={words(estimator)} returned {gradient[d]} for component {d[0]}; it must be finite")
    return gradient


def as_source(source):
    """Return a source: the one given, or that of a pair (mdp, policy)."""
    if isinstance(source, tuple) and len(source) == 2:
        return ModelSource(*source)
    if not hasattr(source, "draw") or isinstance(source, type):
        raise TypeError(f"source={source!r} draws nothing; pass (mdp, policy), a ModelSource, or an EnvironmentSource")
    return source


def _size(source, batch_size):
    batch_size = arguments.integer("batch_size", batch_size, low=1)
    group_size = getattr(source, "group_size", 1)
    if batch_size % group_size:
        raise ValueError(f"batch_size={batch_size} is not a multiple of group_size={group_size}; draw whole groups")
    return batch_size
