"""Whoever does the work, the result is the same bits: no executor, threads, processes, and after a worker was lost."""

import concurrent.futures
import multiprocessing
import os
import pickle

import numpy as np
import pytest

from reinforce_np import (
    FiniteMDP,
    LinearSoftmax,
    Problem,
    RewardToGo,
    TabularSoftmax,
    confirm_on_panel,
    examples,
    judge_on_panel,
    numpy_loss,
    parallel,
    sample,
    stream_gradient,
    sweeps,
)
from reinforce_np.command_line import main, workers
from reinforce_np.estimators import algorithms
from reinforce_np.referee.catalogue import CATALOGUE, judge_each
from reinforce_np.referee.panel import PANEL
from reinforce_np.sampling import draw

PROBLEM = examples.referee(horizon=3), TabularSoftmax(3, 3), np.sin(np.arange(9.0))
SMALL = [problem for problem in PANEL if problem.name in ("impatient", "undiscounted", "other data")]
ENTRIES = [
    one for one in CATALOGUE if one.name in ("gamma_t_dropped", "in_sample_mean", "product_of_ratios", "first_finished")
]
FIELDS = ("probability", "next_state", "reward", "terminated")
PRELOADED = ["pytest", "reinforce_np.sweeps", "reinforce_np.streaming", "reinforce_np.referee.catalogue"]


def loss(log_probs, batch):
    return -(log_probs * batch.rewards * batch.mask).sum() / len(log_probs)


def drawn(executor):
    """In blocks of 8 trajectories, so that there are many; this process makes them, whoever draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "MAX_BLOCK", 8)
        batch = sample(*PROBLEM, 100, executor=executor, rng=1)
        found = stream_gradient(algorithms.rloo(), *PROBLEM, 200, group_size=2, executor=executor, rng=1)
    return batch.states.tobytes(), found.gradient.tolist(), found.mean_return, found.n_transitions


def confirmed(executor):
    found = confirm_on_panel(numpy_loss(loss), n=50, problems=SMALL, executor=executor, rng=1)
    return [(row.confirmation.log_e_value, row.confirmation.log_probability.tolist()) for row in found.judged]


def plain(verdicts):
    return {name: {problem: v.as_dict() for problem, v in row.items()} for name, row in verdicts.items()}


RUNS = {
    "sample": drawn,
    "panel": lambda e: judge_on_panel(numpy_loss(loss), problems=SMALL, executor=e).as_dict(),
    "sampled panel": confirmed,
    "catalogue": lambda e: plain(judge_each(ENTRIES, executor=e)),
    "catalogue on a panel": lambda e: plain(judge_each(ENTRIES, SMALL, executor=e)),
    "horizon": lambda e: sweeps.over_horizon(*PROBLEM, [2, 4], executor=e),
    "behaviour": lambda e: sweeps.over_behaviour(*PROBLEM, [0.5], executor=e),
    "gamma": lambda e: sweeps.over_gamma(*PROBLEM, [0.5, 1.0], executor=e),
    "lambda": lambda e: sweeps.over_lambda(*PROBLEM, [0.0, 0.5], executor=e),
    "baseline": lambda e: sweeps.over_baseline(*PROBLEM, [0.5], executor=e),
    "batch": lambda e: sweeps.over_batch(*PROBLEM, [1, 4], executor=e),
    "group size": lambda e: sweeps.over_group_size_of_verifier([0.5, 0.1], [2], executor=e),
}


@pytest.fixture(scope="module")
def alone():
    """What comes out without an executor."""
    return {name: run(None) for name, run in RUNS.items()}


@pytest.fixture(scope="module")
def pool():
    """A function that makes a pool of processes, quickly: they are forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return lambda n: concurrent.futures.ProcessPoolExecutor(n, mp_context=context)


@pytest.fixture
def two(pool):
    with pool(2) as executor:
        yield executor


def test_threads_and_any_number_of_processes_change_nothing(pool, alone):
    for executor in (concurrent.futures.ThreadPoolExecutor(2), pool(1), pool(2), pool(3)):
        with executor:
            for name, run in RUNS.items():
                assert run(executor) == alone[name], (name, executor)


