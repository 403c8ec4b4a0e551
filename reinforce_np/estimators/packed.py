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
    baseline = estimator.advantage.baseline
    any_baseline = baseline.any()
    if meaning.paid is not None and not any_baseline:  # the others have nothing to go
        paid = paths.paid(meaning)
        paths = paths.only(paid) if np.count_nonzero(paid) * 2 < paths.n else paths
    n_steps, shift = len(paths.slots), meaning.pair_shift
    discount = gamma ** np.arange(n_steps) if estimator.discounted_score else np.ones(n_steps)
    weights = np.zeros(len(meaning.state))  # of each slot, or of the few slots of a pair
    room, rewards = np.zeros(paths.n), np.empty(paths.n)
    to_go = room[: len(paths.slots[-1]) if n_steps else 0]
    with np.errstate(over="ignore", invalid="ignore"):  # refused by the caller
        for t in reversed(range(n_steps)):
            slots = paths.slots[t]
            if t + 1 < n_steps and t + 1 in paths.kept:  # nothing is to go for those dropped after this step
                later, to_go = to_go.copy(), room[: len(slots)]
                to_go[:] = 0.0
                to_go[paths.kept[t + 1]] = later
            to_go *= gamma
            to_go += meaning.reward.take(slots, out=rewards[: len(slots)], mode="clip")
            pair = slots >> shift if shift else slots
            credit = (
                to_go - _at(baseline[t] if baseline.ndim == 2 else baseline, meaning, pair) if any_baseline else to_go
            )
            if len(weights) < 4 * len(slots):
                weights += discount[t] * np.bincount(pair, weights=credit, minlength=len(weights))
            else:
                np.add.at(weights, pair, discount[t] * credit)
    live = slice(meaning.first_finished >> shift)
    index = meaning.state[live] * meaning.n_actions + meaning.action[live]
    shape = (meaning.n_states, meaning.n_actions)
    return np.bincount(index, weights=weights[live], minlength=shape[0] * shape[1]).reshape(shape), to_go.sum()


def _at(baseline, meaning, pair):
    """Return b(s) at each step, from a table (S,) or a number."""
    return baseline[meaning.state].take(pair) if baseline.ndim else baseline
