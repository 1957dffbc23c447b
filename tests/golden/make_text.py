"""Write the PyTorch reference values of the text models' tests.

Run with a Python that has torch and safetensors, from the checkout:

    python tests/golden/make_text.py

It writes ``text.safetensors`` and ``adamw.safetensors`` beside itself. The torch
version and the seed are in the files' metadata.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from layout import seeded_uniform  # noqa: E402

SEED = 20240


class Record:
    """Named arrays under one prefix."""

    def __init__(self, prefix):
        self.prefix = prefix
        self.arrays = {}

    def add(self, name, value):
        array = value.detach().numpy() if torch.is_tensor(value) else value
        self.arrays[f"{self.prefix}/{name}"] = np.ascontiguousarray(array)

    def module(self, module):
        for name, value in module.named_parameters():
            self.add(f"weights/{name}", value)

    def gradients(self, module):
        for name, value in module.named_parameters():
            self.add(f"gradients/{name}", value.grad)


def perturb(module):
    """Give norms and biases values that a mistake in their order would show."""
    with torch.no_grad():
        for value in module.parameters():
            if value.ndim == 1:
                value.add_(0.3 * torch.randn_like(value))


def linear_stack():
    """Linear, GELU, LayerNorm, Linear under a mean squared error."""
    record = Record("mlp")
    model = nn.Sequential(
        nn.Linear(24, 48), nn.GELU(), nn.LayerNorm(48), nn.Linear(48, 16)
    )
    perturb(model)
    x = torch.randn(33, 24, requires_grad=True)
    target = torch.randn(33, 16)
    y = model(x)
    loss = nn.functional.mse_loss(y, target)
    loss.backward()
    record.module(model)
    for name, value in dict(x=x, target=target, y=y, loss=loss, dx=x.grad).items():
        record.add(name, value)
    record.gradients(model)
    return record.arrays


def wide_stages():
    """Matrix product with bias, GELU and LayerNorm on [B, 256], stage by stage."""
    record = Record("wide")
    weight = torch.tensor(seeded_uniform("wide/weight", (256, 256), 1 / 16))
    bias = torch.tensor(seeded_uniform("wide/bias", (256,), 0.5))
    gamma = 1 + torch.tensor(seeded_uniform("wide/gamma", (256,), 0.3))
    beta = torch.tensor(seeded_uniform("wide/beta", (256,), 0.3))
    x = torch.randn(8, 256)
    product = nn.functional.linear(x, weight, bias)
    activated = nn.functional.gelu(product)
    stages = {
        "x": x,
        "product": product,
        "gelu": activated,
        "gelu_tanh": nn.functional.gelu(product, approximate="tanh"),
        "norm": nn.functional.layer_norm(activated, (256,), gamma, beta),
    }
    for name, value in stages.items():
        record.add(name, value)
    return record.arrays


class Block(nn.Module):
    """Pre-norm residual block with a causal dilated convolution."""

    def __init__(self, dim, hidden, kernel_size, dilation):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.conv1 = nn.Conv1d(dim, hidden, kernel_size, dilation=dilation)
        self.conv2 = nn.Conv1d(hidden, dim, 1)
        self.left = (kernel_size - 1) * dilation

    def forward(self, x, mask):
        u = nn.functional.pad(self.norm(x).transpose(1, 2), (self.left, 0))
        h = self.conv2(nn.functional.gelu(self.conv1(u))).transpose(1, 2)
        return (x + h) * mask[..., None]


def ragged_mask(lengths, longest):
    return (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).float()


def tcn(prefix, kernel_size, dilation):
    """One block, its gradients under a random cotangent."""
    record = Record(prefix)
    block = Block(12, 20, kernel_size, dilation)
    perturb(block)
    x = torch.randn(3, 11, 12, requires_grad=True)
    mask = ragged_mask([11, 6, 1], 11)
    cotangent = torch.randn(3, 11, 12)
    y = block(x, mask)
    (y * cotangent).sum().backward()
    record.module(block)
    values = dict(x=x, mask=mask, cotangent=cotangent, y=y, dx=x.grad)
    for name, value in values.items():
        record.add(name, value)
    record.gradients(block)
    return record.arrays


def sinusoid(length, dim):
    position = torch.arange(length, dtype=torch.float64)[:, None]
    step = torch.arange(0, dim, 2, dtype=torch.float64)
    angle = position * torch.exp(step * (-math.log(10000.0) / dim))
    table = torch.zeros(length, dim, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = torch.sin(angle), torch.cos(angle)
    return table.float()


class Encoder(nn.Module):
    """Post-norm Transformer encoder with masked mean and two-layer head."""

    def __init__(self, vocab, dim, layers, heads, hidden, output):
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim)
        self.positions = nn.Parameter(sinusoid(512, dim))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, heads, hidden, 0.1, activation="gelu", batch_first=True
            )
            for _ in range(layers)
        )
        self.head = nn.Sequential(
            nn.Linear(dim, dim),
            nn.GELU(),
            nn.LayerNorm(dim),
            nn.Dropout(0.1),
            nn.Linear(dim, output),
        )

    def forward(self, ids, mask):
        x = self.embedding(ids) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=mask == 0)
        m = mask[..., None]
        return torch.tanh(self.head((x * m).sum(1) / m.sum(1).clamp(min=1e-9)))


def transformer():
    """A small Transformer encoder with all its gradients."""
    record = Record("transformer")
    model = Encoder(50, 32, 2, 4, 48, 24).eval()
    perturb(model)
    ids = torch.randint(0, 50, (3, 13))
    mask = ragged_mask([13, 7, 2], 13)
    cotangent = torch.randn(3, 24)
    # The fused inference path has no gradient; asking for one avoids it.
    y = model(ids, mask)
    (y * cotangent).sum().backward()
    # Rows of the position table past the sentence are as they started.
    for name, value in model.named_parameters():
        keep = value[:13] if name == "positions" else value
        grad = value.grad[:13] if name == "positions" else value.grad
        record.add(f"weights/{name}", keep)
        record.add(f"gradients/{name}", grad)
    for name, value in dict(mask=mask, cotangent=cotangent, y=y).items():
        record.add(name, value)
    record.add("ids", ids.int())
    record.add("sinusoid_rows", sinusoid(512, 256)[[0, 1, 2, 17, 255, 511]])
    return record.arrays


def full_size():
    """The reference sizes, vocabulary 30,522 and width 256, from generated weights."""
    record = Record("full_size")
    model = Encoder(30522, 256, 2, 8, 512, 384).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name == "positions":
                continue
            bound = 0.04 if value.ndim == 2 else 0.1
            fresh = torch.tensor(seeded_uniform(name, tuple(value.shape), bound))
            is_norm = value.ndim == 1 and name.endswith("weight")
            value.copy_(1 + fresh if is_norm else fresh)
    ids = torch.randint(0, 30522, (4, 32))
    mask = ragged_mask([32, 20, 9, 1], 32)
    y = model(ids, mask)
    record.add("ids", ids.int())
    record.add("mask", mask)
    record.add("y", y)
    return record.arrays


def cross_entropy():
    """Cross entropy with and without label smoothing, with gradients."""
    record = Record("cross_entropy")
    logits = (4 * torch.randn(9, 37)).requires_grad_()
    targets = torch.randint(0, 37, (9,))
    weights = torch.rand(9)
    record.add("logits", logits)
    record.add("targets", targets.int())
    record.add("weights", weights)
    for name, smoothing in (("plain", 0.0), ("smoothed", 0.1)):
        loss = nn.functional.cross_entropy(
            logits, targets, reduction="none", label_smoothing=smoothing
        )
        (gradient,) = torch.autograd.grad((loss * weights).sum(), logits)
        record.add(f"{name}/loss", loss)
        record.add(f"{name}/gradient", gradient)
    return record.arrays


def adamw():
    """Twenty AdamW steps on a matrix with decay and a bias without."""
    settings = dict(lr=3e-3, betas=(0.9, 0.999), eps=1e-8)
    start = {"weight": torch.randn(7, 5), "bias": torch.randn(5)}
    decay = {"weight": 0.05, "bias": 0.0}
    parameters = {name: nn.Parameter(value.clone()) for name, value in start.items()}
    groups = [
        {"params": [value], "weight_decay": decay[name]}
        for name, value in parameters.items()
    ]
    optimizer = torch.optim.AdamW(groups, **settings)
    arrays = {f"{name}/start": value.numpy() for name, value in start.items()}
    history = {name: ([], []) for name in start}
    for _ in range(20):
        for name, value in parameters.items():
            value.grad = torch.randn_like(value) * 10 ** torch.randn(())
            history[name][0].append(value.grad.clone().numpy())
        optimizer.step()
        for name, value in parameters.items():
            history[name][1].append(value.detach().clone().numpy())
    for name, (gradients, results) in history.items():
        arrays[f"{name}/gradients"] = np.stack(gradients)
        arrays[f"{name}/results"] = np.stack(results)
    metadata = {name: str(value) for name, value in settings.items()}
    metadata["betas"] = "0.9 0.999"
    metadata |= {f"decay/{name}": str(value) for name, value in decay.items()}
    return arrays, metadata


def main():
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    origin = {"torch": torch.__version__, "seed": str(SEED), "script": "make_text.py"}
    text = (
        linear_stack()
        | wide_stages()
        | tcn("tcn_k3_d2", 3, 2)
        | tcn("tcn_k5_d1", 5, 1)
        | transformer()
        | full_size()
        | cross_entropy()
    )
    save_file(text, HERE / "text.safetensors", metadata=origin)
    arrays, settings = adamw()
    save_file(arrays, HERE / "adamw.safetensors", metadata=origin | settings)


if __name__ == "__main__":
    main()
