"""The smallest problem that convicts an estimator, found and shrunk by Hypothesis, outside of a test."""

import contextlib
import math
import tempfile
from dataclasses import dataclass
from typing import Any

from reinforce_np import arguments
from reinforce_np.exact.objectives import Discounted
from reinforce_np.exact.verdicts import ALL_ONE, RESOLVED, judge
from reinforce_np.problem import Problem, code

ELSEWHERE = "all ratios were 1: pass problems=strategies.problems(strategies.OFF_POLICY) to judge others"
CLEAR = RESOLVED  # distance of a mean from the gradient that is looked for first
WIDTH = 100  # columns of printed code


@dataclass(frozen=True, eq=False)
class Counterexample:
    """A problem that convicts an estimator, with its verdict; false when there is none.

    Prints as a paragraph, followed by code that can be pasted into a test.

    Parameters
    ----------
    problem : Problem or None
        The smallest, or the worst, that was found; None when every problem acquitted.
    verdict : Verdict or None
        Of the estimator on this problem.
    how : str
        What it is of those looked at: "smallest" or "worst".
    n_judged : int
        How many problems were looked at.
    n_undefined : int
        On how many of these both the gradient and the mean of the estimate are zero, which decides nothing.
    elsewhere : (Problem, Verdict) or None
        Where the verdict is "proportional": another of the problems looked at, on which the mean is not this multiple of the
        gradient; the smaller a problem, the more is proportional on it. None when there was none.
    remark : str
        What the acquittals leave open, where they say so: such as that every importance ratio was 1.

    Examples
    --------
    >>> found = Counterexample(None, None, "smallest", n_judged=300, n_undefined=2)
    >>> bool(found)
    False
    >>> print(found)
    no counterexample: 298 problems acquit the estimator, 2 more decide nothing
    """

    problem: Problem | None
    verdict: Any
    how: str
    n_judged: int
    n_undefined: int = 0
    elsewhere: tuple[Problem, Any] | None = None
    remark: str = ""

    def __bool__(self):
        return self.problem is not None

    def __str__(self):
        n = self.n_judged - self.n_undefined
        if self.problem is None:
            more = f", {self.n_undefined} more decide nothing" * bool(self.n_undefined)
            return f"no counterexample: {n} problems acquit the estimator{more}" + f"; {self.remark}" * bool(
                self.remark
            )
        text = f"{self.verdict}\non this problem, the {self.how} of {n} judged:\n\n{pasteable(self.problem)}"
        if self.elsewhere is None:
            return text
        return f"{text}\n\n# the factor is no constant: on another of the problems judged, `elsewhere`, it is {self.elsewhere[1]}"

    __repr__ = __str__


