"""Moments of score sums and returns: estimators that credit every step with the whole return.

Of one trajectory let F = Σ_t ψ_t be the sum of its scores and R its return,
from which a number J is subtracted so that digits survive. All that is needed of
(R − b) F, of RLOO and of the in-sample mean are

    N_k = E[(R−J)ᵏ],    Z_k = E[F (R−J)ᵏ],    M_k = E[F Fᵀ (R−J)ᵏ],    k = 0, 1, 2.

Split at step t into C, what was collected before it minus J, and γᵗ R_t, what
comes. With F' the score sum after step t,

    M_k = Σ_t E[(ψ_t ψ_tᵀ + ψ_t F'ᵀ + F' ψ_tᵀ) Σ_j binom(k,j) Cʲ (γᵗ R_t)^{k−j}],

where f_j(s) = E[Cʲ; s_t = s] runs forwards, and E[R_tⁱ] and E[F R_tⁱ] run backwards.
"""

from dataclasses import dataclass

import numpy as np

from reinforce_np.exact import bellman

BINOMIAL = ((1,), (1, 1), (1, 2, 1))


@dataclass(frozen=True, eq=False)
class ReturnMoments:
    """N_k, Z_k and M_k of one trajectory, k = 0, 1, 2.

    Parameters
    ----------
    n : array (3,)
        E[(R−J)ᵏ].
    z : array (3, E)
        E[F (R−J)ᵏ].
    m : array (3, E) or (3, E, E)
        Diagonals of E[F Fᵀ (R−J)ᵏ], or all of it.
    """

    n: np.ndarray
    z: np.ndarray
    m: np.ndarray


def return_moments(mdp, W, rewards, psi, *, initial, centre, covariance=False):
    """Run the two recursions.

    Parameters
    ----------
    mdp : FiniteMDP
        The model, with a horizon.
    W : array (S, A, K)
        Measure of an action and an outcome.
    rewards : array (S, A, K)
        With penalties in the reward.
    psi : array (S, A, E)
        Score along E directions.
    initial : array (S,)
        Distribution of the first state.
    centre : float
        J.
    covariance : bool
        Whether M_k is wanted whole, or its diagonal.

    Returns
    -------
    ReturnMoments
    """
    S, _, E = psi.shape
    gamma, live, into, r = mdp.gamma, ~mdp.terminated, mdp.next_state, rewards
    f = list(_collected(mdp, W, rewards, initial, centre))
    R = np.zeros((3, S))  # E[Rⁱ | s] of what is still to come
    R[0] = 1.0
    FR = np.zeros((3, S, E))  # E[F Rⁱ | s]
    G, H = np.zeros((3, *psi.shape[:2])), np.zeros((3, *psi.shape))
    for t in reversed(range(mdp.horizon)):
        R0, R1, R2 = np.where(live, R[0][into], 1.0), live * R[1][into], live * R[2][into]
        powers = R0, r * R0 + gamma * R1, r**2 * R0 + 2 * r * gamma * R1 + gamma**2 * R2
        PR = np.array([np.einsum("sak,sak->sa", W, power) for power in powers])
        PF = _future_scores(mdp, W, r, gamma, FR)
        for k in range(3):
            for j in range(k + 1):
                weight = BINOMIAL[k][j] * gamma ** (t * (k - j)) * f[t][j][:, None]
                G[k] += weight * PR[k - j]
                H[k] += weight[:, :, None] * (0.5 * PR[k - j][:, :, None] * psi + PF[k - j])
        FR = np.einsum("isa,sae->ise", PR, psi) + PF.sum(axis=2)
        R = PR.sum(axis=2)
    start = initial @ R.T
    n = np.array([sum(BINOMIAL[k][j] * (-centre) ** j * start[k - j] for j in range(k + 1)) for k in range(3)])
    if mdp.horizon == 0:
        n = np.array([1.0, -centre, centre**2])
    z = np.einsum("sae,ksa->ke", psi, G)
    if not covariance:
        return ReturnMoments(n, z, 2 * np.einsum("sae,ksae->ke", psi, H))
    half = np.stack([np.tensordot(psi, H[k], axes=((0, 1), (0, 1))) for k in range(3)])
    return ReturnMoments(n, z, half + np.swapaxes(half, 1, 2))


def _future_scores(mdp, W, r, gamma, FR):
    """Return E[F' Rⁱ; the episode goes on | s, a], i = 0, 1, 2, R = r + γR', shape (3, S, A, E)."""
    PF = np.zeros((3, *W.shape[:2], FR.shape[-1]))
    flow = W * ~mdp.terminated
    for a in range(mdp.n_actions):
        for k in range(mdp.n_outcomes):
            F0, F1, F2 = flow[:, a, k, None] * FR[:, mdp.next_state[:, a, k]]
            reward = r[:, a, k, None]
            PF[0, :, a] += F0
            PF[1, :, a] += reward * F0 + gamma * F1
            PF[2, :, a] += reward**2 * F0 + 2 * reward * gamma * F1 + gamma**2 * F2
    return PF


def _collected(mdp, W, rewards, initial, centre):
    """Yield f_j(s) = E[Cʲ; s_t = s and alive], j = 0, 1, 2, for t = 0, ..., T−1; C = Σ_{u<t} γᵘ r_u − J."""
    arrive, step = bellman.arrivals(mdp), W * ~mdp.terminated
    f = initial, -centre * initial, centre**2 * initial
    for t in range(mdp.horizon):
        yield f
        c = mdp.gamma**t * rewards
        f0, f1, f2 = (part[:, None, None] for part in f)
        f = arrive(step * f0), arrive(step * (f1 + c * f0)), arrive(step * (f2 + 2 * c * f1 + c**2 * f0))
