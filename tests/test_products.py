"""Products of matrices in blocks that BLAS keeps to one thread."""

from types import SimpleNamespace

import numpy as np
import pytest

from reinforce_np import products


@pytest.mark.parametrize("n", [0, 1, 2, 3, 17, 64])
@pytest.mark.parametrize("inner", [1, 5, 40, 201])
@pytest.mark.parametrize("m", [1, 2, 13, 64])
@pytest.mark.parametrize("dtype", [float, complex])
def test_products_in_blocks_are_products_and_no_block_is_too_large(monkeypatch, n, inner, m, dtype):
    sizes = []

    def recording(function):
        def product(x, y, out):
            sizes.append((out.size * y.shape[0] if y.ndim == 2 else x.size) * (4 if dtype is complex else 1))
            return function(x, y, out)

        return product

    monkeypatch.setattr(products, "ONE_THREAD", 1000)
    monkeypatch.setattr(products, "ONE_THREAD_ROW", 100)
    monkeypatch.setattr(products, "FEW_COLUMNS", 3)
    monkeypatch.setattr(products, "INNER", 100)
    monkeypatch.setattr(products, "dot", recording(products.dot))
    recorded = SimpleNamespace(matmul=recording(np.matmul), einsum=np.einsum, empty_like=np.empty_like)
    monkeypatch.setattr(products, "np", recorded)
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-9, 9, size=size) * (1 + 2j if dtype is complex else 1.0) for size in ((n, inner), (inner, m)))
    for left, right in ((x, y), (np.asfortranarray(x), np.asfortranarray(y))):
        out = np.full((n, m), np.nan, dtype=dtype)
        assert products.on_one_thread(left, right, out) is out
        assert np.array_equal(out, np.einsum("ni,im->nm", x, y))
    limit = 100 if n == 1 else 1001
    factor = 4 if dtype is complex else 1
    cut = min(n, m) ** 2 > max(1000 // (5 * inner if dtype is complex else inner), 1)
    at_least = (min(inner, 100) if cut else inner) * factor  # of one entry
    assert all(size < max(limit, at_least + 1) for size in sizes)
    assert sizes or n < 2


@pytest.mark.parametrize(("rows", "S", "dtype", "whole"), [
    (64, 64, float, True), (65, 64, float, False), (96, 96, float, False), (16, 100, float, True),
    (64, 64, complex, False), (30, 40, complex, True), (0, 500, float, True),
])  # fmt: skip
def test_small_products_are_left_to_blas(rows, S, dtype, whole):
    assert products.product_of(rows, np.zeros((S, S), dtype)) is (products.dot if whole else products.on_one_thread)


@pytest.mark.parametrize("most", [200, 1000, 9216])
@pytest.mark.parametrize("dtype", [float, complex])
def test_single_rows_are_multiplied_on_one_thread(monkeypatch, most, dtype):
    """In parts that BLAS does not share among threads, whichever way the matrix lies."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(products, "ONE_THREAD_ROW", most)
    for S in (1, 7, 40, 96, 130):
        y, x = rng.normal(size=(S, S)).astype(dtype), rng.normal(size=S).astype(dtype)
        for matrix in (y, y.T):
            product, out = products.row_product_of(matrix), np.full((3, S), 7.0, dtype)
            assert product(x, out[1]).base is out
            assert np.allclose(out[1], (x[:, None] * matrix).sum(axis=0), rtol=0, atol=1e-13 * S)
            assert (out[[0, 2]] == 7.0).all()
            parts = [matrix[:, part] for part in products.columns_of_one_thread(matrix)]
            assert np.array_equal(np.concatenate(parts, axis=1), matrix)
            assert all(products.one_thread_will_do(part) or part.shape[1] == 1 for part in parts)


@pytest.mark.parametrize("shape", [(3, 4), (50, 4, 3), (200, 60), (0, 5)])
@pytest.mark.parametrize("dtype", [float, complex])
def test_small_sums_are_those_of_einsum(shape, dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-9, 9, size=shape).astype(dtype) * (1 + 1j if dtype is complex else 1.0) for _ in range(2))
    assert np.array_equal(products.inner(x, y), np.einsum("...i,...i->...", x, y))
    rows = x.reshape(len(x), x[:1].size or x.shape[1])
    assert np.array_equal(products.adding_rows(rows)(rows), rows.sum(axis=0))
    out = np.empty(rows.shape[1], dtype)
    products.adding_rows(rows)(rows, out=out)
    assert np.array_equal(out, rows.sum(axis=0))
