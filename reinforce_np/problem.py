"""What an estimator is judged on: a model, a policy and its parameters, and how trajectories are drawn."""

from dataclasses import KW_ONLY, MISSING, dataclass, fields, is_dataclass
from dataclasses import replace as replaced
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.mdp import FiniteMDP

LARGE = 32  # numbers in an array: more are not printed one by one


@dataclass(frozen=True, eq=False)
class Problem:
    """A model with a policy, its parameters, and the shape of a batch.

    Parameters
    ----------
    mdp : FiniteMDP
        The model.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (D,)
        Its parameters.
    behaviour : array (D,) or (S, A), optional
        The policy that draws the actions.
    prompts : int
        Number of groups in a batch.
    group_size : int
        Trajectories in a group; they share their first state.
    reference : array (D,) or (S, A), optional
        The policy that a KL penalty is measured from.
    beta : float
        Strength of a penalty.
    critic : array (S,), optional
        A guess of the values, usually wrong: what a critic has learned so far.
    name : str
        For reports.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples, judge
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2), group_size=2)
    >>> judge(algorithms.rloo(), problem).kind
    'unbiased'
    """

    mdp: FiniteMDP
    policy: Any
    theta: np.ndarray
    _: KW_ONLY
    behaviour: np.ndarray | None = None
    prompts: int = 1
    group_size: int = 1
    reference: np.ndarray | None = None
    beta: float = 0.0
    critic: np.ndarray | None = None
    name: str = ""

    def __post_init__(self):
        arguments.check_same_model(self.mdp, self.policy)
        theta = self.policy.real_theta(self.theta).copy()
        theta.setflags(write=False)
        checked = {
            "theta": theta,
            "prompts": arguments.integer("prompts", self.prompts, low=1),
            "group_size": arguments.integer("group_size", self.group_size, low=1),
            "beta": arguments.number("beta", self.beta),
        }
        if self.critic is not None:
            checked["critic"] = arguments.real_array("critic", self.critic, shape=(self.mdp.n_states,))
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def gamma(self):
        """Discount per step."""
        return self.mdp.gamma

    @property
    def options(self):
        """How a batch is drawn, as the keywords that `moments` and `judge` take."""
        return {"prompts": self.prompts, "group_size": self.group_size, "behaviour": self.behaviour}

    def replace(self, **changes):
        """Return a copy with some fields changed, validated anew."""
        return replaced(self, **changes)

    def __repr__(self):
        if is_small(self):
            return code(self)
        given = [(name, value) for name, value in _arguments(self)[2:] if name != "theta="]
        words = [f"{name}{_summary(value)}" for name, value in [("theta=", self.theta), *given]]
        return f"Problem({', '.join([repr(self.mdp), type(self.policy).__name__ + '(...)', *words])})"


def is_small(record):
    """Return whether a reader can take in a record number by number."""
    if is_dataclass(record):
        return all(is_small(getattr(record, field.name)) for field in fields(record))
    return np.size(record) <= LARGE


def code(record, *, width=None):
    """Return Python that makes a record again: to be pasted into a test.

    Arguments that have their default are left out, arrays are nested lists,
    and every number is written with all its digits.

    Parameters
    ----------
    record : Problem, FiniteMDP, TabularSoftmax, LinearSoftmax or Trajectories
        Any record of this package whose fields are numbers, arrays and records.
    width : int, optional
        Break lines that are longer; one line if not given.

    Returns
    -------
    str

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2), group_size=2)
    >>> print(code(problem, width=40))
    Problem(
        FiniteMDP(
            probability=[[[1.0], [1.0]]],
            next_state=[[[0], [0]]],
            reward=[[[0.0], [1.0]]],
            terminated=[[[True], [True]]],
            initial=[1.0],
            gamma=1.0,
            horizon=1,
        ),
        TabularSoftmax(1, 2),
        theta=[0.0, 0.0],
        group_size=2,
    )
    """
    return _written(record, width, 0, 0)


def _written(value, width, indent, used):
    """Return a value as code; `used` columns of its first line are taken."""
    if is_dataclass(value):
        opening, parts, closing = type(value).__name__ + "(", _arguments(value), ")"
    elif isinstance(value, list):
        opening, parts, closing = "[", [("", item) for item in value], "]"
    elif isinstance(value, float) and not np.isfinite(value):
        return f"float('{value}')"
    else:
        return repr(value)
    line = opening + ", ".join(name + _written(part, None, 0, 0) for name, part in parts) + closing
    if width is None or used + len(line) <= width or not parts:
        return line
    inner = indent + 4
    lines = [" " * inner + name + _written(part, width, inner, inner + len(name) + 1) + "," for name, part in parts]
    return "\n".join([opening, *lines, " " * indent + closing])


def _arguments(record):
    """Return the arguments that make a record: pairs of ``name=`` (empty where it is understood) and a plain value."""
    found: list[tuple[str, Any]] = []
    in_order = True
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray | np.generic | list | tuple):
            value = np.asarray(value).tolist()
        in_order = in_order and not field.kw_only and not isinstance(value, list)
        if field.default is MISSING or value != field.default:
            found.append(("" if in_order else f"{field.name}=", value))
        else:
            in_order = False
    return found


def _summary(value):
    """Return a value in a few words."""
    return f"<{np.size(value)} numbers>" if np.size(value) > 4 else code(value)


def problem_of(mdp, policy=None, theta=None, **options):
    """Return the `Problem` that the arguments of `judge` and its like describe.

    Parameters
    ----------
    mdp : FiniteMDP or Problem
        A model, to be followed by its policy and θ; or everything in one.
    policy, theta
        Of a model.
    **options
        Fields of `Problem`; None leaves what a `Problem` says.

    Returns
    -------
    Problem
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(mdp, Problem):
        if policy is not None or theta is not None:
            raise TypeError("policy and theta are given twice: a Problem holds its own; pass either it or all three")
        return mdp.replace(**given) if given else mdp
    if policy is None or theta is None:
        raise TypeError(f"policy={policy!r}, theta={theta!r}: pass a model with its policy and theta, or a Problem")
    return Problem(mdp, policy, theta, **given)
