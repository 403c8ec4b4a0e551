"""Tables of exact bias and variance: against the list of all batches, and what must rise, fall or vanish."""

import csv
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from tolerances import assert_exact

from reinforce_np import GAE, Estimator, TabularSoftmax, exact, examples, moments_by_enumeration, numpy_loss, sweeps
from reinforce_np.command_line import main, variance
from reinforce_np.enumeration import enumerate_trajectories
from reinforce_np.estimators import (
    GroupStandardised,
    LeaveOneOut,
    PerDecisionRatio,
    RewardToGo,
    TotalReturn,
    TrajectoryRatio,
    VTrace,
)

MDP = examples.referee(horizon=3)
POLICY = TabularSoftmax(3, 3)
THETA = np.array([0.3, -0.5, 1.0, 0.0, 0.7, -1.2, -0.4, 0.2, 0.9])
PROBLEM = (MDP, POLICY, THETA)
SHORT = (MDP.replace(horizon=2), POLICY, THETA)
LAKE = (examples.gridworld_4x4().replace(horizon=20), TabularSoftmax(16, 4), np.random.default_rng(0).normal(size=64))

ENDLESS = examples.bandit(means=np.arange(10.0)).replace(
    terminated=np.zeros((1, 10, 1), dtype=bool)
)  # one state, for ever


def by_name(sweep, name, column="variance"):
    """The numbers of an estimator, in the order of the values."""
    return np.array([getattr(row, column) for row in sweep.rows if row.estimator == name])


def assert_row(row, estimator, mdp, policy, theta, objective=None, **options):
    """Bias, variance and error of a row against all batches, listed."""
    found = moments_by_enumeration(estimator, mdp, policy, theta, **options)
    gradient = exact.gradient(mdp, policy, theta, objective=objective or exact.Discounted())
    bias, size = np.linalg.norm(found.mean - gradient), np.linalg.norm(gradient)
    n = options.get("group_size", 1) * options.get("prompts", 1)
    scale = float(found.second_moment.sum()) + size**2
    assert_exact(row.gradient_norm, size)
    assert_exact(row.bias, bias, math.sqrt(scale))
    assert_exact(row.relative_bias, bias / size, math.sqrt(scale) / size)
    assert_exact(row.variance, found.total_variance * n, scale * n)
    assert_exact(row.rmse, math.sqrt(bias**2 + found.total_variance * n / row.batch_size), math.sqrt(scale))
    assert_exact(row.relative_rmse, row.rmse / size, math.sqrt(scale) / size)
    assert_exact(row.noise, found.total_variance * n / (found.mean @ found.mean), row.noise)


def clipped_loss(log_probs, batch):
    returns = (batch.rewards * batch.mask).sum(axis=1, keepdims=True)
    ratio, advantages = np.exp(log_probs - batch.log_probabilities), returns - returns.mean()
    return -(np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages) * batch.mask).sum(axis=1).mean()


@pytest.mark.parametrize(
    ("sweep", "values", "options"),
    [
        (sweeps.over_behaviour, [0.0, 0.5], {"group_size": 2}),
        (sweeps.over_horizon, [1, 2], {"group_size": 2, "epsilon": 0.5}),
        (sweeps.over_gamma, [0.5, 1.0], {"group_size": 2}),
        (sweeps.over_batch, [2, 3, 10], {"group_size": 2}),
        (sweeps.over_group_size, [2, 3], {}),
    ],
)
def test_a_sweep_over_estimators_of_yours(sweep, values, options):
    """A loss, and an estimator with its own group: the rows are what they are when each is judged by itself."""
    problem = (examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.array([0.0, 0.5, -0.5]))
    estimators = {"mine": numpy_loss(clipped_loss), "ratio": Estimator(LeaveOneOut(), ratio=TrajectoryRatio())}
    found = sweep(*problem, values, estimators=estimators, **options)
    assert [(row.value, row.estimator) for row in found.rows] == [
        (value, name) for value in values for name in estimators if value % 2 == 0 or sweep is not sweeps.over_batch
    ]
    for row in found.rows:
        mdp, policy, theta = problem
        if sweep is sweeps.over_horizon:
            mdp = mdp.replace(horizon=row.value)
        if sweep is sweeps.over_gamma:
            mdp = mdp.replace(gamma=row.value)
        off = {sweeps.over_behaviour: row.value, sweeps.over_horizon: 0.5}.get(sweep)
        behaviour = None if off is None else (1 - off) * policy.probabilities(theta) + off / 3
        assert row.group_size == (row.value if sweep is sweeps.over_group_size else 2)
        objective = exact.Undiscounted() if sweep is sweeps.over_gamma else None
        where = {"objective": objective, "group_size": row.group_size, "behaviour": behaviour}
        assert_row(row, estimators[row.estimator], mdp, policy, theta, **where)
    assert {row.verdict for row in found.rows if row.estimator == "ratio"} == {"unbiased"}
    for wrong in ({}, [clipped_loss], {1: clipped_loss}):
        with pytest.raises(TypeError, match="pass a dictionary of what to compare"):
            sweep(*problem, values, estimators=wrong, **options)
    with pytest.raises(ValueError, match=r"nothing at .*: nothing returned nan for component 0"):
        sweep(*problem, values, estimators={"nothing": nothing}, **options)
    if options:
        with pytest.raises(ValueError, match="group_size=2 is for estimators of yours"):
            sweep(*problem, values, **options)


