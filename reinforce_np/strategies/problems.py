"""Strategies for whole problems, and for batches of trajectories that can happen in them."""

import numpy as np
from hypothesis import strategies as st

from reinforce_np.exact.derivatives import gradient
from reinforce_np.exact.values import values
from reinforce_np.mdp import FiniteMDP
from reinforce_np.policies import TabularSoftmax
from reinforce_np.problem import Problem
from reinforce_np.strategies import bounds as limits
from reinforce_np.strategies.models import GAMMAS, LIKELY, between, model_fields, settled, sizes_and_features
from reinforce_np.strategies.parts import CRITIC, SHARES, STEP, STEPS, distribution
from reinforce_np.traits import DIFFERENT, Features
from reinforce_np.trajectories import PADDING, Trajectories

BETAS = (1.0, 0.5, 0.25)


def problems(
    force=Features(),
    *,
    states=(1, 3),
    actions=(2, 3),
    outcomes=(1, 2),
    horizon=(1, 3),
    gammas=GAMMAS,
    rewards=(-2, 3),
    temperatures=(1.0,),
    group_size=None,
    prompts=None,
    max_batches=400,
):
    """Generate problems with a tabular policy, all of whose batches can be listed.

    The gradient of the discounted return is never zero. A behaviour, a
    reference and a critic are there when they are forced, and then always
    another policy, and wrong. Shrinks towards one state, two actions, one
    outcome, one step, the first of `gammas`, rewards of zero but one, and the
    uniform policy.

    Parameters
    ----------
    force : Features
        What every problem has. The features of a model and its policy that
        are not forced are there in many draws all the same.
    states, actions, outcomes, horizon : int or (int, int)
        How many, or the smallest and the largest number; at least two actions.
    gammas, temperatures : sequence of float
        To choose from, the simplest first.
    rewards : (int, int)
        The smallest and the largest.
    group_size, prompts : int or (int, int), optional
        The shape of a batch; 1 if nothing is said, or forced.
    max_batches : int
        How many batches, in every order, a problem may have.

    Returns
    -------
    SearchStrategy of Problem

    Raises
    ------
    ValueError
        At once, when the bounds contradict each other.

    Examples
    --------
    >>> from hypothesis import Phase, find, settings
    >>> shrunk = settings(phases=[Phase.generate, Phase.shrink], database=None)
    >>> find(problems(Features(behaviour=True)), lambda problem: True, settings=shrunk)
    Problem(FiniteMDP(probability=[[[1.0], [1.0]]], next_state=[[[0], [0]]], reward=[[[0.0], [1.0]]],
    terminated=[[[False], [False]]], initial=[1.0], gamma=1.0, horizon=1), TabularSoftmax(1, 2), theta=[0.0, 0.0],
    behaviour=[[0.75, 0.25]])
    """
    groups, several = (force.groups, force.prompts) if isinstance(force, Features) else (False, False)
    sizes = {"states": states, "actions": actions, "outcomes": outcomes, "horizon": horizon}
    sizes["group_size"] = group_size if group_size is not None else (2, 3) if groups else 1
    sizes["prompts"] = prompts if prompts is not None else 2 if several else 1
    options = {"rewards": rewards, "gammas": gammas, "temperatures": temperatures}
    return _problems(limits.checked(force, "max_batches", max_batches, **options, **sizes))


