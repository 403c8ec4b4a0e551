"""The command line, as scripts and people use it: its output, its exit codes, and that it fails when it should."""

import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from reinforce_np import (
    FiniteMDP,
    LinearSoftmax,
    TabularSoftmax,
    algorithms,
    compare_routes,
    confirm,
    exact,
    examples,
    sample,
)
from reinforce_np.checks.differences import complex_step
from reinforce_np.command_line import check, main
from reinforce_np.command_line.models import listable
from reinforce_np.estimators import Estimator, KLPenalty, PerDecisionRatio, PerLength, advantages
from reinforce_np.exact import bellman
from reinforce_np.exact.enumerated import gradient_by_enumeration
from reinforce_np.policies import softmax
from reinforce_np.policies.base import SoftmaxPolicy
from reinforce_np.sampling import blocks, draw

WIDEST = 130
MODEL = examples.referee()
POLICY = TabularSoftmax(3, 3)
FEW = ["--trajectories", "2000", "--alpha", "0.01"]  # where Monte Carlo is not what is tested


def run(capsys, *argv):
    """Exit code, stdout and stderr of the command run in this process."""
    try:
        code = main([str(word) for word in argv])
    except SystemExit as stop:  # argparse
        code = stop.code
    return code, *capsys.readouterr()


def passing(capsys, *argv, code=0):
    """The output of a run that ends with `code`, says nothing on stderr, and is not too wide."""
    actual, out, err = run(capsys, "check", *argv)
    assert (actual, err) == (code, ""), out + err
    assert max(map(len, out.splitlines())) <= WIDEST or "--json" in argv
    return out


def as_json(capsys, *argv, code=0):
    def refused(text):
        raise AssertionError(f"{text} is no JSON")

    return json.loads(passing(capsys, *argv, "--json", code=code), parse_constant=refused)


def process(*argv, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60, **options}
    return subprocess.run([sys.executable, "-m", "reinforce_np", *argv], **options)


# --- the default ------------------------------------------------------------------------------------------------


def test_the_default_check_passes(capsys):
    out = passing(capsys)
    assert out.splitlines()[-2].startswith("Verdict     PASS: 4 routes agree")
    assert "DISAGREES" not in out
    assert "nan" not in out
    assert out.isascii()  # so that it can be printed anywhere


def test_one_line_of_imports_is_enough():
    command = "from reinforce_np.command_line import main; raise SystemExit(main(['examples']))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_seed_determines_the_output(capsys):
    first, again, other = (passing(capsys, "--seed", seed) for seed in (3, 3, 4))
    assert first == again != other


def test_the_taylor_test_and_both_recursions_are_shown(capsys):
    out = passing(capsys, *FEW)
    for line in ("recursion from the end", "recursion from the start", "listing all 1,363", "Taylor test agrees"):
        assert line in out


# --- the JSON document ------------------------------------------------------------------------------------------

KEYS = {"mdp", "n_states", "n_actions", "horizon", "gamma", "policy", "theta", "objective", "gradient", "disagreement",
        "monte_carlo", "passed"}  # fmt: skip
ROUTES = {"recursion", "enumeration", "complex_step", "finite_difference"}
MONTE_CARLO = {"n", "estimate", "standard_error", "z", "smallest_detectable", "rejected"}


@pytest.mark.parametrize(
    "argv", [[], ["--policy", "linear", "--features", "random:5", "--seed", "2"], ["--theta", "zeros"]]
)
def test_json_has_its_keys_and_shapes(capsys, argv):
    document = as_json(capsys, *argv)
    assert document.keys() >= KEYS
    assert document["gradient"].keys() == ROUTES
    assert document["monte_carlo"].keys() >= MONTE_CARLO
    D = len(document["theta"])
    assert D == (5 if argv[:1] == ["--policy"] else 9)
    numbers = [document["theta"], *document["gradient"].values()]
    numbers += [document["monte_carlo"][name] for name in ("estimate", "standard_error", "z", "smallest_detectable")]
    for values in numbers:
        assert len(values) == D
        assert np.isfinite(values).all()
    for name in ("objective", "disagreement", "gamma"):
        assert np.isfinite(document[name])
    assert (document["n_states"], document["n_actions"], document["horizon"], document["gamma"]) == (3, 3, 4, 0.9)
    assert document["passed"] is True
    assert document["monte_carlo"]["rejected"] is False


