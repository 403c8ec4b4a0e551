"""Exact moments: total variance and covariance, beside the recursion as it is written and beside sampling.

No peer computes them. Answers are asserted first: against listing all batches on a small model, against the exact
gradient on the one that is timed, and against the recursion outcome by outcome.
"""

import math
import tracemalloc

import numpy as np

from benchmarks.harness import Contender, Table, best, measured, race, ratio_table, scaling_table
from reinforce_np import (
    Estimator,
    FiniteMDP,
    LinearSoftmax,
    RewardToGo,
    TabularSoftmax,
    algorithms,
    exact,
    examples,
    sample,
)
from reinforce_np.exact import moments
from reinforce_np.exact.recursion import sweep_by_outcomes
from reinforce_np.exact.traces import linear_trace

CLOSE = 1e-10  # relative to the root mean square of an estimate


def assert_close(actual, expected, scale):
    """Refuse to time a wrong answer."""
    error = np.max(np.abs(np.asarray(actual) - expected) / scale)
    assert error <= CLOSE, f"wrong by {error:.2g} of its scale"


def assert_same_route(estimator, problem, **options):
    """Assert the route of the benchmark against enumeration on a model small enough."""
    found, expected = (
        moments(estimator, *problem, covariance=True, route=route, **options) for route in (None, "enumeration")
    )
    assert found.route != "enumeration"
    rms = np.sqrt(np.maximum(expected.second_moment, 1e-6 * expected.second_moment.max()))
    assert_close(found.mean, expected.mean, rms)
    assert_close(found.covariance, expected.covariance, np.outer(rms, rms))


def assert_gradient(found, problem):
    """The mean of an unbiased estimator is the gradient, which is computed without any moments."""
    rms = np.sqrt(found.second_moment)
    assert_close(found.mean, exact.gradient(*problem), rms.max())


def lake(map, horizon):
    """FrozenLake with a policy that is not uniform."""
    mdp = examples.frozen_lake(map=map, horizon=horizon)
    policy = TabularSoftmax(mdp.n_states, 4)
    return mdp, policy, np.sin(np.arange(policy.n_parameters))


def gridworld(n_states, n_features, horizon):
    """A square grid with four moves that slip one time in five, and a linear policy on smooth features."""
    side = math.isqrt(n_states)
    x, y = np.divmod(np.arange(side * side), side)
    dx, dy = np.array([1, -1, 0, 0]), np.array([0, 0, 1, -1])
    moved = np.clip(x[:, None] + dx, 0, side - 1) * side + np.clip(y[:, None] + dy, 0, side - 1)
    stay = np.broadcast_to(np.arange(side * side)[:, None], moved.shape)
    goal = moved == side * side - 1
    mdp = FiniteMDP(
        np.broadcast_to([0.8, 0.2], (*moved.shape, 2)).copy(),
        np.stack([moved, stay], axis=2),
        np.stack([goal - 0.01, np.full(moved.shape, -0.01)], axis=2),
        np.stack([goal, np.zeros_like(goal)], axis=2),
        initial=np.eye(1, side * side)[0],
        gamma=0.99,
        horizon=horizon,
    )
    frequency = np.arange(n_features)[None, None, :] / 10
    phase = np.stack([x, x, y, y], axis=1)[:, :, None] / side + np.arange(4)[None, :, None]
    policy = LinearSoftmax(np.cos(frequency * phase + np.arange(n_features)))
    return mdp, policy, np.linspace(-0.5, 0.5, n_features)


def outcomes(n_outcomes, horizon=50, n_states=50):
    """A random model with as many outcomes as asked for."""
    mdp = examples.random_mdp(n_states=n_states, n_actions=4, n_outcomes=n_outcomes, horizon=horizon, rng=0)
    policy = TabularSoftmax(n_states, 4)
    return mdp, policy, np.sin(np.arange(policy.n_parameters))


ESTIMATORS = {  # and the size of their groups
    "reinforce": (algorithms.reinforce(), 1),
    "whole return": (algorithms.reinforce(reward_to_go=False), 1),
    "rloo": (algorithms.rloo(), 16),
}


