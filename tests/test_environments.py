"""Black boxes as sources: which episodes are kept, what their rows mean, and that the estimates are right."""

import concurrent.futures
import functools
import math
import pickle

import numpy as np
import pytest
from tolerances import assert_exact

from reinforce_np import (
    GAE,
    ClippedRatio,
    Draw,
    EntropyBonus,
    EnvironmentSource,
    Estimator,
    FeatureSoftmax,
    GaussianPolicy,
    KLPenalty,
    ModelSource,
    RewardToGo,
    RolloutSource,
    TabularSoftmax,
    TooLargeError,
    Truncated,
    algorithms,
    exact,
    examples,
    features,
    moments,
    numpy_loss,
    sample,
)
from reinforce_np.checks.means import catoni, catoni_log_probability, catoni_scale
from reinforce_np.training import SGD, Evaluation, Update, train

ALPHA = 1e-6  # false alarms of each statistical test, over all its components


# --- environments whose every row says where it comes from


def ending(name, episode):
    """Length, terminated and truncated of the episode of a lane: all four kinds of lengths and both flags occur."""
    return 1 + (3 * name + 5 * episode) % 4, (name + episode) % 3 != 0, (name + episode) % 3 != 1


class Clock:
    """Observation (name, episode, t); the reward repeats them, and the action; ended episodes must not be stepped."""

    def __init__(self, name=0):
        self.name, self.episode, self.over = name, -1, True

    def reset(self, *, seed=None):
        assert seed is None or type(seed) is int  # NumPy integers are refused by Gymnasium
        self.episode, self.t, self.over = self.episode + 1, 0, False
        return self.observation(), {}

    def observation(self):
        return np.array([self.name, self.episode, self.t])

    def step(self, action):
        assert not self.over and type(action) is int
        reward = paid(*self.observation(), action)
        self.t += 1
        length, terminated, truncated = ending(self.name, self.episode)
        self.over = self.t == length
        return self.observation(), reward, self.over and terminated, self.over and truncated, {}


def paid(name, episode, t, action):
    return float(1000 * name + 100 * episode + 10 * t + action)


class Clocks:
    """A vector environment of clocks, in any of the three ways to begin the next episode."""

    def __init__(self, num_envs, mode):
        self.num_envs, self.metadata = num_envs, {"autoreset_mode": mode}
        self.clocks = [Clock(name) for name in range(num_envs)]

    def reset(self, *, seed=None, options=None):
        if options:
            assert self.metadata["autoreset_mode"] == "Disabled"
            return np.stack(
                [c.reset()[0] if on else c.observation() for c, on in zip(self.clocks, options["reset_mask"])]
            ), {}
        return np.stack([clock.reset(seed=seed)[0] for clock in self.clocks]), {}

    def step(self, actions):
        mode, final, results = self.metadata["autoreset_mode"], np.full(self.num_envs, None), []
        for i, (clock, action) in enumerate(zip(self.clocks, actions.tolist())):
            if clock.over:
                assert mode == "NextStep"
                results.append((clock.reset()[0], 0.0, False, False))
                continue
            result = clock.step(action)[:4]
            if clock.over and mode == "SameStep":
                final[i] = result[0]
                result = (clock.reset()[0], *result[1:])
            results.append(result)
        return *map(np.array, zip(*results)), {"final_obs": final}


POLICY = FeatureSoftmax(features.Polynomial([0, 0, 0], [9, 9, 4], order=1, total=1), n_actions=3)
THETA = np.random.default_rng(0).normal(size=POLICY.n_parameters)
SOURCES = {
    "singles": lambda lanes: EnvironmentSource(
        functools.partial(next, map(Clock, range(99))), POLICY, gamma=0.9, lanes=lanes
    ),
    "one": lambda lanes: EnvironmentSource(Clock(), POLICY, gamma=0.9),
} | {
    mode: lambda lanes, mode=mode: EnvironmentSource(Clocks(lanes, mode), POLICY, gamma=0.9)
    for mode in ("NextStep", "SameStep", "Disabled")
}


