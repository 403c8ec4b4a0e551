"""Does somebody's sampler draw from the model? Plain facts whose law is known exactly.

Beside the moments of an estimator, in causal order:

    possible       every step, ending and recorded log-probability is one that the model and the behaviour allow (`checks.steps`)
    first states   their counts                                              (`checks.counts`)
    actions        their counts in every state, against the behaviour
    outcomes       their counts after every state and action, against the model
    length         its mean, whose variance is exact by recursion            (`checks.means`)
    return         its mean, discounted, likewise
    independence   products of what different batches say have mean zero    (`checks.independence`)
"""

import math
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments, graph
from reinforce_np.checks import counts, steps
from reinforce_np.checks.estimates import batch_size
from reinforce_np.checks.independence import SETS, n_sets, products
from reinforce_np.checks.means import TINY, MeanTest
from reinforce_np.exact import bellman
from reinforce_np.exact.record import DOUBLE
from reinforce_np.trajectories import Trajectories

CALLS = (840, 420, 120, 60, 12)  # batches asked for at a time: divisible by most small numbers of workers
ROUNDING = 64 * DOUBLE


@dataclass(frozen=True, eq=False)
class Fact:
    """One thing that was judged about a sampler.

    Parameters
    ----------
    name : str
        Which, as in the table above.
    log_probability : float
        Bound on the log-probability of something as improbable, if the sampler is right; −inf when it cannot be.
    text : str
        What was seen.
    rejected : bool
        Whether that is less than its share of alpha.
    """

    name: str
    log_probability: float
    text: str
    rejected: bool

    def __str__(self):
        if not self.rejected or self.log_probability == -math.inf:
            return self.text
        return f"{self.text}; if the sampler were right, that would have a probability below 10^{self.log_probability / math.log(10):.1f}"


