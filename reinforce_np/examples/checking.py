"""MDPs made for checking: nothing about them is special, so nothing is hidden."""

import numpy as np

from reinforce_np import arguments
from reinforce_np.examples.building import start_at
from reinforce_np.mdp import FiniteMDP

MOST_SORTED = 2**24  # numbers sorted at once to choose next states


def referee(*, gamma=0.9, horizon=4):
    """A small MDP in which every usual mistake shows.

    Three states, three actions, two outcomes each; a non-uniform start in
    all states; episodes of length one to four, some terminated and some
    truncated; rewards with a mean away from zero, from −1.5 to 3; returns to the
    same state; two outcomes that differ in the reward alone, and two that
    differ in termination alone. All numbers are short decimals, and there are
    so few trajectories that all of them can be listed at once.

    **Known answer.** Under the uniform policy, in exact fractions,
    J = 1993878359/960000000 ≈ 2.07696; an episode terminates with probability
    1409203/2592000 ≈ 0.544, is truncated otherwise, and lasts
    663671/216000 ≈ 3.07 steps on average. There are 1363 trajectories.

    (An own construction; no source needed.)

    Parameters
    ----------
    gamma : float
        Discount per step.
    horizon : int or None
        Steps before truncation.

    Returns
    -------
    FiniteMDP
        3 states, 3 actions, 2 outcomes.

    Examples
    --------
    >>> mdp = referee()
    >>> mdp.expected_reward
    array([[ 0.625,  1.25 , -0.6  ],
           [ 1.2  ,  0.   ,  1.25 ],
           [-0.2  ,  0.7  ,  3.   ]])
    """
    return FiniteMDP(
        probability=np.array(
            [
                [[0.75, 0.25], [0.5, 0.5], [0.8, 0.2]],
                [[0.6, 0.4], [0.5, 0.5], [0.25, 0.75]],
                [[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]],
            ]
        ),
        next_state=np.array(
            [
                [[1, 2], [0, 1], [2, 0]],
                [[2, 0], [1, 1], [0, 2]],
                [[0, 1], [2, 0], [1, 1]],
            ]
        ),
        reward=np.array(
            [
                [[1.0, -0.5], [0.5, 2.0], [-1.5, 3.0]],
                [[2.0, 0.0], [1.0, -1.0], [0.5, 1.5]],
                [[-0.5, 2.5], [1.0, 0.5], [3.0, 3.0]],
            ]
        ),
        terminated=np.array(
            [
                [[False, True], [False, False], [False, True]],
                [[False, False], [False, False], [True, False]],
                [[False, True], [True, False], [False, True]],
            ]
        ),
        initial=np.array([0.5, 0.3, 0.2]),
        gamma=gamma,
        horizon=horizon,
    )


def random_mdp(
    *,
    n_states=3,
    n_actions=2,
    n_outcomes=2,
    gamma=0.9,
    horizon=4,
    termination=0.2,
    reward_density=1.0,
    reward_scale=1.0,
    reward_mean=1.0,
    start="random",
    rng=None,
):
    """A random MDP, with a handle on every feature that hides bugs.

    Everything is drawn from uniforms, so that a seed gives the same model
    with every NumPy. What the checks rely on is forced, not left to chance:

    - every outcome has a positive probability, and those of one state and
      action differ by a factor of at most 5; their next states are distinct
      as long as there are states enough;
    - with 0 < `termination` < 1 at least one outcome terminates and at least
      one does not (unless there is only one outcome in all: it terminates);
    - with `termination` > 0 termination can be reached from every state, so a
      policy that takes every action terminates, and γ = 1 is allowed without a
      horizon;
    - with `reward_density` > 0 at least one outcome pays.

    **Known answer.** None: compare independent routes on it.

    Parameters
    ----------
    n_states, n_actions, n_outcomes : int
        S, A and K.
    gamma : float
        Discount per step.
    horizon : int or None
        Steps before truncation.
    termination : float
        Probability that an outcome terminates, drawn for each of the S·A·K.
    reward_density : float
        Probability that an outcome pays at all; 1 is dense, near 0 sparse.
    reward_scale, reward_mean : float
        What is paid is uniform on [mean − scale, mean + scale].
    start : {"random", "uniform"} or int
        Initial distribution: unequal but positive for every state, uniform,
        or one state.
    rng : numpy.random.Generator, int or None
        Passed through `numpy.random.default_rng`.

    Returns
    -------
    FiniteMDP
        S states, A actions, K outcomes.

    Raises
    ------
    ValueError
        When an argument is out of range, or the return would be unbounded
        (γ = 1, no horizon, no termination).

    Examples
    --------
    >>> mdp = random_mdp(n_states=4, start=2, rng=7)
    >>> mdp
    FiniteMDP(n_states=4, n_actions=2, n_outcomes=2, gamma=0.9, horizon=4)
    >>> mdp.initial, bool(mdp.terminated.any()), bool(mdp.terminated.all())
    (array([0., 0., 1., 0.]), True, False)
    """
    shape = tuple(
        arguments.integer(name, value, low=1)
        for name, value in (("n_states", n_states), ("n_actions", n_actions), ("n_outcomes", n_outcomes))
    )
    termination = arguments.number("termination", termination, low=0.0, high=1.0, rule="a probability in [0, 1]")
    density = arguments.number("reward_density", reward_density, low=0.0, high=1.0, rule="a probability in [0, 1]")
    scale = arguments.number("reward_scale", reward_scale, low=0.0)
    mean = arguments.number("reward_mean", reward_mean)
    if gamma == 1 and horizon is None and termination == 0:
        raise ValueError("gamma=1 with horizon=None and termination=0 never ends; change one of them")
    rng = arguments.generator(rng)

    probability = _uneven(shape, rng)
    next_state = _next_states(shape, rng)
    terminated = _some_true(termination, shape, rng)
    if termination > 0:
        _connect(next_state, terminated, rng)
    pays = _some_true(density, shape, rng, may_be_all=True)
    reward = np.where(pays, mean + scale * (2.0 * rng.random(shape) - 1.0), 0.0)
    return FiniteMDP(
        probability=probability,
        next_state=next_state,
        reward=reward,
        terminated=terminated,
        initial=_start(start, n_states, rng),
        gamma=gamma,
        horizon=horizon,
    )


