"""Plain words about keys and values: what was meant, what a value must be."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Iterator
from typing import Any

_EXPECTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
}


_LISTS = {int: "[16,32]", float: "[0.9,0.999]", str: "[a,b]"}


def suggestion(word: str, known: Collection[str]) -> str:
    """End of a message about an unknown word: ``; did you mean X?``, or nothing.

    Args:
        word: What was typed, a key with its dots or one word.
        known: What could have been typed.
    """
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    if not near:  # the right name in the wrong group, or in none
        last = word.rpartition(".")[2]
        near = [name for name in sorted(known) if name.rpartition(".")[2] == last]
    if not near:
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""


def expected(kind: Any) -> str:
    """What a value of an annotated type must be, in words.

    Args:
        kind: The annotation: a plain type, a list, a dataclass, any of them or none.
    """
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        members = [k for k in typing.get_args(kind) if k is not types.NoneType]
        return " or ".join([*map(expected, members), "null"])
    if typing.get_origin(kind) is list:
        (member,) = typing.get_args(kind)
        return f"a list, such as {_LISTS[member]}"
    if dataclasses.is_dataclass(kind):
        names = ", ".join(field.name for field in dataclasses.fields(kind))
        return f"settings in braces, of {names}"
    return _EXPECTED.get(kind, "another value")


def keys_of(schema: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a dataclass with its annotation, groups before what is in them.

    Args:
        schema: The dataclass.
        prefix: What stands before its keys, with the dot.
    """
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind = hints[field.name]
        yield f"{prefix}{field.name}", kind
        for member in (kind, *typing.get_args(kind)):
            if dataclasses.is_dataclass(member):
                yield from keys_of(member, f"{prefix}{field.name}.")