def nothing(trajectories, theta):
    return np.full(3, np.nan)


def test_batches_that_are_no_whole_groups_are_refused():
    with pytest.raises(ValueError, match=r"values=\[3, 5\]: none is a multiple of group_size=2"):
        sweeps.over_batch(*SHORT, [3, 5], group_size=2, estimators={"rloo": Estimator(LeaveOneOut())})


# --- against brute force


def test_lambda_against_all_trajectories():
    V, wrong = exact.values(*PROBLEM), exact.values(MDP, POLICY, np.zeros(9))
    for row in sweeps.over_lambda(*PROBLEM, [0.0, 0.6, 1.0], batch_size=7).rows:
        critic = {"true critic": V, "wrong critic": wrong, "no critic": 0.0}[row.estimator]
        assert_row(row, Estimator(GAE(critic, row.value)), *PROBLEM)


def test_gamma_against_all_trajectories():
    for row in sweeps.over_gamma(*PROBLEM, [0.4, 1.0]).rows:
        mdp = MDP.replace(gamma=row.value)
        V, discounted = exact.values(mdp, POLICY, THETA), row.estimator == "gamma on rewards and score"
        estimator = Estimator(RewardToGo(V), discounted_score=discounted)
        assert_row(row, estimator, mdp, POLICY, THETA, objective=exact.Undiscounted())


def test_baseline_against_all_trajectories():
    J, V = float(exact.objective(*PROBLEM)), exact.values(*PROBLEM)[:-1]
    rows = {(row.value, row.estimator): row for row in sweeps.over_baseline(*PROBLEM, [0.0, 0.5, 1.0]).rows}
    for w in (0.0, 0.5, 1.0):
        assert_row(rows[w, "total return, b = w J"], Estimator(TotalReturn(w * J)), *PROBLEM)
        assert_row(rows[w, "reward-to-go, b = w V(s)"], Estimator(RewardToGo(w * V)), *PROBLEM)
    exactly_V = rows[1.0, "reward-to-go, b = V(s) + noise"]
    assert exactly_V.variance == rows[1.0, "reward-to-go, b = w V(s)"].variance


def test_horizon_and_behaviour_against_all_trajectories():
    mu = sweeps.mixed_with_uniform(POLICY, THETA, 0.5)
    pi = POLICY.probabilities(THETA)
    assert_exact(mu, 0.5 * pi + 0.5 / 3)
    V = exact.values(*SHORT)
    horizon = {row.estimator: row for row in sweeps.over_horizon(*PROBLEM, [2], epsilon=0.5).rows}
    behaviour = {row.estimator: row for row in sweeps.over_behaviour(*SHORT, [0.5]).rows}
    for row, estimator in (
        (horizon["whole-trajectory ratio"], Estimator(TotalReturn(), ratio=TrajectoryRatio())),
        (horizon["per-decision ratio"], Estimator(RewardToGo(), ratio=PerDecisionRatio())),
        (behaviour["per-decision ratio"], Estimator(RewardToGo(V), ratio=PerDecisionRatio())),
        (behaviour["V-trace (truncated ratio)"], Estimator(GAE(V, 1.0), ratio=VTrace())),
        (behaviour["no ratio"], Estimator(RewardToGo(V))),
    ):
        assert_row(row, estimator, *SHORT, behaviour=mu)
    assert_row(horizon["on-policy, total return"], Estimator(TotalReturn()), *SHORT)


