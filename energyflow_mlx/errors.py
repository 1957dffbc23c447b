"""Errors a user can cause and mend; entry points print them as one line, exit 2."""

import importlib.util
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


class ProcessLost(RuntimeError):
    """Another process of the run has ended; entry points print one line, exit 1."""


class Terminated(KeyboardInterrupt):
    """The process was told to end (SIGTERM); entry points exit with status 143.

    A ``KeyboardInterrupt``: what cleans up after Ctrl-C does so after this too.
    """


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
        """Raise InputError for a bare ``Exception``; any other error passes."""
        if kind is Exception:
            raise InputError(f"[tokenizer] {self._path}: not a tokenizer: {error}.")