@pytest.mark.parametrize("n", [1, 3, 10])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_row_is_a_step_that_happened_and_every_begun_episode_is_kept(kind, n):
    lanes = 1 if kind == "one" else 3
    draw = SOURCES[kind](lanes).draw(THETA, n, rng=0)
    trajectories, seen = draw.trajectories, draw.observations.astype(int)
    began = []
    for i in range(n):
        name, episode, _ = seen[trajectories.states[i, 0]]
        began.append((name, episode))
        length, terminated, truncated = ending(name, episode)
        assert trajectories.lengths[i] == length
        assert (trajectories.terminated[i], trajectories.truncated[i]) == (terminated, truncated)
        assert seen[trajectories.final_states[i]].tolist() == [name, episode, length]
        for t in range(length):
            s, a = trajectories.states[i, t], trajectories.actions[i, t]
            assert seen[s].tolist() == [name, episode, t] and draw.actions[s] == a
            assert trajectories.rewards[i, t] == paid(name, episode, t, a)
            log_pi = draw.policy.log_probabilities(THETA)[s, a]
            assert abs(trajectories.log_probabilities[i, t] - log_pi) <= 1e-12 * (1 + abs(log_pi))
    assert len(set(began)) == n and began[:lanes] == [(k, 0) for k in range(min(n, lanes))]
    for k in range(lanes):  # nothing a lane began is missing: its episodes are 0, 1, 2, ...
        assert sorted(e for name, e in began if name == k) == list(range(sum(name == k for name, _ in began)))
    assert draw.mdp.n_states == trajectories.lengths.sum() + n and draw.mdp.gamma == 0.9


# --- a finite model behind the interface, where the answer is known


class Behind:
    """A `FiniteMDP` that can only be stepped."""

    def __init__(self, mdp):
        self.mdp = mdp

    def reset(self, *, seed=None):
        self.rng, self.t = np.random.default_rng(seed), 0
        self.s = int(self.rng.choice(self.mdp.n_states, p=self.mdp.initial))
        return self.s, {}

    def step(self, a):
        k = self.rng.choice(self.mdp.n_outcomes, p=self.mdp.probability[self.s, a])
        reward, terminated = self.mdp.reward[self.s, a, k], self.mdp.terminated[self.s, a, k]
        self.s, self.t = int(self.mdp.next_state[self.s, a, k]), self.t + 1
        return self.s, reward, terminated, self.t == self.mdp.horizon, {}


REINFORCE = algorithms.reinforce()
REFEREE = examples.referee(horizon=3)
TABLE = TabularSoftmax(3, 3)
LOGITS = np.random.default_rng(1).normal(size=9)
behind_referee = functools.partial(Behind, REFEREE)


def referee_source(**options):
    return EnvironmentSource(behind_referee, FeatureSoftmax(features.OneHot(3), 3), gamma=REFEREE.gamma, **options)


def rejected(estimates, mean, variance):
    """Catoni's test of the mean of each component, with exact variances."""
    n, odds = len(estimates), math.log(2 * len(mean) / ALPHA)
    scale = catoni_scale(n, variance, odds + math.log(100))
    statistic = np.abs(catoni(scale * (estimates - mean)).sum(axis=0))
    return bool((catoni_log_probability(statistic, n, variance, scale) < -odds).any())


@pytest.fixture(scope="module")
def drawn():
    return referee_source(lanes=64, block_size=500).draw(LOGITS, 1200, rng=0)


def test_estimates_from_a_black_box_have_the_exact_mean(drawn):
    gradient, variance = exact.gradient(REFEREE, TABLE, LOGITS), moments(REINFORCE, REFEREE, TABLE, LOGITS).variance
    estimates = REINFORCE.per_trajectory(drawn.trajectories, drawn.mdp, drawn.policy, LOGITS)
    assert not rejected(estimates, gradient, variance)
    shortest = np.argsort(drawn.trajectories.lengths, kind="stable")[:400]
    assert rejected(estimates[shortest], gradient, variance)  # the negative control: only the first to end are kept


