"""Sampling and the REINFORCE gradient: nanoseconds per transition, beside what a user could pick instead.

A transition is a step of an episode that has not ended. Everything that
depends on θ is made anew in every run of this package, its tables included.
"""

import concurrent.futures
import functools
import multiprocessing
import statistics
import tracemalloc

import numpy as np

from benchmarks import peers
from benchmarks.harness import Contender, Table, best, measured, race, ratio_table, scaling_table
from reinforce_np import LinearSoftmax, TabularSoftmax, algorithms, exact, examples, moments, sample, stream_gradient

REINFORCE = algorithms.reinforce()  # reward-to-go, γᵗ on the score
WORST = 6.0  # standard errors that an estimate may be off, all components together


def rare():
    """FrozenLake 8x8, slippery, 100 steps, and a θ of which one episode in a thousand succeeds."""
    mdp = examples.frozen_lake(map="8x8", horizon=100, gamma=0.99)
    policy = TabularSoftmax(mdp.n_states, mdp.n_actions)
    return mdp, policy, np.random.default_rng(0).normal(size=policy.n_parameters)


@functools.cache
def trained():
    """The same lake, and a θ of which three episodes in ten succeed: action values, made as sharp as that takes."""
    mdp, policy, _ = rare()
    plain = mdp.replace(gamma=1.0)
    theta = np.zeros(policy.n_parameters)
    for _ in range(5):
        Q = exact.action_values(mdp.replace(horizon=None), policy, theta)
        direction = (Q - Q.max(axis=1, keepdims=True)).ravel()
        direction /= np.abs(direction).max()
        low, high = 0.0, 1e4
        for _ in range(40):
            middle = (low * high) ** 0.5 if low else high / 1e3
            low, high = (middle, high) if exact.objective(plain, policy, middle * direction) < 0.3 else (low, middle)
        theta = high * direction
    return mdp, policy, theta


def dense():
    """200 states, each of which follows on each, 5 actions, 50 steps, rewards everywhere, 32 features."""
    mdp = examples.random_mdp(n_states=200, n_actions=5, n_outcomes=200, horizon=50, gamma=0.99, termination=0.0, rng=0)
    features = np.random.default_rng(0).normal(size=(200, 5, 32))
    return mdp, LinearSoftmax(features), 0.3 * np.random.default_rng(1).normal(size=32)


def bandit():
    """Ten arms: an episode is one step, so that what each episode takes by itself is most of the time."""
    return examples.bandit(means=np.linspace(0, 1, 10)), TabularSoftmax(1, 10), np.random.default_rng(0).normal(size=10)


PROBLEMS = {"rare success": rare, "success 0.30": trained, "dense": dense, "bandit": bandit}


class Streaming:
    """asv: `stream_gradient` of n trajectories."""

    params = list(PROBLEMS), (1_000, 10_000, 100_000)
    param_names = "problem", "n"

    def setup(self, problem, n):
        self.problem = PROBLEMS[problem]()
        correct(self.problem, n)(self.time_stream_gradient(problem, n))

    def time_stream_gradient(self, problem, n):
        return stream_gradient(REINFORCE, *self.problem, n, rng=0).gradient

    def time_sample_and_gradient(self, problem, n):
        return REINFORCE.gradient(sample(*self.problem, n, rng=0), *self.problem)


def correct(problem, n):
    """Return a check of estimates from n trajectories: against the exact gradient, by the exact variance."""
    gradient = exact.gradient(*problem)
    variance = moments(REINFORCE, *problem).total_variance / n

    def check(estimate):
        error = np.sqrt(((estimate - gradient) ** 2).sum() / variance)
        assert error < WORST, f"off by {error:.3g} standard errors"

    return check


