"""What README.md promises: its commands run, its printed output is the real one, and the files it names are there."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase

import reinforce_np
from reinforce_np import examples
from reinforce_np.command_line import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROUNDING = re.compile(r"\d\.\de-\d\d\b")  # sizes of rounding errors differ between machines


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands():
    """The ``python -m reinforce_np`` commands of the shell blocks, as lists of words."""
    parts = [part for block in blocks("sh") for line in block.splitlines() for part in line.split("#")[0].split("&&")]
    return [words[3:] for words in map(shlex.split, parts) if words[:3] == ["python", "-m", "reinforce_np"]]


def masked(text):
    return ROUNDING.sub("#", " ".join(text.split()))  # a rounding error of more digits may move a line break


def test_there_are_blocks_to_test():
    assert len(blocks("sh")) == 5
    assert [block.split("\n")[0] for block in blocks("text")] == [
        f"$ python -m reinforce_np {name}" for name in PRINTED
    ]
    assert ["check"] in commands()
    assert len(commands()) >= 4


PRINTED = ("check", "estimators")


@pytest.mark.parametrize("name", PRINTED)
def test_the_printed_output_is_the_real_one(capsys, name):
    printed = blocks("text")[PRINTED.index(name)].split("\n", 1)[1]
    assert main([name]) == 0
    out, err = capsys.readouterr()
    assert (masked(printed), err) == (masked(out), "")
    lines = [ROUNDING.sub("#", line) for line in printed.splitlines()]
    assert lines[:-2] == [ROUNDING.sub("#", line) for line in out.splitlines()][:-2]


def test_the_opening_is_the_real_output():
    """Its test fails, and on the printed problem it fails as printed, "..." standing for anything; repaired it passes."""
    (code,), (printed,) = blocks("py"), blocks("output")
    names: dict[str, Any] = {"Phase": Phase}
    exec("from reinforce_np import *\n" + code, names)
    printed = re.sub(r"^E", "", printed, flags=re.MULTILINE)
    problem = eval(re.search(r"problem=(Problem\(.*\)),\s+\)\n", printed, re.DOTALL)[1], names)
    with pytest.raises(reinforce_np.Convicted) as convicted:
        reinforce_np.assert_unbiased(reinforce_np.numpy_loss(names["rloo"]), problem)
    message, at = " ".join(str(convicted.value).split()), 0
    shown = printed[printed.index("reinforce_np.Convicted: ") : printed.index("Failing test case")]
    for part in " ".join(shown.split()).removeprefix("reinforce_np.Convicted: ").split("..."):
        at = message.index(part.strip(), at)

    mistake, slow = " / batch.mask.sum(axis=1)", "@settings(deadline=None)"  # CI looks for the smallest problem, too
    assert mistake in code and slow in code
    code = code.replace(slow, "@settings(deadline=None, phases=[Phase.generate], database=None, max_examples=10)")
    exec(code, names)
    with pytest.raises(reinforce_np.Convicted):
        names["test_the_loss_is_a_policy_gradient"]()
    exec(code.replace(mistake, ""), names)
    names["test_the_loss_is_a_policy_gradient"]()


SMALLER = {  # options that take a fraction of the time; tests/test_command_line_train.py has the rest
    "train": {"--env": ["--episodes", "100", "--max-steps", "20"], None: ["--episodes", "200"]},
    "plot": {"learning": ["--episodes", "200", "--runs", "2"], "cloud": ["--batches", "20"], "landscape": ["--steps", "5"], None: []},
}  # fmt: skip


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_runs(words, tmp_path, monkeypatch, capsys):
    if any(word.startswith("gymnasium:") for word in words):
        pytest.importorskip("gymnasium")
        words = [*words, "--trajectories", "2000"]  # a fraction of the time, and perhaps inconclusive
    if words[0] in SMALLER:
        for extra in [
            name for name, used in (("gymnasium", "--env" in words), ("matplotlib", words[0] == "plot")) if used
        ]:
            pytest.importorskip(extra)
        words = [*words, *SMALLER[words[0]].get(words[1], SMALLER[words[0]][None])]
    examples.referee().save(tmp_path / "model.json")
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as done:  # --help
        code = done.code
    out, err = capsys.readouterr()
    assert err == ""
    assert code == 0 or (code == 3 and "--trajectories" in words)
    assert out


def test_the_files_of_the_table_exist():
    rows = re.findall(r"^\| (`.*?) \|", README, flags=re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(named) > 8
    for name in named:
        if not name.startswith("python"):
            path = ROOT / "reinforce_np" / name
            assert path.is_dir() if name.endswith("/") else path.is_file(), name


def test_every_part_of_the_package_is_in_the_table():
    table = README[README.index("| where | what |") :]
    for path in (ROOT / "reinforce_np").iterdir():
        if path.name.startswith(("_", ".")) or path.name in ("py.typed", "arguments.py"):
            continue
        assert f"`{path.name}/`" in table if path.is_dir() else f"`{path.name}`" in table, path.name


def test_files_named_in_the_text_exist():
    for name in re.findall(r"`(reinforce_np/[\w/]+\.py)`", README):
        assert (ROOT / name).is_file(), name


def test_the_exit_codes_are_those_of_the_command():
    from reinforce_np import command_line as cli

    text = README[README.index("Exit codes:") :].split("`--json`")[0]
    said = {int(code) for code in re.findall(r"(\d+) ", text)}
    assert said == {cli.PASSED, cli.FAILED, cli.BAD_INPUT, cli.INCONCLUSIVE, cli.TOO_LARGE, cli.INTERRUPTED}
