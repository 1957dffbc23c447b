"""The trainer's command line before Hydra reads it: help, and what words meant.

Hydra's own messages say how a word was taken, not which one was meant, and leave
tracebacks where a group is null. So every word is looked at first, against the schema
and the files under ``conf/``; what only the composition can tell is said afterwards.
"""

import re
import typing
from argparse import ArgumentError, Namespace
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, QuotedString
from hydra.errors import HydraException
from omegaconf import BooleanNode, FloatNode, IntegerNode
from omegaconf.errors import OmegaConfBaseException

from energyflow_mlx.config import Config, objectives_type
from energyflow_mlx.config.root import ENCODERS
from energyflow_mlx.config.store import CONF_FOLDER
from energyflow_mlx.config.wording import expected, keys_of, suggestion
from energyflow_mlx.errors import InputError

_NODES: dict[Any, Callable[..., Any]] = {
    int: IntegerNode,
    float: FloatNode,
    bool: BooleanNode,
}
_ONE_OF = ("run", "multirun", "cfg", "info")
_EXPERIMENT = "experiment"
_OPTIONAL = (_EXPERIMENT, "lattice")


def options() -> dict[str, list[str]]:
    """Files that can be chosen for each group, by the group's name."""
    groups = sorted(path for path in CONF_FOLDER.iterdir() if path.is_dir())
    return {g.name: sorted(file.stem for file in g.glob("*.yaml")) for g in groups}


@cache
def settings() -> dict[str, Any]:
    """Every key of a run's configuration, of any encoder, with its annotation."""
    known = dict(keys_of(Config)) | dict(keys_of(objectives_type(), "objectives."))
    for family in ENCODERS.values():
        known |= keys_of(family, "encoder.")
    return known


def usage(program: str) -> str:
    """Help text: what can be chosen and set, and how.

    Args:
        program: The command as it was typed.
    """
    experiments = [f"  {n:14}{_purpose(n)}" for n in options()[_EXPERIMENT]]
    groups = [
        f"  {name:14}{', '.join(files)}"
        for name, files in options().items()
        if name != _EXPERIMENT
    ]
    return "\n".join(
        [
            f"usage: {program} [-m] [+experiment=NAME] [group=choice] [key=value] ...",
            "",
            "Train an encoder and a decoder; the same command resumes a run. Without",
            "any word it trains a tiny model on built-in captions, in a minute.",
            "",
            "experiments:",
            *experiments,
            "",
            "groups and their choices:",
            *groups,
            "",
            "keys, such as data.train=my.txt run.dir=runs/mine trainer.epochs=6:",
            f"  {program} +experiment=NAME --cfg job shows all with their values;",
            "  docs/configuration.md says what each means",
            "",
            "sweeps: -m runs every combination of values given as a,b,c",
            "",
            "A list is typed [a,b]; quote it for the shell. --hydra-help lists what",
            "else Hydra takes.",
            "",
        ]
    )


def _purpose(experiment: str) -> str:
    """What an experiment's file says first about it."""
    path = CONF_FOLDER / _EXPERIMENT / f"{experiment}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    said = [line for line in lines if line[:1] == "#" and "@package" not in line]
    return " ".join(line.lstrip("# ") for line in said).partition(". ")[0].rstrip(".")


def check(words: Sequence[str]) -> None:
    """Refuse words that no configuration can take.

    Args:
        words: The command line.

    Raises:
        InputError: An unknown option, key or choice; says what may have been meant.
    """
    taken = _flags(words)
    parser = OverridesParser.create()
    for word in taken.overrides:
        if "=" not in word and not word.startswith("~"):
            hint = suggestion(word.lstrip("+"), options())
            raise InputError(
                f"[arguments] expected key=value, got {word!r}{hint or '.'}"
            )
        try:
            _check(word, parser.parse_override(word))
        except HydraException as error:
            why = str(error).splitlines()[0]
            raise InputError(
                f"[arguments] {word!r} cannot be read: {why}; quote it for the shell "
                "where it has brackets or spaces."
            ) from None


def _flags(words: Sequence[str]) -> Namespace:
    """Hydra's own options and, as ``overrides``, the words beside them."""
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        taken, unknown = parser.parse_known_args(list(words))
    except ArgumentError as error:
        raise InputError(f"[arguments] {error}.") from None
    if unknown and "=" in unknown[0] and not unknown[0].startswith("-"):
        raise InputError(
            f"[arguments] options such as -m go before the first key=value or after "
            f"the last, got one before {unknown[0]}."
        )
    if unknown:
        raise InputError(f"[arguments] unknown option {unknown[0]}; see --help.")
    if taken.resolve and not taken.cfg:
        raise InputError("[arguments] --resolve is for --cfg alone.")
    given = [name for name in _ONE_OF if getattr(taken, name)]
    if len(given) > 1:
        names = " and ".join(f"--{name}" for name in given)
        raise InputError(f"[arguments] {names} exclude each other.")
    return taken


