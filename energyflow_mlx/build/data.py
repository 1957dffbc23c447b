"""From config to data: sentences, tokenizer, teacher vectors, held-out set."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from energyflow_mlx.build.sentences import read_sets, run_sentences
from energyflow_mlx.config import Config
from energyflow_mlx.data.dataset import SentenceSet, read_many
from energyflow_mlx.data.pairs import TextPairs, read_pairs
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.held_out import Embed, HeldOut
from energyflow_mlx.evaluation.similarity import StsPairs, read_sts
from energyflow_mlx.runtime.blas import cache_folder
from energyflow_mlx.teacher.function import Embed as EmbedFunction
from energyflow_mlx.teacher.function import FunctionTeacher
from energyflow_mlx.teacher.load import embed_with, teacher_from
from energyflow_mlx.teacher.teacher import (
    PrecomputedTeacher,
    Teacher,
    cached_vectors,
)
from energyflow_mlx.text.tokenizer.foreign import spelling_of
from energyflow_mlx.text.tokenizer.tokenizer import Tokenizer
from energyflow_mlx.training.feed import RunData
from energyflow_mlx.training.objectives import Objective
from energyflow_mlx.training.pairs import PairRows

Objectives = Mapping[str, Objective]
AnyTeacher = Teacher | FunctionTeacher

_SPELT_SENTENCES = 2000


def _build_tokenizer(
    config: Config,
    train: SentenceSet,
    more: list[str],
    teacher: AnyTeacher,
    *,
    reads_text: bool,
) -> Tokenizer:
    """Tokenizer for the training sentences and ``more`` texts that are trained on."""
    settings = config.tokenizer
    if settings.kind == "bpe":
        if not reads_text:  # nothing to read or write: the smallest one
            return Tokenizer.train_bpe([], settings.bpe_size)
        if train.texts is None:
            raise InputError("[data] tokenizer.kind=bpe needs text, got token ids.")
        return Tokenizer.train_bpe(train.texts + more, settings.bpe_size)
    assert teacher.tokenizer_path is not None  # the configuration is checked for it
    if not reads_text:
        return Tokenizer.from_source(teacher.tokenizer_path, [])
    corpus = train.texts + more if train.texts is not None else train.ids
    if settings.full_vocabulary:
        corpus = None
    return Tokenizer.from_source(
        teacher.tokenizer_path, corpus, min_count=settings.min_count
    )


def _token_ids(
    sentences: SentenceSet, tokenizer: Tokenizer, config: Config, *, reads_text: bool
) -> list[np.ndarray]:
    """Token ids of a set, from its text or from its stored source ids.

    Where nothing reads text, one padding token stands for each vector.
    """
    if not reads_text:
        return [np.full(1, tokenizer.special.pad, np.int32)] * len(sentences)
    if sentences.ids is not None:
        return tokenizer.from_source_ids(sentences.ids, config.data.max_length)
    if sentences.texts is None:
        raise InputError(
            "[data] the objectives must have text or token ids, got vectors alone."
        )
    return tokenizer.encode(sentences.texts, config.data.max_length)


def _targets(
    sentences: SentenceSet,
    vectors: str | None,
    teacher: AnyTeacher,
    config: Config,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """The teacher's vectors of a set, ``[N, E]`` float32.

    A vectors file wins, then vectors stored with the data, then the teacher's model.
    """
    settings = config.teacher
    if config.data.pairs:
        return _pair_targets(sentences, teacher, config, progress)
    if vectors is not None:
        given = PrecomputedTeacher(Path(vectors), normalize=settings.normalize)
        return given.vectors(len(sentences))
    if sentences.targets is not None:
        return _scaled(sentences.targets, settings.normalize)
    if settings.kind == "precomputed":
        raise InputError(
            "[teacher] teacher=precomputed needs teacher.train_vectors and "
            "teacher.val_vectors, or data files that hold vectors (.efb, .jsonl)."
        )
    if sentences.texts is None:
        raise InputError("[teacher] a teacher needs text, got token ids only.")
    return _taught(sentences.texts, teacher, config, progress)


def _scaled(rows: np.ndarray, normalize: bool) -> np.ndarray:
    """Rows ``[..., E]`` as float32, of length 1 if asked."""
    return unit_rows(rows) if normalize else np.asarray(rows, np.float32)


def _taught(
    texts: list[str],
    teacher: AnyTeacher,
    config: Config,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """The teacher's vectors of texts, from the cache where they are there."""
    settings = config.teacher
    folder = Path(settings.cache_dir or cache_folder() / "vectors")
    size = settings.batch_size
    return cached_vectors(teacher, texts, folder, progress, batch_size=size)


