"""The folders of checkpoints: their names, how they get them, which of them stay."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from energyflow_mlx.runtime.atomic import TEMPORARY_PREFIX, flush

# A step that is saved again is first moved to the name with a tilde, so that a kill
# between the two renames still leaves a complete checkpoint to be found.
_NAME = re.compile(r"step_(\d{8,})(~?)")


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return Path(folder) / f"step_{step:08d}"


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
    older = final.with_name(final.name + "~")
    if final.exists():
        if older.exists():
            _remove(older)
        final.rename(older)
    aside.rename(final)
    flush(final.parent)
    if older.exists():
        _remove(older)


def prune(
    folder: Path,
    step: int,
    keep: int,
    protect: set[int],
    best_of: Callable[[Path], int | None],
) -> None:
    """Remove older checkpoints.

    Later ones are left alone: they are damaged ones that a resume stepped over. What a
    checkpoint that stays names as the best so far stays with it: whoever must fall back
    on that one can still load the best.

    Args:
        folder: Folder of all checkpoints.
        step: The one just written.
        keep: How many up to it stay; 0 = all.
        protect: Steps that stay too.
        best_of: Step that a checkpoint names as the best, if any.
    """
    if keep == 0:
        return
    earlier = [path for path in candidates(folder) if step_of(path) <= step]
    staying = protect | {best_of(path) for path in earlier[:keep]}
    for path in earlier[keep:]:
        if step_of(path) not in staying:
            _remove(path)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left between the checkpoints."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path)


def _remove(path: Path) -> None:
    """Take the name away first, so that no half-deleted checkpoint is ever seen."""
    doomed = path.with_name(f"{TEMPORARY_PREFIX}removed-{path.name}-{os.getpid()}")
    path.rename(doomed)
    shutil.rmtree(doomed)
