"""Benchmarks, side by side with what a user could pick instead: ``python -m benchmarks``.

Every module ``benchmarks/bench_*.py`` is one family of benchmarks. It has
classes in asv's shape (``params``, ``setup``, ``time_*``, ``track_*``), which
asv finds by itself, and may have a function

    report(options) -> iterable of harness.Table

for what asv cannot say: ratios to peers timed in the same process, and growth.
``options`` is `harness.Options`: ``peers`` and ``quick``. A module without it
gets a table of the medians of its classes. Whatever is timed is asserted to be
right first, and a peer that is not installed is named and left out.

    python -m benchmarks                       everything, this package alone
    python -m benchmarks --peers sampling      one family, beside JAX, PyTorch and Gymnasium
    python -m benchmarks --quick               small and rough: does it run, is it right
    python -m benchmarks --json > times.json   one document on standard output
    python -m benchmarks moments --plot a.png  a picture of how the times grow

The peers are the extra ``bench``: ``pip install '.[bench]'``.
"""

import argparse
import importlib
import json
import os
import pathlib
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or PyTorch's threads keep the cores busy in the next one's turn

from benchmarks import harness


def main(words=None):
    """Run the families named on the command line, all of them by default; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="families to run: " + ", ".join(families()))
    parser.add_argument("--peers", action="store_true", help="time JAX, PyTorch and Gymnasium beside this package")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--plot", metavar="FILE", help="draw how the times grow (needs matplotlib)")
    asked = parser.parse_args(words)
    unknown = [name for name in asked.names if name not in families()]
    if unknown:
        parser.error(f"unknown family {', '.join(unknown)}; there are {', '.join(families())}")
    options = harness.Options(asked.peers, asked.quick)

    def say(text):
        print(text, end="\n\n", flush=True, file=sys.stderr if asked.json else sys.stdout)

    tables = []
    for table in every_table(asked.names or families(), options):
        tables.append(table)
        say(table)
    say(", ".join(f"{name} {value}" for name, value in harness.machine().items()))
    if asked.plot:
        harness.draw_growth(tables, asked.plot)
    if asked.json:
        document = {
            "machine": harness.machine(),
            "options": options._asdict(),
            "tables": [t.document() for t in tables],
        }
        print(json.dumps(document, indent=1, allow_nan=False))
    return 0


def families():
    """Return the names of the families: ``bench_<name>.py``."""
    return sorted(path.stem.removeprefix("bench_") for path in pathlib.Path(__file__).parent.glob("bench_*.py"))


def every_table(names, options):
    """Yield the control, the tables of each family, and the control again: had the machine changed, it would show."""
    yield harness.control(options)
    for name in names:
        module = importlib.import_module(f"benchmarks.bench_{name}")
        report = getattr(module, "report", lambda options: harness.asv_tables(module, options))  # noqa: B023
        yield from report(options)
    yield harness.control(options)


if __name__ == "__main__":
    sys.exit(main())
