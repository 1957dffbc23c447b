"""Bounds of every setting: one line that names the key.

Whatever a user can set to a number goes through ``require_range``: every setting is
bounded on both sides, and NaN and infinity never get past a configuration.
"""

import dataclasses
import math
import numbers
import typing
from collections.abc import Sequence

from energyflow_mlx.errors import InputError

MOST_SEED = 2**64 - 1  # MLX's generator takes 64 bits
COUNT = 2**31 - 1  # what the device counts with
WIDTH = 2**14  # of a layer: a matrix of the widest takes 1 GiB
COLDEST, HOTTEST = 1e-3, 1e4  # temperatures: below, logits overflow
LARGE = 1e30  # of weights, rates and factors: within what float32 holds


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


def require_range(
    value: float,
    key: str,
    least: float,
    most: float = COUNT,
    *,
    is_open: bool = False,
    room: str = "config",
) -> None:
    """Raise ``InputError`` unless ``value`` is finite and ``least <= value <= most``.

    Args:
        value: The number; NaN is out of every range.
        key: Full key, e.g. ``"trainer.epochs"``.
        least: Lower bound.
        most: Upper bound.
        is_open: Whether the lower bound itself is excluded.
        room: Who refuses it, as the message begins.

    Raises:
        InputError: The value is out of range; names the bound that it breaks.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise InputError(f"[{room}] {key} must be a number, got {value!r}.")
    if not isinstance(value, numbers.Integral) and not math.isfinite(value):
        raise InputError(f"[{room}] {key} must be a finite number, got {value}.")
    if value < least or (is_open and value == least):
        sign = ">" if is_open else ">="
        raise InputError(f"[{room}] {key} must be {sign} {least}, got {value}.")
    if value > most:
        raise InputError(f"[{room}] {key} must be <= {most}, got {value}.")


def require_choice(value: str, key: str, choices: Sequence[str]) -> None:
    """Raise ``InputError`` unless ``value`` is one of ``choices``."""
    require(value in choices, key, "one of " + ", ".join(choices), value)


def require_whole(
    value: typing.Any, key: str, least: int, most: int = COUNT, *, room: str = "config"
) -> None:
    """Raise ``InputError`` unless ``value`` is a whole number in its bounds.

    Arguments as for ``require_range``.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise InputError(f"[{room}] {key} must be a whole number, got {value!r}.")
    require_range(int(value), key, least, most, room=room)


def require_share(value: float, key: str) -> None:
    """Raise ``InputError`` unless ``0 <= value < 1`` (a dropout probability)."""
    require(0.0 <= value < 1.0, key, "in [0, 1)", value)


# Above it nothing trains, and far above it float32 has no number.
MOST_RATE = 100.0


def bounds(least: float, most: float = COUNT) -> dict[str, tuple[float, float]]:
    """Bounds as a field's metadata carries them, for ``require_bounds``."""
    return {"bounds": (least, most)}


def require_bounds(settings: typing.Any, room: str) -> None:
    """Check every field of a dataclass that carries bounds; 0 means what its help says.

    Args:
        settings: A dataclass whose fields have ``bounds(...)`` in their metadata.
        room: Who refuses it, as the message begins.

    Raises:
        InputError: A number is out of its bounds.
    """
    for field in dataclasses.fields(settings):
        if "bounds" in field.metadata:
            check = require_whole if field.type is int else require_range
            value = getattr(settings, field.name)
            check(value, field.name, *field.metadata["bounds"], room=room)


def as_paths(value: object, key: str) -> list[str]:
    """Normalize a path setting to a list: ``None``, one path or several."""
    if value is None:
        return []
    paths = [value] if isinstance(value, str) else value
    if isinstance(paths, list | tuple) and all(isinstance(v, str) and v for v in paths):
        return list(paths)
    raise InputError(
        f"[config] {key} must be a path or a list of paths, got {value!r}."
    )
