"""``catalogue``: the wrong estimators, the wrongly accused ones, and what each does on the panel."""

import json
import textwrap

from reinforce_np.command_line.workers import add_option, workers
from reinforce_np.referee.catalogue import CATALOGUE, judge_each
from reinforce_np.referee.panel import PANEL, judge_on_panel

WIDTH = 110


def add_to(commands):
    """Add the command to the parser."""
    parser = commands.add_parser(
        "catalogue",
        help="wrong estimators and wrongly accused ones, each with its exact bias",
        description="List the catalogue: estimators that are wrong and some that were wrongly accused, each judged on the problem "
        "its numbers are stated on. With a name: what it is, where it was seen, what it should be, and its bias on the whole panel.",
    )
    parser.add_argument("name", nargs="?", help="one entry in full")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    add_option(parser, "judge")
    parser.set_defaults(run=run)


def run(options):
    """Run the command and return its exit code."""
    specimen = None if options.name is None else _named(options.name)
    with workers(options.workers) as executor:
        found = judge_each(CATALOGUE, executor=executor) if specimen is None else _on_panel(specimen, executor)
    if specimen is None:
        document = {"catalogue": [_entry(one) | _judged(found[one.name][one.on]) for one in CATALOGUE]}
        text = _table(document["catalogue"])
    else:
        document = _entry(specimen) | {"panel": found.as_dict()}
        text = _in_full(specimen, found)
    print(json.dumps(document, allow_nan=False) if options.json else text)
    return 0


def _named(name):
    """Return the entry of this name, or say which ones there are."""
    plain = name.replace("-", "_").replace(" ", "_")
    for specimen in CATALOGUE:
        if specimen.name == plain:
            return specimen
    similar = [specimen.name for specimen in CATALOGUE if plain in specimen.name]
    raise ValueError(
        f"name={name!r} is in no family of the catalogue; "
        + (f"there is {', '.join(similar)}" if similar else "run `python -m reinforce_np catalogue` for all of them")
    )


def _on_panel(specimen, executor):
    """Judge on the problems that have what the entry needs."""
    return judge_on_panel(
        specimen.function,
        objective=specimen.objective,
        off_policy="behaviour" in specimen.needs,
        exchangeable=specimen.exchangeable,
        problems=[problem for problem in PANEL if specimen.applies_to(problem)],
        executor=executor,
    )


def _entry(specimen):
    return {
        "name": specimen.name,
        "family": specimen.family,
        "guilty": specimen.guilty,
        "what": specimen.what,
        "seen": specimen.seen,
        "remedy": specimen.remedy,
        "needs": list(specimen.needs),
        "problem": specimen.on,
    }


def _judged(verdict):
    return {
        "objective": type(verdict.objective).__name__,
        "verdict": verdict.kind,
        "factor": verdict.factor,
        "relative_bias": verdict.relative_bias,
        "cosine": verdict.cosine,
        "total_variance": verdict.moments.total_variance,
    }


def _table(entries):
    rows = [("family", "name", "problem", "objective", "verdict", "rel. bias", "cosine")]
    for entry in entries:
        kind = f"{entry['factor']:.3g} x gradient" if entry["verdict"] == "proportional" else entry["verdict"]
        bias = "0" if entry["verdict"] == "unbiased" else f"{entry['relative_bias']:.3f}"
        cosine = "-" if entry["cosine"] is None else f"{entry['cosine']:.4f}"
        rows.append((entry["family"], entry["name"], entry["problem"], entry["objective"], kind, bias, cosine))
    widths = [max(len(row[i]) for row in rows) for i in range(7)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < 5 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    n_guilty = sum(entry["guilty"] for entry in entries)
    lines += ["", f"{n_guilty} are mistakes; {len(entries) - n_guilty}, the family `accused`, are right."]
    return "\n".join(lines)


def _in_full(specimen, found):
    paragraphs = [
        ("What it is", specimen.what),
        ("Seen", specimen.seen),
        ("Remedy" if specimen.guilty else "Why it is right", specimen.remedy),
    ]
    lines = [f"{specimen.name} ({specimen.family})", ""]
    for title, text in paragraphs:
        lines += textwrap.wrap(f"{title}: {text}", width=WIDTH, subsequent_indent="  ", break_long_words=False)
    return "\n".join([*lines, "", str(found)])
