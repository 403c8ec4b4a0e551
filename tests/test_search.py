"""Counterexamples: the wrong are convicted on a small problem, the right acquitted; and the worst problems."""

import re

import hypothesis
import numpy as np
import pytest
from hypothesis import configuration

import reinforce_np
from reinforce_np import (
    ClippedRatio,
    Constant,
    Estimator,
    FiniteMDP,
    GroupStandardised,
    LeaveOneOut,
    PerDecisionRatio,
    Problem,
    RewardToGo,
    TabularSoftmax,
    algorithms,
    exact,
    examples,
    find_counterexample,
    judge,
    numpy_loss,
    worst_problem,
)
from reinforce_np.exact.verdicts import ALL_ONE, ALL_ZERO, one_direction
from reinforce_np.problem import code
from reinforce_np.referee import search
from reinforce_np.referee.counterexamples import ELSEWHERE, distance, not_by
from reinforce_np.strategies import problems
from reinforce_np.traits import BOOTSTRAPPED, CHANCE, EPISODES, GROUPS, OFF_POLICY

NAMES = {name: getattr(reinforce_np, name) for name in reinforce_np.__all__}
DROPPED = Estimator(RewardToGo(), discounted_score=False)


def weighted(weights):
    """An estimator in NumPy: `weights(t, problem)` (N, T) on the scores, padding aside."""

    def estimator(t, theta, problem):
        psi = problem.policy.score(theta)[t.states, t.actions]
        return np.einsum("nt,ntd->d", weights(t, problem) * t.mask, psi) / len(t)

    return estimator


def to_go(t, gamma, rewards=None):
    """Σ_{u≥t} γ^{u−t} r_u, shape (N, T)."""
    rewards = (t.rewards if rewards is None else rewards) * t.mask
    return np.stack([rewards[:, s:] @ gamma ** np.arange(t.n_steps - s) for s in range(t.n_steps)], axis=1)


def right(t, problem):
    return problem.gamma ** np.arange(t.n_steps) * to_go(t, problem.gamma)


def last_reward_twice(t, problem):
    doubled = np.where(np.arange(t.n_steps) == t.lengths[:, None] - 1, 2.0, 1.0)
    return problem.gamma ** np.arange(t.n_steps) * to_go(t, problem.gamma, t.rewards * doubled)


def batch_maximum(t, problem):
    returns = to_go(t, problem.gamma)[:, :1]
    return np.broadcast_to(returns - returns.max(), t.states.shape)


WRONG = {  # and what to look among, and the sizes (states, actions, outcomes, horizon) that the counterexample has at most
    "discount of the score": (weighted(lambda t, problem: to_go(t, problem.gamma)), None, (1, 2, 1, 2)),
    "last reward twice": (weighted(last_reward_twice), None, (1, 2, 1, 1)),
    "batch maximum": (weighted(batch_maximum), GROUPS, (1, 2, 1, 1)),
    "ratio": (weighted(right), OFF_POLICY, (1, 2, 1, 1)),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_wrong_are_convicted_on_a_small_problem(name):
    estimator, force, sizes = WRONG[name]
    found = find_counterexample(estimator, problems=force and problems(force))
    problem = found.problem
    mdp = problem.mdp
    assert np.all(np.array([mdp.n_states, mdp.n_actions, mdp.n_outcomes, mdp.horizon]) <= sizes)
    assert np.abs(mdp.reward).max() == 1 and not problem.theta.any() and problem.group_size <= 2
    pasted = dict(NAMES)
    exec(str(found).partition("judged:")[2], pasted)
    assert judge(estimator, pasted["problem"]).kind == found.verdict.kind != "unbiased"
    by_accident = (
        "proportional to .*; so is every estimator here, where all scores lie on one line\non this problem, .*judged:"
    )
    assert bool(re.match(by_accident, str(found))) == (found.verdict.kind == "proportional")
    assert (found.elsewhere is not None) == (name == "discount of the score")
    if found.elsewhere:  # on the way to the smallest it was not
        assert judge(estimator, found.elsewhere[0]).kind == found.elsewhere[1].kind == "biased"
        told = f"\n\n# the factor is no constant: on another of the problems judged, `elsewhere`, it is {found.elsewhere[1]}"
        assert str(found).endswith(told)


def test_a_positive_multiple_may_be_allowed_and_a_negative_one_never():
    half = weighted(lambda t, problem: right(t, problem) / 2)
    assert not find_counterexample(half, proportional=True, max_examples=10)
    found = find_counterexample(half)
    assert found.verdict.factor == pytest.approx(0.5) and found.elsewhere is None
    backwards = weighted(lambda t, problem: -right(t, problem))
    assert find_counterexample(backwards, proportional=True).verdict.factor == pytest.approx(-1)


def test_a_factor_is_a_constant_only_where_nothing_else_was_seen():
    problem = Problem(reinforce_np.examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2))
    half, third, none, biased, nan = (
        judge(weighted(lambda t, problem, c=c: c * right(t, problem)), where)
        for c, where in ((1 / 2, problem), (1 / 3, problem), (0.0, flat(problem)), (0.0, problem), (np.nan, problem))
    )
    assert [verdict.kind for verdict in (none, biased, nan)] == ["undefined", "biased", "undefined"]
    assert not_by(half, [(1, third), (2, half), (3, none)]) == (1, third)
    assert not_by(half, [(1, biased), (2, third)]) == (1, biased)
    assert not_by(half, [(1, nan)]) == (1, nan)
    assert not_by(half, [(1, half), (2, none)]) is not_by(biased, [(1, half)]) is None


