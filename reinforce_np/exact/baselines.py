"""Optimal baselines, exactly: the folklore says V, the variance says otherwise.

For the total-return form ĝ = z (R − b), z = Σ_t ψ_t, the variance of the
sum of all components is least at b = E[‖z‖² R] / E[‖z‖²], and that of component i at
b_i = E[z_i² R] / E[z_i²]. For reward-to-go the same argument for a single step
gives b(t, s) = E[‖ψ‖² Q_t(s, a)] / E[‖ψ‖²], which ignores the covariance between steps: it is best for every
step by itself, and sometimes worse than V for their sum.
"""

import numpy as np

from reinforce_np import arguments
from reinforce_np.exact import bellman
from reinforce_np.exact.objectives import Discounted
from reinforce_np.exact.values import action_values, induced

LEVELS = ("trajectory", "component", "state")


@bellman.refuses_overflow
def optimal_baseline(mdp, policy, theta, *, level):
    """Return the score-norm-weighted baseline: of least variance for whole returns, and for every step by itself.

    Parameters
    ----------
    mdp : FiniteMDP
        The model; with a horizon, except for level "state".
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (D,)
        Its parameters.
    level : {"trajectory", "component", "state"}
        One number for `TotalReturn`; one per component of the gradient, for
        ``PerComponent(TotalReturn(), ...)``; or one per time and state, for
        `RewardToGo`, best for each step by itself.

    Returns
    -------
    float, array (D,), or array (T, S) (array (S,) without a horizon)

    Raises
    ------
    ValueError
        When rewards, added up over an episode, leave float64.

    References
    ----------
    Greensmith, Bartlett & Baxter, "Variance Reduction
    Techniques for Gradient Estimates in Reinforcement Learning", JMLR 5
    (2004); Peters & Schaal (2008), equation (20).

    Examples
    --------
    Where the arms are equally likely, the baseline is the mean reward.

    >>> from reinforce_np import TabularSoftmax, examples
    >>> optimal_baseline(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), [0.0, 0.0], level="trajectory")
    0.5
    """
    if level not in LEVELS:
        raise ValueError(f"level={level!r} is unknown; pass one of {', '.join(map(repr, LEVELS))}")
    theta = policy.real_theta(theta)
    if level == "state":
        pi, squares = policy.probabilities(theta), _score_squares(policy, theta)
        Q = action_values(mdp, policy, theta)
        norm = (pi * squares).sum(axis=-1)
        return np.divide((pi * squares * Q).sum(axis=-1), norm, out=Q.mean(axis=-1), where=norm > 0)
    if mdp.horizon is None:
        raise ValueError(f"horizon=None: level={level!r} needs a horizon; use level='state' or replace(horizon=...)")
    weighted, norm = _weighted_returns(mdp, policy, theta)
    if level == "component":
        return np.divide(weighted, norm, out=np.zeros_like(norm), where=norm > 0)
    return float(weighted.sum() / norm.sum()) if norm.sum() > 0 else 0.0


def _score_squares(policy, theta):
    """Return ‖∇log π(a|s)‖², shape (S, A)."""
    return (policy.score(theta) ** 2).sum(axis=-1)


def _weighted_returns(mdp, policy, theta):
    """Return E[z_i² R] and E[z_i²], shape (D,), by the recursion of z = ψ + z', R = r + γR'."""
    arguments.check_same_model(mdp, policy)
    pi, _, gamma = induced(mdp, policy, theta, Discounted())
    psi = policy.score(theta)[:, :, None]
    P, live, r = (pi[:, :, None] * mdp.probability)[..., None], ~mdp.terminated[..., None], mdp.reward[..., None]
    S, D = mdp.n_states, policy.n_parameters
    R, zz, zR, zzR = np.zeros((S, 1)), *(np.zeros((S, D)) for _ in range(3))
    for _ in range(mdp.horizon):
        R1, zz1, zR1, zzR1 = (live * moment[mdp.next_state] for moment in (R, zz, zR, zzR))
        G, zG, zzG = r + gamma * R1, gamma * zR1, r * zz1 + gamma * zzR1  # E[z'] = 0
        R = (P * G).sum(axis=(1, 2))
        zz = (P * (psi**2 + zz1)).sum(axis=(1, 2))
        zR = (P * (psi * G + zG)).sum(axis=(1, 2))
        zzR = (P * (psi**2 * G + 2 * psi * zG + zzG)).sum(axis=(1, 2))
    return mdp.initial @ zzR, mdp.initial @ zz
