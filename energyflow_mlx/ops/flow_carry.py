"""One step of neuron and carrier for all flows: features, GRU layers, heads.

    f   = W2 gelu(norm1(W1 gelu(norm0(We [position, energy] + be)) + b1)) + b2
    x_0 = sanitize([f, energy])
    x_l = GRU_l(x_{l-1}, state_l)                    the new states
    m   = gelu(Wt x_last + Wm [memory, 1])
    out = sanitize(Wo gelu(Wi m + bi) + bo)          the energy head's, then the move

The native form takes tiles of flows through the whole chain while they are in a core's
cache, and keeps the gates only where there will be a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten

from energyflow_mlx.ops._backend import Backend, resolve
from energyflow_mlx.ops.gelu import gelu
from energyflow_mlx.ops.gru_blend import gate_products, gru_blend
from energyflow_mlx.ops.layer_norm import layer_norm
from energyflow_mlx.ops.row_sums import linear
from energyflow_mlx.runtime import native

# What goes into the recurrent cell and comes out of the heads is kept inside this.
LIMIT = 10.0
_NORM_EPSILON = 1e-5
_MEMORY = 15  # five positions
_OUT = 4  # energy and move

States = tuple[mx.array, ...]


class NeuronWeights(NamedTuple):
    """Weights of the features, A channels and F features.

    Attributes:
        entry: From position and energy, ``[A, 4]``; its bias ``[A]``.
        norm_0: ``[A]``, like its bias.
        layer_1: ``[A, A]``; its bias ``[A]``.
        norm_1: ``[A]``, like its bias.
        layer_2: ``[F, A]``; its bias ``[F]``.
    """

    entry: mx.array
    entry_bias: mx.array
    norm_0: mx.array
    norm_0_bias: mx.array
    layer_1: mx.array
    layer_1_bias: mx.array
    norm_1: mx.array
    norm_1_bias: mx.array
    layer_2: mx.array
    layer_2_bias: mx.array


class HeadWeights(NamedTuple):
    """Weights of both heads side by side, H channels and I inner ones.

    Attributes:
        top: From the last GRU layer to the mixed features, ``[H, H]``.
        memory: From the position memory to them, the bias as last column, ``[H, 16]``.
        inner: From the mixed features to the heads' hidden layers, energy first,
            ``[I, H]``.
        inner_bias: ``[I]``.
        out: To the energy and the move, ``[4, I]``.
        out_bias: ``[4]``.
    """

    top: mx.array
    memory: mx.array
    inner: mx.array
    inner_bias: mx.array
    out: mx.array
    out_bias: mx.array


class CellWeights(NamedTuple):
    """Weights of one GRU layer from D to H channels; see ``nn.gru``.

    Attributes:
        Wx: ``[3H, D]``.
        Wh: ``[3H, H]``.
        b: ``[3H]``.
        bhn: ``[H]``.
    """

    Wx: mx.array
    Wh: mx.array
    b: mx.array
    bhn: mx.array


class CarryWeights(NamedTuple):
    """All weights of a step.

    Attributes:
        neuron: Of the features.
        heads: Of the heads.
        cells: Of every GRU layer; their dtype is the states'.
    """

    neuron: NeuronWeights
    heads: HeadWeights
    cells: tuple[CellWeights, ...]


class Carried(NamedTuple):
    """What one step says about N flows.

    Attributes:
        out: Energy before its tanh, and the unbounded move, ``[N, 4]`` float32.
        states: New state of every layer, ``[N, H]`` each.
    """

    out: mx.array
    states: States


@mx.custom_function
def sanitize(x: mx.array) -> mx.array:
    """Replace NaN by 0 and clip to [-10, 10], infinities included."""
    return mx.clip(mx.where(mx.isnan(x), 0.0, x), -LIMIT, LIMIT)


@sanitize.vjp
def _sanitize_vjp(x: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
    # Of a NaN the comparison is false too. One mask where autodiff makes five.
    return mx.where(mx.abs(x) <= LIMIT, cotangent, 0.0)


def flow_carry(
    position: mx.array,
    energy: mx.array,
    memory: mx.array,
    states: States,
    weights: CarryWeights,
    *,
    backend: Backend = "auto",
) -> Carried:
    """Advance N flows by one step of neuron and carrier.

    The formula is the module's; sums and products are float32 in the native form.

    Args:
        position: Inside the cube, ``[N, 3]``.
        energy: ``[N]``.
        memory: Newest positions, flattened, ``[N, 15]``.
        states: State of every GRU layer, ``[N, H]`` each; ``()`` stands for zeros.
        weights: All weights.
        backend: Which implementation to run; see ``ops._backend``.

    Returns:
        Outputs of both heads and the new states.

    Raises:
        ValueError: A shape does not fit.
    """
    _check(position, energy, memory, states, weights)
    chosen = resolve(backend, "flow_carry")
    if chosen == "reference" or energy.size == 0:
        return flow_carry_reference(position, energy, memory, states, weights)
    dtype = weights.cells[0].Wx.dtype
    flat = [a for _, a in tree_flatten(weights)]
    arrays = [a.astype(mx.float32) for a in (position, energy, memory, *states, *flat)]
    out, *new = _native(arrays, len(weights.cells), is_first=not states)
    return Carried(out, tuple(h.astype(dtype) for h in new))


def flow_carry_reference(
    position: mx.array,
    energy: mx.array,
    memory: mx.array,
    states: States,
    weights: CarryWeights,
) -> Carried:
    """Plain form of ``flow_carry``, what GPUs run, and its specification."""
    column = energy[:, None]
    features = neuron_features(position, column, weights.neuron)
    x = sanitize(mx.concatenate([features, column], axis=-1))
    new = advance_cells(x, states, weights.cells)
    return Carried(apply_heads(new[-1], memory, weights.heads), new)


def neuron_features(
    position: mx.array, energy: mx.array, weights: NeuronWeights
) -> mx.array:
    """Features ``[N, F]`` of flows at ``[N, 3]`` with energies ``[N, 1]``."""
    w = weights
    x = mx.concatenate([position, energy], axis=-1)
    x = linear(x, w.entry, w.entry_bias)
    x = gelu(layer_norm(x, w.norm_0, w.norm_0_bias, _NORM_EPSILON))
    x = linear(x, w.layer_1, w.layer_1_bias)
    x = gelu(layer_norm(x, w.norm_1, w.norm_1_bias, _NORM_EPSILON))
    return linear(x, w.layer_2, w.layer_2_bias)


def advance_cells(
    x: mx.array, states: States, cells: tuple[CellWeights, ...]
) -> States:
    """New state of every GRU layer on ``x``, ``[N, D]``, in the cells' dtype."""
    x, new = x.astype(cells[0].Wx.dtype), []
    for index, cell in enumerate(cells):
        from_x = gate_products(x, cell.Wx)
        if states:
            h, from_h = states[index], gate_products(states[index], cell.Wh)
        else:
            h = mx.zeros((x.shape[0], cell.bhn.size), x.dtype)
            from_h = mx.zeros_like(from_x)
        x = gru_blend(h, from_x, from_h, cell.b, cell.bhn)
        new.append(x)
    return tuple(new)


