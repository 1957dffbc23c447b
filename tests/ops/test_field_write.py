"""Field write: formula, sums, the kernel's launches."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import field_write
from energyflow_mlx.ops.field_write import field_write_reference
from tests.ops.comparison import assert_close
from tests.ops.fields import flows, trilinear


@pytest.mark.parametrize("cells", [2, 5])
def test_every_flow_is_shared_by_the_cells_around_it(cells):
    position, alive = flows(2, 20)
    value = mx.random.normal((2, 20, 2))
    expected = np.zeros((2, cells, cells, cells, 2), np.float32)
    for b, f in np.argwhere(np.array(alive)):
        for corner, share in trilinear(position[b, f], cells):
            expected[b][corner] += share * np.array(value[b, f])
    assert_close(field_write(position, value, alive, cells), mx.array(expected))


def test_the_field_holds_what_living_flows_carry():
    position, alive = flows(3, 40)
    value = mx.random.normal((3, 40, 4))
    written = field_write(position, value, alive, 5).sum(axis=(1, 2, 3))
    carried = mx.where(alive[..., None], value, 0.0).sum(axis=1)
    assert mx.allclose(written, carried, atol=1e-4)


def test_the_order_of_the_flows_does_not_matter():
    position, alive = flows(2, 40)
    value, order = mx.random.normal((2, 40, 2)), mx.random.permutation(40)
    mixed = [a[:, order] for a in (position, value, alive)]
    assert_close(field_write(*mixed, 4), field_write(position, value, alive, 4))


@pytest.mark.parametrize("backend", ["metal", "cuda"])
def test_many_flows_are_summed_in_slices(kernel_host, backend):
    position, alive = flows(1, 2500)
    arrays = position, mx.random.normal((1, 2500, 2)), alive
    field = field_write(*arrays, 3, backend=backend)
    assert kernel_host.launches[-1].grid == (2 * 256, 1, 1)
    assert_close(field, field_write_reference(*arrays, 3), 3e-5)


def test_large_fields_and_many_channels_are_cut_into_tiles(kernel_host):
    position, alive = flows(1, 50)
    value = mx.random.normal((1, 50, 5))
    field = field_write(position, value, alive, 7, backend="metal")
    # Two packs of up to four channels, two tiles of 172 of the 343 cells.
    assert kernel_host.launches[-1].grid == (2 * 2 * 256, 1, 1)
    assert_close(field, field_write_reference(position, value, alive, 7))


def test_value_must_belong_to_the_flows():
    position, alive = flows(2, 5)
    with pytest.raises(ValueError, match=r"\[B, F\] = \[2, 5\], got \[2, 4, 1\]"):
        field_write(position, mx.zeros((2, 4, 1)), alive, 3)
