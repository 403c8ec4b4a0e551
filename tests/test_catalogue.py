"""The catalogue: every entry judged as it deserves, its numbers recomputed, and each mistake recognised."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from reinforce_np import (
    Estimator,
    Problem,
    RewardToGo,
    TabularSoftmax,
    Undiscounted,
    algorithms,
    concatenate,
    examples,
    judge,
    judge_on_panel,
    moments,
    sample,
)
from reinforce_np.command_line import main
from reinforce_np.referee.catalogue import CATALOGUE, accused, baselines, judge_each, parts, returns
from reinforce_np.referee.causes import likely_cause, named_factor
from reinforce_np.referee.panel import PANEL

BY_NAME = {specimen.name: specimen for specimen in CATALOGUE}
PROBLEMS = {problem.name: problem for problem in PANEL}
GUILTY = [specimen for specimen in CATALOGUE if specimen.guilty]
ACCUSED = [specimen for specimen in CATALOGUE if not specimen.guilty]


def panel_of(specimen):
    return [problem for problem in PANEL if specimen.applies_to(problem)]


@pytest.mark.parametrize("specimen", GUILTY, ids=lambda specimen: specimen.name)
def test_the_guilty_are_caught_with_the_numbers_stated(specimen):
    assert specimen.applies_to(PROBLEMS[specimen.on])
    verdict = specimen.judge(PROBLEMS[specimen.on])
    assert verdict.kind == specimen.verdict != "unbiased"
    assert verdict.relative_bias == pytest.approx(specimen.relative_bias, rel=1e-3)
    assert verdict.cosine == (None if specimen.cosine is None else pytest.approx(specimen.cosine, abs=1e-4))
    assert verdict.factor == (None if specimen.factor is None else pytest.approx(specimen.factor, rel=1e-3))


@pytest.mark.parametrize("specimen", ACCUSED, ids=lambda specimen: specimen.name)
def test_the_accused_pass_every_problem(specimen):
    found = judge_on_panel(
        specimen.function,
        objective=specimen.objective,
        off_policy="behaviour" in specimen.needs,
        exchangeable=specimen.exchangeable,
        problems=panel_of(specimen),
    )
    assert len(found.judged) >= 1 and found.kind == specimen.verdict != "biased"
    on = next(row.verdict for row in found.rows if row.problem.name == specimen.on)
    assert on.relative_bias == pytest.approx(specimen.relative_bias, rel=1e-3, abs=1e-12)
    assert on.factor == pytest.approx(specimen.factor or 1.0, rel=1e-3)
    if specimen.worse_than is not None:
        better = moments(specimen.worse_than, PROBLEMS[specimen.on], exchangeable=True)
        assert on.moments.total_variance > 1.05 * better.total_variance


def test_each_is_judged_where_it_applies():
    some = [specimen for specimen in CATALOGUE if specimen.family in ("returns", "ratios")]
    two = [PROBLEMS["undiscounted"], PROBLEMS["other data"]]
    found = judge_each(some, two)
    assert {name: list(verdicts) for name, verdicts in found.items()} == {
        specimen.name: [problem.name for problem in two if specimen.applies_to(problem)] for specimen in some
    }
    for specimen in some[::7]:
        for problem in (problem for problem in two if specimen.applies_to(problem)):
            assert found[specimen.name][problem.name].as_dict() == specimen.judge(problem).as_dict()
    assert {name: list(verdicts) for name, verdicts in judge_each(some[:6]).items()} == {
        one.name: [one.on] for one in some[:6]
    }


def test_what_is_declared_exchangeable_is():
    """The same estimate when the members of each group, and the groups, change places; and some that differ."""
    rng, depends = np.random.default_rng(0), set()
    for problem in (PROBLEMS[name] for name in ("two prompts", "three prompts", "fours", "other data, pairs")):
        shape = (problem.prompts, problem.group_size)
        batches = []
        for _ in range(8):
            starts = rng.choice(problem.mdp.n_states, problem.prompts, p=problem.mdp.initial)
            groups = [
                sample(problem.mdp.replace(initial=np.eye(problem.mdp.n_states)[s]), problem.policy, problem.theta,
                       problem.group_size, behaviour=problem.behaviour, rng=rng)
                for s in starts
            ]  # fmt: skip
            batch = replace(concatenate(groups), groups=np.repeat(np.arange(shape[0]), shape[1]))
            order = rng.permuted(rng.permutation(np.arange(len(batch)).reshape(shape)), axis=1)
            batches.append((batch, replace(batch.take(order.ravel()), groups=batch.groups)))
        for specimen in (specimen for specimen in CATALOGUE if specimen.applies_to(problem)):
            for batch in batches:
                one, other = (specimen.function(b, problem.theta, problem) for b in batch)
                if not np.allclose(one, other, rtol=1e-10, atol=1e-10):
                    depends.add(specimen.name)
    ties = {"best_half"}  # its order matters among equal returns only
    assert depends | ties == {specimen.name for specimen in CATALOGUE if not specimen.exchangeable}


def test_every_record_is_complete():
    assert not BY_NAME["gamma_t_dropped"].applies_to(PROBLEMS["other data"])  # nor would its mean say anything there
    assert len(BY_NAME) == len(CATALOGUE) and len(GUILTY) >= 60 and len(ACCUSED) >= 20
    for specimen in CATALOGUE:
        assert len(specimen.what) > 30 and specimen.what.endswith(".") and specimen.remedy and specimen.seen
        assert specimen.family in ("accused",) or specimen.guilty
        assert re.search(r"https://\S+|not found in a public thread", specimen.seen), specimen.name


# Likely causes, on problems so small that the whole catalogue is listed at once

PAIR = PROBLEMS["triples"].replace(mdp=PROBLEMS["triples"].mdp.replace(horizon=2), group_size=2)
ALONE = PAIR.replace(group_size=1)


def cause(f, problem, **options):
    return likely_cause(judge(f, problem, **options), f, problem)


def test_a_mistake_of_the_catalogue_is_recognised_by_its_mean():
    """Written in another way than in the catalogue, as one of the family, on a group, and times a factor."""

    def mine(trajectories, theta):
        estimate = np.zeros_like(theta)
        psi = ALONE.policy.score(theta)
        for n, length in enumerate(trajectories.lengths):
            for t in range(length):
                G = sum(ALONE.gamma ** (u - t) * trajectories.rewards[n, u] for u in range(t, length))
                estimate += G * psi[trajectories.states[n, t], trajectories.actions[n, t]]
        return estimate / len(trajectories)

    assert cause(mine, ALONE) == (
        "the mean of mine is exactly that of gamma_t_dropped (Returns discounted from step t on, but the score of step t without "
        "its γᵗ: Σₜ ψₜ Gₜ); multiply the score of step t by γᵗ, or say that the objective is not the discounted return; no "
        "objective at all has this gradient"
    )
    family = Estimator(RewardToGo(), discounted_score=False)
    assert cause(family, PAIR).startswith("its mean is exactly that of gamma_t_dropped (")
    assert cause(lambda t, theta: 0.9 * mine(t, theta), ALONE).startswith("its mean is that of gamma_t_dropped (")
    assert cause(lambda t, theta: 0.9 * mine(t, theta), ALONE).endswith("times γ: discounted once too often")
    assert cause(lambda t, theta: 0.123 * mine(t, theta), ALONE).startswith(
        "its mean is 0.123 times that of gamma_t_dropped"
    )


def test_of_several_with_one_mean_the_variance_tells():
    """Two entries have the mean of a dropped reward; without its variance both are named."""
    verdict = judge(returns.present_reward_dropped, PAIR)
    one = likely_cause(verdict, returns.present_reward_dropped, PAIR)
    assert "that of present_reward_dropped (" in one and "action_dependent" not in one
    doubtful = replace(verdict, moments=replace(verdict.moments, variance=2 * verdict.moments.variance))
    assert " or action_dependent" in likely_cause(doubtful, None, PAIR)
    only = cause(returns.only_the_present_reward, PAIR)
    assert "only_the_present_reward" in only and "past_rewards_only" not in only
    assert "" == cause(lambda t, theta: parts.reinforce(t, theta, PAIR) + 0.01, PAIR)


def test_other_objectives_and_plain_factors():
    assert "exactly the gradient of Undiscounted" in cause(returns.undiscounted_returns, ALONE)
    assert "exactly the gradient of Discounted" in cause(accused.gamma_t_on_the_return, ALONE, objective=Undiscounted())
    late = lambda t, theta: parts.average(parts.scores(t, theta, ALONE), parts.rewards_to_go(t, 1.0) - parts.rewards(t))  # noqa: E731
    assert "exactly that of present_reward_dropped" in cause(late, ALONE, objective=Undiscounted())
    assert "exactly that of wrong_sign" in cause(lambda t, theta: -parts.reinforce(t, theta, ALONE), ALONE)
    assert "times the number of steps" in cause(lambda t, theta: 2 * parts.reinforce(t, theta, ALONE), ALONE)
    assert "in_sample_mean" in cause(baselines.in_sample_mean, PAIR)
    assert cause(algorithms.reinforce(), ALONE) == ""
    four = PROBLEMS["fours"]  # γ = 1/2, three steps, groups of four
    assert named_factor(0.75, four).startswith("times (N-1)/N") and named_factor(-0.75, four).endswith("the wrong sign")
    assert " or " in named_factor(0.5, PAIR) and named_factor(0.3, four) == ""
    found = [named_factor(c, four) for c in (4 / 3, 4.0, 0.25, 1 / 3, 3.0, 0.5, 2.0, -1.0)]
    assert len(set(found)) == 8 and all(found)
    assert named_factor(2.0, four.replace(mdp=four.mdp.replace(gamma=0.9))) == "counted twice"


def test_there_may_be_nothing_to_compare_with():
    large = Problem(examples.frozen_lake(), TabularSoftmax(16, 4), np.sin(np.arange(64.0)))
    assert cause(Estimator(RewardToGo(), discounted_score=False), large.replace(mdp=large.mdp.replace(gamma=0.9))) == ""
    verdict = judge(lambda t, theta: np.nan * theta, ALONE)
    assert likely_cause(verdict, None, ALONE) == ""


# The command line


def run(capsys, *argv):
    code = main(["catalogue", *argv])
    return code, *capsys.readouterr()


def test_the_command_prints_every_entry(capsys, monkeypatch):
    few = tuple(
        BY_NAME[name] for name in ("gamma_t_dropped", "in_sample_mean", "leave_one_out_as_the_score", "leave_one_out")
    )
    monkeypatch.setattr("reinforce_np.command_line.catalogue.CATALOGUE", few)
    code, out, err = run(capsys)
    assert (code, err) == (0, "") and out.isascii() and max(map(len, out.splitlines())) <= 130
    assert re.search(r"^returns +gamma_t_dropped +fours +Discounted +biased +0.373 +0.9571$", out, flags=re.MULTILINE)
    assert out.splitlines()[-1] == "3 are mistakes; 1, the family `accused`, are right."
    code, out, _ = run(capsys, "--json")
    document = json.loads(out)["catalogue"]
    assert [entry["name"] for entry in document] == [specimen.name for specimen in few]
    assert document[1]["factor"] == pytest.approx(few[1].factor) and document[2]["cosine"] is None
    assert document[0]["seen"].startswith("https://") and document[3]["guilty"] is False


def test_the_command_prints_one_in_full(capsys):
    code, out, err = run(capsys, "in-sample-mean")
    assert (code, err) == (0, "") and "Remedy: the mean of the others" in out and "but not by one constant" in out
    code, out, _ = run(capsys, "first_rollout_as_baseline", "--json")  # which must be judged in order
    assert json.loads(out)["panel"]["kind"] == "proportional"
    code, out, err = run(capsys, "gamma")
    assert code == 2 and out == "" and "there is gamma_t_dropped, gamma_t_twice, bootstrap_without_gamma" in err
