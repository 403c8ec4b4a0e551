"""What a problem must have to expose mistakes, and which of it a given problem has.

Most mistakes hide on most problems: truncation treated as termination shows
only where an episode can be cut, a forgotten ratio only where the behaviour
is another policy. `Features` names what they hide behind; the constants are
common combinations, to be joined with ``|``.
"""

from dataclasses import dataclass, fields

import numpy as np

from reinforce_np.enumeration import enumerate_trajectories
from reinforce_np.exact.values import values

DIFFERENT = 1e-6  # probabilities and values that differ by less are taken to be the same


@dataclass(frozen=True)
class Features:
    """What a problem has; all off by default, joined by ``|``, and compared by ``<=``.

    Parameters
    ----------
    termination : bool
        An episode can end by termination.
    truncation : bool
        An episode can be cut at the horizon.
    unequal_lengths : bool
        Episodes of two lengths.
    three_steps : bool
        An episode of three steps.
    discount : bool
        0 < γ < 1.
    uneven_start : bool
        Two first states, not equally probable.
    several_outcomes : bool
        An action with outcomes of different rewards.
    rewards : bool
        First rewards whose mean over the start and equally probable actions is not zero, and one of size above 1.
    uneven_policy : bool
        A policy that is not uniform in some state.
    three_actions : bool
        At least three actions.
    behaviour : bool
        Trajectories drawn by another policy.
    reference : bool
        A reference policy that is another one, and β ≠ 0.
    critic : bool
        A critic that is wrong about every state and time.
    groups : bool
        Groups of two trajectories or more.
    prompts : bool
        At least two groups.

    Examples
    --------
    >>> (EPISODES | OFF_POLICY).behaviour, EPISODES.behaviour
    (True, False)
    """

    termination: bool = False
    truncation: bool = False
    unequal_lengths: bool = False
    three_steps: bool = False
    discount: bool = False
    uneven_start: bool = False
    several_outcomes: bool = False
    rewards: bool = False
    uneven_policy: bool = False
    three_actions: bool = False
    behaviour: bool = False
    reference: bool = False
    critic: bool = False
    groups: bool = False
    prompts: bool = False

    def __or__(self, other):
        return Features(*(getattr(self, f.name) or getattr(other, f.name) for f in fields(Features)))

    def __le__(self, other):
        return self.names <= other.names

    @property
    def names(self):
        """The names of those that are there, as a set."""
        return {f.name for f in fields(Features) if getattr(self, f.name)}

    def __repr__(self):
        return f"Features({', '.join(f'{f.name}=True' for f in fields(Features) if f.name in self.names)})"


EPISODES = Features(termination=True, truncation=True, unequal_lengths=True, three_steps=True, discount=True)
"""Episodes that end in every way there is: what time indices and discounts are confused on."""
CHANCE = Features(uneven_start=True, several_outcomes=True, rewards=True, uneven_policy=True, three_actions=True)
"""Nothing is uniform, nothing is zero: what cancels by accident elsewhere."""
OFF_POLICY = Features(behaviour=True)
"""For estimators with importance ratios. (Those without are wrong there, and should be.)"""
PENALISED = Features(reference=True)
"""For estimators with a penalty towards a reference policy."""
BOOTSTRAPPED = Features(critic=True)
"""For estimators with a critic: one that is wrong, as critics are."""
GROUPS = Features(groups=True)
"""For estimators that compare the trajectories of a group."""
PROMPTS = Features(groups=True, prompts=True, uneven_start=True)
"""For estimators whose groups meet: several groups, which start in different states."""


def features_of(problem):
    """Return which features a problem has, from a list of everything that can happen in it.

    Parameters
    ----------
    problem : Problem
        Small enough to be listed.

    Returns
    -------
    Features

    Examples
    --------
    >>> import numpy as np
    >>> from reinforce_np import Problem, TabularSoftmax, examples
    >>> features_of(Problem(examples.bandit(means=[0.0, 2.0]), TabularSoftmax(1, 2), np.zeros(2), group_size=2))
    Features(termination=True, rewards=True, groups=True)
    """
    mdp, policy, theta = problem.mdp, problem.policy, problem.theta
    trajectories, _ = enumerate_trajectories(mdp, policy, theta, behaviour=problem.behaviour)
    visited = np.unique(trajectories.states[trajectories.mask])
    start = mdp.initial[mdp.initial > 0]
    pi = policy.probabilities(theta)
    several = [
        len(np.unique(mdp.reward[s, a][mdp.probability[s, a] > 0])) > 1 for s in visited for a in range(mdp.n_actions)
    ]
    mean = np.einsum("s,sak,sak->", mdp.initial, mdp.probability, mdp.reward)
    return Features(
        termination=bool(trajectories.terminated.any()),
        truncation=bool(trajectories.truncated.any()),
        unequal_lengths=len(np.unique(trajectories.lengths)) > 1,
        three_steps=bool(np.any(trajectories.lengths >= 3)),
        discount=0.0 < mdp.gamma < 1.0,
        uneven_start=len(start) > 1 and bool(np.ptp(start) > DIFFERENT),
        several_outcomes=any(several),
        rewards=bool(mean != 0 and np.any(np.abs(trajectories.rewards[:, :1]) > 1)),
        uneven_policy=bool(np.any(np.ptp(pi[visited], axis=1) > DIFFERENT)),
        three_actions=mdp.n_actions >= 3,
        behaviour=_is_another(problem, problem.behaviour, visited),
        reference=problem.beta != 0 and _is_another(problem, problem.reference, visited),
        critic=problem.critic is not None
        and bool(np.all(np.abs(values(mdp, policy, theta) - problem.critic) > DIFFERENT)),
        groups=problem.group_size >= 2,
        prompts=problem.prompts >= 2,
    )


def _is_another(problem, other, visited):
    """Return whether `other`, θ or a table, is a policy that differs from the problem's in a visited state."""
    if other is None:
        return False
    table = np.exp(problem.policy.log_probabilities_of("other", other))
    return bool(np.any(np.abs(table - problem.policy.probabilities(problem.theta))[visited] > DIFFERENT))
