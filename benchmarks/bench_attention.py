"""Does attention run in the form that is faster on this device?

    python benchmarks/bench_attention.py [--rounds N] [--output FILE]

Claim it would refute: on a GPU ``mx.fast.scaled_dot_product_attention``, and on the CPU
what ``nn/transformer.py`` and ``teacher/attention.py`` write out, is the faster form of
the student's and of the teacher's attention.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "ops"))
import timing  # isort: skip  before mlx

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from energyflow_mlx.nn import transformer
from energyflow_mlx.nn.attention import has_fused_attention
from energyflow_mlx.teacher import attention, bert
from energyflow_mlx.teacher.layouts import BertConfig

NAMES = {True: "mx.fast attention", False: "written out"}


@contextmanager
def form(*, fused: bool) -> Iterator[None]:
    """Make both layers take one of the two forms."""
    for module in (transformer, attention):
        module.has_fused_attention = lambda: fused
    try:
        yield
    finally:
        for module in (transformer, attention):
            module.has_fused_attention = has_fused_attention


def student(x: mx.array, mask: mx.array) -> tuple[nn.Module, Callable[[], mx.array]]:
    """Attention of ``encoder=transformer``."""
    layer = transformer.SelfAttention(x.shape[-1], 8, dropout=0.0)
    return layer, lambda: layer(x, mask)


def teacher(x: mx.array, mask: mx.array) -> tuple[nn.Module, Callable[[], mx.array]]:
    """Attention of all-MiniLM-L6-v2."""
    layout = {"model_type": "bert", "vocab_size": 30522, "num_hidden_layers": 6}
    sizes = {"hidden_size": x.shape[-1], "num_attention_heads": 12}
    rest = {"intermediate_size": 4 * x.shape[-1], "max_position_embeddings": 512}
    config = BertConfig.from_json(layout | sizes | rest, "benchmark")
    layer = bert.BertLayer(config)
    bias = mx.where(mask[:, None, None] > 0, 0.0, attention.HIDDEN_SCORE)

    def call() -> mx.array:
        q, k, v = attention.split_heads(layer.qkv(x), config.heads)
        return layer.attention_output(attention.attend(q, k, v, bias))

    return layer, call


def way(
    layer: nn.Module, call: Callable[[], mx.array], mode: str, *, fused: bool
) -> timing.Call:
    """Attention, with the gradients of its weights or without, in one form."""

    def loss(params: Any) -> mx.array:
        layer.update(params)
        return (call() ** 2).mean()

    params = layer.trainable_parameters()
    compiled = mx.compile(mx.value_and_grad(loss) if mode != "forward" else loss)
    with form(fused=fused):
        mx.eval(compiled(params))  # traced here, in this form
    layer.update(params)
    return lambda: compiled(params)


# Layer, B L D, and what of it is used: nobody trains the teacher.
CASES = {
    "student": (student, (64, 24, 256), "forward+backward"),
    "teacher": (teacher, (32, 32, 384), "forward"),
}


def case(name: str, rounds: int) -> timing.Result:
    """Check one layer's two forms against each other, then time them."""
    make, shape, mode = CASES[name]
    x = mx.random.normal(shape)
    lengths = mx.random.randint(4, shape[1] + 1, (shape[0], 1))
    mask = (mx.arange(shape[1])[None] < lengths).astype(mx.float32)
    layer, call = make(x, mask)
    mx.eval(x, mask, layer.parameters())
    is_fused = has_fused_attention()
    calls = {
        NAMES[fused]: way(layer, call, mode, fused=fused)
        for fused in (is_fused, not is_fused)
    }
    ours, other = (flat(c()) for c in calls.values())
    timing.require_close(name, ours, other, 5e-3 if timing.on_gpu() else 1e-4)
    text = "B{} L{} D{}".format(*shape)
    result = timing.Result("attention", f"{name} {mode}", text, "float32")
    return timing.measure(result, calls, rounds=rounds)


def flat(found: Any) -> list[mx.array]:
    """Loss and gradients, in the order of their names."""
    loss, gradients = found if isinstance(found, tuple) else (found, {})
    return [loss, *(g for _, g in sorted(tree_flatten(gradients)))]


def main() -> None:
    """Measure both layers and print table and JSON line."""
    arguments = timing.arguments((__doc__ or "").splitlines()[0])
    mx.random.seed(0)
    report = timing.Report("attention", arguments.output)
    slower = []
    for name in CASES:
        result = case(name, timing.rounds_of(arguments, 9))
        report.add(result)
        if any(high < 1 for _, _, high in result.ratios.values()):
            slower.append(name)
    report.close()
    if slower:
        raise SystemExit(f"the other form is faster here: {', '.join(slower)}")


if __name__ == "__main__":
    main()