def test_the_divergence_is_that_of_the_listed_trajectories():
    mu = sweeps.mixed_with_uniform(POLICY, THETA, 0.7)
    trajectories, p = enumerate_trajectories(*PROBLEM)
    log_ratio = np.log(POLICY.probabilities(THETA)) - np.log(mu)
    ratios = np.where(trajectories.mask, log_ratio[trajectories.states, trajectories.actions], 0.0).sum(axis=1)
    assert_exact(sweeps.trajectory_divergence(*PROBLEM, mu), p @ ratios)
    assert sweeps.trajectory_divergence(*PROBLEM, POLICY.probabilities(THETA)) == 0.0


@pytest.mark.parametrize("prompts", [1, 2])
def test_groups_against_all_batches(prompts):
    """Also that a batch of several groups has the variance per trajectory of one."""
    problem = sweeps.verifier([0.3, 0.8], n_actions=2)
    rows = {row.estimator: row for row in sweeps.over_group_size(*problem, [3]).rows}
    for name, advantage in (
        ("RLOO", LeaveOneOut()),
        ("group mean and deviation (GRPO)", GroupStandardised(ddof=0, eps=0.0)),
    ):
        assert_row(rows[name], Estimator(advantage), *problem, group_size=3, prompts=prompts)


def test_batch_against_all_batches():
    rows = {(row.value, row.estimator): row for row in sweeps.over_batch(*SHORT, [1, 8]).rows}
    assert_row(rows[8, "GAE 0, wrong critic"], Estimator(GAE(exact.values(*SHORT[:2], np.zeros(9)), 0.0)), *SHORT)
    assert (1, "RLOO, groups of 4") not in rows
    assert rows[8, "RLOO, groups of 4"].verdict == "unbiased"


# --- what must rise, fall or vanish


def test_importance_sampling_grows_geometrically():
    """The ratio of consecutive variances nears a constant above one; on-policy it nears one."""
    mdp, policy = examples.gridworld_4x4(), TabularSoftmax(16, 4)
    sweep = sweeps.over_horizon(mdp, policy, LAKE[2], [48, 49, 50])
    for name in ("whole-trajectory ratio", "per-decision ratio"):
        growth = by_name(sweep, name)[1:] / by_name(sweep, name)[:-1]
        assert np.all(growth > 1.2)
        assert np.ptp(growth) < 0.01
    on_policy = by_name(sweep, "on-policy, reward-to-go")
    assert np.all(on_policy[1:] / on_policy[:-1] < 1.03)
    assert np.all(np.diff(by_name(sweep, "whole-trajectory ratio", "kl")) > 0)


def test_gae_loses_its_bias_at_one_and_gains_variance():
    sweep = sweeps.over_lambda(*LAKE)
    bias = by_name(sweep, "wrong critic", "relative_bias")
    assert np.all(np.diff(bias) < 0)
    assert bias[-1] == 0
    assert np.all(by_name(sweep, "true critic", "relative_bias") == 0)
    error = by_name(sweep, "wrong critic", "relative_rmse")
    assert 0 < np.argmin(error) < len(error) - 1  # the trade-off has an optimum inside


def test_a_smaller_gamma_has_more_bias_and_less_variance():
    sweep = sweeps.over_gamma(*LAKE)
    for name in ("gamma on rewards and score", "gamma on rewards only"):
        assert np.all(np.diff(by_name(sweep, name, "relative_bias")) < 0)
        assert np.all(np.diff(by_name(sweep, name)) > 0)
        assert by_name(sweep, name, "relative_bias")[-1] == 0


def test_variance_is_a_parabola_in_the_baseline():
    sweep = sweeps.over_baseline(*LAKE)
    assert np.all(by_name(sweep, "total return, b = w J", "relative_bias") == 0)
    for name in ("total return, b = w J", "reward-to-go, b = w V(s)", "reward-to-go, b = V(s) + noise"):
        second = np.diff(by_name(sweep, name), n=2)
        assert_exact(second, np.full(len(second), second[0]), scale=by_name(sweep, name).max() * 100)
        assert second[0] > 0
    with_V = by_name(sweep, "reward-to-go, b = w V(s)")
    assert np.argmin(with_V) == 4  # w = 1
    assert np.all(by_name(sweep, "reward-to-go, best b(s)") <= with_V)


