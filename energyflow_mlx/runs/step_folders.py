"""The folders of checkpoints: their names, how they get and lose them."""

import os
import re
import shutil
from pathlib import Path

from energyflow_mlx.runtime.atomic import TEMPORARY_PREFIX, flush

# A step that is saved again is first moved to the name with a tilde, so that a kill
# between the two renames still leaves a complete checkpoint to be found.
_NAME = re.compile(r"step_(\d{8,})(~?)")


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return Path(folder) / f"step_{step:08d}"


def twin_of(final: Path) -> Path:
    """Where a checkpoint lies while another one takes its place."""
    return final.with_name(final.name + "~")


def step_of(path: Path) -> int:
    """Step of a checkpoint's folder."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def candidates(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first, replaced ones after their replacement."""
    if not folder.is_dir():
        return []
    named = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    found = [(int(m[1]), m[2] == "", path) for m, path in named if m and path.is_dir()]
    return [path for _, _, path in sorted(found, reverse=True)]


def publish(aside: Path, final: Path) -> None:
    """Give a checkpoint that is written its name; what had the name goes after that."""
    older = twin_of(final)
    if final.exists():
        if older.exists():
            remove(older)
        final.rename(older)
    aside.rename(final)
    flush(final.parent)
    settle(final)


def settle(final: Path) -> None:
    """End a replacement: what was replaced goes, or has its name back.

    Args:
        final: The checkpoint; it, or what it was to replace, is whole.
    """
    older = twin_of(final)
    if final.exists() and older.exists():
        remove(older)
    elif older.exists():
        older.rename(final)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left between the checkpoints."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path)


def remove(path: Path) -> None:
    """Remove a checkpoint.

    Takes the name away first, so that no half-deleted checkpoint is ever seen.
    """
    doomed = path.with_name(f"{TEMPORARY_PREFIX}removed-{path.name}-{os.getpid()}")
    path.rename(doomed)
    shutil.rmtree(doomed)
