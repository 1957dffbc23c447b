"""Config of the pairs that a run makes itself: types, ranges, units."""

from dataclasses import dataclass

from energyflow_mlx.config.checks import require, require_choice

EMBEDDERS = ("teacher", "student")


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

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("share", "interpolate"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.own_pairs.{name}", "in [0, 1]", value)
        for name in ("every", "count", "ring"):
            value = getattr(self, name)
            require(value >= 1, f"data.own_pairs.{name}", ">= 1", value)
        require(
            self.temperature > 0,
            "data.own_pairs.temperature",
            "> 0",
            self.temperature,
        )
        for name in ("start", "noise"):
            value = getattr(self, name)
            require(value >= 0, f"data.own_pairs.{name}", ">= 0", value)
        require_choice(self.embedder, "data.own_pairs.embedder", EMBEDDERS)
