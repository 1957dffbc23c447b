"""Inputs on which a kernel is compared with its reference: awkward shapes, tolerances.

The one list of them: the doctor runs the small ones on any machine, the benchmarks of a
GPU all. Nothing here is computed; a case is a function of the backend.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import mlx.core as mx
import numpy as np

from energyflow_mlx.ops.adamw import Adamw, Constants, Rates, adamw
from energyflow_mlx.ops.causal_im2col import causal_conv1d, causal_im2col
from energyflow_mlx.ops.covered_tokens import covered_tokens
from energyflow_mlx.ops.embedding import embedding
from energyflow_mlx.ops.field_read import field_read
from energyflow_mlx.ops.field_write import field_write
from energyflow_mlx.ops.flow_carry import (
    CarryWeights,
    CellWeights,
    HeadWeights,
    NeuronWeights,
    flow_carry,
)
from energyflow_mlx.ops.gelu import Form, gelu
from energyflow_mlx.ops.gru_blend import gru_blend
from energyflow_mlx.ops.lattice_readout import lattice_readout
from energyflow_mlx.ops.lattice_scatter import lattice_scatter
from energyflow_mlx.ops.layer_norm import layer_norm
from energyflow_mlx.ops.linear_cross_entropy import linear_cross_entropy
from energyflow_mlx.ops.masked_mean import masked_mean
from energyflow_mlx.ops.tcn_block import BlockWeights, tcn_block

# Largest error, relative to the largest expected value.
TOLERANCE = {mx.float32: 1e-5, mx.float16: 2e-3, mx.bfloat16: 1.6e-2}

Call = Callable[[str], list[mx.array]]


class Case(NamedTuple):
    """One input of an operation.

    Attributes:
        op: The operation, by the name of its room.
        name: Shape and options.
        dtype: Of the features.
        call: Value and gradients on a backend, not evaluated.
        tolerance: Largest error, relative to the largest value of the reference.
        is_large: Of a size that is worth timing; its reference is slow on a CPU.
    """

    op: str
    name: str
    dtype: mx.Dtype
    call: Call
    tolerance: float
    is_large: bool = False


def short(dtype: mx.Dtype) -> str:
    """Name of a dtype without the module's."""
    return str(dtype).removeprefix("mlx.core.")


def pulled_back(
    function: Callable[..., mx.array], arrays: Sequence[mx.array], g: mx.array
) -> Call:
    """What gives value and gradients of a function, of a backend.

    Args:
        function: Of the arrays and ``backend``.
        arrays: What has a gradient.
        g: Cotangent of the value.
    """

    def call(backend: str) -> list[mx.array]:
        on = partial(function, backend=backend)
        (y,), gradients = mx.vjp(on, list(arrays), [g])
        return [y, *gradients]

    return call


def _normal(*shape: int, dtype: mx.Dtype = mx.float32, scale: float = 1.0) -> mx.array:
    return (scale * mx.random.normal(shape)).astype(dtype)


def _mask(batch: int, length: int) -> mx.array:
    """Holes anywhere; of several sentences the first is all padding."""
    mask = (mx.random.uniform(shape=(batch, length)) > 0.4).astype(mx.float32)
    empty = mx.arange(batch)[:, None] == 0
    return mx.where(empty, 0.0, mask) if batch > 1 else mask


def masked_mean_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """Widths off the lanes, one token, views that do not start at the beginning."""
    shapes = [(2, 9, 33), (1, 1, 1), (3, 5, 31), (1, 3, 300), (7, 70, 8)]
    for dtype, shape in itertools.product(dtypes, [*shapes, (64, 128, 768)]):
        batch, length, width = shape
        x = _normal(batch + 1, length, width, dtype=dtype)[1:]
        mean = partial(masked_mean, mask=_mask(batch, length))
        call = pulled_back(mean, [x], _normal(batch, width, dtype=dtype))
        name, is_large = f"{batch}x{length}x{width}", batch == 64
        yield Case("masked_mean", name, dtype, call, TOLERANCE[dtype], is_large)


