"""What the suite runs: every benchmark in a short form, each with a limit in seconds.

A script that runs past its limit is ended and counts as failed, so the sum of the
limits bounds the whole suite.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
MOST_SECONDS = 600  # all limits together


@dataclass(frozen=True)
class Entry:
    """A benchmark in its short form.

    Attributes:
        script: Its path under ``benchmarks/``.
        words: Options of the short form.
        limit_s: Seconds after which it is ended.
    """

    script: str
    words: tuple[str, ...]
    limit_s: int

    @property
    def name(self) -> str:
        """What the table calls it: the script without ``bench_``."""
        return Path(self.script).stem.removeprefix("bench_")

    @property
    def command(self) -> str:
        """The line that runs it alone, in the checkout."""
        return " ".join(["python", f"benchmarks/{self.script}", *self.words])


def _op(name: str, *words: str, limit_s: int = 15) -> Entry:
    return Entry(f"ops/bench_{name}.py", words or ("--rounds", "5"), limit_s)


ENTRIES = (
    _op("layer_norm"),
    _op("lattice_scatter"),
)


def chosen(names: list[str]) -> list[Entry]:
    """Entries by name, in the suite's order; all when none is named.

    Raises:
        KeyError: A name is not in the suite.
    """
    known = {entry.name: entry for entry in ENTRIES}
    wanted = {known[name].name for name in names} or set(known)
    return [entry for entry in ENTRIES if entry.name in wanted]
