"""Measured promises: how often the referee errs, on millions of runs.

``python -m benchmarks promises`` prints the table that README shows, in half an
hour on a busy core; ``--quick`` a hundredth of it. A run is simulated by how
often each value of the estimate occurs in it, drawn from the law that listing
all batches gives, and judged by the very statistic that judges in `confirm`
(`checks.runs`) and `confirm_stream` (`checks.processes`). The last column is what was promised.
"""

import dataclasses
import functools
import itertools
import math
import sys
import time

import numpy as np

from benchmarks.harness import Options, Table
from reinforce_np import (
    GAE,
    Discounted,
    EntropyBonus,
    EntropyRegularised,
    Estimator,
    KLPenalty,
    KLRegularised,
    PerDecisionRatio,
    Problem,
    RewardToGo,
    TabularSoftmax,
    TotalReturn,
    TrajectoryRatio,
    algorithms,
    confirm_on_panel,
    examples,
    judge,
    sample,
)
from reinforce_np.arguments import TooLargeError
from reinforce_np.checks.confirmation import ALPHA, confirm_law
from reinforce_np.checks.laws import law_of
from reinforce_np.checks.runs import RunTest
from reinforce_np.exact.callables import bound
from reinforce_np.referee.catalogue import CATALOGUE
from reinforce_np.referee.confirmed import N
from reinforce_np.referee.panel import PANEL

COLUMNS = ["what", "runs", "errors", "rate", "promised"]
QUICK = 100  # times fewer runs
AT_ONCE = 2000  # runs simulated together
LENGTHS = (10, 100, 1000)  # batches of a run
LOOKS = 50
POLICY, THETA = TabularSoftmax(3, 3), np.array([0.3, -0.5, 1.0, 0.0, 0.7, -1.2, -0.4, 0.2, 0.9])
NEARLY = np.tile([9.0, 0.0, -1.0], 3)  # one action in five thousand is another


