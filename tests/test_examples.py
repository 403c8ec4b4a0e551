"""The answers known on paper, against solvers that share nothing with the library.

EXACT is relative to the largest number involved; where a book prints rounded
values the test rounds as the book does.
"""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce_np import examples
from reinforce_np.arguments import TooLargeError
from reinforce_np.examples import checking
from reinforce_np.mdp import FiniteMDP

EXACT = 1e-12


# --- oracles -----------------------------------------------------------------


def uniform(mdp):
    return np.full((mdp.n_states, mdp.n_actions), 1.0 / mdp.n_actions)


def always(mdp, action):
    """The deterministic policy that takes one action, or one per state."""
    return np.eye(mdp.n_actions)[np.broadcast_to(action, mdp.n_states)]


def chain(mdp, pi):
    """The chain of a policy: continuation matrix (S, S) and expected reward (S,)."""
    P = np.zeros((mdp.n_states, mdp.n_states), dtype=pi.dtype)
    r = np.zeros(mdp.n_states, dtype=pi.dtype)
    for s, a, k in np.ndindex(mdp.probability.shape):
        weight = pi[s, a] * mdp.probability[s, a, k]
        r[s] += weight * mdp.reward[s, a, k]
        if not mdp.terminated[s, a, k]:
            P[s, mdp.next_state[s, a, k]] += weight
    return P, r


def values(mdp, pi):
    P, r = chain(mdp, pi)
    if mdp.horizon is None:
        return np.linalg.solve(np.eye(mdp.n_states) - mdp.gamma * P, r)
    V = np.zeros_like(r)
    for _ in range(mdp.horizon):
        V = r + mdp.gamma * P @ V
    return V


def objective(mdp, pi):
    return mdp.initial @ values(mdp, pi)


def action_values(mdp, V):
    """One Bellman backup without a policy, shape (S, A)."""
    future = np.where(mdp.terminated, 0.0, V[mdp.next_state])
    return (mdp.probability * (mdp.reward + mdp.gamma * future)).sum(axis=2)


def optimum(mdp, sweeps):
    V = np.zeros(mdp.n_states)
    for _ in range(sweeps):
        V = action_values(mdp, V).max(axis=1)
    return V