def test_json_equals_the_library(capsys):
    document = as_json(capsys, "--trajectories", "5000", "--seed", "7", code=0)
    theta = np.array(document["theta"])
    assert document["objective"] == exact.objective(MODEL, POLICY, theta)
    assert document["gradient"]["recursion"] == exact.gradient(MODEL, POLICY, theta).tolist()
    assert document["gradient"]["enumeration"] == gradient_by_enumeration(MODEL, POLICY, theta).tolist()
    by_complex_step = complex_step(functools.partial(exact.objective, MODEL, POLICY), theta)
    np.testing.assert_allclose(document["gradient"]["complex_step"], by_complex_step, rtol=0, atol=1e-14)
    comparison = compare_routes(MODEL, POLICY, theta, rng=7)
    assert document["gradient"]["finite_difference"] == comparison.routes[2].gradient.tolist()
    assert document["disagreement"] == comparison.disagreement
    confirmation = confirm(algorithms.reinforce(), MODEL, POLICY, theta, 5000, rng=7)
    monte_carlo = document["monte_carlo"]
    for name in ("estimate", "standard_error", "z", "smallest_detectable"):
        assert monte_carlo[name] == getattr(confirmation, name).tolist()
    assert monte_carlo["n"] == 5000


def test_standard_errors_are_those_of_the_sample(capsys):
    document = as_json(capsys, "--trajectories", "20000")
    theta = np.array(document["theta"])
    batch = sample(MODEL, POLICY, theta, 20_000, rng=0)
    estimates = algorithms.reinforce().per_trajectory(batch, MODEL, POLICY, theta)
    np.testing.assert_allclose(document["monte_carlo"]["estimate"], estimates.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        document["monte_carlo"]["standard_error"], estimates.std(axis=0) / 20_000**0.5, rtol=0.05
    )


def test_examples_lists_every_model(capsys):
    code, out, err = run(capsys, "examples")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(examples.CATALOGUE)
    assert max(map(len, out.splitlines())) <= WIDEST
    code, out, _ = run(capsys, "examples", "--json")
    models = {model["name"]: model for model in json.loads(out)}
    assert code == 0
    assert list(models) == list(examples.CATALOGUE)
    for name, example in examples.CATALOGUE.items():
        assert models[name]["horizon"] == example().horizon
        assert models[name]["n_states"] == example().n_states


@pytest.mark.parametrize("name", examples.CATALOGUE)
def test_every_example_can_be_checked(capsys, name):
    code, out, err = run(capsys, "check", "--mdp", name.replace("_", "-"), "--trajectories", "400", "--json")
    document = json.loads(out)
    assert (code, err) == (0 if document["passed"] else 3, "")  # 400 trajectories are too few for most of them
    assert document["routes_agree"]
    assert not document["monte_carlo"]["rejected"]


# --- a check that cannot fail is no check -------------------------------------------------------------------------


def patched(monkeypatch, owner, name, wrong):
    """Replace `owner.name` by a function of the original and its arguments, wherever it was imported."""
    original = getattr(owner, name)

    def replacement(*args, **kwargs):
        return wrong(original, *args, **kwargs)

    for module in [owner, *(m for key, m in sys.modules.items() if key.startswith("reinforce_np"))]:
        if vars(module).get(name) is original:
            monkeypatch.setattr(module, name, replacement)


def of_model(**changes):
    """The sampler reads another model than it was given."""
    return lambda original, mdp, *args: original(
        mdp.replace(**{name: new(mdp) for name, new in changes.items()}), *args
    )


def even(probability):
    return np.full(probability.shape, 1 / probability.shape[-1])


def longer(original, mdp, *args):
    return original(mdp.replace(horizon=mdp.horizon + 1), *args)


def without_last_step(original, mdp, pi, *args):
    return original(mdp.replace(horizon=mdp.horizon - 1), pi, *args)


def blunt(original, trajectories, *args):
    """Rewards to go that forget γ inside the return."""
    return original(trajectories, 1.0)


