"""Models, policies and parameters for the suite: random ones (Hypothesis) and PROBLEMS, a short fixed list.

Random models are forced to have what bugs hide behind: an episode can terminate at its first step, and can be
truncated at the horizon; several outcomes; an uneven start; rewards whose mean is not zero. They shrink towards two
states, two actions, horizon 0, gamma 0 and policies without options.
"""

import itertools
from typing import NamedTuple

import hypothesis
import numpy as np
import reference
from hypothesis import strategies as st

from reinforce_np import FiniteMDP, LinearSoftmax, TabularSoftmax, examples

LIMIT = 300  # trajectories of a random model
GAMMAS = (0.0, 0.5, 0.7, 0.9, 1.0)
STARTS = {
    2: ((0.75, 0.25), (1.0, 0.0)),
    3: ((0.625, 0.25, 0.125), (0.25, 0.75, 0.0)),
}  # state 0 is a start
EXTREMES = (
    0.0,
    20.0,
    36.75,
    -37.5,
    350.0,
    -350.0,
)  # logits, in units of the temperature


class Problem(NamedTuple):
    """A model, a policy for it, and parameters of the policy."""

    mdp: FiniteMDP
    policy: TabularSoftmax | LinearSoftmax
    theta: np.ndarray


def grid(draw, shape, low, high, step):
    """Draw an array of multiples of `step` in [low, high]."""
    n = int(np.prod(shape))
    numbers = draw(st.lists(st.integers(round(low / step), round(high / step)), min_size=n, max_size=n))
    return step * np.array(numbers, dtype=float).reshape(shape)


def count(mdp):
    """The number of trajectories of positive probability: a loop over states and steps."""
    n = np.ones(mdp.n_states)
    for _ in range(mdp.horizon or 0):
        n = ((mdp.probability > 0) * np.where(mdp.terminated, 1, n[mdp.next_state])).sum(axis=(1, 2))
    return n[mdp.initial > 0].sum()


@st.composite
def mdps(draw, horizons=(0, 1, 2, 3, 4), gammas=GAMMAS, limit=LIMIT):
    """Small models with at most `limit` trajectories: the horizon is cut to fit, but never below 1.

    Action 0 is the one that matters: in state 0 it terminates or goes to state 1, in state 1 it can go back. Every
    policy that allows it meets both ends of an episode. The other outcomes are free: some have probability zero, some
    are duplicates. `horizons` may include None.
    """
    S, A, K = draw(st.integers(2, 3)), draw(st.integers(2, 3)), draw(st.integers(2, 3))
    weight = np.round(grid(draw, (S, A, K), 0, 3, 1))
    weight[..., 0] += weight.sum(axis=2) == 0
    next_state = draw(st.lists(st.integers(0, S - 1), min_size=S * A * K, max_size=S * A * K))
    next_state = np.array(next_state).reshape(S, A, K)
    terminated = grid(draw, (S, A, K), 0, 3, 1) == 1
    reward = grid(draw, (S, A, K), -2, 4, 0.25)
    for s, k, target, ends in ((0, 0, 1, False), (0, 1, 0, True), (1, 0, 0, False)):
        weight[s, 0, k] += weight[s, 0, k] == 0
        next_state[s, 0, k], terminated[s, 0, k] = target, ends
    if draw(st.booleans()):  # an outcome listed twice
        s, a = draw(st.integers(0, S - 1)), draw(st.integers(1, A - 1))
        weight[s, a, 0] += weight[s, a, 0] == 0
        for table in (weight, next_state, reward, terminated):
            table[s, a, -1] = table[s, a, 0]
    mdp = FiniteMDP(
        weight / weight.sum(axis=2, keepdims=True),
        next_state,
        reward,
        terminated,
        initial=draw(st.sampled_from(STARTS[S])),
        gamma=draw(st.sampled_from(gammas)),
        horizon=draw(st.sampled_from(horizons)),
    )
    while mdp.horizon is not None and mdp.horizon > 1 and count(mdp) > limit:
        mdp = mdp.replace(horizon=mdp.horizon - 1)
    return mdp


@st.composite
def policies(draw, n_states, n_actions, *, masks=True):
    """Policies of both kinds, with and without a temperature, and with masks that allow action 0."""
    options = {"temperature": draw(st.sampled_from([1.0, 0.5, 3.0]))}
    if masks and draw(st.booleans()):
        options["mask"] = grid(draw, (n_states, n_actions), 0, 1, 1) == 0
        options["mask"][:, 0] = True
    if draw(st.booleans()):
        D = draw(st.integers(1, 3))
        return LinearSoftmax(grid(draw, (n_states, n_actions, D), -2, 2, 0.5), **options)
    return TabularSoftmax(n_states, n_actions, **options)


@st.composite
def thetas(draw, policy, *, extreme=False, shape=()):
    """Parameters: moderate ones, or (tabular) logits with gaps up to 700 and some -inf, never on action 0."""
    if not extreme or isinstance(policy, LinearSoftmax):
        return grid(draw, (*shape, policy.n_parameters), -2, 2, 0.25)
    n = policy.n_parameters
    logits = policy.temperature * np.array(draw(st.lists(st.sampled_from(EXTREMES), min_size=n, max_size=n)))
    logits = logits.reshape(policy.n_states, policy.n_actions)
    logits[:, 1:][grid(draw, logits[:, 1:].shape, 0, 4, 1) == 4] = -np.inf
    return logits.ravel()


