"""A few held-out sentences that a reader follows through a run.

The same seeded choice is written out greedily at every validation, on every path that
the objectives decode on, and goes into ``samples.jsonl``, one object a line::

    {"step": 44, "path": "plain", "sentence": 17, "original": "...", "decoded": "...",
     "cosine": 0.83}

``cosine`` is that of the teacher's vector of what was decoded with the sentence's own
vector; ``null`` where the teacher cannot read text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from energyflow_mlx.data.dataset import permutation
from energyflow_mlx.evaluation.held_out import Embed, HeldOut, Measured, ReadBack
from energyflow_mlx.evaluation.similarity import cosine_rows
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import MetricsLog, digest_at_end
from energyflow_mlx.training.feed import RunData

PLAIN = "plain"  # name of the path whose metrics have no suffix

Record = dict[str, Any]


@dataclass(frozen=True)
class FollowedSentences:
    """The sentences that are followed, and who writes them where.

    Attributes:
        codec: The model that trains.
        objectives: What decodes; some decode nothing.
        sentences: The chosen ones, with their vectors.
        numbers: Their places in the held-out set, ascending.
        embed: The teacher's vectors of texts; none where it cannot read.
        folder: The run's folder.
    """

    codec: SentenceCodec
    objectives: Sequence[Measured]
    sentences: HeldOut
    numbers: Sequence[int]
    embed: Embed | None
    folder: RunFolder

    @classmethod
    def choose(
        cls,
        codec: SentenceCodec,
        objectives: Sequence[Measured],
        data: RunData,
        folder: RunFolder,
    ) -> "FollowedSentences":
        """A seeded choice of the held-out sentences with text, in the set's order."""
        config = codec.config
        order = permutation(len(data.held_out.texts), config.seed)
        numbers = np.sort(order[: config.trainer.follow_samples])
        sentences = data.held_out.subset(numbers)
        return cls(codec, objectives, sentences, numbers.tolist(), data.embed, folder)

    @property
    def digest(self) -> str:
        """Digest of all that was written, as that of the metrics log."""
        return digest_at_end(self.folder.samples)

    def truncate_after(self, step: int, digest: str = "") -> None:
        """Drop records of later updates, so that a resumed run writes them anew.

        Args:
            step: The last one that stays.
            digest: What ``digest`` was at that step, where it is known; a warning says
                when records have gone since.
        """
        path = self.folder.samples
        if self.folder.is_writer and (digest or path.is_file()):
            with MetricsLog(path) as log:
                log.truncate_after(step, digest)

    def write_out(self, step: int) -> list[Record]:
        """The sentences as the model writes them now, path after path.

        They go into the run folder, where those of one update stand once.

        Args:
            step: Updates that the model has had.
        """
        model = self.codec.model
        model.eval()
        records = [
            {"step": step, **record}
            for objective in self.objectives if self.numbers
            for written in objective.read_back(self.codec, self.sentences)
            for record in self._records(written)
        ]  # fmt: skip
        model.train()
        if records:
            self.truncate_after(step - 1)
            with MetricsLog(self.folder.samples) as log:
                for record in records:
                    log.write(record)
                log.flush_to_disk()
        return records

    def _records(self, written: ReadBack) -> list[Record]:
        path = written.suffix.strip("_") or PLAIN
        cosines: Sequence[float | None] = [None] * len(written.texts)
        if self.embed is not None:
            again = self.embed(written.texts)
            cosines = cosine_rows(again, written.truth.targets).tolist()
        return [
            {"path": path, "sentence": number, "original": original}
            | {"decoded": decoded, "cosine": cosine}
            for number, original, decoded, cosine in zip(
                *(self.numbers, self.sentences.texts, written.texts, cosines),
                strict=True,
            )
        ]