def softmax(logits):
    weights = np.exp(logits - logits.real.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def gradient(mdp, features, theta):
    """dJ/dθ of a linear softmax by the complex step."""
    steps = theta + 1e-30j * np.eye(theta.size)
    return np.array([objective(mdp, softmax(features @ step)).imag / 1e-30 for step in steps])


def tabular(mdp):
    return np.eye(mdp.n_states * mdp.n_actions).reshape(mdp.n_states, mdp.n_actions, -1)


def stationary(mdp, pi):
    """The stationary distribution of an endless chain, by solving ρP = ρ, Σρ = 1."""
    P, _ = chain(mdp, pi)
    system = np.vstack([P.T - np.eye(mdp.n_states), np.ones(mdp.n_states)])
    return np.linalg.lstsq(system, np.eye(mdp.n_states + 1)[-1], rcond=None)[0]


def close(actual, expected, scale=None):
    scale = np.max(np.abs(expected)) if scale is None else scale
    np.testing.assert_allclose(actual, expected, rtol=0, atol=EXACT * scale)


# --- the catalogue -----------------------------------------------------------


@pytest.mark.parametrize("name", examples.CATALOGUE)
def test_the_catalogue_can_be_called_without_arguments(name):
    mdp = examples.CATALOGUE[name]()
    assert isinstance(mdp, FiniteMDP)
    assert np.isfinite(objective(mdp, uniform(mdp)))


def test_all_names_everything_in_the_catalogue():
    assert set(examples.CATALOGUE) <= set(examples.__all__)
    assert list(examples.__all__) == sorted(examples.__all__)
    assert all(hasattr(examples, name) for name in examples.__all__)


@pytest.mark.parametrize("name", sorted(set(examples.__all__) - {"CATALOGUE", "LAKES"}))
def test_every_docstring_has_its_sections(name):
    text = getattr(examples, name).__doc__
    assert "Returns\n" in text and "Examples\n" in text and ">>>" in text
    if name in examples.CATALOGUE:
        assert "**Known answer.**" in text
        assert "*Source*" in text or "own construction" in text


# --- bandit ------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.0, 0.75])
def test_bandit(spread):
    r = np.array([1.0, 3.0, -2.0])
    mdp = examples.bandit(means=r, spread=spread)
    theta = np.array([0.3, -0.5, 1.0])
    pi = softmax(theta[None])
    J = pi[0] @ r
    close(objective(mdp, pi), J)
    close(gradient(mdp, tabular(mdp), theta), pi[0] * (r - J))
    second = (pi[..., None] * mdp.probability * mdp.reward**2).sum()
    close(second - J**2, pi[0] @ (r**2 + spread**2) - J**2, scale=10)


def test_bandit_refuses():
    with pytest.raises(ValueError, match="spread=-1"):
        examples.bandit(spread=-1)
    with pytest.raises(ValueError, match="means is empty"):
        examples.bandit(means=[])


# --- corridor ----------------------------------------------------------------


def corridor_policy(p):
    return np.tile([p, 1 - p], (4, 1))


@pytest.mark.parametrize("p", [0.05, 0.3, 2 - 2**0.5, 0.95])
def test_short_corridor(p):
    mdp = examples.short_corridor()
    J = 2 * (p - 2) / (p * (1 - p))
    close(objective(mdp, corridor_policy(p)), J, scale=abs(J) * 10)
    slope = 2 * (p * p - 4 * p + 2) / (p * (1 - p))
    theta = np.array([np.log(p / (1 - p)), 0.0])
    close(gradient(mdp, examples.action_features(4, 2), theta), [slope, -slope], scale=1000)


def test_short_corridor_numbers_of_the_book():
    mdp = examples.short_corridor()
    best = objective(mdp, corridor_policy(2 - 2**0.5))
    close(best, -(6 + 4 * 2**0.5))
    assert round(best, 1) == -11.7
    assert best > objective(mdp, corridor_policy(0.58)) and best > objective(mdp, corridor_policy(0.59))
    assert round(objective(mdp, corridor_policy(0.95))) == -44
    assert round(objective(mdp, corridor_policy(0.05))) == -82


def test_short_corridor_with_a_horizon_counts_steps():
    assert objective(examples.short_corridor(horizon=2), corridor_policy(0.5)) == -2.0


# --- chains ------------------------------------------------------------------


def test_delayed_chain():
    mdp = examples.delayed_chain(length=4, reward=2.5, gamma=0.8)
    theta = np.array([0.5, 0.0, -1.0, 0.25, 0.0, 2.0, 1.0, 0.0, 9.0, 9.0])
    pi = softmax(theta.reshape(5, 2))[:4]
    J = 0.8**3 * 2.5 * pi[:, 0].prod()
    close(objective(mdp, softmax(theta.reshape(5, 2))), J)
    expected = np.zeros((5, 2))
    expected[:4, 0] = J * (1 - pi[:, 0])
    expected[:4, 1] = -expected[:4, 0]
    close(gradient(mdp, tabular(mdp), theta), expected.ravel())


def test_river_swim():
    mdp = examples.river_swim()
    drift, swim = always(mdp, 0), always(mdp, 1)
    close(values(mdp, drift), 0.95 ** np.arange(6) * 5 / 0.05)
    rho = stationary(mdp, swim)
    close(rho, np.array([7, 21, 63, 189, 567, 243]) / 1090)
    close(rho @ chain(mdp, swim)[1], 3000 * 243 / 1090)
    assert round(3000 * 243 / 1090) == 669
    assert examples.river_swim(large=1.0, small=0.005).reward.max() == 1.0


# --- random walk -------------------------------------------------------------


def test_random_walk_of_the_book():
    close(values(examples.random_walk(), np.full((7, 2), 0.5))[1:6], np.arange(1, 6) / 6)
    nineteen = examples.random_walk(n_states=19, left_reward=-1.0)
    close(values(nineteen, np.full((21, 2), 0.5))[1:20], np.arange(-9, 10) / 10, scale=10)
    assert nineteen.initial[10] == 1.0


@pytest.mark.parametrize("p", [0.3, 0.7])
def test_random_walk_is_the_gamblers_ruin(p):
    mdp = examples.random_walk(n_states=6, left_reward=-2.0, right_reward=3.0)
    x = (1 - p) / p
    arrives = (1 - x ** np.arange(1, 7)) / (1 - x**7)
    close(values(mdp, np.tile([1 - p, p], (8, 1)))[1:7], -2 + 5 * arrives)


# --- gridworlds --------------------------------------------------------------


def test_gridworld_4x4():
    mdp = examples.gridworld_4x4()
    V = [0, -14, -20, -22, -14, -18, -20, -20, -20, -20, -18, -14, -22, -20, -14, 0]
    close(values(mdp, uniform(mdp)), np.array(V, dtype=float))


def test_gridworld_5x5():
    mdp = examples.gridworld_5x5()
    printed = [
        [3.3, 8.8, 4.4, 5.3, 1.5],
        [1.5, 3.0, 2.3, 1.9, 0.5],
        [0.1, 0.7, 0.7, 0.4, -0.4],
        [-1.0, -0.4, -0.4, -0.6, -1.2],
        [-1.9, -1.3, -1.2, -1.4, -2.0],
    ]
    np.testing.assert_array_equal(values(mdp, uniform(mdp)).round(1), np.ravel(printed))
    printed = [
        [22.0, 24.4, 22.0, 19.4, 17.5],
        [19.8, 22.0, 19.8, 17.8, 16.0],
        [17.8, 19.8, 17.8, 16.0, 14.4],
        [16.0, 17.8, 16.0, 14.4, 13.0],
        [14.4, 16.0, 14.4, 13.0, 11.7],
    ]
    best = optimum(mdp, 500)
    np.testing.assert_array_equal(best.round(1), np.ravel(printed))
    close(best[1], 10 / (1 - 0.9**5))


def path(mdp, moves):
    """The return of a list of actions in a deterministic MDP, which must end exactly there."""
    s, total = int(mdp.initial.argmax()), 0.0
    for t, a in enumerate(moves):
        total += mdp.gamma**t * mdp.reward[s, a, 0]
        assert mdp.terminated[s, a, 0] == (t == len(moves) - 1)
        s = mdp.next_state[s, a, 0]
    return total


def test_cliff():
    mdp = examples.cliff()
    up, right, down = 0, 1, 2
    assert path(mdp, [up] + 11 * [right] + [down]) == -13
    assert path(mdp, 3 * [up] + 11 * [right] + 3 * [down]) == -17
    assert path(mdp, [right, right, up] + 11 * [right] + [down]) == -213
    assert mdp.initial @ optimum(mdp, 100) == -13


def distributions(mdp):
    """Per state and action, the distribution over (next state, reward, terminated)."""
    table = {}
    for s, a, k in np.ndindex(mdp.probability.shape):
        key = (int(mdp.next_state[s, a, k]), float(mdp.reward[s, a, k]), bool(mdp.terminated[s, a, k]))
        row = table.setdefault((s, a), {})
        row[key] = row.get(key, 0.0) + mdp.probability[s, a, k]
    return {pair: {key: p for key, p in row.items() if p > 0} for pair, row in table.items()}


def gymnasium_distributions(env):
    table = {}
    for s, rows in env.P.items():
        for a, outcomes in rows.items():
            row = table.setdefault((int(s), int(a)), {})
            for p, next_state, reward, terminated in outcomes:
                key = (int(next_state), float(reward), bool(terminated))
                row[key] = row.get(key, 0.0) + p
    return {pair: {key: p for key, p in row.items() if p > 0} for pair, row in table.items()}


@pytest.mark.parametrize(
    ("mdp", "env_id", "options"),
    [
        (examples.cliff(), "CliffWalking-v1", {}),
        (examples.cliff(slippery=True), "CliffWalking-v1", {"is_slippery": True}),
        (examples.frozen_lake(), "FrozenLake-v1", {}),
        (examples.frozen_lake(map="8x8"), "FrozenLake8x8-v1", {}),
        (examples.frozen_lake(slippery=False), "FrozenLake-v1", {"is_slippery": False}),
        (examples.frozen_lake(success_rate=0.75), "FrozenLake-v1", {"success_rate": 0.75}),
        (examples.frozen_lake(map=["SFS", "HFG"]), "FrozenLake-v1", {"desc": ["SFS", "HFG"]}),
    ],
)
def test_same_tables_as_gymnasium(mdp, env_id, options):
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make(env_id, **options).unwrapped
    ours, theirs = distributions(mdp), gymnasium_distributions(env)
    assert ours.keys() == theirs.keys()
    for pair, row in theirs.items():
        assert ours[pair] == pytest.approx(row, rel=EXACT)
    np.testing.assert_array_equal(mdp.initial, env.initial_state_distrib)


def test_frozen_lake():
    lake = examples.frozen_lake(horizon=None)
    close(optimum(lake, 3000)[0], 14 / 17)
    close(optimum(examples.frozen_lake(map="8x8"), 20000)[0], 1.0)
    dry = examples.frozen_lake(slippery=False, gamma=0.5)
    down, right = 1, 2
    assert path(dry, [down, down, right, right, down, right]) == 0.5**5
    assert optimum(dry, 100)[0] == 0.5**5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("5x5", "map='5x5' is unknown; pass one of 4x4, 8x8"),
        ([], "no cells"),
        ([""], "no cells"),
        (["SF", "G"], "map[1]='G' has 1 cells, but map[0] has 2"),
        (["SFX"], "map[0]='SFX' has the letter 'X'; use S (start)"),
        (["FFG"], "no start"),
    ],
)
def test_frozen_lake_refuses_bad_maps(bad, message):
    with pytest.raises(ValueError) as error:
        examples.frozen_lake(map=bad)
    assert message in str(error.value)


