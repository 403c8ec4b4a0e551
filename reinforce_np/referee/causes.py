"""The likely cause of a bias: which mistake of the catalogue has the same mean on the same problem."""

import functools
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.exact import Discounted, EntropyRegularised, KLRegularised, Undiscounted, gradient, moments
from reinforce_np.exact.callables import name_of
from reinforce_np.exact.verdicts import verdict_of
from reinforce_np.referee.catalogue import CATALOGUE

LIMIT = 2**11  # evaluations spent on one entry of the catalogue
SAME = 1e-9  # relative difference of factors, and of variances, that are one
MOST = 3  # matches described


def likely_cause(verdict, estimator, problem):
    """Return what the mistake probably is, in one sentence; "" when nothing in the catalogue looks like it.

    The mean of the estimator is compared with the gradient of the other named
    objectives, and with the mean of every wrong estimator of the catalogue on
    the same problem: exactly, within rounding, and up to a factor. Of several with the
    same mean, those with the same variance too come alone.

    Parameters
    ----------
    verdict : Verdict
        Of the estimator on the problem.
    estimator : Estimator or callable
        What was judged; it lends the sentence its name and is not run again.
    problem : Problem
        What it was judged on.

    Returns
    -------
    str

    Examples
    --------
    >>> from reinforce_np import Estimator, Problem, RewardToGo, TabularSoftmax, examples, judge
    >>> problem = Problem(examples.referee(horizon=2), TabularSoftmax(3, 3), np.linspace(-1, 1, 9))
    >>> forgetful = Estimator(RewardToGo(), discounted_score=False)
    >>> print(likely_cause(judge(forgetful, problem), forgetful, problem))
    its mean is exactly that of gamma_t_dropped (Returns discounted from step t on, but the score of step t without its ...
    """
    if verdict.kind not in ("biased", "proportional") or problem.mdp.horizon == 0:
        return ""
    name = name_of(estimator)
    subject = f"the mean of {name}" if name.isidentifier() else "its mean"
    if verdict.kind == "biased":
        for objective in _named_objectives(problem):
            own = gradient(problem.mdp, problem.policy, problem.theta, objective=objective)
            if verdict_of(verdict.moments, own, objective).kind == "unbiased":
                return f"{subject} is exactly the gradient of {type(objective).__name__}, another objective than was asked for"
    exact, scaled = _matches(verdict, problem)
    if exact:
        return f"{subject} is exactly that of {_described(exact)}"
    factor = "" if verdict.factor is None else named_factor(verdict.factor, problem)
    if factor:
        return f"{subject} is {'here ' if verdict.reason else ''}the gradient {factor}"
    if scaled:
        found = [(specimen, named_factor(c, problem)) for c, specimen in scaled]
        named = [(specimen, words) for specimen, words in found if words]
        if named:
            return (
                f"{subject} is that of {_described([s for s, words in named if words == named[0][1]])}, {named[0][1]}"
            )
        c = scaled[0][0]
        return f"{subject} is {c:.6g} times that of {_described([s for d, s in scaled if _close(c, d)])}"
    return ""


def _named_objectives(problem):
    """Return the objectives that the problem has the numbers for."""
    objectives: list[Any] = [Discounted()]
    if problem.gamma < 1 and problem.mdp.horizon is not None:
        objectives.append(Undiscounted())
    if problem.beta > 0:
        objectives.append(EntropyRegularised(problem.beta))
        if problem.reference is not None:
            objectives.append(KLRegularised(problem.reference, problem.beta))
    return objectives


