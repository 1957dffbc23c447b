"""What training did to a model: the parts it reached, and how its text was spelt.

Written into every checkpoint. Whoever wants to use a part asks here whether it was ever
trained: a part that no objective reached holds the random numbers of its start.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.received import require_type

_STORED = {"trained": list[str], "tokens_per_word": float | None, "step": int}


@dataclass(frozen=True)
class Record:
    """The record of a model; by default of one whose parts are all fit for use.

    Attributes:
        trained: Prefixes of the parameters that its objectives reach; an empty one is
            above all.
        tokens_per_word: Of the training text; none where there was no text, or where
            an earlier version trained.
        step: Update that the weights are from.
    """

    trained: frozenset[str] = frozenset({""})
    tokens_per_word: float | None = None
    step: int = 0

    def has_trained(self, path: str) -> bool:
        """Whether training reaches a part or a parameter."""
        return any(not p or f"{path}.".startswith(f"{p}.") for p in self.trained)

    def has_reached(self, part: str) -> bool:
        """Whether training reaches any of a part."""
        within = any(p.startswith(f"{part}.") for p in self.trained)
        return within or self.has_trained(part)

    def require(self, call: str, parts: Iterable[str]) -> None:
        """Refuse a call that wants a part which was never trained.

        Args:
            call: What the user called, for the message.
            parts: Paths, such as ``decoder`` or ``lattice.mapper``.

        Raises:
            InputError: A part was never trained; names it, and those that were.
        """
        for part in parts:
            if not self.has_trained(part):
                raise InputError(
                    f"[{call}] the {part} of this model was never trained; its run "
                    f"trained {', '.join(sorted(self.trained))}."
                )

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for the checkpoint's meta data, without the update."""
        return {
            "trained": sorted(self.trained),
            "tokens_per_word": self.tokens_per_word,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], trained: Iterable[str]) -> "Record":
        """Record of a checkpoint's meta data.

        Args:
            values: The meta data.
            trained: What the run's objectives reach; holds where an earlier version
                wrote the checkpoint, which kept no record.

        Raises:
            InputError: A value is of another type than ``to_json`` writes.
        """
        found = {
            "trained": values.get("trained", list(trained)),
            "tokens_per_word": values.get("tokens_per_word"),
            "step": values.get("step", 0),
        }
        for key, kind in _STORED.items():
            require_type(found[key], kind, f"[record] {key} of the model")
        return cls(frozenset(found["trained"]), found["tokens_per_word"], found["step"])


@dataclass(frozen=True)
class Start:
    """What a run took over from the one it starts from.

    Attributes:
        run: That run, as the user named it.
        step: Update that its weights are from.
        trained: Prefixes of the parameters that were taken, all trained there.
        fresh: Parts of the model that start anew.
        tokens: Tokens of the vocabulary that both have.
        new_tokens: The others: rows of the token tables that start as the mean of the
            rows which spelt the token there.
    """

    run: str
    step: int
    trained: frozenset[str]
    fresh: frozenset[str]
    tokens: int
    new_tokens: int

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, for the summary."""
        return {
            "run": self.run,
            "step": self.step,
            "taken": sorted(self.trained),
            "fresh": sorted(self.fresh),
            "tokens": self.tokens,
            "new_tokens": self.new_tokens,
        }

    def __str__(self) -> str:
        """For the run header."""
        said = f"{self.run}, update {self.step}: {', '.join(sorted(self.trained))}"
        said += f"; {self.tokens} tokens known, {self.new_tokens} new"
        return said + (f"; fresh {', '.join(sorted(self.fresh))}" if self.fresh else "")
