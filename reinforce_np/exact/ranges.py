"""How large or small one trajectory's estimate can be: interval recursion over all possible outcomes."""

import numpy as np

from reinforce_np import graph
from reinforce_np.estimators import OnPolicy, PerTrajectory, RewardToGo, TotalReturn


def estimate_range(estimator, mdp, pi, psi):
    """Return bounds on v·ĝ of one trajectory, per direction, both (E,).

    Parameters
    ----------
    estimator : Estimator
        Bounded for `RewardToGo` and `TotalReturn` on-policy and without penalties; infinite bounds otherwise.
    mdp : FiniteMDP
        The model; without a horizon the bounds are infinite.
    pi : array (S, A)
        The policy.
    psi : array (S, A, E)
        Score along E directions.
    """
    advantage, gamma = estimator.advantage, mdp.gamma
    plain = (
        isinstance(estimator.ratio, OnPolicy)
        and isinstance(estimator.normaliser, PerTrajectory)
        and not estimator.penalty
    )
    if mdp.horizon is not None and plain and isinstance(advantage, TotalReturn):
        return _total_return_range(mdp, pi, psi, gamma, advantage.baseline)
    if mdp.horizon is not None and plain and isinstance(advantage, RewardToGo):
        return _trace_range(mdp, pi, psi, gamma, gamma if estimator.discounted_score else 1.0, advantage.baseline)
    return np.full(psi.shape[-1], -np.inf), np.full(psi.shape[-1], np.inf)


def _trace_range(mdp, pi, psi, gamma, eta, baseline):
    """Bounds on X: interval recursion over all possible outcomes."""
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


def _baseline_at(baseline, t):
    """Return b(s) at step t, shaped to subtract from (S, A, K)."""
    baseline = np.asarray(baseline)
    b = baseline[t] if baseline.ndim == 2 else baseline
    return b[:, None, None] if b.ndim else b
