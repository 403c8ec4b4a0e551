"""What the panel promises: no right estimator is called wrong, every wrong one is, and what that costs.

``python -m benchmarks.bench_panel`` runs every right estimator (the library's, and the acquitted ones of the catalogue) on
10,000 random problems and counts false alarms; then prints how many batches a Monte Carlo test needs to reject each wrong
entry of the catalogue on the panel. ``--quick`` does a hundredth of the first part. asv reads the classes as they are.
"""

import argparse
import collections
import math
import time

import numpy as np

from reinforce_np import (
    GAE,
    Discounted,
    EntropyBonus,
    EntropyRegularised,
    Estimator,
    KLPenalty,
    KLRegularised,
    LeaveOneOut,
    NStep,
    PerDecisionRatio,
    Problem,
    RewardToGo,
    TabularSoftmax,
    TotalReturn,
    TrajectoryRatio,
    algorithms,
    count_trajectories,
    exact,
    judge,
    judge_on_panel,
    random_mdp,
)
from reinforce_np.checks import means
from reinforce_np.referee.catalogue import CATALOGUE
from reinforce_np.referee.panel import PANEL

N_PROBLEMS = 10_000
CONTROL = 50  # random problems for the negative control
MOST = {1: 60, 2: 8, 3: 5}  # trajectories from one start, by size of the group
PROFILES = ("plain", "nearly deterministic", "far from zero", "tiny", "far off policy")
ALPHA, MISS = 1e-6, 1e-3  # of the Monte Carlo test


def discounted(problem):
    """J_γ."""
    return Discounted()


def regularised(problem):
    """J_γ − β KL."""
    return KLRegularised(problem.reference, problem.beta)


def with_entropy(problem):
    """J_γ + β H."""
    return EntropyRegularised(problem.beta)


def truth(problem):
    """V of the present policy."""
    return exact.values(problem.mdp, problem.policy, problem.theta)


LIBRARY = {  # right for a reason: name, (estimator of a problem, kind, objective, fields of the problem that it needs)
    "total return": (lambda p: Estimator(TotalReturn(p.beta)), discounted, ()),
    "reward to go": (lambda p: algorithms.reinforce(), discounted, ()),
    "baseline": (lambda p: algorithms.reinforce_with_baseline(p.critic), discounted, ()),
    "GAE, λ = 1": (lambda p: Estimator(GAE(p.critic, 1.0)), discounted, ()),
    "GAE, true critic": (lambda p: Estimator(GAE(truth(p), 0.3)), discounted, ()),
    "n-step, true critic": (lambda p: Estimator(NStep(truth(p), 1)), discounted, ()),
    "KL in the reward": (
        lambda p: Estimator(RewardToGo(), penalty=KLPenalty(p.reference, p.beta)), regularised, (),
    ),
    "entropy in the reward": (lambda p: Estimator(RewardToGo(), penalty=EntropyBonus(p.beta)), with_entropy, ()),
    "RLOO": (lambda p: algorithms.rloo(), discounted, ("group_size",)),
    "RLOO per step": (lambda p: Estimator(LeaveOneOut(per_step=True)), discounted, ("group_size",)),
    "Dr. GRPO": (lambda p: algorithms.dr_grpo(), discounted, ("group_size",)),
    "trajectory ratio": (
        lambda p: Estimator(TotalReturn(), ratio=TrajectoryRatio()), discounted, ("behaviour",),
    ),
    "per-decision ratio": (
        lambda p: Estimator(RewardToGo(p.critic), ratio=PerDecisionRatio()), discounted, ("behaviour",),
    ),
}  # fmt: skip
PROPORTIONAL = ("Dr. GRPO",)


def random_problem(rng, profile, *, behaviour, group_size, prompts=1):
    """Return a random problem, small enough for every batch to be listed."""
    for _ in range(1000):
        S, A, K = int(rng.integers(2, 4)), int(rng.integers(2, 4)), int(rng.integers(1, 4))
        horizon = int(rng.integers(1, 5))
        scale = {"tiny": 1e-9}.get(profile, float(rng.choice([0.5, 1.0, 10.0])))
        mdp = random_mdp(
            n_states=S, n_actions=A, n_outcomes=K, horizon=horizon, gamma=float(rng.choice([0.0, 0.3, 0.7, 0.9, 1.0])),
            termination=float(rng.choice([0.1, 0.4, 0.7])), reward_density=float(rng.choice([0.3, 1.0])),
            reward_scale=scale, reward_mean=scale * (1e6 if profile == "far from zero" else rng.normal()),
            start=rng.choice(["random", "uniform"]), rng=rng,
        )  # fmt: skip
        starts = np.flatnonzero(mdp.initial)
        if max(count_trajectories(mdp.replace(initial=np.eye(S)[s])) for s in starts) <= MOST[group_size * prompts]:
            break
    D = S * A
    theta, reference, drawn = rng.normal(size=(3, D)) * (15.0 if profile == "nearly deterministic" else 1.0)
    if behaviour:
        # Gaps of the logits up to 20 nats and more between what acts and what learns
        drawn = drawn * (8.0 if profile == "far off policy" else 1.0)
    return Problem(
        mdp, TabularSoftmax(S, A), theta, reference=reference, beta=float(rng.uniform(0.1, 2)) * scale,
        critic=rng.normal(size=S) * scale, behaviour=drawn if behaviour else None, group_size=group_size, prompts=prompts,
        name=profile,
    )  # fmt: skip


