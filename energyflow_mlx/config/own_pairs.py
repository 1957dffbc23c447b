"""Config of the pairs that a run makes itself: types, ranges, units."""

from dataclasses import dataclass
from typing import Any

from energyflow_mlx.config.checks import (
    COLDEST,
    COUNT,
    HOTTEST,
    as_paths,
    require_choice,
    require_range,
)

EMBEDDERS = ("teacher", "student")
MOST_SAMPLED = 2**20  # at a time
MOST_HELD = 2**24
MOST_NOISE = 1e4  # times a vector's length: nothing is left of the vector


@dataclass
class OwnPairsConfig:
    """Sentences that the decoder samples while it trains, with their vectors.

    Attributes:
        share: Share of the reconstruction updates that are made of own pairs in place
            of training sentences, [0, 1]; 0 = none are made.
        embedder: Whose vectors the sampled sentences get: the ``teacher``'s, or those
            of the ``student``'s own encoder as it is then.
        start: Updates before the first sampling: what a decoder writes that has learnt
            little is of little use.
        every: Updates between two samplings.
        count: Sentences sampled each time.
        ring: Pairs held in memory and in every checkpoint; new ones take the place of
            the oldest.
        temperature: Of the sampling.
        noise: Length of the random step away from each target vector that is decoded,
            relative to the vector's own.
        interpolate: Share of the decoded vectors that lie between those of two
            training sentences, [0, 1].
        of: Whose vectors they lie near or between: a path or a list of paths of
            ``data.train``; none = all.
    """

    share: float = 0.0
    embedder: str = "teacher"
    start: int = 0
    every: int = 100
    count: int = 1024
    ring: int = 65_536
    temperature: float = 0.7
    noise: float = 0.3
    interpolate: float = 0.5
    of: Any = None

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, least, most in (
            ("share", 0, 1),
            ("interpolate", 0, 1),
            ("start", 0, COUNT),
            ("every", 1, COUNT),
            ("count", 1, MOST_SAMPLED),
            ("ring", 1, MOST_HELD),
            ("temperature", COLDEST, HOTTEST),
            ("noise", 0, MOST_NOISE),
        ):
            require_range(getattr(self, name), f"data.own_pairs.{name}", least, most)
        require_choice(self.embedder, "data.own_pairs.embedder", EMBEDDERS)
        self.of = as_paths(self.of, "data.own_pairs.of")
