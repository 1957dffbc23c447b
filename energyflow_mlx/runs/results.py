"""Results that a run folder holds and that can be measured again: damage is said."""

import logging
from pathlib import Path
from typing import Any

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.received import fits, is_there
from energyflow_mlx.runtime.signed_json import read_signed

logger = logging.getLogger(__name__)

# What everybody who reads a summary asks for.
_OF_SUMMARY = {
    **{"status": str, "steps": int, "seconds": float},
    **{"best": dict[str, float | None], "final": dict[str, Any]},
}


def read_result(path: Path) -> dict[str, Any]:
    """A result, or an empty dictionary where there is none or a damaged one.

    A damaged one is named in a warning.
    """
    if not is_there(path):
        return {}
    try:
        return read_signed(path)
    except InputError as error:
        logger.warning("%s; left out", str(error).removesuffix("."))
        return {}


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a run that has ended; as ``read_result``."""
    found = read_result(path)
    for key, kind in _OF_SUMMARY.items():
        if found and not fits(found.get(key), kind):
            logger.warning("[run] %s lacks its %s; left out", path, key)
            return {}
    return found