SABOTAGES = {
    "score without its mean": (softmax, "contract_logit_score", lambda f, pi, w, out=None: w * softmax.sum_of_others(pi)),
    "score of the wrong sign": (softmax, "contract_logit_score", lambda f, pi, w, out=None: -f(pi, w)),
    "score twice as large": (softmax, "contract_logit_score", lambda f, pi, w, out=None: 2 * f(pi, w)),
    "score of listed trajectories": (softmax, "logit_score", lambda f, pi: f(pi).swapaxes(-1, -2)),
    "score with π of another action": (softmax, "contract_logit_score", lambda f, pi, w, out=None: f(np.roll(pi, 1, axis=-1), w, out)),
    "contraction pulled back in another order": (TabularSoftmax, "pull_back", lambda f, self, w: f(self, w.swapaxes(-1, -2).copy())),
    "temperature squared": (SoftmaxPolicy, "contract", lambda f, *a, **options: f(*a, **options) * 1.001),
    "weights of the wrong sign": (Estimator, "batch_weights", lambda f, *a: -f(*a)),
    "weights 15% too large": (Estimator, "batch_weights", lambda f, *a: 1.15 * f(*a)),
    "returns without discount": (advantages, "rewards_to_go", blunt),
    "score without discount": (Estimator, "batch_weights", lambda f, self, batch: f(dataclasses.replace(self, discounted_score=False), batch)),
    "score discounted twice": (advantages.RewardToGo, "credit", lambda f, self, batch: batch.gamma ** np.arange(batch.trajectories.n_steps) * f(self, batch)),
    "divided by the length": (Estimator, "batch_weights", lambda f, self, batch: f(dataclasses.replace(self, normaliser=PerLength()), batch)),
    "return from the next step on": (advantages, "rewards_to_go", lambda f, r, gamma: f(r, gamma) - r),
    "γ of the exact side": (exact.Discounted, "discount", lambda f, self, mdp: 0.8),
    "values of one step more": (bellman, "backward", lambda f, mdp, *a: [(max(t - 1, 0), Q, V) for t, Q, V in longer(f, mdp, *a)]),
    "values of one step fewer": (bellman, "backward", without_last_step),
    "values without a step's discount": (bellman, "backward", lambda f, mdp, pi, r, gamma: f(mdp, pi, r, 1.0)),
    "occupancy without discount": (bellman, "forward", lambda f, mdp, pi, gamma: f(mdp, pi, 1.0)),
    "sampler: one step more": (draw, "sampling_tables", of_model(horizon=lambda m: m.horizon + 1)),
    "sampler: one step fewer": (draw, "sampling_tables", of_model(horizon=lambda m: m.horizon - 1)),
    "sampler: uniform start": (draw, "sampling_tables", of_model(initial=lambda m: even(m.initial))),
    "sampler: uniform actions": (draw, "sampling_tables", lambda f, mdp, policy, theta, _, n: f(mdp, policy, 0 * theta, None, n)),
    "sampler: uniform outcomes": (draw, "sampling_tables", of_model(probability=lambda m: even(m.probability))),
    "sampler: actions swapped": (draw, "sampling_tables", of_model(reward=lambda m: m.reward[:, ::-1])),
    "sampler: outcomes swapped": (draw, "sampling_tables", of_model(next_state=lambda m: m.next_state[:, :, ::-1])),
    "sampler: never terminates": (draw, "sampling_tables", of_model(terminated=lambda m: np.zeros_like(m.terminated))),
    "sampler: reward lost on termination": (draw, "sampling_tables", of_model(reward=lambda m: np.where(m.terminated, 0.0, m.reward))),
}  # fmt: skip


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_sabotage_makes_the_default_check_fail(capsys, monkeypatch, sabotage):
    owner, name, wrong = SABOTAGES[sabotage]
    patched(monkeypatch, owner, name, wrong)
    out = passing(capsys, code=1)
    assert "Verdict     FAIL: " in out
    assert ("DISAGREES" in out) or ("REJECTED" in out) or ("J(theta) disagree" in out)


