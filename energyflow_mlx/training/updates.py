"""What the updates of a run are made of: its sentences, and what it makes itself.

Between updates a run may make examples of its own with the weights of that moment, see
``own_pairs`` and ``guesses``. Each maker says when, and which updates are made of its
examples in place of the sentences that they would have had; the others stay as they
are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing
from typing import Any, ClassVar

import mlx.core as mx

from energyflow_mlx.runs.checkpoint import Loaded
from energyflow_mlx.training.feed import Feed, Update
from energyflow_mlx.training.submitted import Contents

Context = AbstractContextManager[None]


class Maker(ABC):
    """Makes examples while a run trains, and keeps the newest.

    What it makes, and which of it an update takes, are functions of the seed, the
    update's number, the weights and what it keeps; a checkpoint holds the latter two.

    Attributes:
        doing: What is shown while it is at work.
    """

    doing: ClassVar[str]

    @abstractmethod
    def is_due(self, step: int) -> bool:
        """Whether it is at work right before update ``step``, which reads weights."""

    @abstractmethod
    def make(self, step: int) -> None:
        """Make examples.

        The model is in evaluation mode, with the weights that are measured.

        Args:
            step: Number of the update that follows.
        """

    @abstractmethod
    def contents_of(self, step: int, length: int) -> Contents | None:
        """What update ``step`` is made of, on the host, while it keeps what it does.

        Args:
            step: Its number.
            length: Tokens that its sentences would have been padded to.

        Returns:
            Its contents; none where it stays as it is.
        """

    @abstractmethod
    def prepared(self, contents: Contents, step: int) -> Update:
        """Update ``step`` of such contents, on the device."""

    @abstractmethod
    def arrays(self) -> dict[str, mx.array]:
        """What a checkpoint keeps, as ``KIND.name``; empty where there is nothing."""

    @property
    @abstractmethod
    def most_bytes(self) -> int:
        """Bytes of ``arrays`` once it keeps as much as it ever does."""

    @abstractmethod
    def restore(self, found: Loaded) -> None:
        """Go on with what a checkpoint kept.

        Raises:
            InputError: That is not of a run like this one.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What checkpoint and summary say of it."""

    def figures(self) -> dict[str, float]:
        """What a report says of its examples."""
        return {}

    @abstractmethod
    def timings(self) -> dict[str, float]:
        """What it made since asked last, and how long that took."""


class Updates:
    """Makes the updates of a run.

    Args:
        feed: Makes updates of sentences.
        makers: What else there is; of one update at most one has contents.
        weights: Makes the context in which makers are at work.
        doing: Context that shows people what is being done.
    """

    def __init__(
        self,
        feed: Feed,
        makers: Sequence[Maker],
        weights: Callable[[], Context],
        doing: Callable[[str], Context],
    ) -> None:
        self._feed, self._makers = feed, makers
        self._weights, self._doing = weights, doing

    def updates(self, start: int) -> Generator[Update]:
        """Endless updates from number ``start``, the same after a restart.

        Whoever takes the next one while ``is_due`` lets nothing be in flight then.
        """
        with closing(self._feed.updates(start)) as updates:
            for step, update in enumerate(updates, start):
                for maker in self._makers:
                    if maker.is_due(step):
                        with self._doing(maker.doing), self._weights():
                            maker.make(step)
                yield self._in_place_of(update, step)

    def _in_place_of(self, update: Update, step: int) -> Update:
        for maker in self._makers:
            contents = maker.contents_of(step, update[0].ids.shape[1])
            if contents is not None:
                return maker.prepared(contents, step)
        return update

    def is_due(self, step: int) -> bool:
        """Whether the weights are read before update ``step``."""
        return any(maker.is_due(step) for maker in self._makers)

    def contents_of(self, step: int) -> Contents:
        """What update ``step`` was made of, until something is made anew."""
        batch = self._feed.batch_of(step)
        length = batch.ids.shape[1]
        found = (maker.contents_of(step, length) for maker in self._makers)
        return next(filter(None, found), Contents("sentences", batch))

    def arrays(self) -> dict[str, mx.array]:
        """What a checkpoint keeps beside the weights."""
        kept: dict[str, mx.array] = {}
        for maker in self._makers:
            kept |= maker.arrays()
        return kept

    @property
    def most_bytes(self) -> int:
        """Bytes of ``arrays`` once they are as many as they will be."""
        return sum(maker.most_bytes for maker in self._makers)

    def restore(self, found: Loaded) -> None:
        """Go on with what a checkpoint kept; errors as of ``Maker.restore``."""
        for maker in self._makers:
            maker.restore(found)

    def to_json(self) -> dict[str, Any]:
        """What checkpoint and summary say of what was made."""
        return {key: said for m in self._makers for key, said in m.to_json().items()}

    def figures(self) -> dict[str, float]:
        """What a report says of the examples."""
        return {key: value for m in self._makers for key, value in m.figures().items()}

    def timings(self) -> dict[str, float]:
        """What was made since asked last, and how long that took."""
        return {key: value for m in self._makers for key, value in m.timings().items()}
