"""List every trajectory of a small model with its probability: the slow, obvious truth."""

from typing import NamedTuple

import numpy as np

from reinforce_np import arguments, graph
from reinforce_np.trajectories import PADDING, Trajectories

LIMIT = 2**20  # trajectories
MEMORY_LIMIT = 2**30  # bytes of the arrays returned
BYTES_PER_CELL = 32  # four (N, T) arrays of eight bytes
MANY = 2**12  # states of a model of which only those on the way are looked at while trajectories are counted,
OFTEN = 20  # for so many steps


class Enumeration(NamedTuple):
    """Every possible trajectory, and how probable each is."""

    trajectories: Trajectories
    probabilities: np.ndarray


def enumerate_trajectories(mdp, policy, theta, *, behaviour=None, limit=LIMIT):
    """List every trajectory of positive probability, in lexicographic order of (state, action, outcome).

    p(τ) = initial(s₀) Πₜ π(aₜ|sₜ) p(kₜ|sₜ,aₜ)

    Parameters
    ----------
    mdp : FiniteMDP
        The model. Without a horizon it must have no cycles.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (D,)
        Its parameters.
    behaviour : array (D,) or (S, A), optional
        Another policy that draws the actions; the probabilities and the
        recorded log-probabilities are then its own.
    limit : int
        Largest number of trajectories to list; counted before any work.

    Returns
    -------
    Enumeration
        ``(trajectories, probabilities)``: a `Trajectories` record of N
        trajectories and an array (N,) that sums to one.

    Raises
    ------
    TooLargeError
        When there are more than `limit`, or more than fit in 1 GiB, with the count.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> mdp = examples.bandit(means=[0.0, 1.0])
    >>> trajectories, probabilities = enumerate_trajectories(mdp, TabularSoftmax(1, 2), [0.0, 0.0])
    >>> trajectories.rewards[:, 0], probabilities
    (array([0., 1.]), array([0.5, 0.5]))
    """
    log_mu, n_steps = affordable(mdp, policy, theta, behaviour=behaviour, limit=limit)
    cells, counts = _cells(_possible(mdp, log_mu))
    first = np.cumsum(counts) - counts

    state = np.flatnonzero(mdp.initial > 0)
    n = len(state)
    probability = mdp.initial[state]
    path = {
        "states": np.full((n, n_steps), PADDING),
        "actions": np.full((n, n_steps), PADDING),
        "rewards": np.zeros((n, n_steps)),
        "log_probabilities": np.zeros((n, n_steps)),
    }
    lengths, terminated = np.zeros(n, dtype=np.intp), np.zeros(n, dtype=bool)
    for t in range(n_steps):
        children = np.where(terminated, 1, counts[state])  # a finished path lives on as itself
        parent = np.repeat(np.arange(len(state)), children)
        sibling = np.arange(len(parent)) - np.repeat(np.cumsum(children) - children, children)
        path = {name: array[parent] for name, array in path.items()}
        state, probability, lengths, terminated = (
            state[parent],
            probability[parent],
            lengths[parent],
            terminated[parent],
        )
        live = np.flatnonzero(~terminated)
        s, a, k = cells[:, first[state[live]] + sibling[live]]
        path["states"][live, t] = s
        path["actions"][live, t] = a
        path["rewards"][live, t] = mdp.reward[s, a, k]
        path["log_probabilities"][live, t] = log_mu[s, a]
        probability[live] *= np.exp(log_mu[s, a]) * mdp.probability[s, a, k]
        lengths[live] += 1
        state[live] = mdp.next_state[s, a, k]
        terminated[live] = mdp.terminated[s, a, k]
    trajectories = Trajectories(
        **path,
        lengths=lengths,
        terminated=terminated,
        truncated=~terminated,
        final_states=state,
        groups=np.arange(len(state)),
    )
    return Enumeration(trajectories, probability)


def affordable(mdp, policy, theta, *, behaviour=None, limit=LIMIT):
    """Return what `enumerate_trajectories` starts from, log μ (S, A) and the number of steps, or refuse what it refuses."""
    limit = arguments.integer("limit", limit, low=1)
    arguments.check_same_model(mdp, policy)
    theta = policy.real_theta(theta)
    if behaviour is not None:
        log_mu_of = policy.log_probabilities_of("behaviour", behaviour).__getitem__
    elif mdp.n_states <= MANY:
        log_mu_of = policy.log_probabilities(theta).__getitem__
    else:
        log_mu_of = _rows(lambda states: policy.log_probabilities(theta, states))
    n_steps = _check_size(mdp, lambda states: _possible(mdp, log_mu_of(states), states), limit)
    return log_mu_of(slice(None)), n_steps


