"""The referee at work: losses as estimators, assertions for tests."""

from reinforce_np.referee.assertions import (
    assert_gradient,
    assert_proportional,
    assert_unbiased,
    assert_variance_at_most,
)
from reinforce_np.referee.losses import jax_loss, numpy_loss, torch_loss

__all__ = [
    "assert_gradient",
    "assert_proportional",
    "assert_unbiased",
    "assert_variance_at_most",
    "jax_loss",
    "numpy_loss",
    "torch_loss",
]