def find_counterexample(
    estimator,
    *,
    problems=None,
    objective=Discounted(),
    proportional=False,
    exchangeable=False,
    precision=None,
    max_examples=200,
):
    """Look for the smallest problem on which an estimator is not what it claims to be.

    Problems are drawn by Hypothesis and judged exactly; the first that
    convicts is shrunk, as long as the mean stays off by more than a thousandth of the gradient:
    a mean that is off by less, such as by the ε of a standard deviation, convicts only where
    nothing else does. The same call gives the same answer.

    Parameters
    ----------
    estimator : Estimator or callable
        As in `judge`.
    problems : SearchStrategy of Problem, optional
        Where to look; ``strategies.problems()`` if not given: one trajectory
        of the policy itself. Estimators that compare trajectories, weigh those
        of another policy, or bootstrap, are right or wrong only where there
        is something to: pass ``strategies.problems(GROUPS)``, ``(OFF_POLICY)``
        or ``(BOOTSTRAPPED)``.
    objective : Discounted, Undiscounted, KLRegularised or EntropyRegularised
        Whose gradient it claims to be; or a function that makes it from the `Problem`.
    proportional : bool
        Whether a positive multiple of the gradient will do.
    exchangeable, precision
        As in `judge`.
    max_examples : int
        How many problems to draw.

    Returns
    -------
    Counterexample
        False, with the number of problems that acquit, when there is none.

    Raises
    ------
    Exception
        Whatever the estimator raises, with a note that shows the smallest problem on which it does.
    ImportError
        Without Hypothesis.

    Examples
    --------
    The return of a step leaves out its own reward:

    >>> import numpy as np
    >>> def mine(trajectories, theta, problem):
    ...     T, psi = trajectories.n_steps, problem.policy.score(theta)[trajectories.states, trajectories.actions]
    ...     discounted = trajectories.rewards * problem.gamma ** np.arange(T)
    ...     later = np.stack([discounted[:, t + 1 :].sum(axis=1) for t in range(T)], axis=1)
    ...     return np.einsum("nt,ntd->d", later * trajectories.mask, psi) / len(trajectories)
    >>> print(find_counterexample(mine))
    biased for the gradient of Discounted: relative bias 1; worst component 0: mean 0, gradient -0.25 (every estimate is zero: ...)
    on this problem, the smallest of ... judged:
    <BLANKLINE>
    from reinforce_np import FiniteMDP, Problem, TabularSoftmax
    <BLANKLINE>
    problem = Problem(
        FiniteMDP(
            probability=[[[1.0], [1.0]]],
            next_state=[[[0], [0]]],
            reward=[[[0.0], [1.0]]],
            terminated=[[[False], [False]]],
            initial=[1.0],
            gamma=1.0,
            horizon=1,
        ),
        TabularSoftmax(1, 2),
        theta=[0.0, 0.0],
    )
    """
    try:
        import hypothesis
    except ImportError as error:
        raise ImportError("find_counterexample needs Hypothesis; pip install 'reinforce_np[test]'") from error
    from reinforce_np import strategies

    proportional = arguments.flag("proportional", proportional)
    max_examples = arguments.integer("max_examples", max_examples, low=1)
    options = {"objective": objective, "exchangeable": exchangeable, "precision": precision}
    n_judged = n_undefined = 0
    sought, least = None, CLEAR
    judged: list[tuple[Problem, Any]] = []

    def convicts(problem):
        """Return whether a problem shows what the first one to show anything did: a clearly wrong mean, or one kind of error."""
        nonlocal n_judged, n_undefined, sought
        try:
            verdict = judge(estimator, problem, **options)
        except hypothesis.errors.HypothesisException:  # such as assume() in the estimator
            raise
        except Exception as error:
            shown: Any = type(error)
        else:
            judged.append((problem, verdict))
            n_undefined += decides_nothing(verdict)
            shown = "wrong" if is_wrong(verdict, proportional) and distance(verdict, proportional) > least else None
        n_judged += 1
        sought = sought or shown
        return shown is not None and shown == sought

    phases = (hypothesis.Phase.generate, hypothesis.Phase.shrink)  # Phase.explain would trace every line
    settings = hypothesis.settings(
        max_examples=max_examples, phases=phases, derandomize=True, database=None, deadline=None
    )
    where = strategies.problems() if problems is None else problems
    problem = None
    with _files_elsewhere():
        with contextlib.suppress(hypothesis.errors.NoSuchExample):
            problem = hypothesis.find(where, convicts, settings=settings)
        if problem is None and any(is_wrong(verdict, proportional) for _, verdict in judged):
            n_judged, n_undefined, least = 0, 0, -math.inf
            judged.clear()
            problem = hypothesis.find(where, convicts, settings=settings)
    if problem is None:
        acquitted = [verdict.reason for _, verdict in judged if not decides_nothing(verdict)]
        remark = ELSEWHERE if acquitted and all(ALL_ONE in reason for reason in acquitted) else ""
        return Counterexample(None, None, "smallest", n_judged, n_undefined, remark=remark)
    try:
        verdict = judge(estimator, problem, **options)
        return Counterexample(problem, verdict, "smallest", n_judged, n_undefined, not_by(verdict, judged))
    except Exception as error:
        error.add_note(f"raised on the smallest problem of {n_judged} judged:\n\n{pasteable(problem)}")
        raise


def is_wrong(verdict, proportional=False):
    """Return whether a verdict convicts: the mean is not the gradient (or a positive multiple), or does not exist.

    Parameters
    ----------
    verdict : Verdict
        Of the estimator.
    proportional : bool
        Whether a positive multiple will do.

    Returns
    -------
    bool
    """
    if verdict.moments is None:
        return True
    if verdict.kind == "proportional":
        return not (proportional and verdict.factor > 0)
    return verdict.kind == "biased"


def distance(verdict, proportional=False):
    """Return how far the mean is from the gradient (or from its nearest positive multiple), relative to it.

    Parameters
    ----------
    verdict : Verdict
        Of the estimator.
    proportional : bool
        Whether a positive multiple will do.

    Returns
    -------
    float
        Infinite when there is no mean, and when it is zero or the gradient is.
    """
    if verdict.cosine is None:
        return math.inf
    if not proportional:
        return verdict.relative_bias
    return math.sqrt(max(1.0 - verdict.cosine**2, 0.0)) if verdict.cosine > 0 else math.inf


def decides_nothing(verdict):
    """Return whether gradient and mean are both zero, so that a problem speaks neither for nor against an estimator."""
    return verdict.kind == "undefined" and verdict.moments is not None


def not_by(verdict, judged):
    """Return a problem with a verdict that denies what a proportional one on another suggests: a constant factor.

    Parameters
    ----------
    verdict : Verdict
        Of the smallest problem.
    judged : list of (Problem, Verdict)
        Of all problems, in the order in which they were looked at: the smaller ones later.

    Returns
    -------
    (Problem, Verdict) or None
        One that is biased, if there is one.
    """
    if verdict.kind != "proportional":
        return None
    others = [(p, v) for p, v in reversed(judged) if not decides_nothing(v) and not v.is_multiple(verdict.factor)]
    return next((found for found in others if found[1].kind == "biased"), next(iter(others), None))


def pasteable(problem):
    """Return code that makes a problem, its imports included."""
    names = ", ".join(sorted({"FiniteMDP", "Problem", type(problem.policy).__name__}))
    return f"from reinforce_np import {names}\n\nproblem = {code(problem, width=WIDTH)}"


@contextlib.contextmanager
def _files_elsewhere():
    """Let Hypothesis write what it remembers to a directory that is thrown away."""
    from hypothesis import configuration

    home: Any = configuration.storage_directory()  # a path, in older versions of Hypothesis
    with tempfile.TemporaryDirectory() as directory:
        configuration.set_hypothesis_home_dir(directory)
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(getattr(home, "path", home))
