"""How vectors become sentences: each setting of decoding, its default and range."""

from dataclasses import dataclass, field
from typing import Any

from energyflow_mlx.errors import InputError


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
            first guess; they want an encoder, which ``generate`` does not have.
        seed: Seed of the sampling.
    """

    max_length: int = _setting(64, "longest text in tokens")
    temperature: float = _setting(0.0, "0 = greedy")
    top_k: int = _setting(0, "sample among the k likeliest")
    top_p: float = _setting(1.0, "sample within this mass")
    beams: int = _setting(1, "width of beam search")
    length_penalty: float = _setting(1.0, "of beam search, an exponent")
    corrections: int = _setting(0, "times a text is encoded and mended")
    seed: int = _setting(0, "seed of the sampling")

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
            ("seed", 0 <= self.seed < 2**64, "in [0, 2^64)"),
        ):
            if not fits:
                value = getattr(self, name)
                raise InputError(f"[decode] {name} must be {range_}, got {value}.")
        if self.beams > 1 and self.temperature > 0.0:
            raise InputError(
                "[decode] beams must be 1 when temperature is above 0, "
                f"got {self.beams} and {self.temperature}."
            )