def causal_im2col_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """Columns and their adjoint, and one convolution."""
    shapes = [(2, 9, 33, 3, 2), (1, 1, 3, 3, 1), (2, 2, 8, 3, 1), (1, 5, 4, 5, 8)]
    large = (64, 128, 384, 3, 4)
    for dtype, shape in itertools.product(dtypes, [*shapes, large]):
        batch, length, channels, taps, dilation = shape
        x = _normal(batch + 1, length, channels, dtype=dtype)[1:]
        columns = partial(causal_im2col, kernel_size=taps, dilation=dilation)
        g = _normal(batch, length, taps * channels, dtype=dtype)
        call = pulled_back(columns, [x], g)
        name = f"{batch}x{length}x{channels} K{taps} dilation {dilation}"
        limit = TOLERANCE[dtype]
        yield Case("causal_im2col", name, dtype, call, limit, shape == large)
    arrays = [_normal(4, 40, 64), _normal(48, 3, 64, scale=0.1), _normal(48)]
    convolve = partial(causal_conv1d, dilation=4)
    # The products may run in TF32.
    call = pulled_back(convolve, arrays, _normal(4, 40, 48))
    yield Case("causal_im2col", "convolution", mx.float32, call, 3e-3)


def gelu_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """Both forms."""
    shapes = [(1,), (3, 5), (7, 1024), (1100, 33), (4096, 512)]
    for form, dtype, shape in itertools.product(get_args(Form), dtypes, shapes):
        x = _normal(shape[0] + 1, *shape[1:], dtype=dtype, scale=3)[1:]
        # The error is absolute: one number alone must not be one that is nearly 0.
        x = mx.abs(x) + 1 if shape == (1,) else x
        call = pulled_back(partial(gelu, form=form), [x], _normal(*shape, dtype=dtype))
        is_large, limit = shape[0] == 4096, TOLERANCE[dtype]
        yield Case("gelu", f"{form} {list(shape)}", dtype, call, limit, is_large)


def gru_blend_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """Rows and widths off every tile."""
    shapes = [(1, 1), (3, 33), (70, 8), (33, 136), (2000, 300)]
    for dtype, (rows, width) in itertools.product(dtypes, shapes):
        gates = (rows, 3 * width)
        of = [(rows, width), gates, gates, (3 * width,), (width,)]
        arrays = [_normal(*s, dtype=dtype, scale=0.7) for s in of]
        call = pulled_back(gru_blend, arrays, _normal(rows, width, dtype=dtype))
        name, is_large = f"{rows}x{width}", rows == 2000
        yield Case("gru_blend", name, dtype, call, TOLERANCE[dtype], is_large)


def embedding_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """Rows of a table, many of one token, and the sums of its gradient."""
    sizes = [(1, 1, 1), (5, 3, 9), (7, 16, 200), (300, 33, 5000), (6585, 384, 12288)]
    pairs = [(t, r) for t in dtypes for r in dtypes if mx.float32 in (t, r) or t == r]
    for (kind, dtype), (rows, width, count) in itertools.product(pairs, sizes):
        table = _normal(rows + 1, width, dtype=kind)[1:]
        ids = (rows * mx.random.uniform(shape=(count,)) ** 3).astype(mx.int32)
        ids = mx.where(mx.random.uniform(shape=(count,)) < 0.4, 0, ids)
        limit = max(TOLERANCE[kind], TOLERANCE[dtype])
        look_up = partial(_look_up, ids=ids, dtype=dtype)
        call = pulled_back(look_up, [table], _normal(count, width, dtype=dtype))
        name = f"of {short(kind)} {rows}x{width} N{count}"
        yield Case("embedding", name, dtype, call, limit, rows == 6585)


def _look_up(table: mx.array, ids: mx.array, dtype: mx.Dtype, backend: Any) -> mx.array:
    return embedding(table, ids, dtype=dtype, backend=backend)


