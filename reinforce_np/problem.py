"""What an estimator is judged on: a model, a policy and its parameters, and how trajectories are drawn."""

from dataclasses import KW_ONLY, dataclass, fields
from dataclasses import replace as replaced
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.mdp import FiniteMDP


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
        parts = [repr(self.mdp), repr(self.policy)]
        parts += [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self)[3:] if _is_set(getattr(self, f.name))]
        return f"Problem({', '.join(parts)})"


def _is_set(value):
    """Whether a field differs from its default, as far as a reader cares."""
    return value is not None and not (isinstance(value, int | float | str) and value in (0, 1, ""))


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
