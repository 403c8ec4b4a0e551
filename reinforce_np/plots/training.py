"""Pictures of training: learning curves, clouds of estimates, landscapes of J."""

import numpy as np

from reinforce_np import exact
from reinforce_np.plots.drawing import BLACK, COLOURS, GREY, axes, axis_names, finished

SMOOTH = 20  # iterations that a noisy curve is averaged over, at most a tenth of the run
UNBIASED = 1e-6  # of the gradient: rounding, in a mean
RESOLUTION = 121  # points of a landscape along each side


def learning_curves(histories, path=None, ax=None):
    """Draw returns and exact J against the number of updates, beside the path of the exact gradient.

    Thin: what the batches earned. Thick: the exact J of the policy, where it
    is known; with several runs their mean, and the range of all in a paler colour.

    Parameters
    ----------
    histories : dict
        {name: list of History}, runs of equal length.
    path : Path, optional
        From `training.exact_path`: what the exact gradient did.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    matplotlib Axes
    """
    ax, ends, last = axes(ax), [], {}
    exactly = all(len(run.evaluated) > 1 for runs in histories.values() for run in runs)
    discounted = exactly or path is not None  # as J is
    for i, (name, runs) in enumerate(histories.items()):
        colour, dotted = COLOURS[i % len(COLOURS)], i >= len(COLOURS)
        earned = np.array([run.discounted_return if discounted else run.mean_return for run in runs])
        for one in earned[: 1 if exactly else None]:
            ax.plot(runs[0].iteration, one, color=colour, alpha=0.35, linewidth=0.7, zorder=1)
        if exactly:
            x, y = runs[0].evaluated, np.array([run.objective for run in runs])
        else:
            width = max(min(SMOOTH, earned.shape[1] // 10), 1)
            y = np.array([np.convolve(one, np.full(width, 1 / width), mode="valid") for one in earned])
            x = runs[0].iteration[width - 1 :]
        if len(runs) > 1:
            ax.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.15, linewidth=0)
        ax.plot(x, y.mean(axis=0), color=colour, linewidth=2, linestyle=(0, (1, 1)) if dotted else "-", zorder=3)
        last[name] = float(y.mean(axis=0)[-1])
        ends.append((float(x[-1]), last[name], name + " (dotted)" * dotted, colour))
    if path is not None:
        ax.plot(path.objective, color=BLACK, linewidth=1.6, linestyle=(0, (4, 2)), zorder=2)
        ends.append((len(path.objective) - 1.0, float(path.objective[-1]), "exact gradient", BLACK))
    episodes = max(int(run.trajectories[-1]) for runs in histories.values() for run in runs)
    one, runs_each = next(iter(histories.values()))[0], max(len(runs) for runs in histories.values())
    axis_names(
        ax,
        f"batches of {episodes // len(one):,} episodes"
        + (f"\nband: range of {runs_each} runs" if runs_each > 1 else ""),
        "J(θ), exact (thick); mean return of each batch (thin)"
        if exactly
        else f"mean {'discounted ' * discounted}return of a batch; thick: moving average",
    )
    best = max(last, key=last.__getitem__)
    what = "J" if exactly else f"a mean {'discounted ' * discounted}return of"
    says = f"{best} reaches {what}\u00a0{'=' if exactly else ''}\u00a0{last[best]:.3g} after {episodes:,} episodes".replace(
        "\u00a0\u00a0", "\u00a0"
    )
    if path is not None:
        says += f"; the exact gradient {path.objective[-1]:.3g}, one step a batch"
    return finished(ax, says, ends)


def estimate_cloud(cloud, ax=None):
    """Draw estimates around the true gradient: each point is the estimate from one batch.

    A cross is the exact mean of an estimator, an ellipse two standard
    deviations, exact as well. Right means along the gradient.

    Parameters
    ----------
    cloud : Cloud
        From `training.clouds`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    matplotlib Axes
    """
    ax, handles = axes(ax), []
    angle = np.linspace(0, 2 * np.pi, 181)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for i, (name, colour) in enumerate(zip(cloud.names, COLOURS * len(cloud.names), strict=False)):
        ax.scatter(*cloud.points[i].T, s=5, color=colour, alpha=0.25, linewidths=0)
        values, vectors = np.linalg.eigh(cloud.covariances[i])
        ring = cloud.means[i][:, None] + 2 * vectors @ (np.sqrt(np.maximum(values, 0))[:, None] * circle)
        ax.plot(*ring, color=colour, linewidth=1.6)
        ax.plot(*cloud.means[i], marker="x", color=colour, markersize=9, markeredgewidth=2.4, zorder=5)
        handles.append(ax.plot([], [], marker="x", color=colour, label=name, markeredgewidth=2.2)[0])
    ax.annotate(
        "", xy=(cloud.length, 0.0), xytext=(0.0, 0.0), zorder=4,
        arrowprops={"arrowstyle": "-|>", "color": BLACK, "linewidth": 2, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 16},
    )  # fmt: skip
    ax.plot([], [], color=BLACK, linewidth=2, label="true gradient")
    ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    ax.axvline(0, color=GREY, linewidth=0.6, zorder=0)
    middle = cloud.points.reshape(-1, 2)
    low, high = np.quantile(middle, [0.003, 0.997], axis=0)
    low, high = np.minimum(low, 0), np.maximum(high, [cloud.length, 0])
    pad = 0.08 * (high - low)
    ax.set_xlim(low[0] - pad[0], high[0] + pad[0])
    ax.set_ylim(low[1] - pad[1], high[1] + pad[1])
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axis_names(
        ax,
        "along the true gradient\ncross: exact mean; ellipse: two exact standard deviations",
        "across it, where the first estimator scatters most",
    )
    says = f"Estimates from batches of {cloud.batch_size}"
    miss = np.linalg.norm(cloud.means - [cloud.length, 0.0], axis=1) / cloud.length
    right = [i for i in range(len(cloud.names)) if miss[i] < UNBIASED]
    if len(right) > 1:
        spread = np.sqrt(np.trace(cloud.covariances, axis1=1, axis2=2))
        quiet, loud = min(right, key=spread.__getitem__), max(right, key=spread.__getitem__)
        says += (
            f": {cloud.names[quiet]} scatters {spread[loud] / spread[quiet]:.2g} times less than {cloud.names[loud]}"
        )
    if max(miss) >= UNBIASED:
        says += f"; {cloud.names[int(np.argmax(miss))]} misses the gradient by {100 * max(miss):.2g}\u00a0%"
    return finished(ax, says, [])


def landscape(mdp, policy, paths, ax=None, *, names=("θ₁", "θ₂"), resolution=RESOLUTION):
    """Draw the exact J of a problem with two parameters as a landscape, with paths through it.

    Parameters
    ----------
    mdp, policy
        The problem; D = 2.
    paths : dict
        {name: array (K, 2)}: parameters along each path.
    ax : matplotlib Axes, optional
        Where to draw; a new figure if not given.
    names : pair of str
        Of the parameters.
    resolution : int
        Points along each side at which J is computed.

    Returns
    -------
    matplotlib Axes
    """
    if policy.n_parameters != 2:
        raise ValueError(
            f"policy has {policy.n_parameters} parameters; a landscape needs 2: use LinearSoftmax with features (S, A, 2)"
        )
    ax = axes(ax)
    everything = np.concatenate([np.asarray(path, dtype=float) for path in paths.values()])
    low, high = everything.min(axis=0), everything.max(axis=0)
    pad = 0.12 * np.maximum(high - low, 0.25 * (high - low).max() + 1e-9)
    sides = [np.linspace(a - p, b + p, resolution) for a, b, p in zip(low, high, pad, strict=True)]
    grid = np.stack(np.meshgrid(*sides), axis=-1)
    J = np.array([exact.objective(mdp, policy, row) for row in grid])
    J = np.round(
        J, 9 - int(np.ceil(np.log10(np.abs(J).max() or 1.0)))
    )  # else rounding takes a plateau below the lowest level
    filled = ax.contourf(*sides, J, levels=24, cmap="Greys_r", alpha=0.55)
    ax.contour(*sides, J, levels=12, colors="white", linewidths=0.6, linestyles="solid")
    bar = ax.figure.colorbar(filled, ax=ax, pad=0.02)
    bar.set_label("J(θ), exact")
    last = {}
    for (name, path), colour in zip(paths.items(), (BLACK, *COLOURS * len(paths)), strict=False):
        path = np.asarray(path, dtype=float)
        ax.plot(*path.T, color=colour, linewidth=1.8, label=name)
        ax.plot(*path[-1], marker="o", color=colour, markersize=7, markeredgecolor="white", zorder=5)
        last[name] = float(exact.objective(mdp, policy, path[-1]))
    ax.plot(*next(iter(paths.values()))[0], marker="s", color="white", markeredgecolor=BLACK, markersize=8, zorder=6)
    ax.legend(loc="best", fontsize=9.5, framealpha=0.9)
    axis_names(ax, f"{names[0]}\nsquare: start; dots: ends", names[1])
    best, worst = max(last, key=last.__getitem__), min(last, key=last.__getitem__)
    says = f"{best} ends at J\u00a0=\u00a0{last[best]:.3g}"
    if worst != best:
        says += f", {worst} at {last[worst]:.3g}"
    ax = finished(ax, says, [])
    ax.grid(visible=False)
    return ax
