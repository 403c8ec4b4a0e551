"""The record of one estimator of the catalogue: what it is, where it was seen, what it should be, and what it does."""

import inspect
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from reinforce_np.exact import Discounted, EntropyRegularised, KLRegularised, Undiscounted, judge

NOT_FOUND = "not found in a public thread"


def discounted(problem):
    """J_γ."""
    return Discounted()


def undiscounted(problem):
    """J₁, whatever γ the model has."""
    return Undiscounted()


def kl_regularised(problem):
    """J_γ − β KL(π‖π_ref)."""
    return KLRegularised(problem.reference, problem.beta)


def entropy_regularised(problem):
    """J_γ + β H(π)."""
    return EntropyRegularised(problem.beta)


@dataclass(frozen=True, eq=False)
class Specimen:
    """An estimator that is wrong, or was accused of it.

    Parameters
    ----------
    function : callable
        f(trajectories, theta, problem) -> (D,); its docstring says what it is.
    verdict : str
        What it deserves: "biased", "proportional" or "unbiased".
    seen : str
        A public thread, page or paper in which it was found.
    remedy : str
        What it should be; or why it is right.
    on : str
        The problem of the panel that the numbers are stated on.
    relative_bias : float
        ‖E[ĝ] − ∇J‖ / ‖∇J‖ there, to three digits.
    cosine : float or None
        Of the angle between E[ĝ] and ∇J there, to three decimals; None where the mean is zero.
    factor : float or None
        E[ĝ] = factor · ∇J there, where it is proportional.
    objective : callable
        From a `Problem` to the objective whose gradient it should be.
    needs : tuple of str
        Fields of a `Problem` it cannot do without: "critic", "reference", "behaviour"; or "group_size"
        or "prompts", of which there must be at least two.
    exchangeable : bool
        Whether the order of its batch does not matter.
    guilty : bool
        Whether it is a mistake; False for what was accused wrongly.
    worse_than : callable, optional
        An unbiased estimator of the same gradient with less variance.
    """

    function: Callable
    verdict: str
    _: KW_ONLY
    seen: str
    remedy: str
    on: str
    relative_bias: float = 0.0
    cosine: float | None = 1.0
    factor: float | None = None
    objective: Callable = discounted
    needs: tuple = ()
    exchangeable: bool = True
    guilty: bool = True
    worse_than: Callable | None = None

    @property
    def name(self):
        """Name of the function."""
        return self.function.__name__

    @property
    def family(self):
        """The file of the catalogue it is in."""
        return self.function.__module__.rpartition(".")[2]

    @property
    def what(self):
        """What it is: the docstring of the function in one line."""
        return " ".join(str(inspect.getdoc(self.function)).split())

    def applies_to(self, problem):
        """Whether a problem has what it needs, and does not hold data of another policy unless it is for them."""
        missing = [name for name in self.needs if not _has(problem, name)]
        return not missing and (problem.behaviour is None or "behaviour" in self.needs)

    def judge(self, problem, **options):
        """Return the `Verdict` on a problem, for the objective it is meant for."""
        options = {"exchangeable": self.exchangeable} | options
        return judge(self.function, problem, objective=self.objective, **options)

    def __repr__(self):
        return f"Specimen({self.name}, {self.verdict!r})"


def _has(problem, name):
    value = getattr(problem, name)
    return value > 1 if name in ("group_size", "prompts") else value is not None
