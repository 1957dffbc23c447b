"""The operations inside ``mx.compile``, ``mx.checkpoint`` and ``mx.vmap``.

Kernels cannot run while MLX traces, so here each is replaced by the plain form of what
it computes, wrapped so that it has no gradient, like a real kernel. What is under test
is the wiring around the launches.
"""

import re

import mlx.core as mx
import pytest

from energyflow_mlx.ops import (
    _backend,
    causal_conv1d,
    causal_im2col,
    field_read,
    field_write,
    lattice_readout,
    lattice_scatter,
    masked_mean,
)
from energyflow_mlx.ops.causal_im2col import (
    causal_col2im_reference,
    causal_im2col_reference,
)
from energyflow_mlx.ops.field_read import field_read_reference
from energyflow_mlx.ops.field_write import field_write_reference
from energyflow_mlx.ops.lattice_readout import lattice_readout_reference
from energyflow_mlx.ops.lattice_scatter import lattice_scatter_reference
from energyflow_mlx.ops.masked_mean import masked_mean_reference
from tests.metal_host.harness import recorded_kernels
from tests.ops.comparison import assert_close, assert_same_bits


def opaque(function):
    """A function that, like a kernel, has no gradient."""
    wrapped = mx.custom_function(function)

    @wrapped.vjp
    def no_gradient(*_):
        raise AssertionError("a kernel was differentiated")

    return wrapped


def mean_forward(template, x, mask):
    return masked_mean_reference(x, mask), 1 / mx.maximum(mask.sum(axis=1), 1)


def mean_backward(template, g, mask, scale):
    return (((g * scale[:, None])[:, None] * mask[..., None]).astype(g.dtype),)


def im2col(template, x):
    return (causal_im2col_reference(x, template["K"], template["DILATION"]),)


def col2im(template, g):
    return (causal_col2im_reference(g, template["K"], template["DILATION"]),)


def surface_of(template):
    mode = "bilinear" if template["BILINEAR"] else "nearest"
    return (template["HEIGHT"], template["WIDTH"]), mode


def scatter(template, *arrays):
    surface = lattice_scatter_reference(*arrays, *surface_of(template))
    return (surface.reshape(arrays[1].shape[0], 1, -1),)


def scatter_gradients(template, g, *arrays):
    return surface_gradients(lattice_scatter_reference, template, g, arrays)


def readout(template, *arrays):
    surface = lattice_readout_reference(*arrays, *surface_of(template))
    surface = surface.reshape(arrays[1].shape[0], -1)
    return surface, mx.zeros((*surface.shape, 4))


def readout_gradients(template, g, stats, *arrays):
    return surface_gradients(lattice_readout_reference, template, g, arrays)


def surface_gradients(form, template, g, arrays):
    size, mode = surface_of(template)
    g = g.reshape(-1, *size)
    return mx.vjp(lambda *a: form(*a, size, mode), list(arrays), [g])[1]


def write(template, *arrays):
    return (field_write_reference(*arrays, template["N"])[:, None],)


def write_gradients(template, g, position, value, alive):
    form = lambda p, v: field_write_reference(p, v, alive, template["N"])  # noqa: E731
    return mx.vjp(form, [position, value], [g])[1]


def read(template, *arrays):
    return (field_read_reference(*arrays),)


def read_gradient(template, g, field, position, alive):
    form = lambda p: field_read_reference(field, p, alive)  # noqa: E731
    return mx.vjp(form, [position], [g])[1]


STAND_INS = {
    "masked_mean_forward": mean_forward,
    "masked_mean_backward": mean_backward,
    "causal_im2col_forward": im2col,
    "causal_im2col_backward": col2im,
    "lattice_scatter_forward": scatter,
    "lattice_scatter_backward": scatter_gradients,
    "lattice_readout_forward": readout,
    "lattice_readout_backward": readout_gradients,
    "field_write_forward": write,
    "field_write_backward": write_gradients,
    "field_read_forward": read,
    "field_read_backward": read_gradient,
}


@pytest.fixture
def launches(monkeypatch):
    """Stand-ins for every Metal kernel; names of the launches, in order."""
    names = []

    def factory(*, name, **_):
        name = re.match(r".*_(forward|backward)", name)[0]

        def kernel(*, inputs, template, output_shapes, output_dtypes, **_):
            names.append(name)
            outputs = opaque(lambda *a: tuple(STAND_INS[name](dict(template), *a)))
            results = outputs(*inputs)
            assert [y.shape for y in results] == list(output_shapes)
            assert [y.dtype for y in results] == list(output_dtypes)
            return list(results)

        return kernel

    monkeypatch.setattr(_backend, "metal_kernel_factory", factory)
    monkeypatch.setattr(_backend, "available", lambda backend: True)
    _backend.clear_kernel_cache()
    yield names
    _backend.clear_kernel_cache()