def apply_heads(top: mx.array, memory: mx.array, weights: HeadWeights) -> mx.array:
    """Both heads' outputs, ``[N, 4]`` float32, on last state and memory."""
    dtype = weights.top.dtype
    top, memory = top.astype(dtype), memory.astype(dtype)
    memory = mx.pad(memory, ((0, 0), (0, 1)), constant_values=1.0)  # for the bias
    past = memory @ weights.memory.T
    mixed = gelu(mx.addmm(past, top, weights.top.T))  # [N, H]
    inner = gelu(linear(mixed, weights.inner, weights.inner_bias))
    out = linear(inner, weights.out, weights.out_bias)  # [N, 4]
    return sanitize(out.astype(mx.float32))


def _native(
    arrays: Sequence[mx.array], layers: int, *, is_first: bool
) -> tuple[mx.array, ...]:
    """Outputs and new states from position, energy, memory, states and weights."""
    sizes = _sizes(arrays, layers, is_first)
    tape = native.keep_on_demand()

    @mx.custom_function
    def carry(*arrays: mx.array) -> tuple[mx.array, ...]:
        return tuple(_forward(arrays, sizes, tape))

    @carry.vjp
    def carry_vjp(
        primals: tuple[mx.array, ...],
        cotangents: tuple[mx.array, ...],
        outputs: tuple[mx.array, ...],
    ) -> tuple[mx.array, ...]:
        # The tape leaves the operation only for this use: no cotangent.
        kept = outputs if tape.want() else _forward(primals, sizes, None)
        inputs = [*cotangents[:-1], *kept[1:], *primals]
        like = [(a.shape, a.dtype) for a in primals]
        name = "flow_carry_backward"
        return tuple(native.launch(name, inputs, like, sizes, [_NORM_EPSILON]))

    found: tuple[mx.array, ...] = carry(*arrays)
    return found[:-1]


def _forward(
    arrays: Sequence[mx.array], sizes: Sequence[int], tape: native.Kept | None
) -> list[mx.array]:
    """Outputs, new states and the tape, which None computes in any case."""
    rows, width, layers, _, _, inner, _ = sizes
    kept = 4 * width * layers + width + inner + _OUT
    shapes = [(rows, _OUT), *[(rows, width)] * layers, (rows, kept)]
    outputs = [(shape, mx.float32) for shape in shapes]
    reals, name = [_NORM_EPSILON], "flow_carry_forward"
    return native.launch(name, arrays, outputs, sizes, reals, last=tape)


def _sizes(arrays: Sequence[mx.array], layers: int, is_first: bool) -> list[int]:
    """What the native form is told, from its inputs."""
    weights = arrays[3 if is_first else 3 + layers :]
    neuron = NeuronWeights(*weights[: len(NeuronWeights._fields)])
    heads = HeadWeights(*weights[len(neuron) : len(neuron) + len(HeadWeights._fields)])
    channels, features = neuron.entry.shape[0], neuron.layer_2.shape[0]
    hidden, inner = heads.top.shape[0], heads.inner.shape[0]
    rows = arrays[1].size
    return [rows, hidden, layers, channels, features, inner, int(is_first)]


def _check(
    position: mx.array,
    energy: mx.array,
    memory: mx.array,
    states: States,
    weights: CarryWeights,
) -> None:
    rows, layers = energy.size, len(weights.cells)
    expected = {"position": (rows, 3), "energy": (rows,), "memory": (rows, _MEMORY)}
    arrays = {"position": position, "energy": energy, "memory": memory}
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            found = list(arrays[name].shape)
            raise ValueError(f"[flow_carry] {name} must be {list(shape)}, got {found}.")
    width = weights.heads.top.shape[0]
    if states and [h.shape for h in states] != [(rows, width)] * layers:
        raise ValueError(
            f"[flow_carry] states must be {layers} of [{rows}, {width}] or none, "
            f"got {[list(h.shape) for h in states]}."
        )
