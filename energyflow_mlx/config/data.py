"""Config of sentences, batches and the teacher: types, ranges, units."""

from dataclasses import dataclass, field
from typing import Any

from energyflow_mlx.config.checks import (
    as_paths,
    require,
    require_choice,
    require_range,
)
from energyflow_mlx.config.own_pairs import OwnPairsConfig

# Shapes of a batch, and so traces of an objective's update.
MOST_BUCKETS = 8
LONGEST = 2**16  # tokens of a sentence
MOST_CAPTIONS = 1_000_000
MOST_EDITS = 2**24
_MOST_AHEAD = 1024
FORMATS = ("auto", "text", "jsonl", "csv", "efb", "npy", "hf")


@dataclass
class EditsConfig:
    """Edited sentences beside the training sentences: near real ones, none of them.

    Attributes:
        count: Edited sentences made, each embedded by the teacher; 0 = none.
        of: Which of ``data.train`` are edited, a path or a list of paths; none = all.
    """

    count: int = 0
    of: Any = None

    def __post_init__(self) -> None:
        """Check ranges and normalize paths to lists."""
        require_range(self.count, "data.edits.count", 0, MOST_EDITS)
        self.of = as_paths(self.of, "data.edits.of")


@dataclass
class DataConfig:
    """Where sentences come from and how they are batched.

    Attributes:
        train: Path or list of paths; none = the built-in captions.
        val: Path or list of paths; none = ``val_fraction`` of the training data.
        format: ``auto`` follows the suffix; any other value insists on it. ``hf``:
            ``train`` and ``val`` are Hugging Face datasets, by path or by name.
        text_column: Where a sentence stands: the key of a JSON record, or the column
            of a dataset or of a ``.csv`` or ``.tsv`` file, whose first line names its
            columns.
        split: Split of a dataset that ``train`` takes.
        val_split: Its split that ``val`` takes.
        subset: Its configuration, where it has several.
        pairs: Map the vector of each ``text`` to that of its ``pair_target`` in
            JSON Lines, or the first half of each row of a ``.npy`` file to the second
            (objective ``flow`` only).
        captions: Number of built-in captions to generate, when no file is given.
        val_fraction: Share held out when ``val`` is not given, (0, 0.5].
        val_limit: Sentences used for validation during training; 0 = all.
        limit: Use at most this many training sentences; 0 = all.
        max_length: Longest sentence in tokens, start and end included.
        buckets: Lengths that batches are padded to, ascending; sentences longer
            than the last are cut to it. None given: chosen from the training
            sentences when the run begins.
        most_buckets: Lengths that are chosen at most, 1 to 8: each is a shape that an
            objective's update is traced for.
        prefetch: Batches prepared ahead on a thread.
        own_pairs: Sentences that the run makes itself; see ``OwnPairsConfig``.
        edits: Edited sentences to train on too; see ``EditsConfig``.
    """

    train: Any = None
    val: Any = None
    format: str = "auto"
    text_column: str = "text"
    split: str = "train"
    val_split: str = "validation"
    subset: str | None = None
    pairs: bool = False
    captions: int = 20_000
    val_fraction: float = 0.05
    val_limit: int = 1000
    limit: int = 0
    max_length: int = 128
    buckets: list[int] = field(default_factory=lambda: [16, 32, 64, 128])
    most_buckets: int = 8
    prefetch: int = 2
    own_pairs: OwnPairsConfig = field(default_factory=OwnPairsConfig)
    edits: EditsConfig = field(default_factory=EditsConfig)

    def __post_init__(self) -> None:
        """Check ranges and normalize paths to lists."""
        self.train = as_paths(self.train, "data.train")
        self.val = as_paths(self.val, "data.val")
        require_choice(self.format, "data.format", FORMATS)
        require(bool(self.text_column), "data.text_column", "a name", self.text_column)
        require_range(self.captions, "data.captions", 100, MOST_CAPTIONS)
        require(
            0 < self.val_fraction <= 0.5,
            "data.val_fraction",
            "in (0, 0.5]",
            self.val_fraction,
        )
        require_range(self.val_limit, "data.val_limit", 0)
        require_range(self.limit, "data.limit", 0)
        require_range(self.prefetch, "data.prefetch", 1, _MOST_AHEAD)
        require(
            1 <= self.most_buckets <= MOST_BUCKETS,
            "data.most_buckets",
            f"in [1, {MOST_BUCKETS}]",
            self.most_buckets,
        )
        require_range(self.max_length, "data.max_length", 4, LONGEST)
        if self.buckets:
            self._check_buckets()
        self._check_dataset()
        self._check_of(self.edits.of, "data.edits.of")
        self._check_of(self.own_pairs.of, "data.own_pairs.of")
        self._check_edits()
        require(
            bool(self.train) or not self.pairs,
            "data.train",
            "a path, because data.pairs is true",
            self.train,
        )
        require(
            bool(self.train) or self.format == "auto",
            "data.train",
            f"a path, because data.format is {self.format}",
            self.train,
        )

    def _check_of(self, paths: list[str], key: str) -> None:
        for path in paths:
            require(
                path in self.train,
                key,
                f"of data.train ({', '.join(self.train) or 'none is given'})",
                path,
            )

    def _check_edits(self) -> None:
        require(
            not (self.edits.count and self.pairs),
            "data.edits.count",
            "0, because data.pairs is true",
            self.edits.count,
        )

    def _check_dataset(self) -> None:
        """Keys of a dataset's splits are for datasets alone."""
        usual = {"split": "train", "val_split": "validation"}
        for name, value in {**usual, "subset": None}.items():
            given = getattr(self, name)
            require(
                self.format == "hf" or given == value,
                f"data.{name}",
                "left alone unless data=hf",
                given,
            )
        for name in usual:
            require(
                bool(getattr(self, name)), f"data.{name}", "a name", getattr(self, name)
            )
        require(
            self.format != "hf" or not self.pairs,
            "data.pairs",
            "false, because data.format is hf",
            self.pairs,
        )

    def _check_buckets(self) -> None:
        ascending = all(
            a < b for a, b in zip(self.buckets, self.buckets[1:], strict=False)
        )
        require(
            ascending and self.buckets[0] >= 4 and self.buckets[-1] <= LONGEST,
            "data.buckets",
            f"ascending lengths >= 4 and <= {LONGEST}",
            self.buckets,
        )
        require(
            self.max_length <= self.buckets[-1],
            "data.max_length",
            f"in [4, {self.buckets[-1]}] (the longest of data.buckets)",
            self.max_length,
        )