def test_noise_falls_with_the_batch_and_bias_does_not():
    sweep = sweeps.over_batch(*SHORT, [4, 16, 4**12])
    error = by_name(sweep, "reward-to-go, baseline V", "rmse")
    assert_exact(error[0] / error[1], 2.0)
    floor = by_name(sweep, "GAE 0, wrong critic", "relative_rmse")[-1]
    assert floor == pytest.approx(by_name(sweep, "GAE 0, wrong critic", "relative_bias")[-1], rel=1e-3)


def test_without_distance_all_ratios_are_the_same():
    variances = [row.variance for row in sweeps.over_behaviour(*SHORT, [0.0]).rows]
    assert_exact(variances, np.full(5, variances[0]))
    far = sweeps.over_behaviour(*LAKE, [0.5, 1.0])
    for name in ("whole-trajectory ratio", "per-decision ratio"):
        assert np.all(np.diff(by_name(far, name)) > 0)
    assert np.all(np.diff(by_name(far, "no ratio", "relative_bias")) > 0)


def test_grpo_is_the_gradient_over_the_deviation_in_large_groups():
    sweep = sweeps.over_group_size_of_verifier([0.5, 0.1], [2, 128])
    grpo = {(row.setting, row.value): row for row in sweep.rows if "deviation" in row.estimator}
    assert grpo["p = 0.5", 2].factor == pytest.approx(1.0, abs=1e-12)
    assert grpo["p = 0.5", 128].factor == pytest.approx(2.0, rel=0.02)
    assert grpo["p = 0.1", 128].factor == pytest.approx(1 / 0.3, rel=0.02)
    assert grpo["all prompts", 128].verdict == "biased"
    assert grpo["all prompts", 128].cosine < 0.999
    mean = by_name(sweep, "group mean (Dr. GRPO)", "factor")
    assert_exact(mean, np.tile([1 / 2, 127 / 128], 3))
    assert np.all(by_name(sweep, "RLOO", "relative_bias") == 0)


def test_a_gradient_of_zero_leaves_ratios_undefined():
    mdp = MDP.replace(reward=np.zeros(MDP.reward.shape))
    for row in sweeps.over_lambda(mdp, POLICY, THETA, [0.5]).rows:
        assert (row.verdict, row.relative_bias, row.relative_rmse, row.noise) == ("undefined", None, None, None)
        assert row.bias == 0


