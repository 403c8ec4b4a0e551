"""The referee at work: losses as estimators, assertions for tests, a panel where every known mistake shows."""

from reinforce_np.referee.assertions import (
    Convicted,
    assert_gradient,
    assert_proportional,
    assert_unbiased,
    assert_variance_at_most,
)
from reinforce_np.referee.confirmed import confirm_on_panel
from reinforce_np.referee.counterexamples import find_counterexample
from reinforce_np.referee.losses import jax_loss, numpy_loss, torch_loss
from reinforce_np.referee.panel import judge_on_panel
from reinforce_np.referee.search import worst_problem

__all__ = [
    "Convicted",
    "assert_gradient",
    "assert_proportional",
    "assert_unbiased",
    "assert_variance_at_most",
    "confirm_on_panel",
    "find_counterexample",
    "jax_loss",
    "judge_on_panel",
    "numpy_loss",
    "torch_loss",
    "worst_problem",
]
