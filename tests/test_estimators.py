"""Estimators: weights against loops, and "unbiased" by listing every trajectory."""

import dataclasses
import itertools

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from problems import PROBLEMS, problems, score_by_loops, table
from tolerances import EXACT, assert_exact

from reinforce_np import (
    Estimator,
    RewardToGo,
    TabularSoftmax,
    TotalReturn,
    Undiscounted,
    algorithms,
    enumerate_trajectories,
    exact,
    examples,
    sample,
)
from reinforce_np.estimators import each as each_module
from reinforce_np.estimators import returns, rewards_to_go, ways

REFEREE = examples.referee()
POLICY = TabularSoftmax(3, 3)
THETA = np.array([0.3, -0.5, 1.0, 0.0, 0.7, -1.2, -0.4, 0.2, 0.9])
BATCH = sample(REFEREE, POLICY, THETA, 60, rng=0)
BY_STATE = np.array([0.5, -1.0, 2.0])
BY_TIME = np.arange(12.0).reshape(4, 3) - 4
ESTIMATORS = {
    "total return": Estimator(TotalReturn()),
    "total return, number": Estimator(TotalReturn(baseline=1.5)),
    "to go": Estimator(RewardToGo()),
    "to go, number": Estimator(RewardToGo(baseline=-0.75)),
    "to go, by state": Estimator(RewardToGo(baseline=BY_STATE)),
    "to go, by time": Estimator(RewardToGo(baseline=BY_TIME)),
    "to go, score not discounted": Estimator(RewardToGo(baseline=BY_STATE), discounted_score=False),
}


def steps_of(batch, n):
    """The trajectory n as the reference wants it: (state, action, reward) of each step."""
    return [
        (int(batch.states[n, t]), int(batch.actions[n, t]), float(batch.rewards[n, t])) for t in range(batch.lengths[n])
    ]


def by_reference(estimator, batch, score, gamma):
    """Every trajectory's estimate from the textbook formula in fractions, shape (N, D)."""
    total, b = isinstance(estimator.advantage, TotalReturn), np.asarray(estimator.advantage.baseline)

    def baseline(t, s):
        return b if b.ndim == 0 else b[s] if b.ndim == 1 else b[t, s]

    return np.array([
        reference.reinforce(steps_of(batch, n), score, gamma, "total" if total else "to_go", baseline, estimator.discounted_score)
        for n in range(len(batch))
    ], dtype=float)  # fmt: skip


def expectation(estimator, problem):
    """E[ĝ] over all trajectories, and the largest term of the sum."""
    trajectories, p = enumerate_trajectories(*problem)
    estimates = estimator.per_trajectory(trajectories, *problem)
    return p @ estimates, np.abs(p[:, None] * estimates).sum(axis=0).max(initial=1e-300)


# --- returns


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 1.0])
def test_returns_and_rewards_to_go_against_loops(gamma):
    rewards = np.random.default_rng(0).normal(size=(5, 6))
    R, G = returns(rewards, gamma), rewards_to_go(rewards, gamma)
    for n in range(5):
        assert_exact(R[n], reference.discounted_return([(0, 0, r) for r in rewards[n]], gamma))
        for t in range(6):
            assert_exact(G[n, t], reference.discounted_return([(0, 0, r) for r in rewards[n, t:]], gamma), scale=6)


def test_gamma_zero_counts_only_the_reward_at_hand():
    rewards = np.array([[1.0, 2.0, 4.0]])
    assert returns(rewards, 0.0).tolist() == [1.0]
    assert rewards_to_go(rewards, 0.0).tolist() == [[1.0, 2.0, 4.0]]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 1)])
def test_returns_of_few_rewards(shape):
    rewards = np.ones(shape)
    assert returns(rewards, 0.5).shape == shape[:1]
    assert np.array_equal(rewards_to_go(rewards, 0.5), rewards[:, :1] if shape[1] else rewards) or shape[0] == 0


def test_rewards_to_go_leaves_its_argument_alone():
    rewards = np.array([[1, 2, 4]])
    assert rewards_to_go(rewards, 0.5).tolist() == [[3.0, 4.0, 4.0]]
    assert rewards.tolist() == [[1, 2, 4]]


