"""Which batches, and which state-action pairs, carry the variance and the bias of an estimator.

The variance is a sum over batches b already, Σ p(b) ‖ĝ(b) − E[ĝ]‖². The bias becomes one by comparing
with an estimate that is right,

    E[ĝ] − ∇J = Σ p(b) (ĝ(b) − u(b)),    E[u] = ∇J.

Any unbiased u will do for the sum, but what ĝ and u do differently by chance would hide what ĝ does wrong:
a baseline is no mistake. So u is the one with the least E‖ĝ − u‖, which is the same as ĝ on as many batches as
it can be, among

    Σ_t ψ_t [ γᵗA(s_t,a_t)                                             the true advantage
              + α₁ + α₂γᵗ + α₃γᵗV(s_t) + α₄V(s_0)                      baselines
              + α₅γᵗ(r_t + γV(s_{t+1}) − Q(s_t,a_t)) + Σ_j β_j δ_{t+j} ]   noise: δ_u = γᵘ(r_u + γV(s_{u+1}) − V(s_u)), j ≠ 0

and the returns of the others of a group: all but the first are zero in the mean. REINFORCE, rewards-to-go
with any of these baselines, λ-returns of the true V and leave-one-out are among them, so that nothing remains
of those. Where another policy draws the actions, the ratios are those up to max(t, u), or of the
whole trajectory, and what they change, γᵘV(s_u) (ρ_{0:u} − ρ_{0:u−1}), is noise as well. A penalty of the objective counts as a reward: its own derivative is zero in the mean.
"""

from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators import Estimator
from reinforce_np.exact.batches import (
    LIMIT,
    batch_of,
    check_estimates,
    check_exchangeable,
    estimate_scale,
    evaluated,
    every_batch,
    spread,
)
from reinforce_np.exact.callables import bound, path
from reinforce_np.exact.decomposition import variance_parts
from reinforce_np.exact.derivatives import gradient as exact_gradient
from reinforce_np.exact.derivatives import gradient_scale
from reinforce_np.exact.objectives import Discounted
from reinforce_np.exact.record import DOUBLE, Moments
from reinforce_np.exact.values import action_values, largest_return, values
from reinforce_np.exact.verdicts import judge, objective_of, verdict_of
from reinforce_np.problem import problem_of
from reinforce_np.trajectories import Trajectories

NUMBERS = 2**22  # of the estimates of all batches, held at once some thirty times
ROUNDS = 10  # of reweighted least squares
NEAR = 1e-6  # of the largest distance: what is nearer counts as there
ROUNDING = 1e-12  # of the largest return: temporal differences below are none
SAME = 1e-9  # relative difference of estimates that are the same but for the order of a sum


@dataclass(frozen=True, eq=False)
class Contributions:
    """Batches that carry the variance and the bias, largest first; prints as a table.

    Parameters
    ----------
    trajectories : Trajectories
        The most important ones; batch i is rows i·`batch_size` to (i + 1)·`batch_size`.
    probability : array (n,)
        Of each batch, in whatever order where the order does not matter.
    variance_share : array (n,)
        p ‖ĝ − E[ĝ]‖² over the total variance.
    bias_share : array (n,)
        p (ĝ − u) along the bias, over its length, u an unbiased estimate: what the batch adds to the
        bias; the shares of all batches sum to one. Zero for an unbiased estimator.
    batch_size : int
        Trajectories in a batch.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> everything = largest_contributions(algorithms.reinforce(), examples.bandit(), TabularSoftmax(1, 3), np.zeros(3))
    >>> round(float(everything.variance_share.sum()), 12)
    1.0
    """

    trajectories: Trajectories
    probability: np.ndarray
    variance_share: np.ndarray
    bias_share: np.ndarray
    batch_size: int = 1

    def __len__(self):
        return len(self.probability)

    def words(self, i):
        """Return batch i in words: states, actions and rewards of its members."""
        rows = range(i * self.batch_size, (i + 1) * self.batch_size)
        return "; ".join(path(self.trajectories, n) for n in rows)

    def __str__(self):
        start, header = [""] * len(self), ""
        if np.any(self.bias_share):
            start, header = [f"{share:+7.1%}  " for share in self.bias_share], "of bias  "
        rows = [
            f"{bias}{variance:11.1%}  {p:11.3g}  {self.words(i)}"
            for i, (bias, variance, p) in enumerate(zip(start, self.variance_share, self.probability, strict=True))
        ]
        return "\n".join([f"{header}of variance  probability  batch", *rows])


