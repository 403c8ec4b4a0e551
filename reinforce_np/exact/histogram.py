"""Moments of estimators that see a trajectory only through its return (and its length).

Then all trajectories with the same return are one *class*. Let R take the value v
with probability q_v, and let F be the sum of scores: with m_v = E[F | R=v] and
C_v = E[F Fᵀ | R=v], a batch of classes v_1, ..., v_N, on which the estimator
puts the weights w_1, ..., w_N, contributes

    E[ĝ | classes] = Σₙ wₙ m_{vₙ} = s,      E[ĝĝᵀ | classes] = s sᵀ + Σₙ wₙ² (C_{vₙ} − m_{vₙ} m_{vₙ}ᵀ),

and only batches of classes have to be listed: with a 0/1 verifier N + 1 of them
for a group of N, whatever the number of trajectories. The classes come from a forward
recursion on the model whose state also carries the return so far.
"""

from dataclasses import dataclass, replace

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators import (
    BatchStandardised,
    GeometricMeanRatio,
    GroupMean,
    GroupStandardised,
    LeaveOneOut,
    OnPolicy,
    PerLength,
    PerToken,
    PerTrajectory,
    RewardToGo,
    SelfNormalisedRatio,
    TotalReturn,
    VTrace,
)
from reinforce_np.estimators.groups import SAME
from reinforce_np.exact import batches, listing
from reinforce_np.exact.callables import check_family
from reinforce_np.exact.record import Moments
from reinforce_np.exact.traces import every_step, step_table
from reinforce_np.trajectories import Trajectories

NODE_LIMIT = 2**24  # (state, return so far) nodes of one step, times parameters
MATRIX_LIMIT = 2**27  # numbers in the second moments of all nodes of a step, when a covariance is wanted


@dataclass(frozen=True, eq=False)
class Classes:
    """What a trajectory can look like to an estimator that sees its return.

    Parameters
    ----------
    prompt : int array (V,)
        First state.
    value : array (V,)
        Return.
    length : int array (V,)
        Number of steps; 1 where lengths do not matter.
    probability : array (V,)
        q_v, first state included; sums to one.
    mean : array (V, D)
        m_v, divided by the length where the normaliser asks for it.
    within : array (V, D) or (V, D, D)
        C_v − m_v m_vᵀ, or its diagonal.
    """

    prompt: np.ndarray
    value: np.ndarray
    length: np.ndarray
    probability: np.ndarray
    mean: np.ndarray
    within: np.ndarray


def has_histogram(estimator, mdp, behaviour=None):
    """Return whether `moments_by_histogram` applies to the estimator.

    Parameters
    ----------
    estimator, mdp, behaviour
        As in `moments`.

    Returns
    -------
    bool
    """
    if behaviour is not None or mdp.horizon is None:
        return False
    if isinstance(estimator.ratio, SelfNormalisedRatio) or any(
        penalty.place == "loss" for penalty in estimator.penalty
    ):
        return False
    advantage = estimator.advantage
    if isinstance(advantage, BatchStandardised):
        advantage = advantage.of
    if isinstance(advantage, LeaveOneOut):
        return not advantage.per_step
    if isinstance(advantage, RewardToGo):  # the same number at every step when all is paid at the end
        ratio = estimator.ratio
        if isinstance(ratio, VTrace) and min(ratio.rho_limit, ratio.c_limit) < 1:  # weighs steps by how many come after
            return False
        return mdp.gamma == 1 and advantage.baseline.ndim == 0 and not estimator.penalty and _paid_at_the_end(mdp)
    return isinstance(advantage, TotalReturn | GroupMean | GroupStandardised)