def count_trajectories(mdp, policy=None, theta=None):
    """Count the trajectories of positive probability, exactly, without listing them.

    n_T(s) = 1,    n_t(s) = Σ over possible outcomes of (1 if terminated else n_{t+1}(s')).

    Parameters
    ----------
    mdp : FiniteMDP
        The model. Without a horizon it must have no cycles.
    policy, theta : optional
        Count only actions to which the policy gives positive probability.

    Returns
    -------
    int
        However large.

    Examples
    --------
    >>> from reinforce_np import examples
    >>> count_trajectories(examples.short_corridor().replace(horizon=50))
    9318681199520
    """
    if policy is None and theta is not None:
        raise ValueError(f"theta={theta!r} without a policy counts nothing differently; pass both or neither")
    if policy is not None:
        arguments.check_same_model(mdp, policy)
    pi = (
        np.ones((mdp.n_states, mdp.n_actions))
        if policy is None
        else np.exp(policy.log_probabilities(policy.real_theta(theta)))
    )
    possible = graph.possible_outcomes(mdp, pi)
    horizon = _longest_episode(mdp, possible.__getitem__) if mdp.horizon is None else mdp.horizon
    ends = (possible & mdp.terminated).sum(axis=(1, 2)).astype(object)
    source, target = np.nonzero(possible & ~mdp.terminated)[0], mdp.next_state[possible & ~mdp.terminated]
    counts = np.full(mdp.n_states, 1, dtype=object)
    for _ in range(horizon):
        total = ends.copy()
        np.add.at(total, source, counts[target])
        counts = total
    return int(sum(counts[mdp.initial > 0]))


def _rows(table):
    """Return the function that asks `table` for the rows of some states at a time, and for all of them when asked often."""
    whole: list = []
    asked = 0

    def rows(states):
        nonlocal asked
        asked += 1
        if not whole and (asked > OFTEN or isinstance(states, slice)):
            whole.append(table(slice(None)))
        return whole[0][states] if whole else table(states)

    return rows


def _possible(mdp, log_mu, states=slice(None)):
    """Return which outcomes of some states have positive probability."""
    return (mdp.probability[states] > 0) & (np.exp(log_mu) > 0)[:, :, None]


def _check_size(mdp, possible_from, limit):
    """Return the number of steps to enumerate, or refuse quickly and say what to use instead."""
    n_steps = _longest_episode(mdp, possible_from) if mdp.horizon is None else mdp.horizon
    affordable = min(limit, MEMORY_LIMIT // (BYTES_PER_CELL * max(n_steps, 1)))
    n, t = _count_until(mdp, possible_from, n_steps, affordable)
    if n > affordable:
        how_many = f"{n} trajectories" if t == n_steps else f"{n} trajectories in its first {t} of {n_steps} steps"
        raise arguments.TooLargeError(
            f"enumeration refused: the model has {how_many}, above the limit of {affordable} (limit={limit}, and "
            f"{MEMORY_LIMIT >> 20} MiB): use exact.gradient (recursion), confirm (sampling), a shorter horizon, or raise limit; "
            "count_trajectories gives the exact number"
        )
    return n_steps


def _count_until(mdp, possible_from, n_steps, limit):
    """Count the trajectories of the first t steps, stopping at the first t where there are more than `limit`.

    Touches only the states that can be reached by then, so that refusing a
    huge model is quick; the count cannot overflow, because it stops.
    """
    states = np.flatnonzero(mdp.initial > 0)
    counts = np.ones(len(states), dtype=np.int64)
    finished = 0
    for t in range(n_steps + 1):
        n = finished + int(counts.sum())
        if n > limit or t == n_steps or not len(states):
            return n, t
        outcome = possible_from(states)
        ends = outcome & mdp.terminated[states]
        finished += int((counts * ends.sum(axis=(1, 2))).sum())
        moves = outcome & ~ends
        ahead = finished + int((counts * moves.sum(axis=(1, 2))).sum())
        if ahead > limit:
            return ahead, t + 1
        target, into = np.unique(mdp.next_state[states][moves], return_inverse=True)
        flow = np.zeros(len(target), dtype=np.int64)
        np.add.at(flow, into, counts[np.nonzero(moves)[0]])
        states, counts = target, flow
    raise AssertionError("the loop returns at t = n_steps")


def _longest_episode(mdp, possible_from):
    """Return the length of the longest episode of a model without cycles."""
    states = np.flatnonzero(mdp.initial > 0)
    for t in range(mdp.n_states + 1):
        if not len(states):
            return t
        moves = possible_from(states) & ~mdp.terminated[states]
        states = np.unique(mdp.next_state[states][moves])
    raise arguments.TooLargeError(
        "enumeration refused: horizon=None and the model has a cycle, so there are infinitely many trajectories: "
        "use exact.gradient (linear solve), or replace(horizon=...)"
    )


def _cells(possible):
    """Return the possible (s, a, k), ordered by state, as an array (3, C), and their number per state."""
    return np.array(np.nonzero(possible)), possible.sum(axis=(1, 2))
