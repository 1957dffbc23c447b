"""What a run of the comparison may vary, and how it is said on the command line.

Plain ``key=value`` words without any package: this runs on bare machines.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

WHOLE_RUNS = ("loop", "quality")
CASES = ("a", "b", "candidates", "lattice", "lattice_train", "encode", *WHOLE_RUNS)


@dataclass
class Settings:
    """Keys of ``python -m benchmarks.peers.run``.

    Attributes:
        device: ``cpu`` or ``gpu``.
        what: Cases, separated by commas: updates of objective ``a`` (distillation) and
            ``b`` (reconstruction, the whole vocabulary), ``candidates`` (``b`` with
            sampled softmax), ``lattice`` (forward) and ``lattice_train`` (forward and
            backward), ``encode`` (texts to vectors), ``loop`` (the trainer's loop,
            batches included), ``quality`` (the main job up to ``goal``).
        batch: Sentences of an update.
        bucket: Tokens each sentence is padded to.
        vocabulary: Rows of the token tables; 0 = as many as the data need.
        lattice: Preset of the lattice, and ``group.key=value`` changes after commas.
        lattice_batch: Vectors that pass it together.
        candidates: Rows of the sampled softmax, in the case of that name.
        precision: ``float32`` or ``bfloat16``.
        rounds: Samples of each side, taken in turn.
        seconds: Length of a sample.
        slice: Updates of a whole run between two turns.
        goal: Held-out cosine that ends the case ``quality``.
        threads: Threads of each side on the CPU; 0 = every core.
        variants: Forms of the PyTorch twin to choose from, separated by commas; none =
            those that are worth trying on the device. The fastest is compared.
        data: File of sentences; none = the built-in captions.
        folder: Where sentences and vectors are kept between runs.
        output: Folder of table, JSON and plot.
        name: Name of those files; none = kind of machine and precision.
        twin: Python that has PyTorch; none = this one.
        lock: File whose lock is held while something is timed, where others share the
            machine; none = no lock.
    """

    device: str = "cpu"
    what: str = "a,b,candidates"
    batch: int = 256
    bucket: int = 24
    vocabulary: int = 0
    candidates: int = 2048
    lattice: str = "debug"
    lattice_batch: int = 32
    precision: str = "float32"
    rounds: int = 5
    seconds: float = 1.5
    slice: int = 25
    goal: float = 0.95
    threads: int = 0
    variants: str = ""
    data: str = ""
    folder: str = "benchmarks/peers/.data"
    output: str = "benchmarks/results"
    name: str = ""
    twin: str = ""
    lock: str = ""

    def __post_init__(self) -> None:
        """Check what can be checked without a machine.

        Raises:
            ValueError: A value is out of range.
        """
        _require(self.device in ("cpu", "gpu"), "device", "cpu or gpu", self.device)
        precisions = ("float32", "bfloat16")
        known = self.precision in precisions
        _require(known, "precision", " or ".join(precisions), self.precision)
        unknown = sorted(set(self.cases) - set(CASES))
        _require(not unknown, "what", f"some of {','.join(CASES)}", self.what)
        for name in ("batch", "bucket", "candidates", "rounds", "slice"):
            value = getattr(self, name)
            _require(value >= 1, name, ">= 1", value)
        if self.threads == 0:
            self.threads = _cores()

    @property
    def cases(self) -> list[str]:
        """Cases by name."""
        return [name for name in self.what.split(",") if name]

    @property
    def tolerance(self) -> str:
        """Which tolerances apply: of the format that products are computed in."""
        is_tf32 = self.device == "gpu" and self.precision == "float32"
        return "tf32" if is_tf32 else self.precision

    def to_json(self) -> dict:
        """Plain dictionary."""
        return asdict(self)

    def told(self) -> dict:
        """What a record tells of the settings: all but where things lie here."""
        kept = {k: v for k, v in asdict(self).items() if k not in _PLACES}
        return kept | {"data": Path(self.data).name}


_PLACES = ("folder", "output", "twin", "lock")


def public_words(words: Sequence[str]) -> list[str]:
    """Words of a command line without what only names places here."""
    pairs = [word.partition("=") for word in words]
    return [
        f"{key}={Path(value).name if key == 'data' else value}"
        for key, _, value in pairs
        if key not in _PLACES
    ]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ValueError(f"[peers] {name} must be {expected}, got {got}.")


def parse(words: Sequence[str]) -> Settings:
    """Settings from ``key=value`` words.

    Raises:
        ValueError: A word is no pair, or a key or value is unknown.
    """
    kinds = {f.name: type(f.default) for f in fields(Settings)}
    values = {}
    for word in words:
        key, equals, value = word.partition("=")
        _require(bool(equals) and key in kinds, "a word", "key=value", word)
        try:
            values[key] = kinds[key](value)
        except ValueError:
            _require(False, key, f"of type {kinds[key].__name__}", value)
    return Settings(**values)


def refuse(message: object) -> None:
    """End with one line and exit status 2."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)
