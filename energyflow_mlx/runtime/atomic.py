"""Files and folders that appear whole or not at all, and the digests of files.

Contents are written aside under a hidden temporary name in the same folder, flushed to
the disk and renamed over the final name; the folder is flushed last, so that the rename
itself survives a power cut.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; it replaces ``path`` when the body succeeds.

    Args:
        path: The final file. Its folder is created when missing. When the body raises,
            the file that was there before is untouched, and so is the lack of a folder.

    Yields:
        The temporary path. It keeps the suffix, which some writers insist on.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        yield aside
        flush(aside)
        aside.replace(path)
        flush(path.parent)
        missing.clear()
    finally:
        aside.unlink(missing_ok=True)
        with suppress(OSError):  # others may have put something there
            for folder in missing:
                folder.rmdir()


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; it takes the place of ``path`` at the end.

    Args:
        path: The final folder. What was there goes away when the body succeeds, all of
            it; when the body raises, it is untouched.

    Yields:
        The temporary folder, beside the final one.
    """
    path = Path(os.path.abspath(path))  # "x/.." and "." have a name too
    aside = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    former = aside.with_name(f"{aside.name}-former")
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
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if former.exists() and not path.exists():
            former.replace(path)
        shutil.rmtree(former, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove what writers of a file or folder that were killed left beside it."""
    for left in path.parent.glob(f"{TEMPORARY_PREFIX}*-{path.name}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


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
