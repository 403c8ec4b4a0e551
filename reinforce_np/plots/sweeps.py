"""One picture for each sweep.

Every function takes the sweep of the same name and optionally the Axes to draw
on, and returns the Axes; nothing is shown or saved. Titles say what is seen,
with the numbers of the sweep at hand. Solid lines are unbiased estimators,
dashed ones biased.
"""

import numpy as np

from reinforce_np.plots.drawing import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    axes,
    axis_names,
    draw_line,
    finished,
    percent,
)

GRPO = "group mean and deviation (GRPO)"  # as `sweeps.groups` calls it
DASHED = "\ndashed: biased"
EMPTY = "the sweep has no rows with this number; use other values"


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
    ax, lines = axes(ax), _lines(sweep, "variance")
    colours = _colours(lines, (GREY, SKY, BLUE, RED, ORANGE, GREEN))
    ends = [draw_line(ax, lines[key], colours[key[1]], key[1], dashed=_biased(sweep, key)) for key in lines]
    ax.set_yscale("log")
    axis_names(ax, "horizon T (steps)" + DASHED, "total variance of one trajectory (reward²)")
    growth = _growth(lines.get(("", "whole-trajectory ratio")))
    says = "Importance sampling against the horizon"
    if growth is not None:
        says = (
            f"Importance sampling: every further step multiplies the variance of the whole-trajectory ratio by {growth:.2f}"
            if growth > 1.02
            else "Importance sampling costs little here: its variance has stopped growing"
        )
    return finished(ax, says, ends)


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
    ax = axes(ax)
    names = {
        "gamma on rewards and score": ("γ on rewards, score", RED),
        "gamma on rewards only": ("γ on rewards only", BLUE),
    }
    names |= {
        name: (name, colour) for name, colour in _colours(_lines(sweep, "relative_rmse")).items() if name not in names
    }
    ends = _bias_and_error(ax, sweep, names)
    axis_names(ax, "discount γ used by the estimator (the objective has none)", _error_name("error", sweep))
    best = _smallest(sweep, "gamma on rewards only", "relative_rmse")
    says = "A smaller γ trades noise for bias"
    if best is not None:
        says += f": with γ on the rewards only, the error is least at γ\u00a0=\u00a0{best[0]:g}"
    return finished(ax, says, ends)


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
    ax = axes(ax)
    names = {
        "true critic": ("true critic", GREEN),
        "wrong critic": ("wrong critic", BLUE),
        "no critic": ("no critic", GREY),
    }
    ends = _bias_and_error(ax, sweep, names)
    axis_names(ax, "λ of the generalised advantage", _error_name("error", sweep))
    best = _smallest(sweep, "wrong critic", "relative_rmse")
    says = "A larger λ trades bias for noise"
    if best is not None:
        says += f": with a wrong critic, the error is least at λ\u00a0=\u00a0{best[0]:g}"
    return finished(ax, says, ends)


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
    ax, lines, ends = axes(ax), sweep.lines("factor"), []
    grpo = {key[0]: line for key, line in lines.items() if key[1] == GRPO and not _biased(sweep, key)}
    if not grpo:  # biased in direction too: no factor to draw
        return _group_noise(sweep, ax)
    for (setting, line), colour in zip(grpo.items(), COLOURS * len(grpo), strict=False):
        ends.append(draw_line(ax, line, colour, f"GRPO, {setting}" if setting else "GRPO"))
    for name, colour in (("RLOO", BLACK), ("group mean (Dr. GRPO)", GREY)):
        found = [line for (_, n), line in lines.items() if n == name]
        ends += [draw_line(ax, found[0], colour, name.removeprefix("group mean (").removesuffix(")"))] if found else []
    ax.set_xscale("log", base=2)
    sizes = next(iter(grpo.values()))[0]
    ax.set_xticks(sizes, [f"{x:g}" for x in sizes], minor=False)
    mixed = [row for row in sweep.rows if row.estimator == GRPO and row.verdict == "biased" and row.cosine is not None]
    note = "".join(
        f"\nGRPO on {row.setting} together: biased, cosine with the gradient {row.cosine:.3f} at N = {row.value:g}"
        for row in mixed[-1:]
    )
    axis_names(
        ax,
        "group size N (answers to one prompt)" + note,
        "factor on the gradient: E[estimate] / gradient",
    )
    ax.set_ylim(bottom=0)
    largest = max(float(line[1][-1]) for line in grpo.values())
    says = f"GRPO multiplies the gradient of a prompt by up to {largest:.2g}, the more the further from ½ its success p; RLOO by 1"
    return finished(ax, says, ends)


