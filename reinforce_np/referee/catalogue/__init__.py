"""Wrong policy-gradient estimators, and right ones that were accused: plain functions to be read, each with its exact bias.

Every entry is a function ``f(trajectories, theta, problem)`` that returns an
estimate (D,), no more than its own idea on top of `parts`, and a `Specimen`
that says where it was seen, what it should be, and what it does on a named
problem of the panel, in numbers that `tests/test_catalogue.py` recomputes.

A family a file: `returns`, `scores`, `baselines`, `ratios`, `bootstrapping`,
`penalties`, `normalisation`, `batches`; and `accused`, which are right.
"""

from reinforce_np.referee.catalogue import (
    accused,
    baselines,
    batches,
    bootstrapping,
    normalisation,
    penalties,
    ratios,
    returns,
    scores,
)
from reinforce_np.referee.catalogue.runs import judge_each
from reinforce_np.referee.catalogue.specimen import Specimen

FAMILIES = (returns, scores, baselines, ratios, bootstrapping, penalties, normalisation, batches, accused)
CATALOGUE = tuple(specimen for family in FAMILIES for specimen in family.SPECIMENS)

__all__ = ["CATALOGUE", "Specimen", "judge_each"]
