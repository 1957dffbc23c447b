"""Field read: formula, and what a read cannot exceed."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import field_read
from tests.ops.comparison import assert_close
from tests.ops.fields import flows, trilinear


@pytest.mark.parametrize("cells", [2, 5])
def test_every_flow_reads_the_cells_around_it(cells):
    position, alive = flows(2, 20)
    field = mx.random.normal((2, cells, cells, cells, 2))
    expected = np.zeros((2, 20, 2), np.float32)
    for b, f in np.argwhere(np.array(alive)):
        for corner, share in trilinear(position[b, f], cells):
            expected[b, f] += share * np.array(field[b])[corner]
    assert_close(field_read(field, position, alive), mx.array(expected))


def test_a_constant_field_reads_the_same_everywhere():
    position, alive = flows(2, 40)
    field = mx.broadcast_to(mx.array([3.0, -2.0]), (2, 4, 4, 4, 2))
    expected = mx.where(alive[..., None], mx.array([3.0, -2.0]), 0.0)
    assert mx.allclose(field_read(field, position, alive), expected, atol=1e-5)


def test_samples_read_their_own_field():
    position, alive = flows(2, 10)
    field = mx.random.normal((2, 3, 3, 3, 1))
    alone = field_read(field[1:], position[1:], alive[1:])
    assert_close(field_read(field, position, alive)[1:], alone)


def test_field_must_be_a_cube_of_every_sample():
    position, alive = flows(2, 5)
    with pytest.raises(ValueError, match=r"must be \[B, N, N, N, C\], got \[2, 3"):
        field_read(mx.zeros((2, 3, 4, 3, 1)), position, alive)
    with pytest.raises(ValueError, match="field must be of 2 samples, got 1"):
        field_read(mx.zeros((1, 3, 3, 3, 1)), position, alive)
