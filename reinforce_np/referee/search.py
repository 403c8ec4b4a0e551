"""The worst problem for an estimator, within given sizes: random restarts and local search on a grid, in pure NumPy."""

import numpy as np

from reinforce_np import arguments
from reinforce_np.exact.derivatives import gradient_scale
from reinforce_np.exact.objectives import Discounted
from reinforce_np.exact.verdicts import judge
from reinforce_np.mdp import FiniteMDP
from reinforce_np.policies import TabularSoftmax
from reinforce_np.problem import Problem
from reinforce_np.referee.counterexamples import Counterexample

UNITS = 8  # of probability, so that every probability is dyadic
REWARDS = np.arange(-4, 5) / 4
LOGITS = np.arange(-4, 5) / 2
GUESSES = np.arange(-4, 5) / 2
GAMMAS = np.arange(1, 20) / 20
OF_A_MODEL = ("reward", "terminated", "next_state", "probability", "initial", "gamma")
MEASURES = ("cosine", "relative bias")
GUIDE = 0.2  # weight of the relative bias in a search for the smallest cosine, which may be flat
AT_RANDOM = 20  # problems drawn at each restart, the worst of which is where the search starts


def worst_problem(
    estimator,
    *,
    n_states=2,
    n_actions=2,
    horizon=2,
    n_outcomes=1,
    measure="cosine",
    objective=Discounted(),
    gamma=None,
    group_size=1,
    prompts=1,
    behaviour=False,
    critic=False,
    least_gradient=0.01,
    restarts=8,
    steps=200,
    exchangeable=False,
    rng=None,
):
    """Search for the problem on which an estimator does worst.

    Rewards, parameters, transitions, the discount, and where asked for a
    behaviour and a critic, are changed one at a time on a grid, and a change
    is kept unless it makes the estimator look better. There may be worse
    problems than the one that is found.

    Parameters
    ----------
    estimator : Estimator or callable
        As in `judge`.
    n_states, n_actions, horizon, n_outcomes : int
        Sizes of the model; keep them small, all batches are listed for a function.
    measure : {"cosine", "relative bias"}
        What is worst: the smallest cosine between the mean of the estimate
        and the gradient, or the largest relative bias.
    objective : Discounted, Undiscounted, KLRegularised or EntropyRegularised
        As in `judge`.
    gamma : float, optional
        The discount; searched as well, between 0.05 and 0.95, if not given.
    group_size, prompts : int
        Shape of a batch.
    behaviour : bool
        Whether another policy draws the trajectories.
    critic : bool
        Whether the problem has a critic.
    least_gradient : float
        ‖∇J‖ that a problem must have, relative to the terms it is the sum of.
        Where they cancel, any estimator points anywhere.
    restarts, steps : int
        How often to start anew from a random problem, and how many changes to try each time.
    exchangeable : bool
        As in `judge`.
    rng : Generator, int or None
        Random numbers, or their seed.

    Returns
    -------
    Counterexample
        The worst problem found and its verdict, which may well be "unbiased".

    Raises
    ------
    ValueError
        When no problem of these sizes decides anything.

    Examples
    --------
    Of the estimate without γᵗ it is often said that it points almost the right way:

    >>> from reinforce_np import Estimator, RewardToGo
    >>> dropped = Estimator(RewardToGo(), discounted_score=False)
    >>> worst = worst_problem(dropped, restarts=1, steps=50, rng=0)
    >>> worst.verdict.cosine < 0.9, worst.n_judged
    (True, 70)
    """
    if measure not in MEASURES:
        raise ValueError(f"measure={measure!r} is unknown; pass one of {', '.join(map(repr, MEASURES))}")
    rng = arguments.generator(rng)
    sizes = {"n_states": n_states, "n_actions": n_actions, "horizon": horizon, "n_outcomes": n_outcomes}
    sizes = {name: arguments.integer(name, value, low=1) for name, value in sizes.items()}
    restarts, steps = arguments.integer("restarts", restarts, low=1), arguments.integer("steps", steps)
    least_gradient = arguments.number("least_gradient", least_gradient, low=0.0, high=1.0)
    gammas = GAMMAS if gamma is None else np.array([arguments.number("gamma", gamma, low=0.0, high=1.0)])
    behaviour, critic = arguments.flag("behaviour", behaviour), arguments.flag("critic", critic)
    if behaviour and sizes["n_actions"] > UNITS:
        raise ValueError(
            f"n_actions={n_actions} is above {UNITS}, and a behaviour gives each action at least 1/{UNITS}; pass fewer, or behaviour=False"
        )
    kind = {"gammas": gammas, "behaviour": behaviour, "critic": critic, **sizes}
    n_judged = 0
    known: dict = {}  # every third change or so leads back to where the search has been

    def judged(problem):
        """Return how bad the estimator is on a problem, for the search and by the measure alone, the problem and the verdict."""
        nonlocal n_judged
        n_judged += 1
        numbers = _numbers(problem)
        if numbers not in known:
            problem = problem.replace(group_size=group_size, prompts=prompts)
            verdict = judge(estimator, problem, objective=objective, exchangeable=exchangeable)
            known[numbers] = *_badness(verdict, measure, least_gradient, problem), problem, verdict
        return known[numbers]

    for _ in range(restarts):
        found = max((judged(_random_problem(rng, **kind)) for _ in range(AT_RANDOM)), key=_first)
        for _ in range(steps):
            found = max(judged(_changed(found[2], rng, gammas)), found, key=_first)  # the new one if they are equal
    _, badness, problem, verdict = max(known.values(), key=_second)
    if badness == -np.inf:
        raise ValueError(
            f"none of {n_judged} problems with {sizes} has a mean, and a gradient of at least least_gradient={least_gradient} times "
            "its terms; lower it, or pass larger sizes"
        )
    return Counterexample(problem, verdict, "worst", n_judged)


