"""Where the variance comes from: the law of total variance, step by step and exactly.

A trajectory is a sequence of draws: the first state, an action, its outcome, an
action, its outcome, ... Each draw changes what is expected of the estimate,
and the variance is the sum of what the draws contribute,

    Var[ĝ] = Var[E[ĝ|s_0]] + Σ_t E Var[E[ĝ|h_t,a_t] | h_t] + Σ_t E Var[E[ĝ|h_t,a_t,k_t] | h_t,a_t],

with h_t the history up to s_t. Two routes. By *listing* all histories, for any function of one
trajectory. By *recursion* at any horizon, where a history is remembered by a few features,
vectors e_i and numbers g_j that every step updates linearly,

    e' = M e + N g ψ,    g' = K g,    ĝ = e_0 at the end,

each worth an expectation of the future, so that with v_i and x_j running backwards

    E[ĝ|h_t] = Σ_i e_i v_i(s_t) + Σ_j g_j x_j(s_t),    v_j = E[Σ_i v_i' M_ij],    x_j = E[Σ_i v_i' N_ij ψ + Σ_i x_i' K_ij],

and with E[e_i·e_j; s], E[e_i g_j; s] and E[g_i g_j; s] running forwards everything is local.

| estimator | e | g | M | N | K |
|---|---|---|---|---|---|
| linear trace (see `traces`) | what is settled; the eligibility | the factor | [1 c; 0 κ] | [p; q] | η |
| n-step | what is settled; n − 1 eligibilities, each handed on to the one before it | the factor | | [p; 0 … q] | η |
| whole return, c = γᵗr | Z(C − b); Z, the scores so far | C − b, the return so far; 1 | [1 c; 0 1] | [1 c; 0 1] | [1 c; 0 1] |

The ratio of the whole trajectory multiplies all three matrices.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from reinforce_np import arguments, enumeration
from reinforce_np.estimators import Estimator, NStep, TotalReturn
from reinforce_np.exact import bellman
from reinforce_np.exact.batches import check_estimates, check_sizes, check_support, evaluated
from reinforce_np.exact.callables import bound
from reinforce_np.exact.traces import linear_trace, tables_of
from reinforce_np.problem import problem_of

LIMIT = 2**27  # numbers held at once: x_j(s) of all steps, or E[e_i g_j; s] on the way to where it arrives


@dataclass(frozen=True, eq=False)
class VarianceParts:
    """The total variance Σ_i Var[ĝ_i] of one trajectory's estimate, split by what is drawn.

    Parameters
    ----------
    start : float
        From the first state.
    action : array (T, S, A)
        From the choice of action a in state s at step t: μ(a|s) times the square of what it changes.
    transition : array (T, S, A)
        From the outcome of action a in state s at step t.
    route : str
        "recursion", or "enumeration" of all histories.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> parts = variance_parts(algorithms.reinforce(), examples.bandit(spread=1.0), TabularSoftmax(1, 3), np.zeros(3))
    >>> bool(parts.action.sum() > 0), bool(parts.transition.sum() > 0), parts.start
    (True, True, 0.0)
    """

    start: float
    action: np.ndarray
    transition: np.ndarray
    route: str = "recursion"

    @property
    def total(self):
        """The total variance."""
        return self.start + float(self.action.sum() + self.transition.sum())

    @property
    def pairs(self):
        """What each action in each state adds, over all steps: its choice and its outcome, shape (S, A)."""
        return (self.action + self.transition).sum(axis=0)

    @property
    def shares(self):
        """Shares of the total, by name; `future` is all that is drawn after the first step."""
        now = {
            "start": self.start,
            "first action": float(self.action[:1].sum()),
            "first transition": float(self.transition[:1].sum()),
            "future": float(self.action[1:].sum() + self.transition[1:].sum()),
            "all actions": float(self.action.sum()),
            "all transitions": float(self.transition.sum()),
        }
        return {name: part / self.total if self.total else 0.0 for name, part in now.items()}


def variance_parts(estimator, mdp, policy=None, theta=None, *, behaviour=None, limit=enumeration.LIMIT):
    """Split the total variance of one trajectory's estimate into start, action and transition parts.

    By recursion where the estimator is a linear trace (reward-to-go, GAE, n-step, any ratio) or sees the whole
    return of its trajectory, over a finite horizon; otherwise by listing all histories.

    Parameters
    ----------
    estimator : Estimator or callable
        As in `judge`, of a single trajectory.
    mdp : FiniteMDP or Problem
        As in `judge`.
    policy, theta
        The policy and its parameters.
    behaviour : array (D,) or (S, A), optional
        The policy that draws the actions.
    limit : int
        As in `enumerate_trajectories`, where histories are listed.

    Returns
    -------
    VarianceParts
        Whose total is that of `moments`.

    Raises
    ------
    ValueError
        When the problem says that a batch holds more than one trajectory.
    TooLargeError
        When T·S·D numbers are too many, or there are too many histories to list.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples, moments
    >>> mdp, policy, theta = examples.referee(), TabularSoftmax(3, 3), np.linspace(-1, 1, 9)
    >>> parts = variance_parts(algorithms.reinforce(), mdp, policy, theta)
    >>> bool(np.isclose(parts.total, moments(algorithms.reinforce(), mdp, policy, theta).total_variance))
    True
    """
    problem = problem_of(mdp, policy, theta, behaviour=behaviour)
    mdp, policy, theta, behaviour = problem.mdp, problem.policy, problem.theta, problem.behaviour
    if problem.prompts * problem.group_size > 1:
        raise ValueError(
            f"prompts={problem.prompts}, group_size={problem.group_size}: the draws of a batch have no order to split its "
            "variance by; pass a problem of one trajectory, or use largest_contributions"
        )
    estimator = bound(estimator, problem)
    check_support(mdp, policy, theta, behaviour)
    if isinstance(estimator, Estimator):
        check_sizes(estimator, mdp)
        memory = None if mdp.horizon is None else _memory(estimator, mdp, policy, theta, behaviour)
        if memory is not None:
            return _by_recursion(memory, policy.score(theta))
    return _by_listing(estimator, problem, limit)


class Step(NamedTuple):
    """How one step updates the features; every matrix is (S, A, K, rows, columns)."""

    M: np.ndarray
    N: np.ndarray
    K: np.ndarray


@dataclass(frozen=True, eq=False)
class Memory:
    """What an estimator remembers of a history.

    Parameters
    ----------
    tables : LinearTrace
        The estimator on its model.
    first : array (J,)
        The numbers g at the start; the vectors e are zero there.
    n_vectors : int
        How many vectors e there are, e_0 included.
    """

    tables: Any
    first: np.ndarray
    n_vectors: int

    def at(self, t):
        """Return the update of step t."""
        whole = isinstance(self.tables.estimator.advantage, TotalReturn)
        step = _return_step(self.tables, t) if whole else _trace_step(self.tables, t)
        if not self.tables.whole_trajectory:
            return step
        return Step(*(self.tables.rho[:, :, None, None, None] * matrix for matrix in step))


def _memory(estimator, mdp, policy, theta, behaviour):
    """Return what the estimator remembers, or None where that grows with the history."""
    trace = linear_trace(estimator, mdp, policy, theta, behaviour)
    if trace is not None:
        return Memory(trace, np.ones(1), 1 + trace.n_traces)
    if not isinstance(estimator.advantage, TotalReturn):
        return None
    tables = tables_of(estimator, mdp, policy, theta, behaviour)
    if tables is None or tables.passive is not None or np.any(tables.loss):
        return None
    return Memory(tables, np.array([-float(estimator.advantage.baseline), 1.0]), 2)


def _trace_step(trace, t):
    """The settled e_0 gains c·e + p·g·ψ, an eligibility is worth κ times what it reads of the next step."""
    signals, m = trace.at(t), 1 + trace.n_traces
    shape = trace.mdp.probability.shape
    M, N, K = np.zeros((*shape, m, m)), np.zeros((*shape, m, 1)), np.zeros((*shape, 1, 1))
    M[..., 0, 0] = 1.0
    for j in range(1, m):
        M[..., 0, j] = signals.c[j - 1]
        reads = j - 1 if isinstance(trace.estimator.advantage, NStep) else j
        if reads:
            M[..., reads, j] = signals.kappa[j - 1]
    N[..., 0, 0], N[..., -1, 0], K[..., 0, 0] = signals.p, signals.q, signals.eta
    return Step(M, N, K)


def _return_step(tables, t):
    """Z' = Z + fψ, C' = C + c, so that (ZC)' = ZC + cZ + fψ(C + c)."""
    c = tables.mdp.gamma**t * tables.rewards
    matrix = np.zeros((*c.shape, 2, 2))
    matrix[..., 0, 0] = matrix[..., 1, 1] = 1.0
    matrix[..., 0, 1] = c
    return Step(matrix, tables.factor[:, :, None, None, None] * matrix, matrix)


