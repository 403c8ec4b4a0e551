"""Settings of the whole suite: reproducible Hypothesis examples, and no silent floating-point errors."""

import gc
import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # on matrices this small a second thread only waits, at full speed

import hypothesis
import numpy as np
import pytest

gc.disable()  # until everything is imported and collected, which makes no garbage

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


def pytest_collection_finish():
    """Modules and collected tests stay to the end: the garbage collector need not walk them again and again."""
    gc.freeze()
    gc.set_threshold(10_000)  # cycles are few here
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def processes_share_their_bytecode(tmp_path_factory):
    """Where Python may not write it beside the source, every process that a test starts would compile the package again."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


@pytest.fixture(autouse=True)
def floating_point_errors_are_raised():
    """Underflow is left alone: exp(-800) = 0 in a softmax is right."""
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        yield