def flat(problem):
    return problem.replace(mdp=problem.mdp.replace(reward=0 * problem.mdp.reward))


def test_the_right_are_acquitted_in_all_forms():
    rich = problems(EPISODES | CHANCE)
    found = find_counterexample(weighted(right), problems=rich, max_examples=10)
    assert str(found) == "no counterexample: 10 problems acquit the estimator" and not found
    assert not find_counterexample(Estimator(RewardToGo()), problems=rich, max_examples=5)
    critic = find_counterexample(
        lambda problem: algorithms.reinforce_with_baseline(problem.critic),
        problems=problems(BOOTSTRAPPED),
        max_examples=5,
    )
    assert not critic
    groups = find_counterexample(
        lambda t, theta, problem: Estimator(LeaveOneOut()).gradient(t, problem.mdp, problem.policy, theta),
        problems=problems(GROUPS, horizon=1, states=1),
        max_examples=5,
    )
    assert not groups


def test_ratios_that_were_all_one_are_no_evidence():
    """Clipping changes nothing on data of the policy itself: an acquittal says that it was not looked at."""
    clipped, plain = Estimator(RewardToGo(), ratio=ClippedRatio(0.2)), Estimator(RewardToGo())
    mdp, policy, theta = examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.array([0.0, 0.5, -0.5])
    found = judge(clipped, mdp, policy, theta)
    assert found.kind == "unbiased" and found.reason == ALL_ONE and str(found).endswith("; " + ALL_ONE)
    assert judge(lambda problem: clipped, mdp, policy, theta).reason == ALL_ONE
    assert judge(algorithms.dr_grpo(), mdp, policy, theta, group_size=2).reason == ALL_ONE
    assert judge(plain, mdp, policy, theta).reason == ""
    assert judge(clipped, mdp, policy, theta, behaviour=theta).reason == ALL_ONE  # the policy itself, by another name
    elsewhere = judge(clipped, mdp, policy, theta, behaviour=np.full((1, 3), 1 / 3))
    assert elsewhere.kind == "biased" and elsewhere.reason == ""
    acquitted, others = (find_counterexample(e, max_examples=20) for e in (clipped, plain))
    assert not acquitted and str(acquitted).endswith("acquit the estimator; " + ELSEWHERE) and "OFF_POLICY" in ELSEWHERE
    assert not others and others.remark == ""
    both = problems() | problems(OFF_POLICY)
    corrected = find_counterexample(Estimator(RewardToGo(), ratio=PerDecisionRatio()), problems=both, max_examples=20)
    assert not corrected and corrected.remark == ""
    assert find_counterexample(clipped, problems=problems(OFF_POLICY), max_examples=50)


