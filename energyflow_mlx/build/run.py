"""A run from its configuration: everything it needs is made here, then it trains."""

import hashlib
import logging
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.model import build_model, start_tables
from energyflow_mlx.build.objectives import build_objectives, parts_of
from energyflow_mlx.build.start import start_from
from energyflow_mlx.config import Config, DataConfig
from energyflow_mlx.config.checks import require
from energyflow_mlx.data.batching import lengths_that_pad_least
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.runs.checkpoint import sizes_of
from energyflow_mlx.runs.folder import RunFolder, deciding, has_other_length
from energyflow_mlx.runs.lock import FolderLock
from energyflow_mlx.runs.record import Record
from energyflow_mlx.runs.room import require_room
from energyflow_mlx.runs.start import remove_leftovers, start
from energyflow_mlx.runs.trackers import require_trackers
from energyflow_mlx.runtime import device, distributed, jit_headers
from energyflow_mlx.teacher.function import Embed
from energyflow_mlx.training.console import RunConsole
from energyflow_mlx.training.feed import RunData
from energyflow_mlx.training.loop import Trainer
from energyflow_mlx.training.objectives import Objective
from energyflow_mlx.training.reporting import show_result
from energyflow_mlx.training.run import train


def run(
    config: Config,
    overrides: list[str] | None = None,
    function: Embed | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Train as configured, in the configured folder; resumes what is there.

    Args:
        config: The run's configuration.
        overrides: What the user changed, for summary and tables.
        function: The teacher, where ``config.teacher.kind`` is ``callable``.
        command: What goes on with the run, told to the user where it is interrupted.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        InputError: The user's input does not fit; nothing has been written.
        DiskError: The disk has no room for the checkpoints, or cannot be written.
    """
    require_trackers(config.trackers)
    objectives = build_objectives(config)
    device.select(config.trainer.backend)
    jit_headers.prepare()
    device.limit_memory(
        memory_gb=config.trainer.memory_limit_gb,
        cache_gb=config.trainer.cache_limit_gb,
        wired_gb=config.trainer.wired_limit_gb,
    )
    group = distributed.join()
    if group.size > 1:
        _require_no_makers(config, objectives.values(), group.size)
    folder = RunFolder(Path(config.run.dir), group.is_writer)
    if not folder.exists():
        for objective in objectives.values():
            objective.require_micro_batch(config.trainer.micro_batch)
        if config.init is None:
            _require_trained(config, objectives.values(), frozenset())
    if not group.is_writer:  # the others keep to errors
        logging.getLogger("energyflow_mlx").setLevel(logging.WARNING)
    display = RunDisplay(
        log_every=config.trainer.log_every,
        title=config.name,
        console=_console(is_writer=group.is_writer),
    )
    with group.watched(), display, closing(FolderLock(folder.lock)) as lock:
        begun = _Begun(*group.of_first(partial(_begun, folder, config, lock)))
        begun.settle(config)
        summary = begun.summary
        if summary.get("status") in ("finished", "stopped early"):
            display.message(f"{folder.path} is {summary['status']}; nothing to do")
            show_result(display, folder, summary, objectives.values())
            return summary
        with display.task("preparing"):
            trainer = build_trainer(
                config, objectives, folder, display, group, function
            )
        _require_space(trainer)
        if folder.is_writer and not lock.is_held:
            lock.acquire()
            start(folder, config, trainer.data.tokenizer.save)
        elif begun.is_changed:
            _prolong(trainer)
        folder.prune(trainer.progress.step, keep=config.trainer.keep)
        return train(trainer, overrides or [], command)


def _require_no_makers(
    config: Config, objectives: Iterable[Objective], processes: int
) -> None:
    """Refuse what each of several processes would make for itself, and differently.

    Raises:
        InputError: The run makes examples of its own.
    """
    making = ["data.own_pairs"] if config.data.own_pairs.share else []
    making += [o.settings.key for o in objectives if o.guessing is not None]
    if making:
        raise InputError(
            f"[distributed] {making[0]} must be trained by one process, got "
            f"{processes}: each would make examples of its own."
        )


def _console(*, is_writer: bool) -> Console:
    """Where the process shows the run; nowhere, unless it is the first one."""
    if is_writer:
        return RunConsole(highlight=False)
    return Console(quiet=True, force_terminal=False)


def _require_space(trainer: Trainer) -> None:
    """Refuse to train where the checkpoints would not fit; there is one before it too.

    Raises:
        DiskError: There is no room for them.
    """
    left = trainer.total - trainer.progress.step
    sizes = sizes_of(trainer.stepper.state.arrays())
    if made := trainer.updates.most_bytes:
        sizes.append(made)
    saves = left + 1 if left > 0 else 0
    require_room(trainer.folder, sizes, trainer.config.trainer.keep, saves)


def _prolong(trainer: Trainer) -> None:
    """Let a run go on to another end than it was to have.

    Learning rates follow from the number of the update and that of the last one, so
    from here on they are those of a run that was to be so long from its start.

    Raises:
        InputError: It has done more updates than it is to have.
    """
    done, total = trainer.progress.step, trainer.total
    if total < done:
        raise InputError(
            f"[run] {trainer.folder.path} has done {done} updates; trainer.epochs or "
            f"trainer.max_steps must ask for as many, got {total}."
        )
    trainer.progress.stale = 0
    trainer.folder.begin_again(trainer.config)
    trainer.display.message(
        f"{trainer.folder.path} goes on from update {done} to {total}; from here its "
        f"learning rates are those of a run of {total} updates"
    )


class _Begun(NamedTuple):
    """What the folder's run decides for all processes.

    Attributes:
        summary: That of a run that has ended, else empty.
        dtype: The number format.
        buckets: Lengths of its batches; empty while no run has chosen them.
        is_changed: Whether it is to be longer or shorter than it was to be.
    """

    summary: dict[str, Any]
    dtype: str
    buckets: list[int]
    is_changed: bool = False

    def settle(self, config: Config) -> None:
        """Put the choices into ``config``."""
        config.precision.dtype = self.dtype
        config.data.buckets = list(self.buckets)


def _begun(folder: RunFolder, config: Config, lock: FolderLock) -> _Begun:
    """Take a run's lock and look into its folder.

    A new run's lock is taken with its folder, once nothing can be refused any more.
    """
    folder.require_writable()
    found = _settled(folder, config)  # what is refused here is not touched
    if folder.exists():
        lock.acquire()
        found = _settled(folder, config)  # until then another process had its will
        remove_leftovers(folder)
    if found.is_changed:
        return found
    return found._replace(summary=folder.read_summary())


def _settled(folder: RunFolder, config: Config) -> _Begun:
    """Settle what the user leaves open, and refuse a folder that does not fit.

    A run that is resumed, here or on another device, keeps what it began with. The
    lengths of a new run follow from its sentences: see ``build_trainer``.
    """
    begun = folder.read_config() if folder.exists() else None
    dtype, buckets = config.precision.dtype, list(config.data.buckets)
    if dtype == "auto":
        dtype = begun.precision.dtype if begun else device.fast_format()
    if not buckets and begun:
        buckets = list(begun.data.buckets)
    is_changed = begun is not None and has_other_length(begun, config)
    found = _Begun({}, dtype, buckets, is_changed)
    found.settle(config)
    folder.check(config)
    return found


def build_trainer(
    config: Config,
    objectives: dict[str, Objective],
    folder: RunFolder,
    display: RunDisplay,
    group: distributed.Group = distributed.ALONE,
    function: Embed | None = None,
) -> Trainer:
    """Data, model and trainer of a run, at its newest checkpoint; writes nothing.

    Args:
        config: The run's configuration; gets the lengths of its batches, where it
            has none.
        objectives: What it trains.
        folder: Its folder; with a run in it, that run's tokenizer and state are taken.
        display: Shows the progress of what takes long.
        group: The processes that train together.
        function: The teacher, where it is a function.

    Raises:
        InputError: The user's input does not fit.
    """
    words = folder.tokenizer if folder.is_writer and folder.exists() else None
    data = load_run_data(config, objectives, words, display, function)
    for objective in objectives.values():
        objective.require_dimension(data.dimension)
    if not config.data.buckets:
        config.data.buckets = lengths_for(data.train_ids, config.data)
    _require_same(group, config, data)
    parts, vocab_size = parts_of(objectives), data.tokenizer.vocab_size
    if "encoder" in parts:
        _require_positions(config, data)
    model = build_model(config, parts, vocab_size, data.dimension)
    start_tables(model, config, data.word_embeddings)
    start = None
    if config.init is not None and folder.is_writer and not folder.steps():
        start = start_from(config.init, model, data.tokenizer, data.dimension)
        _require_trained(config, objectives.values(), start.trained)
    codec = SentenceCodec(model, data.tokenizer, config, data.dimension)
    return Trainer(config, objectives, codec, data, folder, display, group, start)


def _require_trained(
    config: Config, objectives: Iterable[Objective], taken: frozenset[str]
) -> None:
    """Refuse a run that reads what nothing has trained.

    Args:
        config: The run's configuration.
        objectives: What it trains.
        taken: Prefixes of the trained parameters that it starts from.

    Raises:
        InputError: An objective does, or the embedder of its own pairs is not trained.
    """
    objectives, own = list(objectives), config.data.own_pairs
    record = Record(taken | {part for o in objectives for part in o.parts})
    require(
        not own.share or own.embedder == "teacher" or record.has_trained("encoder"),
        "data.own_pairs.embedder",
        "teacher, because no objective trains an encoder and init takes none over",
        own.embedder,
    )
    for objective in objectives:
        objective.require_trained(record)


def _require_positions(config: Config, data: RunData) -> None:
    """Refuse an encoder that cannot read the longest batch of the run's sentences.

    Raises:
        InputError: It has too few positions.
    """
    rows = [*data.train_ids, *data.held_out.ids]
    longest = max(map(len, rows))
    fitting = [size for size in config.data.buckets if size >= longest]
    needed = min(fitting, default=config.data.buckets[-1])
    require(
        config.encoder.longest >= needed,
        "encoder.max_positions",
        f">= {needed}, the longest batch of these sentences",
        config.encoder.longest,
    )


def lengths_for(ids: list[np.ndarray], settings: DataConfig) -> list[int]:
    """Lengths that pad the training sentences least, and the longest that is read.

    That one is for texts that the model meets later; training fills it where its own
    sentences are so long.
    """
    lengths = np.array([max(4, len(row)) for row in ids])
    chosen = lengths_that_pad_least(lengths, settings.most_buckets)
    return sorted({*chosen, settings.max_length})


def _require_same(group: distributed.Group, config: Config, data: RunData) -> None:
    """Refuse processes that would not plan the same updates.

    Raises:
        InputError: Settings, training sentences or tokenizer differ from those of the
            first process.
    """
    facts = hashlib.sha256(repr(deciding(config)).encode())
    pairs = data.pairs.first + data.pairs.second if data.pairs else []
    for row in data.train_ids + pairs:
        facts.update(np.int32(len(row)).tobytes() + row.astype(np.int32).tobytes())
    own = facts.hexdigest()
    if group.of_first(lambda: own) != own:
        raise InputError(
            f"[distributed] process {group.rank} must have the settings, the training "
            "sentences and the tokenizer of process 0, got others: give all the same "
            "files and the same command."
        )
