"""Judge an estimator on a fixed panel of problems, none of which hides what another hides.

One problem is not a test: a mistake in γᵗ does not show without a discount, one
in the end of an episode not without both kinds of end, one in the shape of a
batch not with one trajectory. `PANEL` has it all, in problems so small that
every batch can be listed in every order:

    termination and truncation; γ of 0.5, 0.7, 0.9 and 1; three steps and more;
    uneven starts; several outcomes; rewards with a mean, and above 1;
    policies away from uniform; episodes of unequal length; three actions;
    critics that are wrong; a reference and a behaviour that are not the policy;
    groups of 1 to 4; several prompts.

Every wrong estimator of the catalogue is caught by at least one of them, and
every right one passes all; `tests/test_panel.py` says so.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments, parallel
from reinforce_np.exact import Discounted, judge
from reinforce_np.exact.verdicts import NO_BOOL
from reinforce_np.examples import referee
from reinforce_np.mdp import FiniteMDP
from reinforce_np.policies import TabularSoftmax
from reinforce_np.problem import Problem
from reinforce_np.tables.outcomes import padded_fields

LIMIT = 2**13  # evaluations: trajectories in all listed batches of one problem


def _model(rows, **options):
    """Build a model from rows[s][a], lists of outcomes (probability, next state, reward, whether the episode ends)."""
    cells = [(s, a, *outcome) for s, row in enumerate(rows) for a, listed in enumerate(row) for outcome in listed]
    s, a, probability, next_state, reward, terminated = map(np.array, zip(*cells, strict=True))
    fields = padded_fields(
        len(rows), len(rows[0]), s=s, a=a,
        probability=probability, next_state=next_state, reward=reward, terminated=terminated,
    )  # fmt: skip
    return FiniteMDP(**fields, **options)


def _problem(name, mdp, theta, *, critic, reference, beta, **options):
    policy = TabularSoftmax(mdp.n_states, mdp.n_actions)
    options |= {"critic": np.array(critic), "reference": np.array(reference)}
    return Problem(mdp, policy, np.array(theta), beta=beta, name=name, **options)


END, ON = True, False  # whether an outcome ends the episode

RISKY = [  # state 0 gambles for an early end, state 1 pays for a late one
    [[(0.5, 1, 3.0, END), (0.5, 0, -1.0, END)], [(1.0, 1, 0.0, ON)], [(1.0, 0, -1.5, END)]],
    [[(1.0, 1, 2.0, END)], [(1.0, 0, 1.0, ON)], [(1.0, 0, -0.5, END)]],
]
TWO_WAYS = [  # action 0 ends, by chance in state 0; action 1 goes to the other state
    [[(0.75, 1, 2.0, END), (0.25, 0, -1.0, END)], [(1.0, 1, -0.5, ON)]],
    [[(1.0, 0, 3.0, END)], [(1.0, 0, 1.5, ON)]],
]
SURE = [  # no chance at all; state 2 is a prompt of its own, with answers of one step and rewards of another scale
    [[(1.0, 1, 2.0, END)], [(1.0, 1, 0.5, ON)]],
    [[(1.0, 0, -1.0, END)], [(1.0, 0, 3.0, ON)]],
    [[(1.0, 0, 4.0, END)], [(1.0, 2, -2.0, END)]],
]
SLIPPERY = [  # going on may end the episode or stay where it is
    [[(1.0, 1, -1.0, END)], [(0.5, 1, 2.0, ON), (0.25, 0, -1.0, ON), (0.25, 1, 0.0, END)]],
    [[(0.6, 0, 3.0, END), (0.4, 1, -1.0, ON)], [(1.0, 0, -0.5, ON)]],
]

PANEL = (
    _problem(
        "referee", referee(gamma=0.9, horizon=3), [0.8, -0.4, 0.1, -0.9, 0.3, 0.6, 0.2, -0.7, 0.5],
        critic=[2.0, -1.0, 1.5], reference=[-0.5, 0.4, 0.0, 0.9, -0.3, 0.2, -0.8, 0.6, 0.1], beta=0.5,
    ),
    _problem(
        "impatient", _model(SLIPPERY, initial=[0.7, 0.3], gamma=0.5, horizon=4), [-0.3, 0.9, 0.4, -0.5],
        critic=[3.0, -1.0], reference=[0.5, -0.5, 0.9, -0.3], beta=1.0,
    ),
    _problem(
        "undiscounted", _model(SLIPPERY, initial=[0.4, 0.6], gamma=1.0, horizon=4), [-0.4, 0.7, 0.5, -0.2],
        critic=[-1.0, 2.0], reference=[0.8, -0.3, -0.6, 0.6], beta=0.5,
    ),
    _problem(
        "pairs", _model(RISKY, initial=[0.6, 0.4], gamma=0.7, horizon=3), [0.3, 0.9, -0.8, -0.5, 0.7, 0.1],
        critic=[2.0, -1.5], reference=[-0.6, 0.2, 0.7, 0.5, -0.9, 0.0], beta=0.5, group_size=2,
    ),
    _problem(
        "triples", _model(TWO_WAYS, initial=[0.75, 0.25], gamma=0.9, horizon=3), [-0.3, 0.6, 0.4, -0.5],
        critic=[-1.0, 2.5], reference=[0.7, -0.4, -0.5, 0.8], beta=1.0, group_size=3,
    ),
    _problem(
        "fours", _model(SURE, initial=[0.6, 0.0, 0.4], gamma=0.5, horizon=3), [0.1, 0.8, -0.6, 0.3, -0.4, 0.5],
        critic=[3.0, 1.0, -1.0], reference=[0.6, -0.7, 0.4, -0.2, 0.3, -0.5], beta=0.5, group_size=4,
    ),
    _problem(
        "two prompts", _model(SURE, initial=[0.7, 0.0, 0.3], gamma=0.7, horizon=3), [-0.2, 0.9, 0.5, -0.4, 0.7, -0.1],
        critic=[1.5, -2.0, 2.5], reference=[0.5, 0.0, -0.7, 0.6, -0.3, 0.4], beta=0.5, prompts=2, group_size=2,
    ),
    _problem(
        "three prompts", _model(SURE, initial=[0.45, 0.0, 0.55], gamma=0.9, horizon=3), [-0.2, 0.5, -0.4, 0.3, -0.3, 0.4],
        critic=[-2.0, 1.0, 1.5], reference=[-0.3, 0.6, 0.8, -0.5, 0.6, -0.2], beta=1.0, prompts=3,
    ),
    _problem(
        "other data", _model(TWO_WAYS, initial=[0.6, 0.4], gamma=0.9, horizon=3), [0.5, 0.6, 0.2, -0.6],
        critic=[2.0, -1.0], reference=[0.6, -0.4, 0.7, -0.3], beta=0.5, behaviour=np.array([[0.3, 0.7], [0.2, 0.8]]),
    ),
    _problem(
        "other data, pairs", _model(RISKY, initial=[0.6, 0.4], gamma=0.7, horizon=3), [-0.8, -0.6, 0.1, -0.4, -0.9, -0.1],
        critic=[2.0, -1.5], reference=[-0.6, 0.2, 0.7, 0.5, -0.9, 0.0], beta=0.5, group_size=2,
        behaviour=np.array([0.6, 0.6, -0.9, 0.3, -0.6, -0.9]),
    ),
)  # fmt: skip
"""The problems; the last two hold data of another policy."""


@dataclass(frozen=True, eq=False)
class PanelRow:
    """What came out on one problem.

    Parameters
    ----------
    problem : Problem
        As it was judged.
    verdict : Verdict or None
        None where the problem is not applicable.
    reason : str
        Why it is not.
    """

    problem: Problem
    verdict: Any
    reason: str = ""

    def as_dict(self):
        """Return the row as plain numbers and lists, ready for JSON."""
        problem = self.problem
        described = {
            "problem": problem.name,
            "gamma": problem.gamma,
            "horizon": problem.mdp.horizon,
            "prompts": problem.prompts,
            "group_size": problem.group_size,
            "off_policy": problem.behaviour is not None,
        }
        if self.verdict is None:
            return described | {"verdict": None, "reason": self.reason}
        return described | {"verdict": self.verdict.as_dict(), "reason": self.verdict.reason}


@dataclass(frozen=True, eq=False)
class PanelVerdict:
    """What an estimator estimates on every problem of a panel; prints as a table.

    Parameters
    ----------
    kind : str
        "unbiased" when it is that on every problem that was judged; "biased" when it is on one of them, and "undefined"
        when it is that on one and biased on none. Else "proportional": its mean is some multiple of the gradient on every problem, by
        `factor`, or, where `factor` is None, by one number here and another there.
    factor : float or None
        E[ĝ] = factor · ∇J on every problem, a step size: `assert_proportional(f, problem, factor=factor)` passes on each of them.
        None where no one number does; then some of the factors may be 1, or negative, and point the wrong way.
    reason : str
        The verdict in a sentence, with all factors where they differ.
    rows : tuple of PanelRow
        One for each problem, in the order of the panel; those that are not applicable say why.

    Examples
    --------
    >>> from reinforce_np import algorithms, judge_on_panel
    >>> found = judge_on_panel(algorithms.dr_grpo(), group_size=2)
    >>> found.kind, round(found.factor, 12)
    ('proportional', 0.5)
    """

    kind: str
    factor: float | None
    reason: str
    rows: tuple

    def __bool__(self):
        raise TypeError(NO_BOOL)

    @property
    def judged(self):
        """The rows that have a verdict."""
        return tuple(row for row in self.rows if row.verdict is not None)

    @property
    def worst(self):
        """The row with the largest relative bias, or None when nothing was judged."""
        with_bias = [row for row in self.judged if row.verdict.relative_bias is not None]
        return max(with_bias, key=lambda row: row.verdict.relative_bias, default=None)

    def as_dict(self):
        """Return everything as plain numbers and lists, ready for JSON."""
        return {
            "kind": self.kind,
            "factor": self.factor,
            "reason": self.reason,
            "problems": [row.as_dict() for row in self.rows],
        }

    def __str__(self):
        table = [("problem", "batch", "gamma", "steps", "verdict", "rel. bias", "cosine")]
        table += [_cells(row) for row in self.rows]
        widths = [max(len(line[i]) for line in table if i < 4 or len(line) > 5) for i in range(7)]
        lines = [_line(line, widths) for line in table]
        return "\n".join([*lines, "", self.reason])


def _cells(row):
    """Return a row of the table as words."""
    problem, verdict = row.problem, row.verdict
    batch = f"{problem.prompts} x {problem.group_size}"
    start = (problem.name, batch, f"{problem.gamma:g}", str(problem.mdp.horizon))
    if verdict is None:
        return (*start, f"not applicable: {row.reason}")
    kind = f"{verdict.factor:.4g} x gradient" if verdict.kind == "proportional" else verdict.kind
    if verdict.kind == "undefined":
        return (*start, f"undefined: {verdict.reason}")
    bias = "0" if verdict.kind == "unbiased" else f"{verdict.relative_bias:.3f}"
    return (*start, kind, bias, "-" if verdict.cosine is None else f"{verdict.cosine:.4f}")


def _line(cells, widths):
    left, right = cells[:5], cells[5:]
    words = [cell.ljust(width) for cell, width in zip(left, widths, strict=False)]
    words += [cell.rjust(width) for cell, width in zip(right, widths[5:], strict=False)]
    return "  ".join(words).rstrip()


def judge_on_panel(
    estimator,
    *,
    objective=Discounted(),
    off_policy=False,
    group_size=None,
    exchangeable=False,
    problems=None,
    executor=None,
):
    """Judge an estimator on every problem of the panel, exactly.

    A function that is right for a reason is right on all of them; of the wrong ones in the catalogue, each is
    caught at least once.

    Parameters
    ----------
    estimator : Estimator or callable
        As in `judge`. A function of (trajectories, theta, problem) finds γ,
        the policy, a critic and a reference in the problem.
    objective : Discounted, Undiscounted, KLRegularised or EntropyRegularised
        Whose gradient it should be; or a function that makes it from the
        `Problem`, such as ``lambda problem: KLRegularised(problem.reference, problem.beta)``.
    off_policy : bool
        Whether it corrects for data of another policy. If not, the problems
        that hold such data are not applicable.
    group_size : int, optional
        Draw groups of this size on every problem, as estimators need that
        compare the members of a group; problems with too many batches are then not
        applicable. Each problem's own size, from 1 to 4, if not given.
    exchangeable : bool
        Declares that the order of a batch does not matter, so that fewer have to be listed. A function is called once
        for every batch: about 6,700 times with ``group_size=2``, and 4,000 times, on one problem more, when it is
        exchangeable; 2,000 and 1,200 times in the sizes of the panel itself. A loss in PyTorch takes about half a
        millisecond for each, one in JAX 10.
    problems : sequence of Problem, optional
        Instead of `PANEL`.
    executor : concurrent.futures.Executor, optional
        Judges the problems side by side; the result is the same.

    Returns
    -------
    PanelVerdict

    Raises
    ------
    Exception
        Whatever the estimator raises, with a note that names the problem.
    ValueError
        When `problems` is empty; and as `judge`, but for what is too large: that is a row of its own.

    Examples
    --------
    The return as it is often written, with no γᵗ on the score of step t:

    >>> from reinforce_np import Estimator, RewardToGo
    >>> found = judge_on_panel(Estimator(RewardToGo(), discounted_score=False))
    >>> found.kind, found.worst.problem.name, round(found.worst.verdict.relative_bias, 2)
    ('biased', 'impatient', 0.5)
    >>> print(found)  # doctest: +ELLIPSIS
    problem            batch  gamma  steps  verdict ...
    referee            1 x 1  0.9    3      biased ...
    ...
    biased for Discounted on 7 of 8 problems, worst on 'impatient': relative bias 0.5, cosine 0.9898; 2 more not judged: ...
    """
    off_policy = arguments.flag("off_policy", off_policy)
    arguments.flag("exchangeable", exchangeable)
    parallel.check_executor(executor)
    if group_size is not None:
        group_size = arguments.integer("group_size", group_size, low=1)
    problems = PANEL if problems is None else tuple(problems)
    if not problems:
        raise ValueError("problems=() is empty; pass at least one Problem, or none for the whole panel")
    if group_size is not None:
        problems = tuple(problem.replace(group_size=group_size) for problem in problems)
    applicable = [problem for problem in problems if problem.behaviour is None or off_policy]
    jobs = [(estimator, problem, objective, exchangeable) for problem in applicable]
    judged = parallel.in_order(_judged, jobs, executor)
    elsewhere = "its data are of another policy (off_policy=False)"
    rows = tuple(
        PanelRow(problem, *(next(judged) if problem.behaviour is None or off_policy else (None, elsewhere)))
        for problem in problems
    )
    kind, factor, reason = _overall(rows)
    skipped = [row.reason for row in rows if row.verdict is None]
    if 0 < len(skipped) < len(rows):
        reason += f"; {len(skipped)} more not judged: " + "; ".join(dict.fromkeys(skipped))
    return PanelVerdict(kind, factor, reason, rows)


def _judged(estimator, problem, objective, exchangeable):
    """Return the verdict on one problem, or None and why not, in whatever process."""
    try:
        return judge(estimator, problem, objective=objective, exchangeable=exchangeable, limit=LIMIT), ""
    except arguments.TooLargeError:
        return None, f"too many batches of {problem.prompts} x {problem.group_size} to list"
    except Exception as error:
        error.add_note(
            f"on the problem {problem.name!r} of the panel, in batches of {problem.prompts} x {problem.group_size}"
            + ("; group_size=2 draws groups of two everywhere" if problem.group_size == 1 else "")
        )
        raise


def _overall(rows):
    """Return kind, factor and reason of all rows together."""
    judged = [row for row in rows if row.verdict is not None]
    if not judged:
        return "undefined", None, "judged on no problem: " + "; ".join(dict.fromkeys(row.reason for row in rows))
    name, many = type(judged[0].verdict.objective).__name__, f"{len(judged)} problem{'s' * (len(judged) > 1)}"
    biased = [row for row in judged if row.verdict.kind == "biased"]
    undefined = [row for row in judged if row.verdict.kind == "undefined"]
    if biased:
        worst = max(biased, key=lambda row: row.verdict.relative_bias)
        cosine = "" if worst.verdict.cosine is None else f", cosine {worst.verdict.cosine:.4f}"
        return "biased", None, (
            f"biased for {name} on {len(biased)} of {many}, worst on {worst.problem.name!r}: "
            f"relative bias {worst.verdict.relative_bias:.3g}{cosine}"
        )  # fmt: skip
    if undefined:
        first = undefined[0]
        alone = first.problem.group_size == 1 and first.verdict.moments is None
        remedy = "; if it compares the members of a group, pass group_size=2 or more" if alone else ""
        return "undefined", None, (
            f"undefined for {name} on {len(undefined)} of {many}, first on {first.problem.name!r}: {first.verdict.reason}{remedy}"
        )  # fmt: skip
    if all(row.verdict.kind == "unbiased" for row in judged):
        return "unbiased", 1.0, f"unbiased for {name} on all of {many}"
    factor = judged[0].verdict.factor
    if all(row.verdict.is_multiple(factor) for row in judged):
        return "proportional", factor, f"proportional to the gradient of {name}, by {factor:.6g} on all of {many}"
    apart = ", ".join(f"{row.verdict.factor:.4g} on {row.problem.name!r}" for row in judged)
    wrong_way = sum(row.verdict.factor < 0 for row in judged)
    sign = f", and with the wrong sign on {wrong_way}" if wrong_way else ""
    reason = f"proportional to the gradient of {name} on each of {many}, but not by one constant{sign}: {apart}"
    return "proportional", None, reason
