"""Any sampler as a source of trajectories: verifiers, token models, simulators without ``step``.

You write the loop, and call ``act`` wherever an action is needed; it remembers
what was seen and done. You return what was earned.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.environments.draws import draw_blocks, in_episodes
from reinforce_np.environments.stepped import SEEDS, as_rows, check_policy


@dataclass(frozen=True, eq=False)
class Truncated:
    """What a rollout returns when it was cut, rather than over.

    Parameters
    ----------
    rewards : float or sequence of float
        As a rollout returns them.
    observation : array (d,)
        What was seen after the last action: where a critic bootstraps.

    Examples
    --------
    >>> Truncated([0.0, 1.0], observation=[3.0]).rewards
    [0.0, 1.0]
    """

    rewards: Any
    observation: Any


@dataclass(frozen=True, eq=False)
class RolloutSource:
    """Episodes of a sampler: ``rollout(act, rng) -> rewards``.

    `rollout` calls ``act(observation)`` for each action and returns the
    rewards: one for each action in order, or a single number, paid for the
    last one (a verifier's verdict). It ends there; one that was only cut returns
    `Truncated`. Its own randomness (the prompt, the noise) comes from `rng`;
    the actions are drawn with another generator.

    Parameters
    ----------
    rollout : callable
        ``rollout(act, rng)``; or, when `batched`, ``rollout(act, rngs)``
        with a generator for each episode: then ``act(observations, which)``
        takes rows (B, d) and says which episodes they belong to (B,), all if
        left out, and returns (B,) actions; and the result is
        a list with the rewards of each episode.
    policy : FeatureSoftmax, NeuralSoftmax or GaussianPolicy
        Acts on the observations, as flat arrays of numbers.
    gamma : float
        Discount per step.
    group_size : int
        Consecutive episodes that get equal generators, and so the same
        prompt (and the same noise): the groups of RLOO and GRPO.
    batched : bool
        Whether `rollout` runs many episodes at once.
    block_size : int
        Episodes that are collected together by one worker. The draw depends on it.

    Examples
    --------
    Write a string of three bits that repeats the prompt; a verifier says 1 or 0:

    >>> from reinforce_np import FeatureSoftmax, algorithms, features
    >>> def rollout(act, rng):
    ...     prompt = rng.integers(2)
    ...     answer = [act([prompt, t]) for t in range(3)]
    ...     return float(answer == [prompt] * 3)
    >>> policy = FeatureSoftmax(features.Polynomial(low=[0, 0], high=[1, 2], order=1, total=1), n_actions=2)
    >>> source = RolloutSource(rollout, policy, gamma=1.0, group_size=4)
    >>> draw = source.draw(policy.initial_theta(), 400, rng=0)
    >>> draw.trajectories
    Trajectories(n=400, n_steps=3)
    >>> rloo = algorithms.rloo().gradient(draw.trajectories, draw.mdp, draw.policy, policy.initial_theta())
    >>> rloo.reshape(3, 2)[1].round(1) + 0.0   # to answer 1 rather than 0 when the prompt is 1
    array([-0.2,  0.2])
    """

    rollout: Callable
    policy: Any
    _: KW_ONLY
    gamma: float
    group_size: int = 1
    batched: bool = False
    block_size: int = 256

    def __post_init__(self):
        if not callable(self.rollout):
            raise TypeError(f"rollout={self.rollout!r} is not a function; pass one (act, rng) -> rewards")
        check_policy(self.policy)
        object.__setattr__(
            self, "gamma", arguments.number("gamma", self.gamma, low=0.0, high=1.0, rule="a discount in [0, 1]")
        )
        arguments.flag("batched", self.batched)
        for name in ("group_size", "block_size"):
            object.__setattr__(self, name, arguments.integer(name, getattr(self, name), low=1))
        object.__setattr__(self, "block_size", max(self.block_size // self.group_size, 1) * self.group_size)

    def draw(self, theta, n, *, rng=None, executor=None):
        """Return a `Draw` of `n` episodes; the arguments are those of `EnvironmentSource.draw`."""
        return draw_blocks(collect_rollouts, self, theta, n, self.block_size, rng=rng, executor=executor)


def collect_rollouts(source, theta, n, seed):
    """Return the `Episodes` of one block: a pure function of its arguments."""
    rng = np.random.Generator(np.random.PCG64(seed))
    seeds = np.repeat(rng.integers(SEEDS, size=n // source.group_size), source.group_size).tolist()
    rngs = [np.random.Generator(np.random.PCG64(s)) for s in seeds]
    record = Record(source.policy, theta, n, rng)
    if source.batched:
        outcomes = list(source.rollout(record.act, rngs))
        if len(outcomes) != n:
            raise ValueError(f"rollout returned {len(outcomes)} outcomes for {n} episodes; return one for each")
    else:
        outcomes = [source.rollout(record.acting_for(i), rng) for i, rng in enumerate(rngs)]
    return record.episodes(outcomes)


class Record:
    """What was seen and done in a block of rollouts, as it happens."""

    def __init__(self, policy, theta, n, rng):
        self.policy, self.actor, self.n, self.rng = policy, policy.actor(theta), n, rng
        self.steps = []

    def act(self, observations, which=None):
        """Draw actions for rows of observations, and remember them."""
        which = np.arange(self.n) if which is None else arguments.integer_array("which", which, low=0, high=self.n)
        observations = as_rows(observations, len(which))
        actions, log_probabilities = self.actor(observations, self.rng)
        self.steps.append((which, observations, actions, log_probabilities))
        return self.policy.for_environment(actions)

    def acting_for(self, episode):
        """Return the function of one observation that draws one action."""

        def act(observation):
            return self.act([observation], [episode])[0]

        return act

    def episodes(self, outcomes):
        """Return the `Episodes`, each with the rewards that its rollout returned."""
        if not self.steps:
            raise ValueError("rollout never called act; call it for every action")
        which = np.concatenate([step[0] for step in self.steps])
        lengths = np.bincount(which, minlength=self.n)
        if not lengths.all():
            raise ValueError(f"rollout {int(np.argmin(lengths))} never called act; call it for every action")
        rewards = np.zeros(len(which))
        order = np.argsort(which, kind="stable")
        cut = [isinstance(outcome, Truncated) for outcome in outcomes]
        paid = [outcome.rewards if c else outcome for outcome, c in zip(outcomes, cut)]
        rewards[order] = np.concatenate([per_step(*each) for each in zip(paid, lengths, range(self.n))])
        last = dict(zip(which.tolist(), np.concatenate([step[1] for step in self.steps])))  # the last one of each
        finals = [
            (i, as_rows(outcomes[i].observation, 1)[0] if cut[i] else last[i], not cut[i], cut[i])
            for i in range(self.n)
        ]
        parts = np.split(rewards, np.cumsum([len(step[0]) for step in self.steps])[:-1])
        steps = [(i, o, a, r, lp) for (i, o, a, lp), r in zip(self.steps, parts)]
        return in_episodes(steps, finals)


def per_step(rewards, length, episode):
    """Return the rewards of one episode, one for each step; a single number is paid for the last one."""
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim == 0:
        rewards = np.append(np.zeros(length - 1), rewards)
    if rewards.shape != (length,):
        raise ValueError(
            f"rollout {episode} returned rewards of shape {rewards.shape} after {length} actions; return one for each, or a number"
        )
    return rewards
