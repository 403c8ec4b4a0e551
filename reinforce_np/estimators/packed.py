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
TINY = 1e-290
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


def steps_of_draw(block, meaning, i):
    """Return how many steps of draw i count: all, but for the last at the horizon."""
    return min(meaning.at_once, block.n_steps - i * meaning.at_once)


def of_pairs(baseline, n_states, n_actions):
    """Return b(s) for each pair s·A + a, and zero for pair S·A, of every step or of all at once, (T or 1, S·A + 1)."""
    b = np.zeros((len(baseline) if baseline.ndim == 2 else 1, n_states * n_actions + 1))
    b[:, :-1] = np.broadcast_to(baseline, (len(b), n_states)).repeat(n_actions, axis=1)
    return b


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
    weights : array (S, A)
        w(s,a).
    returned : float
        Σₙ Σₜ γᵗ rₜ.
    """
    baseline, way = estimator.advantage.baseline, weights_by_steps
    kept = gamma**block.n_steps > TINY  # else γᵗ loses its digits before it meets a reward
    from_start = (
        estimator.discounted_score and kept
    ) or gamma == 1.0  # what is to go then counts the same at every step
    if meaning.at_once > 1 and from_start and baseline.ndim < 2:
        way = weights_by_paths
    if len(block.slots) == 1:
        way = weights_of_counts
    elif only_ends_pay(meaning, baseline):  # for the others, nothing is to go
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
    baseline, k, discount = estimator.advantage.baseline, meaning.at_once, discounts(estimator, gamma, block.n_steps)
    few = meaning.pair.size <= FEW_PLACES  # each place has weights of its own then, and pairs are looked up at the end
    weights, found, returned = np.zeros(meaning.pair.shape if few else meaning.n_pairs + 1), np.empty(block.n), 0.0
    b = of_pairs(baseline, meaning.n_states, meaning.n_actions) if baseline.any() else None
    of_place = b[0].take(meaning.pair) if b is not None and len(b) == 1 else None
    for i, paths, place, to_go in backwards(block, meaning):
        for j in reversed(range(steps_of_draw(block, meaning, i))):
            t, credit = i * k + j, to_go
            to_go *= gamma
            to_go += meaning.reward[j].take(paths, out=found[: len(paths)], mode="clip")
            if b is not None:  # by time, it may end with the longest episode, before the last draw does
                now = b[min(t, len(b) - 1)].take(meaning.pair[j]) if of_place is None else of_place[j]
                credit = to_go - now.take(place)
            total, index = (weights[j], place) if few else (weights, meaning.pair[j].take(place))
            add_up(total, index, discount[t], credit)
        returned = to_go.sum() if i == 0 else 0.0
    return meaning.of_pairs(weights) if few else weights, returned


def weights_by_paths(block, meaning, estimator, gamma):
    """Return the same with γᵗ on the score, adding up over whole paths: two sums for a path, however many steps it has.

    A path p of k steps that pays r_0(p), r_1(p), ... and is drawn at step t gives its step j the weight

        γ^{t+j} (G_{t+j} − b(s_j)) = γ^{t+k} G_{t+k} + γᵗ (Σ_{i>=j} γⁱ r_i(p) − γʲ b(s_j)),

    so that all that is needed are Σ γ^{t+k} G_{t+k} and N(p) = Σ γᵗ over the times t that p was drawn. Where only ends
    pay, one of the two terms is zero, and Σ γᵗ G_t is all that is needed. A draw that the horizon cuts short has an
    N and rewards of its own; nothing is to go after it, and whoever it paid had finished before it was cut.
    """
    k, baseline, shape = meaning.at_once, estimator.advantage.baseline, meaning.pair.shape
    only_ends, pays = only_ends_pay(meaning, baseline), rewards_of_paths(block, meaning, gamma)
    G, N, found, returned = np.zeros(shape[1]), np.zeros((2, shape[1])), np.empty(block.n), 0.0
    for i, paths, place, to_go in backwards(block, meaning):  # times γᵗ
        short = int(steps_of_draw(block, meaning, i) < k)
        if not only_ends:
            add_up(G, place, 1.0, to_go)
            add_up(N[short], place, gamma ** (i * k))
        now = pays[short][0].take(paths, out=found[: len(paths)], mode="clip")
        now *= gamma ** (i * k)
        to_go += now
        if only_ends:
            add_up(G, place, 1.0, to_go)
        returned = to_go.sum() if i == 0 else 0.0
    weights = np.tile(G, (k, 1))
    if not only_ends:
        b = (gamma ** np.arange(k))[:, None] * of_pairs(baseline, meaning.n_states, meaning.n_actions)[0].take(
            meaning.pair
        )
        for short, later in enumerate(pays):
            weights[: len(later)] += (later - b[: len(later)]) * N[short]
    return meaning.of_pairs(weights), returned


def weights_of_counts(block, meaning, estimator, gamma):
    """Return the same where a single draw takes all steps: how often each path was drawn is then all that counts."""
    discount, n_paths = discounts(estimator, gamma, block.n_steps), meaning.reward.shape[1]
    b = of_pairs(estimator.advantage.baseline, meaning.n_states, meaning.n_actions)
    N = np.bincount(block.slots[0], minlength=n_paths if meaning.path is None else len(meaning.path))
    N = N if meaning.path is None else np.bincount(meaning.path, weights=N, minlength=n_paths)
    weights, to_go = np.zeros(meaning.pair.shape), np.zeros(n_paths)
    for t in reversed(range(block.n_steps)):
        to_go = meaning.reward[t] + gamma * to_go
        credit = to_go.reshape(len(weights[t]), -1) - b[min(t, len(b) - 1)].take(meaning.pair[t])[:, None]
        weights[t] = discount[t] * (N.reshape(credit.shape) * credit).sum(axis=1)  # of the paths of a place
    return meaning.of_pairs(weights), (N * to_go).sum()


def weights_of_paid(block, meaning, estimator, gamma):
    """Return the same where only the last step of a trajectory pays, from those few that are paid.

    Then γᵗ G_t is the same at all steps of a trajectory: its return.
    """
    discount = gamma ** (meaning.at_once * np.arange(len(block.slots)))
    paths, places = meaning.paths(block.slots_of(np.flatnonzero(block.paid(meaning)), meaning.first_finished))
    G = discount @ rewards_of_paths(block, meaning, gamma)[0][0].take(paths)
    sums = np.bincount(
        places.ravel(), weights=np.broadcast_to(G, places.shape).ravel(), minlength=meaning.pair.shape[1]
    )
    return meaning.of_pairs(np.broadcast_to(sums, meaning.pair.shape)), G.sum()


def rewards_of_paths(block, meaning, gamma):
    """Return Σ_{i>=j} γⁱ r_i(p) from each step j of each path, (steps, paths): of all steps, and of those before the horizon."""
    rewards = (gamma ** np.arange(meaning.at_once))[:, None] * meaning.reward
    return [
        np.cumsum(rewards[:steps][::-1], axis=0)[::-1] for steps in (meaning.at_once, block.n_steps % meaning.at_once)
    ]


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