@st.composite
def problems(draw, *, extreme=False, masks=True, **options):
    """Triples (mdp, policy, theta); `options` go to `mdps`."""
    mdp = draw(mdps(**options))
    policy = draw(policies(mdp.n_states, mdp.n_actions, masks=masks))
    return Problem(mdp, policy, draw(thetas(policy, extreme=extreme and draw(st.booleans()))))


def find(strategy, *wanted):
    """Examples of a strategy, not shrunk, until each condition was met by one; an error when a thousand do not do it.

    Returns the last.
    """
    missing = set(wanted)

    def met(example):
        missing.difference_update([condition for condition in missing if condition(example)])
        return not missing

    return hypothesis.find(
        strategy,
        met,
        settings=hypothesis.settings(phases=[hypothesis.Phase.generate], max_examples=1000),
    )


def table(policy, theta):
    """The probabilities of a policy as lists, from the formula by loops."""
    logits = logits_by_loops(policy, theta)
    return [reference.softmax(row, policy.temperature) for row in logits]


def features(policy):
    """The derivatives of the logits, as lists [s][a][d]."""
    if isinstance(policy, TabularSoftmax):
        return reference.tabular_features(policy.n_states, policy.n_actions)
    return policy.features.tolist()


def logits_by_loops(policy, theta):
    """The logits as lists, -inf where masked."""
    S, A = policy.n_states, policy.n_actions
    z = np.array(theta, dtype=float).reshape(S, A) if isinstance(policy, TabularSoftmax) else policy.features @ theta
    return [
        [-np.inf if policy.mask is not None and not policy.mask[s, a] else float(z[s][a]) for a in range(A)]
        for s in range(S)
    ]


def score_by_loops(policy, theta):
    """The score (S, A, D) from the formula, by loops; masked actions score zero."""
    pi, phi, logits = (
        table(policy, theta),
        features(policy),
        logits_by_loops(policy, theta),
    )
    psi = np.zeros((policy.n_states, policy.n_actions, policy.n_parameters))
    for s, a in itertools.product(range(policy.n_states), range(policy.n_actions)):
        if logits[s][a] > -np.inf:
            for d in range(policy.n_parameters):
                mean = sum(pi[s][b] * phi[s][b][d] for b in range(policy.n_actions))
                psi[s, a, d] = (phi[s][a][d] - mean) / policy.temperature
    return psi


def complex_step(f, theta, step=1e-20):
    """The derivative of f (any shape) along each parameter, which becomes the last axis."""
    columns = []
    for d in range(len(theta)):
        point = np.array(theta, dtype=complex)
        point[d] += 1j * step
        columns.append(np.asarray(f(point)).imag / step)
    return np.stack(columns, axis=-1)


def reward_scale(mdp):
    """The largest return there could be: the scale of J, V and Q."""
    return (mdp.horizon or 1) * np.abs(mdp.reward).max()


def gradient_scale(problem):
    """The largest term of a gradient: return times score, summed over the steps."""
    return reward_scale(problem.mdp) * (problem.mdp.horizon or 1) * np.abs(problem.policy.score(problem.theta)).max()


HORIZONS = {
    "cliff": 3,
    "frozen_lake": 2,
    "gridworld_4x4": 2,
    "gridworld_5x5": 2,
    "referee": 3,
}


def fixed_problems():
    """Every example of the catalogue, cut short, and a few problems with options, by name."""
    result = {}
    for name, example in examples.CATALOGUE.items():
        mdp = example()
        if name not in (
            "bandit",
            "copy_task",
            "delayed_chain",
        ):  # the horizon of these is part of the model
            mdp = mdp.replace(horizon=HORIZONS.get(name, 3))
        theta = np.sin(np.arange(mdp.n_states * mdp.n_actions))
        result[name] = Problem(mdp, TabularSoftmax(mdp.n_states, mdp.n_actions), theta)
    corridor, chain, referee = (
        examples.short_corridor(horizon=6),
        examples.baxter_bartlett(horizon=3),
        examples.referee(horizon=3),
    )
    mask = np.array([[True, True, True], [True, False, True], [False, True, True]])
    uneven = np.cos(np.arange(9.0))
    result["corridor, aliased"] = Problem(
        corridor, LinearSoftmax(examples.action_features(4, 2)), np.array([0.5, -0.25])
    )
    result["baxter_bartlett, linear"] = Problem(
        chain,
        LinearSoftmax(examples.baxter_bartlett_features(), temperature=0.5),
        np.array([1.0, -0.5, 0.25, 2.0]),
    )
    result["referee, cold and masked"] = Problem(referee, TabularSoftmax(3, 3, temperature=0.5, mask=mask), uneven)
    result["referee, nearly deterministic"] = Problem(referee, TabularSoftmax(3, 3), 300 * uneven)
    result["referee, undiscounted"] = Problem(referee.replace(gamma=1.0), TabularSoftmax(3, 3), uneven)
    return result


PROBLEMS = fixed_problems()