def linear_cross_entropy_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """Sums and gradients over a vocabulary, padded and whole, smoothed or not."""
    sizes = [(1, 1, 2), (5, 3, 7), (70, 33, 2500), (700, 384, 6585)]
    for dtype, size, smoothing in itertools.product(dtypes, sizes, (0.0, 0.1)):
        rows, width, vocabulary = size
        weight, bias = _normal(vocabulary, width, scale=0.1), _normal(vocabulary)
        arrays = [_normal(rows, width, dtype=dtype), weight, bias]
        total = partial(
            linear_cross_entropy,
            target=mx.random.randint(0, vocabulary, (rows,)),
            count=(mx.random.uniform(shape=(rows,)) > 0.3).astype(mx.float32),
            lowered=_normal(vocabulary),
            label_smoothing=smoothing,
        )
        # Slopes are rounded to the format of h; float32 products may run in TF32.
        limit = 5e-3 if dtype == mx.float32 else 2 * TOLERANCE[dtype]
        call = pulled_back(total, arrays, mx.array(1.0))
        name = f"{rows}x{width} V{vocabulary} smoothing {smoothing}"
        yield Case("linear_cross_entropy", name, dtype, call, limit, rows == 700)


def layer_norm_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """One row, widths off the lanes, the widest a kernel takes."""
    shapes = [(1, 4), (5, 33), (77, 384), (33, 2048), (12288, 384)]
    for dtype, (rows, width) in itertools.product(dtypes, shapes):
        x, g = (_normal(rows + 1, width, dtype=dtype)[1:] for _ in range(2))
        arrays = [x, *(_normal(width, dtype=dtype) for _ in range(2))]
        # Sums of thousands of rows, taken in another order than on the CPU.
        limit = 1e-4 if dtype == mx.float32 else 4 * TOLERANCE[dtype]
        call = pulled_back(partial(_norm, eps=1e-5), arrays, g)
        yield Case("layer_norm", f"{rows}x{width}", dtype, call, limit, rows == 12288)


def _norm(
    x: mx.array, weight: mx.array, bias: mx.array, eps: float, backend: Any
) -> mx.array:
    return layer_norm(x, weight, bias, eps, backend=backend)


def lattice_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """Scatter and readout in both modes; half formats on the first size alone."""
    sizes = [(2, 300, (6, 7)), (1, 1, (1, 1)), (2, 40, (1, 9)), (3, 2000, (33, 31))]
    sizes.append((1, 20_000, (28, 28)))
    forms = {"lattice_scatter": lattice_scatter, "lattice_readout": lattice_readout}
    chosen = [(d, s) for d in dtypes for s in sizes if d == mx.float32 or s == sizes[0]]
    for (op, form), mode, (dtype, size) in itertools.product(
        forms.items(), ("nearest", "bilinear"), chosen
    ):
        batch, flows, cells = size
        position = mx.random.uniform(-1.2, 1.2, (batch + 1, flows, 3))[1:]
        weight = mx.random.uniform(shape=(batch, flows)).astype(dtype)
        arrays = [position, _normal(batch, flows, dtype=dtype), weight]
        # Sums of tens of flows a cell, taken in another order than on the CPU.
        slack = max(1.0, flows / (cells[0] * cells[1]) / 10)
        surface = partial(form, size=cells, mode=mode)
        call = pulled_back(surface, arrays, _normal(batch, *cells, dtype=dtype))
        name = f"{mode} B{batch} F{flows} {cells[0]}x{cells[1]}"
        yield Case(op, name, dtype, call, TOLERANCE[dtype] * slack, flows == 20_000)