class FrozenLake:
    """8x8, 256 parameters, horizon 100: the full covariance is meant to take a second at most."""

    params = ("reinforce", "whole return", "rloo"), (False, True)
    param_names = "estimator", "covariance"

    def setup(self, estimator, covariance):
        self.estimator, self.group_size = ESTIMATORS[estimator]
        self.problem, self.covariance = lake("8x8", 100), covariance
        small = examples.referee(horizon=2), TabularSoftmax(3, 3), np.sin(np.arange(9))
        assert_same_route(self.estimator, small, group_size=min(self.group_size, 2))
        found = self.time_moments(estimator, covariance)
        assert_gradient(found, self.problem)
        if covariance:
            assert_close(found.covariance, found.covariance.T, found.total_variance)
            assert_close(np.trace(found.covariance), found.total_variance, found.total_variance)

    def time_moments(self, estimator, covariance):
        return moments(
            self.estimator, *self.problem, group_size=self.group_size, covariance=self.covariance, route="recursion"
        )


class Gridworld:
    """10^5 states, 16 features, horizon 100: the total variance, and what the full covariance costs beside it."""

    params = ((False, True),)
    param_names = ("covariance",)
    n_states, n_features, horizon = 100_000, 16, 100

    def setup(self, covariance):
        small = gridworld(9, 4, 5)
        assert_same_route(algorithms.reinforce(), small)
        medium = gridworld(2500, self.n_features, self.horizon)
        assert_gradient(moments(algorithms.reinforce(), *medium, covariance=covariance), medium)
        self.problem = gridworld(self.n_states, self.n_features, self.horizon)

    def time_moments(self, covariance):
        return moments(algorithms.reinforce(), *self.problem, covariance=covariance, route="recursion")

    def track_peak_gigabytes(self, covariance):
        tracemalloc.start()
        found = self.time_moments(covariance)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert_gradient(found, self.problem)
        return peak / 1e9


class Grpo:
    """A 0/1 verifier and groups of N: N + 1 classes of groups per prompt, in milliseconds."""

    params = ((2, 64, 1024),)
    param_names = ("group_size",)

    def setup(self, group_size):
        mdp = examples.copy_task()
        policy = TabularSoftmax(mdp.n_states, mdp.n_actions)
        self.problem = mdp, policy, np.sin(np.arange(policy.n_parameters))
        assert_same_route(algorithms.grpo(), self.problem, group_size=2)
        bandit, two = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
        p = two.probabilities(np.array([0.0, 0.5]))[0, 1]
        ks = range(1, group_size)
        log_binomial = [math.lgamma(group_size + 1) - math.lgamma(k + 1) - math.lgamma(group_size - k + 1) for k in ks]
        expected = math.fsum(
            math.exp(c + k * math.log(p) + (group_size - k) * math.log1p(-p)) * math.sqrt(k * (group_size - k)) / group_size
            for c, k in zip(log_binomial, ks, strict=True)
        )  # fmt: skip
        found = moments(algorithms.grpo(), bandit, two, np.array([0.0, 0.5]), group_size=group_size)
        assert_close(found.mean, [-expected, expected], 1.0)

    def time_moments(self, group_size):
        return moments(algorithms.grpo(), *self.problem, group_size=group_size, route="histogram")


class Scaling:
    """One thing doubles at a time: time should double, never square."""

    params = ("steps", "states", "outcomes"), (1, 2, 4, 8)
    param_names = "what", "times"

    def setup(self, what, times):
        if what == "steps":
            self.problem = everywhere(gridworld(2500, 16, 25 * times))
        elif what == "states":
            self.problem = everywhere(gridworld(2500 * times, 16, 50))
        else:
            self.problem = outcomes(2 * times)
        assert_same_route(Estimator(RewardToGo(0.5)), gridworld(9, 4, 5))
        assert_gradient(self.time_moments(what, times), self.problem)

    def time_moments(self, what, times):
        return moments(Estimator(RewardToGo(0.5)), *self.problem, route="recursion")


