"""Folders of the Hugging Face hub, or of its cache on this machine."""

import importlib.util
import re
from collections.abc import Collection
from pathlib import Path

from energyflow_mlx.errors import InputError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_INSTALL = "pip install 'energyflow-mlx[hub]'"


def is_hub_id(name: str) -> bool:
    """Whether a name may be ``user/name`` on the hub.

    A relative path looks the same. So where its first part is a folder here, the name
    is a path: a misspelt ``runs/mine`` asks no server.
    """
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).parent.is_dir()


def fetch(
    hub_id: str, files: Collection[str], *, instead: str = "a folder here"
) -> Path:
    """Folder of a model, downloaded or from the cache.

    Where ``HF_HUB_OFFLINE=1`` the cache alone is asked.

    Args:
        hub_id: ``user/name``.
        files: Names or patterns of the files that are wanted.
        instead: What else the name could have been, for messages.

    Raises:
        InputError: The client is not installed, or the hub does not supply the model.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InputError(
            f"[hub] {hub_id!r} is not {instead}; to fetch it from the Hugging Face "
            f"hub: {_INSTALL}"
        )
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = huggingface_hub.snapshot_download(hub_id, allow_patterns=list(files))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"[hub] {hub_id!r} must be {instead} or a model on the Hugging Face hub, "
            f"got: {reason}"
        ) from error
    return Path(found)
