"""What may be drawn, checked before anything is: bounds that contradict each other are refused at once."""

from dataclasses import dataclass, fields

import numpy as np

from reinforce_np import arguments
from reinforce_np.traits import Features

SMALLEST = {"states": 1, "actions": 2, "outcomes": 1, "horizon": 1, "group_size": 1, "prompts": 1}
NEEDS = {
    "unequal_lengths": ("horizon", 2),
    "three_steps": ("horizon", 3),
    "uneven_start": ("states", 2),
    "several_outcomes": ("outcomes", 2),
    "three_actions": ("actions", 3),
    "groups": ("group_size", 2),
    "prompts": ("prompts", 2),
}
"""The size that a feature needs, and how large it must be."""
LARGE_REWARDS = 3  # of size above 1, so that one is left when the mean and the gradient must not be zero


@dataclass(frozen=True)
class Bounds:
    """The smallest and the largest of every size, what must be there (`force`) and what can be (`possible`)."""

    states: tuple
    actions: tuple
    outcomes: tuple
    horizon: tuple
    group_size: tuple
    prompts: tuple
    rewards: tuple
    gammas: tuple
    temperatures: tuple
    force: Features
    possible: Features
    limit: int

    def least(self, wanted, **chosen):
        """Return how many batches the smallest problem has that is wanted, with the sizes chosen so far.

        At every step one outcome goes on, and all others end the episode.
        """
        size = {name: chosen.get(name, getattr(self, name)[0]) for name in SMALLEST}
        n_exits = size["actions"] * size["outcomes"] - 1 + (wanted.several_outcomes and size["outcomes"] == 1)
        n_starts = 2 if wanted.uneven_start else 1
        return (n_starts * (1 + size["horizon"] * n_exits) ** size["group_size"]) ** size["prompts"]

    def fit(self, wanted, **chosen):
        """Return whether some problem that is wanted stays within the limit, with the sizes chosen so far."""
        return self.least(wanted, **chosen) <= self.limit


def checked(force, limit_name, limit, *, rewards, gammas, temperatures=(1.0,), **sizes):
    """Return `Bounds`, or say which of them contradict each other."""
    if not isinstance(force, Features):
        raise TypeError(f"force={force!r} is no Features; pass EPISODES | CHANCE, say, or Features(truncation=True)")
    limit = arguments.integer(limit_name, limit, low=1)
    pairs = {name: pair(name, value, SMALLEST[name]) for name, value in sizes.items()}
    low, high = pair("rewards", rewards)
    if low == high:
        raise ValueError(f"rewards={rewards!r} leave no choice, so that every gradient is zero; widen the range")
    gammas = numbers("gammas", gammas, high=1.0)
    n_large = max(high - max(low, 2) + 1, 0) + max(min(high, -2) - low + 1, 0)
    possible = {name: pairs[size][1] >= least for name, (size, least) in NEEDS.items()}
    possible |= {"discount": any(0.0 < gamma < 1.0 for gamma in gammas), "rewards": n_large >= LARGE_REWARDS}
    for name in force.names & {name for name, value in possible.items() if not value}:
        size, least = NEEDS.get(name, (name, LARGE_REWARDS))
        remedy = "gammas must hold one between 0 and 1" if name == "discount" else f"{size} must allow {least}"
        raise ValueError(f"force={force!r} contradicts the bounds: for {name}, {remedy}")
    for size, least in (NEEDS[name] for name in force.names & NEEDS.keys()):
        if size != "outcomes":  # of which one action with two will do
            pairs[size] = (max(least, pairs[size][0]), pairs[size][1])
    bounds = Bounds(
        **pairs,
        rewards=(low, high),
        gammas=gammas,
        temperatures=numbers("temperatures", temperatures, low=1e-3, high=1e3),
        force=force,
        possible=Features(**{f.name: possible.get(f.name, True) for f in fields(Features)}),
        limit=limit,
    )
    if not bounds.fit(force):
        raise ValueError(
            f"{limit_name}={limit} is too small: the smallest problem within these bounds has {bounds.least(force)}; "
            "raise it, or force less"
        )
    return bounds


def pair(name, value, low=-(2**53)):
    """Return (smallest, largest) from a whole number, or from a pair of them."""
    both = tuple(value) if isinstance(value, tuple | list) and len(value) == 2 else (value, value)
    smallest, largest = (arguments.integer(name, x, low=low) for x in both)
    if smallest > largest:
        raise ValueError(f"{name}={value!r} is empty; pass (smallest, largest), or one number")
    return smallest, largest


def numbers(name, values, *, low=0.0, high):
    """Return a tuple of numbers, at least one."""
    found = tuple(arguments.number(name, value, low=low, high=high) for value in np.atleast_1d(values).tolist())
    if not found:
        raise ValueError(f"{name}={values!r} is empty; pass at least one number")
    return found