def right_ones(problem):
    """Yield (name, function or estimator, objective, whether it is exchangeable, kind) of all that apply."""
    for name, (make, objective, needs) in LIBRARY.items():
        wants_behaviour, wants_group = "behaviour" in needs, "group_size" in needs
        if wants_behaviour == (problem.behaviour is not None) and (not wants_group or problem.group_size > 1):
            yield name, make, objective, True, "proportional" if name in PROPORTIONAL else "unbiased"
    for specimen in CATALOGUE:
        if not specimen.guilty and specimen.applies_to(problem):
            yield specimen.name, specimen.function, specimen.objective, specimen.exchangeable, specimen.verdict


def problem_number(i, seed=0):
    """Return the i-th random problem; every fifth is off-policy, two fifths hold groups or several prompts."""
    rng = np.random.default_rng([seed, i])
    kind = i % 5
    group_size, prompts = {3: (2, 1), 4: (1, 2) if i % 2 else (3, 1)}.get(kind, (1, 1))
    return random_problem(rng, PROFILES[i // 5 % 5], behaviour=kind == 2, group_size=group_size, prompts=prompts)


def false_alarms(numbers, seed=0):
    """Judge all right estimators on random problems; return counts, and what was not as it should be.

    Parameters
    ----------
    numbers : iterable of int
        Which problems.
    seed : int
        Of all of them.

    Returns
    -------
    counts : Counter
        Of verdicts.
    alarms : list of (int, str, str)
        Problem, estimator and verdict, of those called wrong.
    """
    counts, alarms = collections.Counter(), []
    for i in numbers:
        problem = problem_number(i, seed)
        for name, estimator, objective, exchangeable, kind in right_ones(problem):
            verdict = judge(estimator, problem, objective=objective, exchangeable=exchangeable)
            # A factor of one is a right answer where batches hold one trajectory; where the gradient is below rounding there is
            # none; and a fraction of a gradient may be where the gradient is not
            fine = verdict.kind in (kind, "undefined") or (kind == "proportional" and verdict.kind == "unbiased")
            unresolved = kind == "proportional" and verdict.kind == "biased" and is_below_rounding(verdict)
            counts["unresolved" if unresolved else verdict.kind] += 1
            fine |= unresolved
            if not fine:
                alarms.append((i, name, str(verdict)))
            elif verdict.kind == "undefined" and verdict.moments is None:
                alarms.append((i, name, str(verdict)))  # not finite is no answer either
    return counts, alarms


def is_below_rounding(verdict):
    """Whether the mean cannot be told from zero, so that no factor can be named."""
    return bool(np.all(np.abs(verdict.moments.mean) <= verdict.rounding))


def convictions(numbers, seed=0):
    """Return how often each wrong entry of the catalogue is convicted on random problems: the negative control.

    Parameters
    ----------
    numbers : iterable of int
        Which problems.
    seed : int
        Of all of them.

    Returns
    -------
    dict
        (convicted, judged) by name.
    """
    found = {}
    for i in numbers:
        problem = problem_number(i, seed)
        for specimen in (s for s in CATALOGUE if s.guilty and s.applies_to(problem)):
            kind = specimen.judge(problem).kind
            convicted, judged = found.get(specimen.name, (0, 0))
            found[specimen.name] = convicted + (kind in ("biased", "proportional")), judged + 1
    return found


def batches_needed(verdict, alpha=ALPHA, miss=MISS):
    """Return how many batches a test of the mean needs to reject, from the exact bias and variance.

    Catoni's test of every component, two-sided: see `checks.means`.

    Parameters
    ----------
    verdict : Verdict
        Of a biased estimator.
    alpha, miss : float
        False alarms of all components together, and the probability of not rejecting.

    Returns
    -------
    int or float
        Infinite where nothing would do.
    """
    variance = np.maximum(verdict.moments.variance, 1e-12)
    log_alarm, log_miss = math.log(2 * len(variance) / alpha), math.log(1 / miss)

    def notices(n):
        scale = means.catoni_scale(n, variance, log_alarm + log_miss)
        return np.any(means.catoni_detectable(n, variance, scale, log_alarm, log_miss) < np.abs(verdict.bias))

    n = 1
    while not notices(n):
        n *= 2
        if n > 2**40:
            return math.inf
    low = n // 2
    while n - low > 1:
        middle = (n + low) // 2
        low, n = (low, middle) if notices(middle) else (middle, n)
    return n


def detection():
    """Return a row for every entry that is not unbiased: name, verdict, caught on, and the cheapest Monte Carlo detection.

    Returns
    -------
    list of dict
    """
    rows = []
    for specimen in CATALOGUE:
        if specimen.verdict == "unbiased":
            continue
        verdicts = {p.name: specimen.judge(p) for p in PANEL if specimen.applies_to(p)}
        caught = {name: v for name, v in verdicts.items() if v.kind != "unbiased"}
        needed = {name: batches_needed(v) for name, v in caught.items()}
        best = min(needed, key=needed.__getitem__)
        worst = max(caught, key=lambda name: caught[name].relative_bias)
        rows.append(
            {
                "name": specimen.name, "verdict": specimen.verdict, "caught": len(caught), "judged": len(verdicts),
                "worst": worst, "relative_bias": caught[worst].relative_bias, "cosine": caught[worst].cosine,
                "best": best, "batches": needed[best],
            }
        )  # fmt: skip
    return rows


class FalseAlarms:
    """Right estimators on random problems: nobody is called wrong."""

    timeout = 600

    def track_alarms_in_a_hundred_problems(self):
        return len(false_alarms(range(100))[1])


class DefaultCheck:
    """Seconds of `judge_on_panel` with its defaults."""

    params = (("gamma_t_dropped", "mean_of_earlier_ones", "library"),)
    param_names = ("estimator",)

    def setup(self, estimator):
        plain = {specimen.name: specimen.function for specimen in CATALOGUE}
        self.estimator = algorithms.reinforce() if estimator == "library" else plain[estimator]
        kind = {"gamma_t_dropped": "biased"}.get(estimator, "unbiased")
        assert self.time_judge_on_panel(estimator).kind == kind

    def time_judge_on_panel(self, estimator):
        return judge_on_panel(self.estimator)


def main():
    """Print what was found out."""
    parser = argparse.ArgumentParser(
        description="False alarms on random problems, and what it takes to catch the wrong ones."
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{N_PROBLEMS // 100} random problems instead of {N_PROBLEMS}"
    )
    parser.add_argument("--problems", type=int, help="how many random problems")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    n = options.problems or (N_PROBLEMS // 100 if options.quick else N_PROBLEMS)

    start, counts, alarms = time.perf_counter(), collections.Counter(), []
    for first in range(options.first, options.first + n, 100):
        some, more = false_alarms(range(first, min(first + 100, options.first + n)), options.seed)
        counts, alarms = counts + some, alarms + more
        for i, name, verdict in more:
            print(f"FALSE ALARM on problem {i}: {name}: {verdict}", flush=True)
    total = sum(counts.values())
    print(f"{n} random problems, {total} verdicts on right estimators: {len(alarms)} false alarms", end="")
    print(f" ({', '.join(f'{k} {v}' for k, v in sorted(counts.items()))}), {time.perf_counter() - start:.0f} s\n")

    control = convictions(range(CONTROL), options.seed)
    convicted, judged = (sum(column) for column in zip(*control.values(), strict=True))
    least = min(control, key=lambda name: control[name][0] / control[name][1])
    print(
        f"the wrong ones on {CONTROL} of them: convicted in {convicted} of {judged} verdicts, least often {least} ",
        end="",
    )
    print(f"({control[least][0]} of {control[least][1]}): one problem is not a test, hence the panel\n")

    print(
        f"{'wrong, or proportional':34}  {'verdict':12}  caught on  worst relative bias           batches to reject by Monte Carlo"
    )
    for row in detection():
        caught = f"{row['caught']} of {row['judged']}"
        bias = f"{row['relative_bias']:.3f} on {row['worst']}"
        print(f"{row['name']:34}  {row['verdict']:12}  {caught:9}  {bias:28}  {row['batches']:>6} on {row['best']}")


if __name__ == "__main__":
    main()
