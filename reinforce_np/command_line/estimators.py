"""``estimators``: the family side by side on one problem, with exact verdicts."""

import argparse
import json
import textwrap
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.command_line import models
from reinforce_np.estimators import (
    GAE,
    BatchStandardised,
    ClippedRatio,
    Estimator,
    GeometricMeanRatio,
    GroupMean,
    GroupStandardised,
    InSampleOptimal,
    KLPenalty,
    LeaveOneOut,
    NStep,
    PerComponent,
    PerDecisionRatio,
    PerToken,
    RewardToGo,
    SelfNormalisedRatio,
    TokenRatio,
    TotalReturn,
    TrajectoryRatio,
    TruncatedRatio,
    VTrace,
    algorithms,
)
from reinforce_np.exact import Discounted, KLRegularised, judge, optimal_baseline, values


def add_to(commands):
    """Add the command to the parser."""
    parser = commands.add_parser(
        "estimators",
        help="every estimator of the family on one problem: exact bias and variance",
        description="The whole family on one problem: what fills the slots, whether it is unbiased for the named objective, "
        "and its exact variance. Where no recursion or histogram applies, all possible batches are listed: such rows need a small problem.",
    )
    models.add_options(parser)
    group = parser.add_argument_group("the batch")
    group.add_argument("--group-size", type=positive, default=2, metavar="N", help="trajectories a prompt (default: 2)")
    group.add_argument("--prompts", type=positive, default=1, metavar="N", help="groups in a batch (default: 1)")
    group.add_argument(
        "--behaviour", metavar="POLICY",
        help="draw the actions from another policy: uniform, mixed:EPS (the policy, and uniform with probability EPS), "
        "or a file.npy or file.json of parameters or of probabilities",
    )  # fmt: skip
    group.add_argument(
        "--beta", type=models.real, default=0.0,
        help="judge for J - beta KL(policy || uniform) instead of J, and list each KL penalty, on reward-to-go; the algorithms "
        "have none of their own (default: 0)",
    )  # fmt: skip
    group.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.set_defaults(run=run)


def positive(text):
    """Parse a whole number >= 1."""
    value = models.whole(text)
    if not value:
        raise argparse.ArgumentTypeError("'0' is too few; pass at least 1")
    return value


def run(options):
    """Run the command and return its exit code."""
    if options.beta < 0:
        raise ValueError(f"--beta {options.beta:g} is out of range; pass a number >= 0")
    problem = models.problem(options, short=True)
    models.require_horizon(problem, "this comparison")
    behaviour = _behaviour(options.behaviour, problem)
    objective = KLRegularised(np.zeros(problem.policy.n_parameters), options.beta) if options.beta else Discounted()
    family = _family(problem, behaviour is not None, options.group_size, options.beta)
    rows = [
        _judged(name, estimator, problem, objective, options, behaviour, uses_groups)
        for name, estimator, uses_groups in family
    ]
    if all(row["verdict"] == "refused" for row in rows):
        raise arguments.TooLargeError(rows[0]["note"])
    plain = next((row["variance_per_trajectory"] for row in rows if row["verdict"] != "refused"), None)
    for row in rows:
        own = row["variance_per_trajectory"]
        row["relative_variance"] = own / plain if own is not None and plain else None
    if options.json:
        print(json.dumps(_as_json(rows, problem, objective, options), allow_nan=False))
    else:
        print(_as_text(rows, problem, objective, options))
    return 0


def _behaviour(spec, problem):
    if spec is None:
        return None
    pi = problem.policy.probabilities(problem.theta)
    uniform = np.where(pi > 0, 1.0, 0.0) / (pi > 0).sum(axis=1, keepdims=True)
    if spec == "uniform":
        return uniform
    if spec.startswith("mixed:"):
        try:
            share = models.real(spec.removeprefix("mixed:"))
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--behaviour {spec}: {error}") from None
        if not 0 <= share <= 1:
            raise ValueError(f"--behaviour {spec}: the share of the uniform policy must be in [0, 1]")
        return (1 - share) * pi + share * uniform
    if spec.endswith((".npy", ".json")):
        return models.array("--behaviour", spec)
    raise ValueError(f"--behaviour {spec}: pass uniform, mixed:EPS, file.npy or file.json")