def report(options):
    """Yield ratios for each problem and size, growth, memory and workers."""
    sizes = [1_000, 10_000] if options.quick else [1_000, 10_000, 100_000, 1_000_000]
    for name, make in PROBLEMS.items():
        problem = make()
        steps = stream_gradient(REINFORCE, *problem, 50_000, rng=1).n_transitions / 50_000
        if options.peers and name == "rare success":
            yield from loops(problem)
        for n in sizes if name == "rare success" else sizes[1:]:
            contenders = list(ours(problem, n)) + (list(theirs(problem, n)) if options.peers else [])
            timings = race(contenders, options)
            title = f"Trajectories and their gradient, {name}, N = {n:,}, {steps:.1f} steps: ns per transition"
            yield ratio_table(title, timings, per=n * steps, unit="ns", scale=1e9)
    yield from growth(sizes)
    yield workers(10_000 if options.quick else 1_000_000)


def ours(problem, n):
    """Yield the two ways of this package."""
    check = correct(problem, n)
    yield Contender("stream_gradient", lambda: stream_gradient(REINFORCE, *problem, n, rng=0).gradient, check)
    if n * problem[0].horizon <= 10**8:
        yield Contender(
            "sample, then gradient", lambda: REINFORCE.gradient(sample(*problem, n, rng=0), *problem), check
        )


def theirs(problem, n):
    """Yield the peers that draw whole batches, as far as they are installed."""
    mdp, policy, theta = problem
    features = getattr(policy, "features", None)
    for name, make in (
        ("JAX jit, autograd of the surrogate", peers.jax_autograd),
        ("JAX jit, tables and gradient by hand", peers.jax_tables),
        ("PyTorch, vectorised, autograd", peers.torch_autograd),
    ):
        if n * mdp.horizon <= 10**8:  # they keep all steps
            try:
                yield Contender(name, make(mdp, features, theta, n), correct(problem, n))
            except ImportError as error:
                print(f"left out: {name} ({error})")


def loops(problem):
    """Yield one table of the loops that go through Gymnasium, with numbers of trajectories they can manage."""
    mdp, _, theta = problem
    table = Table("Trajectories and their gradient through Gymnasium, rare success", ["", "N", "ns per transition"])
    for name, make, n in (
        ("Gymnasium loop, PyTorch", peers.textbook, 100),
        ("Gymnasium vector environment, NumPy", peers.vector_env, 500),
    ):
        try:
            run = make(mdp, theta, n)
        except ImportError as error:
            print(f"left out: {name} ({error})")
            continue
        correct(problem, n)(run())
        ns = []
        for _ in range(3):
            before = run.transitions
            ns.append(measured(run, 1) * 1e9 / (run.transitions - before))
        table.rows.append([name, n, statistics.median(ns)])
    yield table


def growth(sizes):
    """Yield time and memory against the number of trajectories."""
    problem = rare()
    seconds = [best(lambda n=n: stream_gradient(REINFORCE, *problem, n, rng=0)) for n in sizes]
    yield scaling_table("stream_gradient against the number of trajectories", "trajectories", sizes, seconds)
    memory = Table("Memory of stream_gradient, at its peak", ["trajectories", "MB"])
    for n in sizes[1:]:
        tracemalloc.start()
        stream_gradient(REINFORCE, *problem, n, rng=0)
        memory.rows.append([n, tracemalloc.get_traced_memory()[1] / 1e6])
        tracemalloc.stop()
    yield memory


def workers(n):
    """Return a table of executors; each must give the same bits."""
    problem = rare()
    expected = stream_gradient(REINFORCE, *problem, n, rng=0).gradient
    table = Table(f"stream_gradient of {n:,} trajectories on an executor", ["", "ms", "times as fast"])
    context = multiprocessing.get_context("spawn")
    pools = {
        "this process": None,
        "1 process": concurrent.futures.ProcessPoolExecutor(1, mp_context=context),
        "2 processes": concurrent.futures.ProcessPoolExecutor(2, mp_context=context),
        "2 threads": concurrent.futures.ThreadPoolExecutor(2),
    }

    def run(executor):
        found = stream_gradient(REINFORCE, *problem, n, executor=executor, rng=0).gradient
        assert np.array_equal(found, expected)

    for name, executor in pools.items():
        seconds = best(lambda executor=executor: run(executor), repeats=3)
        first = table.rows[0][1] if table.rows else seconds * 1e3
        table.rows.append([name, seconds * 1e3, first / (seconds * 1e3)])
        if executor is not None:
            executor.shutdown()
    return table
