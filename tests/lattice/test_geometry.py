import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.lattice.geometry import (
    cell_index,
    cell_parity,
    denormalize,
    fold,
    launch_positions,
    nearest_plane,
    normalize,
    plane_distance,
    quantize,
    start_level,
)

SIZES = [(2, 2, 1), (4, 3, 5), (20, 20, 10)]
IDS = ["2x2x1", "4x3x5", "20x20x10"]


@pytest.mark.parametrize("count", [2, 3, 20, 101])
def test_normalize_spans_the_cube_and_denormalize_inverts_it(count):
    index = mx.arange(count)
    u = normalize(index, count)
    assert u[0].item() == -1.0
    assert u[-1].item() == 1.0
    assert mx.allclose(denormalize(u, count), index, atol=1e-4)
    assert mx.array_equal(quantize(u, count), index)


def test_quantize_clips_outside_and_takes_ties_to_the_even_cell():
    u = mx.array([-7.0, 7.0, *normalize(mx.array([0.5, 1.5, 2.5]), 5).tolist()])
    assert quantize(u, 5).tolist() == [0, 4, 0, 2, 2]


@pytest.mark.parametrize(("width", "height", "depth"), SIZES, ids=IDS)
def test_launch_positions_are_the_cells_row_by_row(width, height, depth):
    start = launch_positions(width, height, depth)
    assert start.shape == (width * height, 3)
    assert cell_index(start, width, height).tolist() == list(range(width * height))
    assert start[1, 0].item() > start[0, 0].item()  # x runs first
    assert set(start[:, 2].tolist()) == {np.float32(start_level(depth))}


@pytest.mark.parametrize(
    ("depth", "level"), [(1, -1.0), (2, 0.0), (5, -0.2), (10, 0.0), (11, -1 / 11)]
)
def test_start_level_is_zero_for_even_depth_only(depth, level):
    assert start_level(depth) == pytest.approx(level)


def test_fold_reflects_once_at_each_border():
    x = mx.array([-2.9, -1.25, -1.0, 0.3, 1.0, 1.5, 2.9])
    expected = [0.9, -0.75, -1.0, 0.3, 1.0, 0.5, -0.9]
    np.testing.assert_allclose(fold(x).tolist(), expected, atol=1e-6)


def test_fold_keeps_everything_inside_however_far_out():
    x = mx.array([-1e9, -3.1, 3.1, 1e9])
    assert mx.abs(fold(x)).max().item() <= 1.0


def test_fold_turns_the_gradient_around_beyond_the_border():
    slope = mx.grad(lambda x: fold(x).sum())(mx.array([-1.5, 0.0, 1.5]))
    assert slope.tolist() == [-1.0, 1.0, -1.0]


def test_plane_distance_and_nearest_plane_with_a_tie_to_the_near_face():
    z = mx.array([-1.0, -0.4, 0.0, 0.4, 1.0])
    near, far = (plane_distance(z, is_dual=dual) for dual in (True, False))
    np.testing.assert_allclose(near.tolist(), [0, 0.6, 1, 0.6, 0], atol=1e-6)
    np.testing.assert_allclose(far.tolist(), [2, 1.4, 1, 0.6, 0], atol=1e-6)
    assert nearest_plane(z, is_dual=True).tolist() == [-1, -1, -1, 1, 1]
    assert nearest_plane(z, is_dual=False).tolist() == [1] * 5


def test_cell_parity_is_a_chessboard():
    assert cell_parity(3, 2).tolist() == [1, -1, 1, -1, 1, -1]
    assert cell_parity(2, 2).tolist() == [1, -1, -1, 1]
