"""The start of a run in its folder, and what a killed process left there.

Both are for the process that holds the folder's lock.
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from energyflow_mlx.config import Config
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs import step_folders
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runtime import atomic


def start(
    folder: RunFolder, config: Config, save_tokenizer: Callable[[Path], None]
) -> None:
    """Make a folder a run: the tokenizer first, the configuration last.

    A start that fails leaves nothing; one that is killed leaves no run.

    Args:
        folder: The folder.
        config: The run's configuration.
        save_tokenizer: Writes the tokenizer into a folder.

    Raises:
        InputError: Another process began a run here meanwhile.
        OSError: The disk is full or cannot be written.
    """
    if folder.exists():
        raise InputError(
            f"[run] {folder.path} must hold no run yet, got one that another process "
            "began meanwhile; the same command goes on with it."
        )
    remove_leftovers(folder)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder.tokenizer, ignore_errors=True)
        with atomic.folder_aside(folder.tokenizer) as aside:
            save_tokenizer(aside)
        folder.begin(config)
        undo.pop_all()


def remove_leftovers(folder: RunFolder) -> None:
    """Remove the temporary files of a process that was killed while it trained.

    Those of commands that read the run stay: they may be at work.
    """
    for path in (
        *(folder.config, folder.tokenizer, folder.metrics, folder.samples),
        *(folder.summary, folder.trackers_state),
    ):
        atomic.remove_leftovers(path)
    step_folders.remove_leftovers(folder.checkpoints)
