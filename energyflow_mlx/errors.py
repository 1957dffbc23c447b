"""Errors a user can cause and mend; entry points print them as one line, exit 2."""

import errno
import importlib.util
import os
import re
import signal
from pathlib import Path
from types import TracebackType


class InputError(ValueError):
    """Bad user input: says what is wrong, where, what was expected and what came.

    Raised for missing or damaged files, bad configuration values and absent
    teachers. Entry points turn it into one line on standard error and exit
    status 2; nothing has been written when it is raised.
    """


class EFBError(InputError):
    """A damaged or foreign EFB file; the message names the path and byte offset."""


# What the system says about files that the user can mend.
OF_DISK = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
        *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT),
        *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
        *(errno.ELOOP, errno.EBUSY),
    }
)


# How MLX begins what it says of the files of its compiler.
_OF_MLX_FILES = ("[Compile::eval_cpu]", "filesystem error")


class DiskError(OSError):
    """The system refused to write a file: a full or read-only disk, a quota, a right.

    Entry points turn it into one line on standard error and exit status 2. What was
    there before is whole, and nothing half-written stays.

    Args:
        number: The system's error number.
        path: The file or folder, as the user knows it.
        detail: What else is known, such as the bytes needed and free; no full stop.
    """

    def __init__(self, number: int, path: Path | str, detail: str = "") -> None:
        super().__init__(number, os.strerror(number), str(path))
        self._details = [detail] if detail else []

    @classmethod
    def of(cls, error: OSError) -> "DiskError":
        """An error of the system as one of these; it may not know its file."""
        if isinstance(error, cls):
            return error
        assert error.errno is not None
        return cls(error.errno, error.filename or "standard output or a file")

    @classmethod
    def of_compiler(cls, error: RuntimeError) -> "DiskError | None":
        """MLX's error where it has no room to compile a fused expression on the CPU.

        It has no number of its own, and what was compiled halfway stays there: the
        source goes away here.

        Returns:
            The error; none where MLX, or its compiler, failed for another reason.
        """
        text = str(error)
        number = next((n for n in OF_DISK if os.strerror(n) in text), None)
        if number is None or not text.startswith(_OF_MLX_FILES):
            return None
        for half in re.findall(r'"([^"]+/tmp_\w+\.(?:cpp|so))"', text):
            Path(half).unlink(missing_ok=True)
        folder = os.environ.get("TMPDIR", "/tmp")
        here = os.statvfs(folder)
        said = f"{here.f_bavail * here.f_frsize} bytes are free where MLX compiles"
        return cls(number, folder, f"{said}; TMPDIR can name another folder")

    def add(self, detail: str) -> None:
        """Say something more at the end of the line, a clause without full stop."""
        self._details.append(detail)

    def __str__(self) -> str:
        said = "; ".join(self._details)
        said = f": {said}" if said else ""
        return f"[disk] {self.filename}: {self.strerror}{said}."


# What MLX says where a device has no room for an array.
_OF_MEMORY = ("out of memory", "Insufficient Memory", "[malloc] Unable to allocate")


class OutOfMemory(RuntimeError):
    """The device has no room for an array; entry points print one line, exit 2."""

    @classmethod
    def of(cls, error: Exception) -> "OutOfMemory | None":
        """MLX's error as one of these; none where it failed for another reason."""
        if not any(words in str(error) for words in _OF_MEMORY):
            return None
        return cls(
            f"[memory] the device has no room: {str(error).strip()}; fewer sentences "
            "at once take less (trainer.micro_batch, batch_size), and so do fewer "
            "programs beside this one."
        )


class ProcessLost(RuntimeError):
    """Another process of the run has ended; entry points print one line, exit 1."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end; entry points exit with 128 and its number.

    A ``KeyboardInterrupt``: what cleans up after Ctrl-C does so after this too.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def one_line(text: str) -> str:
    """Text for one line of a terminal: what is not printable is written as its escape.

    Names of files and words of the command line stand in messages; they may hold line
    ends, control characters and bytes that are no UTF-8.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def install_command(extra: str) -> str:
    """What to type to get the packages of an extra."""
    return f"pip install 'energyflow-mlx[{extra}]'"


def has_package(package: str) -> bool:
    """Whether an optional package is installed; does not import it."""
    return importlib.util.find_spec(package) is not None


def require_package(package: str, extra: str) -> None:
    """Refuse to go on without an optional package.

    Args:
        package: Its top-level module.
        extra: The extra of this package that brings it.

    Raises:
        InputError: It is not installed; names the command that installs it.
    """
    if not has_package(package):
        raise InputError(
            f"[{extra}] {package} is needed and not installed: {install_command(extra)}"
        )


class TokenizerErrors:
    """Context that turns the tokenizers library's error into InputError.

    The library raises a bare ``Exception``, which nothing else should raise.

    Args:
        path: The tokenizer file at fault, for the message.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Raise InputError for a bare ``Exception`` or a panic; others pass."""
        is_panic = kind is not None and kind.__name__ == "PanicException"
        if kind is Exception or is_panic:
            raise InputError(f"[tokenizer] {self._path}: not a tokenizer: {error}.")