def _first(found):
    return found[0]


def _second(found):
    return found[1]


def _badness(verdict, measure, least_gradient, problem):
    """Return two numbers, the larger the worse: what guides the search, which is flat nowhere, and the measure itself; −infinity
    where the gradient, or the mean, is too small to tell."""
    if verdict.cosine is None:
        return -np.inf, -np.inf
    terms = gradient_scale(problem.mdp, problem.policy, problem.theta, objective=verdict.objective)
    if not np.linalg.norm(verdict.gradient) > least_gradient * np.linalg.norm(terms):
        return -np.inf, -np.inf
    size = verdict.relative_bias / (1 + verdict.relative_bias)
    return (GUIDE * size - verdict.cosine, -verdict.cosine) if measure == "cosine" else (size, size)


def _random_problem(rng, *, n_states, n_actions, n_outcomes, horizon, gammas, behaviour, critic):
    """Draw a problem on the grid."""
    S, A, K = shape = (n_states, n_actions, n_outcomes)
    mdp = FiniteMDP(
        _random_distributions(rng, (S, A), K),
        rng.integers(S, size=shape),
        rng.choice(REWARDS, size=shape),
        rng.random(shape) < 0.25,
        initial=_random_distributions(rng, (), S),
        gamma=float(rng.choice(gammas)),
        horizon=horizon,
    )
    return Problem(
        mdp,
        TabularSoftmax(S, A),
        rng.choice(LOGITS, size=S * A),
        behaviour=_random_distributions(rng, (S,), A, least=1) if behaviour else None,
        critic=rng.choice(GUESSES, size=S) if critic else None,
    )


def _changed(problem, rng, gammas):
    """Return the problem with one or two of its numbers drawn anew."""
    changes = {
        "reward": lambda x: _redrawn(x, REWARDS, rng),
        "terminated": lambda x: _redrawn(x, np.array([False, True]), rng),
        "next_state": lambda x: _redrawn(x, np.arange(problem.mdp.n_states), rng),
        "probability": lambda x: _moved(x, 0.0, rng),
        "initial": lambda x: _moved(x, 0.0, rng),
        "gamma": lambda x: float(rng.choice(gammas)),
        "theta": lambda x: _redrawn(x, LOGITS, rng),
        "behaviour": lambda x: _moved(x, 1 / UNITS, rng),
        "critic": lambda x: _redrawn(x, GUESSES, rng),
    }
    names = [name for name in changes if name in OF_A_MODEL or getattr(problem, name) is not None]
    for name in rng.choice(names, size=rng.integers(1, 3), replace=False):
        if name in OF_A_MODEL:
            problem = problem.replace(mdp=problem.mdp.replace(**{name: changes[name](getattr(problem.mdp, name))}))
        else:
            problem = problem.replace(**{name: changes[name](getattr(problem, name))})
    return problem


def _numbers(problem):
    """Return all that `_changed` may change, to be looked up."""
    values = [getattr(problem.mdp, name) for name in OF_A_MODEL] + [problem.theta, problem.behaviour, problem.critic]
    return tuple(None if value is None else np.asarray(value).tobytes() for value in values)


def _redrawn(array, values, rng):
    """Return the array with one entry drawn anew, or moved to the next value above or below."""
    array, i = array.copy(), rng.integers(array.size)
    at = int(np.flatnonzero(values == array.flat[i])[0])
    step = rng.integers(-1, 2)
    array.flat[i] = values[np.clip(at + step, 0, len(values) - 1)] if step else rng.choice(values)
    return array


def _moved(table, least, rng):
    """Return distributions (..., n), one of which has one unit of probability moved, if that leaves `least`."""
    rows = table.reshape(-1, table.shape[-1]).copy()
    row = rows[rng.integers(len(rows))]
    source, target = rng.integers(len(row), size=2)
    if row[source] >= least + 1 / UNITS:
        row[source] -= 1 / UNITS
        row[target] += 1 / UNITS
    return rows.reshape(table.shape)


def _random_distributions(rng, shape, n, least=0):
    """Draw distributions over n, in whole units, with at least so many units each."""
    return (least + rng.multinomial(UNITS - least * n, np.full(n, 1 / n), size=shape or None)) / UNITS
