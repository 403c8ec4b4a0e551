"""Exact first two moments, and the range, of REINFORCE from a single trajectory.

No sampling and no enumeration: the joint moments of the return and of the
estimate close under a backward recursion. Everything is per *direction* v,
the estimator of v·∇J, so that a few directions of a huge parameter vector
cost little; the coordinates are the rows of the identity.
"""

from dataclasses import dataclass

import numpy as np

from reinforce_np import graph
from reinforce_np.estimators.advantages import RewardToGo, TotalReturn
from reinforce_np.exact import bellman
from reinforce_np.exact.objectives import Discounted
from reinforce_np.exact.values import induced

TOGETHER = 64  # directions carried at once
LARGEST = 1e120  # rewards and baselines whose squares, summed over an episode, are certain to fit
MOST_STEPS = 2**17  # steps back to a fixed point before the model is refused
SETTLED = 2e-15  # relative change of a moment that counts as rounding


@dataclass(frozen=True, eq=False)
class DirectionalMoments:
    """What one trajectory's estimate v·ĝ can be, for E directions v.

    Parameters
    ----------
    mean, second_moment : array (E,)
        E[v·ĝ] and E[(v·ĝ)²].
    low, high : array (E,)
        Bounds on v·ĝ over all possible trajectories; not always attained,
        infinite without a horizon.
    """

    mean: np.ndarray
    second_moment: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def variance(self):
        """Var[v·ĝ], shape (E,)."""
        return np.maximum(self.second_moment - self.mean**2, 0.0)