# --- refusals


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: sweeps.over_lambda(*PROBLEM, [1.5]), r"values\[0\]=1.5 is out of range"),
        (lambda: sweeps.over_lambda(*PROBLEM, []), "values is empty"),
        (lambda: sweeps.over_lambda(*PROBLEM, [0.5, 0.5]), "repeats itself"),
        (lambda: sweeps.over_lambda(*PROBLEM, [0.5], batch_size=0), "batch_size=0"),
        (lambda: sweeps.over_batch(*PROBLEM, [0]), r"values\[0\]=0"),
        (lambda: sweeps.over_group_size(*PROBLEM, [1]), "at least 2"),
        (lambda: sweeps.over_group_size_of_verifier([1.0], [2]), "strictly between"),
        (lambda: sweeps.over_gamma(MDP.replace(horizon=None), POLICY, THETA), "horizon=None"),
        (lambda: sweeps.verifier([0.5], n_actions=1), "n_actions=1"),
        (
            lambda: sweeps.over_horizon(ENDLESS, TabularSoftmax(1, 10), 5.0 * np.eye(10)[0], [400]),
            "ratio at 400: .* leaves? float64",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- the command


def run(capsys, *argv):
    """Exit code, stdout and stderr."""
    try:
        code = main(["variance", *map(str, argv)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


SMALL = ["--mdp", "referee", "--horizon", "2"]
VALUES = {"horizon": "1,2", "gamma": "0.5,1", "lambda": "0,1", "group-size": "2,3", "batch": "4,100", "behaviour": "0,1",
          "baseline": "0,1"}  # fmt: skip


def test_every_sweep_has_a_command():
    assert {command.name for command in variance.COMMANDS} == set(VALUES)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("problem", [[], SMALL])
def test_table_json_and_csv_say_the_same(capsys, monkeypatch, name, problem, tmp_path):
    rows_of, once = variance._sweep, []  # one sweep, printed in every form

    def computed(*args):
        once[:] = once or [rows_of(*args)]
        return once[0]

    monkeypatch.setattr(variance, "_sweep", computed)
    argv = [name, "--values", VALUES[name], *problem]
    if name == "horizon":
        argv = [word for word in argv if word not in SMALL[2:]]
    code, out, err = run(capsys, *argv)
    assert (code, err) == (0, "")
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= 140
    assert "nan" not in out

    def refused(text):
        raise AssertionError(f"{text} is no JSON")

    code, out, err = run(capsys, *argv, "--json", "--csv", tmp_path / "rows.csv")
    document = json.loads(out, parse_constant=refused)
    assert (code, err, document["sweep"]) == (0, "", name)
    text = (tmp_path / "rows.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(document["rows"]) >= 4
    for row, expected in zip(rows, document["rows"], strict=True):
        assert float(row["variance"]) == expected["variance"]
        assert row["estimator"] == expected["estimator"]
        assert row["kl"] == ("" if expected["kl"] is None else str(expected["kl"]))
    assert run(capsys, *argv, "--csv", "-") == (0, text, "")


@pytest.mark.parametrize(
    "argv, code, message",
    [
        (["lambda", "--values", "2"], 2, "--values 2: 2 is too large; pass at most 1"),
        (["lambda", "--values", "a"], 2, "--values a: 'a' is not a number"),
        (["lambda", "--values", "nan"], 2, "not finite"),
        (["lambda", "--values", ""], 2, "is not a number"),
        (["lambda", "--values", "0.5,0.5"], 2, "0.5 is there twice"),
        (["horizon", "--values", "0"], 2, "0 is too small; pass at least 1"),
        (["horizon", "--values", "10000000"], 4, "is too large"),
        (["horizon", "--mix", "2"], 2, "--mix 2 is out of range"),
        (["group-size", "--values", "1"], 2, "1 is too small"),
        (["group-size", "--success", "1"], 2, "strictly between 0 and 1"),
        (["group-size", "--success", "2"], 2, "--success 2: 2 is too large"),
        (["group-size", "--success", ".5", "--mdp", "bandit"], 2, "leave out --mdp"),
        (["group-size", "--theta", "zeros"], 2, "--theta zeros needs --mdp"),
        (["group-size", "--actions", "1"], 2, "--actions 1"),
        (["batch", "--values", "1.5"], 2, "'1.5' is not a whole number"),
        (["lambda", "--batch-size", "0"], 2, "too few"),
        (["lambda", "--mdp", "nowhere"], 2, "no such example"),
        (["lambda", "--mdp", "random_walk"], 2, "pass --horizon STEPS"),
        (["lambda", "--plot", "picture.txt"], 2, "--plot picture.txt: pass a file ending in .png"),
        (["lambda", "--csv", "/no/such/folder/x.csv"], 2, "--csv /no/such/folder/x.csv cannot be written"),
        (["lambda", "--csv", "-", "--json"], 2, "already has the JSON document"),
        (["lambda", "--values", ",".join(map(str, range(1001)))], 4, "above the limit"),
        (["nonsense"], 2, "invalid choice"),
    ],
)
def test_exit_codes(capsys, argv, code, message):
    actual, out, err = run(capsys, *argv)
    assert (actual, out) == (code, "")
    assert message in err


def test_without_a_sweep_the_help_is_printed(capsys):
    code, out, _ = run(capsys)
    assert code == 2
    assert "baseline" in out


def test_help_names_the_default_problem(capsys):
    for name in VALUES:
        code, out, _ = run(capsys, name, "--help")
        assert code == 0
        assert "(default: referee)" not in " ".join(out.split())


def test_a_failure_leaves_no_file(capsys, tmp_path):
    code, _, err = run(capsys, "group-size", "--mdp", "referee", "--values", "2,200", "--csv", tmp_path / "rows.csv")
    assert code == 4
    assert "smaller groups" in err
    assert not list(tmp_path.iterdir())


def test_the_seed_is_that_of_the_noise(capsys):
    first, again, other = (run(capsys, "baseline", "--values", "0", "--seed", seed)[1] for seed in (1, 1, 2))
    assert first == again != other


def test_the_tables_of_the_readme_are_the_real_ones(capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\$ python -m reinforce_np variance (.*)\n((?:.*\n)*?)```$", readme, flags=re.MULTILINE)
    assert len(shown) == 2
    for words, table in shown:
        code, out, _ = run(capsys, *words.split())
        assert code == 0
        printed, documented = out.split(), table.split()
        for word, said in zip(printed, documented, strict=False):
            assert word == said or abs(float(word) - float(said)) <= 1.5e-3 * max(
                1.0, abs(float(said))
            )  # a tie in the last digit
        assert len(documented) > 50
        assert len(printed) >= len(documented)
