"""Moments of score sums and returns: estimators that credit every step with the whole return.

Of one trajectory let F = Σ_t ψ_t be the sum of its scores and R its return,
from which a number J is subtracted so that digits survive. All that is needed of
(R − b) F, of RLOO and of the in-sample mean are

    N_k = E[(R−J)ᵏ],    Z_k = E[F (R−J)ᵏ],    M_k = E[F Fᵀ (R−J)ᵏ],    k = 0, 1, 2.

Split at step t into C, what was collected before it minus J, and γᵗ R_t, what
comes. With F' the score sum after step t,

    M_k = Σ_t E[(ψ_t ψ_tᵀ + ψ_t F'ᵀ + F' ψ_tᵀ) Σ_j binom(k,j) Cʲ (γᵗ R_t)^{k−j}],

where f_j(s) = E[Cʲ; s_t = s] runs forwards, and E[R_tⁱ] and E[F R_tⁱ] run backwards. Of the outcomes that lead from s
to the same successor j only the sums Σ μp rⁿ matter, so both recursions run over pairs of states, as in `pairs`:

    E[F' Rⁱ; a] = Σ_j Σ_l binom(i,l) γˡ (Σₖ μp r^{i−l}) E[F Rˡ | j],        R = r + γR'.
"""

from dataclasses import dataclass

import numpy as np

from reinforce_np import graph
from reinforce_np.exact import bellman
from reinforce_np.exact.pairs import NUMBERS, OUTCOMES

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
    """Run the two recursions over pairs of states, among those that the start can reach.

    Parameters
    ----------
    mdp, W, rewards, psi, initial, centre, covariance
        As in `return_moments_by_outcomes`.

    Returns
    -------
    ReturnMoments
    """
    if not mdp.horizon:
        return return_moments_by_outcomes(mdp, W, rewards, psi, initial=initial, centre=centre, covariance=covariance)
    mdp = mdp.replace(initial=initial)
    states = np.flatnonzero(graph.reachable(mdp, W > 0, mdp.horizon - 1))
    if len(states) < mdp.n_states:
        mdp, W, rewards, psi = graph.restricted(mdp, states), W[states], rewards[states], psi[states]
    pairs, touched = _Pairs(mdp, W, rewards, centre), (psi != 0).any(axis=1)
    if not covariance and np.all(touched.sum(axis=0) <= 1):
        e, m = np.flatnonzero(touched.any(axis=0)), np.zeros((3, psi.shape[-1]))
        G, m[:, e] = _local(pairs, psi[..., e], touched[:, e].argmax(axis=0))
    else:
        G, H = _everywhere(pairs, psi)
        if covariance:
            half = np.stack([np.tensordot(psi, H[:, k], axes=((0, 1), (0, 1))) for k in range(3)])
            m = half + np.swapaxes(half, 1, 2)
        else:
            m = 2 * np.einsum("sae,skae->ke", psi, H)
    start = mdp.initial @ pairs.R
    n = np.array([sum(BINOMIAL[k][j] * (-centre) ** j * start[k - j] for j in range(k + 1)) for k in range(3)])
    return ReturnMoments(n, np.einsum("sae,ska->ke", psi, G), m)