class SamplerFacts:
    """Adds up what a sampler does, call by call, and judges it.

    Parameters
    ----------
    problem : Problem
        What the sampler should draw from.
    law : Law
        Of the estimator, whose estimates are judged for independence too.
    sampler : callable
        ``sampler(n, rng)``.
    n : int
        Number of batches.
    call : int
        Batches asked for at a time.
    alpha : float
        Shared by these facts and the moments of the estimator.
    rng
        Seed.
    """

    def __init__(self, problem, law, sampler, n, call, alpha, rng):
        if not callable(sampler):
            raise TypeError(f"sampler={sampler!r} is no function; pass sampler(n, rng) that returns Trajectories")
        self.problem, self.law, self.sampler, self.rng = problem, law, sampler, arguments.generator(rng)
        self.sizes = [call] * (n // call) + ([n % call] if n % call else [])
        self.n, self.call, mdp, policy = n, call, problem.mdp, problem.policy
        self.log_mu = (
            policy.log_probabilities(problem.theta)
            if problem.behaviour is None
            else policy.log_probabilities_of("behaviour", problem.behaviour)
        )
        self.mu = np.exp(self.log_mu)
        self.possible = graph.possible_outcomes(mdp, self.mu)
        self.classes, self.p = steps.outcome_classes(mdp)
        self.reached = graph.reachable(mdp, self.possible)

        means, variances, roundings = _length_and_return(problem, self.mu)
        self.Z_means = np.concatenate([means, law.gradient])
        self.Z_variances = np.concatenate([variances, law.variances[0]])
        self.Z_roundings = np.concatenate([roundings, law.rounding])
        self.n_sets = {name: sum(n_sets(name, size, before) for size, before in self._pairs()) for name in SETS}
        self.n_sets = {name: found for name, found in self.n_sets.items() if found}
        self.n_tests = 2 * 2 + 2 * len(self.Z_means) * len(self.n_sets) + 3
        self.log_odds = law.log_odds(alpha, self.n_tests)
        self.of_means = MeanTest(n, means, variances, roundings, self.log_odds)
        self.of_products = {
            name: MeanTest(
                found, np.zeros_like(self.Z_means), np.maximum(self.Z_variances**2, TINY**2),
                self.Z_roundings * (2 * np.sqrt(self.Z_variances) + self.Z_roundings), self.log_odds,
            )
            for name, found in self.n_sets.items()
        }  # fmt: skip

        self.mean_sums, self.totals = np.zeros(2), np.zeros(2)
        self.product_sums = {name: np.zeros(len(self.Z_means)) for name in self.n_sets}
        self.product_totals = {name: np.zeros(len(self.Z_means)) for name in self.n_sets}
        self.n_starts = np.zeros(mdp.n_states, dtype=np.int64)
        self.n_actions = np.zeros(self.mu.shape, dtype=np.int64)
        self.n_outcomes = np.zeros(mdp.probability.shape, dtype=np.int64)
        self.impossible, self.calls_made, self.before = "", 0, None

    def calls(self):
        """Yield what the sampler returns, call by call."""
        for size in self.sizes:
            wanted = size * batch_size(self.problem)
            trajectories = self.sampler(wanted, self.rng)
            if not isinstance(trajectories, Trajectories) or len(trajectories) != wanted:
                raise ValueError(
                    f"sampler({wanted}, rng) returned {trajectories!r}; it must return Trajectories of {wanted} episodes"
                )
            try:
                trajectories = trajectories.of_model(self.problem.mdp.n_states, self.problem.mdp.n_actions)
            except ValueError as error:
                error.add_note(
                    f"of what sampler({wanted}, rng) returned: its states and actions must be numbered as those of the model are "
                    "(not so in a draw of an EnvironmentSource, which numbers the steps visited: draw.observations says what was seen there)"
                )
                raise
            yield trajectories

    def add(self, trajectories, estimates):
        """Take in one call: its trajectories, and the estimates (B, C) of its batches."""
        mdp, group = self.problem.mdp, self.problem.group_size
        taken = steps.steps_of(trajectories, mdp, self.possible, self.classes)
        if not self.impossible:
            found = steps.first_impossible(trajectories, taken, mdp, self.log_mu, group)
            self.impossible = found and f"trajectory {found[0]} of call {self.calls_made} cannot be: {found[1]}"
        np.add.at(self.n_starts, steps.first_states(trajectories)[::group], 1)
        np.add.at(self.n_actions, (taken.states, taken.actions), 1)
        known = taken.outcomes >= 0
        np.add.at(self.n_outcomes, (taken.states[known], taken.actions[known], taken.outcomes[known]), 1)

        own = np.stack([trajectories.lengths, _returns(trajectories, self.problem.gamma)], axis=1).astype(np.float64)
        own = own.reshape(-1, batch_size(self.problem), 2).mean(axis=1)
        self.totals += own.sum(axis=0)
        self.mean_sums += self.of_means.terms(own).sum(axis=0)

        Z = np.concatenate([own, estimates], axis=1) - self.Z_means
        before = self.before if self.calls_made % 2 else None
        for name in self.n_sets:
            found = products(name, Z, before)
            self.product_totals[name] += found.sum(axis=0)
            self.product_sums[name] += self.of_products[name].terms(found).sum(axis=0)
        self.before = Z
        self.calls_made += 1

    def judged(self):
        """Return what was found out, in causal order."""
        found = [
            self._possible(),
            self._starts(),
            self._actions(),
            self._outcomes(),
            *self._means(),
            self._independence(),
        ]
        return tuple(Fact(name, p, text, rejected=p < -self.log_odds) for name, p, text in found)

    def _pairs(self):
        """Yield the size of every call, with that of the call it is compared with, or 0."""
        for i, size in enumerate(self.sizes):
            yield size, self.sizes[i - 1] if i % 2 else 0

    def _possible(self):
        text = self.impossible or "every trajectory is one that the model has"
        return "possible", -math.inf if self.impossible else 0.0, text

    def _starts(self):
        allowed = self.problem.mdp.initial > 0
        found, p = np.where(allowed, self.n_starts, 0), self.problem.mdp.initial
        text = "first states: " + _farthest(found, p, "state {0} came up")
        return "first states", min(-float(counts.log_ratio(found, p)), 0.0), text

    def _actions(self):
        found = np.where(self.mu > 0, self.n_actions, 0)
        log_e = counts.log_ratio(found, self.mu)
        considered = self.reached & ((self.mu > 0).sum(axis=1) > 1)
        s = int(np.argmax(np.where(considered, log_e, -np.inf)))
        text = f"actions: in state {s} " + _farthest(found[s], self.mu[s], "action {0} was taken")
        return "actions", min(-counts.log_average(log_e[considered]), 0.0), text

    def _outcomes(self):
        log_e = counts.log_ratio(self.n_outcomes, self.p)
        considered = self.possible.any(axis=2) & self.reached[:, None] & ((self.p > 0).sum(axis=2) > 1)
        s, a = np.unravel_index(int(np.argmax(np.where(considered, log_e, -np.inf))), log_e.shape)
        text = f"outcomes: after action {a} in state {s} " + _farthest(
            self.n_outcomes[s, a], self.p[s, a], "outcome {0} came"
        )
        return "outcomes", min(-counts.log_average(log_e[considered]), 0.0), text

    def _means(self):
        found = self.totals / self.n
        for i, name in enumerate(("length", "return")):
            error = math.sqrt(self.of_means.variances[i] / self.n)
            text = f"{name}: {found[i]:.6g} on average, where {self.of_means.means[i]:.6g} ± {error:.2g} is right"
            yield name, float(self.of_means.log_probability(self.mean_sums)[i]), text

    def _independence(self):
        names = ["lengths", "returns", *(f"estimates in component {i}" for i in self.law.components)]
        worst, text = 0.0, "batches do not resemble one another"
        for name, test in self.of_products.items():
            log_probability = test.log_probability(self.product_sums[name])
            i = int(np.argmin(log_probability))
            if log_probability[i] < worst:
                worst = float(log_probability[i])
                likeness = self.product_totals[name][i] / self.n_sets[name] / self.Z_variances[i]
                text = f"the {names[i]} of {name} are not independent: their products average {likeness:.3g} variances, not 0"
        return "independence", worst, text


def call_size(n):
    """Return how many of n batches to ask for at a time: at least two calls."""
    return next((size for size in CALLS if 2 * size <= n), max(n // 2, 1))


def _length_and_return(problem, mu):
    """Return mean, variance and rounding (2,) of the length and the return of a batch, averaged over its trajectories.

    V(s) = E[r + γV(s')],    W(s) = E[(r + γV(s') − V(s))² + γ²W(s')], the variance from s on.
    """
    mdp, found = problem.mdp, []
    for reward, gamma in ((np.ones_like(mdp.reward), 1.0), (mdp.reward, problem.gamma)):
        V, W = _value_and_variance(mdp, mu, reward, gamma)
        mean = mdp.initial @ V
        variance = (mdp.initial @ W / problem.group_size + mdp.initial @ (V - mean) ** 2) / problem.prompts
        largest = np.abs(_value_and_variance(mdp, mu, np.abs(reward), gamma)[0]).max()
        found.append((mean, variance, largest))
    (mean, variance, steps), *_ = found
    rounding = [ROUNDING * max(steps, 1.0) * largest for *_, largest in found]
    means, variances = (np.array([x[i] for x in found]) for i in (0, 1))
    return means, variances + np.maximum(rounding, TINY) ** 2, np.array(rounding)


def _value_and_variance(mdp, mu, reward, gamma):
    """Return V and W, shape (S,) each."""
    live, p = ~mdp.terminated, mu[:, :, None] * mdp.probability
    if mdp.horizon is None:
        V = bellman.fixed_values(mdp, mu, np.einsum("sak,sak->sa", mdp.probability, reward), gamma)[1]
        apart = reward + gamma * live * V[mdp.next_state] - V[:, None, None]
        return V, bellman.fixed_values(mdp, mu, np.einsum("sak,sak->sa", mdp.probability, apart**2), gamma**2)[1]
    V, W = np.zeros(mdp.n_states), np.zeros(mdp.n_states)
    for _ in range(mdp.horizon):
        target = reward + gamma * live * V[mdp.next_state]
        V = np.einsum("sak,sak->s", p, target)
        W = np.einsum("sak,sak->s", p, (target - V[:, None, None]) ** 2 + gamma**2 * live * W[mdp.next_state])
    return V, W


def _returns(trajectories, gamma):
    """Return Σ γᵗ rₜ of each, shape (N,)."""
    return np.where(trajectories.mask, trajectories.rewards, 0.0) @ gamma ** np.arange(trajectories.n_steps)


def _farthest(found, p, what):
    """Return in words the cell whose count is farthest from its expectation."""
    n = int(found.sum())
    i = int(np.argmax(np.abs(found - n * p) / np.sqrt(np.maximum(n * p * (1 - p), 1e-12))))
    return f"{what.format(i)} {int(found[i])} of {n} times, with probability {p[i]:.4g}"
