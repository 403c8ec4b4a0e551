"""The gradient of each trajectory: some hundred at a time, so that all that is looked at fits into the cache.

    ĝₙ = Σ_{s,a} wₙ(s,a) ∇log π(a|s),        wₙ(s,a) = N Σₜ w[n,t] 1{s_t = s, a_t = a}

`Estimator.batch_weights` is where the weights w[n,t] are to be read. Those of
reward-to-go are computed here as well, steps first and part by part. The sum
over states and actions is that of `ways`.
"""

import numpy as np

from reinforce_np.estimators.advantages import RewardToGo, TotalReturn
from reinforce_np.estimators.normalisers import Constant, PerLength, PerTrajectory
from reinforce_np.estimators.packed import TINY, applies, discounts, divisor, of_pairs
from reinforce_np.estimators.ratios import OnPolicy
from reinforce_np.estimators.ways import quickest
from reinforce_np.trajectories import FIELDS, WIDE, of_packed

CELLS = 2**18  # numbers held at once, of some trajectories
MOVED = 0.25  # steps that take as long as to move a weight elsewhere, as measured (more of them, for arrays)
STEPS = 2**17  # (trajectory, step) weights held at once
FEWEST = 256  # trajectories of very many steps: with fewer, what each step costs by itself is most of the time


def paid_part(estimator, trajectories):
    """Return which trajectories were paid anything, (N,), and their record, where that is all an estimator sees and most were not.

    Otherwise None. The weights of the others are zero.
    """
    advantage = estimator.advantage
    sees_rewards_only = type(advantage) in (RewardToGo, TotalReturn) and not np.any(advantage.baseline)
    by_itself = type(estimator.normaliser) in (PerTrajectory, PerLength, Constant)
    if not sees_rewards_only or not by_itself or type(estimator.ratio) is not OnPolicy or estimator.penalty:
        return None
    packed = vars(trajectories).get("packed")
    if packed is not None and packed.meaning.paid is None:
        return None
    paid = trajectories.rewards.any(axis=1) if packed is None else packed.paid()
    if np.count_nonzero(paid) * 2 >= len(paid):
        return None
    if packed is None:
        return paid, trajectories.take(paid)
    narrow = {name: getattr(trajectories, name)[paid] for name in FIELDS if name not in WIDE}
    return paid, of_packed(packed.only(paid), narrow)


def gradients_of_each(estimator, trajectories, mdp, policy, theta):
    """Return N Σₜ w[n,t] ∇log π(a|s) of each trajectory, (N, D); None where it has to be done otherwise.

    Parameters
    ----------
    estimator : Estimator
        Whose weights are meant.
    trajectories : Trajectories
        N of them, as `Trajectories.of_model` returns them.
    mdp, policy, theta
        As in `Estimator.weights`.

    Returns
    -------
    array (N, D) or None
        None where `applies` says no, without steps, for continuous actions, and where something leaves float64, so
        that whoever asked refuses it by name.
    """
    n, n_steps, S, A = len(trajectories), trajectories.n_steps, mdp.n_states, mdp.n_actions
    if not n_steps or not applies(estimator, mdp, n_steps) or getattr(policy, "is_density", False):
        return None
    discount, scale = discounts(estimator, mdp.gamma, n_steps)[:, None], n / divisor(estimator, n)
    baseline = _of_each_pair(estimator.advantage.baseline, S, A)
    gamma = mdp.gamma
    if (
        estimator.discounted_score and (discount * scale).min() > TINY
    ):  # else γᵗ loses its digits before it meets a reward
        discount, scale, gamma = discount * scale, 1.0, None
    way = quickest(trajectories, policy, S, A)(policy, theta, n)
    with np.errstate(over="ignore", invalid="ignore"):
        for index, pair, w in parts(trajectories, S, A, way):
            credit(w, None if baseline is None else baseline(pair), discount[: len(w)], gamma)
            if scale != 1.0:
                w *= scale
            if not way.add(index, pair, w):
                return None
    return way.result


def credit(r, b, discount, gamma):
    """Replace rewards r (T, N) by discount_t (G_t − b), b (T, N) or None; no `gamma` says that the discount has it."""
    if gamma is None:  # γᵗ G_t are the sums of γᵗ r_t from each step on
        r *= discount
        to_go(r, 1.0)
        if b is not None:
            r -= np.multiply(b, discount, out=b)
    else:
        to_go(r, gamma)
        if b is not None:
            r -= b
        r *= discount


def to_go(x, gamma):
    """Replace x (T, N) by its sums from each step on, x_t + γ x_{t+1} + γ² x_{t+2} + ..."""
    rows, later = list(x), np.empty(x.shape[1:])
    for now, after in zip(rows[-2::-1], rows[:0:-1], strict=True):
        now += after if gamma == 1.0 else np.multiply(after, gamma, out=later)


def rows_at_once(cells, n_steps, n):
    """Return how many of n trajectories of so many steps and cells to look at together; no more than a quarter, if they are many.

    What is held for them would be larger than what is returned, and new memory takes longer than what is done with it.
    """
    return max(1, min(CELLS // max(cells, 1), max(min(STEPS // max(n_steps, 1), n // 4), FEWEST)))


def parts(trajectories, n_states, n_actions, way):
    """Yield the trajectories to look at together, their pairs s·A + a, and their rewards, (steps of the longest, trajectories).

    After the end of an episode the pair is S·A and the reward zero. Where
    lengths differ much, long ones are looked at together, and short ones.
    """
    packed, first = vars(trajectories).get("packed"), 0
    readers = [_of_arrays(trajectories, n_states, n_actions)] if packed is None else map(packed.reader, packed.blocks)
    for n, read in readers:
        lengths = trajectories.lengths[first : first + n]
        saved = lengths.max() - lengths.mean() if n else 0  # steps of each, by looking at the long ones together
        order = np.argsort(lengths, kind="stable")[::-1] if saved > MOVED * way.cells(1) else None
        i = 0
        while i < n:
            n_steps = int(lengths.max() if order is None else lengths[order[i]])
            more = rows_at_once(way.cells(n_steps), n_steps, n)
            index = slice(i, min(i + more, n)) if order is None else order[i : i + more]
            pair, rewards = read(index, n_steps)
            here = slice(first + i, first + i + pair.shape[1]) if isinstance(index, slice) else first + index
            yield here, pair, rewards
            i += more
        first += n


def _of_arrays(trajectories, n_states, n_actions):
    """Return the number of trajectories, and the function that reads some of them from the arrays of the record."""
    states, actions, rewards, lengths = (
        getattr(trajectories, name).T for name in ("states", "actions", "rewards", "lengths")
    )

    def read(index, n_steps):
        pair = np.multiply(states[:n_steps, index], n_actions, dtype=np.intp, order="C", casting="unsafe")
        np.add(pair, actions[:n_steps, index], out=pair, casting="unsafe")  # they are in range
        paid = np.array(rewards[:n_steps, index], dtype=np.float64, order="C")
        if lengths[index].min() < n_steps:
            over = np.arange(n_steps)[:, None] >= lengths[index]
            pair[over], paid[over] = n_states * n_actions, 0.0
        return pair, paid

    return len(trajectories), read


def _of_each_pair(baseline, n_states, n_actions):
    """Return the function that looks up b(s) at pairs (T, N), zero after the end; None where it is zero everywhere."""
    if not baseline.any():
        return None
    b = of_pairs(baseline, n_states, n_actions)
    first = np.arange(len(b))[:, None] * b.shape[1]  # of each step, where there are baselines by time
    return lambda pair: b.take(pair if len(b) == 1 else pair + first[: len(pair)])
