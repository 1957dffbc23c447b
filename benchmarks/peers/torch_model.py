"""The default encoder and decoder in PyTorch, written as its authors would.

Attribute names are those of our model, so that a parameter has one path on both sides;
the dilated convolution alone may keep its weight in another layout, see ``TapConv``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS = ("unfold", "conv1d", "taps")


class TwinBatch(NamedTuple):
    """One batch on the device.

    Attributes:
        ids: ``[B, L]`` int64.
        mask: ``[B, L, 1]`` in the compute format.
        target: The teacher's vectors, ``[B, E]``.
        places: Positions of the real targets among ``B * (L - 1)``, ``[N]`` int64:
            only they reach the vocabulary product.
        labels: What is to be said there: a token, or its row among the candidates,
            ``[N]`` int64; -100 where a place only fills.
        count: Real targets, scalar.
        tokens: Candidates, ``[U]`` int64, or none.
        log_p: Log probability of being one, ``[U]``, or none.
    """

    ids: Tensor
    mask: Tensor
    target: Tensor
    places: Tensor
    labels: Tensor
    count: Tensor
    tokens: Tensor | None
    log_p: Tensor | None


class TapConv(nn.Module):
    """Causal convolution with taps ``dilation`` apart, channels last.

    Three ways of the same sum: ``unfold`` lays the taps side by side for one product,
    ``conv1d`` is the library's own with channels first, ``taps`` adds one product a
    tap.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dilation: int, way: str) -> None:
        """Take the weight ``[H, K, D]`` over, in the way's own layout."""
        super().__init__()
        self.way, self.dilation, self.taps = way, dilation, weight.shape[1]
        self.weight = nn.Parameter(self.own_layout(weight))
        self.bias = nn.Parameter(bias)

    def own_layout(self, weight: Tensor) -> Tensor:
        """``[H, K, D]`` as this way keeps it."""
        if self.way == "conv1d":
            return weight.permute(0, 2, 1).contiguous()
        if self.way == "taps":
            return weight.permute(1, 0, 2).contiguous()
        return weight.flatten(1)

    def plain_layout(self, array: Tensor) -> Tensor:
        """Inverse of ``own_layout``, for weights and their gradients."""
        if self.way == "conv1d":
            return array.permute(0, 2, 1)
        if self.way == "taps":
            return array.permute(1, 0, 2)
        return array.unflatten(1, (self.taps, -1))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, L, D]`` to ``[B, L, H]``."""
        past, length = (self.taps - 1) * self.dilation, x.shape[1]
        if self.way == "conv1d":
            x = F.pad(x.transpose(1, 2), (past, 0))
            y = F.conv1d(x, self.weight, self.bias, dilation=self.dilation)
            return y.transpose(1, 2)
        x = F.pad(x, (0, 0, past, 0))
        starts = range(0, past + 1, self.dilation)
        seen = [x[:, start : start + length] for start in starts]
        if self.way == "unfold":
            return F.linear(torch.cat(seen, -1), self.weight, self.bias)
        y = F.linear(seen[0], self.weight[0], self.bias)
        for tap, part in enumerate(seen[1:], start=1):
            y = y + F.linear(part, self.weight[tap])
        return y


class Block(nn.Module):
    """``mask * (x + conv2(gelu(conv1(film(LN(x))))))``."""

    def __init__(self, w: Mapping[str, Tensor], dilation: int, way: str) -> None:
        super().__init__()
        self.norm = layer_norm(w, "norm")
        self.conv1 = TapConv(w["conv1.weight"], w["conv1.bias"], dilation, way)
        self.conv2 = linear(w, "conv2")

    def forward(
        self, x: Tensor, mask: Tensor, film: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """``[B, L, D]`` to ``[B, L, D]``."""
        u = self.norm(x)
        if film is not None:
            u = u * (1 + film[0]) + film[1]
        return (x + self.conv2(F.gelu(self.conv1(u)))) * mask


class Encoder(nn.Module):
    """Embedding, blocks, mean of the real tokens, linear head."""

    def __init__(self, w: Mapping[str, Tensor], way: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(
            w["embedding.weight"], freeze=False
        )
        self.blocks = nn.ModuleList([Block(under(w, "blocks.0"), 1, way)])
        self.head = linear(w, "head")

    def forward(self, ids: Tensor, mask: Tensor, shared: nn.ModuleList) -> Tensor:
        """Vectors ``[B, E]``."""
        x = self.embedding(ids) * mask
        for block in [*self.blocks, *shared]:
            x = block(x, mask)
        return self.head((x * mask).sum(1) / mask.sum(1).clamp(min=1))


class Projection(nn.Module):
    """Linear map of a vector, brought to elements near 1 where it is added."""

    def __init__(self, w: Mapping[str, Tensor], *, scaled: bool) -> None:
        super().__init__()
        self.projection = linear(w, "projection")
        self.scaled = scaled

    def forward(self, z: Tensor) -> Tensor:
        """``[B, E]`` to ``[B, 1, width]``."""
        z = z * math.sqrt(z.shape[-1]) if self.scaled else z
        return self.projection(z)[:, None]


class Decoder(nn.Module):
    """Conditioned causal blocks over tokens; FiLM, coverage, output condition."""

    def __init__(self, w: Mapping[str, Tensor], way: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(
            w["embedding.weight"], freeze=False
        )
        self.condition = Projection(under(w, "condition"), scaled=True)
        self.coverage = linear(w, "coverage")
        self.output_condition = Projection(under(w, "output_condition"), scaled=True)
        self.blocks = nn.ModuleList([Block(under(w, "blocks.0"), 1, way)])
        self.films = nn.ModuleList(
            [Projection(under(w, f"films.{i}"), scaled=False) for i in range(2)]
        )
        self.norm = layer_norm(w, "norm")
        self.output = linear(w, "output")

    def forward(
        self, ids: Tensor, mask: Tensor, z: Tensor, shared: nn.ModuleList
    ) -> Tensor:
        """Features ``[B, L, D]``."""
        tokens = self.embedding(ids)
        count = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        said = (tokens.float() * mask).cumsum(1) * count.float().rsqrt()[:, None]
        covered = self.coverage(said.to(tokens.dtype))
        x = (tokens + self.condition(z) + covered) * mask
        for block, film in zip([*self.blocks, *shared], self.films, strict=True):
            x = block(x, mask, film(z).chunk(2, -1))
        return self.norm(x + self.output_condition(z))


class Twin(nn.Module):
    """Encoder and decoder with the block they share."""

    def __init__(self, weights: Mapping[str, Tensor], way: str) -> None:
        """Create it from the weights of our model, by path."""
        super().__init__()
        self.encoder = Encoder(under(weights, "encoder"), way)
        self.decoder = Decoder(under(weights, "decoder"), way)
        self.shared = nn.ModuleList([Block(under(weights, "shared.0"), 2, way)])
        self.latent_noise = 0.0

    def forward(self, objective: str, batch: TwinBatch) -> tuple[Tensor, Tensor]:
        """Mean loss of an objective, and its first metric."""
        if objective == "distillation":
            return self.distillation(batch)
        return self.reconstruction(batch)

    def distillation(self, batch: TwinBatch) -> tuple[Tensor, Tensor]:
        """``1 - cos + 100 mse`` and the cosine, means over the sentences."""
        mask = batch.mask.to(self.encoder.head.weight.dtype)
        y = self.encoder(batch.ids, mask, self.shared).float()
        cosine = F.cosine_similarity(y, batch.target, eps=1e-6).mean()
        return 1 - cosine + 100 * F.mse_loss(y, batch.target), cosine

    def reconstruction(self, batch: TwinBatch) -> tuple[Tensor, Tensor]:
        """Cross entropy, mean over the real targets."""
        dtype = self.decoder.output.weight.dtype
        mask, z = batch.mask[:, :-1].to(dtype), batch.target
        if self.latent_noise > 0:
            noise = torch.randn_like(z) * (self.latent_noise / z.shape[-1] ** 0.5)
            z = z + noise
        z = z.to(dtype)
        h = self.decoder(batch.ids[:, :-1], mask, z, self.shared)
        h = h.flatten(0, 1)[batch.places]  # [N, D]
        output = self.decoder.output
        if batch.tokens is None:
            logits = output(h).float()
        else:
            weight, bias = output.weight[batch.tokens], output.bias[batch.tokens]
            logits = F.linear(h, weight, bias).float() - batch.log_p
        total = F.cross_entropy(logits, batch.labels, reduction="sum")
        loss = total / batch.count
        return loss, loss.detach()


def under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Weights below a path, by the rest of their paths."""
    start = f"{prefix}."
    found = {k: w for k, w in weights.items() if k.startswith(start)}
    return {k.removeprefix(start): w for k, w in found.items()}


