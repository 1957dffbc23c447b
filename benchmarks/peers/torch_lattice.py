"""The lattice in PyTorch: one function a step, which may be compiled.

No spawning, no noise; both faces, drift, residual energies, softmax readout, bilinear.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_EPSILON = 1e-12  # of the readout: ``ops.lattice_readout.EPSILON``

_WAYS = ("eager", "cell", "step", "whole")


def worth_trying(device: str, precision: str) -> list[str]:
    """Forms that may be the fastest on a device.

    ``eager``; ``cell``: with the library's own GRU cell; ``step``: each step compiled;
    ``whole``: the unrolled loop compiled. bfloat16 is autocast.
    """
    names = [*_WAYS] if device == "cpu" else ["cell", "step"]
    return names if precision == "float32" else [f"{n}+autocast" for n in names]


class Flows(NamedTuple):
    """State of all flows; shapes as in ``energyflow_mlx.lattice.state``."""

    position: Tensor
    energy: Tensor
    hidden: tuple[Tensor, ...]
    memory: Tensor
    face: Tensor
    alive: Tensor
    age: Tensor


class LatticeCase:
    """One pass through the twin of a lattice.

    Args:
        folder: What our side wrote.
        facts: What our side told of the case.
        variant: One of ``worth_trying``.
        device: ``cpu`` or ``cuda``.
        trains: Forward and backward; else forward.
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any],
        variant: str,
        device: str,
        *,
        trains: bool,
    ) -> None:
        def tensors(name: str) -> dict[str, Tensor]:
            arrays = np.load(folder / name)
            return {k: torch.tensor(a, device=device) for k, a in arrays.items()}

        self.w = {k: w.requires_grad_() for k, w in tensors("weights.npz").items()}
        self.inputs, self.facts = tensors("inputs.npz"), facts
        # Tensors, not numbers: else every step would be compiled by itself.
        steps = facts["steps"]
        self._paces = [
            torch.tensor(1.0 / (steps - index), device=device) for index in range(steps)
        ]
        way, _, low = variant.partition("+")
        if way not in _WAYS or low not in ("", "autocast"):
            raise ValueError(f"variants must be of {', '.join(_WAYS)}, got {variant}.")
        self._device, self._trains, self._low = device, trains, low == "autocast"
        self._cell = torch.gru_cell if way == "cell" else gru_cell
        self._step, self._whole = self._advance, self._forward
        if way == "step":
            self._step = torch.compile(self._advance)
        if way == "whole":
            self._whole = torch.compile(self._forward)

    def call(self) -> Tensor:
        """One pass; gradients of the mean square are left at the weights."""
        with torch.set_grad_enabled(self._trains):
            with torch.autocast(self._device, torch.bfloat16, enabled=self._low):
                y = self._whole().float()
            if self._trains:
                for weight in self.w.values():
                    weight.grad = None
                (y**2).mean().backward()
        return y.detach()

    def agree(self) -> tuple[float, dict[str, np.ndarray]]:
        """Loss; vectors, and with training the gradients."""
        y = self.call()
        arrays = {"gradient output": y.cpu().numpy()}
        if self._trains:
            for path, weight in self.w.items():
                arrays[f"gradient {path}"] = weight.grad.cpu().numpy()
        return (y**2).mean().item(), arrays

    # -- layers ----------------------------------------------------------------------

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        scale, shift = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], scale, shift)

    def _stack(self, name: str, x: Tensor) -> Tensor:
        for i in range(2):
            x = F.gelu(self._linear(f"{name}.layers.{i}", x))
            x = self._norm(f"{name}.norms.{i}", x)
        return self._linear(f"{name}.layers.2", x)

    # -- the pass --------------------------------------------------------------------

    def _forward(self) -> Tensor:
        flows = self._launch()
        for index, pace in enumerate(self._paces):
            flows = self._step(flows, pace, first=index == 0)
        surface = self._readout(flows.position, flows.energy, flows.age)
        cells = surface * self.w["collector.cell_weight"].reshape(1, -1)
        return self._stack("collector.stack", cells) + F.linear(
            cells, self.w["collector.direct"]
        )

    def _launch(self) -> Flows:
        w, vector = self.w, self.inputs["vector"]
        direct = F.linear(vector, w["mapper.direct"])
        energy = torch.tanh(self._stack("mapper.stack", vector) + direct).float()
        energy = energy * w["mapper.scale"] + w["mapper.offset"]
        energy = energy + w["mapper.table"].reshape(1, -1)
        position = self.inputs["start"].expand(len(vector), -1, -1)
        width = w["flow.carrier.cells.0.bhn"].shape[0]
        zeros = energy.new_zeros(energy.numel(), width)
        return Flows(
            position=position,
            energy=energy,
            hidden=(zeros,) * self.facts["layers"],
            memory=torch.cat([position, position.new_zeros(*energy.shape, 12)], -1),
            face=self.inputs["parity"].expand_as(energy),
            alive=torch.ones_like(energy, dtype=torch.bool),
            age=torch.zeros_like(energy),
        )

    def _advance(self, flows: Flows, pace: Tensor, *, first: bool) -> Flows:
        out, change, hidden = self._carry(flows, first=first)
        moved, reached, face = self._move(flows, pace, out.float(), first=first)
        alive = flows.alive
        change = torch.tanh(change.float()) / self.facts["steps"]
        energy = torch.where(alive, flows.energy + change, flows.energy)
        position = torch.where(alive[..., None], moved, flows.position)
        memory = torch.cat([position, flows.memory[..., :12]], -1)
        age, alive = flows.age + alive, alive & ~reached
        return Flows(position, energy, hidden, memory, face, alive, age)

    def _carry(
        self, flows: Flows, *, first: bool
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        shape = flows.energy.shape
        column = flows.energy.reshape(-1, 1)
        place = flows.position.reshape(-1, 3)
        x = torch.cat([self._linear("flow.neuron.coordinates", place), column], -1)
        for i in range(2):
            x = self._linear(f"flow.neuron.layers.{i}", x)
            x = F.gelu(self._norm(f"flow.neuron.norms.{i}", x))
        x = torch.cat([self._linear("flow.neuron.layers.2", x), column], -1)
        hidden = []
        for i, h in enumerate(flows.hidden):
            cell = f"flow.carrier.cells.{i}"
            b, bhn = self.w[f"{cell}.b"], self.w[f"{cell}.bhn"]
            recurrent = F.pad(bhn, (2 * len(bhn), 0))
            weights = self.w[f"{cell}.Wx"], self.w[f"{cell}.Wh"]
            before = None if first and self._cell is gru_cell else h
            x = self._cell(x, before, *weights, b, recurrent)
            hidden.append(x)
        memory = self._linear("flow.carrier.memory", flows.memory.reshape(-1, 15))
        fused = torch.cat([x, memory], -1)
        fused = F.gelu(self._linear("flow.carrier.fuse_in", fused))
        fused = self._linear("flow.carrier.fuse_out", fused)
        change = F.gelu(self._linear("flow.carrier.energy_in", fused))
        change = self._linear("flow.carrier.energy_out", change)
        out = F.gelu(self._linear("flow.carrier.move_in", fused))
        out = self._linear("flow.carrier.move_out", out)
        return out.reshape(*shape, 3), change.reshape(shape), tuple(hidden)

    def _move(
        self, flows: Flows, pace: Tensor, out: Tensor, *, first: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New positions, whether a face is reached, and the face headed for."""
        bound, position, face = self.facts["bound"], flows.position, flows.face
        learned = bound * torch.tanh(out)
        along = learned[..., 2]
        if first:
            clear = along.abs() > self.facts["face_tie"] * bound
            face = torch.where(clear, along.detach().sign(), face)
        left = (face - position[..., 2].detach()).abs()
        drift = torch.clamp(left * pace, min=1 / self.facts["steps"])
        dz = face * (drift + F.relu(face * along))
        raw = position + torch.cat([learned[..., :2], dz[..., None]], -1)
        side = raw[..., :2]
        side = torch.where(side > 1, 2 - side, side)
        side = torch.where(side < -1, -2 - side, side).clamp(-1, 1)
        z = raw[..., 2:].clamp(-1, 1)
        reached = z.abs() >= 1 - 1e-5
        moved = torch.cat([side, torch.where(reached, z.sign(), z)], -1)
        return moved, reached[..., 0], face

    def _readout(self, position: Tensor, energy: Tensor, age: Tensor) -> Tensor:
        width, height = self.facts["width"], self.facts["height"]
        batch, cells = len(energy), width * height
        gx = (position[..., 0] + 1) * 0.5 * (width - 1)
        gy = (position[..., 1] + 1) * 0.5 * (height - 1)
        x0 = gx.detach().floor().clamp(0, width - 2)
        y0 = gy.detach().floor().clamp(0, height - 2)
        fx, fy = gx - x0, gy - y0
        base = (y0 * width + x0).long()
        base = base + cells * torch.arange(batch, device=base.device)[:, None]
        cell = torch.stack([base, base + 1, base + width, base + width + 1])
        splat = torch.stack(
            [(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy]
        )
        score = (energy.abs() * (1 + 0.1 * age)).expand_as(splat)
        touched = score.detach().masked_fill(splat <= 0, -torch.inf).reshape(-1)
        top = energy.new_full((batch * cells,), -torch.inf)
        top = top.scatter_reduce(0, cell.reshape(-1), touched, "amax")
        top = torch.where(top > -torch.inf, top, torch.zeros_like(top))
        p = torch.exp((score - top[cell]).clamp(max=0)) * (splat > 0)

        def total(value: Tensor) -> Tensor:
            empty = energy.new_zeros(batch * cells)
            return empty.index_add(0, cell.reshape(-1), value.reshape(-1))

        mass = total(splat)
        full = torch.ones_like(mass)
        cover = torch.where(mass < 1, mass * (2 - mass) + 2 * _EPSILON, full)
        found = total(splat * p * energy) / (total(splat * p) + _EPSILON)
        return (cover * found).reshape(batch, cells)


def gru_cell(
    x: Tensor, h: Tensor | None, wx: Tensor, wh: Tensor, b: Tensor, bh: Tensor
) -> Tensor:
    """One step of a GRU layer, as ``torch.gru_cell``; no ``h`` is zeros, for free."""
    (xr, xz, xn) = F.linear(x, wx, b).chunk(3, -1)
    (hr, hz, hn) = (bh if h is None else F.linear(h, wh, bh)).chunk(3, -1)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    n = torch.tanh(xn + r * hn)
    return n - z * n if h is None else n + z * (h - n)