@pytest.mark.parametrize(
    "sabotage", ["weights of the wrong sign", "occupancy without discount", "score twice as large"]
)
def test_sabotage_fails_in_json_too(capsys, monkeypatch, sabotage):
    owner, name, wrong = SABOTAGES[sabotage]
    patched(monkeypatch, owner, name, wrong)
    document = as_json(capsys, code=1)
    assert document["passed"] is False
    assert document["verdict"] == "fail"
    assert not document["routes_agree"] or document["monte_carlo"]["rejected"]


def test_an_estimator_that_returns_nan_is_an_error(capsys, monkeypatch):
    patched(monkeypatch, Estimator, "contract", lambda f, *a: np.full_like(f(*a), np.nan))
    code, out, err = run(capsys, "check")
    assert (code, out) == (2, "")
    assert "returned nan for component 0" in err


# --- the other exit codes -----------------------------------------------------------------------------------------


def test_too_few_trajectories_are_inconclusive(capsys):
    out = passing(capsys, "--trajectories", "10", code=3)
    assert "Verdict     INCONCLUSIVE" in out
    assert "too few trajectories" in out
    document = as_json(capsys, "--trajectories", "10", code=3)
    assert document["passed"] is False
    assert document["verdict"] == "inconclusive"
    assert document["monte_carlo"]["rejected"] is False


def test_episodes_without_end_are_inconclusive(capsys):
    out = passing(capsys, "--mdp", "kakade_two_state", "--horizon", "none", code=3)
    assert "Monte Carlo skipped" in out
    assert "INCONCLUSIVE" in out
    document = as_json(capsys, "--mdp", "kakade_two_state", "--horizon", "none", code=3)
    assert document["monte_carlo"] is None
    assert document["horizon"] is None
    assert document["gradient"]["enumeration"] is None


def test_episodes_without_end_and_without_discount_are_refused(capsys):
    code, out, err = run(capsys, "check", "--mdp", "kakade-two-state", "--horizon", "none", "--gamma", "1")
    assert (code, out) == (2, "")
    assert "never terminates" in err
    assert "horizon" in err
    assert "gamma" in err


def test_a_model_that_may_never_end_gets_a_horizon_and_says_so(capsys):
    out = passing(capsys, "--mdp", "kakade_two_state", "--trajectories", "2000", "--alpha", "0.5")
    assert "horizon 100" in out
    assert "need not end (choose with --horizon)" in out


def test_refused_for_its_size(capsys, monkeypatch, tmp_path):
    huge = tmp_path / "theta.npy"
    huge.touch()
    os.truncate(huge, 2**30 + 1)  # takes no room on the disk
    assert run(capsys, "check", "--theta", huge)[:2] == (4, "")
    monkeypatch.setattr(blocks, "MAX_CELLS_WITHOUT_HORIZON", 2**18)
    code, out, err = run(capsys, "check", "--mdp", lasting(tmp_path), "--trajectories", "5000")
    assert (code, out) == (4, "")
    assert "horizon" in err


def lasting(folder):
    """A model whose episodes last a thousand steps on average."""
    shape = (1, 2, 2)
    probability = np.broadcast_to([0.999, 0.001], shape)
    terminated = np.broadcast_to([False, True], shape)
    model = FiniteMDP(
        probability, np.zeros(shape, int), [[[1, 0], [2, 0]]], terminated, initial=[1], gamma=0.5, horizon=None
    )
    model.save(folder / "lasting.npz")
    return folder / "lasting.npz"


def test_too_many_trajectories_to_list_are_said_and_the_rest_goes_on(capsys):
    out = passing(capsys, "--horizon", "12")
    assert "enumeration refused: the model has" in out
    assert "3 routes agree" in out
    document = as_json(capsys, "--horizon", "12")
    assert document["gradient"]["enumeration"] is None
    assert "refused" in document["notes"]["enumeration"]
    assert document["passed"] is True


def test_without_a_horizon(capsys):
    document = as_json(capsys, "--horizon", "none")
    assert document["horizon"] is None
    assert document["objective"] == exact.objective(MODEL.replace(horizon=None), POLICY, np.array(document["theta"]))
    assert "horizon None" in passing(capsys, "--horizon", "none", *FEW)


def test_an_interrupt_ends_with_130(capsys, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "investigate", interrupted)
    assert run(capsys, "check") == (130, "", "reinforce-np: error: interrupted\n")


