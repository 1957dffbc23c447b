"""Vector to surface and surface to vector: the two ends of the lattice.

How much of the work the ends may do is a setting, ``lattice.ends.kind``: a stack of
layers, a linear map, or an orthogonal map that never trains and leaves all of it to the
flows.

The stacks are ported from ``EmbeddingMapper`` and ``OutputCollector`` of the reference
system, with two changes. The hidden width is capped: uncapped it is twice the cells of
a face, which at 100 x 100 would be six hundred million weights. And a linear map stands
beside each stack, a residual connection (He et al., "Deep Residual Learning", 2016):
the ends alone then learn in 140 updates what took them 700.
"""

import math
from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.nn.dropout import active_key, check_rate, dropout, key_stream
from energyflow_mlx.ops import gelu

_TABLE_STD = 0.02
_CELL_STD = 0.5  # of a fresh surface: tanh is still nearly linear there


def isometry(rows: int, columns: int) -> mx.array:
    """Random matrix with orthonormal columns, or rows where those are fewer.

    Returns:
        ``[rows, columns]``.
    """
    tall = mx.random.normal((max(rows, columns), min(rows, columns)))
    q, _ = mx.linalg.qr(tall, stream=mx.cpu)
    return mx.contiguous(q if rows >= columns else q.T)


