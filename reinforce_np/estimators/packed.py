"""A short cut: the weights of reward-to-go on a batch as the sampler keeps it.

    w(s,a) = Σₙ Σₜ γᵗ (G_t − b(s_t)) 1{s_t = s, a_t = a},        G_t = r_t + γ G_{t+1}

This is what `Estimator.batch_weights` returns, added up per state and action.
There the formula is to be read; here it is fast, in one backward sweep over
the slots that were drawn, without (N, T) arrays.
"""

import numpy as np

from reinforce_np.estimators.advantages import RewardToGo
from reinforce_np.estimators.normalisers import Constant, PerTrajectory
from reinforce_np.estimators.ratios import OnPolicy

FEW = 2**15  # (trajectory, draw) cells for which all draws are looked at together
FEW_PLACES = 2**15  # for which sums are quick


def packed_weights(estimator, trajectories, mdp):
    """Return w(s,a) of a batch that is still packed, normaliser included, (S, A); None where the formula does not apply."""
    packed = vars(trajectories).get("packed")
    if packed is None or not packed.is_of(mdp.n_states, mdp.n_actions):
        return None
    if not applies(estimator, mdp, packed.n_steps):
        return None
    weights = sum(pair_weights(block, packed.meaning, estimator, mdp.gamma)[0] for block in packed.blocks)
    weights = weights / divisor(estimator, len(trajectories))
    return weights if np.isfinite(weights).all() else None


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


def backwards(block, meaning):
    """Yield draw i, its paths and places, and what is to go after it (number drawing,), from the last draw to the first.

    What is to go begins with zeros. It is brought to what is to go before the
    draw by whoever reads this, in place, and handed to those drawing one draw earlier.
    """
    n_draws, room = len(block.slots), np.zeros(block.n)
    to_go = room[: len(block.slots[-1]) if n_draws else 0]
    for i in reversed(range(n_draws)):
        slots = block.slots[i]
        if i + 1 < n_draws and i + 1 in block.moves:  # nothing is to go for those that stopped after this draw
            to_go = room[: len(slots)]
            block.moves[i + 1].undo(to_go)
        yield i, *meaning.paths(slots), to_go


def credits(block, meaning, estimator, gamma):
    """Yield draw i, step j of it, credit G_t − b(s_t), the place of the path, and G_t, from the last step to the first.

    Each array has an entry for every trajectory that took part in the draw;
    credits are zero for those that had finished. Arrays are used again for the next step.
    """
    baseline, at_once, rewards = estimator.advantage.baseline, meaning.at_once, np.empty(block.n)
    any_baseline, by_time = baseline.any(), baseline.ndim == 2
    b = _of_each_pair(baseline, meaning) if any_baseline and not by_time else None
    for i, paths, place, to_go in backwards(block, meaning):
        for j in reversed(range(steps_of_draw(block, meaning, i))):
            to_go *= gamma
            to_go += meaning.reward[j].take(paths, out=rewards[: len(paths)], mode="clip")
            if any_baseline and by_time:  # it may end with the longest episode, before the last draw does
                b = _of_each_pair(baseline[min(i * at_once + j, len(baseline) - 1)], meaning)
            yield i, j, to_go if b is None else to_go - b[j].take(place), place, to_go


def steps_of_draw(block, meaning, i):
    """Return how many steps of draw i count: all, but for the last at the horizon."""
    return min(meaning.at_once, block.n_steps - i * meaning.at_once)


def _of_each_pair(baseline, meaning):
    """Return b(s) wherever a pair (s,a) is looked up, and zero for finished trajectories."""
    of_pairs = np.broadcast_to(baseline, meaning.n_states).repeat(meaning.n_actions)
    return np.append(of_pairs, 0.0).take(meaning.pair)


def discounts(estimator, gamma, n_steps):
    """Return what the credit of each step is multiplied by, (T,)."""
    return gamma ** np.arange(n_steps) if estimator.discounted_score else np.ones(n_steps)