# --- what is checked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npz", "json"])
def test_a_saved_model_equals_the_named_one(capsys, tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    MODEL.save(path)
    named, loaded = as_json(capsys, *FEW), as_json(capsys, "--mdp", path, *FEW)
    assert loaded.pop("mdp") == str(path)
    assert named.pop("mdp") == "referee"
    assert loaded == named


def test_features_and_theta_from_files(capsys, tmp_path):
    features, theta = np.sin(np.arange(18.0)).reshape(3, 3, 2), np.array([0.25, -0.5])
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "theta.npy", theta)
    (tmp_path / "theta.json").write_text("[0.25, -0.5]")
    policy = LinearSoftmax(features)
    for name in ("theta.npy", "theta.json"):
        document = as_json(
            capsys, "--policy", "linear", "--features", tmp_path / "features.npy", "--theta", tmp_path / name
        )
        assert document["theta"] == theta.tolist()
        assert document["gradient"]["recursion"] == exact.gradient(MODEL, policy, theta).tolist()


def test_indicator_features_are_the_table(capsys):
    linear = as_json(capsys, "--policy", "linear", "--features", "indicator", "--theta", "zeros", *FEW)
    tabular = as_json(capsys, "--theta", "zeros", *FEW)
    np.testing.assert_allclose(linear["gradient"]["recursion"], tabular["gradient"]["recursion"], rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["short_corridor", "baxter-bartlett"])
def test_a_models_own_features_are_the_default(capsys, name):
    assert "the model's own features" in passing(
        capsys, "--mdp", name, "--policy", "linear", "--trajectories", "400", code=3
    )


def test_gamma_and_horizon_replace_the_models_own(capsys):
    document = as_json(capsys, "--gamma", "0.5", "--horizon", "3", *FEW)
    assert (document["gamma"], document["horizon"]) == (0.5, 3)
    model = MODEL.replace(gamma=0.5, horizon=3)
    assert document["gradient"]["recursion"] == exact.gradient(model, POLICY, np.array(document["theta"])).tolist()


@pytest.mark.parametrize(("env_id", "options", "said"), [
    ("FrozenLake-v1", ["--horizon", "8"], "gamma 0.99: Gymnasium's tables name none (choose with --gamma)"),
    ("FrozenLake-v1", ["--gamma", "0.9"], "gamma 0.9, horizon 100"),
    ("CliffWalking-v1", [], "horizon 100: the environment has no time limit (choose with --horizon)"),
])  # fmt: skip
def test_gymnasium_ids(capsys, env_id, options, said):
    pytest.importorskip("gymnasium")
    code, out, err = run(capsys, "check", "--mdp", f"gymnasium:{env_id}", "--trajectories", "100", *options)
    assert (code in (0, 3), err) == (True, "")
    assert said in out


def test_gymnasiums_frozen_lake_is_ours(capsys):
    pytest.importorskip("gymnasium")
    theirs, ours = (
        json.loads(
            run(capsys, "check", "--mdp", name, "--gamma", "1", "--trajectories", "100", "--horizon", "20", "--json")[1]
        )
        for name in ("gymnasium:FrozenLake-v1", "frozen_lake")
    )
    np.testing.assert_allclose(theirs["gradient"]["recursion"], ours["gradient"]["recursion"], rtol=0, atol=1e-15)


@pytest.mark.parametrize("said", ["Nope-v0", "CartPole-v1", ""])
def test_gymnasium_ids_without_a_table(capsys, said):
    pytest.importorskip("gymnasium")
    code, out, err = run(capsys, "check", "--mdp", f"gymnasium:{said}")
    assert (code, out) == (2, "")
    assert re.search(said.split("-")[0] or "name an environment", err)


# --- as a process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["check"], ["--help"]], ids=" ".join)
def test_a_reader_that_has_gone_is_no_error(argv):
    reader, writer = os.pipe()
    os.close(reader)
    done = process(*argv, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_colours_no_input(capsys):
    done = process("check", *FEW, stdin=subprocess.DEVNULL, env={**os.environ, "NO_COLOR": "1", "TERM": "xterm"})
    assert done.stdout.decode() == passing(capsys, *FEW)
    assert b"\x1b" not in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="needs a shell and signals")