def hidden_widths(dim: int, cells: int, cap: int) -> tuple[int, int]:
    """Widths of the layers next to the vector and next to the surface.

    ``max(dim // 2, 2 * cells)`` and ``2 * cells``, neither above ``cap``.

    Args:
        dim: Numbers of a vector, E.
        cells: Cells of a face, S.
        cap: Greatest width.
    """
    return min(max(dim // 2, 2 * cells), cap), min(2 * cells, cap)


class NormedStack(nn.Module):
    """Linear layers with ``GELU -> LayerNorm -> dropout`` between them."""

    def __init__(self, widths: Sequence[int], rates: Sequence[float]) -> None:
        """Create ``len(widths) - 1`` layers; ``rates`` are those after all but one."""
        super().__init__()
        self.layers = [
            nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)
        ]
        self.norms = [nn.LayerNorm(width) for width in widths[1:-1]]
        self._rates = [check_rate("NormedStack", rate) for rate in rates]

    def __call__(self, x: mx.array, *, key: mx.array | None = None) -> mx.array:
        """Map ``[B, widths[0]]`` to ``[B, widths[-1]]``.

        Args:
            x: Input rows.
            key: Random key of the dropouts, wanted in training.

        Raises:
            ValueError: A key is missing in training with dropout.
        """
        key = active_key(
            "NormedStack", training=self.training, rate=max(self._rates), key=key
        )
        stages = zip(
            self.layers, self.norms, self._rates, key_stream(key), strict=False
        )
        for layer, norm, rate, stage_key in stages:
            x = norm(gelu(layer(x)))
            if stage_key is not None:
                x = dropout(x, rate, stage_key)
        return self.layers[-1](x)


class EmbeddingMapper(nn.Module):
    """Lay a vector out on the input surface.

    surface = tanh(stack(vector) + direct vector) * scale + offset + table

    ``direct`` starts as a rotation that gives a unit vector cells of deviation 0.5.
    """

    def __init__(
        self,
        embedding_dim: int,
        width: int,
        height: int,
        *,
        width_cap: int,
        rate: float,
    ) -> None:
        """Create the mapper; ``rate`` is the dropout next to the vector."""
        super().__init__()
        cells = width * height
        near_vector, near_surface = hidden_widths(embedding_dim, cells, width_cap)
        self.stack = NormedStack(
            (embedding_dim, near_vector, near_surface, cells), (rate, rate / 2)
        )
        gain = _CELL_STD * math.sqrt(max(cells, embedding_dim))
        self.direct = gain * isometry(cells, embedding_dim)
        self.scale = mx.ones((1,))
        self.offset = mx.zeros((1,))
        self.table = mx.random.normal((height, width), scale=_TABLE_STD)

    def __call__(self, vector: mx.array, *, key: mx.array | None = None) -> mx.array:
        """Map vectors ``[B, E]`` to surfaces ``[B, H, W]``."""
        laid_out = self.stack(vector, key=key) + vector @ self.direct.T  # [B, S]
        pattern = mx.tanh(laid_out)
        surface = (pattern * self.scale + self.offset).reshape(-1, *self.table.shape)
        return surface + self.table


class OutputCollector(nn.Module):
    """Read a vector off the output surface, after weighing every cell.

    vector = stack(cells) + direct cells
    """

    def __init__(
        self,
        embedding_dim: int,
        width: int,
        height: int,
        *,
        width_cap: int,
        rate: float,
    ) -> None:
        """Create the collector; ``rate`` is the dropout next to the vector."""
        super().__init__()
        cells = width * height
        near_vector, near_surface = hidden_widths(embedding_dim, cells, width_cap)
        self.stack = NormedStack(
            (cells, near_surface, near_vector, embedding_dim), (rate / 2, rate)
        )
        # Outputs start as long as the unit vectors they are to become: Linear's usual
        # start would make them ten times as long, and the first updates shrink them.
        last = self.stack.layers[-1]
        deviation = 1.0 / math.sqrt(last.weight.size)
        last.weight = mx.random.normal(last.weight.shape, scale=deviation)
        last.bias = mx.zeros_like(last.bias)
        gain = 1.0 / (_CELL_STD * math.sqrt(max(cells, embedding_dim)))
        self.direct = gain * isometry(embedding_dim, cells)
        self.cell_weight = mx.ones((height, width))

    def __call__(self, surface: mx.array, *, key: mx.array | None = None) -> mx.array:
        """Map surfaces ``[B, H, W]`` to vectors ``[B, E]``, not normalized."""
        weighed = (surface * self.cell_weight).reshape(surface.shape[0], -1)
        return self.stack(weighed, key=key) + weighed @ self.direct.T


class LinearMapper(nn.Module):
    """Lay a vector out on the input surface: surface = direct vector."""

    def __init__(self, direct: mx.array, width: int, height: int) -> None:
        """Create the mapper with the map ``direct``, ``[H * W, E]``."""
        super().__init__()
        self.direct = direct
        self._size = (height, width)

    def __call__(self, vector: mx.array, *, key: mx.array | None = None) -> mx.array:
        """Map vectors ``[B, E]`` to surfaces ``[B, H, W]``; nothing is random."""
        return (vector @ self.direct.T).reshape(-1, *self._size)


class LinearCollector(nn.Module):
    """Read a vector off the cells that energies arrived on: vector = direct cells."""

    def __init__(self, direct: mx.array) -> None:
        """Create the collector with the map ``direct``, ``[E, cells]``."""
        super().__init__()
        self.direct = direct

    def __call__(self, surface: mx.array, *, key: mx.array | None = None) -> mx.array:
        """Map surfaces ``[B, ..., W]`` to vectors ``[B, E]``; nothing is random."""
        return surface.reshape(surface.shape[0], -1) @ self.direct.T


def build_mapper(
    config: LatticeConfig, embedding_dim: int
) -> EmbeddingMapper | LinearMapper:
    """Mapper of the configured kind, drawn from MLX's generator.

    Args:
        config: Settings of the lattice.
        embedding_dim: Numbers of a vector, E.
    """
    cube, ends = config.cube, config.ends
    size = (cube.width, cube.height)
    if ends.kind == "mlp":
        cap, rate = ends.width_cap, ends.dropout
        return EmbeddingMapper(embedding_dim, *size, width_cap=cap, rate=rate)
    direct = _gain(config, embedding_dim) * isometry(cube.surface_size, embedding_dim)
    mapper = LinearMapper(direct, *size)
    if ends.kind in ("fixed", "divided"):
        mapper.freeze()
    return mapper


def build_collector(
    config: LatticeConfig, embedding_dim: int, mapper: EmbeddingMapper | LinearMapper
) -> OutputCollector | LinearCollector:
    """Collector of the configured kind, drawn from MLX's generator.

    A fixed one reads the near face, or the only surface, with the transpose of the
    mapper's map: what stays where it was laid out comes back. The far face has an
    orthogonal map of its own.

    Args:
        config: Settings of the lattice.
        embedding_dim: Numbers of a vector, E.
        mapper: The other end.
    """
    cube, ends = config.cube, config.ends
    faces = 2 if config.readout.is_split else 1
    if ends.kind == "mlp":
        size, cap = (cube.width, faces * cube.height), ends.width_cap
        return OutputCollector(embedding_dim, *size, width_cap=cap, rate=ends.dropout)
    gain = _gain(config, embedding_dim)
    if ends.kind == "linear":
        cells = faces * cube.surface_size
        return LinearCollector(isometry(embedding_dim, cells) / gain)
    maps = [mapper.direct.T / gain**2]
    if ends.kind == "divided":
        maps = divide(config, maps[0])
    elif config.readout.is_split:
        maps.append(isometry(embedding_dim, cube.surface_size) / gain)
    collector = LinearCollector(mx.concatenate(maps, axis=1))
    collector.freeze()
    return collector


def divide(config: LatticeConfig, whole: mx.array) -> list[mx.array]:
    """What either face says of a vector that both must be asked for.

    The near face is read on the columns at the left and the far one on those at the
    right. On columns of both the near face gives the first half of the numbers and the
    far one the others, so that an energy there must arrive on both: by a flow and its
    child. The far face is read some columns further to the left.

    Args:
        config: Settings of the lattice.
        whole: Map from all cells, ``[E, S]``.

    Returns:
        Maps from the near and the far face, ``[E, S]`` each.
    """
    width = config.cube.width
    left, right = config.ends.divide(width)
    numbers = mx.arange(whole.shape[0])[:, None]
    column = mx.arange(config.surface_size) % width
    is_both = mx.logical_and(column < left, column >= width - right)
    is_near = mx.where(is_both, 2 * numbers < whole.shape[0], column < left)
    near, far = mx.where(is_near, whole, 0.0), mx.where(is_near, 0.0, whole)
    # Nothing falls off: the far face reads no column so far left.
    return [near, mx.roll(far, -config.ends.shift, axis=1)]


def _gain(config: LatticeConfig, embedding_dim: int) -> float:
    """Factor on an isometry that gives a unit vector cells of deviation 0.5."""
    return _CELL_STD * math.sqrt(max(config.surface_size, embedding_dim))