# --- one formula, three ways to read it


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimates_are_the_textbooks(name):
    psi = POLICY.score(THETA)
    expected = by_reference(ESTIMATORS[name], BATCH, lambda s, a: psi[s, a], REFEREE.gamma)
    assert_exact(ESTIMATORS[name].per_trajectory(BATCH, REFEREE, POLICY, THETA), expected)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradient_is_the_mean_and_the_weighted_sum_of_scores(name):
    estimator, arguments = ESTIMATORS[name], (BATCH, REFEREE, POLICY, THETA)
    gradient, w = estimator.gradient(*arguments), estimator.weights(*arguments)
    scores = score_by_loops(POLICY, THETA)[BATCH.states, BATCH.actions]
    assert w.shape == (60, 4)
    assert not w[~BATCH.mask].any()
    assert_exact(gradient, np.einsum("nt,ntd->d", w, scores))
    assert_exact(gradient, estimator.per_trajectory(*arguments).mean(axis=0))
    assert_exact(
        gradient, by_reference(estimator, BATCH, lambda s, a: score_by_loops(POLICY, THETA)[s, a], 0.9).mean(axis=0)
    )


@given(
    problem=problems(horizons=(1, 2, 3, 4)),
    name=st.sampled_from(sorted(set(ESTIMATORS) - {"to go, by state", "to go, by time"})),
)
def test_estimates_of_random_problems_are_the_textbooks(problem, name):
    mdp, policy, theta = problem
    batch, psi = sample(*problem, 12, rng=0), score_by_loops(policy, theta)
    estimator = ESTIMATORS[name] if "not" not in name else Estimator(RewardToGo(), discounted_score=False)
    expected = by_reference(estimator, batch, lambda s, a: psi[s, a], mdp.gamma)
    scale = 4 * np.abs(psi).max() * (np.abs(mdp.reward).max() * 4 + 2)
    assert_exact(estimator.per_trajectory(batch, *problem), expected, scale)
    assert_exact(estimator.gradient(batch, *problem), expected.mean(axis=0), scale)


@pytest.mark.parametrize("batch", [BATCH, BATCH.take(slice(None))], ids=["packed", "written out"])
def test_chunks_change_nothing(monkeypatch, batch):
    arguments = (batch, REFEREE, POLICY, THETA)
    whole = algorithms.reinforce().per_trajectory(*arguments)
    seen = []
    original = TabularSoftmax.contract
    monkeypatch.setattr(
        TabularSoftmax,
        "contract",
        lambda self, theta, w, **options: seen.append(len(w)) or original(self, theta, w, **options),
    )
    for name, size, most in (
        ("CELLS", 1, 1),
        ("CELLS", ways.row_width(9) * 7, 7),
        ("STEPS", 1, 1),
    ):  # one at a time, and seven
        seen.clear()
        monkeypatch.setattr(each_module, "CELLS", 10**6)
        monkeypatch.setattr(each_module, "FEWEST", 1)
        monkeypatch.setattr(each_module, name, size)
        assert_exact(algorithms.reinforce().per_trajectory(*arguments), whole)  # a few rows take another path
        assert max(seen) == most
        assert sum(seen) == 60
    estimator, row = (
        algorithms.reinforce(),
        np.arange(60) // 7,
    )  # several trajectories to a row, several rows to a chunk
    found = estimator.contract(estimator.batch(*arguments), row, 9)
    assert_exact(found, np.add.reduceat(whole, np.arange(0, 60, 7)) / 60)


def test_estimates_do_not_depend_on_the_rest_of_the_batch():
    one = algorithms.reinforce().per_trajectory(BATCH.take([5]), REFEREE, POLICY, THETA)
    assert_exact(algorithms.reinforce().per_trajectory(BATCH, REFEREE, POLICY, THETA)[[5]], one)


def test_a_total_return_baseline_counts_once_per_step():
    plain, less = (Estimator(TotalReturn(b)).weights(BATCH, REFEREE, POLICY, THETA) for b in (0.0, 2.0))
    assert_exact((plain - less) * 60, 2.0 * BATCH.mask)


# --- unbiased, by enumeration


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_unbiased_on_the_fixed_problems(problem):
    g = exact.gradient(*problem)
    V = exact.values(*problem)
    for advantage in (
        TotalReturn(),
        TotalReturn(2.5),
        RewardToGo(),
        RewardToGo(-1.5),
        RewardToGo(V[0]),
        RewardToGo(V),
        RewardToGo(V[:-1]),
    ):
        mean, scale = expectation(Estimator(advantage), problem)
        assert_exact(mean, g, max(scale, np.abs(g).max()))