def test_frozen_lake_refuses_other_types_and_probabilities():
    with pytest.raises(TypeError, match=r"map\[0\]=3"):
        examples.frozen_lake(map=[3])
    with pytest.raises(ValueError, match=r"success_rate=1\.5"):
        examples.frozen_lake(success_rate=1.5)


# --- two and three states ----------------------------------------------------


def test_recycling_robot():
    alpha, gamma = 0.625, 0.8
    mdp = examples.recycling_robot(alpha=alpha, beta=0.25, search_reward=5.0, wait_reward=0.5, gamma=gamma)
    search, wait, recharge = 0, 1, 2
    high = 5.0 / (1 - gamma * alpha - gamma**2 * (1 - alpha))
    close(values(mdp, always(mdp, [search, recharge])), [high, gamma * high])
    close(values(mdp, always(mdp, wait)), [0.5 / (1 - gamma)] * 2)
    # The two Bellman equations of Example 3.9, written out, for the best policy.
    h, low = optimum(mdp, 400)
    close(h, max(5 + gamma * (alpha * h + (1 - alpha) * low), 0.5 + gamma * h))
    close(
        low,
        max(0.25 * 5 - 3 * 0.75 + gamma * (0.75 * h + 0.25 * low), 0.5 + gamma * low, gamma * h),
    )
    with pytest.raises(ValueError, match="alpha=2"):
        examples.recycling_robot(alpha=2)


