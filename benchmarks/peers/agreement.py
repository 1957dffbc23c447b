"""Both sides must compute the same before either is timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# Of the loss, and of every gradient as |a - b| / |b| in the Euclidean norm. The sides
# round bfloat16 in different places: 1.6e-2 was seen in updates, 6e-2 in the lattice.
LOSS_TOLERANCE = {"float32": 1e-4, "tf32": 2e-3, "bfloat16": 2e-2}
TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 0.12}
# Of what the first update changes, all parameters together. AdamW's first step has the
# size of the learning rate whatever the gradient's: where that is rounding noise, even
# the sign is.
UPDATE_TOLERANCE = {"float32": 5e-3, "tf32": 0.1, "bfloat16": 0.2}
# A gradient this far below the largest one is compared with that bound instead.
_FLOOR = 1e-5


class Disagreement(ValueError):
    """The sides do not compute the same; says where in one line."""


def require_same(
    case: str, losses: Sequence[float], files: Sequence[Path], precision: str
) -> dict[str, float]:
    """Compare losses, gradients and the first update of both sides.

    Args:
        case: Name, for the message.
        losses: Ours and the twin's.
        files: What ``agree`` wrote, ours and the twin's.
        precision: Chooses the tolerances; on a GPU both sides multiply float32 as TF32.

    Returns:
        The largest differences, relative.

    Raises:
        Disagreement: One is above its tolerance.
    """
    tolerance = TOLERANCE[precision]
    ours, twin = (dict(np.load(file)) for file in files)
    _same_names(case, ours, twin)
    loss = abs(losses[0] - losses[1]) / abs(losses[1])
    _require(case, "loss", loss, LOSS_TOLERANCE[precision])
    pairs = {
        k.removeprefix("gradient "): (ours[k], twin[k])
        for k in twin
        if k.startswith("gradient")
    }
    least = _FLOOR * max(_norm(b) for _, b in pairs.values())
    errors = {
        path: _norm(a - b) / max(_norm(b), least) for path, (a, b) in pairs.items()
    }
    # NaN is above every bound, though it compares as neither above nor below.
    worst = max(errors, key=lambda p: (not errors[p] <= tolerance, errors[p]))
    _require(case, f"gradient of {worst}", errors[worst], tolerance)
    found = {"loss": loss, "gradient": errors[worst]}
    steps = [(ours[k], twin[k]) for k in twin if k.startswith("update")]
    if not steps:
        return found
    off = np.sqrt(sum(_norm(a - b) ** 2 for a, b in steps))
    step = float(off / np.sqrt(sum(_norm(b) ** 2 for _, b in steps)))
    _require(case, "first update", step, UPDATE_TOLERANCE[precision])
    return found | {"update": step}


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def _same_names(case: str, ours: Mapping, twin: Mapping) -> None:
    if differing := sorted(set(ours) ^ set(twin)):
        raise Disagreement(f"[peers] {case}: only one side has {', '.join(differing)}.")


def _require(case: str, what: str, error: float, tolerance: float) -> None:
    if not error <= tolerance:  # false for NaN too
        raise Disagreement(
            f"[peers] {case}: {what} must agree within {tolerance:g}, differs by "
            f"{error:.1e}; nothing was timed."
        )