def report(options):
    """Yield the table."""
    few = QUICK if options.quick else 1
    table, began = Table("Measured promises", COLUMNS), time.perf_counter()
    for part in (exact_tier, monte_carlo, optional_stopping, samplers, catalogue):
        table.rows += part(few)
        print(f"{part.__name__}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    table.note = f"seeds are fixed; {N:,} batches of each problem of the panel"
    yield table


def row(what, runs, errors, promised):
    """Return a row of the table."""
    return [what, int(runs), int(errors), float(errors) / max(int(runs), 1), promised]


# --- the exact tier


def exact_tier(few):
    """Judge right estimators on random problems: none may be called anything else."""
    runs = errors = 0
    for i in range(10_000 // few):
        for estimator, problem, objective in right_ones(random_problem(i)):
            runs, errors = (
                runs + 1,
                errors + (judge(estimator, problem, objective=objective).kind not in ("unbiased", "undefined")),
            )
    found = [row(f"exact verdicts on right estimators, {10_000 // few:,} random problems", runs, errors, "0")]
    runs = errors = 0
    for i, specimen in itertools.product(range(100 // few), [s for s in CATALOGUE if not s.guilty]):
        problem = random_problem(i, horizon=1 + i % 2).replace(group_size=2 if "group_size" in specimen.needs else 1)
        problem = problem.replace(prompts=2) if "prompts" in specimen.needs else problem
        try:
            kind = specimen.judge(problem if "behaviour" in specimen.needs else on_policy(problem), limit=2**10).kind
        except TooLargeError:
            continue
        runs, errors = runs + 1, errors + (kind == "biased")
    return [
        *found,
        row(f"... on the wrongly accused of the catalogue, {100 // few:,} random problems", runs, errors, "0"),
    ]


def random_problem(seed, horizon=None):
    """Return a problem of two or three states, whose policy, behaviour, critic and reference are random."""
    rng = np.random.default_rng(seed)
    S, A = (int(x) for x in rng.integers(2, 4, size=2))
    mdp = examples.random_mdp(
        n_states=S, n_actions=A, n_outcomes=1 + seed % 2, gamma=float(rng.choice([0.5, 0.7, 0.9, 1.0])),
        horizon=int(rng.integers(1, 6)) if horizon is None else horizon, termination=0.3, rng=rng,
    )  # fmt: skip
    theta, reference, behaviour = rng.normal(scale=rng.choice([0.5, 1.0, 3.0]), size=(3, S * A))
    return Problem(
        mdp, TabularSoftmax(S, A), theta, behaviour=behaviour, reference=reference, beta=0.5, critic=rng.normal(size=S)
    )


def on_policy(problem):
    """Return the problem with data of the policy itself."""
    return dataclasses.replace(problem, behaviour=None)


def right_ones(problem):
    """Return right estimators with what they are right for."""
    own, critic, beta, reference = on_policy(problem), problem.critic, problem.beta, problem.reference
    kl, entropy = KLPenalty(reference, beta, kind="k1", place="reward"), EntropyBonus(beta)
    return [
        (algorithms.reinforce(), own, Discounted()),
        (Estimator(RewardToGo(critic)), own, Discounted()),
        (Estimator(TotalReturn(1.5)), own, Discounted()),
        (Estimator(GAE(critic, lam=1.0)), own, Discounted()),
        (algorithms.rloo(), own.replace(group_size=3), Discounted()),
        (Estimator(RewardToGo(critic), ratio=PerDecisionRatio()), problem, Discounted()),
        (Estimator(TotalReturn(), ratio=TrajectoryRatio()), problem, Discounted()),
        (Estimator(RewardToGo(), penalty=kl), own, KLRegularised(reference, beta)),
        (Estimator(RewardToGo(critic), penalty=entropy), own, EntropyRegularised(beta)),
    ]


# --- the Monte Carlo tier


def problems():
    """Return the laws that runs are drawn from, by name: (problem, estimator)."""
    referee = examples.referee(horizon=2)
    uniform = np.full((3, 3), 1 / 3)
    elsewhere = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])
    per_decision, whole = (
        Estimator(RewardToGo(), ratio=PerDecisionRatio()),
        Estimator(TotalReturn(), ratio=TrajectoryRatio()),
    )
    return {
        "plain": (Problem(referee, POLICY, THETA), algorithms.reinforce()),
        "nearly deterministic": (Problem(referee, POLICY, NEARLY), algorithms.reinforce()),
        "importance sampling, per decision": (Problem(referee, POLICY, THETA, behaviour=elsewhere), per_decision),
        "importance sampling, whole trajectory": (Problem(referee, POLICY, THETA, behaviour=elsewhere), whole),
        "nearly deterministic, data of a uniform policy": (Problem(referee, POLICY, NEARLY, behaviour=uniform), whole),
        "groups": (Problem(referee.replace(horizon=1), POLICY, THETA, group_size=2), algorithms.rloo()),
    }


@functools.cache
def listed(name, components=None):
    """Return the law by name, its different values, and the probability of each."""
    problem, estimator = problems()[name]
    law = law_of(estimator, problem, Discounted(), components)
    values, which = np.unique(law.values, axis=0, return_inverse=True)
    p = np.bincount(which.ravel(), weights=law.probabilities)
    return law, values, p / p.sum()


def rejections(tests, values, p, runs, rng):
    """Return how many of so many runs each test rejects; they share the runs."""
    terms = [test.terms(values).reshape(len(values), -1) for test in tests]
    found, n = np.zeros(len(tests), dtype=int), tests[0].n
    for first in range(0, runs, AT_ONCE):
        occurrences = rng.multinomial(n, p, size=min(AT_ONCE, runs - first)).astype(float)
        for i, (test, term) in enumerate(zip(tests, terms, strict=True)):
            found[i] += test.rejects((occurrences @ term).reshape(-1, 2, *test.law.means.shape)).sum()
    return found


def monte_carlo(few):
    """Simulate runs of right estimators, and of laws with half their variance as the negative control."""
    names, rng = list(problems()), np.random.default_rng(1)
    each = math.ceil(3_060_000 / few / len(names) / len(LENGTHS))
    rows, total = [], np.zeros(3, dtype=int)
    for name in names:
        law, values, p = listed(name)
        of_name = np.zeros(3, dtype=int)
        for n in LENGTHS:
            half = dataclasses.replace(
                law, variance=law.variance / 2, variance_of_square=law.variance_of_square / 2, values=None
            )
            tests = RunTest(law, n, 1e-3), RunTest(law, n, 1e-6), RunTest(half, n, 1e-3)
            of_name += rejections(tests, values, p, each, rng)
        total += of_name
        rows.append(row(f"  {name}, alpha = 1e-3", each * len(LENGTHS), of_name[0], "< 1e-3"))
    runs = each * len(LENGTHS) * len(names)
    return [
        row("false alarms of confirm, alpha = 1e-3", runs, total[0], "< 1e-3"),
        *rows,
        row("false alarms of confirm, alpha = 1e-6", runs, total[1], "0"),
        row("  with half the variance, alpha = 1e-3 (negative control)", runs, total[2], "> 1e-3"),
    ]


def optional_stopping(few):
    """Simulate streams that are looked at 50 times, and stopped at the first look that rejects."""
    names, rng = (
        ("plain", "nearly deterministic", "importance sampling, whole trajectory", "groups"),
        np.random.default_rng(2),
    )
    each, alphas, kinds = (
        math.ceil(200_000 / few / len(names)),
        (1e-2, 1e-3),
        ("all values known", "only the variance known"),
    )
    errors = sum(ever_rejected(name, alphas, each, rng) for name in names)
    return [
        row(
            f"false alarms at {LOOKS} looks, {kind}, alpha = {alpha:g}", each * len(names), errors[i, j], f"< {alpha:g}"
        )
        for (i, kind), (j, alpha) in itertools.product(enumerate(kinds), enumerate(alphas))
    ]


def ever_rejected(name, alphas, streams, rng):
    """Return how many streams ever reach 1/alpha, with and without known values; they grow by a tenth from look to look."""
    law, values, p = listed(name, (1, 4))
    processes = [law.process, dataclasses.replace(law, values=None).process]
    terms = np.stack([process.terms(law.statistics(values)) for process in processes], axis=1)
    reached = np.zeros((2, len(alphas)), dtype=int)
    for first in range(0, streams, AT_ONCE):
        size = min(AT_ONCE, streams - first)
        sums, largest, n = np.zeros((size, terms[0].size)), np.zeros((2, size)), 0
        for _ in range(LOOKS):
            more = max(10, n // 10)
            sums += rng.multinomial(more, p, size=size).astype(float) @ terms.reshape(len(terms), -1)
            n += more
            each = sums.reshape(size, *terms.shape[1:])
            found = [process.log_e_value(each[:, i], n) for i, process in enumerate(processes)]
            largest = np.maximum(largest, found)
        reached += (largest[:, :, None] >= -np.log(alphas)).sum(axis=1)
    return reached


def samplers(few):
    """Judge a right sampler, with all its facts."""
    problem, runs, alpha = Problem(examples.referee(horizon=3), POLICY, THETA), 4000 // few, 1e-2
    law, errors = law_of(algorithms.reinforce(), problem, Discounted()), 0
    for seed in range(runs):
        found = confirm_law(
            law, algorithms.reinforce(), problem, 120, alpha=alpha, rng=seed,
            sampler=lambda n, rng: sample(problem.mdp, POLICY, THETA, n, rng=rng),
        )  # fmt: skip
        errors += found.rejected
    return [row("false alarms on a right sampler, alpha = 0.01", runs, errors, "< 0.01")]


# --- the panel


def catalogue(few):
    """Simulate the default check on the panel for every entry of the catalogue, and time it for real."""
    runs, rng, worst, false_alarms, right = 3000 // few, np.random.default_rng(3), 0, 0, 0
    guilty, seconds, slowest = 0, 0.0, ""
    for i, specimen in enumerate(CATALOGUE):
        on = [problem for problem in PANEL if specimen.applies_to(problem)]
        pending = runs
        for problem in on:  # runs on different problems are independent: those that pass one go on to the next
            law, values, p = listed_specimen(specimen, problem)
            if law is not None and pending:
                pending -= int(rejections([RunTest(law, N, ALPHA / len(on))], values, p, pending, rng)[0])
        if specimen.verdict == "biased":
            guilty, worst = guilty + 1, max(worst, pending)
        elif specimen.verdict == "unbiased":
            right, false_alarms = right + runs, false_alarms + runs - pending
        if few > 1 and i % 10:
            continue  # quick: a tenth of them is timed
        began = time.perf_counter()
        confirm_on_panel(
            specimen.function, objective=specimen.objective, off_policy="behaviour" in specimen.needs,
            exchangeable=specimen.exchangeable, problems=on, rng=0,
        )  # fmt: skip
        spent = time.perf_counter() - began
        seconds, slowest = (spent, specimen.name) if spent > seconds else (seconds, slowest)
    return [
        row(f"missed by the panel: the worst of {guilty} biased entries of the catalogue", runs, worst, "<= 0.001"),
        row("false alarms of the panel on its unbiased entries, alpha = 1e-6", right, false_alarms, "0"),
        [f"seconds of one check on the panel, the slowest ({slowest})", 1, 0, seconds, "<= 10"],
    ]


def listed_specimen(specimen, problem):
    """Return the law of an entry of the catalogue on a problem, its different values and their probabilities."""
    law = law_of(
        bound(specimen.function, problem), problem, specimen.objective(problem), exchangeable=specimen.exchangeable
    )
    if law is None or law.values is None:
        return None, None, None
    values, which = np.unique(law.values, axis=0, return_inverse=True)
    p = np.bincount(which.ravel(), weights=law.probabilities)
    return law, values, p / p.sum()


if __name__ == "__main__":
    for printed in report(Options(quick="--quick" in sys.argv[1:])):
        print(printed)
