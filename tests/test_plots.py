"""Pictures of the sweeps: what is on the axes, and that nothing is shown."""

import sys

import numpy as np
import pytest

from reinforce_np import Constant, Estimator, LeaveOneOut, TabularSoftmax, examples, plots, sweeps
from reinforce_np.command_line import main

PROBLEM = (examples.referee(horizon=3), TabularSoftmax(3, 3), np.linspace(-1, 1, 9))
CASES = {
    "horizon": (plots.over_horizon, lambda: sweeps.over_horizon(*PROBLEM, [1, 2, 3]), "horizon", "variance", 6),
    "gamma": (plots.over_gamma, lambda: sweeps.over_gamma(*PROBLEM), "discount", "error", 2),
    "lambda": (plots.over_lambda, lambda: sweeps.over_lambda(*PROBLEM), "λ", "error", 3),
    "group-size": (plots.over_group_size, lambda: sweeps.over_group_size_of_verifier([0.5, 0.1], [2, 4]), "group", "factor", 4),
    "any groups": (plots.over_group_size, lambda: sweeps.over_group_size(PROBLEM[0].replace(horizon=2), *PROBLEM[1:], [2, 3]), "group", "noise", 3),
    "batch": (plots.over_batch, lambda: sweeps.over_batch(*PROBLEM), "trajectories", "error", 5),
    "behaviour": (plots.over_behaviour, lambda: sweeps.over_behaviour(*PROBLEM), "KL", "error", 5),
    "baseline": (plots.over_baseline, lambda: sweeps.over_baseline(*PROBLEM), "w", "variance", 4),
}  # fmt: skip


@pytest.fixture
def figure():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    return plots.matplotlib_figure


@pytest.mark.parametrize("name", CASES)
def test_a_picture_has_lines_labels_and_a_sentence(figure, name):
    draw, compute, x, y, n_labels = CASES[name]
    own = figure().add_subplot()
    ax = draw(compute(), ax=own)
    assert ax is own
    assert x in ax.get_xlabel()
    assert y in ax.get_ylabel()
    assert len(ax.get_title(loc="left").split()) > 5
    assert len(ax.texts) == n_labels
    drawn = [line for line in ax.lines if len(line.get_xdata())]
    assert len(drawn) >= n_labels
    for line in drawn:
        assert np.isfinite(np.array(line.get_ydata(), dtype=float)).all()
    heights = sorted(text.xyann[1] for text in ax.texts)
    assert np.all(np.diff(heights) > 0.04)  # no label on another


@pytest.mark.parametrize("name", ["horizon", "gamma", "batch", "behaviour", "group_size"])
def test_estimators_of_yours_are_all_drawn(figure, name):
    """More of them than a family has colours, and no word of a critic or a ratio that is not there."""
    mine = {f"mine {i}": Estimator(LeaveOneOut(), normaliser=Constant(1 + i)) for i in range(8)}
    values = {"horizon": [1, 2], "gamma": [1.0, 0.5], "batch": [2, 20], "behaviour": [1.0, 0.5], "group_size": [2, 3]}[
        name
    ]
    shape = {} if name == "group_size" else {"group_size": 2}
    problem = PROBLEM[0].replace(horizon=2), *PROBLEM[1:]
    sweep = getattr(sweeps, f"over_{name}")(*problem, values, estimators=mine, **shape)
    ax = getattr(plots, f"over_{name}")(sweep)
    assert {text.get_text() for text in ax.texts} == set(mine)
    assert "critic" not in ax.get_title(loc="left") and "ratio" not in ax.get_title(loc="left")


@pytest.mark.parametrize("kind, start", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_files_start_as_they_should(figure, kind, start):
    draw, compute, *_ = CASES["lambda"]
    assert plots.image(draw, compute(), f"x.{kind}").startswith(start)


def test_one_prompt_has_factors_and_nothing_to_mix(figure):
    ax = plots.over_group_size(sweeps.over_group_size(*sweeps.verifier([0.5]), [2, 4]))
    assert "together" not in ax.get_xlabel() and {text.get_text() for text in ax.texts} >= {"GRPO", "RLOO"}


def test_drawing_opens_no_window(figure):
    draw, compute, *_ = CASES["batch"]
    ax = draw(compute())
    assert ax.lines
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


def test_the_title_says_where_the_error_is_least(figure):
    sweep = sweeps.over_lambda(*PROBLEM)
    rows = [row for row in sweep.rows if row.estimator == "wrong critic"]
    best = min(rows, key=lambda row: row.relative_rmse).value
    assert plots.over_lambda(sweep).get_title(loc="left").endswith(f"{best:g}")


def test_a_sweep_with_nothing_to_draw_is_refused(figure):
    mdp = PROBLEM[0].replace(reward=np.zeros(PROBLEM[0].reward.shape))
    with pytest.raises(ValueError, match="no rows"):
        plots.over_lambda(sweeps.over_lambda(mdp, *PROBLEM[1:], [0.5]))


def test_the_command_writes_the_picture(figure, tmp_path, capsys):
    path = tmp_path / "curve.png"
    assert main(["variance", "lambda", "--values", "0,1", "--mdp", "referee", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]
    assert "wrong critic" in capsys.readouterr().out


def test_without_matplotlib_the_extra_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"\[plots\]"):
        plots.matplotlib_figure()
    assert main(["variance", "lambda", "--plot", str(tmp_path / "x.png")]) == 2
    assert "pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