def _by_recursion(memory, psi):
    """Run the values backwards, then the second moments of the features forwards."""
    trace, mdp, m, j = memory.tables, memory.tables.mdp, memory.n_vectors, len(memory.first)
    S, A, D = psi.shape
    numbers = max(mdp.horizon * S * D * j, S * A * mdp.n_outcomes * m * j * D)
    if numbers > LIMIT:
        raise arguments.TooLargeError(
            f"horizon={mdp.horizon}, {S} states, {A} actions and {D} parameters need {numbers} numbers, above the limit of "
            f"{LIMIT}; use a shorter horizon or fewer parameters"
        )
    psi = psi * trace.scale()
    h = np.zeros((S, D)) if trace.passive is None else np.einsum("sa,sae->se", trace.passive, psi)
    mu, p, live, arrive = trace.behaviour, mdp.probability, ~mdp.terminated, bellman.arrivals(mdp)
    values = _values(memory, psi, h)

    x0 = np.einsum("j,sje->se", memory.first, values[0][1])
    start = float(mdp.initial @ (x0**2).sum(axis=1) - ((mdp.initial @ x0) ** 2).sum())
    action, transition = np.zeros((mdp.horizon, S, A)), np.zeros((mdp.horizon, S, A))
    gg = mdp.initial[:, None, None] * np.outer(memory.first, memory.first)
    eg, ee = np.zeros((S, m, j, D)), np.zeros((S, m, m))

    def spread(dv, dx):
        """E‖Σ e_i dv_i + Σ g_j dx_j‖², from (S, A, ..., i) and (S, A, ..., j, D)."""
        dv, dx = (x.reshape(S, -1, *x.shape[x.ndim - n :]) for x, n in ((dv, 1), (dx, 2)))
        squares = np.einsum("sni,snj,sij->sn", dv, dv, ee, optimize=True)
        squares += 2 * np.einsum("sni,snje,sije->sn", dv, dx, eg, optimize=True)
        return squares + np.einsum("snie,snje,sij->sn", dx, dx, gg, optimize=True)

    for t in range(mdp.horizon):
        step = memory.at(t)
        v, x = _after(memory, step, values[t + 1], psi, h)
        v_mean, x_mean = np.einsum("sak,saki->sai", p, v), np.einsum("sak,sakje->saje", p, x)
        transition[t] = np.einsum(
            "sa,sak,sak->sa", mu, p, spread(v - v_mean[:, :, None], x - x_mean[:, :, None]).reshape(p.shape)
        )
        dv, dx = (mean - np.einsum("sa,sa...->s...", mu, mean)[:, None] for mean in (v_mean, x_mean))
        action[t] = mu * spread(dv, dx)
        flow = (mu[:, :, None] * p * live)[..., None, None]
        M, N, K = step
        along = np.einsum("sae,sije->saij", psi, eg)[:, :, None]
        cross = M @ along @ _turned(N)
        size = (psi**2).sum(axis=2)[:, :, None, None, None]
        gained = N @ gg[:, None, None] @ _turned(K)
        ee, eg, gg = (
            arrive(
                flow
                * (
                    M @ ee[:, None, None] @ _turned(M)
                    + cross
                    + _turned(cross)
                    + size * (N @ gg[:, None, None] @ _turned(N))
                )
            ),
            arrive(
                flow[..., None]
                * (
                    np.einsum("sakim,smne,sakjn->sakije", M, eg, K, optimize=True)
                    + gained[..., None] * psi[:, :, None, None, None]
                )
            ),
            arrive(flow * (K @ gg[:, None, None] @ _turned(K))),
        )
    return VarianceParts(start, action, transition)


