"""``check``: the gradient by four routes, and REINFORCE confirmed against it."""

import argparse
import json
import textwrap
from dataclasses import dataclass

import numpy as np

from reinforce_np import graph
from reinforce_np.checks import confirmation
from reinforce_np.checks.confirmation import Confirmation
from reinforce_np.checks.laws import Law, law_of
from reinforce_np.checks.routes import RouteComparison, compare_routes
from reinforce_np.command_line import models
from reinforce_np.enumeration import count_trajectories
from reinforce_np.estimators import algorithms
from reinforce_np.exact import Discounted, Undiscounted, occupancy
from reinforce_np.problem import Problem

ENUMERATION_LIMIT = 2**18  # trajectories listed by the command
MONTE_CARLO_LIMIT = 2**14  # trajectories listed to learn the law of the estimator
MOST_COMPONENTS = 64  # judged by Monte Carlo; more of them share alpha and cost time
MOMENT_CELLS = 2**25  # cells of the exact moments' recursion
FEWEST, MOST = 10_000, 1_000_000  # trajectories drawn unless told otherwise
WORK = 2**25  # what those may cost: their steps, and a quarter of a step for each parameter
AIM = 0.1  # bias to be noticed, relative to the largest component, if that is affordable
SHOWN = 6  # components printed
EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3}


@dataclass(frozen=True, eq=False)
class Report:
    """All that `check` found out."""

    problem: models.Problem
    comparison: RouteComparison
    confirmation: Confirmation | None
    n_enumerated: int | None

    @property
    def verdict(self):
        """The one word at the end: "pass", "fail" or "inconclusive"."""
        if not self.comparison.agree or (self.confirmation is not None and self.confirmation.rejected):
            return "fail"
        return "pass" if self.confirmation is not None and self.confirmation.conclusive else "inconclusive"


def add_to(commands):
    """Add the command to the parser."""
    parser = commands.add_parser(
        "check",
        help="compute a policy gradient four ways and confirm REINFORCE against it",
        description="Compute the gradient of the expected return by recursion, enumeration, complex step and differences, "
        "and confirm the Monte Carlo score-function estimator against it.",
    )
    models.add_options(parser)
    group = parser.add_argument_group("the check")
    group.add_argument(
        "--trajectories", type=count, metavar="N",
        help=f"Monte Carlo trajectories (default: enough to notice a bias of {100 * AIM:g} %% of the gradient, if affordable)",
    )  # fmt: skip
    group.add_argument(
        "--alpha", type=models.real, default=confirmation.ALPHA,
        help=f"probability of rejecting a correct estimator (default: {confirmation.ALPHA:g})",
    )  # fmt: skip
    group.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.set_defaults(run=run)


def count(text):
    """Parse a number of trajectories >= 1."""
    value = models.whole(text)
    if not value:
        raise argparse.ArgumentTypeError("'0' trajectories say nothing; pass at least 1")
    return value


def run(options):
    """Run the command and return its exit code."""
    if not 0 < options.alpha < 1:
        raise ValueError(f"--alpha {options.alpha:g} is out of range; pass a probability in (0, 1)")
    report = investigate(models.problem(options), options.trajectories, options.alpha, options.seed)
    options.code = EXIT_CODES[report.verdict]  # also where nobody reads what is printed
    print(json.dumps(as_json(report), allow_nan=False) if options.json else as_text(report))
    return options.code


def investigate(problem, n, alpha, seed):
    """Compute everything that is printed.

    Parameters
    ----------
    problem : models.Problem
        What to check.
    n : int or None
        Monte Carlo trajectories; None to choose.
    alpha : float
        False-alarm rate.
    seed : int
        Of the trajectories.

    Returns
    -------
    Report
    """
    mdp, policy, theta = problem.mdp, problem.policy, problem.theta
    comparison = compare_routes(mdp, policy, theta, limit=ENUMERATION_LIMIT, rng=seed)
    enumerated = comparison.routes[0].gradient is not None
    n_enumerated = count_trajectories(mdp, policy, theta) if enumerated else None
    if (
        mdp.horizon is None
        and not graph.surely_ends(mdp, graph.possible_outcomes(mdp, policy.probabilities(theta))).all()
    ):
        return Report(problem, comparison, None, n_enumerated)
    estimator = algorithms.reinforce()
    components = _components(mdp, comparison.gradient, seed)
    judged = Problem(mdp, policy, theta)
    law = law_of(estimator, judged, Discounted(), components, limit=MONTE_CARLO_LIMIT)
    n = _affordable(law, mdp, policy, theta, alpha) if n is None else n
    confirmed = confirmation.confirm_law(law, estimator, judged, n, alpha=alpha, rng=seed)
    return Report(problem, comparison, confirmed, n_enumerated)


