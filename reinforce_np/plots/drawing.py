"""What all pictures share: a figure without a window, its bytes, lines with labels at their ends."""

import io

FIGURE = (8.0, 5.0)  # inches; 800 x 500 pixels at DPI
DPI = 100
PICTURES = (".png", ".svg", ".pdf")
BLACK, GREY, BLUE, SKY, GREEN, ORANGE, RED, PINK = (
    "#111111", "#8a8a8a", "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7",
)  # fmt: skip
COLOURS = (BLUE, RED, GREEN, ORANGE, PINK, SKY)
GAP = 0.055  # between two labels, as a share of the height of the axes


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


def axes(ax):
    return matplotlib_figure().add_subplot() if ax is None else ax


def draw_line(ax, line, colour, label, dashed=False, thin=False):
    """Draw a line and return what its label at the end needs."""
    x, y = line
    style: dict = {"linestyle": (0, (4, 2)) if dashed else "-", "linewidth": 1.2 if thin else 2.0, "color": colour}
    ax.plot(x, y, marker="o", markersize=2.5 if thin else 4, label=label, **style)
    return float(x[-1]), float(y[-1]), label, colour


def percent(ax):
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_ylim()
    if ax.get_yscale() == "log":
        ax.yaxis.set_minor_formatter(NullFormatter())
        if high < 100 * low:
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))


def axis_names(ax, x, y):
    ax.set_xlabel(x)
    ax.set_ylabel(y)


def finished(ax, title, ends):
    """Add title, grid, and the labels at the right end of the lines, kept apart."""
    ax.set_title(title, loc="left", fontsize=11.5, fontweight="bold", wrap=True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.margins(x=0.02)
    ax.get_ylim()  # settles the limits, which the places of the labels depend on
    to_axes = ax.transData + ax.transAxes.inverted()
    places = [float(to_axes.transform((x, y))[1]) for x, y, _, _ in ends]
    for i, height in apart(places).items():
        x, y, label, colour = ends[i]
        ax.annotate(
            label, xy=(x, y), xycoords="data", xytext=(1.02, height), textcoords="axes fraction", color=colour, fontsize=9.5,
            va="center", ha="left", annotation_clip=False,
        )  # fmt: skip
    return ax


def apart(places):
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
