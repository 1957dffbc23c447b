"""How vectors become sentences: each setting of decoding, its default and range."""

from dataclasses import dataclass, field, replace
from typing import Any

from energyflow_mlx.config.checks import (
    COLDEST,
    COUNT,
    HOTTEST,
    MOST_SEED,
    bounds,
    require_bounds,
)
from energyflow_mlx.config.own_pairs import EMBEDDERS
from energyflow_mlx.errors import InputError

LONGEST = 4096  # tokens
_MOST_BEAMS = 1024  # each is a row of every matrix product
_MOST_SAMPLES = 1024  # so is each of these
_MOST_ROUNDS = 1000
_FACTOR = 1e4  # of an exponent: beyond it nothing changes
_DRAWN_AT = 0.7  # temperature of the tries after the first, where none is given


def _setting(default: Any, meaning: str, least: float, most: float = COUNT) -> Any:
    """Field with its meaning, which the command line shows as help, and its bounds."""
    return field(default=default, metadata={"help": meaning} | bounds(least, most))


@dataclass(frozen=True)
class Decoding:
    """Settings of decoding, checked where they are made.

    Attributes:
        max_length: Most tokens to generate, the end token included.
        temperature: 0 takes the likeliest token, above 0 samples.
        top_k: Sample among that many likeliest tokens; 0 means all.
        top_p: Sample among the likeliest tokens holding this share; 1 means all.
        beams: Above 1, beam search; not together with sampling.
        length_penalty: Beam search ranks by ``log p / length^length_penalty``.
        corrections: Rounds of iterative correction (see ``correction``) after the
            first guess; they want an embedder, which ``generate`` does not have.
        samples: Tries of each row in each round; the best text by the embedder's cosine
            is returned. The first is as the other settings say, the others are drawn,
            at a temperature of 0.7 where that is 0. In corrections the best half as
            many guesses go on, with two tries each.
        edits: Rounds in which texts are tried that differ from the best one so far by a
            token or a moved phrase (see ``edits``), after the last correction.
        embedder: Whose vectors the texts are compared by: those of the ``student``,
            the model's own encoder, or of its run's ``teacher``.
        seed: Seed of the sampling.
    """

    max_length: int = _setting(64, "longest text in tokens", 1, LONGEST)
    temperature: float = _setting(0.0, "0 = greedy", 0, HOTTEST)
    top_k: int = _setting(0, "sample among the k likeliest", 0)
    top_p: float = _setting(1.0, "sample within this mass", 0, 1)
    beams: int = _setting(1, "width of beam search", 1, _MOST_BEAMS)
    length_penalty: float = _setting(1.0, "of beam search, an exponent", 0, _FACTOR)
    corrections: int = _setting(
        0, "times a text is encoded and mended", 0, _MOST_ROUNDS
    )
    samples: int = _setting(1, "tries a round, the best is kept", 1, _MOST_SAMPLES)
    edits: int = _setting(
        0, "rounds of edits of the best text at the end", 0, _MOST_ROUNDS
    )
    embedder: str = field(
        default="student",
        metadata={"help": "student or teacher: whose vectors judge"},
    )
    seed: int = _setting(0, "seed of the sampling", 0, MOST_SEED)

    @property
    def drawn(self) -> "Decoding":
        """Settings of a round's tries after the first."""
        return replace(self, temperature=self.temperature or _DRAWN_AT)

    @property
    def kept(self) -> int:
        """Guesses of a row that go on in corrections: two tries a round for each."""
        return max(1, self.samples // 2)

    @property
    def is_checked(self) -> bool:
        """Whether texts are embedded and compared with their vectors."""
        return self.corrections > 0 or self.samples > 1 or self.edits > 0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: A setting is out of range, or beams meet sampling.
        """
        require_bounds(self, "decode")
        if not self.top_p:
            raise InputError(f"[decode] top_p must be above 0, got {self.top_p}.")
        if self.embedder not in EMBEDDERS:
            raise InputError(
                f"[decode] embedder must be {' or '.join(EMBEDDERS)}, got "
                f"{self.embedder}."
            )
        if self.beams > 1 and self.samples > 1:
            raise InputError(
                "[decode] beams must be 1 when samples is above 1, "
                f"got {self.beams} and {self.samples}."
            )
        if 0 < self.temperature < COLDEST:
            raise InputError(
                f"[decode] temperature must be 0 or >= {COLDEST}, got "
                f"{self.temperature}."
            )
        if self.beams > 1 and self.temperature > 0.0:
            raise InputError(
                "[decode] beams must be 1 when temperature is above 0, "
                f"got {self.beams} and {self.temperature}."
            )
