"""The frame of the benchmarks: answers before times, turns, ratios, growth, and one document."""

import json
import pathlib
import types

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import bench_sampling, harness
from reinforce_np import examples

QUICK = harness.Options(quick=True)


def test_a_wrong_answer_is_never_timed():
    def check(answer):
        assert answer == 4

    harness.race([harness.Contender("right", lambda: 4, check)], QUICK)
    with pytest.raises(AssertionError):
        harness.race(
            [harness.Contender("right", lambda: 4, check), harness.Contender("wrong", lambda: 5, check)], QUICK
        )


def test_contenders_take_turns_in_another_order_each_round(monkeypatch):
    monkeypatch.setattr(harness, "SHORTEST", 0.0)
    ran = []
    timings = harness.race([harness.Contender(name, lambda name=name: ran.append(name)) for name in "abc"], QUICK)
    assert "".join(ran) == "aabbcc" + "abc" + "bca" + "cab"  # checked and measured once before the rounds
    assert [len(timing.seconds) for timing in timings] == [3, 3, 3]


def test_ratios_are_those_within_a_round():
    first, second = harness.Timing("first", [1.0, 10.0, 1.0]), harness.Timing("second", [2.0, 20.0, 3.0])
    table = harness.ratio_table("title", [first, second], per=10.0, unit="s", scale=1.0, note="note")
    assert table.rows == [["first", 0.1, 0.1, 1.0, 1.0], ["second", 0.3, 0.2, 2.0, 2.0]]
    assert str(table).splitlines()[0] == "title"
    assert str(table).splitlines()[2].split() == ["first", "0.1", "0.1", "1", "1"]
    assert table.document()["rows"][1] == {
        "": "second",
        "s": 0.3,
        "fastest": 0.2,
        "slowest": 2.0,
        "times the first": 2.0,
    }


def test_growth_is_an_exponent():
    table = harness.scaling_table("title", "n", [1, 2, 8], [1.0, 4.0, 32.0])
    np.testing.assert_allclose([row[2] for row in table.rows[1:]], [2.0, 1.5])
    assert table.rows[0] == [1, 1000.0, None]


def test_growth_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    growth = [harness.scaling_table(f"table {i}", "steps", [10, 20, 40], [0.1, 0.2, 0.5]) for i in range(4)]
    harness.draw_growth([harness.Table("another", ["", "ms"], [["a", 1.0]]), *growth], tmp_path / "growth.svg")
    picture = (tmp_path / "growth.svg").read_text()
    assert picture.count("<!-- exponent 1 -->") == picture.count("<!-- measured -->") == 4
    assert "<!-- table 3 -->" in picture and "another" not in picture
    with pytest.raises(SystemExit, match="none of these families has a table of growth"):
        harness.draw_growth([], tmp_path / "nothing.svg")
    assert not (tmp_path / "nothing.svg").exists()


def test_classes_in_the_shape_of_asv_are_run():
    class Case:
        params = (1, 2), ("a",)

        def setup(self, n, word):
            self.n = n

        def time_it(self, n, word):
            assert self.n == n

        def track_it(self, n, word):
            return n

    module = types.SimpleNamespace(__name__="benchmarks.bench_case", Case=Case)
    Case.__module__ = module.__name__
    (table,) = harness.asv_tables(module, QUICK)
    assert [row[0] for row in table.rows] == [
        f"Case.{name}({n}, a)" for n in (1, 2) for name in ("time_it", "track_it")
    ]
    assert [row[1] for row in table.rows[1::2]] == [1, 2]
    assert harness.axes((1, 2)) == [(1, 2)]
    assert harness.axes(()) == []


def test_one_document(capsys, monkeypatch):
    monkeypatch.setattr(
        bench_sampling, "report", lambda options: [harness.Table(str(options), ["", "ms"], [["a", 1.5]])]
    )
    assert command.main(["--json", "--quick", "sampling"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert [table["title"].partition(":")[0] for table in document["tables"]][::2] == ["Control", "Control"]
    assert document["tables"][1]["rows"] == [{"": "a", "ms": 1.5}]
    assert document["options"] == {"peers": False, "quick": True}
    assert document["machine"]["numpy"] == np.__version__
    assert "Control" in err
    with pytest.raises(SystemExit):
        command.main(["nothing"])
    assert "unknown family nothing" in capsys.readouterr().err


def test_every_family_is_found():
    files = pathlib.Path(command.__file__).parent.glob("bench_*.py")
    assert {"sampling", "gradients"} <= set(command.families()) == {path.stem.removeprefix("bench_") for path in files}


def test_estimates_are_checked_by_their_exact_variance():
    problem = examples.referee(), bench_sampling.TabularSoftmax(3, 3), np.sin(np.arange(9))
    check = bench_sampling.correct(problem, 1000)
    estimate = bench_sampling.stream_gradient(bench_sampling.REINFORCE, *problem, 1000, rng=0).gradient
    check(estimate)
    with pytest.raises(AssertionError, match="off by"):
        check(2 * estimate)