def test_stdin_may_be_closed():
    command = f'"{sys.executable}" -m reinforce_np examples <&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell and signals")
def test_stdout_may_be_closed():
    command = f'"{sys.executable}" -m reinforce_np check >&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.decode() == "reinforce-np: error: standard output is closed, so there is nowhere to print to\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said():
    with open("/dev/full", "wb") as full:
        done = process("examples", stdout=full)
    assert done.returncode not in (0, 1)
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a shell and signals")
def test_control_c_ends_with_130():
    code = "import sys; from reinforce_np.command_line import main; print('here', flush=True); sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "check", "--mdp", "frozen_lake", "--trajectories", "100000000"]
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which jobs in the background ignore
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed) as running:
        assert running.stdout.readline() == b"here\n"
        time.sleep(0.3)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (130, b"", b"reinforce-np: error: interrupted\n")


@pytest.mark.parametrize("argv", [["--help"], ["examples", "--help"], ["check", "--help"], ["estimators", "--help"]])
def test_help(capsys, argv):
    code, out, err = run(capsys, *argv)
    assert (code, err) == (0, "")
    assert out.startswith("usage: ")


@pytest.mark.parametrize(("scale", "exponent"), [(1e60, "e+5"), (1e-9, "e-1")])
def test_large_and_small_rewards_keep_their_digits(capsys, monkeypatch, tmp_path, scale, exponent):
    """And every line its usual width, which `passing` checks."""
    monkeypatch.chdir(tmp_path)
    MODEL.replace(reward=scale * MODEL.reward).save("scaled.npz")
    out = passing(capsys, "--mdp", "scaled.npz", *FEW)
    usual = passing(capsys, *FEW)
    assert out.count(exponent) > 20
    for name in ("theta[0]", "theta[2]"):  # the same digits, with another exponent
        row, plain = (next(line for line in text.splitlines() if f" {name} " in line).split() for text in (out, usual))
        assert [float(x) for x in row[1:]] == pytest.approx([scale * float(x) for x in plain[1:]], rel=1e-8)


def test_a_gradient_that_is_zero_passes(capsys):
    """Any estimate but zero would have been noticed, so there is nothing to ask more trajectories for."""
    out = passing(capsys, "--horizon", "0")
    assert "Verdict     PASS" in out
    assert "use more --trajectories" not in " ".join(out.split())
    assert "but the gradient is zero here" in " ".join(out.split())
    assert "but the gradient" not in " ".join(passing(capsys, "--horizon", "1").split())


@pytest.mark.parametrize("argv", [["estimators"], ["variance", "gamma"], ["variance", "parts"]], ids=" ".join)
def test_a_horizon_that_is_missing_is_asked_for_in_words_of_the_command(capsys, argv):
    code, out, err = run(capsys, *argv, "--mdp", "aima_three_state")
    assert code == 2 and not out and len(err.splitlines()) == 1
    assert "--mdp aima_three_state: this model has no horizon" in err and err.endswith("pass --horizon STEPS\n")


def test_what_is_too_much_to_list_has_a_remedy_of_the_command(capsys):
    for argv in (["variance", "parts"], ["estimators"]):
        code, out, _ = run(capsys, *argv, "--mdp", "frozen_lake", "--horizon", "7")
        out = " ".join(out.split())
        assert code == 0 and "1024 MiB); a shorter --horizon can be listed" in out and "exact.gradient" not in out
    assert listable("4 more components") == "4 more components"


def test_where_all_is_listed_without_a_horizon_none_is_asked_for(capsys, tmp_path):
    path = tmp_path / "bandit.json"
    examples.bandit().replace(horizon=None).save(path)
    assert run(capsys, "variance", "parts", "--mdp", path)[0] == 0


def test_examples_can_be_printed_anywhere():
    assert process("examples", env={**os.environ, "PYTHONIOENCODING": "ascii"}).returncode == 0


def test_features_and_horizons_too_large_are_refused(capsys):
    for argv, said in (
        (["--policy", "linear", "--features", "random:100000000000000"], "--features random:100000000000000"),
        (["--horizon", "100001"], "--horizon 100001 is above the limit of 100000 steps"),
    ):
        code, out, err = run(capsys, "check", *argv)
        assert (code, out) == (4, "")
        assert said in err


