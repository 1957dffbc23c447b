"""The lattice's forward pass written straight down, as a baseline and a check.

The same mathematics with the same weights in plain MLX: built-in tanh, sigmoid and
GELU, one layer after the other, nothing compiled. No spawning, no noise; both faces,
drift, residual energies, softmax readout, bilinear. (PyTorch: ``peers/torch_lattice``.)
"""

from __future__ import annotations

from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import mlx.nn as nn

from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.lattice.geometry import cell_parity, launch_positions
from energyflow_mlx.ops.lattice_readout import lattice_readout_reference

OVERRIDES = ("spawn.per_cell=0", "ends.dropout=0.0", "adjoint.way=graph")


def plain_mlx(lattice: EnergyLattice, vector: mx.array) -> mx.array:
    """Output vectors, without anything that makes the package's own pass fast."""
    config, (batch, _) = lattice.config, vector.shape
    x = vector
    for layer, norm in zip(
        lattice.mapper.stack.layers, lattice.mapper.stack.norms, strict=False
    ):
        x = norm(nn.gelu(layer(x)))
    direct = vector @ lattice.mapper.direct.T
    x = mx.tanh(lattice.mapper.stack.layers[-1](x) + direct)
    x = (x * lattice.mapper.scale + lattice.mapper.offset).reshape(batch, -1)
    energy = x + lattice.mapper.table.reshape(1, -1)
    size = (config.cube.width, config.cube.height)
    position = launch_positions(*size, config.cube.depth)
    position = mx.broadcast_to(position, (*energy.shape, 3))
    face = mx.broadcast_to(cell_parity(*size), energy.shape)
    memory = mx.zeros((*energy.shape, 15))
    memory = mx.concatenate([position, memory[..., :12]], axis=-1)
    alive = mx.full(energy.shape, True)
    age = mx.zeros(energy.shape)
    hidden = None
    for index in range(config.total_steps):
        out, change, hidden = _plain_carry(
            lattice, position, energy, memory, hidden, config.carrier.layers
        )
        learned = config.motion.bound * mx.tanh(out)
        along = learned[..., 2]
        if index == 0:
            clear = mx.abs(along) > config.motion.face_tie * config.motion.bound
            face = mx.where(clear, mx.sign(along), face)
        left = mx.abs(face - mx.stop_gradient(position[..., 2]))
        drift = mx.maximum(left / (config.total_steps - index), 1 / config.total_steps)
        towards = face * along
        dz = face * (drift + mx.where(towards >= 0, towards, 0))
        raw = position + mx.concatenate([learned[..., :2], dz[..., None]], axis=-1)
        side = raw[..., :2]
        side = mx.where(side > 1, 2 - side, side)
        side = mx.clip(mx.where(side < -1, -2 - side, side), -1, 1)
        z = mx.clip(raw[..., 2:], -1, 1)
        reached = mx.abs(z) >= 1 - 1e-5
        z = mx.where(reached, mx.sign(z), z)
        moved = mx.concatenate([side, z], axis=-1)
        energy = mx.where(alive, energy + mx.tanh(change) / config.total_steps, energy)
        position = mx.where(alive[..., None], moved, position)
        age = age + alive
        alive = mx.logical_and(alive, mx.logical_not(reached[..., 0]))
        memory = mx.concatenate([position, memory[..., :12]], axis=-1)
    score = mx.abs(energy) * (1 + 0.1 * age)
    size = (config.cube.height, config.cube.width)
    surface = lattice_readout_reference(position, energy, score, size, "bilinear")
    x = (surface * lattice.collector.cell_weight).reshape(batch, -1)
    stack, direct = lattice.collector.stack, x @ lattice.collector.direct.T
    for layer, norm in zip(stack.layers, stack.norms, strict=False):
        x = norm(nn.gelu(layer(x)))
    return stack.layers[-1](x) + direct


def _plain_carry(
    lattice: EnergyLattice,
    position: mx.array,
    energy: mx.array,
    memory: mx.array,
    hidden: Any,
    layers: int,
) -> tuple[mx.array, mx.array, list[mx.array]]:
    neuron, carrier = lattice.flow.neuron, lattice.flow.carrier
    energy = energy[..., None]
    x = mx.concatenate([neuron.coordinates(position), energy], axis=-1)
    for layer, norm in zip(neuron.layers, neuron.norms, strict=False):
        x = nn.gelu(norm(layer(x)))
    x = mx.concatenate([neuron.layers[-1](x), energy], axis=-1)
    state = []
    for layer in range(layers):
        cell = carrier.cells[layer]
        width = cell.bhn.shape[0]
        h = mx.zeros((*x.shape[:-1], width)) if hidden is None else hidden[layer]
        from_x, from_h = x @ cell.Wx.T + cell.b, h @ cell.Wh.T
        gates = mx.sigmoid(from_x[..., : 2 * width] + from_h[..., : 2 * width])
        r, z = mx.split(gates, 2, axis=-1)
        n = from_h[..., 2 * width :] + cell.bhn
        n = mx.tanh(from_x[..., 2 * width :] + r * n)
        x = (1 - z) * n + z * h
        state.append(x)
    fused = mx.concatenate([x, carrier.memory(memory)], axis=-1)
    fused = carrier.fuse_out(nn.gelu(carrier.fuse_in(fused)))
    change = carrier.energy_out(nn.gelu(carrier.energy_in(fused)))[..., 0]
    out = carrier.move_out(nn.gelu(carrier.move_in(fused)))
    return out, change, state