def test_functions_that_read_the_behaviour_are_seen_to():
    mdp, policy, theta = examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.array([0.0, 0.5, -0.5])

    def clipped(log_probs, batch):
        ratio = np.exp(log_probs - batch.log_probabilities)
        return -np.minimum(ratio * batch.rewards, np.clip(ratio, 0.8, 1.2) * batch.rewards).mean()

    def plain(log_probs, batch):
        return -(log_probs * batch.rewards).mean()

    def verified(log_probs, batch):  # only of answers that are right
        return -np.where(
            batch.rewards == 5.0, np.minimum(np.exp(log_probs - batch.log_probabilities), 1.2) * 5.0, 0.0
        ).mean()

    def refuses(trajectories, theta):
        assert set(trajectories.rewards.ravel()) <= {0.0, 1.0, 5.0}
        of_policy = policy.log_probabilities(theta)[trajectories.states, trajectories.actions]
        assert np.array_equal(trajectories.log_probabilities, of_policy)
        return Estimator(RewardToGo()).gradient(trajectories, mdp, policy, theta)

    for function, reason in ((numpy_loss(clipped), ALL_ONE), (numpy_loss(plain), ""), (refuses, "")):
        verdict = judge(function, mdp, policy, theta)
        assert verdict.kind == "unbiased" and verdict.reason == reason
    right = mdp.replace(reward=np.where(mdp.reward == 5.0, 5.0, 0.0))
    verdict = judge(numpy_loss(verified), right, policy, theta)
    assert verdict.kind == "unbiased" and verdict.reason == ALL_ONE
    elsewhere = judge(numpy_loss(clipped), mdp, policy, theta, behaviour=np.full((1, 3), 1 / 3))
    assert elsewhere.kind == "biased" and elsewhere.reason == ""

    def compared(log_probs, batch):  # where both do the same, all cancels but for the ratios
        n = len(batch.rewards)
        advantages = (batch.rewards - batch.rewards.mean()) * n / (n - 1)
        ratio = np.exp(log_probs - batch.log_probabilities)
        return -np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages).mean()

    for group_size in (2, 3, 4):
        assert judge(numpy_loss(compared), mdp, policy, 0 * theta, group_size=group_size).reason == ALL_ONE
    found = find_counterexample(numpy_loss(clipped), problems=problems(states=1, horizon=1), max_examples=10)
    assert not found and found.remark == ELSEWHERE


def test_estimates_that_are_all_zero_are_said_to_be():
    mdp, policy, theta = examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.array([0.0, 0.5, -0.5])

    def constant(log_probs, batch):
        return -(log_probs.real * 0.0 + batch.rewards).sum()

    def compared(log_probs, batch):
        return -(log_probs * (batch.rewards - batch.rewards.mean())).mean()

    assert judge(numpy_loss(constant), mdp, policy, theta, group_size=2).reason == ALL_ZERO
    assert judge(numpy_loss(compared), mdp, policy, theta).reason == ALL_ZERO
    assert judge(numpy_loss(compared), mdp, policy, theta, group_size=2).kind == "proportional"
    found = find_counterexample(numpy_loss(constant), max_examples=5)
    assert found and ALL_ZERO in str(found)


def test_what_is_found_is_no_mere_epsilon():
    """Whitening is wrong on nearly every problem; where it is not, its ε still is."""
    standardised = Estimator(GroupStandardised(ddof=0, eps=1e-8))
    found = find_counterexample(standardised, problems=problems(GROUPS), max_examples=30)
    assert found and distance(found.verdict) > 0.01 and found.problem.mdp.n_states <= 2
    almost = Estimator(RewardToGo(), normaliser=Constant(1 + 1e-9))
    tiny = find_counterexample(almost, max_examples=20)  # there is nothing else to be found
    assert tiny and tiny.verdict.relative_bias == pytest.approx(1e-9, rel=1e-3) and 0 < tiny.n_judged


def test_distances():
    mdp, policy, theta = examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.array([0.0, 0.5, -0.5])
    gradient = exact.gradient(mdp, policy, theta)
    across = np.cross(gradient, [1.0, 1.0, 1.0])
    for vector, near, multiple in (
        (gradient, 0.0, 0.0), (3 * gradient, 2.0, 0.0), (-gradient, 2.0, np.inf), (0 * gradient, np.inf, np.inf),
        (gradient + across, np.sqrt(3), np.sqrt(3) / 2),
    ):  # fmt: skip
        verdict = judge(lambda t, theta, v=vector: v, mdp, policy, theta)
        assert distance(verdict) == pytest.approx(near, abs=1e-12)
        assert distance(verdict, proportional=True) == pytest.approx(multiple, abs=1e-7)


