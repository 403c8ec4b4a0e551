"""``train`` and ``plot`` as people use them: what they print, refuse and draw, and that a killed run goes on."""

import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from reinforce_np import LinearSoftmax, TabularSoftmax, algorithms, exact, examples, plots
from reinforce_np.command_line import main
from reinforce_np.command_line.progress import Progress
from reinforce_np.files import as_npz
from reinforce_np.training import SGD, Evaluation, History, checkpoints, exact_path, train

FEW = ["--mdp", "referee", "--episodes", "200", "--batch-size", "20", "--seed", "1"]


def run(capsys, *argv):
    """Exit code, stdout and stderr of the command run in this process."""
    try:
        code = main([str(word) for word in argv])
    except SystemExit as stop:  # argparse
        code = stop.code
    return code, *capsys.readouterr()


def document(capsys, *argv):
    code, out, err = run(capsys, "train", *argv, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_it_learns_and_says_so(capsys):
    code, out, err = run(capsys, "train", *FEW, "--exact-path", "--moments")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 130
    found = document(capsys, *FEW, "--exact-path", "--moments")
    mdp, policy = examples.referee(), TabularSoftmax(3, 3)
    J = float(exact.objective(mdp, policy, found["theta"]))
    assert (
        found["objective"] == found["history"]["objective"][-1] == J > float(exact.objective(mdp, policy, np.zeros(9)))
    )
    assert out.splitlines()[-1].startswith(f"Result      J = {J:.4f}, exact, after 200 episodes; undiscounted")
    assert f"the exact gradient reached {found['exact_path'][-1]:.4f}" in out
    assert len(found["exact_path"]) == 11 and min(found["history"]["noise"]) > 0
    for word in ("signal/noise", "J exact", "J, exact gradient", "reinforce-baseline, Adam with rate 0.1"):
        assert word in out


def test_the_run_of_the_readme_is_the_real_one(capsys):
    """FrozenLake 4x4, slippery: a success probability of at least 0.70 within 100 steps, from one command."""
    text = (pathlib.Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    words, printed = re.search(
        r"^```console\n\$ python -m reinforce_np (train .*)\n((?:.*\n)*?)```$", text, flags=re.MULTILINE
    ).groups()
    code, out, err = run(capsys, *words.split())
    assert (code, out, err) == (0, printed, "")
    assert float(re.search(r"J = ([\d.]+), exact", out)[1]) >= 0.70


@pytest.mark.parametrize("algorithm", ["reinforce", "reinforce-total", "actor-critic", "a2c", "ppo", "rloo", "grpo", "dr-grpo", "dapo", "gspo", "reinforce++"])  # fmt: skip
def test_every_algorithm_learns(capsys, algorithm):
    found = document(capsys, *FEW, "--algorithm", algorithm, "--evaluate-every", "10", *["--batch-size", "24"] * (algorithm in "rloo grpo dr-grpo dapo gspo"))  # fmt: skip
    J = found["history"]["objective"]
    assert found["objective"] > J[0] + 0.05


def test_the_default_batch_is_of_whole_groups(capsys):
    """8 episodes a group: 104, the least that is 100."""
    few = ["train", "--mdp", "referee", "--episodes", "230"]
    code, out, err = run(capsys, *few, "--algorithm", "rloo")
    assert (code, err) == (0, "") and "2 steps of 104 episodes (22 of 230 make no step), seed 0" in out
    assert document(capsys, *few[1:], "--algorithm", "grpo", "--group-size", "16")["batch_size"] == 112
    assert "2 steps of 100 episodes, seed 0" in run(capsys, *few[:-1], "200")[1]


@pytest.mark.parametrize("name", ["sgd", "momentum", "rmsprop", "natural"])
def test_every_optimiser_learns(capsys, name):
    found = document(capsys, *FEW, "--optimiser", name, "--schedule", "inverse:20", "--critic", "td")
    assert found["objective"] > found["history"]["objective"][0] + 0.05


WRONG = [
    (["--lam", "0.9"], "--lam is not read by reinforce-baseline; use it with a2c or ppo"),
    (["--algorithm", "reinforce", "--critic", "td"], "--critic is not read by reinforce, which learns no V; use it with reinforce-baseline"),
    (["--group-size", "4"], "use it with rloo, grpo, dr-grpo, dapo or gspo"),
    (["--algorithm", "rloo", "--group-size", "1"], "pass at least 2, or use reinforce"),
    (["--algorithm", "rloo", "--group-size", "7"], "--batch-size 20 is not a multiple of the group size 7"),
    (["--epochs", "3"], "reinforce-baseline has no ratio"),
    (["--algorithm", "ppo", "--epochs", "1", "--minibatches", "1", "--target-kl", "0.1"], "pass --epochs too"),
    (["--algorithm", "ppo", "--accumulate", "2", "--epochs", "2"], "leave --epochs out"),
    (["--damping", "0.1"], "--damping is not read by --optimiser adam; use --optimiser natural"),
    (["--schedule", "cosine"], "pass constant, or inverse:STEPS"),
    (["--critic", "td", "--memory", "0.5"], "--memory is of --critic least-squares"),
    (["--critic-rate", "0.5"], "--critic-rate is of --critic td"),
    (["--algorithm", "rloo", "--group-size", "2", "--score", "plain"], "--score is not read by rloo"),
    (["--episodes", "10"], "less than one step of 20"),
    (["--resume"], "pass --checkpoint FILE too"),
    (["--checkpoint", "run.pickle"], r"ending in .npz"),
    (["--history", "run.txt"], "ending in .npz, .csv, .json"),
    (["--save-theta", "nowhere/theta.npy"], "its folder does not exist"),
    (["--plot", "run.gif"], "ending in .png"),
    (["--policy", "neural"], "for --mdp use tabular or linear"),
    (["--moments", "--in-sample"], "leave one of them out"),
    (["--hidden", "3"], "--hidden 3: it needs --env"),
    (["--max-steps", "3"], "use --horizon"),
    (["--env", "CartPole-v1"], "--mdp names a model, --env a black box; pass one"),
    (["--algorithm", "a3c"], "invalid choice"),
    (["--rate", "0"], "not positive"),
]  # fmt: skip


@pytest.mark.parametrize("words, message", WRONG, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_a_wrong_combination_names_the_right_one(capsys, words, message):
    code, out, err = run(capsys, "train", *FEW, *words)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_a_black_box(capsys):
    pytest.importorskip("gymnasium")
    few = ["--episodes", "64", "--batch-size", "16", "--rate", "0.3", "--test-episodes", "4"]
    found = document(capsys, "--env", "CartPole-v1", *few, "--score", "plain")
    assert found["history"]["mean_return"][-1] > 1.5 * found["history"]["mean_return"][0]
    assert found["test"]["episodes"] == 4 and found["objective"] is None
    for words, message in [
        (["--policy", "tabular"], "use --policy linear or neural or gaussian"),
        (["--policy", "gaussian"], "use --policy linear or neural"),
        (["--exact-path"], "nothing is known exactly of the black box"),
        (["--optimiser", "natural", "--fisher", "exact"], "--fisher exact needs a finite model"),
        (["--horizon", "5"], "use --max-steps with --env"),
        (["--features", "wavelets:3"], "pass scaled, polynomial:ORDER"),
        (["--bounds", "0:1"], "LOW:HIGH for each of the 4"),
    ]:
        code, out, err = run(capsys, "train", "--env", "CartPole-v1", *few, *words)
        assert (code, out) == (2, "") and message in err
    assert "--mdp gymnasium:FrozenLake-v1" in run(capsys, "train", "--env", "FrozenLake-v1")[2]
    assert "--mdp" not in run(capsys, "train", "--env", "Blackjack-v1")[2]  # it has no table
    code, _, err = run(capsys, "train", "--env", "Pendulum-v1", "--algorithm", "ppo", "--entropy", "0.1")
    assert code == 2 and "--entropy 0.1" in err
    out = run(
        capsys,
        "train",
        "--env",
        "CartPole-v1",
        *few[:-2],
        "--episodes",
        "16",
        "--max-steps",
        "5",
        "--test-episodes",
        "0",
    )[1]
    assert out.endswith("Result      after 16 episodes: mean return 5 of the last batch\n")


@pytest.mark.parametrize(
    "space, name",
    [("MultiDiscrete([2, 3])", None), ("MultiBinary(3)", None), ("Box(0, float('inf'), (2,))", "gaussian")],
)
def test_actions_of_other_kinds(capsys, tmp_path, monkeypatch, space, name):
    gymnasium = pytest.importorskip("gymnasium")

    class Still(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = eval(space, vars(gymnasium.spaces) | {"float": float})

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, dtype=np.float32), {}

        def step(self, action):
            return np.zeros(2, dtype=np.float32), 1.0, True, False, {}

    gymnasium.register("Still-v0", entry_point=Still)
    code, out, err = run(capsys, "train", "--env", "Still-v0", "--episodes", "4", "--batch-size", "2")
    gymnasium.registry.pop("Still-v0")
    assert (code, f"{name} policy" in out) == ((2, False) if name is None else (0, True))
    assert (space.partition("(")[0] in err) == (name is None)


def test_files_are_written(capsys, tmp_path):
    theta, history, picture = (tmp_path / name for name in ("theta.npy", "history.npz", "curve.svg"))
    pytest.importorskip("matplotlib")
    found = document(capsys, *FEW, "--save-theta", theta, "--history", history, "--plot", picture, "--exact-path")
    assert np.load(theta).tolist() == found["theta"]
    assert History.load(history).objective.tolist() == found["history"]["objective"]
    assert picture.read_bytes().startswith(b"<?xml")
    assert b"exact gradient" in picture.read_bytes() or b"<path" in picture.read_bytes()


# --- stopped, and gone on with ------------------------------------------------------------------------------------

LONG = [
    "train",
    "--mdp",
    "referee",
    "--batch-size",
    "8",
    "--seed",
    "5",
    "--evaluate-every",
    "4",
    "--json",
]
OFTEN = ["--checkpoint-every", "0", "--checkpoint"]


def stopped(path, how, delay, *more):
    """Start a run that would go on for minutes, stop it `delay` seconds after its first checkpoint, and return how it ended."""
    command = [sys.executable, "-m", "reinforce_np", *LONG, "--episodes", "800000", *more, *OFTEN, str(path)]
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which jobs in the background ignore
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed) as process:
        while not path.exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def gone_on_with(capsys, path):
    """The rest of a stopped run and the whole of one that was not: two documents."""
    data = as_npz.arrays(path.read_bytes(), lambda text: checkpoints._wanted(text, {}, None))
    episodes = ["--episodes", 8 * (json.loads(data["header"].tobytes())["iteration"] + 5)]
    rest = run(capsys, *LONG, *episodes, *OFTEN, path, "--resume")
    return rest[1], run(capsys, *LONG, *episodes)[1]


@pytest.mark.parametrize("how, more", [(signal.SIGKILL, []), (signal.SIGINT, ["--workers", "2"])])
def test_a_killed_run_goes_on_to_the_same_bits(capsys, tmp_path, how, more):
    path = tmp_path / "run.npz"
    code, out, err = stopped(path, how, 0.05, *more)
    assert (code, out) == (130 if how is signal.SIGINT else -signal.SIGKILL, b"")
    if how is signal.SIGINT:
        assert b"repeat the command with --resume" in err and err.endswith(b"reinforce-np: error: interrupted\n")
        assert err.count(b"\n") == 2  # nothing from the workers
    rest, whole = gone_on_with(capsys, path)
    done = json.loads(rest)["iterations"]
    assert rest == whole and len(whole) > 500
    code, _, err = run(capsys, *LONG, "--checkpoint", path)
    assert code == 2 and "pass --resume" in err  # never over another run
    code, _, err = run(capsys, *LONG, "--checkpoint", path, "--resume", "--rate", "0.2")
    assert code == 2 and "its optimiser is" in err
    code, _, err = run(capsys, *LONG, "--checkpoint", path, "--resume", "--algorithm", "ppo")
    assert "its estimator is with_baseline(V, discounted_score=True), and not ppo(V, " in err
    assert (
        f"{done} steps of 8 episodes" in run(capsys, *LONG[:-1], "--episodes", 8, "--checkpoint", path, "--resume")[1]
    )


def test_resuming_with_fewer_episodes_says_so(capsys, tmp_path):
    path = tmp_path / "run.npz"
    whole = run(capsys, *LONG, "--episodes", 32, "--checkpoint", path)[1]
    code, out, err = run(capsys, *LONG, "--episodes", 16, "--checkpoint", path, "--resume")
    assert (code, out) == (0, whole)
    assert err == f"reinforce-np: --episodes 16: {path} is at 32 already; nothing was added\n"
    assert not run(capsys, *LONG, "--episodes", 32, "--checkpoint", path, "--resume")[2]


# --- pictures -----------------------------------------------------------------------------------------------------

PICTURES = {
    "learning": ["--mdp", "referee", "--episodes", "100", "--batch-size", "10", "--runs", "2", "--algorithm", "reinforce,ppo"],
    "cloud": ["--batches", "20"],
    "landscape": ["--steps", "5", "--horizon", "10"],
}  # fmt: skip


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_is_drawn(capsys, tmp_path, monkeypatch, kind):
    pytest.importorskip("matplotlib")
    seen = []
    for name in ("learning_curves", "estimate_cloud", "landscape"):
        draw = getattr(plots, name)
        monkeypatch.setattr(plots, name, lambda *a, draw=draw, **k: seen.append(draw(*a, **k)) or seen[-1])
    if kind != "learning":  # one rendering is enough
        monkeypatch.setattr(plots, "image", lambda draw, _, path: (draw(None), b"\x89PNG")[1])
    path = tmp_path / f"{kind}.png"
    code, out, err = run(capsys, "plot", kind, *PICTURES[kind], "--out", path)
    assert (code, err) == (0, "") and out.startswith(f"{path}: ") and out.isascii()
    assert path.read_bytes().startswith(b"\x89PNG")
    (ax,) = seen
    assert len(ax.get_title(loc="left").split()) > 4 and ax.get_xlabel() and ax.get_ylabel()
    words = [text.get_text() for text in ax.texts] + [
        text.get_text() for text in (ax.get_legend().get_texts() if ax.get_legend() else [])
    ]
    assert len(words) >= 3 and len(set(words)) == len(words)
    for line in ax.lines:
        assert np.isfinite(np.array(line.get_ydata(), dtype=float)).all()


def test_a_plateau_of_a_landscape_is_one_level():
    """J = −200 to rounding over most of the plane: what is a digit below must not be left white."""
    pytest.importorskip("matplotlib")
    mdp, policy = examples.short_corridor().replace(horizon=200), LinearSoftmax(examples.action_features(4, 2))
    ax = plots.landscape(mdp, policy, {"far": np.array([[0.0, 0.0], [-30.0, 30.0]])}, resolution=12)
    filled = ax.collections[0]
    assert filled.zmin >= filled.levels[0]


def test_curves_beside_the_exact_gradient_are_discounted_like_it():
    pytest.importorskip("matplotlib")
    mdp, policy = examples.referee(), TabularSoftmax(3, 3)
    run = train(
        (mdp, policy),
        algorithms.reinforce(),
        SGD(0.1),
        iterations=3,
        batch_size=9,
        evaluation=Evaluation(every=0),
        rng=0,
    )
    for path, earned, word in (
        (None, run.history.mean_return, "mean return"),
        (exact_path(mdp, policy, SGD(0.1), iterations=3), run.history.discounted_return, "mean discounted return"),
    ):
        ax = plots.learning_curves({str(i): [run.history] for i in range(7)}, path)
        assert ax.get_ylabel().startswith(word) and word in ax.get_title(loc="left")
        assert np.array_equal(ax.lines[1].get_ydata(), earned)
        looks = {(line.get_color(), line.get_linestyle()) for line in ax.lines if line.get_linewidth() == 2}
        assert len(looks) == 7


def test_a_model_of_two_states_and_two_actions_has_a_landscape(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(plots, "image", lambda draw, _, path: (draw(None), b"\x89PNG")[1])
    examples.kakade_two_state().save(tmp_path / "two.json")
    words = ["--mdp", tmp_path / "two.json", "--steps", "2", "--horizon", "3", "--out", tmp_path / "two.png"]
    assert run(capsys, "plot", "landscape", *words)[0] == 0


def test_pictures_are_refused(capsys):
    assert "--out" in run(capsys, "plot", "cloud")[2]
    assert "ending in .png" in run(capsys, "plot", "cloud", "--out", "x.gif")[2]
    assert run(capsys, "plot")[0] == 2
    pytest.importorskip("matplotlib")
    assert "its folder does not exist" in run(capsys, "plot", "cloud", "--out", "nowhere/x.png")[2]
    assert "a landscape needs 2" in run(capsys, "plot", "landscape", "--mdp", "referee", "--out", "x.png")[2]
    assert "pass each once" in run(capsys, "plot", "learning", "--algorithm", "reinforce,a3c", "--out", "x.png")[2]


class Terminal:
    """What a terminal shows."""

    def __init__(self, is_one):
        self.text, self.is_one = "", is_one

    def isatty(self):
        return self.is_one

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_progress_is_for_terminals(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    row = {"trajectories": 10, "mean_return": 0.5}
    for is_one in (True, False):
        terminal = Terminal(is_one)
        progress = Progress(2, terminal)
        progress(1, row)
        progress(2, row)
        progress.close()
        assert ("2/2 iterations, 10 episodes, mean return 0.5" in terminal.text) == is_one
        assert terminal.text.endswith("\r") == is_one
        said = terminal.text
        progress.close()
        assert terminal.text == said  # the line is taken away once: others may have written since
        assert os.linesep not in terminal.text
