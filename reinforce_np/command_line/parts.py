"""``variance parts``: which draws, which state-action pairs and which trajectories the variance comes from."""

import json
import textwrap

import numpy as np

from reinforce_np import arguments
from reinforce_np.command_line import models
from reinforce_np.estimators import GAE, Estimator, NStep, RewardToGo, TotalReturn
from reinforce_np.exact import judge, largest_contributions, largest_pairs, values, variance_parts

DEFAULT = "reward-to-go"
ABOUT = "where the variance of one trajectory's estimate comes from: draws, state-action pairs, trajectories"


def add_to(kinds):
    """Add the command to the sweeps of ``variance``."""
    parser = kinds.add_parser("parts", help=ABOUT, description=ABOUT[:1].upper() + ABOUT[1:] + ".")
    group = parser.add_argument_group("what is shown")
    group.add_argument(
        "--estimator", default=DEFAULT, metavar="NAME",
        help=f"whose pairs and trajectories: {', '.join(_estimators(None))} (default: {DEFAULT})",
    )  # fmt: skip
    group.add_argument("--top", type=models.whole, default=5, metavar="N", help="how many of them (default: 5)")
    group.add_argument("--json", action="store_true", help="print one JSON document instead of the tables")
    models.add_options(parser)
    parser.set_defaults(run=run)


def _estimators(problem):
    """Return the estimators by name; the names alone without a problem."""
    names = ("total-return", "reward-to-go", "baseline", "no-discount", "gae", "2-step", "actor-critic")
    if problem is None:
        return dict.fromkeys(names)
    given = problem.mdp, problem.policy
    V, wrong = values(*given, problem.theta), values(*given, np.zeros(problem.policy.n_parameters))
    slots = (
        Estimator(TotalReturn()), Estimator(RewardToGo()), Estimator(RewardToGo(V)),
        Estimator(RewardToGo(), discounted_score=False), Estimator(GAE(wrong, 0.95)), Estimator(NStep(wrong, 2)),
        Estimator(NStep(wrong, 1)),
    )  # fmt: skip
    return dict(zip(names, slots, strict=True))


def run(options):
    """Run the command and return its exit code."""
    if not options.top:
        raise ValueError("--top 0 shows nothing; pass at least 1")
    if options.estimator not in _estimators(None):
        raise ValueError(f"--estimator {options.estimator}: pass one of {', '.join(_estimators(None))}")
    problem = models.problem(options, short=True)
    given = problem.mdp, problem.policy, problem.theta
    with models.told_of_the_horizon(problem):
        rows = [_row(name, estimator, given) for name, estimator in _estimators(problem).items()]
    chosen = _estimators(problem)[options.estimator]
    pairs = largest_pairs(chosen, *given, n=options.top)
    try:
        trajectories, note = largest_contributions(chosen, *given, n=options.top), ""
    except arguments.TooLargeError as refusal:
        trajectories, note = None, models.listable(refusal)
    if options.json:
        print(json.dumps(_as_json(problem, rows, options, pairs, trajectories, note), allow_nan=False))
    else:
        print(_as_text(problem, rows, options, pairs, trajectories, note))
    return 0


def _row(name, estimator, given):
    parts, verdict = variance_parts(estimator, *given), judge(estimator, *given)
    return {"name": name, "verdict": verdict.kind, "variance": parts.total, "shares": parts.shares}


def _as_json(problem, rows, options, pairs, trajectories, note):
    shown = None
    if trajectories is not None:
        shown = [
            {
                "steps": trajectories.words(i),
                "probability": float(trajectories.probability[i]),
                "variance_share": float(trajectories.variance_share[i]),
                "bias_share": float(trajectories.bias_share[i]),
            }
            for i in range(len(trajectories))
        ]
    return {
        "mdp": problem.name,
        "horizon": problem.mdp.horizon,
        "gamma": problem.mdp.gamma,
        "policy": problem.policy_name,
        "theta": models.parameters(problem.theta),
        "parts": rows,
        "estimator": options.estimator,
        "pairs": [
            {"state": int(s), "action": int(a), "variance_share": float(variance), "bias_share": float(bias)}
            for s, a, variance, bias in zip(
                pairs.states, pairs.actions, pairs.variance_share, pairs.bias_share, strict=True
            )
        ],
        "trajectories": shown,
        "note": note,
    }


def _as_text(problem, rows, options, pairs, trajectories, note):
    mdp = problem.mdp
    lines = [
        "Parts       of the variance of one trajectory's estimate, by what is drawn",
        f"Model       {problem.name}: {mdp.n_states} states, {mdp.n_actions} actions, gamma {mdp.gamma:g}, horizon {mdp.horizon}",
        f"Policy      {problem.policy_name}, {problem.policy.n_parameters} parameters, theta {problem.theta_name}",
        *(f"            ({remark})" for remark in problem.remarks),
        "",
    ]
    columns = list(rows[0]["shares"])
    table = [["estimator", "verdict", "variance", *columns]]
    table += [
        [row["name"], row["verdict"], f"{row['variance']:.4g}", *(f"{row['shares'][name]:.1%}" for name in columns)]
        for row in rows
    ]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines += ["", f"{options.estimator}: pairs, the choice of the action and its outcome, at all steps", str(pairs)]
    lines += ["", f"{options.estimator}: trajectories"]
    lines += [str(trajectories)] if trajectories is not None else textwrap.wrap(f"not listed: {note}", width=110)
    notes = (
        "start + all actions + all transitions = 100 %, and so are start + first action + first transition + future, which is "
        "all that is drawn after the first step. gae, 2-step and actor-critic have the values of the uniform policy as "
        "critic. Nothing is sampled."
    )
    return "\n".join([*lines, "", *textwrap.wrap(notes, width=110)])