def field_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """Write and read; a third of the flows is dead, and some lie on the cells."""
    sizes = [(2, 300, 6, 2), (1, 1, 2, 1), (2, 40, 3, 5), (1, 2500, 12, 2)]
    for dtype, size in itertools.product(dtypes, [*sizes, (16, 3136, 6, 2)]):
        batch, flows, cells, channels = size
        position = mx.random.uniform(-1.2, 1.2, (batch + 1, flows, 3))[1:]
        on_cells = mx.random.randint(0, cells, position.shape) * (2 / (cells - 1)) - 1
        position = mx.where(mx.arange(flows)[:, None] % 3 == 0, on_cells, position)
        alive = mx.random.bernoulli(2 / 3, (batch, flows))
        value = _normal(batch, flows, channels, dtype=dtype)
        field = _normal(batch, cells, cells, cells, channels, dtype=dtype)
        write = partial(field_write, alive=alive, cells=cells)
        read = partial(field_read, alive=alive)
        # Sums of tens of flows a cell, taken in another order than on the CPU.
        limit = TOLERANCE[dtype] * max(1.0, flows / cells**3)
        name, is_large = f"B{batch} F{flows} N{cells} C{channels}", flows == 3136
        call = pulled_back(write, [position, value], field)
        yield Case("field_write", name, dtype, call, limit, is_large)
        call = pulled_back(read, [field, position], value)
        yield Case("field_read", name, dtype, call, limit, is_large)


def tcn_block_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """Causal or not, dilated, with and without conditions; padding holds numbers."""
    sizes = [(3, 9, 19, 37), (1, 1, 4, 5), (5, 7, 16, 33), (64, 24, 384, 512)]
    for dtype, size, (taps, dilation, causal), film in itertools.product(
        dtypes, sizes, [(3, 2, True), (5, 1, False)], (False, True)
    ):
        batch, length, dim, hidden = size
        weights = [
            1 + _normal(dim, scale=0.3),
            _normal(dim, scale=0.3),
            _normal(hidden, taps, dim, scale=(taps * dim) ** -0.5),
            _normal(hidden, scale=0.3),
            _normal(dim, hidden, scale=hidden**-0.5),
            _normal(dim, scale=0.3),
        ]
        conditions = [_normal(batch, 1, dim, scale=0.5) for _ in range(2 * film)]
        arrays = [_normal(batch, length, dim), *weights, *conditions]
        block = partial(
            _block, mask=_mask(batch, length), dilation=dilation, causal=causal
        )
        call = pulled_back(
            block,
            [a.astype(dtype) for a in arrays],
            _normal(batch, length, dim, dtype=dtype),
        )
        name = f"{batch}x{length}x{dim} H{hidden} K{taps}{' film' * film}"
        limit = 3 * TOLERANCE[dtype]
        yield Case("tcn_block", name, dtype, call, limit, batch == 64)


def _block(x: mx.array, *rest: mx.array, mask: mx.array, **options: Any) -> mx.array:
    film = (rest[6], rest[7]) if len(rest) > 6 else None
    return tcn_block(x, mask, BlockWeights(*rest[:6]), film, **options)


def covered_tokens_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """Sentences without a token, one token, widths off the lanes."""
    for dtype, size in itertools.product(
        dtypes, [(3, 9, 19), (1, 1, 1), (4, 6, 16), (64, 24, 384)]
    ):
        batch, length, dim = size
        arrays = [_normal(batch, length, dim), _normal(batch, dim)]
        arrays += [_normal(dim, dim, scale=dim**-0.5), _normal(dim)]
        call = pulled_back(
            partial(_covered, mask=_mask(batch, length)),
            [a.astype(dtype) for a in arrays],
            _normal(batch, length, dim, dtype=dtype),
        )
        name, limit = f"{batch}x{length}x{dim}", 3 * TOLERANCE[dtype]
        yield Case("covered_tokens", name, dtype, call, limit, batch == 64)


def _covered(
    tokens: mx.array, *rest: mx.array, mask: mx.array, backend: Any
) -> mx.array:
    condition, weight, bias = rest
    return covered_tokens(tokens, mask, condition, weight, bias, backend=backend)


