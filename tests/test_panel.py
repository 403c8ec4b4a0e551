"""The panel: what its problems must have, what is reported of them, and who passes."""

import concurrent.futures
import itertools
import json

import numpy as np
import pytest

from reinforce_np import (
    Estimator,
    Problem,
    RewardToGo,
    TotalReturn,
    TrajectoryRatio,
    algorithms,
    assert_proportional,
    assert_unbiased,
    exact,
    judge_on_panel,
)
from reinforce_np.enumeration import enumerate_trajectories
from reinforce_np.referee.catalogue import accused, baselines, normalisation, returns
from reinforce_np.referee.panel import PANEL

SMALL = [problem for problem in PANEL if problem.name in ("impatient", "undiscounted", "pairs")]


def drawn(problem):
    """Every trajectory of a problem, with its probability."""
    return enumerate_trajectories(problem.mdp, problem.policy, problem.theta, behaviour=problem.behaviour)


def test_the_problems_have_what_mistakes_hide_behind():
    """FACTS of the panel, read from the problems themselves."""
    for problem in PANEL:
        trajectories, p = drawn(problem)
        gradient = exact.gradient(problem.mdp, problem.policy, problem.theta)
        assert min(p[trajectories.terminated].sum(), p[trajectories.truncated].sum()) > 0.03, problem.name
        assert len(np.unique(trajectories.lengths)) >= 3 and problem.mdp.horizon >= 3
        assert len(np.unique(problem.mdp.initial[problem.mdp.initial > 0])) >= 2  # an uneven start
        assert np.abs(problem.mdp.reward).max() > 1 and abs(p @ trajectories.rewards.sum(axis=1)) > 0.5
        pi = problem.policy.probabilities(problem.theta)
        others = [problem.reference] + ([] if problem.behaviour is None else [problem.behaviour])
        for other in [np.zeros(len(problem.theta)), *others]:
            mu = np.exp(problem.policy.log_probabilities_of("other", other))
            assert np.abs(pi - mu).max() > 0.1, problem.name
        assert np.abs(gradient).max() > 0.05 and problem.beta >= 0.5
        assert np.abs(problem.critic - exact.values(problem.mdp, problem.policy, problem.theta)[0]).max() > 1
    assert {problem.gamma for problem in PANEL} == {0.5, 0.7, 0.9, 1.0}
    assert {problem.group_size for problem in PANEL} == {1, 2, 3, 4}
    assert {problem.prompts for problem in PANEL} == {1, 2, 3}
    assert max(problem.mdp.n_actions for problem in PANEL) == 3
    assert sum(problem.behaviour is not None for problem in PANEL) == 2
    assert sum(((problem.mdp.probability > 0).sum(axis=2) > 1).any() for problem in PANEL) >= 5  # several outcomes
    assert len({problem.name for problem in PANEL}) == len(PANEL)


def test_the_family_on_the_panel():
    """Right estimators of the library pass everywhere, by whatever route; wrong ones do not."""
    for right in (algorithms.reinforce(), algorithms.reinforce(reward_to_go=False), Estimator(RewardToGo(1.5))):
        found = judge_on_panel(right)
        assert (found.kind, len(found.judged)) == ("unbiased", 8)
    assert judge_on_panel(Estimator(TotalReturn(), ratio=TrajectoryRatio()), off_policy=True).kind == "unbiased"
    assert judge_on_panel(algorithms.rloo(), group_size=3).kind == "unbiased"
    assert judge_on_panel(Estimator(RewardToGo(), discounted_score=False)).kind == "biased"
    forgotten = judge_on_panel(algorithms.reinforce(), off_policy=True)
    assert forgotten.kind == "biased" and {
        row.problem.name for row in forgotten.judged if row.verdict.kind == "biased"
    } == {
        "other data",
        "other data, pairs",
    }


def test_one_factor_and_many():
    constant = judge_on_panel(accused.constant_divisor, problems=SMALL)
    assert (constant.kind, constant.factor) == ("proportional", pytest.approx(1 / accused.CONSTANT))
    varying = judge_on_panel(returns.mean_over_padded_time, problems=SMALL)
    assert (varying.kind, varying.factor) == ("proportional", None)
    assert varying.reason == (
        "proportional to the gradient of Discounted on each of 3 problems, but not by one constant: "
        "0.25 on 'impatient', 0.25 on 'undiscounted', 0.3333 on 'pairs'"
    )
    groups = [problem for problem in PANEL if problem.name in ("pairs", "triples")]
    assert judge_on_panel(baselines.in_sample_mean, group_size=2, problems=groups).factor == pytest.approx(0.5)


def scaled(c, kind=np.float64):
    """REINFORCE times a number that may depend on the problem."""

    def estimator(trajectories, theta, problem):
        g = algorithms.reinforce().gradient(trajectories, problem.mdp, problem.policy, theta)
        return (c(problem) * g).astype(kind)

    return estimator


