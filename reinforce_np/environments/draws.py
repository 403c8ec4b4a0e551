"""What every source returns: trajectories, and the model and policy that estimators read them with.

On a finite MDP these are the MDP and its policy. A black box has no states
that could be listed; but the steps that were visited can be, and that is all
an estimator needs: state i is the i-th observation of the draw, and the policy
is ``policy.on(observations)``. Episode n with L steps occupies L + 1 of them in
a row, the last being the observation after its last action.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import numpy as np

from reinforce_np import arguments
from reinforce_np.parallel import check_executor, in_order
from reinforce_np.sampling import sample, seed_sequence
from reinforce_np.trajectories import PADDING, Trajectories

UNKNOWN = {"probability", "next_state", "reward", "terminated", "initial", "horizon", "expected_reward", "continuation"}


@dataclass(frozen=True, eq=False)
class Draw:
    """A batch of trajectories, with all that ``Estimator.gradient(trajectories, mdp, policy, theta)`` asks for.

    Parameters
    ----------
    trajectories : Trajectories
        N of them.
    mdp : FiniteMDP or Steps
        The model; of a black box only γ, and how many steps there are.
    policy : policy
        Over the states of `mdp`.
    observations : array (S, d), optional
        Of a black box: what was seen in each state; a critic that is
        linear in features φ is the table φ(observations) @ w.
    actions : array (S, ...), optional
        Of a black box: what the policy drew there; zero in final states.

    Examples
    --------
    >>> from reinforce_np import ModelSource, TabularSoftmax, algorithms, examples
    >>> mdp = examples.bandit(means=[0.0, 1.0])
    >>> draw = ModelSource(mdp, TabularSoftmax(1, 2)).draw(np.zeros(2), 4, rng=0)
    >>> algorithms.reinforce().gradient(draw.trajectories, draw.mdp, draw.policy, np.zeros(2))
    array([-0.25,  0.25])
    """

    trajectories: Trajectories
    mdp: Any
    policy: Any
    observations: np.ndarray | None = None
    actions: np.ndarray | None = None

    def __repr__(self):
        return f"Draw({self.trajectories!r}, {self.mdp!r}, {type(self.policy).__name__})"


@dataclass(frozen=True)
class Steps:
    """The steps of a black box in the place of a model: how many there are, and γ.

    Parameters
    ----------
    n_states : int
        Observations of the draw, final ones included.
    n_actions : int
        Actions of the policy over them; one where the actions are continuous.
    gamma : float
        Discount per step.

    Examples
    --------
    >>> Steps(n_states=7, n_actions=2, gamma=0.99).gamma
    0.99
    """

    n_states: int
    n_actions: int
    gamma: float

    def __getattr__(self, name):
        """Refuse what only a model can say."""
        if name in UNKNOWN:
            raise TypeError(
                f"mdp={self!r} stands for the steps of a black box: nobody knows its {name}, and it has no exact answer; pass a "
                "FiniteMDP, or use the trajectories alone (Estimator.gradient)"
            )
        raise AttributeError(name)


@dataclass(frozen=True, eq=False)
class ModelSource:
    """Trajectories of a finite MDP, from `sample`.

    Parameters
    ----------
    mdp : FiniteMDP
        The model.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    behaviour : array (D,) or (S, A), optional
        As in `sample`.
    group_size : int
        As in `sample`.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> mdp = examples.bandit(means=[0.0, 1.0])
    >>> ModelSource(mdp, TabularSoftmax(1, 2)).draw(np.zeros(2), 5, rng=0)
    Draw(Trajectories(n=5, n_steps=1), FiniteMDP(n_states=1, n_actions=2, ..., horizon=1), TabularSoftmax)
    """

    mdp: Any
    policy: Any
    _: KW_ONLY
    behaviour: Any = None
    group_size: int = 1

    def __post_init__(self):
        arguments.check_same_model(self.mdp, self.policy)

    @property
    def gamma(self):
        """γ of the model."""
        return self.mdp.gamma

    def draw(self, theta, n, *, rng=None, executor=None):
        """Return a Draw of `n` trajectories; `rng` and `executor` as in `sample`."""
        options = {"behaviour": self.behaviour, "group_size": self.group_size, "executor": executor, "rng": rng}
        return Draw(sample(self.mdp, self.policy, theta, n, **options), self.mdp, self.policy)


class Episodes(NamedTuple):
    """Episodes one after the other in flat arrays; each has a row per step and a last one for its final observation."""

    observations: np.ndarray  # (S, d)
    actions: np.ndarray  # (S, ...), zero in final rows
    rewards: np.ndarray  # (S,), not read in final rows
    log_probabilities: np.ndarray  # (S,), not read in final rows
    lengths: np.ndarray  # (N,), without the final row
    terminated: np.ndarray  # (N,)
    truncated: np.ndarray  # (N,)


def draw_blocks(collect, source, theta, n, block_size, *, rng, executor):
    """Return the Draw of `n` episodes collected block by block.

    A block is ``collect(source, theta, n, seed)``, a pure function: block i
    gets the i-th child of the seed, and its size depends on the source
    alone. So the draw is the same for every executor, and after a worker was
    lost and its block computed again.

    Parameters
    ----------
    collect : callable
        Defined in a module, so that other processes find it; returns `Episodes`.
    source : EnvironmentSource or RolloutSource
        With ``policy``, ``gamma`` and ``group_size``.
    theta : array (D,)
        Parameters.
    n : int
        Number of episodes, a multiple of ``group_size``.
    block_size : int
        Episodes of a block: whole groups.
    rng, executor
        As in `sample`.

    Returns
    -------
    Draw
    """
    n = arguments.integer("n", n, low=1)
    if n % source.group_size:
        raise ValueError(f"n={n} is not a multiple of group_size={source.group_size}; draw whole groups")
    check_executor(executor)
    theta = source.policy.real_theta(theta)
    seed = seed_sequence(rng)
    jobs = (
        (
            source,
            theta,
            min(block_size, n - first),
            np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, i)),
        )
        for i, first in enumerate(range(0, n, block_size))
    )
    return as_draw(list(in_order(collect, jobs, executor)), source.policy, source.gamma, source.group_size)


def as_draw(blocks, policy, gamma, group_size=1):
    """Return the Draw of a list of `Episodes`."""
    episodes = Episodes(*(np.concatenate(columns) for columns in zip(*blocks, strict=True)))
    visited = policy.on(episodes.observations, episodes.actions)
    lengths, N = episodes.lengths, len(episodes.lengths)
    first = np.cumsum(lengths + 1) - (lengths + 1)
    mask = np.arange(lengths.max()) < lengths[:, None]
    rows = np.where(mask, first[:, None] + np.arange(lengths.max()), 0)

    def padded(column):
        return np.where(mask, column[rows], PADDING)

    trajectories = Trajectories(
        states=rows,
        actions=np.zeros_like(rows) if policy.is_density else padded(episodes.actions),
        rewards=padded(episodes.rewards),
        lengths=lengths,
        terminated=episodes.terminated,
        truncated=episodes.truncated,
        final_states=first + lengths,
        log_probabilities=padded(episodes.log_probabilities),
        groups=np.arange(N) // group_size,
    )
    mdp = Steps(visited.n_states, visited.n_actions, gamma)
    return Draw(trajectories, mdp, visited, episodes.observations, episodes.actions)


def in_episodes(steps, finals):
    """Sort the rows of all steps into `Episodes`.

    Parameters
    ----------
    steps : list of (episodes (B,), observations (B, d), actions (B, ...), rewards (B,), log π (B,))
        In the order in which they were taken.
    finals : list of (episode, observation (d,), terminated, truncated)
        One for each episode, in any order.

    Returns
    -------
    Episodes
    """
    episode, observations, actions, rewards, log_probabilities = (np.concatenate(c) for c in zip(*steps, strict=True))
    ended, last, terminated, truncated = (np.array(c) for c in zip(*sorted(finals, key=lambda f: f[0]), strict=True))
    order = np.argsort(np.concatenate([episode, ended]), kind="stable")  # each final row comes after its steps

    def sorted_rows(column, last):
        return np.concatenate([column, last])[order]

    return Episodes(
        observations=sorted_rows(observations, last),
        actions=sorted_rows(actions, np.zeros((len(ended), *actions.shape[1:]), actions.dtype)),
        rewards=sorted_rows(rewards, np.zeros(len(ended))),
        log_probabilities=sorted_rows(log_probabilities, np.zeros(len(ended))),
        lengths=np.bincount(episode, minlength=len(ended)),
        terminated=terminated,
        truncated=truncated,
    )