@st.composite
def _problems(draw, bounds):
    chosen, wanted = sizes_and_features(draw, bounds, LIKELY | Features(uneven_policy=True))
    temperature = bounds.temperatures[between(draw, 0, len(bounds.temperatures) - 1)]
    beta = draw(st.sampled_from(BETAS)) if wanted.reference else 0.0

    def of_action(draw):
        shares = [draw(st.sampled_from(SHARES)) if there else 0.5 for there in (wanted.behaviour, wanted.reference)]
        return [STEP * between(draw, -STEPS, STEPS), *shares]  # the last share of a state is not needed

    def of_state(draw):
        return between(draw, *CRITIC) if wanted.critic else 0

    fields, drawn = model_fields(draw, bounds, wanted, chosen, of_action=of_action, of_state=of_state)
    theta, *others = np.moveaxis(np.array([of_actions for of_actions, _ in drawn]), 2, 0)
    behaviour, reference = (np.array([distribution(row[:-1]) for row in table]) for table in others)
    critic = np.array([of_state for _, of_state in drawn], dtype=float)
    if wanted.uneven_policy and np.ptp(theta[0]) == 0:
        theta[0, -1] += STEP if theta[0, -1] <= 0 else -STEP
    policy, theta = TabularSoftmax(*theta.shape, temperature=temperature), theta.ravel()
    mdp = settled(FiniteMDP(**fields), bounds, wanted, also=lambda mdp: _has_gradient(mdp, policy, theta))
    pi = policy.probabilities(theta)
    if wanted.critic:
        V = values(mdp, policy, theta)
        while np.any(near := np.any(np.abs(V - critic) <= DIFFERENT, axis=0)):
            critic = critic + near
    return Problem(
        mdp,
        policy,
        theta,
        behaviour=_another(behaviour, pi) if wanted.behaviour else None,
        reference=_another(reference, pi) if wanted.reference else None,
        beta=beta,
        critic=critic if wanted.critic else None,
        prompts=chosen["prompts"],
        group_size=chosen["group_size"],
    )


def _has_gradient(mdp, policy, theta):
    """Return whether the gradient of the discounted return is not zero."""
    return np.any(np.abs(gradient(mdp, policy, theta)) > DIFFERENT)


def _another(table, pi):
    """Return a table of probabilities that differs from π in state 0."""
    if np.all(np.abs(table[0] - pi[0]) <= DIFFERENT):
        table = table.copy()
        table[0, [0, -1]] += np.array([0.5, -0.5]) * table[0, -1]
    return table


def trajectories(problem=None):
    """Generate batches that can happen in a problem, as it says: so many prompts, so many trajectories each.

    Shrinks towards the first state, action and outcome at every step.

    Parameters
    ----------
    problem : Problem, optional
        Whose model, policy, behaviour and shape of a batch; drawn from `problems` if not given.

    Returns
    -------
    SearchStrategy of Trajectories

    Examples
    --------
    >>> from hypothesis import Phase, find, settings
    >>> from reinforce_np import TabularSoftmax, examples
    >>> shrunk = settings(phases=[Phase.generate, Phase.shrink], database=None)
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2), group_size=3)
    >>> batch = find(trajectories(problem), lambda batch: batch.rewards.sum() == 1, settings=shrunk)
    >>> batch.actions.ravel(), batch.groups
    (array([0, 0, 1]), array([0, 0, 0]))
    """
    if problem is None:
        return problems().flatmap(trajectories)
    if not isinstance(problem, Problem):
        raise TypeError(f"problem={problem!r} is no Problem; pass one, or nothing")
    if problem.mdp.horizon is None:
        raise ValueError("horizon=None has episodes of any length; pass a problem whose model has a horizon")
    return _trajectories(problem)


@st.composite
def _trajectories(draw, problem):
    mdp, N, T = problem.mdp, problem.prompts * problem.group_size, problem.mdp.horizon
    mu = problem.theta if problem.behaviour is None else problem.behaviour
    log_mu = problem.policy.log_probabilities_of("behaviour", mu)
    states, actions = np.full((2, N, T), PADDING)
    rewards, log_probabilities = np.zeros((2, N, T))
    lengths, final, terminated = np.zeros(N, dtype=int), np.zeros(N, dtype=int), np.zeros(N, dtype=bool)

    def index_of(possible):
        return draw(st.sampled_from(np.flatnonzero(possible).tolist()))

    for n in range(N):
        s = index_of(mdp.initial > 0) if n % problem.group_size == 0 else states[n - 1, 0] if T else final[n - 1]
        while lengths[n] < T and not terminated[n]:
            t, a = lengths[n], index_of(log_mu[s] > -np.inf)
            k = index_of(mdp.probability[s, a] > 0)
            states[n, t], actions[n, t], rewards[n, t], log_probabilities[n, t] = (
                s,
                a,
                mdp.reward[s, a, k],
                log_mu[s, a],
            )
            lengths[n], terminated[n], s = t + 1, mdp.terminated[s, a, k], mdp.next_state[s, a, k]
        final[n] = s
    return Trajectories(
        states=states,
        actions=actions,
        rewards=rewards,
        lengths=lengths,
        terminated=terminated,
        truncated=~terminated,
        final_states=final,
        log_probabilities=log_probabilities,
        groups=np.arange(N) // problem.group_size,
    )