def test_kakade_two_state():
    mdp = examples.kakade_two_state(gamma=0.8)
    g, p = 0.8, 0.9
    q = 1 - 4 * (1 - p)
    pi = np.array([[p, 1 - p], [q, 1 - q]])
    d = (1 - g * p) * (1 - g * q) - g * g * (1 - p) * (1 - q)
    V = [((1 - g * q) * p + 2 * g * (1 - p) * q) / d, (2 * (1 - g * p) * q + g * (1 - q) * p) / d]
    close(values(mdp, pi), V)
    rho = stationary(mdp, pi)
    close(rho, [0.8, 0.2])
    close(rho @ chain(mdp, pi)[1], (p * (1 - q) + 2 * q * (1 - p)) / (2 - p - q))


def test_natural_gradient_of_kakade_two_state_is_the_advantage():
    mdp = examples.kakade_two_state()
    theta = np.array([1.0, 0.0, -0.5, 0.5])
    pi = softmax(theta.reshape(2, 2))
    V = values(mdp, pi)
    occupancy = np.linalg.solve((np.eye(2) - mdp.gamma * chain(mdp, pi)[0]).T, mdp.initial)
    fisher = np.zeros((4, 4))
    for s, a in np.ndindex(2, 2):
        score = np.zeros((2, 2))
        score[s] = np.eye(2)[a] - pi[s]
        fisher += occupancy[s] * pi[s, a] * np.outer(score, score)
    advantage = (action_values(mdp, V) - V[:, None]).ravel()
    close(fisher @ advantage, gradient(mdp, tabular(mdp), theta))