def report(options):
    """Yield FrozenLake beside what else could be done, large gridworlds, groups, and growth."""
    yield from frozen_lake(options)
    yield gridworlds(2_500 if options.quick else Gridworld.n_states)
    yield groups()
    yield from growth(options)


def frozen_lake(options):
    """Yield the total variance and the covariance on FrozenLake 8x8, 256 parameters, horizon 100."""
    problem, table = lake("8x8", 100), Table("Exact moments, FrozenLake 8x8, 256 parameters, 100 steps", ["", "ms"])
    for name, covariance in ((name, covariance) for name in ESTIMATORS for covariance in (False, True)):
        bench = FrozenLake()
        bench.setup(name, covariance)
        what = "covariance" if covariance else "total variance"
        table.rows.append([f"{name}, {what}", best(lambda: bench.time_moments(name, covariance)) * 1e3])  # noqa: B023
    yield table
    found = moments(algorithms.reinforce(), *problem)

    def check(second_moment):
        assert_close(second_moment, found.second_moment, found.second_moment.max())

    contenders = [
        Contender("moments", lambda: moments(algorithms.reinforce(), *problem).second_moment, check),
        Contender("the recursion as it is written", lambda: by_outcomes(problem), check),
        Contender("10,000 sampled gradients: an estimate", lambda: sampled(problem)),
    ]
    yield ratio_table("Total variance of REINFORCE, FrozenLake 8x8", race(contenders, options))


def by_outcomes(problem):
    """Return E[ĝ²] by the recursion outcome by outcome, all directions at once."""
    mdp, policy, theta = problem
    trace = linear_trace(algorithms.reinforce(), mdp, policy, theta)
    return sweep_by_outcomes(trace, policy.score_along(theta, np.eye(policy.n_parameters))).second


def sampled(problem):
    """Return E[ĝ²] estimated from ten thousand trajectories."""
    batch = sample(*problem, 10_000, rng=0)
    return (algorithms.reinforce().per_trajectory(batch, *problem) ** 2).mean(axis=0)


def gridworlds(n_states):
    """Return seconds and memory of total variance and covariance on large gridworlds, 16 features, 100 steps."""
    table = Table(f"Exact moments, gridworld of {n_states:,} states, 16 features, 100 steps", ["", "s", "peak GB"])
    corner = gridworld(n_states, 16, 100)
    problems = {"from a corner": corner, "from everywhere": everywhere(corner)}
    for (name, problem), covariance in ((item, c) for item in problems.items() for c in (False, True)):
        gradient = algorithms.reinforce()
        seconds = measured(lambda: moments(gradient, *problem, covariance=covariance), 1)  # noqa: B023
        tracemalloc.start()
        found = moments(gradient, *problem, covariance=covariance)
        peak = tracemalloc.get_traced_memory()[1] / 1e9
        tracemalloc.stop()
        assert_gradient(found, problem)
        table.rows.append([f"{name}, {'covariance' if covariance else 'total variance'}", seconds, peak])
    return table


def everywhere(problem):
    """Return the problem with a uniform start: no state is out of reach."""
    mdp, policy, theta = problem
    return mdp.replace(initial=np.full(mdp.n_states, 1 / mdp.n_states)), policy, theta


def groups():
    """Return the time of GRPO with a 0/1 verifier."""
    table = Table("GRPO, a 0/1 verifier", ["group size", "ms"])
    for size in Grpo.params[0]:
        bench = Grpo()
        bench.setup(size)
        table.rows.append([size, best(lambda: bench.time_moments(size)) * 1e3])  # noqa: B023
    return table


def growth(options):
    """Yield how the total variance's cost grows with steps, states and outcomes."""
    few = 2 if options.quick else 1
    for what in Scaling.params[0]:
        sizes, seconds = [], []
        for times in Scaling.params[1]:
            bench = Scaling()
            bench.setup(what, times)
            mdp = bench.problem[0]
            sizes.append({"steps": mdp.horizon, "states": mdp.n_states, "outcomes": mdp.n_outcomes}[what])
            seconds.append(best(lambda: bench.time_moments(what, times), 5 // few))  # noqa: B023
        yield scaling_table(f"Total variance against the number of {what}", what, sizes, seconds)