def _pair_targets(
    sentences: SentenceSet,
    teacher: AnyTeacher,
    config: Config,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Vectors of the second members beside those of the first, ``[N, 2E]``.

    Vectors alone are pairs already, each row the first member's and then the second's.
    """
    first, second = sentences.texts, sentences.pair_texts
    if first is None and sentences.targets is not None:
        return _swapped(sentences.targets, config)
    if first is None or second is None:
        raise InputError(
            "[data] data.pairs=true must have text and pair_target in every record."
        )
    if config.teacher.kind == "precomputed":
        raise InputError("[data] data.pairs=true needs a teacher that reads text.")
    columns = [_taught(texts, teacher, config, progress) for texts in (second, first)]
    return np.concatenate(columns, axis=1)


def _swapped(rows: np.ndarray, config: Config) -> np.ndarray:
    count, width = rows.shape
    pairs = _scaled(rows.reshape(count, 2, width // 2), config.teacher.normalize)
    return np.ascontiguousarray(pairs[:, ::-1]).reshape(count, width)


def _word_embeddings(
    config: Config, teacher: AnyTeacher, tokenizer: Tokenizer
) -> np.ndarray | None:
    """The teacher's rows for the student's tokens; none where these are its own."""
    table = None if config.tokenizer.kind == "bpe" else teacher.word_embeddings
    if table is None:
        return None
    highest = int(tokenizer.source_ids.max())
    if highest >= len(table):
        raise InputError(
            f"[teacher] {teacher.name}: its tokenizer's id {highest} is outside its "
            f"table of {len(table)} tokens."
        )
    return table[tokenizer.source_ids]


def _check_size(targets: np.ndarray, dimension: int, which: str) -> None:
    if targets.shape[1] != dimension:
        raise InputError(
            f"[data] {which} vectors must have {dimension} numbers as the training "
            f"vectors, got {targets.shape[1]}."
        )


def _check_teacher(dimension: int, given: int) -> None:
    """Refuse stored vectors that another teacher has made."""
    if dimension != given:
        raise InputError(
            f"[data] data.train must have vectors of {dimension} numbers as the "
            f"teacher's, got {given}; teacher=precomputed takes those of any."
        )


def load_held_out(
    config: Config,
    objectives: Objectives,
    tokenizer: Tokenizer,
    paths: Sequence[Path] = (),
    function: EmbedFunction | None = None,
) -> tuple[HeldOut, Embed | None]:
    """Held-out sentences with their vectors, for evaluation.

    Vectors stored with the data are used, others come from the teacher.

    Args:
        config: The run's configuration.
        objectives: What the run trains.
        tokenizer: The run's tokenizer.
        paths: Files; without any, what the run itself held out.
        function: The teacher, where it is a function.

    Returns:
        The sentences, and the teacher's vectors of texts, none where it cannot read.

    Raises:
        InputError: A file is missing or damaged, or the teacher is.
    """
    teacher = teacher_from(config.teacher, function)
    column = config.data.text_column
    sentences = read_many(list(paths), column) if paths else read_sets(config)[1]
    given = None if paths else config.teacher.val_vectors
    targets = _targets(sentences, given, teacher, config, None)
    reads_text = any(o.reads_text for o in objectives.values())
    ids = _token_ids(sentences, tokenizer, config, reads_text=reads_text)
    return HeldOut(sentences.texts or [], ids, targets), _embed(teacher, config)


def _embed(teacher: AnyTeacher, config: Config) -> Embed | None:
    """The teacher's vectors of texts; none where only stored vectors are its own."""
    if config.teacher.kind == "precomputed":
        return None
    return embed_with(teacher, config.teacher.batch_size)


def load_run_data(
    config: Config,
    objectives: Objectives,
    tokenizer_folder: Path | None,
    display: RunDisplay,
    function: EmbedFunction | None = None,
) -> RunData:
    """Read sentences, build or load the tokenizer, fetch the teacher's vectors.

    Args:
        config: The run's configuration.
        objectives: What the run trains.
        tokenizer_folder: Folder of the tokenizer of a run that is resumed.
        display: Shows the teacher's progress.
        function: The teacher, where it is a function.

    Raises:
        InputError: Anything the user gave does not fit together.
    """
    sts, pairs = _sts_pairs(config.trainer.sts), _text_pairs(objectives)
    train, held_out, source = run_sentences(config, display.message)
    reads_text = any(o.reads_text for o in objectives.values())
    if reads_text and train.texts is None and train.ids is None:
        raise InputError(
            f"[data] {', '.join(objectives)} must have text or token ids, got vectors "
            "alone."
        )
    teacher = teacher_from(config.teacher, function)
    if tokenizer_folder is not None:
        tokenizer = Tokenizer.load(tokenizer_folder)
    else:
        more = [text for _, both in pairs for side in both for text in side]
        tokenizer = _build_tokenizer(
            config, train, more, teacher, reads_text=reads_text
        )
    settings = config.teacher
    with display.task("teacher vectors") as report:
        train_targets = _targets(train, settings.train_vectors, teacher, config, report)
    with display.task("teacher vectors, held out") as report:
        held_out_targets = _targets(
            held_out, settings.val_vectors, teacher, config, report
        )
    _check_size(held_out_targets, train_targets.shape[1], "held-out")
    has_teacher = config.teacher.kind != "precomputed" and not config.data.pairs
    if has_teacher and reads_text:  # vectors alone may be of any size
        _check_teacher(teacher.dimension, train_targets.shape[1])
    to_ids = partial(
        _token_ids, tokenizer=tokenizer, config=config, reads_text=reads_text
    )
    return RunData(
        tokenizer=tokenizer,
        train_ids=to_ids(train),
        train_targets=train_targets,
        held_out=HeldOut(held_out.texts or [], to_ids(held_out), held_out_targets),
        word_embeddings=_word_embeddings(config, teacher, tokenizer),
        dimension=train_targets.shape[1] // (2 if config.data.pairs else 1),
        source=source,
        teacher=teacher.name,
        embed=_embed(teacher, config),
        sts=sts,
        pairs=_pair_rows(pairs, tokenizer, config),
        sampled_near=_sampled_near(train, config),
        tokens_per_word=_tokens_per_word(tokenizer, train) if reads_text else None,
    )


def _sampled_near(train: SentenceSet, config: Config) -> np.ndarray | None:
    """Numbers of the sentences near which own pairs are sampled; none = all."""
    wanted = config.data.own_pairs.of
    if not wanted:
        return None
    found = train.places_in(config.data.train, wanted)
    if not len(found):
        raise InputError(
            "[data] data.own_pairs.of must name a file with training sentences, got "
            f"none of the {len(train):,} in {', '.join(wanted)}."
        )
    return found


def _text_pairs(objectives: Objectives) -> list[tuple[str, TextPairs]]:
    """Name and pairs of each objective that takes some; one does at most."""
    files = {name: o.pair_file for name, o in objectives.items()}
    return [(name, read_pairs(Path(file))) for name, file in files.items() if file]


def _pair_rows(
    pairs: list[tuple[str, TextPairs]], tokenizer: Tokenizer, config: Config
) -> PairRows | None:
    for name, both in pairs:
        first, second = (tokenizer.encode(s, config.data.max_length) for s in both)
        return PairRows(name, first, second)
    return None


def _sts_pairs(path: str | None) -> StsPairs | None:
    """The pairs that every validation measures."""
    return None if path is None else read_sts(Path(path))


def _tokens_per_word(tokenizer: Tokenizer, train: SentenceSet) -> float | None:
    """Tokens a word of the training text, from some of its sentences."""
    if train.texts is None:
        return None
    found = spelling_of(tokenizer, train.texts, _SPELT_SENTENCES)
    return found.tokens / max(found.words, 1)