def test_baxter_bartlett():
    mdp = examples.baxter_bartlett(gamma=0.95)
    best, worst = always(mdp, 1), always(mdp, 0)
    close(values(mdp, best), [0.8 / 0.05] * 3, scale=100)
    close(values(mdp, worst), [0.2 / 0.05] * 3, scale=100)
    close(values(mdp, uniform(mdp)), [0.5 / 0.05] * 3, scale=100)
    close(stationary(mdp, best), np.array([1, 5, 24]) / 30)
    close(stationary(mdp, best) @ chain(mdp, best)[1], 0.8)
    close(optimum(mdp, 1000), [16.0] * 3)


def test_baxter_bartlett_features_can_express_the_best_policy():
    features = examples.baxter_bartlett_features()
    assert features.shape == (3, 2, 4)
    close(features[:, 0, :2] * 18, [[12, 6], [6, 12], [5, 5]])
    np.testing.assert_array_equal(features[:, 0, :2], features[:, 1, 2:])
    assert not features[:, 0, 2:].any() and not features[:, 1, :2].any()
    mdp = examples.baxter_bartlett()
    best = objective(mdp, softmax(features @ np.array([-200.0, -200.0, 200.0, 200.0])))
    close(best, 8.0, scale=10)


def test_aima_three_state():
    mdp = examples.aima_three_state()
    close(values(mdp, always(mdp, 1)), [-10, -20, 0])
    close(values(mdp, always(mdp, [1, 0, 0])), [-10, -12.5, 0])
    close(values(mdp, uniform(mdp)), np.array([-500, -520, 0]) / 17)
    close(optimum(mdp, 1000), [-10, -12.5, 0])
    endless = chain(mdp, always(mdp, 0))[0][:2, :2]
    close(endless.sum(axis=1), [1, 1])


# --- language ----------------------------------------------------------------


def answers(vocabulary, max_length):
    return [word for length in range(max_length + 1) for word in itertools.product(vocabulary, repeat=length)]


def test_token_sequences_is_a_sum_over_answers():
    vocabulary, max_length, prompts, weights = ["x", "y", 7], 3, ["one", "two"], np.array([0.25, 0.75])

    def verifier(prompt, tokens):
        return len(prompt) * tokens.count(7) - 0.5 * len(tokens) + (prompt == "two")

    mdp = examples.token_sequences(vocabulary, max_length, verifier, prompts, weights=weights)
    states = examples.token_sequence_states(vocabulary, max_length, prompts)
    assert mdp.n_states == len(states) == 2 * (1 + 3 + 9) and mdp.n_actions == 4 and mdp.horizon == 3
    pi = softmax(np.random.default_rng(0).normal(size=(mdp.n_states, 4)))
    J, total = 0.0, 0.0
    for prompt, weight in zip(prompts, weights, strict=True):
        for tokens in answers(vocabulary, max_length):
            probability = weight
            actions = [vocabulary.index(token) for token in tokens] + [3] * (len(tokens) < max_length)
            for t, a in enumerate(actions):
                probability *= pi[states.index((prompt, tokens[:t])), a]
            J += probability * verifier(prompt, tokens)
            total += probability
    close(total, 1.0)
    close(objective(mdp, pi), J, scale=10)


