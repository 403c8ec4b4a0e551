"""What every benchmark shares: answers checked before times, contenders interleaved, tables of ratios and of growth.

`race` runs contenders by turns in one process, so that whatever else the
machine does falls on all of them alike, and a `Table` is what a benchmark
returns: text for people, a dictionary for `--json`. Times are wall clock;
what is compiled is compiled, and every answer asserted, before the first.
"""

import itertools
import math
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

ROUNDS = 9  # of a race, at least 3 of them also when they take long
SECONDS = 6.0  # of a race, after which it stops early
SHORTEST = 1e-2  # seconds of one measurement: what is faster is repeated within it, as it is in a loop


class Options(NamedTuple):
    """What the command line asked for."""

    peers: bool = False  # time JAX, PyTorch and Gymnasium beside this package
    quick: bool = False  # small sizes and few rounds: does it run, is it right


@dataclass(frozen=True)
class Contender:
    """One way to get the answer: `run()` returns it, `check(answer)` asserts that it is right."""

    name: str
    run: Any
    check: Any = None


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender in each round of a race."""

    name: str
    seconds: list

    @property
    def median(self):
        """Median of the rounds, in seconds."""
        return statistics.median(self.seconds)


@dataclass
class Table:
    """Rows of words and numbers under `columns`; numbers are rounded only for people."""

    title: str
    columns: list
    rows: list = field(default_factory=list)
    note: str = ""

    def __str__(self):
        cells = [[str(c) for c in self.columns], *([shown(value) for value in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
                 for row in cells]  # fmt: skip
        return "\n".join(
            [self.title, *("  " + line.rstrip() for line in lines), *([f"  {self.note}"] if self.note else [])]
        )

    def document(self):
        """Return the table as plain Python, for JSON."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "note": self.note}


def shown(value):
    """Return a number with three significant digits, anything else as it is."""
    if isinstance(value, str):
        return value
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def race(contenders, options, rounds=ROUNDS, seconds=SECONDS):
    """Return a `Timing` for each contender, from rounds in which all of them run, each time in another order."""
    repeats = [calibrated(contender) for contender in contenders]
    times = [[] for _ in contenders]
    rounds, seconds = (3, 1.0) if options.quick else (rounds, seconds)
    began = time.perf_counter()
    for i in range(rounds):
        for j in range(len(contenders)):
            j = (i + j) % len(contenders)
            times[j].append(measured(contenders[j].run, repeats[j]))
        if i >= 2 and time.perf_counter() - began > seconds:
            break
    return [Timing(contender.name, t) for contender, t in zip(contenders, times, strict=True)]


def calibrated(contender):
    """Check the answer, which also compiles what is compiled; return how often to repeat within one measurement."""
    answer = contender.run()
    if contender.check is not None:
        contender.check(answer)
    return max(1, math.ceil(SHORTEST / measured(contender.run, 1)))


def measured(run, repeats):
    """Return the seconds of one run, averaged over `repeats` in a row."""
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - began) / repeats


def ratio_table(title, timings, *, per=1.0, unit="ms", scale=1e3, note=""):
    """Return medians per `per` units of work, their range, and how many times longer than the first contender.

    The ratio is the median over rounds of the ratio within a round, since
    contenders of one round met the same machine.
    """
    table = Table(title, ["", unit, "fastest", "slowest", "times the first"], note=note)
    first = timings[0].seconds
    for timing in timings:
        units = [s * scale / per for s in timing.seconds]
        ratios = [a / b for a, b in zip(timing.seconds, first, strict=True)]
        table.rows.append([timing.name, statistics.median(units), min(units), max(units), statistics.median(ratios)])
    return table


def scaling_table(title, what, sizes, seconds, *, unit="ms", scale=1e3, note=""):
    """Return the time at each size and the exponent of its growth: 1 when doubling the size doubles the time."""
    table = Table(title, [what, unit, "exponent"], note=note)
    for i, (size, s) in enumerate(zip(sizes, seconds, strict=True)):
        exponent = math.log(s / seconds[i - 1]) / math.log(size / sizes[i - 1]) if i else None
        table.rows.append([size, s * scale, exponent])
    return table


