"""Planted faults: one small change of the package each, and the tests that notice it.

A list of a room is ``faults/<room>.toml``, one ``[[fault]]`` table each:

    name        what is broken, as a claim
    file        of the checkout
    old, new    text of the file, which occurs once, and what takes its place
    tests       arguments of pytest: the few tests that must notice
    equivalent  why nothing can notice, where that is so; such a fault is not run
"""

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

LISTS = Path(__file__).resolve().parent / "faults"


@dataclass(frozen=True)
class Fault:
    """One entry of a list; the fields are those of the module's docstring."""

    room: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    equivalent: str = ""

    def planted_in(self, text: str) -> str:
        """The file's text with the fault in it.

        Raises:
            ValueError: The old text does not occur exactly once, or nothing changes.
        """
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"its text occurs {count} times in {self.file}")
        if self.old == self.new:
            raise ValueError("it changes nothing")
        return text.replace(self.old, self.new)


def rooms() -> list[str]:
    """Names of the rooms that have a list."""
    return sorted(path.stem for path in LISTS.glob("*.toml"))


def load(chosen: Collection[str] = ()) -> list[Fault]:
    """The faults of the chosen rooms, by default of all.

    Raises:
        ValueError: A room has no list.
    """
    if unknown := sorted(set(chosen) - set(rooms())):
        raise ValueError(f"no list of faults for {', '.join(unknown)}")
    found = []
    for room in chosen or rooms():
        entries = tomllib.loads((LISTS / f"{room}.toml").read_text(encoding="utf-8"))
        for entry in entries["fault"]:
            found.append(Fault(room, **entry | {"tests": tuple(entry["tests"])}))
    return found
