"""Sampling: nanoseconds per transition, beside the generator of random numbers alone."""

import numpy as np

from benchmarks.harness import Contender, best, race, ratio_table, scaling_table
from reinforce_np import TabularSoftmax, examples, sample


def frozen_lake():
    """FrozenLake 8x8, slippery, 100 steps, and a θ of which one episode in a thousand succeeds."""
    mdp = examples.frozen_lake(map="8x8", horizon=100, gamma=0.99)
    policy = TabularSoftmax(mdp.n_states, mdp.n_actions)
    return mdp, policy, np.random.default_rng(0).normal(size=policy.n_parameters)


class Sampling:
    """asv: `sample` of n trajectories."""

    params = (1_000, 10_000, 100_000)
    param_names = ("n",)

    def setup(self, n):
        self.problem = frozen_lake()

    def time_sample(self, n):
        return sample(*self.problem, n, rng=0)


def report(options):
    """Yield ratios and growth."""
    problem = frozen_lake()
    sizes = [1_000, 10_000] if options.quick else [1_000, 10_000, 100_000]
    n = sizes[-1]
    transitions = int(sample(*problem, n, rng=0).lengths.sum())
    bits = np.random.PCG64(0)

    def check(batch):
        assert len(batch) == n
        assert batch.lengths.sum() == transitions

    contenders = [
        Contender("sample", lambda: sample(*problem, n, rng=0), check),
        Contender("generator alone", lambda: bits.random_raw(transitions // 2)),
    ]
    title = f"FrozenLake 8x8, {n:,} trajectories: ns per transition"
    yield ratio_table(title, race(contenders, options), per=transitions, unit="ns", scale=1e9)
    seconds = [best(lambda n=n: sample(*problem, n, rng=0)) for n in sizes]
    yield scaling_table("Growth of sample with the number of trajectories", "trajectories", sizes, seconds)