MASK = mx.array([[1, 1, 0, 1], [0, 0, 0, 0.0]])
OTHERS = (mx.array([[1.0, -2, 3, 0.5]] * 2), mx.array([[0.1, 0.9, 0.4, 0.2]] * 2))
SURFACE = (*OTHERS, (3, 4), "bilinear")
ALIVE = mx.array([[True, True, False, True], [True] * 4])
VALUE = mx.arange(16.0).reshape(2, 4, 2) / 10 - 0.7
FIELD = mx.cos(mx.arange(2 * 27 * 2.0)).reshape(2, 3, 3, 3, 2)
# Functions of x [2, 4, 3] and a backend, with the kernels that value and gradient take.
FUNCTIONS = {
    "masked_mean": (lambda x, b: masked_mean(x, MASK, backend=b), "masked_mean"),
    "causal_im2col": (lambda x, b: causal_im2col(x, 3, 2, backend=b), "causal_im2col"),
    "causal_conv1d": (
        lambda x, b: causal_conv1d(x, WEIGHT, None, 1, backend=b),
        "causal_im2col",
    ),
    "lattice_scatter": (
        lambda x, b: lattice_scatter(x, *SURFACE, backend=b),
        "lattice_scatter",
    ),
    "lattice_readout": (
        lambda x, b: lattice_readout(x, *SURFACE, backend=b),
        "lattice_readout",
    ),
    "field_write": (
        lambda x, b: field_write(x, VALUE, ALIVE, 3, backend=b),
        "field_write",
    ),
    "field_read": (
        lambda x, b: field_read(FIELD, x, ALIVE, backend=b),
        "field_read",
    ),
}
WEIGHT = mx.arange(5 * 3 * 3).reshape(5, 3, 3) / 20 - 1
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def loss_of(name, backend):
    function = FUNCTIONS[name][0]
    return lambda x: (function(x, backend) ** 2).sum()


def one_by_one(name, x):
    return mx.stack([mx.grad(loss_of(name, "reference"))(one) for one in x])


def samples(*leading):
    return mx.random.uniform(-1, 1, (*leading, 2, 4, 3))


@every_function
def test_compiled_value_and_gradient_use_both_kernels(launches, name):
    x = samples()
    step = mx.compile(mx.value_and_grad(loss_of(name, "metal")))
    value, gradient = step(x)
    kernel = FUNCTIONS[name][1]
    of_others = ["field_write_forward"] if name == "field_read" else []
    expected = [f"{kernel}_forward", *of_others, f"{kernel}_backward"]
    assert launches == expected
    step(x + 1)
    assert launches == expected, "traced again for the same shape"
    expected_value, expected = mx.value_and_grad(loss_of(name, "reference"))(x)
    assert_close(value, expected_value)
    assert_close(gradient, expected)


@every_function
def test_vmap_of_grad_matches_one_by_one(name):
    x = samples(3)
    gradient = mx.vmap(mx.grad(loss_of(name, "reference")))(x)
    assert_close(gradient, one_by_one(name, x))


@every_function
def test_grad_of_vmap_matches_one_by_one(name):
    x = samples(3)
    gradient = mx.grad(lambda x: mx.vmap(loss_of(name, "reference"))(x).sum())(x)
    assert_close(gradient, one_by_one(name, x))


@every_function
def test_nested_vmap_matches_one_by_one(name):
    x = samples(2, 3)
    gradient = mx.vmap(mx.vmap(mx.grad(loss_of(name, "reference"))))(x)
    assert_close(gradient, mx.stack([one_by_one(name, row) for row in x]))


@every_function
def test_vmap_over_another_axis_matches(name):
    x = mx.moveaxis(samples(3), 0, 2)
    function = FUNCTIONS[name][0]
    y = mx.vmap(lambda x: function(x, "auto"), in_axes=2, out_axes=1)(x)
    expected = [function(x[:, :, i], "reference") for i in range(3)]
    assert_close(y, mx.stack(expected, axis=1))


@every_function
@pytest.mark.parametrize("order", ["grad(vmap)", "vmap(grad)"])
def test_vmap_over_a_kernel_is_refused(recording_metal, name, order):
    loss = loss_of(name, "metal")
    if order == "grad(vmap)":
        mapped = mx.grad(lambda x: mx.vmap(loss)(x).sum())
    else:
        mapped = mx.vmap(mx.grad(loss))
    with pytest.raises(ValueError, match="vmap.*Not implemented for CustomKernel"):
        recorded_kernels(mapped, samples(3))


@every_function
def test_checkpointed_gradient_matches(launches, name):
    x = samples()
    function = FUNCTIONS[name][0]
    wrapped = mx.checkpoint(lambda x: function(x, "metal"))
    gradient = mx.grad(lambda x: (wrapped(x) ** 2).sum())(x)
    assert_close(gradient, mx.grad(loss_of(name, "reference"))(x))


@every_function
def test_compiled_checkpoint_of_vmap_matches(name):
    x = samples(3)
    function = FUNCTIONS[name][0]
    wrapped = mx.checkpoint(mx.vmap(lambda x: function(x, "reference")))
    gradient = mx.compile(mx.grad(lambda x: (wrapped(x) ** 2).sum()))(x)
    assert_close(gradient, one_by_one(name, x))


@every_function
def test_gradients_have_the_dtype_of_their_argument(launches, name):
    x = samples().astype(mx.bfloat16)
    gradient = mx.grad(lambda x: loss_of(name, "metal")(x).astype(mx.float32))(x)
    assert gradient.dtype == mx.bfloat16
    assert gradient.shape == x.shape


@every_function
def test_compiled_reference_gives_the_same_bits_twice(name):
    x = samples()
    step = mx.compile(mx.value_and_grad(loss_of(name, "reference")))
    for a, b in zip(step(x), step(x), strict=True):
        assert_same_bits(a, b)
