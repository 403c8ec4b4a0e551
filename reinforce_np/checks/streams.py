"""A verdict that may be looked at after every batch, and stopped at any time: see `checks.processes`."""

import math

import numpy as np

from reinforce_np.checks.confirmation import ALPHA, known_law, probability
from reinforce_np.checks.estimates import batch_size, estimates_of, name_of_batches
from reinforce_np.checks.laws import LIMIT
from reinforce_np.exact.callables import bound as bound_to
from reinforce_np.exact.objectives import Discounted
from reinforce_np.problem import problem_of
from reinforce_np.trajectories import Trajectories

NUMBERS = 2**22  # held at once


class Watch:
    """A verdict that grows with every batch it is shown; `confirm_stream` makes it.

    Unlike the other records it changes: ``update`` adds to it.

    Parameters
    ----------
    estimator : Estimator or callable
        What is watched.
    problem : Problem
        On what.
    law : Law
        How it should behave.
    alpha : float
        Chance that a *correct* estimator is ever rejected.

    Examples
    --------
    As in `confirm_stream`:

    >>> from reinforce_np import TabularSoftmax, algorithms, examples, sample
    >>> mdp, policy, theta = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2)
    >>> watch = confirm_stream(algorithms.reinforce(), mdp, policy, theta)
    >>> watch.update(sample(mdp, policy, theta, 500, rng=0)).rejected
    False
    """

    guaranteed = True

    def __init__(self, estimator, problem, law, alpha):
        self.alpha, self.n = alpha, 0
        self.components, self.gradient = law.components, law.gradient
        self.log_e_value, self.largest_log_e_value = 0.0, 0.0
        self._estimator, self._problem, self._law = estimator, problem, law
        self._process = law.process
        self._sums, self._total = np.zeros_like(self._process.scales), np.zeros_like(law.gradient)

    def update(self, trajectories):
        """Take in more batches, drawn independently of those before, and return the watch.

        Parameters
        ----------
        trajectories : Trajectories
            Whole batches, one after the other, in the order in which they were drawn.

        Returns
        -------
        Watch
            Itself.
        """
        size = batch_size(self._problem)
        if not isinstance(trajectories, Trajectories):
            raise TypeError(f"trajectories={trajectories!r} are no Trajectories; pass what sample returns")
        if len(trajectories) % size:
            raise ValueError(f"{len(trajectories)} trajectories are no whole batches of {size}")
        known = self._law.values is not None
        estimates = estimates_of(self._estimator, trajectories, self._problem, repeatable=known)
        statistics = self._law.statistics(estimates[:, self.components])
        rows = max(NUMBERS // self._sums.size, 1)
        for first in range(0, len(statistics), rows):
            part = statistics[first : first + rows]
            self.n += len(part)
            self._total = self._total + part[:, 0].sum(axis=0)
            self._sums = self._sums + self._process.terms(part).sum(axis=0)
            self.log_e_value = float(self._process.log_e_value(self._sums, self.n))
            self.largest_log_e_value = max(self.largest_log_e_value, self.log_e_value)
        return self

    @property
    def e_value(self):
        """E_n: how many times more the batches so far speak against the estimator than for it; infinite when it overflows."""
        return math.exp(self.log_e_value) if self.log_e_value < 700 else math.inf

    @property
    def estimate(self):
        """Mean of the estimates so far, shape (C,); zero before the first."""
        return self._total / max(self.n, 1)

    @property
    def rejected(self):
        """Whether E_n has ever reached 1/alpha."""
        return self.largest_log_e_value >= -math.log(self.alpha)

    def __bool__(self):
        return not self.rejected

    def __repr__(self):
        return f"Watch(n={self.n}, log_e_value={self.log_e_value:.3g}, rejected={self.rejected})"

    def __str__(self):
        over = f"at alpha={self.alpha:g} after {self.n} {name_of_batches(self._problem)}"
        if not self.rejected:
            return f"not rejected {over} in {len(self.components)} components: E = 10^{self.log_e_value / math.log(10):.1f}"
        i = int(np.argmax(np.abs(self.estimate - self.gradient) / np.sqrt(self._law.variances[0])))
        return (
            f"REJECTED {over}: E reached 10^{self.largest_log_e_value / math.log(10):.1f}; farthest in component {self.components[i]}: "
            f"estimate {self.estimate[i]:.6g}, exact gradient {self.gradient[i]:.6g}"
        )


def confirm_stream(
    estimator,
    mdp,
    policy=None,
    theta=None,
    *,
    objective=Discounted(),
    prompts=None,
    group_size=None,
    behaviour=None,
    like=None,
    variance=None,
    bound=None,
    exchangeable=False,
    precision=None,
    alpha=ALPHA,
    components=None,
    limit=LIMIT,
):
    """Return a `Watch` to be shown batches one by one, and looked at as often as one likes.

    A correct estimator is ever rejected with probability at most `alpha`,
    whatever rule decides when to stop; `confirm` needs the number of batches
    beforehand, and then fewer of them.

    Parameters
    ----------
    estimator, mdp, policy, theta, objective, prompts, group_size, behaviour
        As in `confirm`.
    like, variance, bound, exchangeable, precision, alpha, components, limit
        As in `confirm`.

    Returns
    -------
    Watch

    Raises
    ------
    ValueError
        When nothing is known of how much the estimates scatter.

    Examples
    --------
    >>> from reinforce_np import Estimator, RewardToGo, TabularSoftmax, examples, sample
    >>> mdp, policy, theta = examples.referee(), TabularSoftmax(3, 3), np.linspace(-1, 1, 9)
    >>> watch = confirm_stream(Estimator(RewardToGo(), discounted_score=False), mdp, policy, theta)
    >>> rng = np.random.default_rng(0)
    >>> while watch and watch.n < 100_000:
    ...     _ = watch.update(sample(mdp, policy, theta, 1000, rng=rng))
    >>> watch.rejected
    True
    """
    problem = problem_of(mdp, policy, theta, prompts=prompts, group_size=group_size, behaviour=behaviour)
    alpha = probability("alpha", alpha)
    options = {"like": like, "variance": variance, "bound": bound, "exchangeable": exchangeable}
    options |= {"precision": precision, "limit": limit}
    estimator = bound_to(estimator, problem)
    law = known_law(estimator, problem, objective, components, options)
    return Watch(estimator, problem, law, alpha)
