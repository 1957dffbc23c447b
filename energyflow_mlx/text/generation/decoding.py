"""How vectors become sentences: each setting of decoding, its default and range."""

from dataclasses import dataclass, field, replace
from typing import Any

from energyflow_mlx.errors import InputError

EMBEDDERS = ("student", "teacher")
SAMPLED_AT = 0.7  # temperature of the tries after the first, where none is given
MOST_SAMPLES = 1024


def _setting(default: Any, meaning: str) -> Any:
    """Field with its meaning, which the command line shows as help."""
    return field(default=default, metadata={"help": meaning})


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
        samples: Tries of each row in each round, of which the best by the embedder's
            cosine is kept. The first is as the other settings say, the others are
            drawn, at a temperature of ``SAMPLED_AT`` where that is 0.
        embedder: Whose vectors the texts are compared by: those of the ``student``,
            the model's own encoder, or of its run's ``teacher``.
        seed: Seed of the sampling.
    """

    max_length: int = _setting(64, "longest text in tokens")
    temperature: float = _setting(0.0, "0 = greedy")
    top_k: int = _setting(0, "sample among the k likeliest")
    top_p: float = _setting(1.0, "sample within this mass")
    beams: int = _setting(1, "width of beam search")
    length_penalty: float = _setting(1.0, "of beam search, an exponent")
    corrections: int = _setting(0, "times a text is encoded and mended")
    samples: int = _setting(1, "tries a round, the best is kept")
    embedder: str = _setting("student", "student or teacher: whose vectors judge")
    seed: int = _setting(0, "seed of the sampling")

    @property
    def drawn(self) -> "Decoding":
        """Settings of a round's tries after the first."""
        return replace(self, temperature=self.temperature or SAMPLED_AT)

    @property
    def is_checked(self) -> bool:
        """Whether texts are embedded and compared with their vectors."""
        return self.corrections > 0 or self.samples > 1

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: A setting is out of range, or beams meet sampling.
        """
        for name, fits, range_ in (
            ("max_length", self.max_length >= 1, "at least 1"),
            ("temperature", self.temperature >= 0.0, "at least 0"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0.0 < self.top_p <= 1.0, "in (0, 1]"),
            ("beams", self.beams >= 1, "at least 1"),
            ("length_penalty", self.length_penalty >= 0.0, "at least 0"),
            ("corrections", self.corrections >= 0, "at least 0"),
            ("samples", 1 <= self.samples <= MOST_SAMPLES, f"in [1, {MOST_SAMPLES}]"),
            ("embedder", self.embedder in EMBEDDERS, " or ".join(EMBEDDERS)),
            ("seed", 0 <= self.seed < 2**64, "in [0, 2^64)"),
        ):
            if not fits:
                value = getattr(self, name)
                raise InputError(f"[decode] {name} must be {range_}, got {value}.")
        if self.beams > 1 and self.samples > 1:
            raise InputError(
                "[decode] beams must be 1 when samples is above 1, "
                f"got {self.beams} and {self.samples}."
            )
        if self.beams > 1 and self.temperature > 0.0:
            raise InputError(
                "[decode] beams must be 1 when temperature is above 0, "
                f"got {self.beams} and {self.temperature}."
            )
