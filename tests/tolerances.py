"""The tolerances of the suite, by name; a statistical test has an error rate instead."""

import numpy as np

EXACT = 1e-12  # two ways to compute one number: relative to the largest summed term
DIFFERENCE = 1e-7  # a derivative against finite differences


def assert_exact(actual, expected, scale=None):
    """Same shape, same infinities, and entries within EXACT times `scale`, by default the largest entry expected."""
    actual = np.asarray(actual)
    expected = np.asarray(expected, dtype=complex if np.iscomplexobj(expected) else float)  # also from Fractions
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    finite = np.isfinite(expected)
    assert np.array_equal(actual[~finite], expected[~finite]), "infinities differ"
    scale = np.abs(expected[finite]).max(initial=0.0) if scale is None else scale
    error = np.abs(actual[finite] - expected[finite])
    worst = float(error.max(initial=0.0))
    assert np.all(error <= EXACT * np.asarray(scale)), (
        f"off by {worst:.3g} at a scale of {np.max(scale):.3g}:\n{actual}\n{expected}"
    )