class _Pairs:
    """Outcomes merged by successor, and what does not depend on the direction.

    ``M[s, i, a, j, l]`` takes E[x Rˡ | j] of the next step to E[x Rⁱ | s, a], for x = 1 and x = F.
    """

    def __init__(self, mdp, W, rewards, centre):
        into, pair = mdp.neighbours.into, mdp.neighbours.pair
        S, A, J = self.shape = mdp.n_states, mdp.n_actions, len(into)
        self.into, self.horizon, self.gamma = np.ascontiguousarray(into.T), mdp.horizon, mdp.gamma
        self.at_once = max(OUTCOMES // W.size, 1)
        merge = bellman.summed(np.arange(S * A).reshape(S, A, 1) * J + pair // S, S * A * J)
        powers = [rewards**i for i in range(3)]
        paid = [merge(np.where(mdp.terminated, 0.0, W * power)).reshape(S, A, J) for power in powers]
        self.ends = np.stack([(np.where(mdp.terminated, W, 0.0) * power).sum(axis=2) for power in powers], axis=1)
        self.M = np.zeros((S, 3, A, J, 3))
        for i in range(3):
            for low in range(i + 1):
                self.M[:, i, :, :, low] = BINOMIAL[i][low] * mdp.gamma**low * paid[i - low]
        self.M_sum = self.M.sum(axis=2)
        self.R = np.zeros((S, 3))
        self.R[:, 0] = 1.0  # E[Rⁱ | s] of what is still to come, and the moments of what is behind:
        self.f = self._collected(mdp.initial, centre, [x.sum(axis=1) for x in paid])

    def _collected(self, initial, centre, paid):
        """Return f_j(s) = E[Cʲ; s_t = s and alive], shape (T, 3, S); C = Σ_{u<t} γᵘ r_u − J."""
        arrive = bellman.summed(self.into, self.shape[0])
        f = np.empty((self.horizon, 3, self.shape[0]))
        f[0] = initial, -centre * initial, centre**2 * initial
        for t in range(self.horizon - 1):
            discount, (f0, f1, f2) = self.gamma**t, f[t, :, :, None]
            p, c, cc = paid[0], discount * paid[1], discount**2 * paid[2]
            f[t + 1] = arrive(p * f0), arrive(p * f1 + c * f0), arrive(p * f2 + 2 * c * f1 + cc * f0)
        return f

    def credits(self):
        """Yield, many steps at a time and the last ones first, E[Rⁱ; a], (B, S, 3, A), and the weight of it in order k, (B, S, 3, 3)."""
        S, _, J = self.shape
        for last in range(self.horizon, 0, -self.at_once):
            t = np.arange(max(last - self.at_once, 0), last)
            R = np.empty((len(t), S, J * 3))
            for b in reversed(range(len(t))):
                R[b] = self.R.take(self.into, axis=0).reshape(S, J * 3)
                self.R = self.ends.sum(axis=2) + np.einsum("six,sx->si", self.M_sum.reshape(S, 3, -1), R[b])
            PR = self.ends + (self.M.reshape(S, -1, J * 3) @ R[..., None]).reshape(len(t), *self.ends.shape)
            N = np.zeros((len(t), S, 3, 3))
            for k in range(3):
                for i in range(k + 1):
                    N[:, :, k, i] = BINOMIAL[k][i] * self.gamma ** (t * i)[:, None] * self.f[t, k - i]
            yield PR, N

    def blocks(self, E):
        """Return slices of states so small that what E directions need of their successors fits into a cache."""
        size = max(NUMBERS // (3 * self.shape[2] * max(E, 1)), 1)
        return [slice(first, first + size) for first in range(0, self.shape[0], size)]


def _future_scores(M, after, into):
    """Return the E[F' Rⁱ] that M makes of E[F Rˡ | j], (S, 3, E): of shape (n, rows of M, E)."""
    ahead, n = after.take(into, axis=0), M.shape[-2] * M.shape[-1]
    return M.reshape(len(M), -1, n) @ ahead.reshape(len(M), n, ahead.shape[-1])


def _everywhere(pairs, psi):
    """Return G (S, 3, A) with E[F (R−J)ᵏ] = Σ ψG, and H (S, 3, A, E) with M_k = Σ ψHᵀ + Hψᵀ."""
    (S, A, _), E = pairs.shape, psi.shape[-1]
    F, G, H = np.zeros((S, 3, E)), np.zeros((S, 3, A)), np.zeros((S, 3, A, E))
    for PR, N in pairs.credits():
        G += (N @ PR).sum(axis=0)
        for b in reversed(range(len(N))):
            after, F = F, np.empty_like(F)
            for s in pairs.blocks(E):
                found = _future_scores(pairs.M[s], after, pairs.into[s])
                H[s] += (N[b, s] @ found.reshape(len(found), 3, A * E)).reshape(len(found), 3, A, E)
                F[s] = found.reshape(len(found), 3, A, E).sum(axis=2) + PR[b, s] @ psi[s]
    return G, H + 0.5 * G[..., None] * psi[:, None]


def _local(pairs, psi, own):
    """Return G (S, 3, A) as above, and diag M_k, for directions whose score lives on one state each, `own` (E,)."""
    (S, A, J), E = pairs.shape, psi.shape[-1]
    e, i = np.arange(E), np.arange(3)
    psi = psi[own, :, e]  # (E, A)
    here = (3 * own[:, None] + i) * E + e[:, None]  # where E[F Rⁱ] of their own state are
    there = (3 * pairs.into[own][:, :, None] + i) * E + e[:, None, None]  # and of its successors
    M = np.einsum("ea,eiax->eix", psi, pairs.M[own].reshape(E, 3, A, J * 3))
    F, G, y = np.zeros((S, 3, E)), np.zeros((S, 3, A)), np.zeros((3, E))
    for PR, N in pairs.credits():
        G += (N @ PR).sum(axis=0)
        arising, ahead = np.einsum("ea,beia->bei", psi, PR.take(own, axis=1)), np.empty((len(N), *there.shape))
        for b in reversed(range(len(N))):
            after, F = F, np.empty_like(F)
            after.take(there, out=ahead[b], mode="clip")
            for s in pairs.blocks(E):
                F[s] = _future_scores(pairs.M_sum[s], after, pairs.into[s])
            F.reshape(-1)[here] += arising[b]
        PF = M @ np.moveaxis(ahead.reshape(len(N), E, J * 3), 0, -1)  # Σ ψ E[F' Rⁱ; a] of all steps, (E, 3, B)
        y += np.einsum("beki,eib->ke", N.take(own, axis=1), PF)
    return G, 2 * y + np.einsum("ea,eka,ea->ke", psi, G[own], psi)


def return_moments_by_outcomes(mdp, W, rewards, psi, *, initial, centre, covariance=False):
    """Run the two recursions as they are written, outcome by outcome.

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
        PF = _future_scores_by_outcomes(mdp, W, r, gamma, FR)
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


def _future_scores_by_outcomes(mdp, W, r, gamma, FR):
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
