"""Files and folders that appear whole or not at all, and the digests of files.

Contents are written aside under a hidden temporary name in the same folder, flushed to
the disk and renamed over the final name; the folder is flushed last, so that the rename
itself survives a power cut.
"""

import glob
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from energyflow_mlx.errors import DiskError
from energyflow_mlx.runtime.disk import require_space, writing

TEMPORARY_PREFIX = ".tmp-"
_FORMER = "-former"


@contextmanager
def write_aside(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path to write; it replaces ``path`` when the body succeeds.

    Args:
        path: The final file. Its folder is created when missing. When the body raises,
            the file that was there before is untouched, and so is the lack of a folder.
        size: Bytes of the file where they are known; refused at once where they do not
            fit.

    Yields:
        The temporary path. It keeps the suffix, which some writers insist on.

    Raises:
        DiskError: The system refuses to write it.
    """
    aside = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    with writing(path, size), _kept_clean(path, aside):
        if size is not None:
            require_space(path, [size])
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        flush(aside)
        aside.replace(path)
        flush(path.parent)


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; it takes the place of ``path`` at the end.

    Args:
        path: The final folder. What was there goes away when the body succeeds, all of
            it; when the body raises, it is untouched.

    Yields:
        The temporary folder, beside the final one.

    Raises:
        DiskError: The system refuses to write it.
    """
    path = Path(os.path.abspath(path))  # "x/.." and "." have a name too
    aside = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    former = aside.with_name(f"{aside.name}{_FORMER}")
    with writing(path), _kept_clean(path, aside):
        aside.mkdir(parents=True)
        try:
            yield aside
            for file in aside.iterdir():
                flush(file)
            flush(aside)
            if path.exists():
                path.replace(former)
            aside.replace(path)
            flush(path.parent)
        except DiskError as error:  # of a file inside: the user knows its final name
            error.filename = str(error.filename).replace(str(aside), str(path))
            raise
        finally:
            if former.exists() and not path.exists():
                former.replace(path)
            shutil.rmtree(former, ignore_errors=True)


@contextmanager
def _kept_clean(path: Path, aside: Path) -> Iterator[None]:
    """Remove what was written aside, and folders made for a path that did not come.

    What killed writers of the same path left beside it goes first.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    _remove_dead(path)
    try:
        yield
    finally:
        # The error that led here is what counts, and a second one must not hide it.
        with suppress(OSError):
            if aside.is_dir():
                shutil.rmtree(aside)
            aside.unlink(missing_ok=True)
        for folder in missing:
            with suppress(OSError):  # it came, or others put something there
                folder.rmdir()


def remove_leftovers(path: Path) -> None:
    """Remove what writers of a file or folder that were killed left beside it."""
    for left in path.parent.glob(f"{TEMPORARY_PREFIX}*-{glob.escape(path.name)}*"):
        _remove(left)


def _remove_dead(path: Path) -> None:
    """Remove what writers of a path left whose processes are no more.

    A folder that one of them had moved out of the way, and put nothing in its place,
    goes back.
    """
    own = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}(\d+)-{re.escape(path.name)}")
    with suppress(OSError):  # a folder that is not there, or is only read
        for left in sorted(path.parent.iterdir(), reverse=True):  # the former first
            found = own.fullmatch(left.name.removesuffix(_FORMER))
            if not found or _is_alive(int(found[1])):
                continue
            if left.name.endswith(_FORMER) and not path.exists():
                left.replace(path)
            else:
                _remove(left)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _remove(left: Path) -> None:
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left)
    else:
        left.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    content = text.encode()
    with write_aside(path, len(content)) as aside:
        aside.write_bytes(content)


def sha256_of(path: Path) -> str:
    """Digest of a file's bytes, in hexadecimal; the file is read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Force a file's contents, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
