"""Exact moments of a linear trace, one backward sweep: see `traces` for the equations.

No trajectory is listed and nothing is sampled, so any horizon will do. Everything
is per *direction* v, the estimator of v·∇J: the coordinates are the rows of the
identity, and a few directions of a huge parameter vector cost little.
"""

from dataclasses import dataclass

import numpy as np

from reinforce_np import graph
from reinforce_np.estimators import NStep
from reinforce_np.exact import bellman
from reinforce_np.exact.pairs import moments_over_pairs

MOST_STEPS = 2**17  # steps back to a fixed point before the model is refused
NUMBERS = 2**16  # of what follows so many states is looked at together
NOTHING = 1e-6  # deviation relative to the mean whose square, times SETTLED, is far below rounding
SETTLED = 2e-15  # relative change of a moment that counts as rounding


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a sweep finds at the start.

    Parameters
    ----------
    first, second : array (E,)
        E[X] and E[X²] under the measure swept with.
    outer : array (E, E) or None
        E[XXᵀ], when asked for.
    by_state : array (S, E)
        E[X | first state], of those that the start can reach.
    residual : float or None
        Without a horizon, the largest change of any moment, relative to its size, that one more step
        back still made; None with a horizon, where nothing is left to settle.
    """

    first: np.ndarray
    second: np.ndarray
    outer: np.ndarray | None
    by_state: np.ndarray
    residual: float | None = None


def sweep(trace, psi, *, power=1, covariance=False):
    """Run the recursion of `traces` under the measure of ρ to the given power, over pairs of states where that will do.

    Parameters
    ----------
    trace, psi, power, covariance
        As in `sweep_by_outcomes`.

    Returns
    -------
    Sweep
    """
    mdp = trace.mdp
    bank = isinstance(trace.estimator.advantage, NStep)
    if not mdp.horizon or bank or trace.passive is not None or power != 1:
        return sweep_by_outcomes(trace, psi, power=power, covariance=covariance)
    # those that only the last step enters, too: a critic may be asked there
    states = np.flatnonzero(graph.reachable(mdp, trace.measure(1) > 0, mdp.horizon))
    by_state = np.zeros(psi.shape[::2])
    if len(states) < mdp.n_states:
        trace, psi = trace.restricted(states), psi[states]
    first, second, outer, by_state[states] = moments_over_pairs(trace, psi, covariance)
    return Sweep(first, second, outer, by_state)


def sweep_by_outcomes(trace, psi, *, power=1, covariance=False):
    """Run the recursion of `traces` as it is written, outcome by outcome.

    The occupancy o_t(s) of η² runs forwards first; then one sweep backwards
    adds up H(s,a) = Σ_t o_t(s) (½ ψ E[w²] + η y), and E[XXᵀ] = Σ ψHᵀ + Hψᵀ at the end.

    Parameters
    ----------
    trace : LinearTrace
        The estimator on its model.
    psi : array (S, A, E)
        Score along E directions.
    power : int
        1 for means, and for second moments unless the ratio of the whole
        trajectory is used, which needs 2 there.
    covariance : bool
        Whether to return E[XXᵀ].

    Returns
    -------
    Sweep
    """
    mdp = trace.mdp
    W, mean_measure = trace.measure(power), trace.measure(1)
    h = np.zeros(()) if trace.passive is None else np.einsum("sa,sae->se", trace.passive, psi)
    state = _Moments.zero(mdp.n_states, trace.n_traces, psi.shape[-1])
    H = np.zeros_like(psi)
    K = np.zeros(psi.shape[::2])
    visits = None if mdp.horizon is None else _squared_visits(trace, W)
    residual: float | None = None
    reached, largest_score = graph.reachable(mdp, W > 0), np.abs(psi).max(initial=0.0)
    endless = _signals(trace, 0) if mdp.horizon is None else None
    for t in _steps_back(mdp):
        signals = _signals(trace, t) if endless is None else endless  # without a horizon every step is the same
        state, parts = _step(state, trace, signals, W, mean_measure, psi, h)
        if visits is None and MOST_STEPS - t > mdp.n_states:
            residual = state.residual(reached, largest_score)
        if visits is not None or residual is not None:
            if visits is None:
                o, rest = _all_squared_visits(trace, W)
                residual = max(residual, rest)
            else:
                o = visits[t]
            H += o[:, None, None] * (0.5 * parts.w2[:, :, None] * psi + np.moveaxis(parts.y, 0, 1))
            if h.ndim:
                K += o[:, None] * (np.einsum("sa,sae->se", parts.w1, psi) + parts.x + 0.5 * h * parts.mass[:, None])
        if residual is not None:
            break
    else:
        if mdp.horizon is None:
            raise ValueError(
                f"horizon=None: the moments have not settled after {MOST_STEPS} steps; give a horizon or a smaller gamma"
            )
    second = 2 * (np.einsum("sae,sae->e", psi, H) + (np.einsum("se,se->e", h, K) if h.ndim else 0.0))
    outer = None
    if covariance:
        half = np.tensordot(psi, H, axes=((0, 1), (0, 1))) + (h.T @ K if h.ndim else 0.0)
        outer = half + half.T
    return Sweep(mdp.initial @ state.x, second, outer, state.x, residual)


@dataclass(frozen=True, eq=False)
class _Moments:
    """Moments of what is still to come, per state: v is E[A], the others are of U = A − v and X."""

    v: np.ndarray  # (S, m)
    mass: np.ndarray  # (S,)
    u: np.ndarray  # (S, m)
    uu: np.ndarray  # (S, m, m)
    x: np.ndarray  # (S, E)
    ux: np.ndarray  # (m, S, E)
    before: tuple = ()

    @classmethod
    def zero(cls, S, m, E):
        """Nothing is to come: what is left after the last step."""
        return cls(
            np.zeros((S, m)), np.ones(S), np.zeros((S, m)), np.zeros((S, m, m)), np.zeros((S, E)), np.zeros((m, S, E))
        )

    def residual(self, reached, largest_score):
        """Return by how much the last step changed the moments of the states `reached`, relative to their size.

        None when some moment changed by more than rounding.
        """
        v, uu, x, ux = self.before
        if not np.isfinite(self.uu[reached]).all():
            raise ValueError(
                "horizon=None: the second moment of the return is infinite; use a horizon or a smaller gamma"
            )
        # returns that do not vary at all have a deviation that shrinks for ever: below NOTHING of their size it is none
        deviation = np.sqrt(np.einsum("sii->si", self.uu)) + NOTHING * np.abs(self.v)
        credit = np.abs(self.v) + deviation
        size = np.abs(self.x).max(axis=1, initial=0.0) + largest_score * credit[:, -1]
        joint = np.abs(self.ux).max(axis=2, initial=0.0) + deviation.T * size
        changes = [
            (np.abs(uu - self.uu)[reached], (deviation[:, :, None] * deviation[:, None, :])[reached]),
            (np.abs(v - self.v)[reached], credit[reached]),
            (np.abs(x - self.x)[reached], size[reached, None]),
            (np.abs(ux - self.ux)[:, reached], joint[:, reached, None]),
        ]
        if any(np.any(change > SETTLED * scale) for change, scale in changes):
            return None
        return max(_largest_ratio(change, scale) for change, scale in changes)


def _largest_ratio(change, scale):
    """Return the largest change in units of its scale, which is zero only where the change is."""
    return float(np.divide(change, scale, out=np.zeros_like(change), where=change > 0).max(initial=0.0))


@dataclass(frozen=True, eq=False)
class _Parts:
    """What one step contributes to E[XXᵀ], averaged over outcomes."""

    w1: np.ndarray  # (S, A)
    w2: np.ndarray  # (S, A)
    mass: np.ndarray  # (S,)
    y: np.ndarray  # (A, S, E): η (p̃ x' + q (ux)')
    x: np.ndarray  # (S, E): η x', summed over actions


def _signals(trace, t):
    """Return the signals of step t as tables: c and κ as (S, A, K, m), the others as (S, A, K)."""
    signals, shape = trace.at(t), trace.mdp.reward.shape
    c, kappa = (np.stack([np.broadcast_to(x, shape) for x in bank], axis=-1) for bank in (signals.c, signals.kappa))
    p, q, eta = (np.broadcast_to(x, shape) for x in (signals.p, signals.q, signals.eta))
    return c, kappa, p, q, eta


def _step(after, trace, signals, W, mean_measure, psi, h):
    """Return the moments one step earlier, and the parts of E[XXᵀ]."""
    mdp = trace.mdp
    (c, kappa, p, q, eta), live, into = signals, ~mdp.terminated, mdp.next_state
    mass = np.where(live, after.mass[into], 1.0)
    u, uu, v = (live.reshape(live.shape + (1,) * (x.ndim - 1)) * x[into] for x in (after.u, after.uu, after.v))
    u_last, uu_last, v_last, uu_lasts = u[..., -1], uu[..., -1], v[..., -1], uu[..., -1, -1]
    u, v, uu_last = (trace.shift(x, -1) for x in (u, v, uu_last))
    uu = trace.shift(trace.shift(uu, -1), -2)

    A = c + kappa * v  # E[A | outcome]
    v_now = np.einsum("sak,sakj->sj", mean_measure, A)
    c, p = A - v_now[:, None, None, :], p + q * v_last  # c̃ and p̃
    w = p * mass + q * u_last
    w1 = np.einsum("sak,sak->sa", W, w)
    w2 = np.einsum("sak,sak->sa", W, p * (w + q * u_last) + q**2 * uu_lasts)
    wu = c * w[..., None] + kappa * (p[..., None] * u + q[..., None] * uu_last)
    wu = np.einsum("sak,sakj->saj", W, wu)
    u_now = np.einsum("sak,sakj->sj", W, c * mass[..., None] + kappa * u)
    cross = np.einsum("sak,saki,sakj->sij", W, c, kappa * u)
    uu_now = cross + np.swapaxes(cross, 1, 2) + np.einsum("sak,saki,sakj->sij", W * mass, c, c)
    uu_now += np.einsum("sak,saki,sakj,sakij->sij", W, kappa, kappa, uu)
    mass_now = np.einsum("sak,sak->s", W, mass)

    S, A_K, E = mdp.n_states, mdp.n_actions * mdp.n_outcomes, psi.shape[-1]
    x_flow, y = np.empty((S, E)), np.empty((mdp.n_actions, S, E))
    ux_now = np.einsum("saj,sae->jse", wu, psi) + u_now.T[:, :, None] * h
    flow, at_once = W * eta * live, max(NUMBERS // (A_K * max(E, 1)), 1)
    for first in range(0, S, at_once):  # a few states at a time, so that memory stays at a few (S, E) arrays
        s = slice(first, first + at_once)
        x_next, ux_next = flow[s, ..., None] * after.x[into[s]], flow[s, ..., None] * after.ux[:, into[s]]
        x_flow[s] = x_next.sum(axis=(1, 2))
        y[:, s] = np.einsum("sak,sake->ase", p[s], x_next) + np.einsum("sak,sake->ase", q[s], ux_next[-1])
        ux_now[:, s] += np.einsum("sakj,sake->jse", c[s], x_next)
        ux_now[:, s] += np.einsum("sakj,jsake->jse", kappa[s], trace.shift(ux_next, 0))
    x_now = np.einsum("sa,sae->se", w1, psi) + h * mass_now[:, None] + x_flow
    before = after.v, after.uu, after.x, after.ux
    return _Moments(v_now, mass_now, u_now, uu_now, x_now, ux_now, before), _Parts(w1, w2, mass_now, y, x_flow)


def _squared_visits(trace, W):
    """Return o_t(s) for every t: occupancy in which each step counts η²."""
    arrive, o = bellman.arrivals(trace.mdp), trace.mdp.initial
    visits = [o]
    for t in range(trace.mdp.horizon - 1):
        o = arrive(o[:, None, None] * W * np.asarray(trace.at(t).eta) ** 2 * ~trace.mdp.terminated)
        visits.append(o)
    return visits


def _all_squared_visits(trace, W):
    """Return Σ_t o_t(s) without a horizon, step by step until nothing is added, and what the last step still added."""
    arrive, o = bellman.arrivals(trace.mdp), trace.mdp.initial
    step = W * np.asarray(trace.at(0).eta) ** 2 * ~trace.mdp.terminated
    total = np.zeros_like(o)
    for t in range(MOST_STEPS):
        total = total + o
        o = arrive(o[:, None, None] * step)
        if t > len(o) and np.all(o <= SETTLED * total):
            return total, _largest_ratio(o, total)
    raise ValueError(
        f"horizon=None: the visits have not settled after {MOST_STEPS} steps; give a horizon or a smaller gamma"
    )


def _steps_back(mdp):
    """Return t = T−1, ..., 0; without a horizon, a countdown long enough to settle or to be refused."""
    return reversed(range(MOST_STEPS if mdp.horizon is None else mdp.horizon))
