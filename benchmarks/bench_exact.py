"""The exact gradient beside reverse mode, listing trajectories, refusing to, and importing the package.

The gradient is that of the expected return over 100 steps, of a policy linear
in 16 features on gridworlds of four slippery moves, unless said otherwise. JAX
and PyTorch run V backwards over all outcomes in one compiled scan, or in a loop,
and differentiate it; JAX also in float32, its default, and where states are few with
the policy's chain as a dense matrix. Answers are asserted against the equations
written out step by step.
"""

import math
import subprocess
import sys

import numpy as np

from benchmarks.harness import Contender, Table, best, race, ratio_table, scaling_table
from reinforce_np import (
    FiniteMDP,
    LinearSoftmax,
    TabularSoftmax,
    TooLargeError,
    count_trajectories,
    enumerate_trajectories,
    exact,
    examples,
)
from reinforce_np.exact import bellman, chains
from reinforce_np.exact.enumerated import gradient_by_enumeration
from reinforce_np.exact.values import induced
from reinforce_np.examples.building import grid_moves, slips

FLOAT64, FLOAT32 = 1e-11, 1e-3  # of the largest component
SIZES = (64, 10_000, 99_856)
FEW = 300  # states of which a peer may make a dense matrix
FRESH = "import time, numpy; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


def gridworld(n_states, horizon=100, n_features=16):
    """A square grid; a move slips to either side one time in five, each costs a little, and the corner ends it."""
    side = math.isqrt(n_states)
    cell = slips(grid_moves(side, side))
    goal = cell == side * side - 1
    rng = np.random.default_rng(0)
    mdp = FiniteMDP(
        np.broadcast_to([0.1, 0.8, 0.1], cell.shape),
        cell,
        goal - 0.01 * rng.random(cell.shape),
        goal,
        initial=np.full(side * side, 1 / side**2),
        gamma=0.99,
        horizon=horizon,
    )
    return mdp, LinearSoftmax(rng.normal(size=(side * side, 4, n_features))), 0.3 * rng.normal(size=n_features)


def lake(horizon=100):
    """FrozenLake 8x8 with a table of 256 logits."""
    mdp = examples.frozen_lake(map="8x8", horizon=horizon, gamma=0.99)
    return mdp, TabularSoftmax(64, 4), np.random.default_rng(0).normal(size=256)


def dense(horizon=100):
    """A random model: 200 states, 5 actions, of which each leads to 200 states; 32 features."""
    mdp = examples.random_mdp(
        n_states=200, n_actions=5, n_outcomes=200, horizon=horizon, gamma=0.99, termination=0.05, rng=0
    )
    rng = np.random.default_rng(0)
    return mdp, LinearSoftmax(rng.normal(size=(200, 5, 32))), 0.3 * rng.normal(size=32)


def corridor(horizon=50):
    """A few states: nearly all of the time is what calls take by themselves."""
    mdp = examples.short_corridor().replace(horizon=horizon, gamma=0.9)
    return mdp, TabularSoftmax(mdp.n_states, 2), np.sin(np.arange(2.0 * mdp.n_states))


def by_steps(mdp, policy, theta):
    """Return the gradient as the equations are written: all outcomes at every step, Q and d for each."""
    pi, r, gamma = induced(mdp, policy, theta, exact.Discounted())
    Q = chains.visited_values_by_outcomes(mdp, pi, r, gamma)
    return policy.contract(theta, pi * bellman.centred(Q, pi))


def check(expected, tolerance=FLOAT64):
    """Return an assertion that an answer is the one expected."""

    def assert_right(found):
        error = np.abs(np.asarray(found, dtype=float) - expected).max()
        assert error <= tolerance * np.abs(expected).max(), f"wrong by {error:.2g}"

    return assert_right


class Gradient:
    """asv: `exact.gradient`."""

    params = (list(SIZES),)
    param_names = ("states",)

    def setup(self, states):
        self.problem = gridworld(states)
        check(by_steps(*self.problem))(self.time_gradient(states))

    def time_gradient(self, states):
        return exact.gradient(*self.problem)


