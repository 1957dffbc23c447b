"""JSON as every program reads it: figures that are no number become null."""

import json
import math
from typing import Any


def json_text(values: Any, *, indent: int | None = None) -> str:
    """Text of plain values; NaN and infinity, which JSON does not have, are null.

    Args:
        values: Dictionaries, lists, numbers, texts, truth values and None.
        indent: Spaces of each level; none = one line.

    Raises:
        TypeError: A value is of another kind.
    """
    plain = _without_non_finite(values)
    return json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