@given(problem=problems(extreme=True), data=st.data())
def test_unbiased_with_every_baseline(problem, data):
    mdp, g = problem.mdp, exact.gradient(*problem)
    T, S = mdp.horizon, mdp.n_states
    shape = data.draw(st.sampled_from([(), (S,), (max(T, 1), S), (T + 1, S)]))
    numbers = data.draw(st.lists(st.integers(-8, 8), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    baseline = np.array(numbers, dtype=float).reshape(shape) / 4
    advantages = [RewardToGo(baseline)] + ([TotalReturn(float(baseline))] if shape == () else [])
    for advantage in advantages:
        mean, scale = expectation(Estimator(advantage), problem)
        assert_exact(mean, g, max(scale, np.abs(g).max()))


def test_named_algorithms_are_fillings_of_the_formula():
    named = [
        algorithms.reinforce(),
        algorithms.reinforce(reward_to_go=False),
        algorithms.reinforce_with_baseline(BY_STATE),
    ]
    spelled = [ESTIMATORS["to go"], ESTIMATORS["total return"], ESTIMATORS["to go, by state"]]
    for one, other in zip(named, spelled, strict=True):
        arguments = (BATCH, REFEREE, POLICY, THETA)
        assert np.array_equal(one.weights(*arguments), other.weights(*arguments))
        assert one.discounted_score


@pytest.mark.parametrize("name", ESTIMATORS)
def test_credit_is_measured_from_the_step_and_the_discount_comes_later(name):
    """A credit from the step on is weighted by γᵗ, one from the start is not."""
    estimator = ESTIMATORS[name]
    batch = estimator.batch(BATCH, REFEREE, POLICY, THETA)
    credit = np.where(BATCH.mask, estimator.advantage.credit(batch), 0.0)
    discount = 0.9 ** np.arange(4) if estimator.discounted_score and not estimator.advantage.from_start else 1.0
    assert_exact(60 * estimator.weights(BATCH, REFEREE, POLICY, THETA), discount * credit)
    rewards = [[r for _, _, r in steps_of(BATCH, n)] for n in range(60)]
    b = np.asarray(estimator.advantage.baseline)
    for n, t in itertools.product(range(60), range(4)):
        if t < len(rewards[n]):
            s = BATCH.states[n, t]
            less = b if b.ndim == 0 else b[s] if b.ndim == 1 else b[t, s]
            first = 0 if estimator.advantage.from_start else t
            G = sum(0.9 ** (u - first) * rewards[n][u] for u in range(first, len(rewards[n])))
            assert abs(credit[n, t] - (G - less)) < 1e-12 * 20


# --- negative controls: the biased are caught


def relative_bias(mean, gradient):
    return np.abs(mean - gradient).max() / np.abs(gradient).max()


def test_dropping_the_discount_of_the_score_is_the_gradient_of_neither_objective():
    problem = (REFEREE.replace(gamma=0.5), POLICY, THETA)
    mean, _ = expectation(Estimator(RewardToGo(), discounted_score=False), problem)
    assert relative_bias(mean, exact.gradient(*problem)) > 0.05
    assert relative_bias(mean, exact.gradient(*problem, objective=Undiscounted())) > 0.05
    psi = score_by_loops(POLICY, THETA)
    short = REFEREE.replace(horizon=2)
    wrong, _ = reference.estimator_mean_and_second_moment(
        short,
        table(POLICY, THETA),
        lambda steps, *_: reference.reinforce(steps, lambda s, a: psi[s, a], 0.9, "to_go", None, False),
    )
    assert_exact(
        expectation(Estimator(RewardToGo(), discounted_score=False), (short, POLICY, THETA))[0], wrong, scale=10
    )


def test_dropping_it_changes_nothing_without_discount():
    problem = (REFEREE.replace(gamma=1.0), POLICY, THETA)
    mean, scale = expectation(Estimator(RewardToGo(), discounted_score=False), problem)
    assert_exact(mean, exact.gradient(*problem), scale)
    batch = sample(*problem, 20, rng=0)
    one, other = (Estimator(RewardToGo(BY_STATE), discounted_score=d).weights(batch, *problem) for d in (True, False))
    assert np.array_equal(one, other)


class ActionDependent:
    """The reward-to-go minus a number that depends on the action: no baseline, and biased."""

    from_start = False

    def credit(self, batch):
        return RewardToGo().credit(batch) - 0.5 * batch.trajectories.actions


def test_an_action_dependent_baseline_is_biased():
    problem = (REFEREE, POLICY, THETA)
    mean, _ = expectation(Estimator(ActionDependent()), problem)
    assert relative_bias(mean, exact.gradient(*problem)) > 0.05


@pytest.mark.parametrize("advantage", [TotalReturn(), RewardToGo(), RewardToGo(BY_STATE)])
def test_a_return_that_forgets_the_discount_is_biased(advantage):
    mean, _ = expectation(Estimator(advantage), (REFEREE, POLICY, THETA))
    other, _ = expectation(Estimator(advantage), (REFEREE.replace(gamma=1.0), POLICY, THETA))
    assert relative_bias(other, mean) > 0.05


# --- no steps, no trajectories, and refusals


def test_no_steps_give_zero():
    mdp = REFEREE.replace(horizon=0)
    batch = sample(mdp, POLICY, THETA, 4, rng=0)
    for advantage in (TotalReturn(1.0), RewardToGo(BY_STATE), RewardToGo(np.ones((1, 3)))):
        assert Estimator(advantage).weights(batch, mdp, POLICY, THETA).shape == (4, 0)
        assert not Estimator(advantage).gradient(batch, mdp, POLICY, THETA).any()
        assert Estimator(advantage).per_trajectory(batch, mdp, POLICY, THETA).tolist() == [[0.0] * 9] * 4


@pytest.mark.parametrize("method", ["weights", "gradient", "per_trajectory"])
def test_no_trajectories_are_refused(method):
    with pytest.raises(ValueError, match=r"trajectories are empty \(n=0\)"):
        getattr(algorithms.reinforce(), method)(BATCH.take(slice(0)), REFEREE, POLICY, THETA)


def test_the_total_return_has_no_undiscounted_score():
    with pytest.raises(ValueError, match=r"discounted_score=False has no meaning with advantage=TotalReturn"):
        Estimator(TotalReturn(), discounted_score=False)


@pytest.mark.parametrize("advantage", [None, 1.0, "to go"])
def test_an_advantage_must_give_credit(advantage):
    with pytest.raises(TypeError, match=f"advantage={advantage!r} does not fit into this slot; pass a record"):
        Estimator(advantage)


@pytest.mark.parametrize(("baseline", "error", "message"), [
    (np.zeros((2, 2, 2)), ValueError, r"baseline has shape \(2, 2, 2\); pass a number, \(S,\) or \(T, S\)"),
    (np.ones((3, 0)), ValueError, r"baseline has shape \(3, 0\)"),
    (np.nan, ValueError, "baseline=nan is not a finite number"),
    ([1.0, np.inf], ValueError, r"baseline\[1\]=inf"),
    ([1j], TypeError, "must hold real numbers"),
    ([[1.0], [1.0, 2.0]], ValueError, "not a rectangular array"),
])  # fmt: skip
def test_bad_baselines_are_refused(baseline, error, message):
    with pytest.raises(error, match=message):
        RewardToGo(baseline)


def test_the_total_return_takes_one_number_as_baseline():
    for baseline in (np.zeros(2), "1", True):
        with pytest.raises(TypeError, match=r"baseline=.* is not a real number"):
            TotalReturn(baseline)
    with pytest.raises(ValueError, match="baseline=inf is out of range"):
        TotalReturn(np.inf)


def test_baselines_that_do_not_fit_the_trajectories_are_refused():
    for baseline, message in ((np.zeros((3, 3)), "baseline has 3 rows, but trajectories have 4 steps"),
                              (np.zeros(2), "baseline covers 2 states, but state 2 was visited")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Estimator(RewardToGo(baseline)).gradient(BATCH, REFEREE, POLICY, THETA)


def test_baselines_are_copies_and_read_only():
    given_array = np.zeros(3)
    advantage = RewardToGo(given_array)
    given_array[0] = 5.0
    assert not advantage.baseline.any()
    assert not advantage.baseline.flags.writeable


def test_rewards_far_apart_keep_their_digits():
    """The estimate of a small reward is not spoiled by a large one in another trajectory."""
    batch = BATCH.take(slice(2))
    scaled = type(batch)(
        **{**{f: getattr(batch, f) for f in batch.__dataclass_fields__}, "rewards": batch.rewards * [[1e12], [1.0]]}
    )
    small = algorithms.reinforce().per_trajectory(batch.take([1]), REFEREE, POLICY, THETA)
    assert np.abs(algorithms.reinforce().per_trajectory(scaled, REFEREE, POLICY, THETA)[[1]] - small).max() <= EXACT


def test_groups_of_different_batches_are_different_whatever_they_are_called():
    batch = dataclasses.replace(sample(REFEREE, POLICY, THETA, 6, rng=0), groups=np.array([7, -1, 7, -1, 7, 7]))
    labels = np.array([0, 0, 1, 1, 2, 2])
    found = algorithms.rloo().batch(batch, REFEREE, POLICY, THETA, labels=labels)
    assert found.group.tolist() == [1, 0, 3, 2, 4, 4]