def draw_growth(tables, path):
    """Write a picture of the tables of growth: time against size, both logarithmic, over a line of exponent one."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("pictures need matplotlib: pip install '.[plots]'") from None

    tables = [table for table in tables if table.columns[-1] == "exponent"]
    if not tables:
        raise SystemExit("none of these families has a table of growth; try moments, exact or sampling")
    n_columns = min(len(tables), 3)
    figure = Figure(figsize=(4.2 * n_columns, 3.4 * math.ceil(len(tables) / n_columns)), layout="constrained")
    axes = figure.subplots(math.ceil(len(tables) / n_columns), n_columns, squeeze=False).ravel()
    for ax in axes[len(tables) :]:
        ax.remove()
    for ax, table in zip(axes, tables, strict=False):
        sizes, times = np.array([row[:2] for row in table.rows], dtype=float).T
        ax.loglog(sizes, times[0] * sizes / sizes[0], color="0.7", label="exponent 1")
        ax.loglog(sizes, times, marker="o", label="measured")
        ax.set(title=table.title, xlabel=table.columns[0], ylabel=table.columns[1])
        ax.title.set_fontsize("small")
        ax.set_xticks(sizes, [shown(int(size)) for size in sizes], fontsize="small")
        ax.set_yticks([times.min(), times.max()], [shown(times.min()), shown(times.max())], fontsize="small")
        ax.minorticks_off()
        ax.legend(fontsize="small")
    figure.savefig(path)


def best(run, repeats=5):
    """Return the fewest seconds of a few runs: for growth, where the machine should not be in the way."""
    run()
    return min(measured(run, 1) for _ in range(repeats))


def control(options):
    """Time the machine and nothing of ours: a generator, a look-up and a product, which bound what can be reached."""
    bits, values, index = np.random.PCG64(0), np.arange(2048, dtype=np.int32), np.arange(2**15, dtype=np.int32) % 2048
    square = np.random.default_rng(0).random((256, 256))
    contenders = [
        Contender("PCG64 random_raw, per 32 bits", lambda: bits.random_raw(2**14)),
        Contender("look-up in 8 kB, per number", lambda: values.take(index, mode="clip")),
        Contender("product of 256 x 256, per 1024 multiplications", lambda: square @ square),
    ]
    units = (2**15, 2**15, 2**14)
    table = Table("Control: this machine, without this package", ["", "ns", "fastest", "slowest"])
    for timing, per in zip(race(contenders, options), units, strict=True):
        ns = [s * 1e9 / per for s in timing.seconds]
        table.rows.append([timing.name, statistics.median(ns), min(ns), max(ns)])
    return table


def machine():
    """Return what the numbers were measured on and with, as a dictionary."""
    found = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    found |= {name: sys.modules[name].__version__ for name in ("jax", "torch", "gymnasium") if name in sys.modules}
    return found


def processor():
    """Return the name of the processor, where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def asv_tables(module, options):
    """Return one table of the asv classes of a module that has no `report`: medians of `time_*`, values of `track_*`."""
    table = Table(f"{module.__name__.split('.')[-1]}: medians", ["", "value", "unit"])
    for case in vars(module).values():
        if isinstance(case, type) and case.__module__ == module.__name__:
            for values in itertools.product(*axes(getattr(case, "params", ()))):
                bench = case()
                getattr(bench, "setup", lambda *values: None)(*values)
                table.rows += [
                    measured_row(bench, name, values, options)
                    for name in dir(bench)
                    if name.startswith(("time_", "track_"))
                ]
    return [table] if table.rows else []


def axes(params):
    """Return the parameters of an asv class as a list of axes: a single one may be given bare."""
    return list(params) if not params or isinstance(params[0], (list, tuple)) else [params]


def measured_row(bench, name, values, options):
    """Return label, value and unit of one method of an asv class."""
    run = getattr(bench, name)
    label = f"{type(bench).__name__}.{name}({', '.join(map(str, values))})"
    if name.startswith("track_"):
        return [label, run(*values), getattr(run, "unit", "")]
    (timing,) = race([Contender(label, lambda: run(*values))], options)
    return [label, timing.median * 1e3, "ms"]