class Listing:
    """asv: every trajectory of six steps on FrozenLake, 1.7 million of them, and the gradient from them."""

    def setup(self):
        mdp = examples.frozen_lake(horizon=6)
        self.problem = mdp, TabularSoftmax(16, 4), np.sin(np.arange(64.0))
        self.n = count_trajectories(*self.problem)
        check(exact.gradient(*self.problem))(self.time_gradient())
        found = self.time_list()
        assert len(found.trajectories) == self.n and abs(found.probabilities.sum() - 1) < 1e-9

    def time_list(self):
        return enumerate_trajectories(*self.problem, limit=2**22)

    def time_gradient(self):
        return gradient_by_enumeration(*self.problem, limit=2**22)


def report(options):
    """Yield ratios to the peers, growth, and what listing, refusing and importing cost."""
    problems = {f"gridworld of {n:,} states": gridworld(n) for n in ((64, 2500) if options.quick else SIZES)}
    problems |= {"FrozenLake 8x8, 256 logits": lake(), "dense, 200 states, 5 actions, 200 successors": dense()}
    problems |= {
        "at random, 300 states, 12 successors": random(300, n_outcomes=3),
        "short corridor, 4 states": corridor(),
    }
    for name, problem in problems.items():
        expected = by_steps(*problem)
        contenders = [
            Contender("exact.gradient", lambda: exact.gradient(*problem), check(expected)),  # noqa: B023
            Contender("NumPy, step by step over all outcomes", lambda: by_steps(*problem)),  # noqa: B023
        ]
        if options.peers:
            contenders += theirs(problem, expected)
        yield ratio_table(f"Exact gradient, {name}", race(contenders, options))
    yield from growth(options)
    yield from listing(options)
    yield starting()


