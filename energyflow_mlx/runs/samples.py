"""Reading of ``samples.jsonl``: held-out sentences as the model wrote them."""

import logging
from pathlib import Path
from typing import Any

from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.runtime.received import fits, is_there

logger = logging.getLogger(__name__)

# What a record must hold, and of which kind.
_KINDS = {
    **{"step": int, "path": str, "sentence": int, "original": str, "decoded": str},
    "cosine": float | None,
}


def read_samples(path: Path, digest: str = "") -> list[dict[str, Any]]:
    """What was written out, in the order of the file; empty where there is no file.

    Records that are no samples are left out, with one warning that names the first; so
    is a file that cannot be read.

    Args:
        path: The file.
        digest: As for ``read_metrics``.
    """
    try:
        is_wanted = is_there(path) or digest
        records = read_metrics(path, digest) if is_wanted else []
    except InputError as error:
        logger.warning("%s; left out", str(error).removesuffix("."))
        return []
    whole = [record for record in records if _is_sample(record)]
    if len(whole) < len(records):
        first = next(n for n, r in enumerate(records, 1) if not _is_sample(r))
        logger.warning(
            "[samples] %s: record %d is no sample; left out, as %d in all",
            *(path, first, len(records) - len(whole)),
        )
    return whole


def _is_sample(record: dict[str, Any]) -> bool:
    missing = object()
    return all(fits(record.get(key, missing), kind) for key, kind in _KINDS.items())
