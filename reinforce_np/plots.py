"""One picture for each sweep, drawn with matplotlib (the extra `plots`).

Every function takes the sweep of the same name and optionally the Axes to draw
on, and returns the Axes; nothing is shown or saved. Titles say what is seen,
with the numbers of the sweep at hand. Solid lines are unbiased estimators,
dashed ones biased.
"""

import io

import numpy as np

FIGURE = (8.0, 5.0)  # inches; 800 x 500 pixels at DPI
DPI = 100
BLACK, GREY, BLUE, SKY, GREEN, ORANGE, RED, PINK = (
    "#111111", "#8a8a8a", "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7",
)  # fmt: skip
COLOURS = (BLUE, RED, GREEN, ORANGE, PINK, SKY)
GAP = 0.055  # between two labels, as a share of the height of the axes
GRPO = "group mean and deviation (GRPO)"  # as `sweeps.groups` calls it
DASHED = "\ndashed: biased"
EMPTY = "the sweep has no rows with this number; use other values"


def matplotlib_figure():
    """Return a new Figure that belongs to no window.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"plots need matplotlib ({error}); pip install 'reinforce-np[plots]', or '.[plots]'"
        ) from None
    return Figure(figsize=FIGURE, dpi=DPI, layout="constrained")


def image(draw, sweep, path):
    """Return a picture as the bytes of a file whose format is in the name of `path`.

    Parameters
    ----------
    draw : callable
        One of the functions of this module.
    sweep : Sweep
        What to draw.
    path : str
        Ends in .png, .svg or .pdf.

    Returns
    -------
    bytes
    """
    stream, kind = io.BytesIO(), path.lower().rpartition(".")[2]
    ax = draw(sweep)
    ax.figure.savefig(
        stream, format=kind, metadata={} if kind == "png" else {"Date" if kind == "svg" else "CreationDate": None}
    )
    return stream.getvalue()


def over_horizon(sweep, ax=None):
    """Draw variance against the horizon: a straight line on the logarithmic axis is geometric growth.

    Parameters
    ----------
    sweep : Sweep
        From `sweeps.over_horizon`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    matplotlib Axes
    """
    ax, lines = _axes(ax), _lines(sweep, "variance")
    colours = dict(zip((name for _, name in lines), (GREY, SKY, BLUE, RED, ORANGE, GREEN), strict=False))
    ends = [_line(ax, lines[key], colours[key[1]], key[1], dashed=_biased(sweep, key)) for key in lines]
    ax.set_yscale("log")
    _axis_names(ax, "horizon T (steps)" + DASHED, "total variance of one trajectory (reward²)")
    growth = _growth(lines.get(("", "whole-trajectory ratio")))
    says = "Importance sampling against the horizon"
    if growth is not None:
        says = (
            f"Importance sampling: every further step multiplies the variance of the whole-trajectory ratio by {growth:.2f}"
            if growth > 1.02
            else "Importance sampling costs little here: its variance has stopped growing"
        )
    return _finished(ax, says, ends)


def over_gamma(sweep, ax=None):
    """Draw bias and error of discounting against γ.

    Parameters
    ----------
    sweep : Sweep
        From `sweeps.over_gamma`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(ax)
    names = {
        "gamma on rewards and score": ("γ on rewards, score", RED),
        "gamma on rewards only": ("γ on rewards only", BLUE),
    }
    ends = _bias_and_error(ax, sweep, names)
    _axis_names(ax, "discount γ used by the estimator (the objective has none)", _error_name("error", sweep))
    best = _smallest(sweep, "gamma on rewards only", "relative_rmse")
    says = "A smaller γ trades noise for bias"
    if best is not None:
        says += f": with γ on the rewards only, the error is least at γ\u00a0=\u00a0{best[0]:g}"
    return _finished(ax, says, ends)


