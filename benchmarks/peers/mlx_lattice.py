"""Our side of the lattice: forward as in evaluation, forward+backward as in training.

The displacement head is awake, nothing spawns, so that the twin needs no scheduler.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from benchmarks.lattice_presets import read_preset
from benchmarks.peers.settings import Settings
from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.lattice.geometry import cell_parity, launch_positions
from energyflow_mlx.training.precision import DTYPES

_OVERRIDES = ("spawn.per_cell=0", "ends.dropout=0.0", "adjoint.way=graph")
_DIM = 384


class LatticeCase:
    """One pass through a preset's lattice.

    Args:
        settings: Of the comparison.
        folder: Where weights and inputs go, for the other side.
        trains: Forward and backward, the gradient of the mean square; else forward.
    """

    def __init__(self, settings: Settings, folder: Path, *, trains: bool) -> None:
        sets = [text for text in settings.lattice.split(",")[1:] if text]
        config = read_preset(settings.lattice.split(",")[0], [*_OVERRIDES, *sets])
        dtype = DTYPES[settings.precision]
        mx.random.seed(0)
        self.lattice = EnergyLattice(config, _DIM)
        layer = self.lattice.flow.carrier.move_out
        layer.weight = 0.1 * mx.random.normal(layer.weight.shape)
        self.vector = mx.random.normal((settings.lattice_batch, _DIM))
        mx.eval(self.lattice.parameters(), self.vector)
        self._write(folder)
        low = tree_map(lambda a: a.astype(dtype), self.lattice.parameters())
        self.lattice.update(low)
        self.lattice.eval()
        self._trains, self._parameters = trains, self.lattice.trainable_parameters()
        mx.eval(self._parameters)
        self._compiled = mx.compile(mx.value_and_grad(self._loss))

    def _write(self, folder: Path) -> None:
        config, cube = self.lattice.config, self.lattice.config.cube
        weights = dict(tree_flatten(self.lattice.trainable_parameters()))
        arrays = {k: np.array(w) for k, w in weights.items()}
        np.savez(folder / "weights.npz", **arrays)
        np.savez(
            folder / "inputs.npz",
            vector=np.array(self.vector),
            start=np.array(launch_positions(cube.width, cube.height, cube.depth)),
            parity=np.array(cell_parity(cube.width, cube.height)),
        )
        self.facts = {
            "width": cube.width,
            "height": cube.height,
            "steps": config.total_steps,
            "layers": config.carrier.layers,
            "bound": config.motion.bound,
            "face_tie": config.motion.face_tie,
            "items": len(self.vector),
            "parameters": sum(w.size for w in weights.values()),
        }

    def _loss(self, parameters: Any, vector: mx.array) -> mx.array:
        self.lattice.update(parameters)
        return (self.lattice(vector).vector ** 2).mean()

    def _backward(self) -> tuple[mx.array, Any]:
        found = self._compiled(self._parameters, self.vector)
        self.lattice.update(self._parameters)
        return found

    def call(self) -> None:
        """One pass."""
        if self._trains:
            mx.eval(self._backward())
        else:
            mx.eval(self.lattice(self.vector).vector)

    def agree(self) -> tuple[float, dict[str, np.ndarray]]:
        """Loss; vectors, and with training the gradients."""
        loss, gradients = self._backward()
        value = self.lattice(self.vector).vector
        arrays = {"gradient output": np.array(value.astype(mx.float32))}
        for path, gradient in tree_flatten(gradients) if self._trains else ():
            arrays[f"gradient {path}"] = np.array(gradient.astype(mx.float32))
        return loss.item(), arrays
