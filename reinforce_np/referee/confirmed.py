"""The panel by Monte Carlo: what `judge_on_panel` decides exactly, confirmed by drawing batches, at a stated false-alarm rate.

For functions that cannot be judged exactly, because they draw random numbers
or keep a state, or because one wants to see them run on batches that were
drawn. Each problem of the panel gets its share of α.
"""

import math
from dataclasses import dataclass
from typing import Any

from reinforce_np import arguments, parallel
from reinforce_np.checks.confirmation import ALPHA, confirm, probability
from reinforce_np.checks.laws import LIMIT
from reinforce_np.estimators import Estimator
from reinforce_np.exact import Discounted
from reinforce_np.problem import Problem
from reinforce_np.referee.panel import PANEL
from reinforce_np.sampling import seed_sequence

N = 5000  # batches of each problem: every biased estimator of the catalogue is rejected in more than 99.9 % of runs


@dataclass(frozen=True, eq=False)
class ConfirmedRow:
    """What came out on one problem.

    Parameters
    ----------
    problem : Problem
        As it was judged.
    confirmation : Confirmation or None
        None where the problem is not applicable.
    reason : str
        Why it is not.
    """

    problem: Problem
    confirmation: Any
    reason: str = ""


@dataclass(frozen=True, eq=False)
class PanelConfirmation:
    """What Monte Carlo says of an estimator on a panel; prints as a table and is true when nothing was rejected.

    Parameters
    ----------
    n : int
        Batches drawn of each problem.
    alpha : float
        Chance that a *correct* estimator is rejected on any of them.
    rows : tuple of ConfirmedRow
        One for each problem, in the order of the panel.

    Examples
    --------
    >>> from reinforce_np import algorithms, confirm_on_panel
    >>> bool(confirm_on_panel(algorithms.rloo(), n=500, group_size=2, rng=0))
    True
    """

    n: int
    alpha: float
    rows: tuple

    @property
    def judged(self):
        """The rows that have a verdict."""
        return tuple(row for row in self.rows if row.confirmation is not None)

    @property
    def rejected(self):
        """Whether some problem rejects."""
        return any(row.confirmation.rejected for row in self.judged)

    def __bool__(self):
        return not self.rejected

    def __str__(self):
        lines = [_line(row) for row in self.rows]
        widths = [max(len(line[i]) for line in lines) for i in (0, 1)]
        text = ["  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[2]]) for line in lines]
        wrong = [row for row in self.judged if row.confirmation.rejected]
        over = f"at alpha={self.alpha:g} over {self.n} batches each"
        if not wrong:
            return "\n".join([*text, "", f"not rejected {over} on any of {len(self.judged)} problems"])
        worst = min(wrong, key=_least)
        verdict = (
            f"REJECTED {over} on {len(wrong)} of {len(self.judged)} problems, most clearly on {worst.problem.name!r}: "
        )
        return "\n".join([*text, "", verdict + str(worst.confirmation)])


def _least(row):
    """Return the smallest log-probability of a row."""
    return min(float(row.confirmation.log_probability.min()), -row.confirmation.log_e_value)


def _line(row):
    """Return a row of the table as words."""
    problem = row.problem
    start = (problem.name, f"{problem.prompts} x {problem.group_size}")
    if row.confirmation is None:
        return (*start, f"not applicable: {row.reason}")
    if row.confirmation.rejected:
        return (*start, f"REJECTED, probability below 10^{_least(row) / math.log(10):.0f}")
    return (*start, "not rejected" if row.confirmation.conclusive else "not rejected, inconclusive")


def confirm_on_panel(
    estimator,
    *,
    n=N,
    objective=Discounted(),
    off_policy=False,
    group_size=None,
    like=None,
    exchangeable=False,
    problems=None,
    alpha=ALPHA,
    limit=LIMIT,
    executor=None,
    rng=None,
):
    """Draw `n` batches of every problem of the panel, and judge the estimator on each.

    Every biased estimator of the catalogue is rejected, in more than 999 of 1000
    runs, with the default n; a right one with probability at most `alpha`.

    Parameters
    ----------
    estimator : Estimator or callable
        As in `confirm`. A function of (trajectories, theta, problem) finds γ, the
        policy, a critic and a reference in the problem.
    n : int
        Batches of each problem.
    objective : Discounted, Undiscounted, KLRegularised or EntropyRegularised
        Whose gradient it should be; or a function that makes it from the `Problem`.
    off_policy : bool
        Whether it corrects for data of another policy. If not, the problems
        that hold such data are not applicable.
    group_size : int, optional
        Draw groups of this size on every problem; each problem's own, if not given.
    like : Estimator or callable, optional
        As in `confirm`; or a function that makes it from the `Problem`.
    exchangeable : bool
        Declares that the order of a batch does not matter.
    problems : sequence of Problem, optional
        Instead of the panel.
    alpha : float
        Family-wise false-alarm rate, shared by the problems.
    limit : int
        As in `confirm`.
    executor : concurrent.futures.Executor, optional
        Draws and judges the problems side by side. The result is the same, bit for bit, if the function keeps
        nothing between calls and draws no random numbers of its own.
    rng : None, int, numpy.random.SeedSequence or numpy.random.Generator
        Seed.

    Returns
    -------
    PanelConfirmation

    Examples
    --------
    >>> from reinforce_np import Estimator, RewardToGo
    >>> print(confirm_on_panel(Estimator(RewardToGo(), discounted_score=False), n=2000, rng=0))
    referee ...
    ...
    REJECTED at alpha=1e-06 over 2000 batches each on ... of 8 problems, most clearly on ...
    """
    alpha, off_policy = probability("alpha", alpha), arguments.flag("off_policy", off_policy)
    problems = PANEL if problems is None else tuple(problems)
    if group_size is not None:
        problems = tuple(problem.replace(group_size=group_size) for problem in problems)
    elsewhere = "its data are of another policy (off_policy=False)"
    applicable = [problem for problem in problems if off_policy or problem.behaviour is None]
    if not applicable:
        raise ValueError("problems: none of them is applicable; pass off_policy=True, or others")
    parallel.check_executor(executor)
    common = {
        "n": n,
        "objective": objective,
        "exchangeable": exchangeable,
        "alpha": alpha / len(applicable),
        "limit": limit,
    }
    jobs = []
    for problem, seed in zip(problems, seed_sequence(rng).spawn(len(problems)), strict=True):
        if off_policy or problem.behaviour is None:
            own_like = like if like is None or isinstance(like, Estimator) else like(problem)
            jobs.append((estimator, problem, common | {"like": own_like, "rng": seed}))
    confirmed, rows = parallel.in_order(_confirmed, jobs, executor), []
    for problem in problems:
        if not off_policy and problem.behaviour is not None:
            rows.append(ConfirmedRow(problem, None, elsewhere))
            continue
        found = next(confirmed)
        unknown = "nothing is known of how much it scatters: pass like="
        rows.append(ConfirmedRow(problem, found) if found.guaranteed else ConfirmedRow(problem, None, unknown))
    return PanelConfirmation(n, alpha, tuple(rows))


def _confirmed(estimator, problem, options):
    """Return the confirmation on one problem, in whatever process."""
    try:
        return confirm(estimator, problem, **options)
    except Exception as error:
        error.add_note(
            f"on the problem {problem.name!r} of the panel, in batches of {problem.prompts} x {problem.group_size}"
        )
        raise
