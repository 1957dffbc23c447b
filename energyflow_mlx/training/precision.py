"""Number formats: float32 master weights, compute format, dynamic loss scale.

float16 gradients of a mean over thousands of tokens vanish below 6e-8, so they
are scaled before backward and unscaled in float32 after it. The overflow test and
the choice between old and new state stay in the graph: no host decision is needed.
"""

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.config import PrecisionConfig

DTYPES = {
    "float32": mx.float32,
    "bfloat16": mx.bfloat16,
    "float16": mx.float16,
}
_MAX_SCALE = 65536.0


class LossScale(NamedTuple):
    """Dynamic loss scale: the factor and the good updates since it changed."""

    scale: mx.array
    good: mx.array


def init_loss_scale(config: PrecisionConfig) -> LossScale:
    """Start value; 1 for formats that need no scaling."""
    start = config.loss_scale if config.dtype == "float16" else 1.0
    return LossScale(mx.array(start), mx.array(0.0))


def next_loss_scale(
    state: LossScale, finite: mx.array, config: PrecisionConfig
) -> LossScale:
    """Halve on overflow, double after ``scale_interval`` good updates.

    Range 1 to 65,536; constant for formats other than float16.
    """
    if config.dtype != "float16":
        return state
    good = mx.where(finite, state.good + 1, 0.0)
    grow = good >= config.scale_interval
    scale = mx.where(finite, state.scale, state.scale * 0.5)
    scale = mx.clip(mx.where(grow, scale * 2, scale), 1.0, _MAX_SCALE)
    return LossScale(scale, mx.where(grow, 0.0, good))


def cast_parameters(
    parameters: dict[str, mx.array],
    config: PrecisionConfig,
    keep: Callable[[str], bool] = lambda path: False,
) -> dict[str, mx.array]:
    """Floating parameters in the compute format; gradients come back in float32.

    Args:
        parameters: By path, or packs by name.
        config: The format.
        keep: Which stay as they are, by path.
    """
    dtype = DTYPES[config.dtype]
    if dtype == mx.float32:
        return parameters
    return {
        path: p
        if keep(path) or not mx.issubdtype(p.dtype, mx.floating)
        else p.astype(dtype)
        for path, p in parameters.items()
    }
