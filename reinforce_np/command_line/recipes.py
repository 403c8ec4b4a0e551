"""From words to what `train` takes: algorithms, optimisers, critics, and which of them go together."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reinforce_np.estimators import Estimator, PerToken, RewardToGo, algorithms
from reinforce_np.training import (
    SGD,
    Adam,
    Exponential,
    InverseTime,
    LeastSquares,
    Linear,
    Momentum,
    NaturalGradient,
    RMSProp,
    TemporalDifference,
    Update,
    exact_fisher,
)

DEFAULT_RATE = 0.1
BATCH_SIZE = 100
GROUP_SIZE = 8
CRITIC_RATE = 0.1
MEMORY = 0.5


@dataclass(frozen=True)
class Recipe:
    """An algorithm as a command names it.

    Parameters
    ----------
    make : callable
        ``make(chosen)``, chosen the values of `options`: an Estimator, or with a critic a function from V to one.
    options : tuple of str
        The options that it reads.
    critic, groups, reuses : bool
        Whether it learns V; compares trajectories of a group; may go through a batch several times.
    about : str
        What it is, in a few words.
    """

    make: Callable
    options: tuple
    critic: bool
    groups: bool
    reuses: bool
    about: str


def _of_V(algorithm, **fixed):
    return OfV(algorithm, tuple(sorted(fixed.items())))


@dataclass(frozen=True)
class OfV:
    """A function from V to an Estimator, that can be compared and sent to other processes."""

    algorithm: Callable
    fixed: tuple

    def __repr__(self):
        return f"{self.algorithm.__name__.strip('_')}(V, {', '.join(f'{name}={value}' for name, value in self.fixed)})"

    def __call__(self, V):
        """Return the Estimator with V as its baseline or critic."""
        return self.algorithm(V, **dict(self.fixed))


def per_step(V, *, discounted_score):
    """REINFORCE with baseline, the mean over steps in the place of the mean over episodes."""
    return Estimator(RewardToGo(V), normaliser=PerToken(), discounted_score=discounted_score)


ALGORITHMS = {
    "reinforce": Recipe(
        lambda o: Estimator(RewardToGo(), discounted_score=o["discounted_score"]),
        ("discounted_score",), False, False, False, "score times reward-to-go",
    ),
    "reinforce-total": Recipe(
        lambda o: algorithms.reinforce(reward_to_go=False), (), False, False, False, "score times the whole return",
    ),
    "reinforce-baseline": Recipe(
        lambda o: _of_V(_with_baseline, discounted_score=o["discounted_score"]),
        ("discounted_score",), True, False, False, "score times (reward-to-go minus a learned V)",
    ),
    "actor-critic": Recipe(
        lambda o: _of_V(algorithms.actor_critic, discounted_score=o["discounted_score"]),
        ("discounted_score",), True, False, False, "score times the temporal difference of a learned V",
    ),
    "a2c": Recipe(
        lambda o: _of_V(algorithms.a2c, lam=o["lam"], entropy=o["entropy"], discounted_score=o["discounted_score"]),
        ("lam", "entropy", "discounted_score"), True, False, False, "generalised advantages, an entropy bonus",
    ),
    "ppo": Recipe(
        lambda o: _of_V(
            algorithms.ppo, lam=o["lam"], epsilon=o["clip"], entropy=o["entropy"], discounted_score=o["discounted_score"],
        ),
        ("lam", "clip", "entropy", "discounted_score"), True, False, True, "A2C, the batch gone through several times, the ratio clipped",
    ),
    "rloo": Recipe(lambda o: algorithms.rloo(), (), False, True, False, "the mean of the others in the group as baseline"),
    "grpo": Recipe(
        lambda o: algorithms.grpo(epsilon=o["clip"], eps=1e-8), ("clip",), False, True, True,
        "the group's mean and deviation, the ratio clipped",
    ),
    "dr-grpo": Recipe(
        lambda o: algorithms.dr_grpo(epsilon=o["clip"]), ("clip",), False, True, True, "GRPO without deviation and lengths",
    ),
    "dapo": Recipe(lambda o: algorithms.dapo(eps=1e-8), (), False, True, True, "GRPO, the mean over all steps"),
    "gspo": Recipe(lambda o: algorithms.gspo(eps=1e-8), (), False, True, True, "GRPO, one ratio per episode"),
    "reinforce++": Recipe(
        lambda o: algorithms.reinforce_plus_plus(epsilon=o["clip"]), ("clip",), False, False, True,
        "reward-to-go standardised over the batch, the ratio clipped",
    ),
}  # fmt: skip

DEFAULTS = {"lam": 0.95, "clip": 0.2, "entropy": 0.0, "discounted_score": True}
OPTION_NAMES = {"lam": "--lam", "clip": "--clip", "entropy": "--entropy", "discounted_score": "--score"}


def _with_baseline(V, *, discounted_score):
    return Estimator(RewardToGo(V), discounted_score=discounted_score)


def estimator(options, recipe):
    """Return what the words say, refusing options that the algorithm does not read.

    Parameters
    ----------
    options : argparse.Namespace
        What was typed; None where nothing was.
    recipe : Recipe
        Of the algorithm.

    Returns
    -------
    Estimator or callable
    """
    if options.score is not None:
        options.discounted_score = options.score == "discounted"
    chosen = {}
    for name, default in DEFAULTS.items():
        given = getattr(options, name)
        if given is not None and name not in recipe.options:
            raise ValueError(
                f"{OPTION_NAMES[name]} is not read by {options.algorithm}; use it with {_who(functools.partial(_reads, name))}"
            )
        chosen[name] = default if given is None else given
    return recipe.make(chosen)


def group_size(options, recipe):
    """Return the number of trajectories that share their first state."""
    if not recipe.groups:
        if options.group_size is not None:
            raise ValueError(
                f"--group-size {options.group_size}: {options.algorithm} compares no trajectories; use it with {_who(lambda r: r.groups)}"
            )
        return 1
    size = GROUP_SIZE if options.group_size is None else options.group_size
    if size < 2:
        raise ValueError(
            f"--group-size {size}: {options.algorithm} needs others to compare with; pass at least 2, or use reinforce"
        )
    return size


def batch_size(options, group_size):
    """Return the number of trajectories in a batch: whole groups."""
    if options.batch_size is None:
        return -(-BATCH_SIZE // group_size) * group_size
    if options.batch_size % group_size:
        raise ValueError(
            f"--batch-size {options.batch_size} is not a multiple of the group size {group_size}; pass --group-size too"
        )
    return options.batch_size


def update(options, recipe):
    """Return what is done with a batch."""
    several = 4 if recipe.reuses and options.algorithm == "ppo" else 1
    epochs = several if options.epochs is None else options.epochs
    minibatches = several if options.minibatches is None else options.minibatches
    if options.accumulate > 1:  # nothing is kept to be gone through again
        for name in ("epochs", "minibatches"):
            if getattr(options, name) not in (None, 1):
                raise ValueError(
                    f"--accumulate {options.accumulate} keeps no batch to go through again; leave --{name} out"
                )
        epochs = minibatches = 1
    if epochs * minibatches > 1 and not recipe.reuses:
        name = "epochs" if epochs > 1 else "minibatches"
        raise ValueError(
            f"--{name} {getattr(options, name)}: {options.algorithm} has no ratio, so that after one step its batch is data of another "
            f"policy; use {_who(lambda r: r.reuses)}"
        )
    if options.target_kl is not None and epochs * minibatches == 1:
        raise ValueError(
            "--target-kl stops a batch that is gone through several times; pass --epochs too, with an algorithm such as ppo"
        )
    return Update(epochs, minibatches, options.accumulate, options.target_kl, options.clip_norm)


def optimiser(options, finite):
    """Return the optimiser."""
    name = options.optimiser
    own = {"momentum": ("momentum",), "natural": ("damping", "fisher")}
    for other, names in own.items():
        for option in names:
            if getattr(options, option) is not None and name != other:
                raise ValueError(f"--{option} is not read by --optimiser {name}; use --optimiser {other}")
    rate = schedule(options)
    if name == "sgd":
        return SGD(rate)
    if name == "momentum":
        return Momentum(rate, 0.9 if options.momentum is None else options.momentum)
    if name == "rmsprop":
        return RMSProp(rate)
    if name == "adam":
        return Adam(rate)
    damping = 1e-3 if options.damping is None else options.damping
    if options.fisher == "exact":
        if not finite:
            raise ValueError("--fisher exact needs a finite model; pass --mdp, or --fisher estimated")
        return NaturalGradient(rate, damping, exact_fisher)
    return NaturalGradient(rate, damping)


def schedule(options):
    """Return the step size, a number or a schedule."""
    kind, _, length = options.schedule.partition(":")
    if kind == "constant" and not length:
        return options.rate
    makers: dict[str, Any] = {
        "inverse": InverseTime,
        "exponential": Exponential,
        "linear": lambda rate, n: Linear(rate, 0.0, n),
    }
    if kind not in makers or not re.fullmatch("[0-9]{1,16}", length) or not 0 < int(length) < 10**15:
        raise ValueError(
            f"--schedule {options.schedule}: pass constant, or inverse:STEPS, exponential:STEPS or linear:STEPS"
        )
    return makers[kind](options.rate, int(length))


def critic(options, recipe, features):
    """Return the critic, or None for an algorithm without one."""
    given = [name for name in ("critic", "critic_rate", "memory") if getattr(options, name) is not None]
    if options.in_sample:
        given.append("in_sample")
    if not recipe.critic:
        if given:
            name = given[0].replace("_", "-")
            raise ValueError(
                f"--{name} is not read by {options.algorithm}, which learns no V; use it with {_who(lambda r: r.critic)}"
            )
        return None
    if options.critic == "td":
        if options.memory is not None:
            raise ValueError("--memory is of --critic least-squares; TD forgets by its --critic-rate")
        rate = CRITIC_RATE if options.critic_rate is None else options.critic_rate
        return TemporalDifference(rate, features=features, in_sample=options.in_sample)
    if options.critic_rate is not None:
        raise ValueError("--critic-rate is of --critic td; least squares have no step size")
    ridge = 0.0 if features is None else 1e-3
    memory = MEMORY if options.memory is None else options.memory
    return LeastSquares(features, ridge, memory, options.in_sample)


def _reads(name, recipe):
    return name in recipe.options


def _who(reads):
    """Return the names of the algorithms of which `reads` is true."""
    names = [name for name, recipe in ALGORITHMS.items() if reads(recipe)]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