def moments_by_histogram(
    estimator, mdp, policy, theta, *, prompts=1, group_size=1, behaviour=None, covariance=False, limit=batches.LIMIT
):
    """Return the exact moments of an estimator that sees its batch only through the returns.

    Applies on-policy to `TotalReturn`, RLOO, the in-sample mean, GRPO in all
    variants and batch standardisation of whole returns, with any normaliser;
    and to reward-to-go where everything is paid at the end and γ = 1.

    Parameters
    ----------
    estimator, mdp, policy, theta, prompts, group_size, behaviour, covariance, limit
        As in `moments`.

    Returns
    -------
    Moments

    Raises
    ------
    ValueError
        When the estimator looks at more than returns.
    TooLargeError
        When there are too many distinct returns.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp = examples.copy_task()
    >>> policy = TabularSoftmax(mdp.n_states, mdp.n_actions)
    >>> found = moments_by_histogram(algorithms.grpo(), mdp, policy, np.zeros(policy.n_parameters), group_size=64)
    >>> found.n_batches
    130
    """
    prompts = arguments.integer("prompts", prompts, low=1)
    group_size = arguments.integer("group_size", group_size, low=1)
    check_family(estimator)
    arguments.check_same_model(mdp, policy)
    theta = policy.real_theta(theta)
    if not has_histogram(estimator, mdp, behaviour):
        raise ValueError(
            f"estimator={estimator!r} sees more than returns, or is off-policy; use moments_by_enumeration"
        )
    batches.check_sizes(estimator, mdp)
    shape = {"prompts": prompts, "group_size": group_size, "in_order": False}
    counted = {**shape, "limit": limit, "what": ("histogram", "different returns")}
    found = return_classes(
        estimator, mdp, policy, theta, covariance=covariance,
        check=lambda sizes: batches.check_count(sizes, qualified="at least ", **counted),
    )  # fmt: skip
    starts = [np.flatnonzero(found.prompt == s) for s in np.unique(found.prompt)]
    batches.check_count([len(start) for start in starts], **counted)
    initial = np.array([found.probability[start].sum() for start in starts])
    D, n_batches = policy.n_parameters, 0
    mean, second = np.zeros(D), np.zeros((D, D) if covariance else D)
    rows = max(batches.AT_ONCE // (prompts * group_size), 1)
    for members, p in listing.batches(starts, found.probability, initial, rows=rows, **shape):
        w = _weights(estimator, found, members, group_size, mdp, policy, theta)
        s = np.einsum("bn,bnd->bd", w, found.mean[members])
        mean = mean + p @ s
        spread = np.zeros(len(found.value))  # E[Σ wₙ² of each class]
        np.add.at(spread, members.ravel(), (p[:, None] * w**2).ravel())
        second = second + np.einsum("v,v...->...", spread, found.within)
        second = second + ((p[:, None] * s).T @ s if covariance else p @ s**2)
        n_batches += len(members)
    spread = second - (np.outer(mean, mean) if covariance else mean**2)
    variance = np.maximum(np.diag(spread) if covariance else spread, 0.0)
    return Moments(
        mean=mean,
        variance=variance,
        covariance=spread if covariance else None,
        second_moment=variance + mean**2,
        scale=batches.estimate_scale(estimator, mdp, policy, theta),
        n_steps=mdp.horizon,
        n_batches=n_batches,
        route="histogram",
    )


def return_classes(estimator, mdp, policy, theta, *, covariance=False, check=lambda sizes: None):
    """Return the classes of trajectories, by a forward recursion over (first state, state, return so far).

    Parameters
    ----------
    estimator, mdp, policy, theta
        As in `moments_by_histogram`.
    covariance : bool
        Whether the second moments are wanted whole.
    check : callable
        Is given how many classes every first state has, after each step as far as is known then, and may refuse.

    Returns
    -------
    Classes
    """
    pi, psi = policy.probabilities(theta), policy.score(theta)
    D = policy.n_parameters
    square = (lambda x: np.einsum("...d,...e->...de", x, x)) if covariance else (lambda x: x**2)
    twice = (lambda x, y: _sym(x, y)) if covariance else (lambda x, y: 2 * x * y)
    rewards = mdp.reward
    if estimator.penalty:
        steps = every_step(mdp, policy, theta, policy.log_probabilities(theta))
        rewards = rewards + step_table(sum(p.reward(steps) for p in estimator.penalty), mdp)[:, :, None]
    s = np.flatnonzero(mdp.initial > 0)
    prompt, ret, size, f = s, np.zeros(len(s)), np.zeros(len(s)), mdp.initial[s]
    F, Q = np.zeros((len(s), D)), np.zeros((len(s), D, D) if covariance else (len(s), D))
    ended = []
    for t in range(mdp.horizon):
        node, a, k = np.nonzero((pi[s][:, :, None] * mdp.probability[s]) > 0)
        _check_nodes(len(node), D, covariance)
        at = s[node]
        p = pi[at, a] * mdp.probability[at, a, k]
        score = psi[at, a]
        paid = mdp.gamma**t * rewards[at, a, k]
        value, size = ret[node] + paid, size[node] + np.abs(paid)
        f_next = p * f[node]
        F_next = p[:, None] * (F[node] + f[node, None] * score)
        Q_next = Q[node] + twice(F[node], score) + f[node].reshape(-1, *([1] * (Q.ndim - 1))) * square(score)
        Q_next = p.reshape(-1, *([1] * (Q.ndim - 1))) * Q_next
        over = mdp.terminated[at, a, k] | (t + 1 == mdp.horizon)
        into = mdp.next_state[at, a, k]
        ended.append(
            (
                prompt[node][over], value[over], size[over], np.full(over.sum(), t + 1),
                f_next[over], F_next[over], Q_next[over],
            )
        )  # fmt: skip
        keys = np.stack([prompt[node][~over], into[~over], _same(value[~over], size[~over], mdp.horizon)], axis=1)
        _, first, index = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        index = index.ravel()
        prompt, s, ret = prompt[node][~over][first], into[~over][first], value[~over][first]
        size = _largest(size[~over], index, len(first))
        check(_fewest_classes(prompt, s, ended, mdp.horizon))
        f, F, Q = (_added(x[~over], index, len(first)) for x in (f_next, F_next, Q_next))
    if not ended:  # no steps at all
        ended = [(s, ret, size, np.zeros(len(s), dtype=int), f, F, Q)]
    return _collected(estimator, [np.concatenate(part) for part in zip(*ended, strict=True)], mdp.horizon, square)


def _fewest_classes(prompt, s, ended, horizon):
    """Return how many classes each first state will have at least.

    Returns that differ by now and go on from the same state will still differ.
    """
    went_on = np.unique(np.stack([prompt, s]), axis=1, return_counts=True)
    over, value, size = (np.concatenate([part[i] for part in ended]) for i in (0, 1, 2))
    over = np.unique(np.stack([over, _same(value, size, horizon)]), axis=1)[0]
    firsts = np.union1d(prompt, over)
    sizes = np.zeros(len(firsts), dtype=np.intp)
    np.maximum.at(sizes, np.searchsorted(firsts, went_on[0][0]), went_on[1])
    return np.maximum(sizes, np.bincount(np.searchsorted(firsts, over), minlength=len(firsts))).tolist()


def _collected(estimator, ended, horizon, square):
    """Join what ended with the same first state, return and (where it matters) length."""
    possible = ended[4] > 0  # what underflowed cannot be divided by
    prompt, value, size, length, f, F, Q = (part[possible] for part in ended)
    own = np.maximum(length, 1) ** float(_own_lengths(estimator))
    matters = _lengths_matter(estimator)
    keys = np.stack([prompt, _same(value, size, horizon), length if matters else np.ones_like(length)], axis=1)
    _, first, index = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    index, n = index.ravel(), len(first)
    f = _added(f, index, n)
    mean = _added(F / own[:, None], index, n) / f[:, None]
    second = _added(Q / own.reshape(-1, *([1] * (Q.ndim - 1))) ** 2, index, n) / f.reshape(-1, *([1] * (Q.ndim - 1)))
    lengths = length[first] if matters else np.ones(n, dtype=int)
    return Classes(prompt[first], value[first], lengths, f, mean, second - square(mean))


def _weights(estimator, found, members, group_size, mdp, policy, theta):
    """Return the weight on every score of each member, shape (B, N), by showing the estimator one stand-in per member.

    A stand-in has the class's return and length, and was drawn by the policy itself.
    """
    n_batches, size = members.shape
    v = members.ravel()
    T = max(int(found.length.max(initial=1)), 1)
    a = np.argmax(policy.probabilities(theta), axis=1)
    states = np.repeat(found.prompt[v][:, None], T, axis=1)
    live = np.arange(T) < found.length[v][:, None]
    log_pi = policy.log_probabilities(theta)[states, a[states]]
    rewards = np.zeros((len(v), T))
    if isinstance(_inner(estimator.advantage), RewardToGo):
        rewards[np.arange(len(v)), np.maximum(found.length[v], 1) - 1] = found.value[v]
    else:
        rewards[:, 0] = found.value[v]
    stand_ins = Trajectories(
        states=states,
        actions=a[states],
        rewards=rewards,
        lengths=found.length[v],
        terminated=np.ones(len(v), dtype=bool),
        truncated=np.zeros(len(v), dtype=bool),
        final_states=found.prompt[v],
        log_probabilities=np.where(live, log_pi, 0.0),
        groups=np.arange(len(v)) // group_size,
    )
    normaliser = PerTrajectory() if isinstance(estimator.normaliser, PerLength) else estimator.normaliser
    ratio = OnPolicy() if isinstance(estimator.ratio, GeometricMeanRatio) else estimator.ratio
    plain = replace(estimator, penalty=(), normaliser=normaliser, ratio=ratio)
    batch = plain.batch(stand_ins, mdp, policy, theta, labels=np.repeat(np.arange(n_batches), size))
    return plain.batch_weights(batch)[:, 0].reshape(n_batches, size)


def _inner(advantage):
    return advantage.of if isinstance(advantage, BatchStandardised) else advantage


def _own_lengths(estimator):
    """Return how often an estimate is divided by the length of its own trajectory."""
    return isinstance(estimator.normaliser, PerLength) + isinstance(estimator.ratio, GeometricMeanRatio)


def _lengths_matter(estimator):
    """Whether the length of one trajectory changes the weights of the others."""
    advantage = estimator.advantage
    return isinstance(estimator.normaliser, PerToken) or (
        isinstance(advantage, BatchStandardised) and advantage.per_token
    )


def _paid_at_the_end(mdp):
    """Whether only the last step of an episode pays."""
    last = mdp.terminated | (mdp.horizon == 1)
    return not np.any((mdp.probability > 0) & ~last & (mdp.reward != 0))


def _same(value, size, horizon):
    """Return a label for each return: neighbours no further apart than rounding of their terms, Σ γᵗ|r|, share one."""
    order = np.argsort(value, kind="stable")
    ascending, size = value[order], size[order]
    gap = SAME * max(horizon - 1, 0) * np.maximum(size[1:], size[:-1])
    labels = np.zeros(len(value), dtype=np.intp)
    labels[order[1:]] = np.cumsum(np.diff(ascending) > gap)
    return labels


def _largest(x, index, n):
    largest = np.zeros(n)
    np.maximum.at(largest, index, x)
    return largest


def _added(x, index, n):
    total = np.zeros((n, *x.shape[1:]))
    np.add.at(total, index, x)
    return total


def _sym(x, y):
    outer = np.einsum("nd,ne->nde", x, y)
    return outer + np.swapaxes(outer, 1, 2)


def _check_nodes(n, D, covariance):
    if n * D > NODE_LIMIT or (covariance and n * D * D > MATRIX_LIMIT):
        raise arguments.TooLargeError(
            f"too many distinct returns: {n} pairs of state and return so far, with {D} parameters"
            + (" and their covariance" if covariance else "")
            + "; use a shorter horizon, fewer states, a LinearSoftmax of fewer parameters, fewer distinct rewards, or gamma=1"
            + (", or covariance=False" if covariance else "")
        )
