"""``variance``: one thing varied, the exact bias and variance of a few estimators as a table."""

import argparse
import csv
import dataclasses
import io
import json
import os
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reinforce_np import arguments, plots, sweeps
from reinforce_np.command_line import models, parts
from reinforce_np.command_line.workers import add_option, positive, workers
from reinforce_np.files.disk import replacing
from reinforce_np.sweeps.table import BATCH_SIZE, COLUMNS

DEFAULT_MDP = "gridworld_4x4"
SMALL_HORIZON = 20  # of the default model, which has none
MOST_VALUES = 1000
PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Command:
    """A sweep as a command: how its values are read, computed and drawn."""

    name: str
    symbol: str
    parse: Callable
    low: float
    high: float
    values: tuple
    over: Callable
    draw: Callable
    about: str


COMMANDS = (
    Command(
        "horizon", "T", models.whole, 1, models.MOST_STEPS, sweeps.off_policy.HORIZONS, sweeps.over_horizon,
        plots.over_horizon, "how variance grows with the horizon, on-policy and by importance sampling",
    ),
    Command(
        "gamma", "gamma", models.real, 0, 1, sweeps.on_policy.GAMMAS, sweeps.over_gamma, plots.over_gamma,
        "what discounting more than the (undiscounted) objective asks for costs in bias and saves in variance",
    ),
    Command(
        "lambda", "lambda", models.real, 0, 1, sweeps.on_policy.LAMBDAS, sweeps.over_lambda, plots.over_lambda,
        "bias and variance of GAE with the true critic, a wrong one (of the uniform policy) and none",
    ),
    Command(
        "group-size", "N", models.whole, 2, 2**20, sweeps.groups.GROUP_SIZES, sweeps.over_group_size,
        plots.over_group_size, "RLOO against GRPO as the group grows, under a verifier that says right or wrong",
    ),
    Command(
        "batch", "N", models.whole, 1, 2**60, sweeps.on_policy.BATCHES, sweeps.over_batch, plots.over_batch,
        "the error of an average over N trajectories: noise falls, bias stays",
    ),
    Command(
        "behaviour", "eps", models.real, 0, 1, sweeps.off_policy.SHARES, sweeps.over_behaviour, plots.over_behaviour,
        "what data of another policy costs: actions are uniform with probability eps",
    ),
    Command(
        "baseline", "w", models.real, -1e6, 1e6, sweeps.on_policy.WEIGHTS, sweeps.over_baseline, plots.over_baseline,
        "how much of REINFORCE's variance reward-to-go and a baseline b = w V really remove",
    ),
)  # fmt: skip


def add_to(commands):
    """Add the command and its sweeps to the parser."""
    parser = commands.add_parser(
        "variance",
        help="exact bias and variance as horizon, gamma, lambda, group size, ... vary",
        description="Vary one thing and compute the exact bias and variance of a few estimators: nothing is sampled. Every "
        "sweep has a default problem on which it shows its point.",
    )
    parser.set_defaults(run=lambda options: _no_sweep(parser))
    kinds = parser.add_subparsers(metavar="SWEEP")
    for command in COMMANDS:
        _add_sweep(kinds, command)
    parts.add_to(kinds)


def _add_sweep(kinds, command):
    parser = kinds.add_parser(
        command.name, help=command.about, description=command.about[:1].upper() + command.about[1:] + ".",
        conflict_handler="resolve",
    )  # fmt: skip
    defaults = ", ".join(f"{value:g}" for value in command.values)
    group = parser.add_argument_group("the sweep")
    group.add_argument("--values", metavar="LIST", help=f"{command.symbol}, separated by commas (default: {defaults})")
    if command.name != "batch":
        group.add_argument(
            "--batch-size", type=positive, default=BATCH_SIZE, metavar="N",
            help=f"trajectories that the error is stated for (default: {BATCH_SIZE})",
        )  # fmt: skip
    if command.name == "horizon":
        group.add_argument(
            "--mix", type=models.real, default=1.0, metavar="EPS",
            help="the behaviour is the policy, and uniform with probability EPS (default: 1)",
        )  # fmt: skip
    default = f"{DEFAULT_MDP}, horizon {SMALL_HORIZON}"
    if command.name == "group-size":
        success = ",".join(f"{p:g}" for p in sweeps.groups.SUCCESS)
        group.add_argument(
            "--success", metavar="LIST",
            help=f"probabilities of the right answer, a prompt for each (default: {success}); not with --mdp",
        )  # fmt: skip
        group.add_argument("--actions", type=positive, metavar="K", help="answers to choose from (default: 4)")
        default = "prompts with one right answer, see --success"
    output = parser.add_argument_group("the output")
    output.add_argument(
        "--csv", metavar="FILE", help="write the rows as CSV; - for standard output, instead of the table"
    )
    output.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    output.add_argument(
        "--plot", metavar="FILE", help="draw the picture: file.png, file.svg or file.pdf (needs matplotlib)"
    )
    add_option(output, "compute the rows")
    models.add_options(parser)
    parser.add_argument(
        "--mdp", metavar="MODEL",
        help="a name from `reinforce-np examples`, a file.npz or file.json, or gymnasium:ENV_ID " f"(default: {default})",
    )  # fmt: skip
    parser.add_argument("--seed", type=models.whole, default=0, help="of the noise in `baseline` (default: 0)")
    parser.set_defaults(run=lambda options: run(command, options))


