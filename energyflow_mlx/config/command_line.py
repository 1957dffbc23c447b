"""The ``key=value`` command line of every entry point but the trainer.

A dataclass is the whole interface: its fields are the keys, their metadata the
help. Bad input ends in one line on standard error and exit status 2.
"""

import dataclasses
import errno
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from energyflow_mlx.config.wording import expected, keys_of, suggestion
from energyflow_mlx.errors import InputError, ProcessLost, Terminated, one_line

_Schema = TypeVar("_Schema")


def parse(schema: type[_Schema], argv: Sequence[str]) -> _Schema:
    """Fill ``schema`` from ``key=value`` words; dots reach into nested groups.

    A list is typed ``[a,b]``. The name of a yes-or-no key alone says yes.

    Raises:
        InputError: A word without ``=``, an unknown key, a missing or mistyped value.
    """
    defaults = OmegaConf.structured(schema)
    OmegaConf.set_readonly(defaults, False)  # a frozen schema: only till it is filled
    filled = defaults
    given: set[str] = set()
    for word in argv:
        key, value, kind = _key_and_value(schema, word)
        if key in given:
            raise InputError(f"[arguments] {key} must be given once, got it twice.")
        given.add(key)
        filled = _with(filled, (key, value, kind))
    missing = sorted(OmegaConf.missing_keys(filled))
    if missing:
        raise InputError(f"[arguments] missing: {', '.join(missing)}=...")
    return OmegaConf.to_object(filled)  # type: ignore[return-value]


def _key_and_value(schema: type, word: str) -> tuple[str, str, str]:
    """Key, value and what the value must be."""
    kinds, leaves = dict(keys_of(schema)), dict(_keys(schema))
    key, equals, value = word.partition("=")
    if not equals and kinds.get(key) is bool:
        return key, "true", expected(bool)
    if not equals:
        hint = suggestion(word, leaves) if not word.startswith("-") else ""
        raise InputError(f"[arguments] expected key=value, got {word!r}{hint or '.'}")
    if key not in leaves:
        known = ", ".join(leaves)
        hint = suggestion(key, leaves) or f"; the keys are {known}."
        raise InputError(f"[arguments] unknown key {key}{hint}")
    kind = expected(kinds[key])
    # What is written so is not a value but OmegaConf's own: a reference, a gap.
    is_plain = value.strip() and value.strip() != MISSING and "${" not in value
    if not is_plain or (kinds[key] is bool and value.strip().isdigit()):
        raise InputError(f"[arguments] {key} must be {kind}, got {value!r}.")
    return key, value, kind


def _with(filled: Any, given: tuple[str, str, str]) -> Any:
    """Merge one key into the settings.

    Raises:
        InputError: The value is not of the key's type, or cannot be read.
    """
    key, value, kind = given
    try:
        word = _with_plain_dash(f"{key}={value}")
        return OmegaConf.merge(filled, OmegaConf.from_dotlist([word]))
    except (OmegaConfBaseException, YAMLError):
        raise InputError(f"[arguments] {key} must be {kind}, got {value!r}.") from None


def _with_plain_dash(word: str) -> str:
    """The word, with the value ``-`` quoted: YAML would take it for a list."""
    key, _, value = word.partition("=")
    return f"{key}='-'" if value == "-" else word


def usage(schema: type, program: str) -> str:
    """Help text from the dataclass: one line per key with default and meaning.

    Args:
        schema: Dataclass of the command's keys.
        program: The command as it was typed.
    """
    doc = (schema.__doc__ or "").strip().split("\n\n")[0]
    lines = [f"usage: {program} key=value ...", "", doc, ""]
    width = max([16, *(len(key) for key, _ in _keys(schema))])
    for key, field in _keys(schema):
        shown = "required" if field.default == "???" else f"default {_typed(field)}"
        lines.append(f"  {key:{width}} {field.metadata.get('help', '')} ({shown})")
    return "\n".join([*lines, "", "A list is typed [a,b]; quote it for the shell."])


def program_of(module: str) -> str:
    """The command that was typed to reach a module's ``main``.

    Args:
        module: Name of the entry point's module, ``__main__`` under ``python -m``.
    """
    if module != "__main__":
        # Called by ``energyflow``, which has put its own words there, or from Python.
        is_ours = sys.argv[0].endswith(module.rpartition(".")[2].replace("_", "-"))
        return sys.argv[0] if is_ours else f"python -m {module}"
    spec = sys.modules["__main__"].__spec__
    return f"python -m {spec.name}" if spec else sys.argv[0]


def _keys(schema: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Every key that can be given, those of nested groups with their dots."""
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(field.type):
            yield from _keys(field.type, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{field.name}", field


def _typed(field: dataclasses.Field) -> str:
    """A default as a user would type it."""
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return "none" if field.default is None else str(field.default)


def main(
    schema: type[_Schema],
    function: Callable[[_Schema], Any],
    argv: Sequence[str] | None = None,
    *,
    level: int = logging.WARNING,
) -> None:
    """Parse the command line into ``schema`` and call ``function`` with it.

    Args:
        schema: Dataclass of the command's keys.
        function: The command.
        argv: Words; by default the process's own.
        level: Least level of the log lines shown.
    """
    shown = "%(message)s" if level < logging.WARNING else "%(levelname)s %(message)s"
    logging.basicConfig(level=level, format=shown)
    words = sys.argv[1:] if argv is None else list(argv)
    if any(word in ("-h", "--help") for word in words):
        sys.stdout.write(usage(schema, program_of(function.__module__)) + "\n")
        return
    with clean_exit():
        function(parse(schema, words))


# What the system says about files that the user can mend.
_OF_FILES = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
        *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
        *(errno.ENOENT, errno.ELOOP, errno.EBUSY),
    }
)


class clean_exit:  # noqa: N801 - reads as a statement: with clean_exit():
    """Context that turns bad user input into one line and exit status 2.

    SIGTERM ends what is inside as Ctrl-C does, so that nothing stays half-written.
    """

    def __enter__(self) -> None:
        """Take SIGTERM over; Python lets its main thread alone do so."""
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            self._former = signal.signal(signal.SIGTERM, _terminate)

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        """Exit 2 on ``InputError``, 130 or 143 on a signal.

        A file that the system refuses, or a full disk, is the user's to mend too: 2.
        A run whose loss is not finite, and ``ProcessLost``, exit 1.
        """
        if self._is_main:
            signal.signal(signal.SIGTERM, self._former)
        if isinstance(error, InputError):
            _end(f"error: {error}", 2)
        if isinstance(error, OSError) and error.errno in _OF_FILES:
            _end(f"error: [files] {error.filename}: {error.strerror}.", 2)
        if isinstance(error, ProcessLost | FloatingPointError):
            _end(f"error: {error}", 1)
        if isinstance(error, KeyboardInterrupt):
            is_terminated = isinstance(error, Terminated)
            message = "terminated" if is_terminated else "interrupted"
            _end(message, 143 if is_terminated else 130)


def _end(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"{one_line(message)}\n")
    sys.exit(status)


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise Terminated
