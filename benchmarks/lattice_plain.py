"""The lattice's forward pass written straight down, as a baseline and a check.

Twice the same mathematics with the same weights: in plain MLX (built-in tanh,
sigmoid and GELU, one layer after the other, nothing compiled) and in PyTorch. No
spawning, no noise; both faces, drift, residual energies, softmax readout, bilinear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import energyflow_mlx  # noqa: F401  # isort: skip  before mlx: it brings the BLAS

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice import EnergyLattice
from energyflow_mlx.lattice.geometry import cell_parity, launch_positions
from energyflow_mlx.ops.lattice_readout import EPSILON, lattice_readout_reference

OVERRIDES = ("spawn.slots=0", "ends.dropout=0.0", "adjoint.way=graph")


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


def torch_way(
    torch: Any, lattice: EnergyLattice, vector: mx.array
) -> tuple[Callable[[bool], Any], dict[str, Any]]:
    """The same pass in PyTorch, on its GPU where it has one.

    Returns:
        A function of "with gradients?" that runs it and returns the vectors, and the
        weights, whose ``.grad`` holds the gradients of the mean square afterwards.
    """
    where = "cuda" if torch.cuda.is_available() else "cpu"

    def tensor(a: mx.array) -> Any:
        return torch.tensor(np.array(a), device=where)

    weights = {
        name: tensor(a).requires_grad_()
        for name, a in tree_flatten(lattice.trainable_parameters())
    }
    config, cube = lattice.config, lattice.config.cube
    start = tensor(launch_positions(cube.width, cube.height, cube.depth))
    parity = tensor(cell_parity(cube.width, cube.height))
    inputs = tensor(vector)

    def call(with_gradient: bool) -> Any:
        with torch.set_grad_enabled(with_gradient):
            y = _torch_forward(torch, config, weights, inputs, start, parity)
            if with_gradient:
                for weight in weights.values():
                    weight.grad = None
                (y**2).mean().backward()
        if where == "cuda":
            torch.cuda.synchronize()
        return y

    return call, weights


def _torch_cell(torch: Any, w: dict[str, Any], cell: str, x: Any, h: Any) -> Any:
    """One step of a GRU layer; None is a state of zeros."""
    linear = torch.nn.functional.linear
    gx = linear(x, w[f"{cell}.Wx"], w[f"{cell}.b"])
    if h is None:
        h = torch.zeros(*x.shape[:-1], len(w[f"{cell}.bhn"])).to(x)
    gh = linear(h, w[f"{cell}.Wh"])
    (xr, xz, xn), (hr, hz, hn) = gx.chunk(3, -1), gh.chunk(3, -1)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    n = torch.tanh(xn + r * (hn + w[f"{cell}.bhn"]))
    return (1 - z) * n + z * h


def _torch_move(
    torch: Any, config: LatticeConfig, index: int, position: Any, face: Any, out: Any
) -> tuple[Any, Any, Any]:
    """New positions, whether a face is reached, and the face headed for."""
    learned, steps = config.motion.bound * torch.tanh(out), config.total_steps
    along = learned[..., 2]
    if index == 0:
        clear = along.abs() > config.motion.face_tie * config.motion.bound
        face = torch.where(clear, along.detach().sign(), face)
    left = (face - position[..., 2].detach()).abs()
    drift = torch.clamp(left / (steps - index), min=1 / steps)
    towards = face * along
    dz = face * (drift + torch.where(towards >= 0, towards, 0.0 * towards))
    raw = position + torch.cat([learned[..., :2], dz[..., None]], -1)
    side = raw[..., :2]
    side = torch.where(side > 1, 2 - side, side)
    side = torch.where(side < -1, -2 - side, side).clamp(-1, 1)
    z = raw[..., 2:].clamp(-1, 1)
    reached = z.abs() >= 1 - 1e-5
    return torch.cat([side, torch.where(reached, z.sign(), z)], -1), reached, face


def _torch_forward(
    torch: Any,
    config: LatticeConfig,
    w: dict[str, Any],
    vector: Any,
    start: Any,
    parity: Any,
) -> Any:
    F = torch.nn.functional

    def linear(name: str, x: Any) -> Any:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name: str, x: Any) -> Any:
        scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], scale, shift)

    def stack(name: str, x: Any) -> Any:
        for i in range(2):
            x = norm(f"{name}.norms.{i}", F.gelu(linear(f"{name}.layers.{i}", x)))
        return linear(f"{name}.layers.2", x)

    batch, steps = len(vector), config.total_steps
    direct = vector @ w["mapper.direct"].T
    energy = torch.tanh(stack("mapper.stack", vector) + direct)
    energy = energy * w["mapper.scale"] + w["mapper.offset"]
    energy = energy + w["mapper.table"].reshape(1, -1)
    position = start.expand(batch, -1, -1)
    face = parity.expand(batch, -1)
    memory = torch.cat([position, position.new_zeros(*energy.shape, 12)], -1)
    alive = torch.ones_like(energy, dtype=torch.bool)
    age, hidden = torch.zeros_like(energy), [None] * config.carrier.layers
    for index in range(steps):
        column = energy[..., None]
        x = torch.cat([linear("flow.neuron.coordinates", position), column], -1)
        for i in range(2):
            x = linear(f"flow.neuron.layers.{i}", x)
            x = F.gelu(norm(f"flow.neuron.norms.{i}", x))
        x = torch.cat([linear("flow.neuron.layers.2", x), column], -1)
        for i in range(config.carrier.layers):
            x = hidden[i] = _torch_cell(
                torch, w, f"flow.carrier.cells.{i}", x, hidden[i]
            )
        fused = torch.cat([x, linear("flow.carrier.memory", memory)], -1)
        fused = F.gelu(linear("flow.carrier.fuse_in", fused))
        fused = linear("flow.carrier.fuse_out", fused)
        change = F.gelu(linear("flow.carrier.energy_in", fused))
        change = linear("flow.carrier.energy_out", change)[..., 0]
        out = F.gelu(linear("flow.carrier.move_in", fused))
        out = linear("flow.carrier.move_out", out)
        moved, reached, face = _torch_move(torch, config, index, position, face, out)
        energy = torch.where(alive, energy + torch.tanh(change) / steps, energy)
        position = torch.where(alive[..., None], moved, position)
        age = age + alive
        alive = alive & ~reached[..., 0]
        memory = torch.cat([position, memory[..., :12]], -1)
    surface = _torch_readout(torch, config, position, energy, age)
    cells = surface * w["collector.cell_weight"].reshape(1, -1)
    return stack("collector.stack", cells) + cells @ w["collector.direct"].T


def _torch_readout(
    torch: Any, config: LatticeConfig, position: Any, energy: Any, age: Any
) -> Any:
    batch, width, cells = len(energy), config.cube.width, config.surface_size
    gx = (position[..., 0] + 1) * 0.5 * (width - 1)
    gy = (position[..., 1] + 1) * 0.5 * (config.cube.height - 1)
    x0 = gx.detach().floor().clamp(0, width - 2)
    y0 = gy.detach().floor().clamp(0, config.cube.height - 2)
    fx, fy = gx - x0, gy - y0
    base = (y0 * width + x0).long()
    base = base + cells * torch.arange(batch, device=base.device)[:, None]
    cell = torch.stack([base, base + 1, base + width, base + width + 1])
    splat = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy])
    score = (energy.abs() * (1 + 0.1 * age)).expand_as(splat)
    low = torch.full_like(splat, -torch.inf)
    touched = torch.where(splat > 0, score.detach(), low).reshape(-1)
    top = energy.new_full((batch * cells,), -torch.inf)
    top = top.scatter_reduce(0, cell.reshape(-1), touched, "amax")
    top = torch.where(top > -torch.inf, top, torch.zeros_like(top))
    p = torch.exp((score - top[cell]).clamp(max=0)) * (splat > 0)

    def total(value: Any) -> Any:
        empty = energy.new_zeros(batch * cells)
        return empty.index_add(0, cell.reshape(-1), value.reshape(-1))

    mass = total(splat)
    full = torch.ones_like(mass)
    cover = torch.where(mass < 1, mass * (2 - mass) + 2 * EPSILON, full)
    surface = cover * total(splat * p * energy) / (total(splat * p) + EPSILON)
    return surface.reshape(batch, cells)
