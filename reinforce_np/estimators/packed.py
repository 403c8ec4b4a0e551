"""Short cuts: the weights of reward-to-go on a batch as the sampler keeps it, and trajectories without any reward.

    w(s,a) = Σₙ Σₜ γᵗ (G_t − b(s_t)) 1{s_t = s, a_t = a},        G_t = r_t + γ G_{t+1}

This is what `Estimator.batch_weights` returns, added up per state and action.
There the formula is to be read; here it is fast, in one backward sweep over
the slots that were drawn, without (N, T) arrays.
"""

import numpy as np

from reinforce_np.estimators.advantages import RewardToGo, TotalReturn
from reinforce_np.estimators.normalisers import Constant, PerLength, PerTrajectory
from reinforce_np.estimators.ratios import OnPolicy
from reinforce_np.trajectories import FIELDS, WIDE, of_packed

CELLS = 2**17  # (trajectory, state, action) weights held at once: they fit into the cache


def packed_weights(estimator, trajectories, mdp):
    """Return w(s,a) of a batch that is still packed, normaliser included, (S, A); None where the formula does not apply."""
    packed = vars(trajectories).get("packed")
    if packed is None or not packed.is_of(mdp.n_states, mdp.n_actions):
        return None
    if not applies(estimator, mdp, packed.n_steps):
        return None
    weights = sum(pair_weights(paths, packed.meaning, estimator, mdp.gamma)[0] for paths in packed.blocks)
    weights = weights / divisor(estimator, len(trajectories))
    return weights if np.isfinite(weights).all() else None


def paid_part(estimator, trajectories, mdp):
    """Return which trajectories were paid anything, (N,), and their record, where that is all an estimator sees and most were not.

    Otherwise None. The weights of the others are zero.
    """
    advantage = estimator.advantage
    sees_rewards_only = type(advantage) in (RewardToGo, TotalReturn) and not np.any(advantage.baseline)
    by_itself = type(estimator.normaliser) in (PerTrajectory, PerLength, Constant)
    if not sees_rewards_only or not by_itself or type(estimator.ratio) is not OnPolicy or estimator.penalty:
        return None
    packed = vars(trajectories).get("packed")
    if packed is None:
        trajectories = trajectories.of_model(mdp.n_states, mdp.n_actions)
        if np.count_nonzero(trajectories.rewards) > len(trajectories):
            return None  # not few rewards
        paid = trajectories.rewards.any(axis=1)
    elif packed.meaning.paid is not None and packed.is_of(mdp.n_states, mdp.n_actions):
        paid = packed.paid()
    else:
        return None
    if np.count_nonzero(paid) * 2 >= len(paid):
        return None
    if packed is None:
        return paid, trajectories.take(paid)
    narrow = {name: getattr(trajectories, name)[paid] for name in FIELDS if name not in WIDE}
    return paid, of_packed(packed.only(paid), narrow)


def applies(estimator, mdp, n_steps):
    """Say whether the weights of an estimator are those of `pair_weights`, but for a constant."""
    if type(estimator.advantage) is not RewardToGo or type(estimator.ratio) is not OnPolicy or estimator.penalty:
        return False
    baseline = estimator.advantage.baseline
    fits = baseline.ndim == 0 or baseline.shape[-1] == mdp.n_states
    long_enough = baseline.ndim < 2 or len(baseline) >= n_steps
    return type(estimator.normaliser) in (PerTrajectory, Constant) and fits and long_enough


def divisor(estimator, n):
    """Return what the weights of n trajectories are divided by."""
    return n * getattr(estimator.normaliser, "c", 1.0)


def credits(paths, meaning, estimator, gamma):
    """Yield t, credit G_t − b(s_t), where to look up the pair (s_t, a_t), and G_t, from the last step to the first.

    Each array has an entry for every trajectory drawing at step t; credits are
    zero for those that had finished. Arrays are used again for the next step.
    """
    baseline, n_steps = estimator.advantage.baseline, len(paths.slots)
    any_baseline, by_time = baseline.any(), baseline.ndim == 2
    b = _of_each_pair(baseline, meaning) if any_baseline and not by_time else None
    room, rewards = np.zeros(paths.n), np.empty(paths.n)
    to_go = room[: len(paths.slots[-1]) if n_steps else 0]
    for t in reversed(range(n_steps)):
        slots = paths.slots[t]
        if t + 1 < n_steps and t + 1 in paths.kept:  # nothing is to go for those dropped after this step
            later, to_go = to_go.copy(), room[: len(slots)]
            to_go[:] = 0.0
            to_go[paths.kept[t + 1]] = later
        to_go *= gamma
        to_go += meaning.reward.take(slots, out=rewards[: len(slots)], mode="clip")
        pair = slots >> meaning.pair_shift if meaning.pair_shift else slots
        if any_baseline and by_time:
            b = _of_each_pair(baseline[t], meaning)
        yield t, to_go if b is None else to_go - b.take(pair), pair, to_go