def growth(options):
    """Yield how the time grows with states, steps, outcomes and actions."""
    n = 2_500 if options.quick else 10_000
    gradients = {
        "states": ([n // 4, n, 4 * n], lambda size: gridworld(size)),
        "steps": ([50, 100, 200], lambda size: gridworld(n, horizon=size)),
        "outcomes": ([4, 8, 16], lambda size: random(n, n_outcomes=size)),
        "actions": ([4, 8, 16], lambda size: random(n, n_actions=size)),
    }
    for what, (sizes, problem) in gradients.items():
        seconds = []
        for size in sizes:
            given = problem(size)
            seconds.append(best(lambda: exact.gradient(*given)))  # noqa: B023
        yield scaling_table(f"Exact gradient against the number of {what}", what, sizes, seconds)


def random(n_states, n_actions=4, n_outcomes=4):
    """A random model without any structure, and a table of logits."""
    mdp = examples.random_mdp(
        n_states=n_states, n_actions=n_actions, n_outcomes=n_outcomes, horizon=50, gamma=0.99, rng=0
    )
    return mdp, TabularSoftmax(n_states, n_actions), np.sin(np.arange(float(n_states * n_actions)))


def listing(options):
    """Yield the rate at which trajectories are listed, and the time of a refusal."""
    bench = Listing()
    bench.setup()
    table = Table("Listing every trajectory of six steps on FrozenLake", ["", "million per second"])
    for name, run in (("enumerate_trajectories", bench.time_list), ("gradient from the list", bench.time_gradient)):
        table.rows.append([name, bench.n / best(run, 1 if options.quick else 3) / 1e6])
    yield table
    mdp, policy, theta = gridworld(2_500 if options.quick else SIZES[-1])
    problems = {"one start": mdp.replace(initial=np.eye(1, mdp.n_states)[0]), "all states are starts": mdp}
    table = Table(f"Refusing to list what is too much, {mdp.n_states:,} states", ["", "ms"])
    for name, model in problems.items():
        for kind, given in (
            ("linear", (policy, theta)),
            ("table", (TabularSoftmax(mdp.n_states, 4), np.zeros(4 * mdp.n_states))),
        ):
            table.rows.append([f"{name}, {kind}", best(lambda: refusal(model, *given)) * 1e3])  # noqa: B023
    yield table


def refusal(*problem):
    """Return the message of the refusal."""
    try:
        enumerate_trajectories(*problem)
    except TooLargeError as error:
        return str(error)
    raise AssertionError("this was meant to be refused")


def starting():
    """Return what it takes to import the package in a fresh interpreter that has NumPy, and to run the default check."""
    table = Table("Starting, in a fresh interpreter, NumPy already imported", ["", "ms"])
    statements = {
        "import reinforce_np": "import reinforce_np",
        "... and FiniteMDP, TabularSoftmax": "from reinforce_np import FiniteMDP, TabularSoftmax",
        "... and exact": "from reinforce_np import exact",
        "... and everything": "from reinforce_np import *",
    }
    for name, statement in statements.items():
        times = [float(fresh("-c", FRESH.format(statement))) for _ in range(3)]
        table.rows.append([name, min(times) * 1e3])
    table.rows.append(
        ["python -m reinforce_np check, in all", best(lambda: fresh("-m", "reinforce_np", "check"), 2) * 1e3]
    )
    return table


def fresh(*words):
    """Return what a fresh interpreter prints."""
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout


# --- peers


def theirs(problem, expected):
    """Return the peers, as far as they are installed."""
    found, few = [], problem[0].n_states <= FEW
    for name, make, tolerance in (
        ("JAX jit(grad), float64", lambda: jax_reverse_mode(*problem, "float64"), FLOAT64),
        *([("JAX jit(grad), dense matrix, float64", lambda: jax_dense(*problem), FLOAT64)] if few else []),
        ("JAX jit(grad), float32", lambda: jax_reverse_mode(*problem, "float32"), FLOAT32),
        ("PyTorch autograd, float64", lambda: torch_reverse_mode(*problem), FLOAT64),
    ):
        try:
            found.append(Contender(name, make(), check(expected, tolerance)))
        except ImportError as error:
            print(f"left out: {name} ({error})", file=sys.stderr)
    return found


def plain(mdp, policy):
    """Return the arrays the peers need: features, rewards and continuation of a step, next states, the start."""
    features = policy.features if isinstance(policy, LinearSoftmax) else None
    return features, mdp.expected_reward, mdp.continuation, mdp.next_state, mdp.initial


def jax_reverse_mode(mdp, policy, theta, dtype):
    """JAX: V backwards in a scan over all outcomes, differentiated and compiled."""
    import jax
    import jax.numpy as jnp

    def objective(pi, r, p, into, initial):
        def step(V, _):
            return (pi * (r + mdp.gamma * (p * V[into]).sum(axis=-1))).sum(axis=-1), None

        V, _ = jax.lax.scan(step, jnp.zeros(mdp.n_states, dtype), None, length=mdp.horizon)
        return initial @ V

    return jax_gradient(objective, plain(mdp, policy), theta, dtype)


def jax_dense(mdp, policy, theta):
    """JAX: the same, where the policy makes a dense matrix of the model before the scan."""
    import jax
    import jax.numpy as jnp

    features, r, p, into, initial = plain(mdp, policy)
    s, a = np.ogrid[: mdp.n_states, : mdp.n_actions]
    transition = np.zeros((mdp.n_states, mdp.n_actions, mdp.n_states))
    np.add.at(transition, (s[..., None], a[..., None], into), p)

    def objective(pi, r, transition, initial):
        P, r_pi = mdp.gamma * jnp.einsum("sa,sat->st", pi, transition), (pi * r).sum(axis=-1)
        V, _ = jax.lax.scan(lambda V, _: (r_pi + P @ V, None), jnp.zeros(mdp.n_states), None, length=mdp.horizon)
        return initial @ V

    return jax_gradient(objective, (features, r, transition, initial), theta, "float64")


def jax_gradient(objective, arrays, theta, dtype):
    """Return the function that gives the gradient of objective(π, *arrays), compiled; the first of the arrays are features, or None."""
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(dtype == "float64"):
        features, *given, theta = (
            None if x is None else jnp.asarray(x, dtype=None if x.dtype.kind == "i" else dtype)
            for x in (*arrays, theta)
        )

        def J(theta):
            z = theta.reshape(given[0].shape) if features is None else features @ theta
            return objective(jax.nn.softmax(z, axis=-1), *given)

        gradient = jax.jit(jax.grad(J)).lower(theta).compile()
        gradient(theta).block_until_ready()

    def run():
        return np.asarray(gradient(theta))

    return run


def torch_reverse_mode(mdp, policy, theta):
    """PyTorch: the same in a loop, differentiated by autograd."""
    import torch

    features, r, p, into, initial = (None if x is None else torch.tensor(x) for x in plain(mdp, policy))
    theta = torch.tensor(theta, requires_grad=True)

    def run():
        pi = torch.softmax(theta.view(r.shape) if features is None else features @ theta, dim=-1)
        V = torch.zeros(mdp.n_states, dtype=torch.float64)
        for _ in range(mdp.horizon):
            V = (pi * (r + mdp.gamma * (p * V[into]).sum(dim=-1))).sum(dim=-1)
        theta.grad = None
        (initial @ V).backward()
        return theta.grad.numpy()

    return run
