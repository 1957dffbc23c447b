"""Lattice scatter and readout: formula, gradients, kernels against the reference."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.ops import lattice_readout, lattice_scatter
from energyflow_mlx.ops.lattice_scatter import (
    lattice_readout_reference,
    lattice_scatter_reference,
)
from tests.ops.comparison import (
    DTYPES,
    TOLERANCE,
    assert_close,
    assert_same_bits,
    finite_difference,
    name_of,
)

OPS = {
    "scatter": (lattice_scatter, lattice_scatter_reference),
    "readout": (lattice_readout, lattice_readout_reference),
}
MODES = ("nearest", "bilinear")
every_op = pytest.mark.parametrize("op", OPS)
every_mode = pytest.mark.parametrize("mode", MODES)


def flows(batch, count, dtype=mx.float32, reach=1.2, coordinates=3):
    """Flows in and a little outside the box, with an energy and a weight each."""
    position = mx.random.uniform(-reach, reach, (batch, count, coordinates))
    energy = mx.random.normal((batch, count)).astype(dtype)
    weight = mx.random.uniform(shape=(batch, count)).astype(dtype)
    return position, energy, weight


def gradients(function, arrays, height, width, mode, **options):
    weighting = mx.random.normal(
        (arrays[1].shape[0], height, width), key=mx.random.key(5)
    )

    def loss(*arrays):
        surface = function(*arrays, height, width, mode, **options)
        return (surface.astype(mx.float32) * weighting).sum()

    return mx.grad(loss, argnums=(0, 1, 2))(*arrays)


def cells_of(position, height, width):
    """Cell numbers in NumPy, as the readme of the reference system gives them."""
    u = np.clip(np.array(position)[..., :2], -1, 1).astype(np.float32)
    ix = np.rint((u[..., 0] + 1) / 2 * (width - 1)).astype(int)
    iy = np.rint((u[..., 1] + 1) / 2 * (height - 1)).astype(int)
    return iy * width + ix


def test_nearest_sums_the_flows_of_each_cell():
    position, energy, weight = flows(2, 60)
    expected = np.zeros((2, 4 * 5), np.float32)
    cell = cells_of(position, 4, 5)
    for b in range(2):
        np.add.at(expected[b], cell[b], np.array(energy * weight)[b])
    surface = lattice_scatter(position, energy, weight, 4, 5, "nearest")
    assert_close(surface, mx.array(expected.reshape(2, 4, 5)))


def test_readout_is_the_grouped_softmax_of_the_scores():
    position, energy, score = flows(2, 60)
    cell, e, q = cells_of(position, 4, 5), np.array(energy), np.array(score)
    expected = np.zeros((2, 4 * 5), np.float32)
    for b in range(2):
        for c in set(cell[b]):
            p = np.exp(q[b, cell[b] == c] - q[b, cell[b] == c].max())
            expected[b, c] = (p * e[b, cell[b] == c]).sum() / (p.sum() + 1e-12)
    surface = lattice_readout(position, energy, score, 4, 5, "nearest")
    assert_close(surface, mx.array(expected.reshape(2, 4, 5)))


def test_lone_flow_shows_its_energy_whatever_its_score():
    position = mx.array([[[0.0, 0.0]]])
    for score in (-50.0, 0.0, 50.0):
        for mode in MODES:
            surface = lattice_readout(
                position, mx.array([[2.5]]), mx.array([[score]]), 3, 3, mode
            )
            assert surface[0, 1, 1].item() == pytest.approx(2.5)
            assert float(mx.abs(surface).sum()) == pytest.approx(2.5)


@every_mode
def test_scatter_keeps_the_total(mode):
    position, energy, weight = flows(3, 40)
    surface = lattice_scatter(position, energy, weight, 5, 7, mode)
    expected = (energy * weight).sum(axis=1)
    assert mx.allclose(surface.sum(axis=(1, 2)), expected, atol=1e-5)


@every_op
@every_mode
def test_order_of_flows_does_not_matter(op, mode):
    function = OPS[op][0]
    arrays = flows(2, 40)
    order = mx.random.permutation(40)
    shuffled = [a[:, order] for a in arrays]
    assert_close(function(*shuffled, 5, 7, mode), function(*arrays, 5, 7, mode))


@every_op
def test_bilinear_equals_nearest_on_the_cells(op):
    function = OPS[op][0]
    index = mx.random.randint(0, 5, (2, 30, 2))
    position = index.astype(mx.float32) / 4 * 2 - 1
    energy, weight = mx.random.normal((2, 30)), mx.random.uniform(shape=(2, 30))
    results = [function(position, energy, weight, 5, 5, mode) for mode in MODES]
    assert_close(results[1], results[0])


def test_ties_round_to_the_even_cell():
    # On five cells the coordinate (2k + 1) / 4 - 1 is cell k + 1/2 exactly.
    x = mx.array([(2 * k + 1) / 4 - 1 for k in range(4)])
    position = mx.stack([x, -mx.ones(4)], axis=-1)[None]
    surface = lattice_scatter(
        position,
        mx.array([[1.0, 10.0, 100.0, 1000.0]]),
        mx.ones((1, 4)),
        1,
        5,
        "nearest",
    )
    assert surface.reshape(-1).tolist() == [1.0, 0.0, 110.0, 0.0, 1000.0]


@every_op
@every_mode
def test_fold_equals_reflecting_the_positions_first(op, mode):
    function = OPS[op][0]
    position, *rest = flows(2, 50, reach=1.9)
    inside = mx.where(position > 1, 2 - position, position)
    inside = mx.where(inside < -1, -2 - inside, inside)
    folded = function(position, *rest, 5, 7, mode, boundary="fold")
    assert_close(folded, function(inside, *rest, 5, 7, mode))


@every_op
@every_mode
def test_dropped_flows_leave_no_trace(op, mode):
    function = OPS[op][0]
    position, energy, weight = flows(1, 8)
    spoilt = mx.array(np.array(position))
    spoilt[0, 2, 0] = float("nan")
    spoilt[0, 5, 1] = float("nan")
    keep = mx.array([0, 1, 3, 4, 6, 7])
    surface = function(spoilt, energy, weight, 4, 5, mode)
    kept = [a[:, keep] for a in (position, energy, weight)]
    assert_close(surface, function(*kept, 4, 5, mode))
    for g in gradients(function, (spoilt, energy, weight), 4, 5, mode):
        assert mx.isfinite(g).all()
        assert not g[0, 2].any()


@every_mode
def test_score_of_minus_infinity_drops_a_flow(mode):
    position, energy, score = flows(1, 8)
    alive = mx.array([[True, False] * 4])
    masked = mx.where(alive, score, -mx.inf)
    surface = lattice_readout(position, energy, masked, 4, 5, mode)
    kept = [a[:, ::2] for a in (position, energy, score)]
    assert_close(surface, lattice_readout(*kept, 4, 5, mode))
    for g in gradients(lattice_readout, (position, energy, masked), 4, 5, mode):
        assert mx.isfinite(g).all()
        assert not g[0, 1::2].any()


@every_op
@every_mode
def test_huge_coordinates_land_on_the_border(op, mode):
    function = OPS[op][0]
    position = mx.array([[[1e30, -mx.inf], [-1e30, 3e38]]])
    surface = function(position, mx.array([[1.0, 2.0]]), mx.ones((1, 2)), 3, 4, mode)
    expected = np.zeros((3, 4))
    expected[0, 3], expected[2, 0] = 1, 2
    assert np.array(surface[0]).tolist() == expected.tolist()


@every_op
def test_gradients_match_finite_differences(op):
    function = OPS[op][0]
    arrays = flows(1, 12, reach=0.9)
    weighting = mx.random.normal((1, 4, 5))

    def loss(*arrays):
        return (function(*arrays, 4, 5, "bilinear") * weighting).sum()

    for i, gradient in enumerate(mx.grad(loss, argnums=(0, 1, 2))(*arrays)):
        direction = mx.random.normal(gradient.shape)

        def along(value, i=i):
            return loss(*arrays[:i], value, *arrays[i + 1 :])

        slope = float((gradient * direction).sum())
        expected = finite_difference(along, arrays[i], direction, step=1e-3)
        assert slope == pytest.approx(expected, rel=5e-3, abs=1e-3)


def test_readout_changes_continuously_as_a_flow_crosses_cells():
    energy, score = mx.array([[1.0, -2.0, 3.0]]), mx.array([[0.0, 1.5, 0.7]])
    previous = None
    for x in np.linspace(-1, 1, 401):
        position = mx.array([[[x, 0.1], [0.3, 0.0], [-0.4, 0.2]]])
        surface = np.array(lattice_readout(position, energy, score, 5, 5, "bilinear"))
        if previous is not None:
            assert np.abs(surface - previous).max() < 0.2
        previous = surface


def test_flow_on_a_cell_feels_the_empty_cell_beside_it():
    target = mx.zeros((1, 3, 3)).at[0, 1, 2].add(1.0)

    def loss(position):
        ones = mx.ones((1, 1))
        return (lattice_readout(position, ones, ones, 3, 3, "bilinear") * target).sum()

    assert mx.grad(loss)(mx.array([[[0.0, 0.0]]]))[0, 0, 0].item() > 0.5


def test_nearest_gives_positions_no_gradient():
    for function, _ in OPS.values():
        gposition, genergy, _ = gradients(function, flows(2, 20), 4, 5, "nearest")
        assert not gposition.any()
        assert genergy.any()


@every_op
@every_mode
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_kernels_match_reference(gpu_backend, op, mode, dtype):
    function, reference = OPS[op]
    arrays = flows(2, 300, dtype)
    surface = function(*arrays, 6, 7, mode, backend=gpu_backend)
    assert_close(surface, reference(*arrays, 6, 7, mode))
    actual = gradients(function, arrays, 6, 7, mode, backend=gpu_backend)
    expected = gradients(reference, arrays, 6, 7, mode)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)


@every_op
@every_mode
@pytest.mark.parametrize(
    ("count", "height", "width", "boundary"),
    [(1, 1, 1, "clamp"), (40, 1, 9, "fold"), (300, 33, 31, "fold"), (5, 4, 1, "clamp")],
    ids=str,
)
def test_kernels_match_reference_on_odd_surfaces(
    gpu_backend, op, mode, count, height, width, boundary
):
    function, reference = OPS[op]
    arrays = flows(2, count, coordinates=2)
    surface = function(
        *arrays, height, width, mode, boundary=boundary, backend=gpu_backend
    )
    expected = reference(*arrays, height, width, mode, boundary)
    assert_close(surface, expected)
    options = {"boundary": boundary}
    actual = gradients(
        function, arrays, height, width, mode, backend=gpu_backend, **options
    )
    expected = gradients(reference, arrays, height, width, mode, **options)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)


@every_op
@every_mode
def test_kernels_match_when_every_flow_is_in_one_cell(gpu_backend, op, mode):
    function, reference = OPS[op]
    _, energy, weight = flows(1, 150)
    position = mx.broadcast_to(mx.array([0.31, -0.2]), (1, 150, 2))
    arrays = (position, energy, weight)
    surface = function(*arrays, 6, 7, mode, backend=gpu_backend)
    assert_close(surface, reference(*arrays, 6, 7, mode))
    actual = gradients(function, arrays, 6, 7, mode, backend=gpu_backend)
    expected = gradients(reference, arrays, 6, 7, mode)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)


@every_op
@every_mode
def test_kernels_agree_on_ties_nan_and_huge_coordinates(gpu_backend, op, mode):
    function, reference = OPS[op]
    x = mx.array([-1.5, -1.0, -0.75, -0.25, 0.25, 0.75, 1.0, mx.nan, 1e30, -mx.inf])
    position = mx.stack(mx.meshgrid(x, x), axis=-1).reshape(1, 100, 2)
    _, energy, weight = flows(1, 100)
    weight = mx.where(mx.arange(100) == 17, -mx.inf if op == "readout" else 0, weight)
    arrays = (position, energy, weight)
    surface = function(*arrays, 5, 5, mode, backend=gpu_backend)
    assert_close(surface, reference(*arrays, 5, 5, mode))
    actual = gradients(function, arrays, 5, 5, mode, backend=gpu_backend)
    expected = gradients(reference, arrays, 5, 5, mode)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)


@every_op
def test_kernels_take_strided_views_and_mixed_dtypes(gpu_backend, op):
    function, reference = OPS[op]
    position, energy, weight = flows(4, 21)
    arrays = (
        position.astype(mx.float16)[::2],
        energy.astype(mx.bfloat16)[1::2],
        weight[::2],
    )
    surface = function(*arrays, 5, 5, "bilinear", backend=gpu_backend)
    assert_close(surface, reference(*arrays, 5, 5, "bilinear"))
    actual = gradients(function, arrays, 5, 5, "bilinear", backend=gpu_backend)
    expected = gradients(reference, arrays, 5, 5, "bilinear")
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)


def test_many_flows_are_summed_in_slices(kernel_host):
    position, energy, weight = flows(1, 2500)
    arrays = (position, energy, weight)
    surface = lattice_scatter(*arrays, 4, 5, "nearest", backend="metal")
    assert kernel_host.launches[-1].grid == (2 * 256, 1, 1)
    assert_close(surface, lattice_scatter_reference(*arrays, 4, 5, "nearest"), 3e-5)


@every_op
@every_mode
def test_two_runs_give_the_same_bits(op, mode):
    function = OPS[op][0]
    arrays = flows(2, 500)
    results = [
        (
            function(*arrays, 6, 6, mode),
            *gradients(function, arrays, 6, 6, mode),
        )
        for _ in range(2)
    ]
    for a, b in zip(*results, strict=True):
        assert_same_bits(a, b)


@every_op
def test_no_flows_give_an_empty_surface(gpu_backend, op):
    function = OPS[op][0]
    arrays = (mx.zeros((2, 0, 3)), mx.zeros((2, 0)), mx.zeros((2, 0)))
    surface = function(*arrays, 3, 4, "bilinear", backend=gpu_backend)
    assert surface.shape == (2, 3, 4)
    assert not surface.any()


def test_wrong_arguments_are_named():
    position, energy, weight = flows(2, 5)
    with pytest.raises(ValueError, match=r"energy and weight .* \[2, 5\] and \[2, 4\]"):
        lattice_scatter(position, energy, weight[:, :4], 3, 3, "nearest")
    with pytest.raises(ValueError, match=r"position must be \[2, 5, 2\]"):
        lattice_scatter(position[..., :1], energy, weight, 3, 3, "nearest")
    with pytest.raises(ValueError, match="must have cells, got 0 x 3"):
        lattice_scatter(position, energy, weight, 0, 3, "nearest")
    with pytest.raises(ValueError, match="nearest or bilinear, got 'cubic'"):
        lattice_readout(position, energy, weight, 3, 3, "cubic")
    with pytest.raises(ValueError, match="clamp or fold, got 'wrap'"):
        lattice_readout(position, energy, weight, 3, 3, "nearest", boundary="wrap")
    with pytest.raises(TypeError, match="arrays must be float"):
        lattice_readout(position, energy.astype(mx.int32), weight, 3, 3, "nearest")


@every_op
def test_kernels_of_other_dtypes_are_other_kernels(gpu_backend, op):
    """Many flows are summed in float32 slices, so the output tells no dtypes apart."""
    kernel, reference = OPS[op]
    position = mx.random.uniform(-1, 1, (1, 5000, 2))
    energy, weight = mx.random.normal((1, 5000)), mx.random.uniform(shape=(1, 5000))
    kinds = [(p, e) for p in (mx.float32, mx.float16) for e in (mx.float32, mx.float16)]
    for p, e in kinds:
        arrays = position.astype(p), energy.astype(e), weight.astype(mx.float32)
        actual = kernel(*arrays, 3, 4, "bilinear", backend=gpu_backend)
        expected = reference(*arrays, 3, 4, "bilinear")
        assert_close(actual, expected, max(TOLERANCE[e], 1e-4))