def flow_carry_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """The first step and a later one, one GRU layer and two; float32 alone."""
    for rows, hidden, layers, is_first in itertools.product(
        (1, 5, 300), (8, 20), (1, 2), (True, False)
    ):
        yield _carry(rows, hidden, layers, is_first=is_first)
    yield _carry(4000, 64, 2, is_first=False)


def _carry(rows: int, hidden: int, layers: int, *, is_first: bool) -> Case:
    inner, features = 6, 7
    neuron = NeuronWeights(
        *(_normal(inner, 4), _normal(inner), 1 + _normal(inner, scale=0.1)),
        *(_normal(inner), _normal(inner, inner, scale=0.4), _normal(inner)),
        *(1 + _normal(inner, scale=0.1), _normal(inner)),
        *(_normal(features, inner, scale=0.4), _normal(features)),
    )
    heads = HeadWeights(
        *(_normal(hidden, hidden, scale=hidden**-0.5), _normal(hidden, 16, scale=0.2)),
        *(_normal(inner, hidden, scale=hidden**-0.5), _normal(inner)),
        *(_normal(4, inner, scale=0.4), _normal(4)),
    )
    cells = tuple(
        CellWeights(
            _normal(3 * hidden, features + 1 if n == 0 else hidden, scale=0.2),
            _normal(3 * hidden, hidden, scale=0.2),
            _normal(3 * hidden, scale=0.2),
            _normal(hidden, scale=0.2),
        )
        for n in range(layers)
    )
    count = 0 if is_first else layers
    states = [_normal(rows, hidden, scale=0.5) for _ in range(count)]
    weights = CarryWeights(neuron, heads, cells)

    def step(*arrays: mx.array, backend: Any) -> mx.array:
        position, energy, memory, *given = arrays
        found = flow_carry(
            position, energy, memory, tuple(given), weights, backend=backend
        )
        return mx.concatenate([found.out, *found.states], axis=1)

    arrays = [mx.random.uniform(-1, 1, (rows, 3)), _normal(rows), *_memory(rows)]
    g = _normal(rows, 4 + layers * hidden)
    call = pulled_back(step, [*arrays, *states], g)
    name = f"N{rows} H{hidden} {layers} layers{', first step' * is_first}"
    return Case("flow_carry", name, mx.float32, call, 3e-5, rows == 4000)


def _memory(rows: int) -> list[mx.array]:
    return [mx.random.uniform(-1, 1, (rows, 15))]


def adamw_cases(dtypes: Sequence[mx.Dtype]) -> Iterator[Case]:
    """One update of a parameter; float32 alone."""
    for shape in [(1,), (3, 5), (257, 131), (6585, 384)]:
        p, m, v, gradient = (_normal(*shape) for _ in range(4))
        state = Adamw(p, m, mx.square(v), mx.array(3.0))
        call = partial(_update, state, gradient)
        name, is_large = str(list(shape)), shape[0] == 6585
        yield Case("adamw", name, mx.float32, call, 1e-6, is_large)


def _update(state: Adamw, gradient: mx.array, backend: Any) -> list[mx.array]:
    rates = Rates(mx.array(0.5), mx.array(0.01), mx.array(np.True_))
    constants = Constants((0.9, 0.99), 1e-8, 0.1)
    return list(adamw(state, gradient, rates, constants, backend=backend))


CASES: dict[str, Callable[[Sequence[mx.Dtype]], Iterator[Case]]] = {
    "masked_mean": masked_mean_cases,
    "causal_im2col": causal_im2col_cases,
    "gelu": gelu_cases,
    "gru_blend": gru_blend_cases,
    "embedding": embedding_cases,
    "linear_cross_entropy": linear_cross_entropy_cases,
    "layer_norm": layer_norm_cases,
    "lattice": lattice_cases,
    "field": field_cases,
    "tcn_block": tcn_block_cases,
    "covered_tokens": covered_tokens_cases,
    "flow_carry": flow_carry_cases,
    "adamw": adamw_cases,
}