def test_records_have_the_layout_they_have_after_they_were_sent():
    """Or another process would add up in another order, and round differently."""
    strided = np.arange(48.0).reshape(4, 3, 4)[:, :, ::2].transpose(1, 2, 0)
    lake, policy, advantage = examples.frozen_lake(), LinearSoftmax(strided), RewardToGo(strided[0])
    turned = {name: np.moveaxis(getattr(lake, name), 0, 2).copy().transpose(2, 0, 1) for name in FIELDS}
    mdp = FiniteMDP(**turned, initial=lake.initial, gamma=0.9, horizon=None)
    problem = Problem(lake, TabularSoftmax(16, 4), np.zeros(128)[::2], critic=np.zeros(32)[::2])
    records = lake, mdp, policy, advantage, problem
    for record, sent in zip(records, pickle.loads(pickle.dumps(records)), strict=True):
        for name, array in vars(sent).items():
            assert not isinstance(array, np.ndarray) or array.strides == getattr(record, name).strides, (record, name)


class Losing:
    """A pool of two that loses both of them before the second job."""

    def __init__(self, pool):
        self.pool, self.n_jobs = pool, 0

    def submit(self, *job):
        self.n_jobs += 1
        for _ in range(2 * (self.n_jobs == 2)):
            self.pool.submit(os._exit, 1)
        return self.pool.submit(*job)


@pytest.mark.parametrize("name", ["panel", "catalogue", "horizon"])
def test_a_lost_worker_changes_nothing(pool, alone, name):
    with pool(2) as executor:
        for broken in (Losing(executor), executor):  # which stays broken
            with pytest.warns(RuntimeWarning, match="a worker was lost .* this process does its work"):
                assert RUNS[name](broken) == alone[name]


class Pickling(concurrent.futures.Executor):
    """An executor that sends its jobs as soon as they are submitted, as clusters do."""

    def submit(self, *job):
        function, *arguments = pickle.loads(pickle.dumps(job))
        future = concurrent.futures.Future()
        future.set_result(function(*arguments))
        return future


def test_what_cannot_be_sent_is_named_with_the_remedy(two):
    def local(trajectories, theta):
        return 0 * theta

    said = r"local at .* cannot be sent to another process .*: write it as a function at the top level of a module, or use threads"
    for executor in (two, Pickling()):
        with pytest.raises(TypeError, match=said):
            judge_on_panel(local, problems=SMALL, executor=executor)
        with pytest.raises(TypeError, match=said):
            judge_on_panel(numpy_loss(local), problems=SMALL, executor=executor)
    assert RUNS["panel"](two) == RUNS["panel"](Pickling())  # and the pool goes on
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        assert judge_on_panel(local, problems=SMALL, executor=threads).kind == "biased"


def wrong_type(trajectories, theta):
    raise TypeError("mine")


def test_errors_of_a_job_are_its_own(two):
    """Also errors of the kinds that pickle raises, and where the job could not have been sent."""
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        for executor, f in ((two, wrong_type), (threads, wrong_type), (threads, lambda *batch: wrong_type(*batch))):
            with pytest.raises(TypeError, match=r"^mine\n"):
                judge_on_panel(f, problems=SMALL, executor=executor)
        with pytest.raises(ZeroDivisionError):
            list(parallel.in_order(divmod, [(1, 1), (1, 0)], threads))


def test_what_is_no_executor_is_refused():
    for run in (RUNS[name] for name in ("sample", "panel", "sampled panel", "catalogue", "lambda")):
        with pytest.raises(TypeError, match="executor=3 has no submit"):
            run(3)


# --- the command line


@pytest.mark.parametrize("command", [
    ["variance", "lambda", "--mdp", "referee", "--values", "0,1"],
    ["variance", "batch", "--mdp", "referee", "--values", "1,4"],
    ["variance", "group-size", "--values", "2,4", "--success", "0.5"],
    ["catalogue", "product_of_ratios"],
    ["catalogue"],
])  # fmt: skip
def test_workers_change_nothing(capsys, monkeypatch, command):
    asked, jobs = [], []

    def threads(n, **options):
        asked.append((n, options.keys()))
        pool = concurrent.futures.ThreadPoolExecutor(n)
        submit = pool.submit
        monkeypatch.setattr(pool, "submit", lambda *job: jobs.append(job) or submit(*job))
        return pool

    monkeypatch.setattr("reinforce_np.command_line.catalogue.CATALOGUE", ENTRIES)
    monkeypatch.setattr(workers.concurrent.futures, "ProcessPoolExecutor", threads)
    first = main([*command, "--json"]), capsys.readouterr()
    assert asked == []
    assert (main([*command, "--json", "--workers", "3"]), capsys.readouterr()) == first
    assert asked == [(3, {"initializer", "initargs"})] and first[0] == 0 and len(jobs) > 1
    with pytest.raises(SystemExit):
        main([*command, "--workers", "0"])
    assert "--workers: '0' is too few; pass at least 1" in capsys.readouterr().err
