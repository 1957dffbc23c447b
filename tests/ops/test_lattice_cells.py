"""Where flows fall: what holds for scatter and readout, plain and as kernels."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import lattice_scatter
from energyflow_mlx.ops._lattice_cells import Tiling
from tests.ops.comparison import (
    TOLERANCE,
    assert_close,
    assert_same_bits,
    finite_difference,
)
from tests.ops.flows import (
    MODES,
    OPS,
    assert_kernel_matches,
    every_mode,
    every_op,
    flows,
    gradients,
)


@pytest.mark.parametrize(("cells", "tile", "tiles"), [(1, 1, 1), (9, 9, 1), (20, 7, 3)])
def test_tiles_are_about_equal(cells, tile, tiles):
    assert Tiling(warps=8, cells=9).cut(cells) == (tile, tiles)


@every_op
@every_mode
def test_order_of_flows_does_not_matter(op, mode):
    function = OPS[op][0]
    arrays = flows(2, 40)
    order = mx.random.permutation(40)
    shuffled = [a[:, order] for a in arrays]
    assert_close(function(*shuffled, (5, 7), mode), function(*arrays, (5, 7), mode))


@every_op
def test_bilinear_equals_nearest_on_the_cells(op):
    function = OPS[op][0]
    index = mx.random.randint(0, 5, (2, 30, 2))
    position = index.astype(mx.float32) / 4 * 2 - 1
    energy, weight = mx.random.normal((2, 30)), mx.random.uniform(shape=(2, 30))
    results = [function(position, energy, weight, (5, 5), mode) for mode in MODES]
    assert_close(results[1], results[0])


def test_ties_round_to_the_even_cell():
    # On five cells the coordinate (2k + 1) / 4 - 1 is cell k + 1/2 exactly.
    x = mx.array([(2 * k + 1) / 4 - 1 for k in range(4)])
    position = mx.stack([x, -mx.ones(4)], axis=-1)[None]
    energy = mx.array([[1.0, 10.0, 100.0, 1000.0]])
    surface = lattice_scatter(position, energy, mx.ones((1, 4)), (1, 5), "nearest")
    assert surface.reshape(-1).tolist() == [1.0, 0.0, 110.0, 0.0, 1000.0]


@every_op
@every_mode
def test_dropped_flows_leave_no_trace(op, mode):
    function = OPS[op][0]
    position, energy, weight = flows(1, 8)
    spoilt = mx.array(np.array(position))
    spoilt[0, 2, 0] = float("nan")
    spoilt[0, 5, 1] = float("nan")
    keep = mx.array([0, 1, 3, 4, 6, 7])
    surface = function(spoilt, energy, weight, (4, 5), mode)
    kept = [a[:, keep] for a in (position, energy, weight)]
    assert_close(surface, function(*kept, (4, 5), mode))
    for g in gradients(function, (spoilt, energy, weight), (4, 5), mode):
        assert mx.isfinite(g).all()
        assert not g[0, 2].any()


@every_op
@every_mode
def test_huge_coordinates_land_on_the_border(op, mode):
    function = OPS[op][0]
    position = mx.array([[[1e30, -mx.inf], [-1e30, 3e38]]])
    surface = function(position, mx.array([[1.0, 2.0]]), mx.ones((1, 2)), (3, 4), mode)
    expected = np.zeros((3, 4))
    expected[0, 3], expected[2, 0] = 1, 2
    assert np.array(surface[0]).tolist() == expected.tolist()


@every_op
def test_gradients_match_finite_differences(op):
    function = OPS[op][0]
    arrays = flows(1, 12, reach=0.9)
    weighting = mx.random.normal((1, 4, 5))

    def loss(*arrays):
        return (function(*arrays, (4, 5), "bilinear") * weighting).sum()

    for i, gradient in enumerate(mx.grad(loss, argnums=(0, 1, 2))(*arrays)):
        direction = mx.random.normal(gradient.shape)

        def along(value, i=i):
            return loss(*arrays[:i], value, *arrays[i + 1 :])

        slope = float((gradient * direction).sum())
        expected = finite_difference(along, arrays[i], direction, step=1e-3)
        assert slope == pytest.approx(expected, rel=5e-3, abs=1e-3)


@every_op
def test_nearest_gives_positions_no_gradient(op):
    gposition, genergy, _ = gradients(OPS[op][0], flows(2, 20), (4, 5), "nearest")
    assert not gposition.any()
    assert genergy.any()


@every_op
@every_mode
@pytest.mark.parametrize(
    ("count", "size"),
    [(1, (1, 1)), (40, (1, 9)), (300, (33, 31)), (5, (4, 1))],
    ids=str,
)
def test_kernels_match_reference_on_odd_surfaces(gpu_backend, op, mode, count, size):
    arrays = flows(2, count, coordinates=2)
    assert_kernel_matches(op, gpu_backend, arrays, size, mode)


@every_op
@every_mode
def test_kernels_match_when_every_flow_is_in_one_cell(gpu_backend, op, mode):
    _, energy, weight = flows(1, 150)
    position = mx.broadcast_to(mx.array([0.31, -0.2]), (1, 150, 2))
    assert_kernel_matches(op, gpu_backend, (position, energy, weight), (6, 7), mode)


@every_op
@every_mode
def test_kernels_agree_on_ties_nan_and_huge_coordinates(gpu_backend, op, mode):
    x = mx.array([-1.5, -1.0, -0.75, -0.25, 0.25, 0.75, 1.0, mx.nan, 1e30, -mx.inf])
    position = mx.stack(mx.meshgrid(x, x), axis=-1).reshape(1, 100, 2)
    _, energy, weight = flows(1, 100)
    weight = mx.where(mx.arange(100) == 17, -mx.inf if op == "readout" else 0, weight)
    assert_kernel_matches(op, gpu_backend, (position, energy, weight), (5, 5), mode)


@every_op
def test_kernels_take_strided_views_and_mixed_dtypes(gpu_backend, op):
    position, energy, weight = flows(4, 21)
    arrays = (
        position.astype(mx.float16)[::2],
        energy.astype(mx.bfloat16)[1::2],
        weight[::2],
    )
    assert_kernel_matches(op, gpu_backend, arrays, (5, 5), "bilinear")


@every_op
@every_mode
def test_two_runs_give_the_same_bits(op, mode):
    function = OPS[op][0]
    arrays = flows(2, 500)
    results = [
        (
            function(*arrays, (6, 6), mode),
            *gradients(function, arrays, (6, 6), mode),
        )
        for _ in range(2)
    ]
    for a, b in zip(*results, strict=True):
        assert_same_bits(a, b)


@every_op
def test_no_flows_give_an_empty_surface(gpu_backend, op):
    function = OPS[op][0]
    arrays = (mx.zeros((2, 0, 3)), mx.zeros((2, 0)), mx.zeros((2, 0)))
    surface = function(*arrays, (3, 4), "bilinear", backend=gpu_backend)
    assert surface.shape == (2, 3, 4)
    assert not surface.any()


@every_op
def test_wrong_arguments_are_named(op):
    function = OPS[op][0]
    position, energy, weight = flows(2, 5)
    with pytest.raises(
        ValueError,
        match=rf"\[lattice_{op}\] energy and weight .* \[2, 5\] and \[2, 4\]",
    ):
        function(position, energy, weight[:, :4], (3, 3), "nearest")
    with pytest.raises(ValueError, match=r"position must be \[2, 5, 2\]"):
        function(position[..., :1], energy, weight, (3, 3), "nearest")
    with pytest.raises(ValueError, match="must have cells, got 0 x 3"):
        function(position, energy, weight, (0, 3), "nearest")
    with pytest.raises(ValueError, match="nearest or bilinear, got 'cubic'"):
        function(position, energy, weight, (3, 3), "cubic")
    with pytest.raises(TypeError, match="arrays must be float"):
        function(position, energy.astype(mx.int32), weight, (3, 3), "nearest")


@every_op
def test_kernels_of_other_dtypes_are_other_kernels(gpu_backend, op):
    """Many flows are summed in float32 slices, so the output tells no dtypes apart."""
    kernel, reference = OPS[op]
    position = mx.random.uniform(-1, 1, (1, 5000, 2))
    energy, weight = mx.random.normal((1, 5000)), mx.random.uniform(shape=(1, 5000))
    kinds = [(p, e) for p in (mx.float32, mx.float16) for e in (mx.float32, mx.float16)]
    for p, e in kinds:
        arrays = position.astype(p), energy.astype(e), weight.astype(mx.float32)
        actual = kernel(*arrays, (3, 4), "bilinear", backend=gpu_backend)
        expected = reference(*arrays, (3, 4), "bilinear")
        assert_close(actual, expected, max(TOLERANCE[e], 1e-4))