def test_token_sequences_moves_and_scores_by_hand():
    mdp = examples.token_sequences("ab", 2, lambda prompt, tokens: f"{prompt}{''.join(tokens)}".count("a"), ["a", ""])
    a, end = 0, 2
    assert mdp.reward[0, end, 0] == 1 and mdp.reward[3, end, 0] == 0  # empty answers
    assert mdp.next_state[0, a, 0] == 1 and mdp.reward[0, a, 0] == 0 and not mdp.terminated[0, a, 0]
    assert mdp.reward[1, end, 0] == 2 and mdp.reward[1, a, 0] == 3 and mdp.terminated[1].all()
    assert mdp.next_state[3, a, 0] == 4 and mdp.reward[4, a, 0] == 2
    np.testing.assert_array_equal(mdp.initial, [0.5, 0, 0, 0.5, 0, 0])


def test_token_sequences_calls_the_verifier_once_per_answer():
    calls = []
    examples.token_sequences("ab", 3, lambda prompt, tokens: calls.append((prompt, tokens)) or 0.0, "pq")
    assert sorted(calls) == sorted((prompt, tokens) for prompt in "pq" for tokens in answers("ab", 3))


def test_token_sequences_with_one_token_is_a_line():
    mdp = examples.token_sequences(["go"], 3, lambda prompt, tokens: float(len(tokens)), [None])
    np.testing.assert_array_equal(mdp.next_state[:, :, 0], [[1, 0], [2, 1], [2, 2]])
    np.testing.assert_array_equal(mdp.reward[:, :, 0], [[0, 0], [0, 1], [3, 2]])


def test_token_sequences_refuses_huge_trees_before_scoring():
    def verifier(prompt, tokens):
        raise AssertionError("called")

    with pytest.raises(TooLargeError, match="gives 111111100 answers to score, more than limit=100000"):
        examples.token_sequences(range(10), 6, verifier, range(100))
    with pytest.raises(TooLargeError, match=r"about 10\^4771 answers"):
        examples.token_sequences(range(3), 10_000, verifier, ["?"])
    with pytest.raises(TooLargeError, match="gives 1000000000000001 answers"):
        examples.token_sequences("a", 10**15, verifier, ["?"], limit=10_000)
    with pytest.raises(TooLargeError, match=r"gives 15 answers.*limit=14"):
        examples.token_sequence_states("ab", 3, ["?"], limit=14)
    assert len(examples.token_sequence_states("ab", 3, ["?"], limit=15)) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", 2, len, ["?"]), "vocabulary is empty"),
        (("ab", 2, len, []), "prompts is empty"),
        (("ab", 0, len, ["?"]), "max_length=0"),
        (("ab", 1, lambda prompt, tokens: float("nan"), ["?"]), r"verifier\('\?', \('a',\)\)=nan"),
    ],
)
def test_token_sequences_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        examples.token_sequences(*arguments)


def test_token_sequences_refuses_weights_that_do_not_sum_to_one():
    with pytest.raises(ValueError, match=r"weights sums to 0\.5"):
        examples.token_sequences("ab", 1, lambda prompt, tokens: 0.0, ["?", "!"], weights=[0.25, 0.25])


