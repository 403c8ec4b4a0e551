"""Settings of the whole suite: reproducible Hypothesis examples, and no silent floating-point errors."""

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    max_examples=16,
    database=None,
    print_blob=False,  # as everywhere: Hypothesis has settings of its own for CI servers
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def floating_point_errors_are_raised():
    """Underflow is left alone: exp(-800) = 0 in a softmax is right."""
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        yield