def _check(word: str, override: Override) -> None:
    key = override.key_or_group
    if key.partition(".")[0].partition("/")[0] == "hydra":
        return
    groups, known = options(), settings()
    if key in groups:
        _check_choices(word, override, groups[key])
    elif key not in known:
        hint = suggestion(key, known | groups)
        raise InputError(f"[config] unknown key {key}{hint or '; see --help.'}")
    elif override.is_add():
        raise InputError(f"[config] {key} is there already; write {word.lstrip('+')}")
    elif not override.is_delete():
        for value in _values(override):
            _check_type(key, known[key], value)


def _check_type(key: str, kind: Any, value: Any) -> None:
    """Refuse a value that OmegaConf would not take for a number or a truth value.

    It would say so too, but in a sweep only once Hydra has made the folder.
    """
    members = typing.get_args(kind) if typing.get_origin(kind) is list else ()
    node = _NODES.get(members[0] if members else kind)
    if node is None or isinstance(value, str) and "${" in value:
        return
    wrong = InputError(f"[config] {key} must be {expected(kind)}, got {str(value)!r}.")
    if members and not isinstance(value, list):
        raise wrong
    try:
        for item in value if members else [value]:
            plain = item.text if isinstance(item, QuotedString) else item
            if kind is bool and type(plain) is int:
                raise wrong  # OmegaConf takes any number for true
            node(plain, is_optional=False)
    except OmegaConfBaseException:
        raise wrong from None


def _check_choices(word: str, override: Override, choices: Sequence[str]) -> None:
    """Refuse a choice that has no file, and an experiment without its plus."""
    key = override.key_or_group
    if override.is_delete() and key in _OPTIONAL:
        return
    for value in [None] if override.is_delete() else _values(override):
        if not isinstance(value, str):
            got = "null" if value is None else str(value)
            raise InputError(
                f"[config] {key} must be one of {', '.join(choices)}, got {got}."
            )
        if value not in choices:
            hint = suggestion(value, choices).removesuffix("?")
            raise InputError(
                f"[config] {key} must be one of {', '.join(choices)}, got {value!r}"
                f"{hint + '?' if hint else '.'}"
            )
    if key == _EXPERIMENT and not override.is_add():
        raise InputError(
            f"[config] an experiment is added with a plus: write +{word.lstrip('+')}"
        )
    if key != _EXPERIMENT and override.is_add():
        raise InputError(f"[config] {key} is chosen already; write {word.lstrip('+')}")


def _values(override: Override) -> Iterable[Any]:
    """The value given, or the values of a sweep, as plain text where they are text."""
    if override.is_interval_sweep():
        interval = override.value()
        assert isinstance(interval, IntervalSweep)
        # Its sweeper draws numbers in between.
        found: Iterable[Any] = [interval.start, interval.end]
    elif override.is_sweep_override():
        found = override.sweep_string_iterator()
    else:
        found = [override.value()]
    values = [v.text if isinstance(v, QuotedString) else v for v in found]
    if not values:
        raise InputError(
            f"[arguments] {override.key_or_group} must have values to try, got none."
        )
    return values


def say(error: BaseException, words: Sequence[str]) -> str:
    """One line for an error of the composition: key, what it must be, what came.

    Args:
        error: Hydra's or OmegaConf's.
        words: The command line.
    """
    cause = error.__cause__ if isinstance(error, HydraException) else error
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        key = str(cause.full_key)
        given = next((w for w in words if w.lstrip("+").startswith(f"{key}=")), None)
        if "not in '" in str(cause):
            if key in settings():
                return f"{key} belongs to another {key.partition('.')[0]} than this."
            return f"unknown key {key}{suggestion(key, settings()) or '; see --help.'}"
        if given is not None and key in settings():
            value = given.partition("=")[2]
            return f"{key} must be {expected(settings()[key])}, got {value!r}."
    lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[0] if lines else type(error).__name__)


def null_group(words: Sequence[str]) -> str | None:
    """What to write instead of a word that sets something in a group that is null.

    Args:
        words: The command line, refused by OmegaConf without saying at which word.
    """
    for word in words:
        key, equals, value = word.lstrip("+").partition("=")
        top, dot, rest = key.partition(".")
        if not equals or not (dot or value.startswith("{")):
            continue
        if top == "objectives":
            name, dot, inner = rest.partition(".")
            inside = f"{{{inner}: {value}}}" if dot else value
            meant = f"'objectives={{{name}: {inside}}}'"
            return f"{key}: {name} is not trained here; to add it write {meant}."
        if top == "lattice":
            chosen = "|".join(options()[top])
            return f"{word}: there is no {top} here; choose one first, {top}={chosen}."
    return None