def _no_sweep(parser):
    parser.print_help()
    return 2


def run(command, options):
    """Run a sweep and return the exit code."""
    if options.json and options.csv == "-":
        raise ValueError("--csv -: standard output already has the JSON document; pass a file, or leave --json out")
    if options.plot is not None and not options.plot.lower().endswith(PICTURES):
        raise ValueError(f"--plot {options.plot}: pass a file ending in {', '.join(PICTURES)}")
    if options.plot is not None:
        plots.matplotlib_figure()  # before the work, so that it is not in vain
    values = (
        command.values
        if options.values is None
        else _values("--values", options.values, command.parse, command.low, command.high)
    )
    with workers(options.workers) as executor:
        problem, sweep = _sweep(command, options, values, executor)
    if options.csv is not None:
        _write(options.csv, "--csv", as_csv(sweep).encode())
    if options.plot is not None:
        _write(options.plot, "--plot", plots.image(command.draw, sweep, options.plot))
    if options.json:
        print(json.dumps(as_json(sweep, problem), allow_nan=False))
    elif options.csv != "-":
        print(as_text(sweep, problem, command))
    return 0


def _sweep(command, options, values, executor):
    """Return the problem (None for the verifier's prompts) and the rows."""
    sizes = {"executor": executor} | ({} if command.name == "batch" else {"batch_size": options.batch_size})
    if command.name == "group-size":
        given = [name for name in ("success", "actions") if getattr(options, name) is not None]
        if options.mdp is None:
            return None, _verifier(options, values, sizes)
        if given:
            raise ValueError(f"--{given[0]} {getattr(options, given[0])} is for the default problem; leave out --mdp")
    if (command.name == "horizon" and options.horizon != "own") or (
        command.name == "gamma" and options.gamma is not None
    ):
        raise ValueError(f"--{command.name} is what this sweep varies; pass its --values")
    if options.mdp is None:
        options.mdp = DEFAULT_MDP
        if options.horizon == "own":
            options.horizon = SMALL_HORIZON
    problem = models.problem(options)
    if command.name != "horizon":
        models.require_horizon(problem, "a sweep")
    if command.name == "horizon":
        if not 0 <= options.mix <= 1:
            raise ValueError(f"--mix {options.mix:g} is out of range; pass a probability in [0, 1]")
        sizes["epsilon"] = options.mix
    if command.name == "baseline":
        sizes["seed"] = options.seed
    return problem, command.over(problem.mdp, problem.policy, problem.theta, values, **sizes)


def _verifier(options, values, sizes):
    for name, neutral in (
        ("policy", "tabular"),
        ("features", None),
        ("theta", "random"),
        ("gamma", None),
        ("horizon", "own"),
    ):
        if getattr(options, name) != neutral:
            raise ValueError(
                f"--{name} {getattr(options, name)} needs --mdp: the default problem fixes it by --success"
            )
    success = sweeps.groups.SUCCESS
    if options.success is not None:
        success = _values("--success", options.success, models.real, 0.0, 1.0)
    if any(p in (0, 1) for p in success):
        raise ValueError(f"--success {options.success}: pass probabilities strictly between 0 and 1")
    n_actions = 4 if options.actions is None else options.actions
    if n_actions < 2:
        raise ValueError(f"--actions {n_actions}: there must be at least 2 to choose from")
    return sweeps.over_group_size_of_verifier(success, values, n_actions=n_actions, **sizes)


