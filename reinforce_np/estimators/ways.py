"""Four ways to add up weighted scores of each trajectory, ĝₙ = Σₜ w[n,t] ∇log π(a|s).

By states and actions, `Contracted`, costs the same however short a trajectory
is. Where it visits few of the states, it is quicker to go by its steps:
`Scattered`, `Gathered`, `Alone`. Each is made for one policy and θ, takes some
trajectories at a time, steps first, and has the gradients of all as `result`.
"""

import numpy as np

from reinforce_np.policies import softmax
from reinforce_np.policies.base import SoftmaxPolicy
from reinforce_np.policies.linear import LinearSoftmax
from reinforce_np.policies.softmax import LINE
from reinforce_np.policies.tabular import TabularSoftmax


def quickest(trajectories, policy, n_states, n_actions):
    """Return the quickest of the four ways, by nanoseconds once measured.

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
