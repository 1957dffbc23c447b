"""Which examples a run makes itself, by its configuration."""

from collections.abc import Iterable

from energyflow_mlx.config import Config
from energyflow_mlx.data.ring import PairRing
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.training.alternation import Alternation
from energyflow_mlx.training.feed import Feed, RunData
from energyflow_mlx.training.guesses import Guesses
from energyflow_mlx.training.objectives.base import Objective
from energyflow_mlx.training.own_pairs import OwnPairs
from energyflow_mlx.training.updates import Maker


def makers_for(
    config: Config,
    objectives: Iterable[Objective],
    codec: SentenceCodec,
    data: RunData,
    feed: Feed,
    alternation: Alternation,
) -> list[Maker]:
    """What makes examples beside the sentences; ``build`` has checked that it can.

    Args:
        config: The run's configuration.
        objectives: What the run trains.
        codec: The model in training.
        data: Sentences, their vectors, and the teacher.
        feed: Makes updates of sentences.
        alternation: Says what each update trains.
    """
    objectives, makers = list(objectives), list[Maker]()
    ring: PairRing | None = None
    if config.data.own_pairs.share:
        takers = [o.name for o in objectives if o.takes_own_pairs]
        own = OwnPairs(config, codec, data, feed, alternation, takers)
        ring = own.ring
        makers.append(own)  # first: the newest pairs are guessed at, too
    for objective in objectives:
        if objective.guessing is not None:
            makers.append(Guesses(objective, codec, data, feed, alternation, ring))
    return makers