def test_the_panel_agrees_with_the_assertions():
    """Unbiased, by one constant, or by several: kind, factor and words, and what is asserted of each problem."""
    two = [problem.replace(mdp=problem.mdp.replace(horizon=2)) for problem in SMALL[1:]]
    for estimator, kind, factor, words in (
        (scaled(lambda problem: 1.0), "unbiased", 1.0, "unbiased for Discounted on all of 2 problems"),
        (scaled(lambda problem: 1 / 3, np.float32), "proportional", 1 / 3, "Discounted, by 0.333333 on all of 2 problems"),
        (scaled(lambda problem: -2.0), "proportional", -2.0, "Discounted, by -2 on all of 2 problems"),
        (scaled(lambda problem: 1.0 / problem.group_size), "proportional", None, "not by one constant: 1 on 'undiscounted', 0.5 on 'pairs'"),
        (scaled(lambda problem: 1.0 - 2 * (problem.gamma == 1)), "proportional", None, "constant, and with the wrong sign on 1: -1 on"),
        (scaled(lambda problem: 1.0 - (problem.gamma == 1)), "biased", None, "biased for Discounted on 1 of 2 problems"),
    ):  # fmt: skip
        found = judge_on_panel(estimator, problems=two)
        assert (found.kind, words in found.reason) == (kind, True), found.reason
        assert found.factor == (None if factor is None else pytest.approx(factor))
        assert (found.kind == "unbiased") == all(passes(assert_unbiased, estimator, problem) for problem in two)
        if kind != "biased":
            one = found.rows[0].verdict.factor
            everywhere = all(passes(assert_proportional, estimator, problem, factor=one) for problem in two)
            assert everywhere == (found.factor is not None)
        right_way = all(passes(assert_proportional, estimator, problem) for problem in two)
        assert right_way == (kind != "biased" and min(row.verdict.factor for row in found.rows) > 0)


def passes(assertion, *given, **options):
    try:
        assertion(*given, **options)
    except AssertionError:
        return False
    return True


def test_what_cannot_be_judged_says_why():
    """Nothing is skipped silently."""
    found = judge_on_panel(algorithms.reinforce())
    assert [row.problem.name for row in found.rows] == [problem.name for problem in PANEL]
    assert [row.reason for row in found.rows if row.verdict is None] == [
        "its data are of another policy (off_policy=False)"
    ] * 2
    large = judge_on_panel(accused.leave_one_out, group_size=4, problems=SMALL)
    assert large.kind == "undefined" or "too many batches of 1 x 4 to list" in {row.reason for row in large.rows}
    alone = judge_on_panel(accused.leave_one_out, problems=SMALL)
    assert alone.kind == "undefined" and alone.reason.endswith(
        "if it compares the members of a group, pass group_size=2 or more"
    )
    nobody = judge_on_panel(algorithms.reinforce(), problems=[p for p in PANEL if p.behaviour is not None])
    assert nobody.kind == "undefined" and nobody.worst is None
    with pytest.raises(ValueError, match="draw at least two") as refusal:
        judge_on_panel(algorithms.rloo())
    assert "on the problem 'referee' of the panel" in refusal.value.__notes__[0]
    with pytest.raises(ValueError, match="problems=\\(\\) is empty"):
        judge_on_panel(algorithms.reinforce(), problems=[])
    with pytest.raises(TypeError, match="group_size"):
        judge_on_panel(algorithms.reinforce(), group_size=2.5)


@pytest.mark.parametrize("exchangeable", [False, True])
def test_how_often_a_function_is_called(exchangeable):
    """As the docstring says: who waits for each call wants to know before."""
    for group_size, said in ((2, (6700, 4000)), (None, (2000, 1200))):
        calls = itertools.count()

        def zero(trajectories, theta, calls=calls):
            next(calls)
            return 0 * theta

        found = judge_on_panel(zero, group_size=group_size, exchangeable=exchangeable)
        assert len(found.judged) == (8 if group_size is None else 6 + exchangeable)
        assert next(calls) == pytest.approx(said[exchangeable], rel=0.05)
        assert f"{said[0]:,}" in judge_on_panel.__doc__ and f"{said[1]:,}" in judge_on_panel.__doc__


def test_an_executor_changes_nothing():
    alone = judge_on_panel(returns.gamma_t_dropped, problems=SMALL)
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        together = judge_on_panel(returns.gamma_t_dropped, problems=SMALL, executor=executor)
    assert together.as_dict() == alone.as_dict() and str(together) == str(alone)


def test_the_table_and_its_json():
    found = judge_on_panel(normalisation.whitened_over_the_batch, problems=[*SMALL, PANEL[-1]])
    lines = str(found).splitlines()
    assert lines[0].split() == ["problem", "batch", "gamma", "steps", "verdict", "rel.", "bias", "cosine"]
    assert [line.split("  ")[0] for line in lines[1:5]] == [*(problem.name for problem in SMALL), "other data, pairs"]
    assert "not applicable" in lines[4] and lines[-1] == found.reason
    document = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert document["kind"] == "biased" and document["problems"][3]["verdict"] is None
    assert document["problems"][0]["verdict"]["relative_bias"] == pytest.approx(found.rows[0].verdict.relative_bias)


def test_a_problem_of_ones_own():
    mdp = SMALL[0].mdp.replace(horizon=2)
    own = Problem(mdp, SMALL[0].policy, np.array([1.0, 0.0, 0.0, 1.0]), name="mine")
    found = judge_on_panel(returns.present_reward_dropped, problems=[own])
    assert found.worst.problem is own and found.reason.startswith(
        "biased for Discounted on 1 of 1 problem, worst on 'mine'"
    )