def _turned(matrix):
    return np.swapaxes(matrix, -1, -2)


def _values(memory, psi, h):
    """Return v_t (S, i) and x_t (S, j, D) for t = 0, ..., T."""
    mdp, W = memory.tables.mdp, memory.tables.behaviour[:, :, None] * memory.tables.mdp.probability
    v = np.zeros((mdp.n_states, memory.n_vectors))
    v[:, 0] = 1.0
    values = [(v, np.zeros((mdp.n_states, len(memory.first), psi.shape[2])))]
    for t in reversed(range(mdp.horizon)):
        v, x = _after(memory, memory.at(t), values[-1], psi, h)
        v, x = np.einsum("sak,saki->si", W, v), np.einsum("sak,sakje->sje", W, x)
        if not memory.tables.whole_trajectory:
            v[:, 0] = 1.0  # what is settled stays: no rounding
        values.append((v, x))
    return values[::-1]


def _after(memory, step, values, psi, h):
    """Return what the features are worth once the outcome is known: (S, A, K, i) and (S, A, K, j, D)."""
    mdp, (v, x) = memory.tables.mdp, values
    live = ~mdp.terminated[..., None]
    v_next = live * v[mdp.next_state]
    v_next[..., 0] = np.where(mdp.terminated, 1.0, v_next[..., 0])
    x_next = live[..., None] * x[mdp.next_state]
    worth = np.einsum("saki,sakij->sakj", v_next, step.M)
    if not memory.tables.whole_trajectory:
        worth[..., 0] = 1.0
    gain = np.einsum("saki,sakij->sakj", v_next, step.N)[..., None] * psi[:, :, None, None]
    gain = gain + np.einsum("sakie,sakij->sakje", x_next, step.K)
    gain[..., -1, :] += h[:, None, None]
    return worth, gain