def over_lambda(sweep, ax=None):
    """Draw bias and error of GAE against λ.

    Parameters
    ----------
    sweep : Sweep
        From `sweeps.over_lambda`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(ax)
    names = {
        "true critic": ("true critic", GREEN),
        "wrong critic": ("wrong critic", BLUE),
        "no critic": ("no critic", GREY),
    }
    ends = _bias_and_error(ax, sweep, names)
    _axis_names(ax, "λ of the generalised advantage", _error_name("error", sweep))
    best = _smallest(sweep, "wrong critic", "relative_rmse")
    says = "A larger λ trades bias for noise"
    if best is not None:
        says += f": with a wrong critic, the error is least at λ\u00a0=\u00a0{best[0]:g}"
    return _finished(ax, says, ends)


def over_group_size(sweep, ax=None):
    """Draw the factor that each estimator puts on the gradient, against the size of the group.

    Parameters
    ----------
    sweep : Sweep
        From `sweeps.over_group_size_of_verifier` or `over_group_size`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    matplotlib Axes
    """
    ax, lines, ends = _axes(ax), sweep.lines("factor"), []
    grpo = {key[0]: line for key, line in lines.items() if key[1] == GRPO and not _biased(sweep, key)}
    if not grpo:  # biased in direction too: no factor to draw
        return _group_noise(sweep, ax)
    for (setting, line), colour in zip(grpo.items(), COLOURS * len(grpo), strict=False):
        ends.append(_line(ax, line, colour, f"GRPO, {setting}" if setting else "GRPO"))
    for name, colour in (("RLOO", BLACK), ("group mean (Dr. GRPO)", GREY)):
        found = [line for (_, n), line in lines.items() if n == name]
        ends += [_line(ax, found[0], colour, name.removeprefix("group mean (").removesuffix(")"))] if found else []
    ax.set_xscale("log", base=2)
    ax.set_xticks(found[0][0], [f"{x:g}" for x in found[0][0]], minor=False)
    mixed = [row for row in sweep.rows if row.estimator == GRPO and row.verdict == "biased" and row.cosine is not None]
    note = f"\nGRPO on {mixed[-1].setting} together: biased, cosine with the gradient {mixed[-1].cosine:.3f} at N = {mixed[-1].value:g}"
    _axis_names(
        ax,
        "group size N (answers to one prompt)" + (note if mixed else ""),
        "factor on the gradient: E[estimate] / gradient",
    )
    ax.set_ylim(bottom=0)
    largest = max(float(line[1][-1]) for line in grpo.values())
    says = f"GRPO multiplies the gradient of a prompt by up to {largest:.2g}, the more the further from ½ its success p; RLOO by 1"
    return _finished(ax, says, ends)


def _group_noise(sweep, ax):
    """Draw the noise instead, where no estimator is a multiple of the gradient."""
    ends: list = []
    for (setting, name), line in _lines(sweep, "noise").items():
        label = name.removeprefix("group mean and deviation (").removeprefix("group mean (").removesuffix(")")
        ends.append(_line(ax, line, COLOURS[len(ends) % len(COLOURS)], label, dashed=_biased(sweep, (setting, name))))
    ax.set_xscale("log", base=2)
    _axis_names(ax, "group size N" + DASHED, "trajectories until the noise is as long as the mean")
    return _finished(ax, "Noise relative to the mean of the estimate, as the group grows", ends)


def over_batch(sweep, ax=None):
    """Draw the error against the number of trajectories, both logarithmic.

    Parameters
    ----------
    sweep : Sweep
        From `sweeps.over_batch`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    matplotlib Axes
    """
    ax, lines = _axes(ax), _lines(sweep, "relative_rmse")
    colours = dict(zip((name for _, name in lines), (GREY, BLUE, GREEN, ORANGE, RED), strict=False))
    ends = [_line(ax, lines[key], colours[key[1]], key[1], dashed=_biased(sweep, key)) for key in lines]
    ax.set_xscale("log")
    ax.set_yscale("log")
    _percent(ax)
    _axis_names(ax, "number of trajectories N" + DASHED, "root mean squared error / length of the gradient")
    floor = max((row.relative_bias or 0.0 for row in sweep.rows), default=0.0)
    says = "More trajectories cure noise, as 1/√N"
    if floor:
        says += f"; they do not cure bias, which stops a wrong critic at {100 * floor:.2g}\u00a0%"
    return _finished(ax, says, ends)


def over_behaviour(sweep, ax=None):
    """Draw the error against the distance between behaviour and policy.

    Parameters
    ----------
    sweep : Sweep
        From `sweeps.over_behaviour`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    matplotlib Axes
    """
    ax, lines = _axes(ax), _lines(sweep, "relative_rmse")
    kl = {row.value: row.kl for row in sweep.rows}
    colours = dict(zip((name for _, name in lines), (RED, ORANGE, PINK, GREEN, GREY), strict=False))
    ends = []
    for key, (epsilon, error) in lines.items():
        distance = np.array([kl[x] for x in epsilon])
        order = np.argsort(distance)
        ends.append(_line(ax, (distance[order], error[order]), colours[key[1]], key[1], dashed=_biased(sweep, key)))
    ax.set_yscale("log")
    _percent(ax)
    _axis_names(ax, "distance of the behaviour: KL per trajectory (nats)" + DASHED, _error_name("error", sweep))
    full, none = lines.get(("", "whole-trajectory ratio")), lines.get(("", "no ratio"))
    says = "The cost of another policy's data"
    bias = sweep.lines("relative_bias").get(("", "no ratio"))
    if full is not None and none is not None and bias is not None:
        i = int(np.argmax([kl[x] for x in full[0]]))
        says += (
            f": at {kl[full[0][i]]:.2g} nats the error is {100 * full[1][i]:.3g}\u00a0% with the whole ratio, all of it noise, "
            f"and {100 * none[1][i]:.2g}\u00a0% with none, where the bias is {100 * bias[1][i]:.2g}\u00a0%"
        )
    return _finished(ax, says, ends)


def over_baseline(sweep, ax=None):
    """Draw variance against the size of the baseline.

    Parameters
    ----------
    sweep : Sweep
        From `sweeps.over_baseline`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    matplotlib Axes
    """
    ax, lines = _axes(ax), _lines(sweep, "variance")
    colours = dict(zip((name for _, name in lines), (GREY, BLUE, ORANGE, GREEN), strict=False))
    ends = [_line(ax, lines[key], colours[key[1]], key[1]) for key in lines]
    ax.set_ylim(bottom=0)
    _axis_names(
        ax, "w: none at 0, the true values at 1, twice as much at 2", "total variance of one trajectory (reward²)"
    )
    at = {(row.estimator, row.value): row.variance for row in sweep.rows}
    plain, to_go = at.get(("total return, b = w J", 0.0)), at.get(("reward-to-go, b = w V(s)", 0.0))
    with_V = at.get(("reward-to-go, b = w V(s)", 1.0))
    says = "What a baseline leaves of the variance"
    if plain and to_go is not None and with_V is not None:
        says = (
            f"Reward-to-go leaves {100 * to_go / plain:.2g}\u00a0% of REINFORCE's variance; "
            f"with the baseline V {100 * with_V / plain:.2g}\u00a0% are left"
        )
    return _finished(ax, says, ends)


def _axes(ax):
    return matplotlib_figure().add_subplot() if ax is None else ax


def _lines(sweep, column):
    lines = sweep.lines(column)
    if not lines:
        raise ValueError(f"{column}: {EMPTY}")
    return lines


def _line(ax, line, colour, label, dashed=False, thin=False):
    """Draw a line and return what its label at the end needs."""
    x, y = line
    style: dict = {"linestyle": (0, (4, 2)) if dashed else "-", "linewidth": 1.2 if thin else 2.0, "color": colour}
    ax.plot(x, y, marker="o", markersize=2.5 if thin else 4, label=label, **style)
    return float(x[-1]), float(y[-1]), label, colour


def _bias_and_error(ax, sweep, names):
    """Draw the error of each estimator, and its bias, thin and dashed."""
    error, bias, ends = _lines(sweep, "relative_rmse"), sweep.lines("relative_bias"), []
    for name, (label, colour) in names.items():
        key = ("", name)
        if key in error:
            ends.append(_line(ax, error[key], colour, label))
            if np.any(bias[key][1] > 0):
                _line(ax, bias[key], colour, "_bias", dashed=True, thin=True)
    ax.plot([], [], color=BLACK, linewidth=2, label="error: bias and noise")
    ax.plot([], [], color=BLACK, linewidth=1.2, linestyle=(0, (4, 2)), label="bias alone")
    handles, labels = ax.get_legend_handles_labels()
    kept = [
        (h, label) for h, label in zip(handles, labels, strict=True) if label in ("error: bias and noise", "bias alone")
    ]
    ax.legend(*zip(*kept, strict=True), frameon=False, loc="best")
    ax.set_ylim(bottom=0)
    _percent(ax)
    return ends


def _biased(sweep, key):
    return any(row.verdict == "biased" for row in sweep.rows if (row.setting, row.estimator) == key)


def _growth(line):
    """Return the growth per step between the last two horizons, or None."""
    if line is None or len(line[0]) < 2:
        return None
    (t0, t1), (v0, v1) = line[0][-2:], line[1][-2:]
    return float((v1 / v0) ** (1 / (t1 - t0))) if v0 > 0 and t1 > t0 else None


def _smallest(sweep, name, column):
    lines = {n: line for (_, n), line in sweep.lines(column).items()}
    if name not in lines:
        return None
    x, y = lines[name]
    return float(x[np.argmin(y)]), float(y.min())


def _error_name(word, sweep):
    sizes = {row.batch_size for row in sweep.rows}
    n = f" of {sizes.pop():,} trajectories" if len(sizes) == 1 else ""
    return f"root mean squared {word}{n}\n(relative to the length of the gradient)"


def _percent(ax):
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_ylim()
    if ax.get_yscale() == "log":
        ax.yaxis.set_minor_formatter(NullFormatter())
        if high < 100 * low:
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))


def _axis_names(ax, x, y):
    ax.set_xlabel(x)
    ax.set_ylabel(y)


def _finished(ax, title, ends):
    """Add title, grid, and the labels at the right end of the lines, kept apart."""
    ax.set_title(title, loc="left", fontsize=11.5, fontweight="bold", wrap=True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.margins(x=0.02)
    to_axes = ax.transData + ax.transAxes.inverted()
    places = [float(to_axes.transform((x, y))[1]) for x, y, _, _ in ends]
    for i, height in _apart(places).items():
        x, y, label, colour = ends[i]
        ax.annotate(
            label, xy=(x, y), xycoords="data", xytext=(1.02, height), textcoords="axes fraction", color=colour, fontsize=9.5,
            va="center", ha="left", annotation_clip=False,
        )  # fmt: skip
    return ax


def _apart(places):
    """Return {index: height}: the same order, at least `GAP` from each other, and inside the axes where possible."""
    order = sorted(range(len(places)), key=places.__getitem__)
    heights: list = []
    for i in order:
        heights.append(max(places[i], heights[-1] + GAP) if heights else max(places[i], 0.0))
    top = 1.0
    for j in range(len(heights) - 1, -1, -1):
        heights[j] = min(heights[j], top)
        top = heights[j] - GAP
    return dict(zip(order, heights, strict=True))
