"""The ``key=value`` command line of every entry point but the trainer.

A dataclass is the whole interface: its fields are the keys, their metadata the
help. Bad input ends in one line on standard error and exit status 2.
"""

import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from energyflow_mlx.config.wording import expected, keys_of, suggestion
from energyflow_mlx.errors import (
    OF_DISK,
    DiskError,
    InputError,
    OutOfMemory,
    ProcessLost,
    one_line,
)
from energyflow_mlx.runtime import interrupts

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
        word = f"{key}={_literal(value) if kind.startswith(expected(str)) else value}"
        return OmegaConf.merge(filled, OmegaConf.from_dotlist([word]))
    except (OmegaConfBaseException, YAMLError):
        raise InputError(f"[arguments] {key} must be {kind}, got {value!r}.") from None


def _literal(value: str) -> str:
    """A text, quoted where it would be read as a list, a number, or yes and no."""
    if value == "-":
        return "'-'"
    read = OmegaConf.from_dotlist([f"text={value}"]).text
    return f"'{value}'" if isinstance(read, bool | int | float) else value


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
    with clean_exit():
        if any(word in ("-h", "--help") for word in words):
            sys.stdout.write(usage(schema, program_of(function.__module__)) + "\n")
        else:
            function(parse(schema, words))


class clean_exit:  # noqa: N801 - reads as a statement: with clean_exit():
    """Context that turns bad user input into one line and exit status 2.

    SIGINT, SIGTERM and SIGHUP raise an error inside: nothing stays half-written.
    """

    def __enter__(self) -> None:
        """Take the signals over."""
        self._signals = interrupts.Raised()
        self._signals.__enter__()

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        """Exit 2 on ``InputError``, 130, 143 or 129 on a signal.

        A file that the system refuses, a full disk, or a device without room, is the
        user's to mend too: 2.
        A run whose loss is not finite, and ``ProcessLost``, exit 1.
        """
        self._signals.__exit__(None, error, None)
        error = error or _flush_output()
        if isinstance(error, OSError) and error.errno in OF_DISK:
            error = DiskError.of(error)
        if isinstance(error, RuntimeError):
            error = DiskError.of_compiler(error) or OutOfMemory.of(error) or error
        if isinstance(error, InputError | DiskError | OutOfMemory):
            _end(f"error: {error}", 2)
        if isinstance(error, ProcessLost | FloatingPointError):
            _end(f"error: {error}", 1)
        number = None if isinstance(error, SystemExit) else interrupts.of(error)
        if number is not None:
            _end(interrupts.WORDS[number], interrupts.STATUS[number])


def _flush_output() -> OSError | None:
    """Write out what was printed, where Python itself would no longer say why not.

    A reader that has gone, such as ``head``, has what it wants.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python tries the same again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return None
        assert error.errno is not None
        return DiskError(error.errno, "standard output")
    return None


def _end(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"{one_line(message)}\n")
    sys.exit(status)