def directional_moments(estimator, mdp, policy, theta, directions):
    """Return the exact moments and the range of v·ĝ for one trajectory, by recursion.

    Parameters
    ----------
    estimator : Estimator
        With advantage `TotalReturn` or `RewardToGo`.
    mdp : FiniteMDP
        The model. Without a horizon the recursion is repeated to its fixed
        point, for `RewardToGo` with a baseline that does not depend on t.
    policy, theta
        The policy that draws the trajectory and whose score is weighted.
    directions : array (E, D)
        One direction a row.

    Returns
    -------
    DirectionalMoments

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> moments = directional_moments(algorithms.reinforce(), mdp, policy, np.zeros(2), np.eye(2))
    >>> moments.mean, moments.variance
    (array([-0.25,  0.25]), array([0.0625, 0.0625]))
    """
    _check_size(mdp, estimator)
    pi, _, gamma = induced(mdp, policy, policy.real_theta(theta), Discounted())
    parts = [
        _moments_of(estimator, mdp, pi, policy.score_along(theta, directions[first : first + TOGETHER]), gamma)
        for first in range(0, len(directions), TOGETHER)
    ]
    return DirectionalMoments(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _moments_of(estimator, mdp, pi, psi, gamma):
    """Return mean, second moment and range for a few directions, whose scores are `psi` (S, A, E)."""
    advantage = estimator.advantage
    if isinstance(advantage, TotalReturn):
        if mdp.horizon is None:
            raise ValueError(
                "horizon=None: the moments of TotalReturn need a horizon; use RewardToGo or replace(horizon=...)"
            )
        mean, second = _total_return_moments(mdp, pi, psi, gamma, advantage.baseline)
        low, high = _total_return_range(mdp, pi, psi, gamma, advantage.baseline)
    elif isinstance(advantage, RewardToGo):
        _check_baseline(advantage.baseline, mdp)
        eta = gamma if estimator.discounted_score else 1.0
        V = _values(mdp, pi, gamma)
        mean, second = _trace_moments(mdp, pi, psi, gamma, eta, advantage.baseline, V)
        low, high = _trace_range(mdp, pi, psi, gamma, eta, advantage.baseline)
    else:
        raise TypeError(f"advantage={advantage!r} has no recursion; use TotalReturn or RewardToGo")
    return mean, second, low, high


def _trace_moments(mdp, pi, psi, gamma, eta, baseline, V):
    """Moments of X = ψ w + η X', with w = r − b(s) + γ G' and G = r + γ G', at the start.

    A prime marks the next step. Rewritten with what is left of the return
    when its mean is taken away, U = G − V(s), so that large values cancel
    before they are squared:

        U = δ + γ U',     w = p + γ U',     δ = r + γ V(s') − V(s),     p = δ + V(s) − b(s).

    Averaged over actions and outcomes, with E[U'] = 0,

        E[w]  = E[p],                 E[w²] = p² + γ² E[U'²],     E[Uw] = δ p + γ² E[U'²]
        E[X]  = ψ E[w] + η E[X']
        E[UX] = ψ E[Uw] + η (δ E[X'] + γ E[U'X'])
        E[X²] = ψ² E[w²] + 2 η ψ (p E[X'] + γ E[U'X']) + η² E[X'²].
    """
    S, E = mdp.n_states, psi.shape[-1]
    P, live, r = pi[:, :, None] * mdp.probability, ~mdp.terminated, mdp.reward
    u2 = np.zeros(S)  # E[U²]
    x, ux, xx = np.zeros((S, E)), np.zeros((S, E)), np.zeros((S, E))  # E[X], E[UX], E[X²]

    def averaged(weight, moment):
        return np.einsum("sak,sake->sae", P * live * weight, moment[mdp.next_state])

    for t in _steps_back(mdp):
        before = u2, x, ux, xx
        now, after = (V, V) if mdp.horizon is None else (V[t], V[t + 1])
        delta = r + gamma * live * after[mdp.next_state] - now[:, None, None]
        p = delta + now[:, None, None] - _baseline_at(baseline, t)
        U2 = gamma**2 * live * u2[mdp.next_state]
        w1, w2, uw = (np.einsum("sak,sak->sa", P, w)[..., None] for w in (p, p**2 + U2, delta * p + U2))
        future = averaged(gamma, ux)  # γ E[U'X']
        xx = (psi**2 * w2 + 2 * eta * psi * (averaged(p, x) + future) + eta**2 * averaged(1.0, xx)).sum(axis=1)
        ux = (psi * uw + eta * (averaged(delta, x) + future)).sum(axis=1)
        x = (psi * w1 + eta * averaged(1.0, x)).sum(axis=1)
        u2 = (P * (delta**2 + U2)).sum(axis=(1, 2))
        if mdp.horizon is None and MOST_STEPS - t > S and _settled(before, (u2, x, ux, xx)):
            break
    else:
        if mdp.horizon is None:
            raise ValueError(
                f"horizon=None: the moments have not settled after {MOST_STEPS} steps; give a horizon or a smaller gamma"
            )
    return mdp.initial @ x, mdp.initial @ xx


def _values(mdp, pi, gamma):
    """Return V, shape (T+1, S), or (S,) without a horizon."""
    r = mdp.expected_reward
    if mdp.horizon is None:
        return bellman.fixed_values(mdp, pi, r, gamma)[1]
    V = np.zeros((mdp.horizon + 1, mdp.n_states))
    for t, _, V_t in bellman.backward(mdp, pi, r, gamma):
        V[t] = V_t
    return V


def _steps_back(mdp):
    """Return t = T−1, ..., 0; without a horizon, a countdown long enough to settle or to be refused."""
    return reversed(range(MOST_STEPS if mdp.horizon is None else mdp.horizon))


def _settled(before, after):
    """Whether one more step back changes no moment of any state by more than rounding."""
    if not all(np.isfinite(moment).all() for moment in after):
        raise ValueError(
            "horizon=None: the second moment of the estimate is infinite; use a horizon or a smaller gamma"
        )
    u2, _, _, xx = after
    spread = np.sqrt(xx)  # E[X] and E[UX] may vanish; they are judged beside these
    scales = u2, spread, np.sqrt(u2)[:, None] * spread, xx
    return all(np.all(np.abs(b - a) <= SETTLED * s) for b, a, s in zip(before, after, scales, strict=True))


def _total_return_moments(mdp, pi, psi, gamma, b):
    """Moments of ĝ = (Σ_t ψ_t)(R − b).

    Split at step t into C − b, what was collected before it, and γᵗ R_t,
    what comes. With F' the score sum after step t,

        E[ĝ]  = Σ_t Σ_s Σ_j binom(1,j) f_j γ^{t(1−j)} E[ψ R^{1−j} | s]
        E[ĝ²] = Σ_t Σ_s Σ_j binom(2,j) f_j γ^{t(2−j)} E[ψ² R^{2−j} + 2ψ F' R^{2−j} | s],

    where f_j(s) = E[(C − b)ʲ; s_t = s] runs forwards and E[Rʲ], E[F Rʲ] run
    backwards from the end.
    """
    S, E = mdp.n_states, psi.shape[-1]
    P, live, r = pi[:, :, None] * mdp.probability, ~mdp.terminated, mdp.reward
    f = list(_collected_moments(mdp, pi, gamma, b))
    R = [np.ones(S), np.zeros(S), np.zeros(S)]  # E[Rʲ | s] of the steps still to come
    FR = [np.zeros((S, E)) for _ in range(3)]  # E[F Rʲ | s]
    mean, second = np.zeros(E), np.zeros(E)
    for t in reversed(range(mdp.horizon)):
        R1, R2 = live * R[1][mdp.next_state], live * R[2][mdp.next_state]
        powers = [np.ones_like(r), r + gamma * R1, r**2 + 2 * r * gamma * R1 + gamma**2 * R2]
        F0, F1, F2 = (live[..., None] * moment[mdp.next_state] for moment in FR)
        rk = r[..., None]
        scores = [F0, rk * F0 + gamma * F1, rk**2 * F0 + 2 * rk * gamma * F1 + gamma**2 * F2]
        PR = [np.einsum("sak,sak->sa", P, power) for power in powers]
        PF = [np.einsum("sak,sake->sae", P, score) for score in scores]
        for j in range(3):
            m = 2 - j
            inner = psi**2 * PR[m][..., None] + 2 * psi * PF[m]
            second += (1, 2, 1)[j] * gamma ** (t * m) * np.einsum("s,sae->e", f[t][j], inner)
        for j in range(2):
            mean += gamma ** (t * (1 - j)) * np.einsum("s,sae,sa->e", f[t][j], psi, PR[1 - j])
        R = [moment.sum(axis=1) for moment in PR]
        FR = [(psi * PR[j][..., None] + PF[j]).sum(axis=1) for j in range(3)]
    return mean, second


def _collected_moments(mdp, pi, gamma, b):
    """Yield f_j(s) = E[(C − b)ʲ; s_t = s and alive], j = 0, 1, 2, for t = 0, ..., T−1; C = Σ_{u<t} γᵘ r_u."""
    arrive, p = bellman.arrivals(mdp), mdp.continuation
    f0, f1, f2 = mdp.initial, -b * mdp.initial, b**2 * mdp.initial
    for t in range(mdp.horizon):
        yield f0, f1, f2
        step = pi[:, :, None] * p
        c = gamma**t * mdp.reward
        F0, F1, F2 = (f[:, None, None] for f in (f0, f1, f2))
        f0, f1, f2 = arrive(step * F0), arrive(step * (F1 + c * F0)), arrive(step * (F2 + 2 * c * F1 + c**2 * F0))


def _trace_range(mdp, pi, psi, gamma, eta, baseline):
    """Bounds on X: interval recursion over all possible outcomes."""
    if mdp.horizon is None:
        return np.full(psi.shape[-1], -np.inf), np.full(psi.shape[-1], np.inf)
    impossible = ~graph.possible_outcomes(mdp, pi)
    live = ~mdp.terminated
    g_low, g_high = np.zeros(mdp.n_states), np.zeros(mdp.n_states)
    x_low, x_high = np.zeros((mdp.n_states, psi.shape[-1])), np.zeros((mdp.n_states, psi.shape[-1]))
    psi = psi[:, :, None]
    for t in reversed(range(mdp.horizon)):
        G_low = mdp.reward + gamma * live * g_low[mdp.next_state]
        G_high = mdp.reward + gamma * live * g_high[mdp.next_state]
        w_low, w_high = (np.asarray(G - _baseline_at(baseline, t))[..., None] for G in (G_low, G_high))
        X_low = np.minimum(psi * w_low, psi * w_high) + eta * live[..., None] * x_low[mdp.next_state]
        X_high = np.maximum(psi * w_low, psi * w_high) + eta * live[..., None] * x_high[mdp.next_state]
        g_low, g_high = _extremes(G_low, G_high, impossible)
        x_low, x_high = _extremes(X_low, X_high, impossible[..., None])
    started = mdp.initial > 0
    return x_low[started].min(axis=0), x_high[started].max(axis=0)


def _total_return_range(mdp, pi, psi, gamma, b):
    """Bounds on (Σψ)(R − b): the product of the ranges of its factors."""
    impossible = ~graph.possible_outcomes(mdp, pi)
    live = ~mdp.terminated
    r_low, r_high = np.zeros(mdp.n_states), np.zeros(mdp.n_states)
    f_low, f_high = np.zeros((mdp.n_states, psi.shape[-1])), np.zeros((mdp.n_states, psi.shape[-1]))
    for _ in range(mdp.horizon):
        R_low, R_high = (mdp.reward + gamma * live * R[mdp.next_state] for R in (r_low, r_high))
        F_low, F_high = (psi[:, :, None] + live[..., None] * F[mdp.next_state] for F in (f_low, f_high))
        r_low, r_high = _extremes(R_low, R_high, impossible)
        f_low, f_high = _extremes(F_low, F_high, impossible[..., None])
    started = mdp.initial > 0
    R = np.array([r_low[started].min() - b, r_high[started].max() - b])[:, None]
    corners = np.concatenate([R * f_low[started].min(axis=0), R * f_high[started].max(axis=0)])
    return corners.min(axis=0), corners.max(axis=0)


def _extremes(low, high, impossible):
    """Return the least and greatest over possible (a, k), per state."""
    return np.where(impossible, np.inf, low).min(axis=(1, 2)), np.where(impossible, -np.inf, high).max(axis=(1, 2))


def _check_size(mdp, estimator):
    """Refuse rewards and baselines whose squares leave float64, above or below."""
    largest = max(np.abs(mdp.reward).max(), np.max(np.abs(estimator.advantage.baseline)))
    if largest > LARGEST or 0 < largest < 1 / LARGEST:
        raise ValueError(
            f"rewards and baselines of size {largest:.3g} have second moments that leave float64; divide them by {largest:.1g}"
        )


def _check_baseline(baseline, mdp):
    """Refuse a baseline of another shape than the model's."""
    steps = () if mdp.horizon is None else (mdp.horizon, mdp.horizon + 1)
    if baseline.ndim and (baseline.shape[-1] != mdp.n_states or (baseline.ndim == 2 and len(baseline) not in steps)):
        raise ValueError(
            f"baseline has shape {baseline.shape}; for this model it must be a number, ({mdp.n_states},)"
            + (f" or ({mdp.horizon}, {mdp.n_states})" if steps else "; without a horizon it cannot depend on t")
        )


def _baseline_at(baseline, t):
    """Return b(s) at step t, shaped to subtract from (S, A, K)."""
    baseline = np.asarray(baseline)
    b = baseline[t] if baseline.ndim == 2 else baseline
    return b[:, None, None] if b.ndim else b