def _components(mdp, gradient, seed):
    """Choose the components that Monte Carlo judges: the largest, and as many others at random."""
    steps = mdp.horizon or 1
    most = int(np.clip(MOMENT_CELLS // (mdp.probability.size * steps), 2, MOST_COMPONENTS))
    if len(gradient) <= most:
        return np.arange(len(gradient))
    order = np.argsort(-np.abs(gradient), kind="stable")
    others = np.random.default_rng([seed, 1]).permutation(order[most // 2 :])
    return np.sort(np.concatenate([order[: most // 2], others[: most - most // 2]]))


def _affordable(law: Law, mdp, policy, theta, alpha):
    """Choose how many trajectories: enough to notice a bias of `AIM` in the largest component, within the budget."""
    steps = float(occupancy(mdp, policy, theta, objective=Undiscounted()).sum())
    most = int(np.clip(WORK / (steps + policy.n_parameters / 4), FEWEST, MOST))
    largest = int(np.argmax(np.abs(law.gradient)))
    n = FEWEST
    while n < most and law.detectable(n, alpha)[largest] > AIM * abs(law.gradient[largest]) > 0:
        n *= 2
    return min(n, most)


def as_json(report):
    """Return the report as a dictionary of plain numbers and lists."""
    problem, comparison, confirmed = report.problem, report.comparison, report.confirmation
    gradient = {"recursion": comparison.gradient.tolist()}
    for route in comparison.routes:
        gradient[route.name] = None if route.gradient is None else _spread(route, len(comparison.gradient))
    return {
        "mdp": problem.name,
        "n_states": problem.mdp.n_states,
        "n_actions": problem.mdp.n_actions,
        "horizon": problem.mdp.horizon,
        "gamma": problem.mdp.gamma,
        "policy": problem.policy_name,
        "theta": models.parameters(problem.theta),
        "objective": comparison.objectives["backward"],
        "objectives": comparison.objectives,
        "gradient": gradient,
        "notes": {route.name: route.note for route in comparison.routes if route.note},
        "disagreement": comparison.disagreement,
        "taylor_slope": comparison.taylor.slope if np.isfinite(comparison.taylor.slope) else None,
        "routes_agree": comparison.agree,
        "monte_carlo": None
        if confirmed is None
        else {
            "n": confirmed.n,
            "alpha": confirmed.alpha,
            "components": confirmed.components.tolist(),
            "estimate": confirmed.estimate.tolist(),
            "standard_error": confirmed.standard_error.tolist(),
            "z": confirmed.z.tolist(),
            "smallest_detectable": [x if np.isfinite(x) else None for x in confirmed.smallest_detectable.tolist()],
            "rejected": confirmed.rejected,
            "conclusive": confirmed.conclusive,
        },
        "verdict": report.verdict,
        "passed": report.verdict == "pass",
    }


def _spread(route, n):
    """Return the route's gradient as a list, None in the components it left out."""
    values: list = [None] * n
    for i, value in zip(route.components, route.gradient, strict=True):
        values[i] = float(value)
    return values


def as_text(report):
    """Return the report as an explanation that reads from top to bottom."""
    parts = [_model(report), _objective(report), _gradients(report), _monte_carlo(report), _verdict(report)]
    return "\n\n".join(parts)


def _model(report):
    problem = report.problem
    mdp = problem.mdp
    lines = [
        f"Model       {problem.name}: {mdp.n_states} states, {mdp.n_actions} actions, up to {mdp.n_outcomes} outcomes each, "
        f"gamma {mdp.gamma:g}, horizon {mdp.horizon}",
        f"Policy      {problem.policy_name}, {problem.policy.n_parameters} parameters, theta {problem.theta_name}",
    ]
    return "\n".join(lines + [f"            ({remark})" for remark in problem.remarks])


def _objective(report):
    J = report.comparison.objectives
    lines = [
        "Objective   J(theta) = E[sum over t of gamma^t r_t], the expected discounted return",
        f"            {J['backward']:.12g}  by recursion from the end (values)",
        f"            {J['forward']:.12g}  by recursion from the start (occupancy)",
    ]
    if J["enumeration"] is not None:
        lines.append(f"            {J['enumeration']:.12g}  by listing all {report.n_enumerated:,} trajectories")
    return "\n".join(lines)


def _gradients(report):
    comparison = report.comparison
    names = {"enumeration": "enumeration", "complex_step": "complex step", "finite_difference": "differences"}
    rows = [["", "recursion", *names.values()]]
    for i in _shown(comparison.gradient):
        row = [f"theta[{i}]", f"{comparison.gradient[i]:.10g}"]
        for route in comparison.routes:
            value = None if route.gradient is None else _spread(route, len(comparison.gradient))[i]
            row.append("-" if value is None else f"{value:.10g}")
        rows.append(row)
    hidden = len(comparison.gradient) - (len(rows) - 1)
    n_routes = 1 + sum(route.gradient is not None for route in comparison.routes)
    lines = [f"Gradient    of J with respect to theta, by {n_routes} routes that share little code", *_table(rows)]
    if hidden:
        lines.append(f"            ... and {hidden} smaller components")
    for route in comparison.routes:
        if route.note:
            lines += _wrapped(f"{names[route.name]} {models.listable(route.note)}")
        else:
            worst = float(np.max(route.disagreement, initial=0.0))
            agrees = "agrees" if route.agrees else "DISAGREES"
            allowed = float(np.max(route.tolerance, initial=0.0))
            lines.append(
                f"            {names[route.name]} {agrees}: largest difference {worst:.1e} (rounding allows {allowed:.1e})"
            )
    slope = comparison.taylor.slope
    says = "all remainders are rounding" if np.isinf(slope) else f"remainder falls with slope {slope:.2f}"
    lines.append(f"            Taylor test {_taylor_word(comparison.taylor)}: {says} (2 when right, 1 when wrong)")
    return "\n".join(lines)


def _taylor_word(taylor):
    if not taylor.passed:
        return "DISAGREES"
    return "agrees" if taylor.conclusive else "cannot tell (rounding is too large here)"


def _monte_carlo(report):
    confirmed = report.confirmation
    if confirmed is None:
        return "Monte Carlo skipped: some episodes of this model never end; give a --horizon to sample them"
    rows = [["", "exact", "estimate", "std error", "z", "detectable"]]
    for j in _shown(confirmed.gradient):
        rows.append(
            [
                f"theta[{confirmed.components[j]}]",
                f"{confirmed.gradient[j]:.5g}",
                f"{confirmed.estimate[j]:.5g}",
                f"{confirmed.standard_error[j]:.2g}",
                f"{confirmed.z[j]:+.2f}",
                f"{confirmed.smallest_detectable[j]:.2g}",
            ]
        )
    hidden = len(confirmed.gradient) - (len(rows) - 1)
    lines = [
        f"Monte Carlo REINFORCE, sum of gamma^t * (score of a_t) * (return from t on), over {confirmed.n:,} trajectories",
        *_table(rows),
    ]
    if hidden:
        lines.append(f"            ... and {hidden} more of the {len(confirmed.components)} components judged")
    lines += _wrapped(
        "detectable: a bias of this size would have been rejected with probability 0.99; z describes, it does not judge"
    )
    return "\n".join(lines)


def _verdict(report):
    confirmed, comparison = report.confirmation, report.comparison
    if report.verdict == "fail":
        reasons = []
        if not comparison.objectives_agree:
            reasons.append("the routes to J(theta) disagree")
        if not comparison.taylor.passed:
            reasons.append(f"the Taylor remainder falls with slope {comparison.taylor.slope:.2f} only")
        if not all(route.agrees for route in comparison.routes):
            reasons.append(f"the routes to the gradient disagree by {comparison.disagreement:.3g}")
        if confirmed is not None and confirmed.rejected:
            reasons.append(f"Monte Carlo: {confirmed}")
        return "\n".join(_wrapped("FAIL: " + "; ".join(reasons), "Verdict     "))
    routes = 1 + sum(route.gradient is not None for route in comparison.routes)
    agree = f"{routes} routes agree to {comparison.disagreement:.1e}"
    if confirmed is None:
        return "\n".join(_wrapped(f"INCONCLUSIVE: {agree}, but no trajectory could be drawn", "Verdict     "))
    agree += f", and REINFORCE is {confirmed}"
    if report.verdict == "pass":
        size = np.abs(confirmed.gradient)
        unseen = not np.any((size > 0) & (size >= confirmed.smallest_detectable))
        but = "; but the gradient is zero here, or below what this run would notice: choose another --theta to test its factor and sign"
        return "\n".join(_wrapped(f"PASS: {agree}{but if unseen else ''}", "Verdict     "))
    return "\n".join(_wrapped(f"INCONCLUSIVE: {agree}; use more --trajectories", "Verdict     "))


def _shown(gradient):
    """Return the components worth printing: the largest, in order."""
    return np.sort(np.argsort(-np.abs(gradient), kind="stable")[:SHOWN])


def _table(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "            " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    ]


def _wrapped(text, head="            "):
    return textwrap.wrap(text, width=110, initial_indent=head, subsequent_indent="            ")