def test_copy_task():
    mdp = examples.copy_task()
    close(objective(mdp, uniform(mdp)), 2 / 27)
    theta = np.random.default_rng(1).normal(size=mdp.n_states * 3)
    pi = softmax(theta.reshape(-1, 3))
    first, second = pi[0, 0] * pi[1, 2], pi[7, 1] * pi[7 + 2, 0] * pi[7 + 5, 2]
    close(objective(mdp, pi), (first + second) / 2)
    slope = gradient(mdp, tabular(mdp), theta).reshape(-1, 3)
    close(slope[0], 0.5 * first * (np.eye(3)[0] - pi[0]))
    close(slope[7], 0.5 * second * (np.eye(3)[1] - pi[7]))
    close(objective(mdp, always(mdp, 2)), 0.0, scale=1.0)


# --- made for checking -------------------------------------------------------


def count_trajectories(mdp):
    """Number of trajectories of positive probability, by the backward integer recursion."""
    counts = [1] * mdp.n_states
    for _ in range(mdp.horizon):
        counts = [
            sum(
                1 if mdp.terminated[s, a, k] else counts[mdp.next_state[s, a, k]]
                for a, k in np.ndindex(mdp.probability.shape[1:])
                if mdp.probability[s, a, k] > 0
            )
            for s in range(mdp.n_states)
        ]
    return sum(count for count, p in zip(counts, mdp.initial, strict=True) if p > 0)


def test_referee_known_answer_in_fractions():
    mdp = examples.referee()

    def exact(number):
        return Fraction(repr(float(number)))

    def ahead(s, t):
        """Expected return, probability of termination, length, from state s at time t."""
        answer = [Fraction(0)] * 3
        for a, k in np.ndindex(3, 2):
            weight = Fraction(1, 3) * exact(mdp.probability[s, a, k])
            this = [exact(mdp.reward[s, a, k]), Fraction(int(mdp.terminated[s, a, k])), Fraction(1)]
            if not mdp.terminated[s, a, k] and t + 1 < 4:
                later = ahead(int(mdp.next_state[s, a, k]), t + 1)
                this = [this[0] + Fraction(9, 10) * later[0], later[1], 1 + later[2]]
            answer = [x + weight * y for x, y in zip(answer, this, strict=True)]
        return answer

    starts = [ahead(s, 0) for s in range(3)]
    weights = [exact(p) for p in mdp.initial]
    J, ended, length = (sum(w * start[i] for w, start in zip(weights, starts, strict=True)) for i in range(3))
    assert J == Fraction(1993878359, 960000000)
    assert ended == Fraction(1409203, 2592000)
    assert length == Fraction(663671, 216000)
    close(objective(mdp, uniform(mdp)), float(J))


def test_referee_has_what_it_promises():
    mdp = examples.referee()
    assert (mdp.n_states, mdp.n_actions, mdp.n_outcomes, mdp.gamma, mdp.horizon) == (3, 3, 2, 0.9, 4)
    assert count_trajectories(mdp) == 1363
    assert len(set(mdp.initial)) == 3 and mdp.initial.min() > 0 and mdp.probability.min() > 0
    assert mdp.reward.mean() > 0.5 and mdp.reward.max() == 3 and mdp.reward.min() == -1.5
    same = mdp.next_state[..., 0] == mdp.next_state[..., 1]
    assert (same & (mdp.reward[..., 0] == mdp.reward[..., 1])).any()  # then they differ in termination
    assert (same & (mdp.terminated[..., 0] == mdp.terminated[..., 1])).any()  # then they differ in reward
    assert (mdp.next_state == np.arange(3)[:, None, None]).any()


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6)),
    termination=st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.99, 1.0]),
    density=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    start=st.sampled_from(["random", "uniform", 0]),
    seed=st.integers(0, 2**32),
)
def test_random_mdp_keeps_its_guarantees(sizes, termination, density, start, seed):
    S, A, K = sizes
    mdp = examples.random_mdp(
        n_states=S,
        n_actions=A,
        n_outcomes=K,
        gamma=1.0,
        horizon=None if termination else 5,
        termination=termination,
        reward_density=density,
        reward_scale=0.5,
        reward_mean=-3.0,
        start=start,
        rng=seed,
    )
    assert mdp.probability.shape == (S, A, K) and mdp.probability.min() > 0
    assert (mdp.probability.max(axis=2) <= 5 * mdp.probability.min(axis=2) * (1 + EXACT)).all()
    assert mdp.terminated.any() == (termination > 0)
    assert mdp.terminated.all() == (termination == 1 or (termination > 0 and S * A * K == 1))
    paid = mdp.reward[mdp.reward != 0]
    assert (paid.size > 0) == (density > 0) and (density < 1 or paid.size == mdp.reward.size)
    assert ((paid >= -3.5) & (paid <= -2.5)).all()
    if start == "uniform":
        close(mdp.initial, np.full(S, 1 / S))
    else:
        assert (mdp.initial > 0).sum() == (1 if start == 0 else S)
    if termination:  # proper: the linear system has a bounded solution, the expected length
        lengths = np.linalg.solve(np.eye(S) - chain(mdp, uniform(mdp))[0], np.ones(S))
        assert (lengths >= 1 - EXACT).all() and np.isfinite(lengths).all()
    if termination == 0 and K <= S:  # nothing had to be redirected
        assert all(len(set(row)) == K for row in mdp.next_state.reshape(-1, K))


