"""Kernels of the lattice scatter and readout, with their gradients.

Both operations are kept per surface (size, mode, boundary and backend), because their
kernels are compiled for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import mlx.core as mx

from energyflow_mlx.ops._backend import KernelSpec, launch

SCATTER_FORWARD = KernelSpec(
    name="lattice_scatter_forward",
    inputs=("position", "energy", "weight"),
    outputs=("surface",),
    folder="lattice_scatter",
    part="forward",
)
SCATTER_BACKWARD = KernelSpec(
    name="lattice_scatter_backward",
    inputs=("gsurface", "position", "energy", "weight"),
    outputs=("gposition", "genergy", "gweight"),
    folder="lattice_scatter",
    part="backward",
)
READOUT_FORWARD = KernelSpec(
    name="lattice_readout_forward",
    inputs=("position", "energy", "score"),
    outputs=("surface", "stats"),
    folder="lattice_scatter",
    part="readout_forward",
)
READOUT_BACKWARD = KernelSpec(
    name="lattice_readout_backward",
    inputs=("gsurface", "stats", "position", "energy", "score"),
    outputs=("gposition", "genergy", "gscore"),
    folder="lattice_scatter",
    part="readout_backward",
)

_GROUPS = 256  # groups wanted on a GPU before flows stop being sliced
_SLICE_FLOWS = 1024  # flows of a sample that are worth a group of their own


class Tiling(NamedTuple):
    """How a surface is shared out: simdgroups (warps) a group, most cells a group."""

    warps: int
    cells: int


# Each simdgroup has its own copy of the tile: a scatter copy is one float a cell, a
# readout copy up to three, beside 20 bytes for each thread. Metal gives a group 32 KB,
# CUDA 48 KB.
TILINGS = {
    ("scatter", "metal"): Tiling(8, 800),
    ("readout", "metal"): Tiling(8, 256),
    ("scatter", "cuda"): Tiling(8, 800),
    ("readout", "cuda"): Tiling(16, 196),
}


@dataclass(frozen=True)
class Surface:
    """What the kernels of a surface are compiled for."""

    height: int
    width: int
    mode: str
    boundary: str
    backend: str

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.height * self.width

    @property
    def template(self) -> list[tuple[str, Any]]:
        """Compile-time values that every kernel of the surface takes."""
        return [
            ("HEIGHT", self.height),
            ("WIDTH", self.width),
            ("BILINEAR", self.mode == "bilinear"),
            ("FOLD", self.boundary == "fold"),
        ]

    def tiling(self, op: str) -> tuple[int, int, int]:
        """Simdgroups a group, cells a tile and number of tiles, tiles about equal."""
        warps, most = TILINGS[op, self.backend]
        tiles = -(-self.cells // most)
        return warps, -(-self.cells // tiles), tiles


@cache
def scatter(surface: Surface) -> Callable[..., mx.array]:
    """``(position, energy, weight) -> [B, cells]`` on a kernel."""

    @mx.custom_function
    def forward(position: mx.array, energy: mx.array, weight: mx.array) -> mx.array:
        batch, flows = energy.shape
        warps, tile, tiles = surface.tiling("scatter")
        slices = _slices(batch * tiles, flows)
        groups = batch * slices * tiles
        dtype = energy.dtype if slices == 1 else mx.float32
        (parts,) = launch(
            SCATTER_FORWARD,
            [position, energy, weight],
            output_shapes=[(batch, slices, surface.cells)],
            output_dtypes=[dtype],
            grid=(groups * warps * 32, 1, 1),
            threadgroup=(warps * 32, 1, 1),
            template=[
                ("T", dtype),
                *surface.template,
                ("SG", warps),
                ("TILE", tile),
                ("SLICES", slices),
            ],
            backend=surface.backend,
        )
        return parts[:, 0] if slices == 1 else parts.sum(axis=1).astype(energy.dtype)

    @forward.vjp
    def vjp(
        primals: tuple[mx.array, mx.array, mx.array],
        cotangent: mx.array,
        output: mx.array,
    ) -> tuple[mx.array, ...]:
        return _gather(surface, SCATTER_BACKWARD)(cotangent, *primals)

    return forward


@cache
def readout(surface: Surface) -> Callable[..., tuple[mx.array, mx.array]]:
    """``(position, energy, score) -> ([B, cells], stats)`` on a kernel."""

    @mx.custom_function
    def forward(
        position: mx.array, energy: mx.array, score: mx.array
    ) -> tuple[mx.array, mx.array]:
        batch = energy.shape[0]
        warps, tile, tiles = surface.tiling("readout")
        values, stats = launch(
            READOUT_FORWARD,
            [position, energy, score],
            output_shapes=[(batch, surface.cells), (batch, surface.cells, 4)],
            output_dtypes=[energy.dtype, mx.float32],
            grid=(batch * tiles * warps * 32, 1, 1),
            threadgroup=(warps * 32, 1, 1),
            template=[
                ("T", energy.dtype),
                *surface.template,
                ("SG", warps),
                ("TILE", tile),
            ],
            backend=surface.backend,
        )
        return values, stats

    @forward.vjp
    def vjp(
        primals: tuple[mx.array, mx.array, mx.array],
        cotangents: tuple[mx.array, mx.array],
        outputs: tuple[mx.array, mx.array],
    ) -> tuple[mx.array, ...]:
        # The statistics leave the operation only for this use: no cotangent.
        return _gather(surface, READOUT_BACKWARD)(cotangents[0], outputs[1], *primals)

    return forward


@cache
def _gather(surface: Surface, spec: KernelSpec) -> Callable[..., Any]:
    """Backward kernel of either operation: one thread a flow."""

    @mx.custom_function
    def backward(*arrays: mx.array) -> tuple[mx.array, ...]:
        position, energy, weight = arrays[-3:]
        flows = energy.size
        gradients = launch(
            spec,
            arrays,
            output_shapes=[position.shape, energy.shape, weight.shape],
            output_dtypes=[position.dtype, energy.dtype, weight.dtype],
            grid=(flows, 1, 1),
            threadgroup=(256, 1, 1),
            template=[
                ("TP", position.dtype),
                ("TE", energy.dtype),
                ("TW", weight.dtype),
                *surface.template,
            ],
            backend=surface.backend,
        )
        return tuple(gradients)

    return backward


def _slices(groups: int, flows: int) -> int:
    """Slices of each sample's flows that fill the device, a power of two."""
    slices = 1
    while groups * slices < _GROUPS and flows >= 2 * slices * _SLICE_FLOWS:
        slices *= 2
    return slices