def _group_noise(sweep, ax):
    """Draw the noise instead, where no estimator is a multiple of the gradient."""
    ends: list = []
    for (setting, name), line in _lines(sweep, "noise").items():
        label = name.removeprefix("group mean and deviation (").removeprefix("group mean (").removesuffix(")")
        ends.append(
            draw_line(ax, line, COLOURS[len(ends) % len(COLOURS)], label, dashed=_biased(sweep, (setting, name)))
        )
    ax.set_xscale("log", base=2)
    axis_names(ax, "group size N" + DASHED, "trajectories until the noise is as long as the mean")
    return finished(ax, "Noise relative to the mean of the estimate, as the group grows", ends)


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
    ax, lines = axes(ax), _lines(sweep, "relative_rmse")
    colours = _colours(lines, (GREY, BLUE, GREEN, ORANGE, RED))
    ends = [draw_line(ax, lines[key], colours[key[1]], key[1], dashed=_biased(sweep, key)) for key in lines]
    ax.set_xscale("log")
    ax.set_yscale("log")
    percent(ax)
    axis_names(ax, "number of trajectories N" + DASHED, "root mean squared error / length of the gradient")
    floor, worst = max(((row.relative_bias or 0.0, row.estimator) for row in sweep.rows), default=(0.0, ""))
    says = "More trajectories cure noise, as 1/√N"
    if floor:
        stopped = "a wrong critic" if worst.endswith("wrong critic") else worst
        says += f"; they do not cure bias, which stops {stopped} at {100 * floor:.2g}\u00a0%"
    return finished(ax, says, ends)


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
    ax, lines = axes(ax), _lines(sweep, "relative_rmse")
    kl = {row.value: row.kl for row in sweep.rows}
    colours = _colours(lines, (RED, ORANGE, PINK, GREEN, GREY))
    ends = []
    for key, (epsilon, error) in lines.items():
        distance = np.array([kl[x] for x in epsilon])
        order = np.argsort(distance)
        ends.append(draw_line(ax, (distance[order], error[order]), colours[key[1]], key[1], dashed=_biased(sweep, key)))
    ax.set_yscale("log")
    percent(ax)
    axis_names(ax, "distance of the behaviour: KL per trajectory (nats)" + DASHED, _error_name("error", sweep))
    full, none = lines.get(("", "whole-trajectory ratio")), lines.get(("", "no ratio"))
    says = "The cost of another policy's data"
    bias = sweep.lines("relative_bias").get(("", "no ratio"))
    if full is not None and none is not None and bias is not None:
        i = int(np.argmax([kl[x] for x in full[0]]))
        says += (
            f": at {kl[full[0][i]]:.2g} nats the error is {100 * full[1][i]:.3g}\u00a0% with the whole ratio, all of it noise, "
            f"and {100 * none[1][i]:.2g}\u00a0% with none, where the bias is {100 * bias[1][i]:.2g}\u00a0%"
        )
    return finished(ax, says, ends)


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
    ax, lines = axes(ax), _lines(sweep, "variance")
    colours = _colours(lines, (GREY, BLUE, ORANGE, GREEN))
    ends = [draw_line(ax, lines[key], colours[key[1]], key[1]) for key in lines]
    ax.set_ylim(bottom=0)
    axis_names(
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
    return finished(ax, says, ends)


def _colours(lines, first=()):
    """Return {estimator: colour}: in their order those of a sweep's own family, then others."""
    names = list(dict.fromkeys(name for _, name in lines))
    return dict(zip(names, [*first, *COLOURS * len(names)], strict=False))


def _lines(sweep, column):
    lines = sweep.lines(column)
    if not lines:
        raise ValueError(f"{column}: {EMPTY}")
    return lines


def _bias_and_error(ax, sweep, names):
    """Draw the error of each estimator, and its bias, thin and dashed."""
    error, bias, ends = _lines(sweep, "relative_rmse"), sweep.lines("relative_bias"), []
    for name, (label, colour) in names.items():
        key = ("", name)
        if key in error:
            ends.append(draw_line(ax, error[key], colour, label))
            if np.any(bias[key][1] > 0):
                draw_line(ax, bias[key], colour, "_bias", dashed=True, thin=True)
    ax.plot([], [], color=BLACK, linewidth=2, label="error: bias and noise")
    ax.plot([], [], color=BLACK, linewidth=1.2, linestyle=(0, (4, 2)), label="bias alone")
    handles, labels = ax.get_legend_handles_labels()
    kept = [
        (h, label) for h, label in zip(handles, labels, strict=True) if label in ("error: bias and noise", "bias alone")
    ]
    ax.legend(*zip(*kept, strict=True), frameon=False, loc="best")
    ax.set_ylim(bottom=0)
    percent(ax)
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