def _matches(verdict, problem):
    """Return the entries with the same mean, and (factor, entry) for those with a proportional one."""
    if isinstance(verdict.objective, Undiscounted):
        problem = problem.replace(mdp=problem.mdp.replace(gamma=1.0))
    exact, scaled, same_variance = [], [], []
    for specimen in CATALOGUE:
        if not (specimen.guilty and specimen.applies_to(problem) and _meant_for(specimen, verdict.objective, problem)):
            continue
        try:
            theirs = _moments_of(specimen, problem)
        except (arguments.TooLargeError, ValueError, IndexError):  # too much to list, or not made for such a model
            continue
        size = np.sqrt(theirs.second_moment) + theirs.scale
        compared = verdict_of(verdict.moments, theirs.mean, verdict.objective, scale=size)
        if compared.kind in ("unbiased", "undefined"):
            exact.append(specimen)
            if np.allclose(theirs.variance, verdict.moments.variance, rtol=SAME, atol=SAME * size.max() ** 2):
                same_variance.append(specimen)
        elif compared.kind == "proportional" and verdict.kind == "biased":
            scaled.append((compared.factor, specimen))
    return same_variance or exact, scaled


@functools.lru_cache(maxsize=1024)
def _moments_of(specimen, problem):
    """Return the exact moments of an entry; a test suite that fails asks for them again and again."""
    return moments(specimen.function, problem, exchangeable=specimen.exchangeable, limit=LIMIT)


def _meant_for(specimen, objective, problem):
    """Whether an entry is a mistake in estimating this objective."""
    if isinstance(objective, Undiscounted):  # at γ = 1 the two objectives are one
        objective = Discounted()
    needs_beta = isinstance(objective, KLRegularised | EntropyRegularised)
    if needs_beta and problem.beta != objective.beta:
        return False
    return type(specimen.objective(problem)) is type(objective)


def named_factor(c, problem):
    """Return what a factor probably is, in words; "" when it is none of the usual ones.

    Parameters
    ----------
    c : float
        The factor.
    problem : Problem
        Whose batch, horizon and discount it may come from.

    Returns
    -------
    str

    Examples
    --------
    >>> from reinforce_np import Problem, TabularSoftmax, examples
    >>> problem = Problem(examples.referee(horizon=3), TabularSoftmax(3, 3), np.zeros(9), group_size=4)
    >>> named_factor(0.75, problem), named_factor(-1.0, problem)
    ('times (N-1)/N, which is the mean of the group with its own return in it', 'with the wrong sign')
    >>> named_factor(0.123, problem)
    ''
    """
    N, size, T, gamma = problem.group_size, problem.prompts * problem.group_size, problem.mdp.horizon, problem.gamma
    names = [(-1.0, "with the wrong sign")]
    if N > 1:
        names += [
            ((N - 1) / N, "times (N-1)/N, which is the mean of the group with its own return in it"),
            (N / (N - 1), "times N/(N-1): a correction for a baseline that needed none"),
        ]
    if size > 1:
        names += [
            (float(size), "times the size of the batch: a sum where a mean was meant"),
            (1 / size, "divided by the size of the batch: the mean was taken twice, or arrays were broadcast"),
        ]
    if T is not None and T > 1:
        names += [(1 / T, "divided by the number of steps: a mean over time"), (float(T), "times the number of steps")]
    if 0 < gamma < 1:
        names += [(gamma, "times γ: discounted once too often"), (1 / gamma, "divided by γ")]
    names += [(-value, f"{words}, and with the wrong sign") for value, words in names[1:]]
    plain = ((2.0, "counted twice"), (0.5, "halved"))
    found = [words for value, words in names if _close(value, c)]
    return ", or ".join(found or [words for value, words in plain if _close(value, c)])


def _close(a, b):
    return abs(a - b) <= SAME * max(abs(a), abs(b))


def _described(specimens):
    """Return entries by name, and what the first one is."""
    words = [specimen.name for specimen in specimens[:MOST]]
    words[0] += f" ({specimens[0].what.rstrip('.')})"
    hidden = len(specimens) - len(words)
    words += [f"{hidden} more"] if hidden else []
    joined = " or ".join(words)
    return joined + (f"; {specimens[0].remedy}" if len(specimens) == 1 else "")
