"""Step sizes that change: functions of the number of steps already taken, t = 0, 1, ..."""

from dataclasses import dataclass

from reinforce_np import arguments


@dataclass(frozen=True)
class InverseTime:
    """α_t = α / (1 + t/h): half of α after h steps, a third after 2h.

    Σ α_t diverges and Σ α_t² does not: the conditions of stochastic approximation.

    Parameters
    ----------
    initial : float
        α > 0.
    halved_after : float
        h > 0, in steps.

    References
    ----------
    Robbins & Monro, "A Stochastic Approximation Method", Annals of
    Mathematical Statistics 22 (1951).

    Examples
    --------
    >>> schedule = InverseTime(0.5, halved_after=100)
    >>> schedule(0), schedule(100)
    (0.5, 0.25)
    """

    initial: float
    halved_after: float

    def __post_init__(self):
        _positive(self, "initial", "halved_after")

    def __call__(self, t):
        """Return α_t."""
        return self.initial / (1.0 + t / self.halved_after)


@dataclass(frozen=True)
class Exponential:
    """α_t = α · 2^(−t/h).

    Parameters
    ----------
    initial : float
        α > 0.
    halved_after : float
        h > 0, in steps.

    Examples
    --------
    >>> Exponential(0.5, halved_after=100)(200)
    0.125
    """

    initial: float
    halved_after: float

    def __post_init__(self):
        _positive(self, "initial", "halved_after")

    def __call__(self, t):
        """Return α_t."""
        return self.initial * 2.0 ** (-t / self.halved_after)


@dataclass(frozen=True)
class Linear:
    """α_t on a straight line from one number to another in `steps` steps, constant afterwards.

    Parameters
    ----------
    initial, final : float
        Its ends, >= 0.
    steps : int
        How many steps the line takes.

    Examples
    --------
    >>> schedule = Linear(0.5, 0.0, steps=100)
    >>> schedule(50), schedule(1000)
    (0.25, 0.0)
    """

    initial: float
    final: float
    steps: int

    def __post_init__(self):
        for name in ("initial", "final"):
            object.__setattr__(self, name, arguments.number(name, getattr(self, name), low=0.0))
        object.__setattr__(self, "steps", arguments.integer("steps", self.steps, low=1))

    def __call__(self, t):
        """Return α_t."""
        share = min(t / self.steps, 1.0)
        return (1.0 - share) * self.initial + share * self.final


def rate_at(rate, t):
    """Return the step size of step t: of a schedule, or the number itself."""
    return arguments.number("rate", rate(t), low=0.0) if callable(rate) else rate


def _positive(record, *names):
    for name in names:
        value = arguments.number(name, getattr(record, name), low=0.0, open_low=True, rule="a number > 0")
        object.__setattr__(record, name, value)
