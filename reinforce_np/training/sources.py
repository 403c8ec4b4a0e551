"""Where trajectories come from: the one thing that the loop asks of a problem.

    draw = source.draw(theta, n, rng=seed, executor=None)

A source is anything with this method, a pure function of its arguments. What is drawn names the
model and the policy in whose terms the trajectories are written, so that

    estimator.gradient(draw.trajectories, draw.mdp, draw.policy, theta)

works on all of them. Here is the source that is known exactly; environments
and sampler functions have theirs in `reinforce_np.environments`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.mdp import FiniteMDP
from reinforce_np.sampling import sample


@dataclass(frozen=True, eq=False)
class Draw:
    """Trajectories, and in whose terms they are written.

    Parameters
    ----------
    trajectories : Trajectories
        What was drawn.
    mdp : FiniteMDP or stand-in
        Names γ and the number of states.
    policy
        Whose score is weighted.
    """

    trajectories: Any
    mdp: Any
    policy: Any


@dataclass(frozen=True, eq=False)
class FiniteSource:
    """Trajectories of a finite MDP, where everything is known exactly.

    Parameters
    ----------
    mdp : FiniteMDP
        The model.
    policy : TabularSoftmax or LinearSoftmax
        The policy that is trained.
    behaviour : array (D,) or (S, A), optional
        The policy that draws the actions, when it is another one.
    group_size : int
        Consecutive trajectories that share their first state.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> source = FiniteSource(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2))
    >>> draw = source.draw(np.zeros(2), 4, rng=0)
    >>> algorithms.reinforce().gradient(draw.trajectories, draw.mdp, draw.policy, np.zeros(2))
    array([-0.25,  0.25])
    """

    mdp: FiniteMDP
    policy: Any
    behaviour: Any = None
    group_size: int = 1

    def __post_init__(self):
        arguments.check_same_model(self.mdp, self.policy)
        object.__setattr__(self, "group_size", arguments.integer("group_size", self.group_size, low=1))
        if self.behaviour is not None:
            self.policy.log_probabilities_of("behaviour", self.behaviour)
            behaviour = np.array(self.behaviour, dtype=np.float64)
            behaviour.setflags(write=False)
            object.__setattr__(self, "behaviour", behaviour)

    def draw(self, theta, n, *, rng=None, executor=None):
        """Return `n` trajectories under θ, or under the behaviour.

        Parameters
        ----------
        theta : array (D,)
            Parameters of the policy.
        n : int
            Number of trajectories; whole groups.
        rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
            Seed.
        executor : concurrent.futures.Executor, optional
            Draws the blocks; the result is the same, bit for bit.

        Returns
        -------
        Draw
        """
        options = {"behaviour": self.behaviour, "group_size": self.group_size, "executor": executor, "rng": rng}
        return Draw(sample(self.mdp, self.policy, theta, n, **options), self.mdp, self.policy)


def as_source(source):
    """Return a source: the one given, or that of a pair (mdp, policy)."""
    if isinstance(source, tuple) and len(source) == 2:
        return FiniteSource(*source)
    if not hasattr(source, "draw") or isinstance(source, type):
        raise TypeError(
            f"source={source!r} draws nothing; pass (mdp, policy), a FiniteSource, or an environment's source"
        )
    return source
