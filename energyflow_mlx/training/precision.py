"""Number formats: float32 master weights, compute format, dynamic loss scale.

float16 gradients of a mean over thousands of tokens vanish below 6e-8, so they
are scaled before backward and unscaled in float32 after it. The overflow test and
the choice between old and new state stay in the graph: no host decision is needed.

An update whose loss or gradient is not finite is skipped: it changes nothing. So many
in a row are the end of the run: one, or ``trainer.max_skipped`` with float16, whose
scale has to be found. From then on every update is skipped, those included that were
on their way when the host learnt of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from energyflow_mlx.config import Config, PrecisionConfig

DTYPES = {
    "float32": mx.float32,
    "bfloat16": mx.bfloat16,
    "float16": mx.float16,
}
_MAX_SCALE = 65536.0


class LossScale(NamedTuple):
    """Dynamic loss scale, and whether updates are still made; scalars, float32.

    Attributes:
        scale: The factor.
        good: Good updates since it changed.
        skipped: Updates skipped in a row, up to now.
    """

    scale: mx.array
    good: mx.array
    skipped: mx.array


def init_loss_scale(config: PrecisionConfig) -> LossScale:
    """Start value; 1 for formats that need no scaling."""
    start = config.loss_scale if config.dtype == "float16" else 1.0
    return LossScale(mx.array(start), mx.array(0.0), mx.array(0.0))


def most_skipped(config: Config) -> int:
    """Updates skipped in a row that end a run."""
    is_scaled = config.precision.dtype == "float16"
    return config.trainer.max_skipped if is_scaled else 1


def next_loss_scale(
    state: LossScale, finite: mx.array, config: PrecisionConfig, most: int
) -> tuple[LossScale, mx.array]:
    """Halve on overflow, double after ``scale_interval`` good updates.

    Range 1 to 65,536; constant for formats other than float16, and after the end.

    Args:
        state: Before the update.
        finite: Whether its loss and gradient are.
        config: The format.
        most: Updates skipped in a row after which none is made any more.

    Returns:
        The state after the update, and whether it is made, scalar bool.
    """
    goes_on = state.skipped < most
    moves = finite & goes_on
    skipped = mx.where(moves, 0.0, state.skipped + 1)
    if config.dtype != "float16":
        return state._replace(skipped=skipped), moves
    good = mx.where(finite, state.good + 1, 0.0)
    grow = good >= config.scale_interval
    scale = mx.where(finite, state.scale, state.scale * 0.5)
    scale = mx.clip(mx.where(grow, scale * 2, scale), 1.0, _MAX_SCALE)
    scale = mx.where(goes_on, scale, state.scale)
    good = mx.where(goes_on, mx.where(grow, 0.0, good), state.good)
    return LossScale(scale, good, skipped), moves


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