def test_theta_files_may_mask_actions(capsys, tmp_path):
    np.save(tmp_path / "theta.npy", np.r_[-np.inf, np.zeros(8)])
    assert as_json(capsys, "--theta", tmp_path / "theta.npy")["theta"][0] is None


def test_theta_and_features_do_not_depend_on_the_seed(capsys):
    linear = ["--policy", "linear", "--features", "random:4", *FEW]
    one, same, other = (
        as_json(capsys, *linear, "--seed", "1"),
        as_json(capsys, *linear, "--seed", "2"),
        as_json(capsys, *linear, "--theta", "random:1"),
    )
    assert one["theta"] == same["theta"] != other["theta"]
    assert one["gradient"]["recursion"] == same["gradient"]["recursion"]
    assert one["monte_carlo"]["estimate"] != same["monte_carlo"]["estimate"]
    assert as_json(capsys, *linear, "--theta", "random:0")["theta"] == one["theta"]
    assert one["theta"] == np.random.default_rng(0).normal(size=4).tolist()


# --- estimators ---------------------------------------------------------------------------------------------------


def estimators(capsys, *argv, code=0):
    """The JSON document of the command, and its rows by name."""
    actual, out, err = run(capsys, "estimators", *argv, "--json")
    assert (actual, err) == (code, "")
    document = json.loads(out)
    return document, {row["name"]: row for row in document["estimators"]}


SMALL = ["--horizon", "2"]


def test_estimators_are_those_of_the_library(capsys):
    document, rows = estimators(capsys, *SMALL)
    mdp, theta = MODEL.replace(horizon=2), np.array(document["theta"])
    for name, estimator, size in (
        ("REINFORCE, reward-to-go", algorithms.reinforce(), 1),
        ("REINFORCE, total return", algorithms.reinforce(reward_to_go=False), 1),
        ("... score without gamma^t", Estimator(advantages.RewardToGo(), discounted_score=False), 1),
        ("RLOO", algorithms.rloo(), 2),
        ("GRPO", algorithms.grpo(), 2),
        ("DAPO", algorithms.dapo(), 2),
    ):
        verdict = exact.judge(estimator, mdp, POLICY, theta, group_size=size)
        row = rows[name]
        assert (row["verdict"], row["group_size"]) == (verdict.kind, size)
        assert row["mean"] == verdict.moments.mean.tolist()
        assert row["total_variance"] == verdict.moments.total_variance
        assert row["variance_per_trajectory"] == size * verdict.moments.total_variance
        plain = rows["REINFORCE, total return"]["variance_per_trajectory"]
        assert row["relative_variance"] == row["variance_per_trajectory"] / plain
    assert (document["horizon"], document["objective"], document["behaviour"]) == (2, "Discounted", None)
    unbiased = {name for name, row in rows.items() if row["verdict"] == "unbiased"}
    assert unbiased >= {"REINFORCE, total return", "REINFORCE, reward-to-go", "... baseline V", "RLOO"}
    assert not unbiased & {"GRPO", "DAPO", "GSPO", "... score without gamma^t", "actor-critic, wrong critic"}
    assert rows["in-sample mean (Dr. GRPO)"]["factor"] == pytest.approx(0.5, abs=1e-9)


def test_estimators_with_data_of_another_policy(capsys):
    document, rows = estimators(capsys, *SMALL, "--behaviour", "uniform", "--beta", "0.1")
    assert (document["behaviour"], document["beta"], document["objective"]) == ("uniform", 0.1, "KLRegularised")
    mdp, theta = MODEL.replace(horizon=2), np.array(document["theta"])
    objective = exact.KLRegularised(np.zeros(9), 0.1)
    estimator = Estimator(
        advantages.RewardToGo(),
        ratio=PerDecisionRatio(),
        penalty=KLPenalty(np.zeros(9), 0.1, kind="k1", place="reward"),
    )
    verdict = exact.judge(estimator, mdp, POLICY, theta, objective=objective, behaviour=np.full((3, 3), 1 / 3))
    row = rows["reward-to-go, KL k1 in the reward"]
    assert row["verdict"] == verdict.kind == "unbiased"
    assert row["mean"] == verdict.moments.mean.tolist()
    assert rows["reward-to-go, per-decision ratio"]["verdict"] == "biased"  # for J without the penalty
    assert rows["reward-to-go, KL k3 in the loss"]["verdict"] == "biased"


