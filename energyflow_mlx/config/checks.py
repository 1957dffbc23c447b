"""Range checks shared by the config groups: one line, naming the key."""

import math
from collections.abc import Sequence

from energyflow_mlx.errors import InputError


def require(holds: bool, key: str, expected: str, got: object) -> None:
    """Raise ``InputError`` naming ``key`` unless ``holds``.

    Args:
        holds: The claim that must be true.
        key: Full config key, e.g. ``"trainer.epochs"``.
        expected: What the value must be, e.g. ``">= 1"``.
        got: The value found.

    Raises:
        InputError: The claim is false.
    """
    if not holds:
        said = repr(got)
        said = said if len(said) <= _MOST_SAID else said[:_MOST_SAID] + "..."
        raise InputError(f"[config] {key} must be {expected}, got {said}.")


_MOST_SAID = 200  # characters of a value
MOST_WIDTH = 65_536  # channels, tokens of a sentence, distance of a tap
MOST_LAYERS = 1024


def require_size(
    value: int, key: str, most: int = MOST_WIDTH, *, least: int = 1
) -> None:
    """Raise ``InputError`` unless ``least <= value <= most``.

    Sizes have an end, so that settings which somebody sent build nothing boundless.
    """
    require(least <= value <= most, key, f"in [{least}, {most}]", value)


def require_choice(value: str, key: str, choices: Sequence[str]) -> None:
    """Raise ``InputError`` unless ``value`` is one of ``choices``."""
    require(value in choices, key, "one of " + ", ".join(choices), value)


def require_share(value: float, key: str) -> None:
    """Raise ``InputError`` unless ``0 <= value < 1`` (a dropout probability)."""
    require(0.0 <= value < 1.0, key, "in [0, 1)", value)


# Above it nothing trains, and far above it float32 has no number.
MOST_RATE = 100.0


def require_rate(value: float, key: str) -> None:
    """Raise ``InputError`` unless a learning rate is above 0 and at most 100."""
    require(0.0 < value <= MOST_RATE, key, f"> 0 and at most {MOST_RATE:g}", value)


def require_finite(value: float, key: str) -> None:
    """Raise ``InputError`` unless a number is at least 0 and finite in float32."""
    holds = 0.0 <= value < 3.4e38 and math.isfinite(value)
    require(holds, key, ">= 0 and finite", value)


def as_paths(value: object, key: str) -> list[str]:
    """Normalize a path setting to a list: ``None``, one path or several."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return [str(path) for path in value]
    raise InputError(
        f"[config] {key} must be a path or a list of paths, got {value!r}."
    )
