"""Updates of the PyTorch twin: gradients, clip, AdamW; in the form that is fastest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.torch_model import CONVOLUTIONS, Twin, TwinBatch, our_layout

# Where weight decay does not apply; biases and norms have one axis.
_UNDECAYED = ("embedding", "norm")
_WEIGHT_DECAY = 0.01
_CLIP_NORM = 1.0


@dataclass(frozen=True)
class Variant:
    """One form of the twin.

    Attributes:
        convolution: One of ``torch_model.CONVOLUTIONS``.
        compiled: ``eager``, or a mode of ``torch.compile``.
        bf16: ``autocast`` or ``copies`` (of float32 weights, made in the graph), or
            ``none``.
    """

    convolution: str = "unfold"
    compiled: str = "eager"
    bf16: str = "none"

    def __post_init__(self) -> None:
        """Check the words.

        Raises:
            ValueError: One is unknown.
        """
        for value, known in (
            (self.convolution, CONVOLUTIONS),
            (self.compiled, ("eager", "default", "reduce-overhead", "max-autotune")),
            (self.bf16, ("none", "autocast", "copies")),
        ):
            if value not in known:
                raise ValueError(
                    f"variants must be of {', '.join(known)}, got {value}."
                )

    @property
    def name(self) -> str:
        """How it is said on the command line."""
        parts = [self.convolution, self.compiled]
        return "+".join(parts if self.bf16 == "none" else [*parts, self.bf16])

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Inverse of ``name``."""
        return cls(*name.split("+"))

    def places(self, targets: int) -> int:
        """What packed targets are filled up to: a compiled graph wants few shapes."""
        return 0 if self.compiled == "eager" else -(-targets // 256) * 256


def worth_trying(device: str, precision: str) -> list[Variant]:
    """Forms that may be the fastest on a device.

    On two CPU cores ``conv1d`` was the slowest convolution in every case, compiled or
    not, by 5 to 35 %; there it is left out.
    """
    if device == "cpu":
        modes, convolutions = ("eager", "default"), ("unfold", "taps")
    else:
        modes, convolutions = ("default", "reduce-overhead"), ("unfold", "conv1d")
    formats = ("none",) if precision == "float32" else ("autocast", "copies")
    return [Variant(c, m, f) for f in formats for m in modes for c in convolutions]


def default_of(device: str, precision: str) -> Variant:
    """Form for whole runs, whose shapes vary."""
    format_ = "none" if precision == "float32" else "copies"
    return Variant("taps", "eager" if device == "cpu" else "default", format_)


class TwinStepper:
    """Runs updates of any objective on one twin.

    Args:
        weights: Of our model, by path.
        variant: Form of the twin.
        device: ``cpu`` or ``cuda``.
        dynamic: Whether compiled graphs take many shapes; none = as they come.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        variant: Variant,
        device: str,
        *,
        dynamic: bool | None,
    ) -> None:
        tensors = {k: torch.tensor(w, device=device) for k, w in weights.items()}
        self.model = Twin(tensors, variant.convolution)
        self.variant, self.device = variant, device
        self.optimizer = torch.optim.AdamW(
            decay_groups(self.model), betas=(0.9, 0.999), eps=1e-8, fused=True
        )
        self._loss = self._forward
        if variant.compiled != "eager":
            mode = None if variant.compiled == "default" else variant.compiled
            self._loss = torch.compile(self._forward, mode=mode, dynamic=dynamic)

    def _forward(self, objective: str, batch: TwinBatch) -> tuple[Tensor, Tensor]:
        if self.variant.bf16 == "autocast":
            with torch.autocast(self.device, torch.bfloat16):
                return self.model(objective, batch)
        if self.variant.bf16 == "copies":
            low = {k: p.bfloat16() for k, p in self.model.named_parameters()}
            return torch.func.functional_call(self.model, low, (objective, batch))
        return self.model(objective, batch)

    def backward(self, objective: str, batch: TwinBatch) -> tuple[Tensor, Tensor]:
        """Loss and metric, gradients left at the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.variant.compiled == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        loss, metric = self._loss(objective, batch)
        loss.backward()
        return loss.detach(), metric.detach()

    def update(
        self, objective: str, batch: TwinBatch, lr: float
    ) -> tuple[Tensor, Tensor]:
        """One update; loss and metric stay on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        found = self.backward(objective, batch)
        torch.nn.utils.clip_grad_norm_(self.stepped(), _CLIP_NORM, foreach=True)
        self.optimizer.step()
        return found

    def stepped(self) -> list[Tensor]:
        """Parameters that the last backward pass reached."""
        return [p for p in self.model.parameters() if p.grad is not None]

    def gradients(self) -> dict[str, np.ndarray]:
        """Gradients by path, in our layout."""
        named = self.model.named_parameters()
        return {
            k: our_layout(self.model, k, p.grad) for k, p in named if p.grad is not None
        }

    def weights(self, paths: Iterable[str]) -> dict[str, np.ndarray]:
        """Weights by path, in our layout."""
        named = dict(self.model.named_parameters())
        return {k: our_layout(self.model, k, named[k]).copy() for k in paths}


def decay_groups(model: Twin) -> list[dict]:
    """Parameters with weight decay, matrices; and without, tables, norms, biases."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for path, parameter in model.named_parameters():
        is_table_or_norm = any(word in path for word in _UNDECAYED)
        groups[parameter.ndim >= 2 and not is_table_or_norm].append(parameter)
    return [
        {"params": parameters, "weight_decay": _WEIGHT_DECAY if decays else 0.0}
        for decays, parameters in groups.items()
    ]