@pytest.mark.parametrize(("sizes", "most"), [((40, 3, 6), 0), ((40, 3, 7), 40 * 3 * 5), ((3, 2, 8), 0)])
def test_next_states_of_large_random_mdps_are_distinct_too(monkeypatch, sizes, most):
    """Drawn again where two are the same, or sorted in parts."""
    monkeypatch.setattr(checking, "MOST_SORTED", most)
    S, A, K = sizes
    found = checking._next_states(sizes, np.random.default_rng(0))
    assert found.shape == sizes and found.min() >= 0 and found.max() < S
    assert all(len(set(row)) == min(K, S) for row in found.reshape(-1, K).tolist())
    share = np.bincount(found.ravel(), minlength=S) / (S * A * K)
    assert share.max() < 2 / S < 2.5 * (share.min() + 1 / S)
    if K * K > S:
        monkeypatch.undo()
        assert np.array_equal(found, checking._next_states(sizes, np.random.default_rng(0)))


@pytest.mark.parametrize("seed", range(5))
def test_states_are_connected_to_an_end_by_any_number_of_steps(seed):
    """No state is redirected that an end can be reached from, however many steps that takes."""
    line = np.arange(1, 13).clip(max=11)[:, None, None]  # state by state to the last, which alone ends
    ends = np.zeros((12, 1, 1), dtype=bool)
    ends[11] = True
    connected = line.copy()
    checking._connect(connected, ends, np.random.default_rng(seed))
    assert np.array_equal(connected, line)
    ends[11], ends[0], loop = False, True, line.copy()
    checking._connect(loop, ends, np.random.default_rng(seed))
    assert (loop != line).sum() >= 1
    reached = ends[:, 0, 0]
    for _ in range(12):
        reached = reached | reached[loop[:, 0, 0]]
    assert reached.all()


def test_random_mdp_is_reproducible():
    one, two = examples.random_mdp(rng=3), examples.random_mdp(rng=np.random.default_rng(3))
    for name in ("probability", "next_state", "reward", "terminated", "initial"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    rng = np.random.default_rng(3)
    assert (examples.random_mdp(rng=rng).reward != examples.random_mdp(rng=rng).reward).any()
    assert isinstance(examples.random_mdp(), FiniteMDP)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"termination": 1.5}, "termination=1.5"),
        ({"reward_density": -1}, "reward_density=-1"),
        ({"n_states": 0}, "n_states=0"),
        ({"start": "left"}, "start='left' is unknown"),
        ({"start": 3}, r"start=3 is out of range; it must be in \[0, 2\]"),
        ({"gamma": 1.0, "horizon": None, "termination": 0.0}, "never ends"),
    ],
)
def test_random_mdp_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        examples.random_mdp(**options, rng=0)
