"""One writer: the lock of a run folder, held by the process that trains in it.

The lock is the system's (``flock``) and belongs to the open file: it ends with the
process, however that ends, and no stale file can hold it. The file itself stays, and
says who held it last. Readers never ask for it.
"""

import errno
import fcntl
import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

from energyflow_mlx.errors import InputError

_MOST_BYTES = 200  # of the line that names a holder
_HELD_ELSEWHERE = (errno.EAGAIN, errno.EACCES)
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FolderLock:
    """The lock of a folder, not held at first; ``contextlib.closing`` gives it back.

    A folder that holds nothing but the lock by then goes away with it.

    Args:
        path: File of the lock, in the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._descriptor: int | None = None
        self._made: list[Path] = []

    @property
    def is_held(self) -> bool:
        """Whether this process has it."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock, unless it is taken already; makes the folder when missing.

        Raises:
            InputError: Another process has it, or the file system has no locks.
            OSError: The folder cannot be written.
        """
        if self.is_held:
            return
        folder = self._path.parent
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _open(self._path)
        with ExitStack() as undo:
            undo.callback(os.close, descriptor)
            self._lock(descriptor)
            undo.pop_all()
        self._descriptor = descriptor
        _held.add(self)
        line = f"process {os.getpid()} on {socket.gethostname()}\n".encode()
        os.pwrite(descriptor, line, 0)
        os.ftruncate(descriptor, len(line))

    def close(self) -> None:
        """Give the lock back; without effect where it is not held."""
        if not self.is_held:
            return
        self._remove_if_alone()
        self._forget()

    def _lock(self, descriptor: int) -> None:
        folder = self._path.parent
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD_ELSEWHERE:
                self._remove_if_alone()
                raise InputError(
                    f"[run] {folder} must be on a file system with locks (flock), got "
                    f"{error.strerror}: choose a run.dir on another one."
                ) from None
            raise InputError(
                f"[run] {folder} must have one process that trains in it, got a second "
                f"one: {_holder(descriptor)} is at work there."
            ) from None
        if not self._path.exists() or not _is_same(descriptor, self._path):
            raise InputError(
                f"[run] {folder}: another process gave up the folder meanwhile; the "
                "same command starts there."
            )

    def _remove_if_alone(self) -> None:
        """Remove the lock, and the folders made for it, where no run came of them."""
        with suppress(OSError):  # somebody may have removed the folder
            if [path.name for path in self._path.parent.iterdir()] == [self._path.name]:
                self._path.unlink()
                for folder in self._made:
                    folder.rmdir()

    def _forget(self) -> None:
        """Close the file; the lock ends with the last process that has it open."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        _held.discard(self)


def _open(path: Path) -> int:
    """Descriptor of a lock's file, made when missing; links lead to other folders."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"[run] {path} must be a plain file, got something else.")
    return os.open(path, _OPEN, 0o666)


def _holder(descriptor: int) -> str:
    """Who wrote its name into the lock; readable even if somebody else filled it."""
    text = os.pread(descriptor, _MOST_BYTES, 0).decode("utf-8", "replace")
    line = text.partition("\n")[0]
    return line if line and line.isprintable() else "another process"


def _is_same(descriptor: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(descriptor), path.stat())


_held: set[FolderLock] = set()


def _forget_all() -> None:
    """In a forked child, which must not keep the lock when its parent has died."""
    for lock in list(_held):
        lock._forget()


os.register_at_fork(after_in_child=_forget_all)
