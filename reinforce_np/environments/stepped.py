"""Any environment with Gymnasium's interface, single or vector, as a source of trajectories.

Which episodes are kept decides whether an estimate is biased. Several lanes
run side by side; a lane whose episode ends begins the next one. Of a draw of n
episodes *exactly n are begun and all of them are kept*: when n have begun, a
lane that ends stays idle until the others have ended too. Keeping instead the
first n to end would prefer short episodes.

Vector environments reset themselves, in one of three ways, which their
``metadata["autoreset_mode"]`` states:

    NextStep   the step after the last one ignores its action and returns the first observation: a dummy, left out here
    SameStep   the last step returns the first observation already; the final one is in ``info["final_obs"]``
    Disabled   nothing happens until ``reset(options={"reset_mask": ...})``
"""

import threading
import uuid
import warnings
from collections import OrderedDict
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.environments.draws import draw_blocks, in_episodes

SEEDS = 2**31  # seeds are drawn below this: some environments take no larger ones
ENDLESS = 2**20  # steps after which an episode without a limit is refused
KEPT = 4  # environments that a thread keeps between blocks, most recently used last
IDLE = -1  # the episode of a lane that waits for the others
NEXT_STEP, SAME_STEP, DISABLED = "nextstep", "samestep", "disabled"

_kept = threading.local()


