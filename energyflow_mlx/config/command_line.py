"""The ``key=value`` command line of every entry point but the trainer.

A dataclass is the whole interface: its fields are the keys, their metadata the
help. Bad input ends in one line on standard error and exit status 2.
"""

import dataclasses
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from energyflow_mlx.errors import InputError, ProcessLost, Terminated

_Schema = TypeVar("_Schema")


def parse(schema: type[_Schema], argv: Sequence[str]) -> _Schema:
    """Fill ``schema`` from ``key=value`` words; dots reach into nested groups.

    Raises:
        InputError: A word without ``=``, an unknown key, a missing or mistyped value.
    """
    for word in argv:
        if "=" not in word:
            raise InputError(f"[arguments] expected key=value, got {word!r}.")
    try:
        given = OmegaConf.from_dotlist([_with_plain_dash(word) for word in argv])
        defaults = OmegaConf.structured(schema)
        OmegaConf.set_readonly(
            defaults, False
        )  # a frozen schema: only till it is filled
        merged = OmegaConf.merge(defaults, given)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise InputError(f"[arguments] missing: {', '.join(missing)}=...")
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise InputError(f"[arguments] {describe(error)}") from None


def _with_plain_dash(word: str) -> str:
    """The word, with the value ``-`` quoted: YAML would take it for a list."""
    key, _, value = word.partition("=")
    return f"{key}='-'" if value == "-" else word


def describe(error: OmegaConfBaseException) -> str:
    """One line for a config error: which key, and what is wrong with it."""
    first = str(error).strip().split("\n", 1)[0]
    key = getattr(error, "full_key", None)
    return f"{key}: {first}" if key and str(key) not in first else first


def usage(schema: type, command: str) -> str:
    """Help text from the dataclass: one line per key with default and meaning."""
    doc = (schema.__doc__ or "").strip().split("\n\n")[0]
    lines = [f"usage: python -m {command} key=value ...", "", doc, ""]
    for key, field in _keys(schema):
        shown = "required" if field.default == "???" else f"default {_typed(field)}"
        lines.append(f"  {key:16} {field.metadata.get('help', '')} ({shown})")
    return "\n".join(lines)


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
) -> None:
    """Parse the command line into ``schema`` and call ``function`` with it.

    Args:
        schema: Dataclass of the command's keys.
        function: The command.
        argv: Words; by default the process's own.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if any(word in ("-h", "--help") for word in words):
        # Run with -m the module is called __main__; its spec knows the name.
        spec = sys.modules[function.__module__].__spec__
        sys.stdout.write(usage(schema, spec.name if spec else sys.argv[0]) + "\n")
        return
    with clean_exit():
        function(parse(schema, words))


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

        A run whose loss is not finite, and ``ProcessLost``, exit 1.
        """
        if self._is_main:
            signal.signal(signal.SIGTERM, self._former)
        if isinstance(error, InputError):
            sys.stderr.write(f"error: {error}\n")
            sys.exit(2)
        if isinstance(error, ProcessLost | FloatingPointError):
            sys.stderr.write(f"error: {error}\n")
            sys.exit(1)
        if isinstance(error, KeyboardInterrupt):
            is_terminated = isinstance(error, Terminated)
            sys.stderr.write("terminated\n" if is_terminated else "interrupted\n")
            sys.exit(143 if is_terminated else 130)


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise Terminated