@dataclass
class TeacherConfig:
    """Which teacher gives the target vectors.

    Attributes:
        name: ``minilm`` (the installed weights package), a local folder with
            ``config.json``, ``tokenizer.json`` and ``model.safetensors``, or a
            Hugging Face hub id. For ``precomputed``: the model that made the
            vectors, which still supplies tokenizer and word embeddings.
        kind: ``bert`` runs the model, of whatever architecture; ``precomputed`` reads
            vectors; ``callable`` calls a Python function.
        function: ``package.module:name`` (``callable`` only): maps a list of texts to
            floats ``[N, E]``. It is imported only where the user types it.
        version: Of the function: another one makes cached vectors anew.
        prompt: Name of one of the folder's prompts, put before every sentence; none =
            the folder's default, if it has one.
        train_vectors: ``.npy`` rows for ``data.train`` (``precomputed`` only);
            none = the vectors inside the EFB or JSONL data.
        val_vectors: The same for ``data.val``.
        max_length: Truncation length in tokens, the one used everywhere.
        normalize: Scale every target to unit length.
        batch_size: Most sentences in a teacher's forward pass; 0 = as many as suit
            the device.
        cache_dir: Folder of cached vectors; none = the user's cache folder.
    """

    name: str = "minilm"
    kind: str = "bert"
    function: str | None = None
    version: str = ""
    prompt: str | None = None
    train_vectors: str | None = None
    val_vectors: str | None = None
    max_length: int = 128
    normalize: bool = True
    batch_size: int = 0
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice(self.kind, "teacher.kind", ("bert", "precomputed", "callable"))
        require(bool(self.name), "teacher.name", "a name or a folder", self.name)
        require_range(self.max_length, "teacher.max_length", 4, LONGEST)
        require_range(self.batch_size, "teacher.batch_size", 0)
        self._check_function()
        if self.kind != "precomputed":
            given = self.train_vectors or self.val_vectors
            require(
                given is None,
                "teacher.train_vectors",
                "unset unless teacher=precomputed",
                given,
            )

    def _check_function(self) -> None:
        is_callable = self.kind == "callable"
        require(
            bool(self.function) == is_callable,
            "teacher.function",
            "package.module:name" if is_callable else "unset unless teacher=callable",
            self.function,
        )
        require(
            is_callable or not self.version,
            "teacher.version",
            "unset unless teacher=callable",
            self.version,
        )
        require(
            not (is_callable and self.prompt),
            "teacher.prompt",
            "unset, because teacher=callable gets the bare texts",
            self.prompt,
        )