def _uneven(shape, rng):
    """Return random distributions over the last axis, entries within a factor of 5 of each other."""
    weights = 1.0 + 4.0 * rng.random(shape)
    return weights / weights.sum(axis=-1, keepdims=True)


def _next_states(shape, rng):
    """Return random states, those of a row distinct as long as there are enough of them."""
    S, A, K = shape
    if K * K <= S and S * A * S > MOST_SORTED:
        states = rng.integers(S, size=(S * A, K))
        again = np.arange(S * A)
        while again.size:  # rows in which a state comes twice: few
            ordered = np.sort(states[again], axis=1)
            again = again[(ordered[:, 1:] == ordered[:, :-1]).any(axis=1)]
            states[again] = rng.integers(S, size=(len(again), K))
        return states.reshape(shape)
    states, rows = np.empty(shape, dtype=np.intp), max(MOST_SORTED // (A * max(S, K)), 1)
    for first in range(0, S, rows):  # the first of all states in a random order
        some = states[first : first + rows]
        some[...] = np.argsort(rng.random((len(some), A, max(S, K))), axis=2)[..., :K] % S
    return states


def _some_true(chance, shape, rng, *, may_be_all=False):
    """Return independent booleans, but not all false if chance > 0, nor all true if chance < 1."""
    drawn = rng.random(shape) < chance
    one = _pick(np.arange(drawn.size), rng)
    if chance > 0 and not drawn.any():
        drawn.flat[one] = True
    if chance < 1 and drawn.all() and drawn.size > 1 and not may_be_all:
        drawn.flat[one] = False
    return drawn


def _connect(next_state, terminated, rng):
    """Redirect outcomes, in place, until termination can be reached from every state."""
    while True:
        ending, n_before = terminated.any(axis=(1, 2)), np.intp(-1)
        while n_before < np.count_nonzero(ending) < len(ending):
            n_before, ending = np.count_nonzero(ending), ending | ending[next_state].any(axis=(1, 2))
        if ending.all():
            return
        outcomes = next_state[_pick(np.flatnonzero(~ending), rng)]
        outcomes.flat[_pick(np.arange(outcomes.size), rng)] = _pick(np.flatnonzero(ending), rng)


def _pick(candidates, rng):
    """Return one of the candidates, using a single uniform."""
    return candidates[int(rng.random() * candidates.size)]


def _start(start, n_states, rng):
    """Return the initial distribution that `start` describes."""
    if isinstance(start, str):
        if start not in ("random", "uniform"):
            raise ValueError(f'start={start!r} is unknown; pass "random", "uniform" or a state')
        return _uneven((n_states,), rng) if start == "random" else np.full(n_states, 1.0 / n_states)
    start = arguments.integer("start", start)
    if start >= n_states:
        raise ValueError(f"start={start} is out of range; it must be in [0, {n_states - 1}]")
    return start_at(start, n_states)