def test_estimators_read_visited_steps_like_states(drawn):
    """The same trajectories, once as states of the model and once as rows of observations: the same estimates."""
    t = drawn.trajectories.take(slice(40))
    states = np.where(t.mask, drawn.observations[t.states, 0], 0).astype(int)
    fields = {name: getattr(t, name) for name in ("actions", "rewards", "lengths", "terminated", "truncated", "groups")}
    final = drawn.observations[t.final_states, 0].astype(int)
    as_states = type(t)(states=states, final_states=final, log_probabilities=t.log_probabilities, **fields)
    V, other = np.array([1.0, -2.0, 0.5]), LOGITS + 0.3
    per_row = V[drawn.observations[:, 0].astype(int)]
    pairs = [
        (GAE(V, 0.7, bootstrap_at_truncation=True), GAE(per_row, 0.7, bootstrap_at_truncation=True), {}),
        (RewardToGo(), RewardToGo(), {"penalty": EntropyBonus(0.3, place="loss", sampled=False)}),
        (RewardToGo(), RewardToGo(), {"penalty": KLPenalty(np.zeros(9), 0.3, kind="full", place="loss")}),
        (RewardToGo(), RewardToGo(), {"ratio": ClippedRatio(0.1, 0.3)}),
    ]
    for on_model, on_rows, options in pairs:
        wanted = Estimator(on_model, **options).per_trajectory(as_states, REFEREE, TABLE, other)
        found = Estimator(on_rows, **options).per_trajectory(t, drawn.mdp, drawn.policy, other)
        assert_exact(found, wanted, scale=100.0)


def test_a_model_is_a_source_too():
    draw = ModelSource(REFEREE, TABLE, group_size=2).draw(LOGITS, 4, rng=3)
    assert isinstance(draw, Draw) and draw.mdp is REFEREE and draw.policy is TABLE
    assert np.array_equal(draw.trajectories.rewards, sample(REFEREE, TABLE, LOGITS, 4, group_size=2, rng=3).rewards)


def test_blocks_are_the_same_for_every_executor():
    source = referee_source(lanes=4, block_size=8, group_size=2)
    serial = source.draw(LOGITS, 30, rng=1)
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        parallel = source.draw(LOGITS, 30, rng=1, executor=threads)
    for name in ("states", "actions", "rewards", "lengths", "log_probabilities", "groups"):
        assert np.array_equal(getattr(serial.trajectories, name), getattr(parallel.trajectories, name))
    assert np.array_equal(serial.observations, parallel.observations)
    elsewhere = pickle.loads(pickle.dumps(source)).draw(LOGITS, 30, rng=np.random.SeedSequence(1))  # another process
    assert np.array_equal(serial.trajectories.rewards, elsewhere.trajectories.rewards)
    fewer = source.draw(LOGITS, 8, rng=1).trajectories  # the first block, and the next one is another
    assert np.array_equal(fewer.rewards, serial.trajectories.rewards[:8])
    assert not np.array_equal(fewer.rewards, serial.trajectories.rewards[8:16])
    rng = np.random.default_rng(1)
    first, second = (source.draw(LOGITS, 30, rng=rng).trajectories.rewards.sum() for _ in range(2))
    assert first != second


def test_members_of_a_group_begin_alike():
    draw = referee_source(group_size=5).draw(LOGITS, 200, rng=0)
    first = draw.observations[draw.trajectories.states[:, 0], 0].reshape(40, 5)
    assert np.all(first == first[:, :1]) and len(set(first[:, 0])) == 3
    assert np.array_equal(draw.trajectories.groups, np.repeat(np.arange(40), 5))
    assert np.isfinite(algorithms.rloo().gradient(draw.trajectories, draw.mdp, draw.policy, LOGITS)).all()


def test_episodes_are_cut_after_max_steps():
    draw = referee_source(max_steps=2).draw(LOGITS, 50, rng=0)
    assert draw.trajectories.lengths.max() == 2
    assert np.array_equal(draw.trajectories.truncated, draw.trajectories.lengths == 2)


class Space:
    def __init__(self, **fields):
        self.__dict__.update(fields)


