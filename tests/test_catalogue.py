"""The catalogue: every entry judged as it deserves, its numbers recomputed, and each mistake recognised."""

import re
from dataclasses import replace

import numpy as np
import pytest

from reinforce_np import concatenate, judge_on_panel, moments, sample
from reinforce_np.referee.catalogue import CATALOGUE
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


def test_what_is_declared_exchangeable_is():
    """The same estimate when the members of each group, and the groups, change places; and some that differ."""
    rng, depends = np.random.default_rng(0), set()
    for problem in (PROBLEMS[name] for name in ("two prompts", "three prompts", "fours", "other data, pairs")):
        shape = (problem.prompts, problem.group_size)
        batches = []
        for _ in range(12):
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
    assert len(BY_NAME) == len(CATALOGUE) and len(GUILTY) >= 60 and len(ACCUSED) >= 20
    for specimen in CATALOGUE:
        assert len(specimen.what) > 30 and specimen.what.endswith(".") and specimen.remedy and specimen.seen
        assert specimen.family in ("accused",) or specimen.guilty
        assert re.search(r"https://\S+|not found in a public thread", specimen.seen), specimen.name
