"""Room on the disk for a run's checkpoints, and what is said when there is none."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from energyflow_mlx.errors import DiskError
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runtime.disk import require_space


def require_room(
    folder: RunFolder, sizes: Sequence[int], keep: int, saves: int
) -> None:
    """Refuse to train where the checkpoints would not fit.

    At most there are those that are kept, the best one and the one being written.

    Args:
        folder: Of the run.
        sizes: Bytes of the files of a checkpoint, as large as they will be.
        keep: Newest checkpoints that stay.
        saves: Checkpoints that the run may still write at most.

    Raises:
        DiskError: There is no room for them, or the folder cannot be written.
    """
    if not folder.is_writer or not saves:
        return
    new = min(saves, max(1, keep + 2 - len(folder.steps())))
    said = f"for {new} more checkpoints, as trainer.keep={keep}"
    require_space(folder.path, [*sizes] * new, said)


@contextmanager
def says_what_stays(folder: RunFolder) -> Iterator[None]:
    """Context that says with a disk's error from where the run goes on."""
    try:
        yield
    except DiskError as error:
        last = max(folder.steps(), default=None)
        where = "goes on from the last checkpoint, that of update"
        does = "starts it" if last is None else f"{where} {last}"
        error.add(f"once that is mended the same command {does}")
        raise