@dataclass(frozen=True, eq=False)
class EnvironmentSource:
    """Episodes of an environment with Gymnasium's ``reset`` and ``step``.

    A draw is a function of its seed (if the environment's ``reset(seed=)``
    makes it one), whatever was drawn before, and for every executor.

    Parameters
    ----------
    env : str, callable or environment
        An id, which needs the ``gymnasium`` extra (an environment that
        brings its own vector form is used in that form); a function without
        arguments that makes an environment, single or vector; or one
        environment, single or vector, which stays yours to close. Gymnasium
        itself is needed for ids only.
    policy : FeatureSoftmax, NeuralSoftmax or GaussianPolicy
        Acts on the observations, as flat arrays of numbers.
    gamma : float
        Discount per step; environments do not name one.
    lanes : int
        How many environments run side by side, where they are made here.
    max_steps : int, optional
        Truncate episodes after this many steps. For single environments; a
        vector environment brings its own limit.
    group_size : int
        Consecutive episodes that begin with the same seed: the same first
        observation, and the same noise later on. Only the actions differ,
        so comparing the members of a group (RLOO) stays unbiased. For single environments.
    block_size : int, optional
        Episodes that are collected together by one worker; ``8·lanes`` if not
        given. The draw depends on it.

    Raises
    ------
    ImportError
        When `env` is an id and Gymnasium is not installed.
    ValueError
        When the environment does not fit the policy, or returns what is no
        finite number.

    Examples
    --------
    >>> from reinforce_np import FeatureSoftmax, algorithms, features
    >>> class Walk:                                  # one step from zero; right pays 1
    ...     def reset(self, *, seed=None): return [0.0], {}
    ...     def step(self, action): return [float(action)], float(action), True, False, {}
    >>> policy = FeatureSoftmax(features.Polynomial(low=[-1.0], high=[1.0], order=0), n_actions=2)
    >>> draw = EnvironmentSource(Walk, policy, gamma=1.0).draw(np.zeros(2), 1000, rng=0)
    >>> draw.trajectories
    Trajectories(n=1000, n_steps=1)
    >>> algorithms.reinforce().gradient(draw.trajectories, draw.mdp, draw.policy, np.zeros(2)).round(1)
    array([-0.2,  0.2])
    """

    env: Any
    policy: Any
    _: KW_ONLY
    gamma: float
    lanes: int = 32
    max_steps: int | None = None
    group_size: int = 1
    block_size: int | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex, init=False, repr=False)

    def __post_init__(self):
        if not isinstance(self.env, str) and not callable(self.env) and not hasattr(self.env, "step"):
            raise TypeError(f"env={self.env!r} is no environment; pass an id, a function that makes one, or one")
        check_policy(self.policy)
        object.__setattr__(
            self, "gamma", arguments.number("gamma", self.gamma, low=0.0, high=1.0, rule="a discount in [0, 1]")
        )
        for name in ("lanes", "group_size"):
            object.__setattr__(self, name, arguments.integer(name, getattr(self, name), low=1))
        if self.max_steps is not None:
            object.__setattr__(self, "max_steps", arguments.integer("max_steps", self.max_steps, low=1))
        size = 8 * self.lanes if self.block_size is None else arguments.integer("block_size", self.block_size, low=1)
        object.__setattr__(self, "block_size", max(size // self.group_size, 1) * self.group_size)

    def draw(self, theta, n, *, rng=None, executor=None):
        """Return a `Draw` of `n` episodes.

        Parameters
        ----------
        theta : array (D,)
            Parameters of the policy.
        n : int
            Number of episodes, a multiple of ``group_size``.
        rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
            Seed, as in `sample`.
        executor : concurrent.futures.Executor, optional
            Collects the blocks; the result is the same, bit for bit. Needs
            an id, or a function (for processes: one that they can import).

        Returns
        -------
        Draw
        """
        if executor is not None and not self.is_made_here:
            raise ValueError(
                f"executor={executor!r} cannot share one environment, env={self.env!r}; pass a function that makes one"
            )
        return draw_blocks(collect_block, self, theta, n, self.block_size, rng=rng, executor=executor)

    @property
    def is_made_here(self):
        """Whether the environments are made by this source, rather than given."""
        return isinstance(self.env, str | type) or not hasattr(self.env, "step")


def collect_block(source, theta, n, seed):
    """Return the `Episodes` of one block: a pure function of its arguments."""
    rng = np.random.Generator(np.random.PCG64(seed))
    environments = environments_of(source, n)
    act = source.policy.actor(theta)
    if not isinstance(environments, list):
        return collect_vector(environments, source, act, n, rng)
    seeds = np.repeat(rng.integers(SEEDS, size=n // source.group_size), source.group_size)
    return collect_singles(environments, source, act, seeds.tolist(), rng)


def collect_singles(environments, source, act, seeds, rng):
    """Run one episode per seed in a list of single environments, each taking the next seed when it is free.

    Parameters
    ----------
    environments : list
        The lanes.
    source : EnvironmentSource
        Names the policy and ``max_steps``.
    act : callable
        From the policy's ``actor``.
    seeds : list of int
        One for each episode, for ``reset``.
    rng : numpy.random.Generator
        Draws the actions.

    Returns
    -------
    Episodes
    """
    given = action_converter(getattr(environments[0], "action_space", None), source.policy)
    lanes = list(environments[: len(seeds)])
    begun = len(lanes)
    episode, length = np.arange(begun), np.zeros(begun, dtype=np.intp)
    seen = [first_seen(reset(env, seed)) for env, seed in zip(lanes, seeds)]
    observations = as_rows(seen, begun)
    check_readable(observations, np.shape(seen[0]), source.policy)
    steps, finals = [], []
    while lanes:
        actions, log_probabilities = act(observations, rng)
        results = [whole_step(env.step(action)) for env, action in zip(lanes, one_by_one(given(actions)))]
        following, rewards, terminated, truncated = read_results(*list(zip(*results))[:4])
        length = length + 1
        truncated |= length == source.max_steps
        refuse_endless(length)
        steps.append((episode, observations, actions, rewards, log_probabilities))
        ended = np.flatnonzero(terminated | truncated)
        finals += [(episode[i], following[i].copy(), terminated[i], truncated[i]) for i in ended]
        if len(ended):
            episode, going = episode.copy(), np.ones(len(lanes), dtype=bool)
            for i in ended:
                going[i] = begun < len(seeds)
                if going[i]:
                    following[i] = as_rows([reset(lanes[i], seeds[begun])[0]], 1)[0]
                    episode[i], length[i] = begun, 0
                    begun += 1
            lanes = [env for env, on in zip(lanes, going) if on]
            episode, length, following = episode[going], length[going], following[going]
        observations = following
    return in_episodes(steps, finals)


def collect_vector(env, source, act, n, rng):
    """Run `n` episodes in a vector environment, each lane beginning the next one as it resets itself.

    Parameters
    ----------
    env : gymnasium.vector.VectorEnv
        With ``num_envs`` lanes.
    source, act, rng
        As in `collect_singles`.
    n : int
        Number of episodes.

    Returns
    -------
    Episodes
    """
    refuse_single_options(env, source)
    given = action_converter(getattr(env, "single_action_space", None), source.policy)
    mode, L = autoreset_mode(env), env.num_envs
    seen = first_seen(reset(env, int(rng.integers(SEEDS - L))))
    observations = as_rows(seen, L)
    check_readable(observations, np.shape(seen)[1:], source.policy)
    episode = np.where(np.arange(L) < n, np.arange(L), IDLE)
    begun, length, dummy = min(L, n), np.zeros(L, dtype=np.intp), np.zeros(L, dtype=bool)
    steps, finals = [], []
    while (episode != IDLE).any():
        actions, log_probabilities = act(observations, rng)
        *results, info = whole_step(env.step(given(actions)))
        following, rewards, terminated, truncated = read_results(*results)
        live = (episode != IDLE) & ~dummy
        length = (length + 1) * live
        refuse_endless(length)
        steps.append(tuple(column[live] for column in (episode, observations, actions, rewards, log_probabilities)))
        over = (terminated | truncated) & ~dummy
        if over.any():
            last = final_observations(info, over, following) if mode == SAME_STEP else following.copy()
            if mode == DISABLED:
                following[over] = as_rows(env.reset(options={"reset_mask": over})[0], L)[over]
            for i in np.flatnonzero(over & live):
                finals.append((episode[i], last[i], terminated[i], truncated[i]))
                episode[i], length[i] = (begun, 0) if begun < n else (IDLE, 0)
                begun += 1
        dummy = over if mode == NEXT_STEP else dummy
        observations = following
    return in_episodes(steps, finals)


def read_results(observations, rewards, terminated, truncated):
    """Return what a step returned as arrays (B, d) and (B,)."""
    try:
        rewards = np.array(rewards, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"env paid a reward that is no number ({error}); return one number a step") from None
    if rewards.shape != np.shape(terminated)[:1]:
        raise ValueError(f"env paid rewards of shape {rewards.shape[1:]} a step; return one number, not an array")
    if not np.isfinite(rewards).all():
        (i,) = arguments.first_index(~np.isfinite(rewards))
        raise ValueError(f"env paid reward={rewards[i]} in lane {i}; it must be a finite number")
    return as_rows(observations, len(rewards)), rewards, np.array(terminated, bool), np.array(truncated, bool)


def whole_step(result):
    """Refuse the four results of old Gym, whose info would be taken for ``truncated``."""
    if not isinstance(result, tuple | list) or len(result) != 5:
        n = len(result) if isinstance(result, tuple | list) else type(result).__name__
        raise ValueError(
            f"env.step returned {n} and not (observation, reward, terminated, truncated, info); wrap the environment so that it "
            "tells termination from truncation"
        )
    return result


def reset(env, seed):
    """Return what ``env.reset(seed=seed)`` returns; where it takes no seed, the error says what is wanted."""
    try:
        return env.reset(seed=seed)
    except TypeError as error:
        if "unexpected keyword argument 'seed'" in str(error):
            error.add_note(
                f"{type(env).__name__} is asked to reset(seed=...), as Gymnasium's are: let it take seed=None"
            )
        raise


def first_seen(result):
    """Return the observation of a ``reset``, refusing old Gym's, which returns nothing else."""
    if (
        not isinstance(result, tuple | list)
        or len(result) != 2
        or isinstance(result[1], float | int | np.generic | np.ndarray)
    ):
        raise ValueError(
            f"env.reset returned {type(result).__name__}, and not (observation, info); wrap the environment"
        )
    return result[0]


def check_readable(rows, shape, policy):
    """Say what the environment shows, where the features can only say that it does not fit."""
    try:
        getattr(policy, "features", np.asarray)(rows[:1])
    except ValueError as error:
        raise ValueError(
            f"env returned an observation of shape {shape}, {rows.shape[1]} numbers laid flat, which the features of the policy "
            f"do not fit ({error}); build the policy for it"
        ) from None


def as_rows(observations, n):
    """Return observations as a new array (n, d) of numbers, each one laid flat."""
    try:
        rows = np.array(observations, dtype=np.float64).reshape(n, -1)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"env returned observations that are no arrays of numbers of one shape ({error}); wrap it, for example in "
            "gymnasium.wrappers.FlattenObservation"
        ) from None
    if not np.isfinite(rows).all():
        i, j = arguments.first_index(~np.isfinite(rows))
        raise ValueError(
            f"env returned {rows[i, j]} in component {j} of the observation of lane {i}; it must be finite"
        )
    return rows


def action_converter(space, policy):
    """Return the function from actions of the policy (B, ...) to what the environment is given, or say why there is none.

    Discrete actions are counted from the space's ``start``. Continuous ones
    get its shape and type; where it has bounds they are moved inside, which is
    a part of the environment: the score is that of the action before.
    """
    fits = (
        space is None
        or (not policy.is_density and getattr(space, "n", None) == policy.n_actions and np.ndim(space.n) == 0)
        or (policy.is_density and hasattr(space, "low") and int(np.prod(space.shape)) == policy.n_components)
    )
    if not fits:
        kind = f"{policy.n_components} continuous components" if policy.is_density else f"{policy.n_actions} actions"
        raise ValueError(f"env has action_space={space!r}, but the policy has {kind}; build the policy for it")
    if not policy.is_density:
        start = int(getattr(space, "start", 0))
        return lambda actions: actions + start
    if space is None:
        return policy.for_environment

    def moved_inside(actions):
        actions = policy.for_environment(actions).reshape(-1, *space.shape)
        return np.clip(actions, space.low, space.high).astype(space.dtype)

    return moved_inside


def one_by_one(actions):
    """Return a list of Python ints, or of arrays for continuous actions."""
    return actions.tolist() if actions.ndim == 1 else list(actions)


def autoreset_mode(env):
    """Return how a vector environment begins the next episode; Gymnasium's own default where it does not say."""
    mode = (getattr(env, "metadata", None) or {}).get("autoreset_mode", NEXT_STEP)
    word = str(getattr(mode, "value", mode)).lower().replace("_", "").replace("-", "")
    if word not in (NEXT_STEP, SAME_STEP, DISABLED):
        raise ValueError(f"env has autoreset_mode={mode!r}, which is unknown; use NextStep, SameStep or Disabled")
    return word


def final_observations(info, over, following):
    """Return the last observations of the lanes that are over, from the info of a SameStep reset."""
    if "final_obs" not in info:
        raise ValueError("env resets in the same step, but its info has no final_obs; use Gymnasium 1.1 or later")
    last = following.copy()
    for i in np.flatnonzero(over):
        last[i] = as_rows(info["final_obs"][i], 1)[0]
    return last


def environments_of(source, n):
    """Return the environments for `n` episodes, a list or one vector environment, made once for each thread.

    A few sources keep theirs; the environments of the one used longest ago are closed when another comes.
    """
    if not source.is_made_here:
        return source.env if hasattr(source.env, "num_envs") else [source.env]
    if not hasattr(_kept, "environments"):
        _kept.environments = OrderedDict()
    kept = _kept.environments
    environments = kept.get(source.token, [])
    if isinstance(environments, list) and len(environments) < min(source.lanes, n):
        more = made(source, min(source.lanes, n) - len(environments))
        environments = environments + more if isinstance(more, list) else more
    kept[source.token] = environments
    kept.move_to_end(source.token)
    if len(kept) > KEPT:
        _, oldest = kept.popitem(last=False)
        for env in oldest if isinstance(oldest, list) else [oldest]:
            getattr(env, "close", lambda: None)()
    return environments


def made(source, n):
    """Make environments: one vector environment, or a list of `n` single ones."""
    make = make_of(source) if isinstance(source.env, str) else source.env
    first = make()
    if not hasattr(first, "step") or not hasattr(first, "reset"):
        raise TypeError(f"env={source.env!r} made {first!r}, which has no reset and step; return an environment")
    if hasattr(first, "num_envs"):
        return first
    return [first] + [make() for _ in range(n - 1)]


def make_of(source):
    """Return the function that makes the environment of an id, in its own vector form if that can be used."""
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(
            f"making env={source.env!r} needs Gymnasium ({error}); pip install 'reinforce-np[gymnasium]'"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a deprecated id warns first and raises then
            env = gymnasium.make(source.env)  # says what is wrong with an id, or which package is missing
            spec: Any = env.spec  # gymnasium.spec knows no ids of the form module:name
            env.close()
            if spec.vector_entry_point is not None and source.group_size == 1 and source.max_steps is None:
                return lambda: gymnasium.make_vec(
                    source.env, num_envs=source.lanes, vectorization_mode="vector_entry_point"
                )
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"env={source.env!r} cannot be made: {error}") from error
    return lambda: gymnasium.make(source.env, disable_env_checker=True)


def refuse_single_options(env, source):
    """Refuse what a vector environment, which resets itself, cannot be told."""
    if source.max_steps is not None:
        raise ValueError(
            f"max_steps={source.max_steps} is for single environments; give the vector environment a time limit when it is made"
        )
    if source.group_size > 1:
        raise ValueError(
            f"group_size={source.group_size} needs single environments, whose episodes can begin with the same seed; "
            f"pass a function that makes one, not {type(env).__name__}"
        )


def refuse_endless(length):
    """Refuse episodes that nothing seems to end."""
    if length.max() >= ENDLESS:
        raise arguments.TooLargeError(
            f"an episode is still alive after {ENDLESS} steps; give max_steps, or a time limit"
        )


def check_policy(policy):
    """Refuse what does not act on observations."""
    if not hasattr(policy, "actor"):
        raise TypeError(
            f"policy={policy!r} does not act on observations; pass a FeatureSoftmax, a NeuralSoftmax or a GaussianPolicy "
            "(for a FiniteMDP use ModelSource)"
        )