def _of_each_pair(baseline, meaning):
    """Return b(s) wherever a pair (s,a) is looked up, and zero for finished trajectories."""
    of_pairs = np.broadcast_to(baseline, meaning.n_states).repeat(meaning.n_actions)
    return np.append(of_pairs, 0.0).take(meaning.pair)


def discounts(estimator, gamma, n_steps):
    """Return what the credit of each step is multiplied by, (T,)."""
    return gamma ** np.arange(n_steps) if estimator.discounted_score else np.ones(n_steps)


def pair_weights(paths, meaning, estimator, gamma):
    """Return w(s,a) of one block (S, A), not divided by anything, and the sum of its returns.

    Parameters
    ----------
    paths : Paths
        The block, as it was drawn.
    meaning : Meaning
        Of its slots.
    estimator : Estimator
        One to which this `applies`.
    gamma : float
        Discount per step.

    Returns
    -------
    array (S, A), float
    """
    if meaning.paid is not None and not estimator.advantage.baseline.any():  # the others have nothing to go
        paid = paths.paid(meaning)
        paths = paths.only(paid) if np.count_nonzero(paid) * 2 < paths.n else paths
    discount = discounts(estimator, gamma, len(paths.slots))
    weights, returned = np.zeros(len(meaning.pair)), 0.0  # weights of each slot, or of all slots of a pair
    with np.errstate(over="ignore", invalid="ignore"):  # refused by the caller
        for t, credit, pair, to_go in credits(paths, meaning, estimator, gamma):
            if len(weights) < 4 * len(pair):
                weights += discount[t] * np.bincount(pair, weights=credit, minlength=len(weights))
            else:
                np.add.at(weights, pair, discount[t] * credit)
            returned = to_go.sum() if t == 0 else 0.0
    n = meaning.n_states * meaning.n_actions  # what finished trajectories drew comes after them
    of_pairs = np.bincount(meaning.pair, weights=weights, minlength=n + 1)[:n]
    return of_pairs.reshape(meaning.n_states, meaning.n_actions), returned


def packed_gradients(estimator, trajectories, mdp, policy, theta):
    """Return N Σ_t w[n,t] ∇log π(a|s) of each trajectory of a batch that is still packed, (N, D); None as `packed_weights`.

    The weights of some hundred trajectories at a time are added up per state
    and action; with the states first, contracting them is quickest.
    """
    packed, n = vars(trajectories).get("packed"), len(trajectories)
    if packed is None or not packed.is_of(mdp.n_states, mdp.n_actions) or not applies(estimator, mdp, packed.n_steps):
        return None
    meaning, S, A = packed.meaning, mdp.n_states, mdp.n_actions
    rows = rows_at_once(S * A)
    state, action = divmod(np.minimum(meaning.pair, S * A - 1), A)  # wherever finished trajectories are: without weight
    cell_of = (state * rows * A + action).astype(np.int32)  # in an array (S, rows, A), but for the row
    result, first = np.empty((n, policy.n_parameters)), 0
    for paths in packed.blocks:
        n_steps, row = len(paths.slots), (np.arange(paths.n) % rows * A).astype(np.int32)
        cells, w = np.zeros((n_steps, paths.n), dtype=np.int32), np.zeros((n_steps, paths.n))
        discount = discounts(estimator, mdp.gamma, n_steps) * (n / divisor(estimator, n))
        lanes = [lanes for _, _, lanes in paths.steps()]
        with np.errstate(over="ignore", invalid="ignore"):
            for t, credit, pair, _ in credits(paths, meaning, estimator, mdp.gamma):
                if lanes[t] is None:
                    cell_of.take(pair, out=cells[t], mode="clip")
                    np.multiply(credit, discount[t], out=w[t])
                else:
                    cells[t, lanes[t]] = cell_of.take(pair, mode="clip")
                    w[t, lanes[t]] = credit * discount[t]
                cells[t] += row
            if not np.isfinite(w.sum()):
                return None  # to be refused by name
        for i in range(0, paths.n, rows):
            some = slice(i, min(i + rows, paths.n))
            sums = np.bincount(cells[:, some].ravel(), weights=w[:, some].ravel(), minlength=S * rows * A)
            weights = sums.reshape(S, rows, A).swapaxes(0, 1)[: some.stop - i]
            with np.errstate(over="ignore", invalid="ignore"):
                result[first + i : first + some.stop] = finite(policy.contract(theta, weights))
        first += paths.n
    return result


def finite(gradient):
    """Return `gradient`, refused where it leaves float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        known = np.isfinite(gradient.sum())  # quicker, and nearly always enough
    if not known and not np.isfinite(gradient).all():
        raise ValueError("the gradient overflows: rewards or baselines are too large for float64; rescale them")
    return gradient


def rows_at_once(n_pairs):
    """Return how many trajectories to hold in an array (S, rows, A) of weights, in which the states are far apart.

    An odd number: with a power of two, the weights of all states of a
    trajectory would compete for the same lines of the cache.
    """
    return max(CELLS // n_pairs - 1, 0) | 1