def test_continuous_actions_fit_the_space_and_are_recorded_as_drawn():
    class Box:
        action_space = Space(low=np.array([[-1.0, -1.0]]), high=np.array([[1.0, 0.5]]), shape=(1, 2), dtype=np.float32)

        def reset(self, *, seed=None):
            return [0.0], {}

        def step(self, action):
            assert action.shape == (1, 2) and action.dtype == np.float32
            return action[0, :1], float(action[0, 1]), True, False, {}

    draw = EnvironmentSource(Box, GaussianPolicy(features.Polynomial([0], [1], order=0), 2), gamma=1.0).draw(
        np.zeros(4), 50, rng=0
    )
    given = np.clip(draw.actions[draw.trajectories.states[:, 0]], [-1.0, -1.0], [1.0, 0.5])
    assert np.abs(draw.actions).max() > 1.5
    np.testing.assert_allclose(draw.trajectories.rewards[:, 0], given[:, 1], rtol=1e-6)
    np.testing.assert_allclose(draw.observations[draw.trajectories.final_states, 0], given[:, 0], rtol=1e-6)


class Push:
    """Pays less the further one is pushed; three steps."""

    def reset(self, *, seed=None):
        self.t, self.at = 0, 0.5
        return [self.at], {}

    def step(self, action):
        self.t, self.at = self.t + 1, self.at + float(np.ravel(action)[0])
        return [self.at], -(self.at**2), self.t == 3, False, {}


def reinforce_loss(log_probs, batch):
    to_go = np.cumsum((batch.rewards * batch.mask)[:, ::-1], axis=1)[:, ::-1]
    return -(log_probs * to_go * batch.mask).sum() / len(log_probs)


@pytest.mark.parametrize(
    "source",
    [
        ModelSource(examples.referee().replace(gamma=1.0), TabularSoftmax(3, 3), group_size=2, behaviour=np.zeros(9)),
        EnvironmentSource(Push, FeatureSoftmax(features.Polynomial([-9], [9], order=1), 2), gamma=1.0),
        EnvironmentSource(Push, GaussianPolicy(features.Polynomial([-9], [9], order=1), 1), gamma=1.0),
    ],
    ids=["model", "environment", "continuous"],
)
def test_a_loss_trains_as_the_estimator_that_it_is(source):
    options = {"iterations": 3, "batch_size": 6, "rng": 0, "evaluation": Evaluation(0)}
    theta = 0.1 * np.sin(np.arange(source.policy.n_parameters))
    expected = train(source, algorithms.reinforce(), SGD(0.1), theta=theta, **options).theta
    found = train(source, numpy_loss(reinforce_loss), SGD(0.1), theta=theta, **options).theta
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert np.abs(found - theta).max() > 1e-3

    def asks(log_probs, batch, problem):
        assert (problem.prompts * problem.group_size, problem.gamma) == (len(batch.rewards), 1.0)
        assert problem.behaviour is getattr(source, "behaviour", None)
        return reinforce_loss(log_probs, batch)

    assert np.array_equal(train(source, numpy_loss(asks), SGD(0.1), theta=theta, **options).theta, found)


class Relayed:
    """A source of one's own, that says nothing of the groups that its trajectories are in, nor of a policy unless it is to."""

    def __init__(self, inner, silent=False):
        self.inner, self.policy, self.silent = inner, inner.policy, silent

    def draw(self, theta, n, *, rng=None, executor=None):
        draw = self.inner.draw(theta, n, rng=rng, executor=executor)
        return Draw(draw.trajectories, draw.mdp, None if self.silent else draw.policy)


@pytest.mark.parametrize("relayed", [False, True])
def test_the_problem_of_a_minibatch_has_its_groups(relayed):
    seen, inner = [], ModelSource(examples.referee(), TabularSoftmax(3, 3), group_size=3)

    def asks(trajectories, theta, problem):
        seen.append((len(trajectories), problem.prompts, problem.group_size, np.array_equal(problem.theta, theta)))
        return np.ones(9)

    options = {
        "iterations": 1,
        "batch_size": 12,
        "rng": 0,
        "update": Update(minibatches=2),
        "evaluation": Evaluation(0),
    }
    train(Relayed(inner) if relayed else inner, asks, SGD(0.1), **options)
    assert seen == [(6, 2, 3, True)] * 2
    with pytest.raises(TypeError, match="estimator=asks wants the problem, whose policy this source does not say"):
        train(Relayed(inner, silent=True), asks, SGD(0.1), **options)


