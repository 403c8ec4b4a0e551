"""Cost of exact moments: recursion and histogram. Each case asserts its answer before it is timed.

asv reads the classes as they are; ``python -m benchmarks.bench_moments`` prints a table of medians.
"""

import itertools
import math
import resource
import statistics
import time
import tracemalloc

import numpy as np

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

CLOSE = 1e-10  # relative to the root mean square of an estimate
REPEATS = 5
LONG = 10.0  # seconds: once is enough


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

    params = ("horizon", "states", "outcomes"), (1, 2, 4)
    param_names = "what", "times"

    def setup(self, what, times):
        if what == "horizon":
            self.problem = gridworld(2500, 16, 50 * times)
        elif what == "states":
            self.problem = gridworld(2500 * times, 16, 50)
        else:
            self.problem = outcomes(2 * times)
        assert_same_route(Estimator(RewardToGo(0.5)), gridworld(9, 4, 5))
        assert_gradient(self.time_moments(what, times), self.problem)

    def time_moments(self, what, times):
        return moments(Estimator(RewardToGo(0.5)), *self.problem, route="recursion")


class AgainstSampling:
    """How many sampled trajectories the exact answer costs, on FrozenLake 8x8."""

    def setup(self):
        self.problem = lake("8x8", 100)
        assert_gradient(moments(algorithms.reinforce(), *self.problem), self.problem)

    def time_sampling_ten_thousand(self):
        batch = sample(*self.problem, 10_000, rng=0)
        return algorithms.reinforce().gradient(batch, *self.problem)


def main():
    """Print one row per benchmark and parameters."""
    print(f"{'benchmark':<60} {'median':>12}")
    for case in (FrozenLake, Grpo, Scaling, AgainstSampling, Gridworld):
        for params in itertools.product(*getattr(case, "params", [])):
            bench = case()
            bench.setup(*params)
            for name in [name for name in dir(bench) if name.startswith(("time_", "track_"))]:
                run = getattr(bench, name)
                if name.startswith("time_"):
                    times = []
                    for _ in range(REPEATS):
                        start = time.perf_counter()
                        run(*params)
                        times.append(time.perf_counter() - start)
                        if times[-1] > LONG:
                            break
                    value = f"{statistics.median(times) * 1e3:.1f} ms"
                else:
                    value = f"{run(*params):.2f}"
                label = f"{case.__name__}.{name}({', '.join(map(str, params))})"
                print(f"{label:<60} {value:>12}", flush=True)
    print(f"{'largest resident set':<60} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:>9.2f} GB")


if __name__ == "__main__":
    main()