def _family(problem, off_policy, group_size, beta):
    """Return (name, estimator, whether it looks at groups), plain REINFORCE first."""
    mdp, policy, theta = problem.mdp, problem.policy, problem.theta
    V = values(mdp, policy, theta)
    other = values(mdp, policy, np.zeros(policy.n_parameters))  # the critic of another policy: plausible, and wrong
    if off_policy:
        rows = [
            ("REINFORCE, whole-trajectory ratio", Estimator(TotalReturn(), ratio=TrajectoryRatio()), False),
            ("reward-to-go, whole-trajectory ratio", Estimator(RewardToGo(), ratio=TrajectoryRatio()), False),
            ("reward-to-go, per-decision ratio", Estimator(RewardToGo(), ratio=PerDecisionRatio()), False),
            ("... with baseline V", Estimator(RewardToGo(V), ratio=PerDecisionRatio()), False),
            ("... past ratios left out", Estimator(RewardToGo(V), ratio=PerDecisionRatio(past=False)), False),
            ("per-token ratio, baseline V", Estimator(RewardToGo(V), ratio=TokenRatio()), False),
            ("... clipped (PPO)", Estimator(RewardToGo(V), ratio=ClippedRatio()), False),
            ("... truncated at 2", Estimator(RewardToGo(V), ratio=TruncatedRatio(2.0)), False),
            ("V-trace, true critic", Estimator(GAE(V, 1.0), ratio=VTrace()), False),
            ("geometric-mean ratio, baseline V", Estimator(RewardToGo(V), ratio=GeometricMeanRatio()), False),
            ("self-normalised, baseline V", Estimator(RewardToGo(V), ratio=SelfNormalisedRatio()), True),
            ("no ratio (forgotten), baseline V", Estimator(RewardToGo(V)), False),
        ]
    else:
        rows = [
            ("REINFORCE, total return", algorithms.reinforce(reward_to_go=False), False),
            ("... optimal baseline", Estimator(TotalReturn(_optimal(problem, "trajectory"))), False),
            (
                "... optimal per component",
                Estimator(PerComponent(TotalReturn(), _optimal(problem, "component"))),
                False,
            ),
            ("REINFORCE, reward-to-go", algorithms.reinforce(), False),
            ("... score without gamma^t", Estimator(RewardToGo(), discounted_score=False), False),
            ("... baseline V", algorithms.reinforce_with_baseline(V), False),
            ("... optimal baseline per state", algorithms.reinforce_with_baseline(_optimal(problem, "state")), False),
            ("GAE 0.95, true critic", Estimator(GAE(V, 0.95)), False),
            ("GAE 0.95, wrong critic", Estimator(GAE(other, 0.95)), False),
            ("2-step, wrong critic", Estimator(NStep(other, 2)), False),
            ("actor-critic, true critic", algorithms.actor_critic(V), False),
            ("actor-critic, wrong critic", algorithms.actor_critic(other), False),
        ]
    ratio: dict[str, Any] = {"ratio": TrajectoryRatio()} if off_policy else {}
    if group_size > 1:
        rows += [
            ("RLOO", Estimator(LeaveOneOut(), **ratio), True),
            ("in-sample mean (Dr. GRPO)", Estimator(GroupMean(), **ratio), True),
            ("in-sample optimal baseline", Estimator(InSampleOptimal(), **ratio), True),
            ("GRPO advantage alone", Estimator(GroupStandardised(ddof=0, eps=0.0), **ratio), True),
            ("GRPO", algorithms.grpo(), True),
            ("DAPO", algorithms.dapo(), True),
            ("GSPO", algorithms.gspo(), True),
        ]
    rows += [
        ("batch-standardised reward-to-go", Estimator(BatchStandardised(RewardToGo(), ddof=0, eps=1e-8)), True),
        ("REINFORCE++", algorithms.reinforce_plus_plus(), True),
        ("reward-to-go, mean over tokens", Estimator(RewardToGo(V), normaliser=PerToken()), True),
    ]
    if beta:
        reference = np.zeros(policy.n_parameters)
        ratio = {"ratio": PerDecisionRatio()} if off_policy else {}
        for kind, place in (
            ("k1", "reward"),
            ("k3", "reward"),
            ("k1", "loss"),
            ("k2", "loss"),
            ("k3", "loss"),
            ("full", "loss"),
        ):
            penalty = KLPenalty(reference, beta, kind=kind, place=place)
            rows.append(
                (f"reward-to-go, KL {kind} in the {place}", Estimator(RewardToGo(), penalty=penalty, **ratio), False)
            )
    return rows


def _optimal(problem, level):
    return optimal_baseline(problem.mdp, problem.policy, problem.theta, level=level)