def test_nothing_is_bootstrapped_after_termination_even_when_truncated_too():
    class Both:
        def reset(self, *, seed=None):
            return [0.0], {}

        def step(self, action):
            return [1.0], 1.0, True, True, {}

    policy = FeatureSoftmax(features.Polynomial([0], [1], order=0), 2)
    draw = EnvironmentSource(Both, policy, gamma=0.5).draw(np.zeros(2), 1, rng=0)
    assert draw.trajectories.terminated[0] and draw.trajectories.truncated[0]
    critic = np.array([0.0, 8.0])  # of the first observation and of the final one
    weight = Estimator(GAE(critic, 1.0, bootstrap_at_truncation=True)).weights(
        draw.trajectories, draw.mdp, draw.policy, np.zeros(2)
    )
    assert weight.tolist() == [[1.0]]


# --- samplers


def verifier(act, rng):
    """Repeat the prompt twice; right or wrong."""
    prompt = int(rng.integers(2))
    return float([act([prompt, t]) for t in range(2)] == [prompt, prompt])


def verifiers(act, rngs):
    """The same for many at once."""
    prompts = np.array([rng.integers(2) for rng in rngs])
    answers = np.stack([act(np.stack([prompts, np.full_like(prompts, t)], axis=1)) for t in range(2)])
    return (answers == prompts).all(axis=0).astype(float)


WRITER = FeatureSoftmax(features.Polynomial([0, 0], [1, 1], order=1), n_actions=2)


def exact_law_of_verifier(theta):
    """Every prompt and answer: the mean and the variance of REINFORCE from one answer."""
    inputs = np.array([[p, t] for p in range(2) for t in range(2)], dtype=float)
    visited = WRITER.on(inputs)
    pi, psi = visited.probabilities(theta), visited.score(theta)
    mean = square = 0.0
    for p in range(2):
        for a, b in np.ndindex(2, 2):
            chance = 0.5 * pi[2 * p, a] * pi[2 * p + 1, b]
            estimate = float(a == b == p) * (psi[2 * p, a] + psi[2 * p + 1, b])
            mean, square = mean + chance * estimate, square + chance * estimate**2
    return mean, square - mean**2


@pytest.mark.parametrize("batched", [False, True])
def test_a_verifier_gives_the_exact_gradient(batched):
    theta = 0.5 * np.random.default_rng(2).normal(size=WRITER.n_parameters)
    source = RolloutSource(verifiers if batched else verifier, WRITER, gamma=1.0, batched=batched, group_size=4)
    draw = source.draw(theta, 800, rng=0)
    prompts = draw.observations[draw.trajectories.states[:, 0], 0].reshape(-1, 4)
    assert np.all(prompts == prompts[:, :1]) and 0 < prompts.mean() < 1
    right = np.all(draw.trajectories.actions == prompts.reshape(-1, 1), axis=1)
    assert np.array_equal(draw.trajectories.rewards, np.stack([0 * right, right], axis=1))
    assert draw.trajectories.terminated.all() and not draw.trajectories.truncated.any()
    singles = draw.trajectories.take(slice(0, None, 4))  # members of a group share the prompt
    estimates = algorithms.reinforce().per_trajectory(singles, draw.mdp, draw.policy, theta)
    mean, variance = exact_law_of_verifier(theta)
    assert not rejected(estimates, mean, variance)
    assert rejected(-estimates, mean, variance)