def _values(option, text, parse, low, high):
    """Parse a list of numbers, naming the one that is wrong."""
    words = text.split(",")
    if len(words) > MOST_VALUES:
        raise arguments.TooLargeError(f"{option}: {len(words)} values are above the limit of {MOST_VALUES}")
    values: list[Any] = []
    for word in words:
        try:
            value = parse(word.strip())
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{option} {text}: {error}") from None
        if value < low:
            raise ValueError(f"{option} {text}: {value:g} is too small; pass at least {low:g}")
        if value > high:
            refusal = arguments.TooLargeError if parse is models.whole else ValueError
            raise refusal(f"{option} {text}: {value:g} is too large; pass at most {high:g}")
        if value in values:
            raise ValueError(f"{option} {text}: {value:g} is there twice")
        values.append(value)
    return values


def _write(path, option, data):
    """Write to standard output, or replace a file whole or not at all."""
    if path == "-":
        sys.stdout.write(data.decode())
        return
    if os.path.isdir(path):
        raise ValueError(f"{option} {path}: it is a directory; pass the path of a file")
    try:
        with replacing(path) as stream:
            stream.write(data)
    except OSError as error:
        raise ValueError(f"{option} {path} cannot be written: {error.strerror or error}") from None


def as_csv(sweep):
    """Return the rows as CSV with a header, an empty cell where a number is not defined."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow((sweep.parameter, *COLUMNS[1:]))
    writer.writerows(dataclasses.astuple(row) for row in sweep.rows)
    return stream.getvalue()


def as_json(sweep, problem):
    """Return the rows and the problem as a dictionary of plain numbers and lists."""
    model: dict[str, Any] = {"mdp": "verifier"}
    if problem is not None:
        model = {
            "mdp": problem.name,
            "n_states": problem.mdp.n_states,
            "n_actions": problem.mdp.n_actions,
            "horizon": problem.mdp.horizon,
            "gamma": problem.mdp.gamma,
            "policy": problem.policy_name,
            "theta": models.parameters(problem.theta),
        }
    return {"sweep": sweep.parameter, **model, "rows": [dataclasses.asdict(row) for row in sweep.rows]}


def as_text(sweep, problem, command):
    """Return the rows as a table, with what its columns mean."""
    lines = [f"Sweep       {command.symbol}: {command.about}"]
    if problem is None:
        lines.append(
            "Model       prompts with one right answer, paid 1: each success probability alone, and all together"
        )
    else:
        mdp = problem.mdp
        fixed = [f"{mdp.n_states} states", f"{mdp.n_actions} actions"]
        fixed += [f"gamma {mdp.gamma:g}"] * (command.name != "gamma") + [f"horizon {mdp.horizon}"] * (
            command.name != "horizon"
        )
        lines += [
            f"Model       {problem.name}: {', '.join(fixed)}",
            f"Policy      {problem.policy_name}, {problem.policy.n_parameters} parameters, theta {problem.theta_name}",
        ]
        if command.name != "horizon":
            lines += [f"            ({remark})" for remark in problem.remarks]
    same = {row.batch_size for row in sweep.rows}
    error = f"error, N={same.pop()}" if len(same) == 1 else "error"
    header = [
        command.symbol,
        "KL",
        "problem",
        "estimator",
        "verdict",
        "rel. bias",
        "cosine",
        "variance",
        "noise",
        error,
        "route",
    ]
    table, before = [header], None
    for row in sweep.rows:
        verdict = f"{row.factor:.3g} x gradient" if row.verdict == "proportional" else row.verdict
        key = (row.setting, row.value)
        table.append([
            f"{row.value:g}" if key != before else "", _number(row.kl, ".3g"), row.setting, row.estimator, verdict,
            "0" if row.relative_bias == 0 else _number(row.relative_bias, ".3f"), _number(row.cosine, ".4f"),
            _number(row.variance, ".4g"), _number(row.noise, ".4g"), _number(row.relative_rmse, ".4g"), row.route,
        ])  # fmt: skip
        before = key
    empty = [all(row[i] in ("", "-") for row in table[1:]) for i in range(len(header))]
    table = [[cell for cell, drop in zip(row, empty, strict=True) if not drop] for row in table]
    left = {header[i] for i in (2, 3, 4, 10)}
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines.append("")
    for row in table:
        cells = [
            cell.ljust(width) if name in left else cell.rjust(width)
            for name, cell, width in zip(table[0], row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    notes = (
        "variance: the sum over components, of an estimate, times the trajectories it took. noise: the same relative to the "
        "squared mean of the estimate: trajectories until the standard error is as long as the mean. error: root mean squared "
        "error of an average over N trajectories, bias included, relative to the length of the gradient. Nothing is sampled."
    )
    if any(row.kl is not None for row in sweep.rows):
        notes += " KL: of the policy's trajectories from the behaviour's, in nats per trajectory."
    return "\n".join([*lines, "", *textwrap.wrap(notes, width=110)])


def _number(value, form):
    return "-" if value is None else format(value, form)
