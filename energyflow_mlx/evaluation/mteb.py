"""A codec as an encoder of MTEB, and an STS file as one of its tasks.

    mteb.evaluate(MtebEncoder(codec), mteb.get_tasks(tasks=["STSBenchmark"]))

Needs the extra ``mteb``. Its figures lie between -1 and 1; ``evaluate`` says them
x 100. Source: Muennighoff et al., "MTEB: Massive Text Embedding Benchmark", EACL 2023.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from energyflow_mlx.evaluation.similarity import read_sts


class Encoder(Protocol):
    """What is asked of a codec."""

    def encode(self, sentences: list[str], *, batch_size: int) -> np.ndarray:
        """Vectors of sentences, ``[N, E]``."""

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Cosine of all pairs, ``[N, M]``."""

    def similarity_pairwise(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Cosine of matching rows, ``[N]``."""

    def get_sentence_embedding_dimension(self) -> int:
        """Size E of the vectors."""


class MtebEncoder:
    """MTEB's ``EncoderProtocol`` around a codec.

    Attributes:
        codec: What encodes, such as ``energyflow_mlx.load(...)``.
        mteb_model_meta: MTEB's record of the model.
    """

    def __init__(
        self, codec: Encoder, name: str = "energyflow/model", batch_size: int = 0
    ) -> None:
        """Wrap a codec.

        Args:
            codec: What encodes.
            name: ``organization/name`` under which MTEB files the results.
            batch_size: As for ``codec.encode``; MTEB's own size suits other devices.
        """
        from mteb.models import ModelMeta

        self.codec = codec
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": name,
                "revision": "local",
                "embed_dim": codec.get_sentence_embedding_dimension(),
                "similarity_fn_name": "cosine",
                "use_instructions": False,
            }
        )
        self._batch_size = batch_size

    def encode(
        self, inputs: Iterable[Mapping[str, Any]], *_: Any, **__: Any
    ) -> np.ndarray:
        """Vectors ``[N, E]`` of the texts of all batches; there are no prompts.

        Args:
            inputs: MTEB's batches; ``text`` of each is a list of sentences.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        return self.codec.encode(texts, batch_size=self._batch_size)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Cosine of all pairs, ``[N, M]``."""
        return self.codec.similarity(np.asarray(embeddings1), np.asarray(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Cosine of matching rows, ``[N]``."""
        first, second = np.asarray(embeddings1), np.asarray(embeddings2)
        return self.codec.similarity_pairwise(first, second)


def sts_task(path: str | Path) -> Any:
    """An ``AbsTaskSTS`` of MTEB whose pairs are those of an STS file.

    Args:
        path: ``score<TAB>sentence<TAB>sentence`` lines; the task has the file's name.

    Raises:
        InputError: The file is missing or damaged.
    """
    import datasets
    from mteb.abstasks import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    pairs, name = read_sts(Path(path)), Path(path).stem
    known = TaskMetadata(
        name=name,
        description=f"Sentence pairs of the file {Path(path).name}.",
        dataset={"path": "local/file", "revision": "local"},
        type="STS",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="cosine_spearman",
    )

    class FileTask(AbsTaskSTS):
        """The file's pairs."""

        metadata = known
        min_score, max_score = float(pairs.scores.min()), float(pairs.scores.max())

        def load_data(self, *_: Any, **__: Any) -> None:
            """Hand over what was read already."""
            columns = {
                "sentence1": pairs.first,
                "sentence2": pairs.second,
                "score": pairs.scores.tolist(),
            }
            self.dataset = {"test": datasets.Dataset.from_dict(columns)}
            self.data_loaded = True

    return FileTask()