def test_rollouts_of_any_length_may_be_cut():
    def count_up(act, rng):
        n = int(rng.integers(1, 4))
        for t in range(n):
            act([t])
        return Truncated(np.arange(n), [99.0]) if n == 3 else np.arange(n)

    policy = FeatureSoftmax(features.Polynomial([0], [3], order=1), 2)
    draw = RolloutSource(count_up, policy, gamma=0.5, block_size=7).draw(np.zeros(4), 30, rng=0)
    t = draw.trajectories
    assert set(t.lengths) == {1, 2, 3} and np.array_equal(t.truncated, t.lengths == 3)
    assert np.array_equal(t.terminated, ~t.truncated)
    assert np.array_equal(t.rewards, np.where(t.mask, np.arange(3), 0))
    assert np.array_equal(draw.observations[t.states, 0][t.mask], t.rewards[t.mask])
    assert np.all(draw.observations[t.final_states, 0] == np.where(t.truncated, 99, t.lengths - 1))


def test_batched_rollouts_say_which_of_them_act():
    def count_up(act, rngs):
        lengths = np.array([rng.integers(1, 4) for rng in rngs])
        for t in range(3):
            alive = np.flatnonzero(lengths > t)
            assert act(np.stack([alive, np.full(len(alive), t)], axis=1), alive).shape == alive.shape
        return [Truncated(np.arange(n), [99.0, n]) if n == 3 else np.arange(n) for n in lengths]

    policy = FeatureSoftmax(features.Polynomial([0, 0], [9, 3], order=1), 2)
    draw = RolloutSource(count_up, policy, gamma=0.5, batched=True).draw(np.zeros(8), 20, rng=0)
    t = draw.trajectories
    seen = draw.observations[t.states]
    assert np.all(seen[..., 1][t.mask] == t.rewards[t.mask]) and set(t.lengths) == {1, 2, 3}
    assert np.all((seen[..., 0] == np.arange(20)[:, None])[t.mask])
    assert np.array_equal(draw.observations[t.final_states, 0] == 99, t.truncated)


def test_rollouts_of_squashed_actions():
    def aim(act, rng):
        (a,) = act([0.0])
        assert 2.0 < a < 3.0
        return a

    policy = GaussianPolicy(features.Polynomial([0], [1], order=0), 1, low=[2.0], high=[3.0])
    draw = RolloutSource(aim, policy, gamma=1.0).draw(np.zeros(2), 20, rng=0)
    u = draw.actions[draw.trajectories.states[:, 0], 0]
    assert_exact(draw.trajectories.rewards[:, 0], 2.5 + 0.5 * np.tanh(u))


def test_environments_are_made_as_needed_and_closed_when_others_come():
    class Door(Clock):
        open = 0

        def __init__(self):
            super().__init__()
            Door.open += 1

        def close(self):
            Door.open -= 1

    source = EnvironmentSource(Door, POLICY, gamma=1.0, lanes=3)
    counts = []
    for n in (1, 2, 9, 9):
        source.draw(THETA, n, rng=0)
        counts.append(Door.open)
    assert counts == [1, 2, 3, 3]
    for _ in range(4):
        SOURCES["singles"](1).draw(THETA, 1, rng=0)
    assert Door.open == 0


# --- refusals


class Broken(Clock):
    """A clock with one thing wrong."""

    def __init__(self, observation=(0.0,) * 3, reward=1.0, action_space=None, results=5, first=((0.0,) * 3, {})):
        self.seen, self.reward, self.results, self.first = observation, reward, results, first
        if action_space is not None:
            self.action_space = action_space

    def reset(self, *, seed=None):
        return self.first

    def step(self, action):
        return (self.seen, self.reward, False, False, {"lap": 1})[-self.results :]


class Forgetful(Clocks):
    """A vector environment of old: it does not say what was truncated."""

    def __init__(self):
        super().__init__(2, "NextStep")

    def step(self, actions):
        return super().step(actions)[1:]


class Picky(Clock):
    def reset(self, *, seed=None):
        raise TypeError("seeds are strings here")


class Seedless(Clock):
    def reset(self):
        return super().reset()


def source_of(*arguments, policy=POLICY, **options):
    return EnvironmentSource(functools.partial(Broken, *arguments), policy, gamma=1.0, **options)


def draw_of(*arguments, **options):
    return source_of(*arguments, **options).draw(THETA, 2, rng=0)


