"""Two processes beside this one alone: sampling and gradient, a check on the panel, the catalogue, a sweep.

The control is work that shares nothing, timed in the same rounds: what it gains is what the machine has to give, which is
two on two cores that nobody else uses. Answers are asserted to be the same bits first.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import statistics

import numpy as np

from benchmarks import bench_sampling
from benchmarks.harness import Contender, Table, race
from reinforce_np import judge_on_panel, numpy_loss, parallel, stream_gradient, sweeps
from reinforce_np.referee.catalogue import CATALOGUE, judge_each
from reinforce_np.referee.panel import PANEL


def spin(n):
    """Draw n times 32 thousand numbers and look them up."""
    bits, values = np.random.PCG64(0), np.arange(2048, dtype=np.int32)
    return sum(int(values.take(bits.random_raw(2**14).view(np.int32) & 2047)[0]) for _ in range(n))


def nothing_shared(executor):
    """Spin in eight jobs, for a third of a second in all."""
    return list(parallel.in_order(spin, [(600,)] * 8, executor))


@functools.cache
def problem_of(name):
    """Make a problem once: that is not what is timed."""
    return bench_sampling.PROBLEMS[name]()


def streamed(name, n, executor):
    """Draw n trajectories, and return their gradient."""
    found = stream_gradient(bench_sampling.REINFORCE, *problem_of(name), n, executor=executor, rng=0)
    return found.gradient.tolist()


def rloo(log_probs, batch):
    """The loss at the top of the README."""
    rewards = (batch.rewards * batch.mask).sum(axis=1)
    advantages = rewards - (rewards.sum() - rewards) / (len(rewards) - 1)
    ratio = np.exp(log_probs - batch.log_probabilities)
    surrogate = np.minimum(ratio * advantages[:, None], np.clip(ratio, 0.8, 1.2) * advantages[:, None])
    return -((surrogate * batch.mask).sum(axis=1) / batch.mask.sum(axis=1)).mean()


def on_panel(problems, executor):
    """Judge the loss."""
    return judge_on_panel(numpy_loss(rloo), problems=problems, group_size=2, executor=executor).as_dict()


def catalogue(problems, executor):
    """Judge all entries."""
    found = judge_each(CATALOGUE, problems, executor=executor)
    return {name: {problem: verdict.as_dict() for problem, verdict in row.items()} for name, row in found.items()}


def sweep(values, executor):
    """Vary the behaviour on FrozenLake 8x8."""
    return sweeps.over_behaviour(*problem_of("rare success"), values, executor=executor)


def runs(quick):
    """Return what is run, by name: functions of an executor."""
    large, million = (10**5, "100,000") if quick else (10**7, "10,000,000")
    small, thousand = (10**5, "100,000") if quick else (10**6, "1,000,000")
    named = {
        f"stream_gradient, rare success, N = {thousand}": functools.partial(streamed, "rare success", small),
        f"stream_gradient, rare success, N = {million}": functools.partial(streamed, "rare success", large),
        f"stream_gradient, success 0.30, N = {thousand}": functools.partial(streamed, "success 0.30", small),
        f"stream_gradient, dense, N = {thousand}": functools.partial(streamed, "dense", small),
        f"stream_gradient, dense, N = {million}": functools.partial(streamed, "dense", large),
        "judge_on_panel, a loss, groups of 2": functools.partial(on_panel, PANEL[2:4] if quick else PANEL),
        f"judge_each, {len(CATALOGUE)} entries, each on its problem": functools.partial(catalogue, None),
        "over_behaviour, FrozenLake 8x8": functools.partial(sweep, [0.5] if quick else sweeps.off_policy.SHARES),
    }
    return named if quick else named | {"judge_each, all entries on the panel": functools.partial(catalogue, PANEL)}


def processes(n):
    """Return a pool of n processes, all of them started and with this module imported."""
    executor = concurrent.futures.ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn"))
    for _ in range(2):
        list(executor.map(spin, [200] * 4 * n))
    return executor


class OneOrTwo:
    """asv: this process alone, or two others."""

    params = list(runs(quick=True)), (1, 2)
    param_names = "run", "processes"
    timeout = 120

    def setup(self, run, n):
        self.executor = None if n == 1 else processes(n)
        self.run = runs(quick=True)[run]
        assert self.run(self.executor) == self.run(None)

    def teardown(self, run, n):
        if self.executor is not None:
            self.executor.shutdown()

    def time_run(self, run, n):
        self.run(self.executor)


def report(options):
    """Yield one table: seconds alone and by two processes, and how many times as fast they are within a round."""
    busy = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    table = Table(
        "Two processes beside this one alone, in the same round",
        ["", "s alone", "s by two", "times as fast", "least", "most", "control", "its least", "its most"],
        note="control: times as fast, in the same rounds, of work that shares nothing; load average of the last 1, 5 and 15 "
        f"minutes before: {busy}; {os.cpu_count()} cores",
    )
    with processes(2) as two:
        for name, run in runs(options.quick).items():
            contenders = [
                Contender(name, functools.partial(work, executor), functools.partial(same, work(None)))
                for work in (run, nothing_shared)
                for executor in (None, two)
            ]
            alone, by_two, *control = race(contenders, options, seconds=20.0)
            table.rows.append([name, alone.median, by_two.median, *gain(alone, by_two), *gain(*control)])
    yield table


def same(expected, answer):
    """Refuse to time other bits."""
    assert answer == expected, "not the same bits"


def gain(alone, by_two):
    """Return how many times as fast two are within a round: the median, the least and the most."""
    ratios = [a / b for a, b in zip(alone.seconds, by_two.seconds, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