def _by_listing(estimator, problem, limit):
    """Average over all histories, the finest last."""
    trajectories, p = enumeration.enumerate_trajectories(
        problem.mdp, problem.policy, problem.theta, behaviour=problem.behaviour, limit=limit
    )
    X, _ = evaluated(estimator, trajectories, np.arange(len(p))[:, None], problem)
    check_estimates(float(np.abs(X).max(initial=0.0)))
    T, S, A = trajectories.n_steps, problem.mdp.n_states, problem.mdp.n_actions
    action, transition = np.zeros((T, S, A)), np.zeros((T, S, A))
    states = np.column_stack([trajectories.states, trajectories.final_states])
    n = np.arange(len(p))
    history = _refined(np.zeros(len(p)), np.where(trajectories.lengths > 0, states[:, 0], trajectories.final_states))
    expected, before = _expected(p, X, history), p @ X
    start = float(p @ ((expected - before) ** 2).sum(axis=1))
    for t in range(T):
        live = t < trajectories.lengths
        cell = states[live, t], trajectories.actions[live, t]
        arrived = np.where(t + 1 < trajectories.lengths, states[:, t + 1], trajectories.final_states)
        ended = trajectories.terminated & (t + 1 == trajectories.lengths)
        chosen = _refined(history, np.where(live, trajectories.actions[:, t], -1))
        history = _refined(
            chosen, np.where(live, trajectories.rewards[:, t], 0.0), np.where(live, arrived, -1), live & ended
        )
        for part, label in ((action, chosen), (transition, history)):
            before, expected = expected, _expected(p, X, label)
            np.add.at(part[t], cell, (p * ((expected - before) ** 2).sum(axis=1))[n[live]])
    return VarianceParts(start, action, transition, "enumeration")


def _refined(label, *columns):
    """Return labels of the classes in which `label` and all columns agree."""
    _, finer = np.unique(np.column_stack([label, *columns]), axis=0, return_inverse=True)
    return finer.reshape(-1)


def _expected(p, X, label):
    """Return E[X | label] of every trajectory, shape (N, D)."""
    total = np.zeros((int(label.max()) + 1, X.shape[1]))
    np.add.at(total, label, p[:, None] * X)
    return (total / np.bincount(label, weights=p)[:, None])[label]