def gradient_arguments():
    draw = SOURCES["one"](1).draw(THETA, 2)
    return draw.mdp, draw.policy, THETA


REFUSED = {
    "observation": (lambda: draw_of((0.0, np.nan, 0.0)), "nan in component 1"),
    "no array": (lambda: draw_of({"camera": 1}), "FlattenObservation"),
    "reward": (lambda: draw_of((0.0,) * 3, np.inf), "reward=inf"),
    "reward of an array": (lambda: draw_of((0.0,) * 3, np.ones(1)), r"rewards of shape \(1,\)"),
    "reward in words": (lambda: draw_of((0.0,) * 3, "much"), "no number"),
    "old step": (lambda: draw_of((0.0,) * 3, 1.0, None, 4), "env.step returned 4"),
    "old reset": (lambda: draw_of((0.0,) * 3, 1.0, None, 5, np.zeros(3)), "env.reset returned ndarray"),
    "old reset of two": (lambda: draw_of((0.0,) * 3, 1.0, None, 5, [0.0, 1.0]), "env.reset returned list"),
    "seed of a kind": (lambda: EnvironmentSource(Picky, POLICY, gamma=1.0).draw(THETA, 2), "^seeds are strings here$"),
    "no seed": (lambda: EnvironmentSource(Seedless, POLICY, gamma=1.0).draw(THETA, 2), "let it take seed=None"),
    "old vector": (lambda: EnvironmentSource(Forgetful(), POLICY, gamma=1.0).draw(THETA, 2), "env.step returned 4"),
    "two axes": (
        lambda: draw_of((0.0,) * 3, 1.0, None, 5, (np.zeros((2, 4)), {})),
        r"shape \(2, 4\), 8 numbers laid flat",
    ),
    "nothing made": (lambda: EnvironmentSource(lambda: None, POLICY, gamma=1.0).draw(THETA, 2), "made None"),
    "number of actions": (lambda: draw_of((0.0,) * 3, 1.0, Space(n=2)), "policy has 3 actions"),
    "continuous": (lambda: draw_of((0.0,) * 3, 1.0, Space(low=0.0, high=1.0, shape=(3,))), "policy has 3 actions"),
    "endless": (lambda: draw_of(lanes=1), "max_steps"),
    "no environment": (lambda: EnvironmentSource(3, POLICY, gamma=1.0), "env=3 is no environment"),
    "no policy": (lambda: EnvironmentSource(Clock, TABLE, gamma=1.0), "does not act on observations"),
    "gamma": (lambda: EnvironmentSource(Clock, POLICY, gamma=1.5), "gamma=1.5"),
    "theta": (lambda: source_of().draw(np.zeros(3), 1), "theta has shape"),
    "no episodes": (lambda: source_of().draw(THETA, 0), "n=0"),
    "part of a group": (lambda: source_of(group_size=2).draw(THETA, 3), "draw whole groups"),
    "shared environment": (lambda: SOURCES["one"](1).draw(THETA, 2, executor=3), "pass a function that makes one"),
    "groups of a vector": (
        lambda: EnvironmentSource(Clocks(2, "SameStep"), POLICY, gamma=1.0, group_size=2).draw(THETA, 2),
        "group_size=2 needs single",
    ),
    "limit of a vector": (
        lambda: EnvironmentSource(Clocks(2, "SameStep"), POLICY, gamma=1.0, max_steps=2).draw(THETA, 2),
        "max_steps=2 is for single",
    ),
    "unknown reset": (lambda: EnvironmentSource(Clocks(2, "Never"), POLICY, gamma=1.0).draw(THETA, 2), "Never"),
    "no model": (lambda: exact.gradient(*gradient_arguments()), "black box"),
    "rewards": (
        lambda: RolloutSource(lambda act, rng: [act([0, 0]), 1, 2], WRITER, gamma=1.0).draw(np.zeros(8), 1),
        "after 1",
    ),
    "no action": (
        lambda: RolloutSource(lambda act, rng: 1.0, WRITER, gamma=1.0).draw(np.zeros(8), 1),
        "never called act",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_what_is_wrong(name, monkeypatch):
    monkeypatch.setattr("reinforce_np.environments.stepped.ENDLESS", 50)
    make, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError, TooLargeError), match=message):
        make()


