"""The gradient of each trajectory: some hundred at a time, so that all that is looked at fits into the cache.

    ĝₙ = Σ_{s,a} wₙ(s,a) ∇log π(a|s),        wₙ(s,a) = N Σₜ w[n,t] 1{s_t = s, a_t = a}

`Estimator.batch_weights` is where the weights w[n,t] are to be read. Those of
reward-to-go are computed here as well, steps first and part by part. The sum
over states and actions is `Contracted`; where a trajectory visits few of the
states, it is quicker to go by its steps: `Scattered`, `Gathered`, `Alone`.
"""

import numpy as np

from reinforce_np.estimators.advantages import RewardToGo, TotalReturn
from reinforce_np.estimators.normalisers import Constant, PerLength, PerTrajectory
from reinforce_np.estimators.packed import TINY, applies, discounts, divisor, of_pairs
from reinforce_np.estimators.ratios import OnPolicy
from reinforce_np.policies import softmax
from reinforce_np.policies.base import SoftmaxPolicy
from reinforce_np.policies.linear import LinearSoftmax
from reinforce_np.policies.softmax import LINE
from reinforce_np.policies.tabular import TabularSoftmax
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


def quickest(trajectories, policy, n_states, n_actions):
    """Return the quickest of the four ways below, by nanoseconds once measured.

    A trajectory that visits few of the states has nothing to do with the
    others. Records that compute something of their own are left to `Contracted`.
    """
    n, n_pairs, D = len(trajectories), n_states * n_actions, policy.n_parameters
    steps = trajectories.lengths.mean()
    if type(policy) is TabularSoftmax and steps * (60 + 5 * n_actions) < 3 * n_pairs:
        return Scattered
    by_score = n * steps * D * 1.4 + n_pairs * n_actions * D
    if type(policy) is LinearSoftmax and by_score < 3 * n * n_pairs:
        return Gathered
    if hasattr(policy, "at") and 60_000 + 50 * steps < 3 * n_pairs:
        return Alone
    return Contracted


class Contracted:
    """Weights are added up for each pair, and contracted with the score."""

    def __init__(self, policy, theta, n):
        self.policy, self.theta, self.pi = policy, theta, policy.probabilities(theta)
        self.quick = type(policy).contract is SoftmaxPolicy.contract and self.pi.all()  # masked weights are left out
        self.result = whole_lines(n, policy.n_parameters)

    def cells(self, n_steps):
        """Return how many numbers are held for a trajectory of so many steps."""
        return row_width(self.pi.size)

    def add(self, index, pair, w):
        """Write the gradients of some trajectories; say whether they are numbers. `pair` is overwritten."""
        n_rows = pair.shape[1]
        pair += np.arange(n_rows) * row_width(self.pi.size)
        weights = added_up(pair, w, n_rows, self.pi.size).reshape(n_rows, *self.pi.shape)
        gradients = self.result[index]  # a view, where they are in order
        if self.quick:
            self.policy.contract_to(gradients, weights, self.pi)
        else:
            gradients = self.policy.contract(self.theta, weights)
        if not (self.quick and isinstance(index, slice)):
            self.result[index] = gradients
        return np.isfinite(gradients.sum())


class Scattered:
    """Each step adds what its score has in the one state that it has anything in: of a table of logits."""

    def __init__(self, policy, theta, n):
        logits = policy.logits(theta)
        score = softmax.logit_score(softmax.softmax(logits, policy.temperature)) / policy.temperature
        self.score = np.where((logits == -np.inf)[..., None], 0.0, score).reshape(-1, policy.n_actions)
        self.result = np.zeros((n, policy.n_parameters))

    def cells(self, n_steps):
        """As above."""
        return n_steps * self.score.shape[1]

    def add(self, index, pair, w):
        """As above."""
        n_pairs, n_actions = self.score.shape
        first = np.arange(len(self.result))[index] * n_pairs
        alive = pair < n_pairs
        pair, w, first = pair[alive], w[alive], np.broadcast_to(first, alive.shape)[alive]
        terms = self.score.take(pair, axis=0)
        terms *= w[:, None]
        cells = ((first + pair // n_actions * n_actions)[:, None] + np.arange(n_actions)).ravel()
        result = self.result.reshape(-1)
        np.add.at(result, cells, terms.ravel())
        return np.isfinite(result.take(cells).sum())


class Gathered:
    """Each step adds its score: where there are not many parameters."""

    def __init__(self, policy, theta, n):
        score = policy.score(theta).reshape(-1, policy.n_parameters)
        self.score = np.concatenate([score, np.zeros_like(score[:1])])  # of what comes after the end
        self.result = np.empty((n, policy.n_parameters))

    def cells(self, n_steps):
        """As above."""
        return 4 * n_steps * self.score.shape[1]

    def add(self, index, pair, w):
        """As above."""
        gradients = np.matmul(np.ascontiguousarray(w.T)[:, None], self.score.take(pair.T, axis=0))[:, 0]
        self.result[index] = gradients
        return np.isfinite(gradients.sum())


class Alone:
    """Each trajectory is contracted with the policy over the states that it visits: where every step is a state of its own."""

    def __init__(self, policy, theta, n):
        self.policy, self.theta = policy, theta
        self.result = np.zeros((n, policy.n_parameters))

    def cells(self, n_steps):
        """As above."""
        return n_steps * self.policy.n_actions

    def add(self, index, pair, w):
        """As above."""
        for n, pairs, weights in zip(np.arange(len(self.result))[index], pair.T, w.T, strict=True):
            alive = np.flatnonzero(pairs < self.policy.n_states * self.policy.n_actions)
            states, actions = divmod(pairs[alive], self.policy.n_actions)
            one_hot = np.eye(self.policy.n_actions)[actions]
            self.result[n] = self.policy.at(states).contract(self.theta, one_hot * weights[alive, None])
        return np.isfinite(self.result[index].sum())


def whole_lines(n, m):
    """Return an empty array (n, m) that begins where a line of the cache does, so that no more of them are written than need be."""
    room = np.empty(n * m + LINE)
    first = -room.ctypes.data // room.itemsize % LINE
    return room[first : first + n * m].reshape(n, m)


def to_go(x, gamma):
    """Replace x (T, N) by its sums from each step on, x_t + γ x_{t+1} + γ² x_{t+2} + ..."""
    rows, later = list(x), np.empty(x.shape[1:])
    for now, after in zip(rows[-2::-1], rows[:0:-1], strict=True):
        now += after if gamma == 1.0 else np.multiply(after, gamma, out=later)


def added_up(cell, weights, n_rows, n_pairs):
    """Return weights (T, N) or (N, T) added up per row and pair, (rows, pairs), in cells row·`row_width` + pair.

    Weights of pair S·A, which stands for steps after the end, are left out.
    """
    order = "F" if cell.flags.f_contiguous else "C"  # as it lies in memory
    width = row_width(n_pairs)
    sums = np.bincount(cell.ravel(order), weights=weights.ravel(order), minlength=n_rows * width)
    return sums.astype(float, copy=False).reshape(n_rows, width)[:, :n_pairs]


def row_width(n_pairs):
    """Return how many weights to hold for a trajectory: those of its pairs, and of pair S·A.

    An odd number: with a power of two, the weights of a pair in all
    trajectories would compete for the same few lines of the cache.
    """
    return n_pairs + 1 | 1


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