def _judged(name, estimator, problem, objective, options, behaviour, uses_groups):
    """Judge one estimator: on a whole batch if it looks at one, else on a single trajectory."""
    prompts, group_size = (options.prompts, options.group_size) if uses_groups else (1, 1)
    row = {"name": name, "slots": _slots(estimator), "prompts": prompts, "group_size": group_size}
    try:
        verdict = judge(
            estimator, problem.mdp, problem.policy, problem.theta, objective=objective, prompts=prompts,
            group_size=group_size, behaviour=behaviour,
        )  # fmt: skip
    except arguments.TooLargeError as refusal:
        nothing = dict.fromkeys(("factor", "relative_bias", "cosine", "total_variance", "variance_per_trajectory"))
        return row | nothing | {"verdict": "refused", "mean": None, "note": models.listable(refusal)}
    variance = verdict.moments.total_variance
    return row | {
        "verdict": verdict.kind,
        "factor": verdict.factor,
        "relative_bias": verdict.relative_bias if np.isfinite(verdict.relative_bias) else None,
        "cosine": verdict.cosine,
        "total_variance": variance,
        "variance_per_trajectory": variance * prompts * group_size,
        "mean": verdict.moments.mean.tolist(),
        "note": "",
    }


def _slots(estimator):
    """Return the four slots as words."""
    slots = {name: getattr(estimator, name) for name in ("advantage", "ratio", "normaliser")}
    words = {name: type(record).__name__ for name, record in slots.items()}
    words["penalty"] = ", ".join(type(penalty).__name__ for penalty in estimator.penalty) or "none"
    return words | {"discounted_score": estimator.discounted_score}


def _as_json(rows, problem, objective, options):
    return {
        "mdp": problem.name,
        "n_states": problem.mdp.n_states,
        "n_actions": problem.mdp.n_actions,
        "horizon": problem.mdp.horizon,
        "gamma": problem.mdp.gamma,
        "policy": problem.policy_name,
        "theta": models.parameters(problem.theta),
        "objective": type(objective).__name__,
        "beta": options.beta,
        "behaviour": options.behaviour,
        "estimators": rows,
    }


def _as_text(rows, problem, objective, options):
    mdp = problem.mdp
    batch = f"{options.prompts} prompt{'s' * (options.prompts > 1)} x {options.group_size}"
    lines = [
        f"Model       {problem.name}: {mdp.n_states} states, {mdp.n_actions} actions, gamma {mdp.gamma:g}, horizon {mdp.horizon}",
        f"Policy      {problem.policy_name}, {problem.policy.n_parameters} parameters, theta {problem.theta_name}; "
        + (f"actions drawn from {options.behaviour}" if options.behaviour else "on-policy"),
        *(f"            ({remark})" for remark in problem.remarks),
        "Objective   "
        + ("J, the expected discounted return" if not options.beta else f"J - {options.beta:g} KL(policy || uniform)"),
        f"Batch       one trajectory, or {batch} where the estimator compares trajectories (marked *)",
        "",
    ]
    table = [
        [
            "estimator",
            "advantage",
            "ratio",
            "penalty",
            "normaliser",
            "verdict",
            "rel. bias",
            "cosine",
            "variance",
            "relative",
        ]
    ]
    for row in rows:
        slots, star = row["slots"], "*" if row["prompts"] * row["group_size"] > 1 else ""
        verdict = f"{row['factor']:.3g} x gradient" if row["verdict"] == "proportional" else row["verdict"]
        numbers = [_number(row[key], form) for key, form in (("relative_bias", ".3f"), ("cosine", ".4f"), ("total_variance", ".4g"), ("relative_variance", ".3f"))]  # fmt: skip
        if row["verdict"] == "unbiased":
            numbers[0] = "0"
        table.append(
            [
                row["name"] + star,
                slots["advantage"],
                slots["ratio"],
                slots["penalty"],
                slots["normaliser"],
                verdict,
                *numbers,
            ]
        )
    if all(row[3] == "none" for row in table[1:]):  # nothing to see in the column of penalties
        table = [row[:3] + row[4:] for row in table]
    left = table[0].index("verdict") + 1
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    lines += textwrap.wrap(
        "variance: the sum over components, of an estimate from one batch. relative: variance times the trajectories of the "
        "batch, relative to the first row: what the same number of trajectories would give. A biased estimator can look good "
        "by being small: compare relative bias too.",
        width=110,
    )
    for row in rows:
        if row["note"]:
            lines += textwrap.wrap(f"{row['name']}: {row['note']}", width=110)
    return "\n".join(lines)


def _number(value, form):
    return "-" if value is None else format(value, form)