# --- Gymnasium


def steady(draw, tau=0.02):
    """Whether every two consecutive rows of CartPole follow its dynamics: x' = x + τ ẋ (Euler)."""
    t = draw.trajectories
    rows = np.concatenate([np.append(s[:n], f) for s, n, f in zip(t.states, t.lengths, t.final_states)])
    inner = np.diff(rows) == 1
    inner[np.cumsum(t.lengths + 1)[:-1] - 1] = False
    o = draw.observations[rows]
    gap = o[1:, 0] - o[:-1, 0] - tau * o[:-1, 1]
    return bool(np.abs(gap[inner]).max() < 1e-6), bool(np.abs(gap[~inner]).max() > 1e-6)


CART = features.Polynomial([-2.4, -3, -0.2, -3], [2.4, 3, 0.2, 3], order=1, total=1)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled", "its own", "single"])
def test_gymnasium_environments_are_read_right(mode):
    gymnasium = pytest.importorskip("gymnasium")
    policy, env = FeatureSoftmax(CART, 2), "CartPole-v1"
    options = {"max_steps": 500} if mode == "single" else {}
    if mode not in ("its own", "single"):
        reset = gymnasium.vector.AutoresetMode(mode)
        env = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 3, autoreset_mode=reset)
    draw = EnvironmentSource(env, policy, gamma=0.99, lanes=3, **options).draw(np.zeros(10), 7, rng=0)
    assert steady(draw) == (True, True)
    assert np.array_equal(draw.trajectories.rewards.sum(axis=1), draw.trajectories.lengths)
    again = EnvironmentSource(env, policy, gamma=0.99, lanes=3, **options).draw(np.zeros(10), 7, rng=0)
    assert np.array_equal(draw.observations, again.observations)


def test_gymnasium_actions_and_observations_of_other_kinds():
    pytest.importorskip("gymnasium")
    torque = GaussianPolicy(features.Scaled([-1, -1, -8], [1, 1, 8]), 1)
    draw = EnvironmentSource("Pendulum-v1", torque, gamma=0.95).draw(np.array([0.0, 0.0, 0.0, 1.0]), 2, rng=0)
    assert draw.trajectories.lengths.tolist() == [200, 200] and draw.trajectories.truncated.all()
    assert np.abs(draw.actions).max() > 2  # recorded as drawn; the environment was given what its bounds allow
    assert np.isfinite(algorithms.reinforce().gradient(draw.trajectories, draw.mdp, draw.policy, np.zeros(4))).all()
    cards = FeatureSoftmax(features.Polynomial([4, 1, 0], [21, 10, 1], order=1), 2)
    assert EnvironmentSource("Blackjack-v1", cards, gamma=1.0).draw(np.zeros(16), 5, rng=0).observations.shape[1] == 3
    with pytest.raises(ValueError, match="cannot be made"):
        EnvironmentSource("Nowhere-v7", cards, gamma=1.0).draw(np.zeros(16), 1)
    with pytest.raises(ValueError, match="Discrete"):
        EnvironmentSource("Blackjack-v1", torque, gamma=1.0).draw(np.zeros(4), 1)


def test_an_id_may_name_the_module_that_registers_it(tmp_path, monkeypatch):
    pytest.importorskip("gymnasium")
    (tmp_path / "registering.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Elsewhere-v0', entry_point=CartPoleEnv, max_episode_steps=3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    source = EnvironmentSource("registering:Elsewhere-v0", FeatureSoftmax(CART, 2), gamma=1.0)
    assert source.draw(np.zeros(10), 2, rng=0).trajectories.lengths.tolist() == [3, 3]


def test_an_id_without_gymnasium_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"reinforce-np\[gymnasium\]"):
        EnvironmentSource("CartPole-v1", FeatureSoftmax(CART, 2), gamma=1.0).draw(np.zeros(10), 1)