def test_the_objective_may_depend_on_the_problem_and_zero_decides_nothing():
    found = find_counterexample(
        lambda t, theta: np.zeros_like(theta),
        problems=hypothesis.strategies.just(
            Problem(reinforce_np.examples.bandit(means=[1.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2))
        ),
        max_examples=3,
    )
    assert not found and found.n_undefined == found.n_judged == 1
    assert str(found) == "no counterexample: 0 problems acquit the estimator, 1 more decide nothing"
    undiscounted = weighted(lambda t, problem: to_go(t, 1.0))
    options = {"problems": problems(EPISODES, states=1), "max_examples": 3}
    assert not find_counterexample(undiscounted, objective=lambda problem: exact.Undiscounted(), **options)


def test_what_the_estimator_raises_comes_with_the_problem():
    def fails(t, theta, problem):
        if problem.mdp.horizon > 1:
            raise KeyError("sixth")
        return weighted(right)(t, theta, problem)

    with pytest.raises(KeyError, match="sixth") as caught:
        find_counterexample(fails, problems=problems(states=1, actions=2, outcomes=1))
    (note,) = caught.value.__notes__
    assert "raised on the smallest problem of" in note and "horizon=2" in note and "TabularSoftmax(1, 2)" in note
    never = find_counterexample(lambda t, theta: theta / 0.0)
    assert never.verdict.kind == "undefined" and "nan" in str(never)
    with pytest.raises(TypeError, match="pass an Estimator such as"):
        find_counterexample(3)


def test_it_is_repeatable_and_leaves_no_files(tmp_path):
    home = configuration.storage_directory()
    home = getattr(home, "path", home)  # in older versions it is one
    configuration.set_hypothesis_home_dir(tmp_path / "home")
    try:
        narrow = problems(states=1, actions=2, outcomes=1, horizon=2)
        found = [str(find_counterexample(DROPPED, problems=narrow)) for _ in range(2)]
        assert found[0] == found[1] and "gamma=0.5" in found[0]
        back = configuration.storage_directory()
        assert getattr(back, "path", back) == tmp_path / "home"
    finally:
        configuration.set_hypothesis_home_dir(home)
    assert not (tmp_path / "home").exists()


def test_a_state_that_is_only_entered_later_counts_without_its_discount_too():
    """γ = 0: the scores of the second step do not come into ∇J, but into an estimate without γᵗ."""
    mdp = FiniteMDP(np.ones((2, 2, 1)), np.ones((2, 2, 1), int), [[[0.0], [1.0]]] * 2, np.zeros((2, 2, 1), bool),
                    initial=[1.0, 0.0], gamma=0.0, horizon=2)  # fmt: skip
    problem = Problem(mdp, TabularSoftmax(2, 2), np.zeros(4))
    assert not one_direction(problem) and one_direction(problem.replace(mdp=mdp.replace(horizon=1)))
    with pytest.raises(reinforce_np.Convicted):
        reinforce_np.assert_proportional(DROPPED, problem)


def test_what_the_estimator_does_not_accept_is_not_counted():
    def choosy(problem):
        hypothesis.assume(problem.gamma < 1)
        return Estimator(RewardToGo())

    found, seen = find_counterexample(choosy, max_examples=20), []
    find_counterexample(lambda problem: seen.append(problem.gamma < 1) or Estimator(RewardToGo()), max_examples=20)
    assert not found and found.n_judged == 20 and not all(seen)


# The worst problem.


def test_dropping_the_discount_of_the_score_can_point_the_wrong_way():
    """By hand: action 0 pays −3/4 and goes on, action 1 pays −1 and ends; both are equally likely, γ = 3/8, two steps.

    Q₁(0) − Q₁(1) = 1/4, and V₁ = −7/8, so Q₀(0) − Q₀(1) = 1/4 − 3/8·7/8 = −5/64. State 0 is there a second time with
    probability 1/2: ∇J ∝ −5/64 + 3/8·1/2·1/4 = −2/64, and without γᵗ −5/64 + 1/2·1/4 = 3/64.
    """
    problem = Problem(
        FiniteMDP(
            probability=[[[1.0], [1.0]]],
            next_state=[[[0], [0]]],
            reward=[[[-0.75], [-1.0]]],
            terminated=[[[False], [True]]],
            initial=[1.0],
            gamma=0.375,
            horizon=2,
        ),
        TabularSoftmax(1, 2),
        theta=[0.0, 0.0],
    )
    verdict = judge(DROPPED, problem)
    assert (verdict.kind, verdict.factor) == ("proportional", pytest.approx(-1.5))
    assert judge(weighted(lambda t, problem: to_go(t, problem.gamma)), problem).factor == pytest.approx(-1.5)


def test_the_worst_problem_is_bad_and_repeatable():
    options = {"n_states": 2, "horizon": 2, "restarts": 2, "steps": 20}
    worst = worst_problem(DROPPED, rng=0, **options)
    assert worst.how == "worst" and worst.n_judged == 80
    assert worst.verdict.cosine < 0.95  # a random problem of this kind has 0.99
    assert judge(DROPPED, worst.problem).cosine == worst.verdict.cosine
    options["restarts"] = 1
    largest, again = (worst_problem(DROPPED, rng=1, measure="relative bias", **options) for _ in range(2))
    assert code(again.problem) == code(largest.problem) != code(worst.problem)
    assert largest.verdict.relative_bias > 1
    size = exact.derivatives.gradient_scale(worst.problem.mdp, worst.problem.policy, worst.problem.theta)
    assert np.linalg.norm(worst.verdict.gradient) > 0.01 * np.linalg.norm(size)


def test_the_worst_is_the_worst_of_all_that_were_judged(monkeypatch):
    seen = []

    def heard(*args, **options):
        seen.append(judge(*args, **options))
        return seen[-1]

    monkeypatch.setattr(search, "judge", heard)
    for measure in ("cosine", "relative bias"):
        seen.clear()
        worst = worst_problem(DROPPED, measure=measure, restarts=1, steps=40, least_gradient=0.0, rng=1).verdict
        seen = [verdict for verdict in seen if verdict.cosine is not None]
        if measure == "cosine":
            assert worst.cosine == min(verdict.cosine for verdict in seen)
        else:
            assert worst.relative_bias == max(verdict.relative_bias for verdict in seen)


@pytest.mark.parametrize("options, message", [
    ({"n_actions": 9, "behaviour": True}, "n_actions=9 is above 8"), ({"behaviour": "no"}, "behaviour='no'"), ({"critic": 0.5}, "critic=0.5"),
])  # fmt: skip
def test_the_worst_problem_refuses(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        worst_problem(DROPPED, restarts=1, steps=1, rng=0, **options)


def test_no_problem_is_judged_twice(monkeypatch):
    """And what is kept of them is told apart by all that may change."""
    asked = []

    def judged(estimator, problem, **options):
        asked.append(code(problem))
        return judge(estimator, problem, **options)

    monkeypatch.setattr(search, "judge", judged)
    options = {"restarts": 1, "steps": 20, "gamma": 0.5, "behaviour": True, "critic": True, "horizon": 1, "rng": 2}
    assert worst_problem(DROPPED, **options).n_judged == 40 > len(asked) == len(set(asked))
    before = asked.copy()
    asked.clear()
    monkeypatch.setattr(search, "_numbers", code)
    worst_problem(DROPPED, **options)
    assert asked == before


def test_the_worst_problem_has_what_was_asked_for():
    problem = worst_problem(
        lambda t, theta, problem: np.full_like(theta, problem.critic.sum() + problem.behaviour.sum()),
        n_states=2, n_actions=3, n_outcomes=2, horizon=1, gamma=0.5, group_size=2, behaviour=True, critic=True,
        restarts=1, steps=5, rng=1, exchangeable=True,
    ).problem  # fmt: skip
    assert (problem.mdp.n_states, problem.mdp.n_actions, problem.mdp.n_outcomes, problem.mdp.horizon) == (2, 3, 2, 1)
    assert problem.mdp.gamma == 0.5 and problem.group_size == 2 and np.all(problem.behaviour > 0)
    assert worst_problem(Estimator(RewardToGo()), restarts=1, steps=5, rng=0).verdict.kind == "unbiased"
    with pytest.raises(ValueError, match=r"least_gradient=1\.0"):
        worst_problem(DROPPED, restarts=1, steps=1, least_gradient=1.0, rng=0)
    with pytest.raises(ValueError, match="measure='bias' is unknown"):
        worst_problem(DROPPED, measure="bias")


def test_standard_deviations_of_groups_can_point_the_wrong_way_for_a_single_prompt():
    """By hand: in groups of two it only counts who wins. Action 0 pays more with probability 3/4, action 1 on average."""
    problem = Problem(
        FiniteMDP(
            probability=[[[0.75, 0.25], [1.0, 0.0]]],
            next_state=np.zeros((1, 2, 2), dtype=int),
            reward=[[[1.0, -2.0], [0.5, 0.0]]],
            terminated=np.ones((1, 2, 2), dtype=bool),
            initial=[1.0],
            gamma=1.0,
            horizon=1,
        ),
        TabularSoftmax(1, 2),
        theta=[0.0, 0.0],
        group_size=2,
    )
    verdict = judge(Estimator(GroupStandardised(ddof=0, eps=0.0)), problem)
    assert verdict.kind == "proportional" and verdict.factor < 0 and verdict.gradient[0] < 0
