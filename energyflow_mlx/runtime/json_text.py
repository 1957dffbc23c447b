"""JSON as every program reads it: figures that are no number become null."""

import json
import math
from collections.abc import Callable
from typing import Any


def json_text(
    values: Any,
    *,
    indent: int | None = None,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """Text of plain values; NaN and infinity, which JSON does not have, are null.

    Args:
        values: Dictionaries, lists, numbers, texts, truth values and None.
        indent: Spaces of each level; none = one line.
        default: Makes a value of another kind one of these.

    Raises:
        TypeError: A value is of another kind, and there is no ``default``.
    """
    return json.dumps(
        _without_non_finite(values),
        indent=indent,
        default=default,
        ensure_ascii=False,
        allow_nan=False,
    )


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
