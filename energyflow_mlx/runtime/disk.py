"""Room on the disk: asked for before long work, and named when it ends all the same.

Whatever writes a file does so inside ``writing``, which makes one kind of error of all
that the system may say to it: a full disk, a quota, a limit on the size of files, a
read-only mount, missing rights. Files are written by plain writes, never through a map:
a disk that is full ends a process that writes through a map without a word.
"""

import errno
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from energyflow_mlx.errors import OF_DISK, DiskError

_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def free_bytes(path: Path) -> int:
    """Bytes that a user may still write where ``path`` lies or is to lie."""
    here = os.statvfs(_nearest(path))
    return here.f_bavail * here.f_frsize


def require_space(path: Path, sizes: Sequence[int], advice: str = "") -> None:
    """Refuse to begin what would not fit.

    Args:
        path: Where the files are to be; it need not exist.
        sizes: Bytes of each file; they are to lie there all at once.
        advice: What else to say, a clause without its full stop.

    Raises:
        DiskError: There is no room, the disk or the folder is not writable, or the
            system allows no file of that size.
    """
    nearest, needed = _nearest(path), sum(sizes)
    if not os.access(nearest, os.W_OK):
        is_mount = os.statvfs(nearest).f_flag & os.ST_RDONLY
        raise DiskError(errno.EROFS if is_mount else errno.EACCES, path, advice)
    if (largest := max(sizes, default=0)) > _longest_file():
        raise _without_space(errno.EFBIG, path, str(largest), _longest_file(), advice)
    if (free := free_bytes(path)) < needed:
        raise _without_space(errno.ENOSPC, path, str(needed), free, advice)


def obstacle(folder: Path) -> Path | None:
    """What keeps a folder from being made or written, if anything.

    Args:
        folder: It need not exist.

    Returns:
        The innermost path down to it that exists, where that is no folder or may not
        be written.
    """
    folder = Path(os.path.abspath(folder))
    nearest = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
    is_fit = nearest.is_dir() and os.access(nearest, os.W_OK)
    return None if is_fit else nearest


def reserve(descriptor: int, size: int) -> None:
    """Take the room of a file that is open for writing, where the system can do so.

    macOS cannot; there ``require_space`` is all that can be known in advance.

    Raises:
        OSError: There is no room.
    """
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(descriptor, 0, size)


@contextmanager
def writing(path: Path, needed: int | None = None) -> Iterator[None]:
    """Context that turns what the system says against a write into a ``DiskError``.

    What is written aside goes away inside it, so that its bytes count as free.

    Args:
        path: What is written, for the message.
        needed: Bytes of all of it, where they are known.

    Raises:
        DiskError: The system refused; names the path, what was needed and what is free.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        if error.errno not in OF_DISK or _is_elsewhere(error.filename, path):
            raise
        in_the_way = next((place for place in path.parents if place.is_file()), None)
        if in_the_way is not None:
            said = f"{in_the_way} is a file"
            raise DiskError(errno.ENOTDIR, path, said) from error
        if error.errno not in _OF_SPACE:
            raise DiskError(error.errno, path) from error
        is_limit = error.errno == errno.EFBIG
        most = _longest_file() if is_limit else free_bytes(path)
        wanted = f"more than {most}" if needed is None else str(needed)
        raise _without_space(error.errno, path, wanted, most) from error


def _without_space(
    number: int, path: Path, wanted: str, most: int, advice: str = ""
) -> DiskError:
    limit = f"a file may have {most}" if number == errno.EFBIG else f"{most} are free"
    said = f"needs {wanted} bytes, {limit}"
    return DiskError(number, path, f"{said}; {advice}" if advice else said)


def _is_elsewhere(name: object, path: Path) -> bool:
    """Whether an error names a file that has nothing to do with a path."""
    if not isinstance(name, str | bytes):
        return False
    named = Path(os.path.abspath(os.fsdecode(name)))
    path = Path(os.path.abspath(path))
    return not (named.is_relative_to(path.parent) or path.is_relative_to(named))


def _longest_file() -> int:
    """Bytes that the system lets a file of this process have."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return 2**63 - 1 if limit == resource.RLIM_INFINITY else limit


def _nearest(path: Path) -> Path:
    """The path where it is a folder, or the innermost folder above it that exists."""
    path = Path(os.path.abspath(path))
    return next(place for place in (path, *path.parents) if place.is_dir())