def test_estimators_on_behaviour_mixed_with_nothing_are_on_policy(capsys):
    _, rows = estimators(capsys, *SMALL, "--behaviour", "mixed:0")
    assert rows["no ratio (forgotten), baseline V"]["verdict"] == "unbiased"
    _, rows = estimators(capsys, *SMALL, "--behaviour", "mixed:0.5")
    assert rows["no ratio (forgotten), baseline V"]["verdict"] == "biased"
    assert rows["... with baseline V"]["verdict"] == "unbiased"


def test_the_table_of_estimators(capsys):
    code, out, err = run(capsys, "estimators", *SMALL, "--group-size", "1")
    assert (code, err) == (0, "")
    assert out.isascii()
    assert "nan" not in out
    assert "RLOO" not in out
    assert "penalty" not in out
    code, out, err = run(capsys, "estimators", "--horizon", "1", "--group-size", "9", "--prompts", "2", "--beta", "0.1")
    assert (code, err) == (0, "")
    assert "2 prompts x 9" in out
    assert "penalty" in out
    assert "refused" in out  # so large batches are too many to list; the others are judged
    assert "KL full in the loss" in out


@pytest.mark.parametrize(("argv", "code", "said"), [
    (["--beta=-1"], 2, "--beta -1"),
    (["--behaviour", "other"], 2, "--behaviour other"),
    (["--behaviour", "mixed:2"], 2, "--behaviour mixed:2"),
    (["--behaviour", "mixed:x"], 2, "--behaviour mixed:x"),
    (["--behaviour", "nosuch.npy"], 2, "nosuch.npy"),
    (["--group-size", "0"], 2, "--group-size: '0'"),
    (["--prompts", "-1"], 2, "--prompts"),
])  # fmt: skip
def test_bad_usage_of_estimators(capsys, argv, code, said):
    actual, out, err = run(capsys, "estimators", *argv)
    assert (actual, out) == (code, "")
    assert said in err


def test_masked_parameters_are_null_in_json(capsys, tmp_path):
    theta = tmp_path / "theta.npy"
    np.save(theta, [-np.inf, 0, 0] * 3)
    for argv in (
        ["check", *FEW],
        ["estimators"],
        ["variance", "parts", "--mdp", "referee"],
        ["variance", "batch", "--mdp", "referee"],
    ):
        code, out, err = run(capsys, *argv, "--theta", theta, "--json")
        assert (code, err) == (0, "") and json.loads(out)["theta"] == [None, 0, 0] * 3


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_a_terminal_has_no_sign_for_is_a_question_mark(encoding):
    done = process("catalogue", "gamma_t_dropped", env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"") and b"What it is" in done.stdout and b"?" in done.stdout


def test_a_verdict_that_nobody_reads_is_a_verdict():
    reader, writer = os.pipe()
    os.close(reader)
    done = process("check", "--trajectories", "2", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (3, b"")


@pytest.mark.parametrize(("argv", "remedy"), [
    (["train", "--mdp", "referee", "--moments", "--evaluate-every", "0"], "pass one of them"),
    (["train", "--checkpoint-every", "1"], "--checkpoint FILE"),
    (["train", "--env", "CartPole-v1", "--evaluate-every", "3"], "use --mdp"),
    (["variance", "horizon", "--values", "1,2", "--horizon", "7"], "pass its --values"),
    (["variance", "gamma", "--values", "0.5,1", "--gamma", "0.3"], "pass its --values"),
    (["train", "--schedule", "linear:²"], "linear:STEPS"),
])  # fmt: skip
def test_options_that_would_do_nothing_are_refused(capsys, argv, remedy):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "") and remedy in err


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    for option in ("--history", "--checkpoint"):
        path = tmp_path / ("h.csv" if option == "--history" else "c.npz")
        code, out, err = run(capsys, "train", "--mdp", "referee", "--episodes", "100", option, path)
        assert (code, out) == (2, "") and "another one" in err and not path.exists()