def linear(weights: Mapping[str, Tensor], name: str) -> nn.Linear:
    """Linear layer with these weights."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def layer_norm(weights: Mapping[str, Tensor], name: str) -> nn.LayerNorm:
    """Layer norm with these weights."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    layer = nn.LayerNorm(len(weight), eps=1e-5, device=weight.device)
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def our_layout(model: Twin, path: str, array: Tensor) -> np.ndarray:
    """A weight or its gradient as our model keeps it."""
    owner = model.get_submodule(path.rpartition(".")[0])
    if isinstance(owner, TapConv) and path.endswith("weight"):
        array = owner.plain_layout(array)
    return array.detach().float().cpu().numpy()


def targets(arrays: Mapping[str, np.ndarray]) -> int:
    """Real targets of a batch."""
    return int(np.count_nonzero(arrays["mask"][:, 1:]))


def packed(arrays: Mapping[str, np.ndarray], places: int, device: str) -> TwinBatch:
    """A batch on the device, from arrays as ``mlx_side.batch_arrays`` gives them.

    Args:
        arrays: Of one batch.
        places: What the number of targets is filled up to, so that a compiled graph
            meets few shapes; 0 = not at all.
        device: Where it goes.
    """
    ids, mask = arrays["ids"].astype(np.int64), arrays["mask"]
    real = np.flatnonzero(mask[:, 1:])
    labels = ids[:, 1:].reshape(-1)[real]
    log_p = arrays.get("log_p")
    if log_p is not None:
        labels = arrays["place"].astype(np.int64)[labels]
    fill = max(0, places - len(real))
    tokens = None if log_p is None else arrays["tokens"].astype(np.int64)
    found = TwinBatch(
        ids=torch.from_numpy(ids),
        mask=torch.from_numpy(mask)[..., None],
        target=torch.from_numpy(arrays["target"]),
        places=torch.from_numpy(np.pad(real, (0, fill))),
        labels=torch.from_numpy(np.pad(labels, (0, fill), constant_values=-100)),
        count=torch.tensor(float(len(real))),
        tokens=None if tokens is None else torch.from_numpy(tokens),
        log_p=None if log_p is None else torch.from_numpy(log_p),
    )
    if device == "cpu":
        return found
    return TwinBatch(
        *(
            t if t is None else t.pin_memory().to(device, non_blocking=True)
            for t in found
        )
    )
