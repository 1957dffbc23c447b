"""Vectors get length 1 without turning; a zero vector stays zero."""

import numpy as np
import pytest

from energyflow_mlx.data.vectors import unit_rows


@pytest.mark.parametrize("shape", [(5,), (4, 5), (4, 2, 5)])
def test_rows_get_length_one_and_keep_their_direction(shape):
    rows = np.random.default_rng(0).normal(size=shape) * 7
    found = unit_rows(rows)
    assert found.dtype == np.float32 and found.shape == shape
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    np.testing.assert_allclose(found * lengths, rows, rtol=1e-5)


def test_a_zero_row_stays_zero_and_its_neighbor_does_not_change():
    rows = np.array([[0.0, 0.0], [3.0, 4.0]], np.float32)
    assert unit_rows(rows).tolist() == [[0, 0], [np.float32(0.6), np.float32(0.8)]]
    assert rows.tolist() == [[0, 0], [3, 4]]  # its input is only read


def test_a_tiny_row_gets_length_one_too():
    np.testing.assert_allclose(unit_rows(np.array([[3e-15, 4e-15]])), [[0.6, 0.8]])
