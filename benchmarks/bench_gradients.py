"""The gradient of each trajectory, up to 10⁴ of them, from trajectories that are given."""

import dataclasses
from functools import partial

import numpy as np

from benchmarks import peers
from benchmarks.harness import Contender, best, race, ratio_table, scaling_table
from reinforce_np import TabularSoftmax, algorithms, examples, sample

REINFORCE = algorithms.reinforce()
FLOAT32, FLOAT64 = 1e-4, 1e-12  # of the largest entry: what they may be off by


def lake():
    """FrozenLake 8x8: a third of the steps are padding, and one trajectory in a thousand is ever paid."""
    return examples.frozen_lake(map="8x8", horizon=100, gamma=0.99)


def busy():
    """As many states and actions, but every trajectory lasts 100 steps and is paid at each."""
    return examples.random_mdp(n_states=64, n_actions=4, n_outcomes=3, horizon=100, gamma=0.99, termination=0.0, rng=0)


def wide():
    """A thousand states, of which a trajectory visits fifty at most: most of a gradient is zero."""
    return examples.random_mdp(
        n_states=1_000, n_actions=4, n_outcomes=3, horizon=50, gamma=0.99, termination=0.0, rng=0
    )


MODELS = {"few rewards": lake, "long and paid": busy, "1,000 states": wide}


def problem(name, n):
    """Return a batch of n trajectories, the model, the policy and θ."""
    mdp = MODELS[name]()
    policy = TabularSoftmax(mdp.n_states, mdp.n_actions)
    theta = np.random.default_rng(0).normal(size=policy.n_parameters)
    return sample(mdp, policy, theta, n, rng=0), mdp, policy, theta


class PerTrajectory:
    """asv: `Estimator.per_trajectory`, of a sampled batch and of one whose arrays came from elsewhere."""

    params = list(MODELS), (False, True)
    param_names = "model", "from_elsewhere"

    def setup(self, model, from_elsewhere):
        self.given = problem(model, number(model))
        check(self.given)(self.time_per_trajectory(model, from_elsewhere))
        if from_elsewhere:
            self.given = (dataclasses.replace(self.given[0]), *self.given[1:])

    def time_per_trajectory(self, model, from_elsewhere):
        return REINFORCE.per_trajectory(*self.given)


def number(model, quick=False):
    """Return how many trajectories of a model: fewer of those with many parameters."""
    return (10_000 if model != "1,000 states" else 1_000) // (10 if quick else 1)


def check(given, tolerance=FLOAT64):
    """Return a check of (N, D) gradients: a few of them by the definition, step by step, and all by their mean."""
    batch, mdp, policy, theta = given
    score = policy.score(theta)
    some = np.unique(np.append(np.flatnonzero(batch.rewards.any(axis=1))[:20], np.arange(20)))
    expected = np.zeros((len(some), policy.n_parameters))
    for i, n in enumerate(some):
        for t in range(batch.lengths[n]):
            to_go = sum(mdp.gamma**u * batch.rewards[n, u] for u in range(t, batch.lengths[n]))  # γᵗ included
            expected[i] += to_go * score[batch.states[n, t], batch.actions[n, t]]
    mean = REINFORCE.gradient(*given)

    def assert_right(found):
        found = np.asarray(found, dtype=float)
        assert np.abs(found[some] - expected).max() <= tolerance * np.abs(expected).max()
        assert np.abs(found.mean(axis=0) - mean).max() <= tolerance * max(np.abs(expected).max(), np.abs(mean).max())

    return assert_right


def report(options):
    """Yield ratios for both models, and growth."""
    for name in MODELS:
        n = number(name, options.quick)
        given = problem(name, n)
        elsewhere = (dataclasses.replace(given[0]), *given[1:])
        contenders = [
            Contender("per_trajectory, sampled batch", lambda: REINFORCE.per_trajectory(*given), check(given)),  # noqa: B023
            Contender("per_trajectory, other arrays", lambda: REINFORCE.per_trajectory(*elsewhere), check(given)),  # noqa: B023
        ]
        if options.peers:
            contenders += list(theirs(given))
        title = f"Gradient of each of {n:,} trajectories, {given[2].n_parameters:,} parameters, {name}"
        yield ratio_table(title, race(contenders, options))
    n = number("long and paid", options.quick)
    sizes, seconds = [n // 10, n // 2, n, 2 * n], []
    for size in sizes:
        given = problem("long and paid", size)
        seconds.append(best(lambda: REINFORCE.per_trajectory(*given)))  # noqa: B023
    yield scaling_table(
        "per_trajectory, long and paid, against the number of trajectories", "trajectories", sizes, seconds
    )


def theirs(given):
    """Yield the peers, as far as they are installed."""
    batch, mdp, _, theta = given
    for name, make, tolerance in (
        ("JAX vmap(grad)", peers.jax_vmap_grad, FLOAT32),
        ("JAX scatter, score by hand", peers.jax_scatter, FLOAT32),
        ("JAX scatter, by hand, float64", partial(peers.jax_scatter, dtype="float64"), FLOAT64),
        ("PyTorch vmap(grad)", peers.torch_vmap_grad, FLOAT32),
    ):
        try:
            yield Contender(name, make(batch, mdp.gamma, theta, mdp.n_actions), check(given, tolerance))
        except ImportError as error:
            print(f"left out: {name} ({error})")