def largest_contributions(
    estimator,
    mdp,
    policy=None,
    theta=None,
    *,
    objective=Discounted(),
    n=5,
    by_bias=False,
    factor=1.0,
    prompts=None,
    group_size=None,
    behaviour=None,
    exchangeable=False,
    limit=LIMIT,
):
    """Return the batches that contribute most to the variance and to the bias of an estimator.

    Parameters
    ----------
    estimator : Estimator or callable
        As in `judge`.
    mdp : FiniteMDP or Problem
        As in `judge`; small enough to be listed.
    policy, theta
        Of a model.
    objective : Discounted, Undiscounted, KLRegularised or EntropyRegularised
        As in `judge`.
    n : int
        How many batches.
    by_bias : bool
        Order by the share of the bias alone, not of bias and variance together.
    factor : float
        What the mean is meant to be times the gradient: ĝ/factor is looked at.
    prompts, group_size, behaviour, exchangeable, limit
        As in `judge`.

    Returns
    -------
    Contributions

    Raises
    ------
    TooLargeError
        When there are too many batches to list.
    ValueError
        When a function was declared exchangeable and is not, or estimates leave float64.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3)
    >>> print(largest_contributions(algorithms.reinforce(), mdp, policy, np.zeros(3), n=1))
    of variance  probability  batch
          64.9%        0.333  s0 a2 r5, end
    """
    n = arguments.integer("n", n, low=1)
    arguments.flag("by_bias", by_bias)
    factor = arguments.number("factor", factor)
    if factor == 0:
        raise ValueError("factor=0.0 is no multiple to compare with; pass another number")
    problem = problem_of(mdp, policy, theta, prompts=prompts, group_size=group_size, behaviour=behaviour)
    objective = objective_of(objective, problem)
    estimator = bound(estimator, problem)
    trajectories, blocks = every_batch(estimator, problem, exchangeable=exchangeable, limit=limit)
    members, p, f, eps = _all_estimates(estimator, trajectories, blocks, problem)
    if exchangeable and not isinstance(estimator, Estimator):
        few = spread(len(p))
        check_exchangeable(estimator, trajectories, problem, members[few], f[few], eps)
    with np.errstate(over="ignore"):
        f /= factor
    check_estimates(float(np.abs(f).max(initial=0.0)))

    mean = p @ f
    squares = p * ((f - mean) ** 2).sum(axis=1)
    variance_share = squares / squares.sum() if squares.sum() else squares
    bias = _bias(estimator, problem, objective, trajectories, p, f, mean, eps)
    bias_share = np.zeros(len(p))
    if bias is not None:
        apart = f - _nearest_unbiased(trajectories, members, p, f, problem, objective)
        bias_share = p * (apart @ bias) / (bias @ bias)

    label = np.arange(len(p))
    if not isinstance(estimator, Estimator):
        label = _unordered(members, f, problem)
    first = np.unique(label, return_index=True)[1]
    p, variance_share, bias_share = (np.bincount(label, x).astype(float) for x in (p, variance_share, bias_share))
    weight = np.abs(bias_share) if by_bias and bias is not None else variance_share + np.abs(bias_share)
    top = np.argsort(-weight, kind="stable")[:n]
    rows = members[first[top]]
    shown = batch_of(trajectories, rows.ravel(), np.arange(rows.size) // problem.group_size)
    return Contributions(shown, p[top], variance_share[top], bias_share[top], rows.shape[1])


def _all_estimates(estimator, trajectories, blocks, problem):
    """Return members (B, size), probabilities (B,) and estimates (B, D) of all batches, and their unit rounding."""
    found, eps, n = [], DOUBLE, 0
    for members, p in blocks:
        n += members.shape[0] * problem.policy.n_parameters
        if n > NUMBERS:
            raise arguments.TooLargeError(
                f"the estimates of all batches are more than {NUMBERS} numbers; use smaller groups, fewer prompts or a "
                "shorter horizon"
            )
        f, eps = evaluated(estimator, trajectories, members, problem, eps)
        found.append((members, p, f))
    check_estimates(max(float(np.abs(f).max(initial=0.0)) for _, _, f in found))
    return *(np.concatenate(part) for part in zip(*found, strict=True)), eps


def _bias(estimator, problem, objective, trajectories, p, f, mean, eps):
    """Return E[ĝ] − ∇J, or None when it is rounding."""
    given = problem.mdp, problem.policy, problem.theta
    moments = Moments(
        mean=mean,
        variance=p @ (f - mean) ** 2,
        covariance=None,
        second_moment=p @ f**2,
        scale=estimate_scale(estimator, *given),
        n_steps=trajectories.n_steps,
        n_batches=len(p),
        route="enumeration",
        precision=eps,
    )
    gradient = exact_gradient(*given, objective=objective)
    verdict = verdict_of(moments, gradient, objective, scale=gradient_scale(*given, objective=objective))
    return verdict.bias if verdict.kind in ("biased", "proportional") else None


def _nearest_unbiased(trajectories, members, p, f, problem, objective):
    """Return u (B, D), the unbiased estimate for which Σ p ‖f − u‖ is least, by reweighted least squares."""
    returns, scores, pieces = _pieces(trajectories, problem, objective)
    u, *noise = (piece[members].mean(axis=1) for piece in pieces)
    if problem.group_size > 1:
        noise.append(_returns_of_others(returns, scores, members, problem.group_size))
    Z = np.array([z / length for z in noise if (length := np.sqrt(p @ (z**2).sum(axis=1)))])
    if not len(Z):
        return u
    flat, weight = Z.reshape(len(Z), -1), np.ones(len(p))
    for _ in range(ROUNDS):
        scaled = (Z * (p * weight)[:, None]).reshape(len(Z), -1)
        u = u + np.tensordot(np.linalg.lstsq(scaled @ flat.T, scaled @ (f - u).ravel(), rcond=None)[0], Z, axes=1)
        distance = np.sqrt(((f - u) ** 2).sum(axis=1))
        weight = 1.0 / np.maximum(distance / distance.max(), NEAR)
        weight /= weight.max()
    return u


def _pieces(trajectories, problem, objective):
    """Return returns (N,), score sums (N, D), and the unbiased estimate followed by estimates of zero, each (N, D).

    Returns and score sums carry the ratio of the trajectory.
    """
    mdp, policy, theta = problem.mdp.replace(horizon=trajectories.n_steps), problem.policy, problem.theta
    psi, log_pi = policy.score(theta), policy.log_probabilities(theta)
    gamma, bonus, T = objective.discount(mdp), objective.bonus(mdp, policy, theta), trajectories.n_steps
    V, Q = (of(mdp, policy, theta, objective=objective) for of in (values, action_values))
    s, a, live, t = trajectories.states, trajectories.actions, trajectories.mask, np.arange(T)
    discount, now = gamma**t, V[t, s]
    goes_on = (t + 1 < trajectories.lengths[:, None]) | (~trajectories.terminated[:, None])
    after = V[
        t + 1,
        np.where(t + 1 < trajectories.lengths[:, None], np.roll(s, -1, axis=1), trajectories.final_states[:, None]),
    ]
    rewards = np.where(live, trajectories.rewards + bonus[s, a], 0.0)
    rounding = ROUNDING * largest_return(mdp, policy, theta)  # of estimates of zero only their size would be left

    def resolved(x):
        return discount * np.where(np.abs(x) > rounding, x, 0.0)

    advantage, ahead = Q[t, s, a] - now, rewards + gamma * goes_on * after - now
    advantage, delta, drawn_outcome = discount * advantage, resolved(ahead), resolved(ahead - advantage)
    log_ratio = np.where(live, log_pi[s, a] - trajectories.log_probabilities, 0.0)
    ratios = np.exp(np.cumsum(log_ratio, axis=1))
    whole = np.broadcast_to(ratios[:, -1:], ratios.shape) if T else ratios
    start = np.broadcast_to(now[:, :1], now.shape)
    score = np.where(live[..., None], psi[s, a], 0.0)

    def weights(ratio):
        """The weights on the scores, of the estimates above in their order."""
        yield advantage * ratio
        yield from (x * ratio for x in (np.ones_like(now), discount, discount * now, start, drawn_outcome))
        drawn = ratio - np.pad(ratio, ((0, 0), (1, 0)))[:, :-1]  # zero in the mean from the second step on
        for lag in range(1, T):
            yield np.pad((live * delta * ratio)[:, lag:], ((0, 0), (0, lag)))
            yield np.pad((live * discount * now * drawn)[:, lag:], ((0, 0), (0, lag)))
            yield np.pad((live * delta)[:, :-lag], ((0, 0), (lag, 0))) * ratio

    def estimate(w):
        return np.einsum("nt,ntd->nd", w, score)

    pieces = [estimate(w) for w in weights(ratios)]
    if problem.behaviour is not None:
        right, *zero = (estimate(w) for w in weights(whole))
        pieces += [right - pieces[0], *zero]
    return (discount * rewards).sum(axis=1), estimate(whole), pieces


def _returns_of_others(returns, scores, members, group_size):
    """Return the mean over a batch of each score sum times the mean return of the others of its group, (B, D)."""
    B, size = members.shape
    R = returns[members].reshape(B, -1, group_size)
    others = ((R.sum(axis=2, keepdims=True) - R) / (group_size - 1)).reshape(B, size)
    return np.einsum("bn,bnd->bd", others, scores[members]) / size


def _unordered(members, f, problem) -> np.ndarray:
    """Return the same label for batches that hold the same trajectories, unless some estimate tells them apart."""
    groups = np.sort(members.reshape(len(members), problem.prompts, problem.group_size), axis=2)
    rows = np.array([sorted(map(tuple, batch)) for batch in groups.tolist()]).reshape(len(members), -1)
    _, first, label = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    label = label.reshape(-1)
    if np.abs(f - f[first][label]).max() > SAME * np.abs(f).max():
        return np.arange(len(members))
    return label


@dataclass(frozen=True, eq=False)
class Pairs:
    """State-action pairs that carry the variance and the bias, largest first; prints as a table.

    Parameters
    ----------
    states, actions : int array (n,)
        The pairs.
    variance_share : array (n,)
        What choosing the action in the state, and its outcome, add to the total variance; the rest, up to one, is
        the choice of the first state.
    bias_share : array (n,)
        Of the smallest weights c(s,a) on the scores whose sum Σ c ψ is the bias, the part c ψ along
        the bias, over its length; sums to one over all pairs. Zero for an unbiased estimator.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3)
    >>> largest_pairs(algorithms.reinforce(), mdp, policy, np.zeros(3), n=1).actions
    array([2])
    """

    states: np.ndarray
    actions: np.ndarray
    variance_share: np.ndarray
    bias_share: np.ndarray

    def __str__(self):
        rows = [
            f"{share:+7.1%}  {variance:11.1%}  state {s}, action {a}"
            for s, a, share, variance in zip(
                self.states, self.actions, self.bias_share, self.variance_share, strict=True
            )
        ]
        return "\n".join(["of bias  of variance  pair", *rows])


def largest_pairs(estimator, mdp, policy=None, theta=None, *, objective=Discounted(), n=5, behaviour=None, limit=LIMIT):
    """Return the state-action pairs that contribute most to the variance and to the bias of one trajectory's estimate.

    Parameters
    ----------
    estimator, mdp, policy, theta, behaviour, limit
        As in `variance_parts`.
    objective : Discounted, Undiscounted, KLRegularised or EntropyRegularised
        As in `judge`.
    n : int
        How many pairs.

    Returns
    -------
    Pairs

    Raises
    ------
    ValueError
        As `variance_parts`.
    TooLargeError
        As `variance_parts`.

    Examples
    --------
    A score without γᵗ goes wrong where time has passed:

    >>> from reinforce_np import Estimator, RewardToGo, TabularSoftmax, examples
    >>> mdp, policy = examples.delayed_chain().replace(gamma=0.5), TabularSoftmax(6, 2)
    >>> print(largest_pairs(Estimator(RewardToGo(), discounted_score=False), mdp, policy, np.zeros(12), n=3))
    of bias  of variance  pair
     +39.6%        25.8%  state 4, action 0
     +39.6%        25.8%  state 4, action 1
      +8.6%        12.9%  state 3, action 0
    """
    n = arguments.integer("n", n, low=1)
    problem = problem_of(mdp, policy, theta, behaviour=behaviour)
    parts = variance_parts(estimator, problem, limit=limit)
    verdict = judge(estimator, problem, objective=objective, limit=limit)
    if verdict.moments is None:
        raise ValueError(f"estimator={estimator!r} has no bias: {verdict.reason}")
    variance = parts.pairs / parts.total if parts.total else parts.pairs
    bias = np.zeros_like(variance)
    if verdict.kind in ("biased", "proportional"):
        along = problem.policy.score(problem.theta) @ verdict.bias
        bias = _smallest_weights(problem, verdict.bias) * along / (verdict.bias @ verdict.bias)
    top = np.argsort(-(variance + np.abs(bias)).ravel(), kind="stable")[:n]
    states, actions = np.unravel_index(top, variance.shape)
    return Pairs(states, actions, variance[states, actions], bias[states, actions])


def _smallest_weights(problem, vector):
    """Return the table c(s,a) of least length with Σ c ψ = `vector`."""
    psi = problem.policy.score(problem.theta)
    return np.linalg.lstsq(psi.reshape(-1, psi.shape[2]).T, vector, rcond=None)[0].reshape(psi.shape[:2])