def pair_weights(block, meaning, estimator, gamma):
    """Return w(s,a) of one block (S, A), not divided by anything, and the sum of its returns.

    Parameters
    ----------
    block : Paths
        As it was drawn.
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
    baseline, way = estimator.advantage.baseline, weights_by_steps
    from_start = estimator.discounted_score or gamma == 1.0  # what is to go then counts the same at every step
    if meaning.at_once > 1 and from_start and baseline.ndim < 2:
        way = weights_by_paths
    if only_ends_pay(meaning, baseline):  # for the others, nothing is to go
        paid = block.paid(meaning)
        n_paid = np.count_nonzero(paid)
        if from_start and n_paid * len(block.slots) <= FEW:
            way = weights_of_paid
        elif n_paid * 2 < block.n:
            block = block.only(paid)
    with np.errstate(over="ignore", invalid="ignore"):  # refused by the caller
        weights, returned = way(block, meaning, estimator, gamma)
    return weights[:-1].reshape(meaning.n_states, meaning.n_actions), returned


def weights_by_steps(block, meaning, estimator, gamma):
    """Return the weights of pairs, (S·A + 1,), the last one of what finished trajectories drew, and the sum of returns."""
    discount = discounts(estimator, gamma, block.n_steps)
    few = meaning.pair.size <= FEW_PLACES  # each place has weights of its own then, and pairs are looked up at the end
    weights, returned = np.zeros(meaning.pair.shape if few else meaning.n_pairs + 1), 0.0
    for i, j, credit, place, to_go in credits(block, meaning, estimator, gamma):
        total, index = (weights[j], place) if few else (weights, meaning.pair[j].take(place))
        add_up(total, index, discount[i * meaning.at_once + j], credit)
        returned = to_go.sum() if i == j == 0 else 0.0
    return meaning.of_pairs(weights) if few else weights, returned


def weights_by_paths(block, meaning, estimator, gamma):
    """Return the same with γᵗ on the score, adding up over whole paths: two sums for a path, however many steps it has.

    A path p of k steps that pays r_0(p), r_1(p), ... and is drawn at step t gives its step j the weight

        γ^{t+j} (G_{t+j} − b(s_j)) = γ^{t+k} G_{t+k} + γᵗ (Σ_{i>=j} γⁱ r_i(p) − γʲ b(s_j)),

    so that all that is needed are Σ γ^{t+k} G_{t+k} and N(p) = Σ γᵗ over the times t that p was drawn. Where only ends
    pay, one of the two terms is zero, and Σ γᵗ G_t is all that is needed. Draws cut short by the horizon are apart.
    """
    k, baseline, shape = meaning.at_once, estimator.advantage.baseline, meaning.pair.shape
    only_ends, pays = only_ends_pay(meaning, baseline), rewards_of_paths(block, meaning, gamma)
    G, N, found, returned = np.zeros((2, shape[1])), np.zeros((2, shape[1])), np.empty(block.n), 0.0
    for i, paths, place, to_go in backwards(block, meaning):  # times γᵗ
        short = int(steps_of_draw(block, meaning, i) < k)
        if not only_ends:
            add_up(G[short], place, 1.0, to_go)
            add_up(N[short], place, gamma ** (i * k))
        now = pays[short][0].take(paths, out=found[: len(paths)], mode="clip")
        now *= gamma ** (i * k)
        to_go += now
        if only_ends:
            add_up(G[short], place, 1.0, to_go)
        returned = to_go.sum() if i == 0 else 0.0
    weights = of_steps(G, block, k)
    if not only_ends:
        b = (gamma ** np.arange(k))[:, None] * _of_each_pair(baseline, meaning)
        for short, later in enumerate(pays):
            weights[: len(later)] += (later - b[: len(later)]) * N[short]
    return meaning.of_pairs(weights), returned


def weights_of_paid(block, meaning, estimator, gamma):
    """Return the same where only the last step of a trajectory pays, from those few that are paid.

    Then γᵗ G_t is the same at all steps of a trajectory: its return.
    """
    k, n_places = meaning.at_once, meaning.pair.shape[1]
    pays, discount = rewards_of_paths(block, meaning, gamma), gamma ** (k * np.arange(len(block.slots)))
    paths, places = meaning.paths(block.slots_of(np.flatnonzero(block.paid(meaning)), meaning.first_finished))
    parts = slice(block.n_steps // k), slice(block.n_steps // k, None)  # whole draws, and one that is cut short
    G = sum(discount[part] @ later[0].take(paths[part]) for part, later in zip(parts, pays, strict=True) if len(later))
    each = np.broadcast_to(G, places.shape)
    sums = [np.bincount(places[part].ravel(), weights=each[part].ravel(), minlength=n_places) for part in parts]
    return meaning.of_pairs(of_steps(sums, block, k)), G.sum()


def rewards_of_paths(block, meaning, gamma):
    """Return Σ_{i>=j} γⁱ r_i(p) from each step j of each path, (steps, paths): of all steps, and of those before the horizon."""
    rewards = (gamma ** np.arange(meaning.at_once))[:, None] * meaning.reward
    return [
        np.cumsum(rewards[:steps][::-1], axis=0)[::-1] for steps in (meaning.at_once, block.n_steps % meaning.at_once)
    ]


def of_steps(sums, block, k):
    """Return for each step (k, places) what was added up over whole draws, and over those cut short, (2, places)."""
    return np.where(np.arange(k)[:, None] < block.n_steps % k, sums[0] + sums[1], sums[0])


def only_ends_pay(meaning, baseline):
    """Say whether credit comes from what the last step of a trajectory pays, and from nothing else."""
    return meaning.paid is not None and not baseline.any()


def add_up(total, index, factor, weights=None):
    """Add `factor` times the weights (n,), or ones, to the entries of `total` they belong to."""
    if len(total) < 4 * len(index):
        total += factor * np.bincount(index, weights=weights, minlength=len(total))
    else:
        np.add.at(total, index, factor if weights is None else factor * weights)


def finite(gradient):
    """Return `gradient`, refused where it leaves float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        known = np.isfinite(gradient.sum())  # quicker, and nearly always enough
    if not known and not np.isfinite(gradient).all():
        raise ValueError("the gradient overflows: rewards or baselines are too large for float64; rescale them")
    return gradient
