"""The run folder: configuration, tokenizer, metrics, checkpoints, summary.

Everything of a run is in one folder; the same command on it resumes the run, and
another configuration is refused. The configuration is written last and makes the folder
a run: one without it holds nothing yet, and a start there begins anew.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from energyflow_mlx.config import Config, read_config
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.metrics import MetricsLog, NoLog, read_metrics
from energyflow_mlx.runs.results import read_result, read_summary
from energyflow_mlx.runs.samples import read_samples
from energyflow_mlx.runs.trackers import TrackedLog, TrackedRun
from energyflow_mlx.runtime.atomic import TEMPORARY_PREFIX
from energyflow_mlx.runtime.disk import obstacle
from energyflow_mlx.runtime.signed_json import write_signed

# Kinds of arrays in a checkpoint, the first part of their names.
MODEL = "model"
OPTIMIZER = "optimizer"
SCALE = "scale"
OWN_PAIRS = "own_pairs"
GUESSES = "guesses"
TRAINED = (
    "trained"  # weights that training goes on from, where the model's are averages
)

# Under which a checkpoint has the digest of each log, as it was then.
LOG = "log"
SAMPLES_LOG = "samples_log"

# What Hydra puts into a folder when it is told to; never ours to remove.
_OF_HYDRA = ".hydra"

# Settings that may differ when a run is resumed: they change no number of it.
_FREE = {
    "run.dir",
    "run.project",
    "trackers",
    "trainer.log_every",
    "trainer.save_minutes",
    "trainer.keep",
    "trainer.follow_samples",
    "trainer.on_divergence",
    "trainer.rollback_factor",
    "trainer.max_rollbacks",
    "trainer.max_skipped",
    "trainer.debug_timing",
    "trainer.memory_limit_gb",
    "trainer.cache_limit_gb",
    "trainer.wired_limit_gb",
    "trainer.log_level",
    "data.prefetch",
    "teacher.cache_dir",
    "teacher.batch_size",
}
# Together with the number of processes they make the size of an update, and that must
# stay: ``Progress.require_batch`` checks it, once there is a checkpoint to go on from.
_BATCH = {"trainer.micro_batch", "trainer.accumulate"}
# How long a run is: it may be changed whenever the run goes on.
_LENGTH = {"trainer.epochs", "trainer.max_steps"}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def deciding(config: Config) -> dict[str, Any]:
    """Settings that decide the numbers of a run, flat."""
    flat = flatten(config.to_json())
    return {key: value for key, value in flat.items() if key not in _FREE}


def differences(first: Config, second: Config) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, as ``key -> (first, second)``."""
    a, b = flatten(first.to_json()), flatten(second.to_json())
    keys = sorted(a.keys() | b.keys())
    return {k: (a.get(k), b.get(k)) for k in keys if a.get(k) != b.get(k)}


def has_other_length(first: Config, second: Config) -> bool:
    """Whether one run is to have more updates, or more epochs, than the other."""
    return bool(_LENGTH & differences(first, second).keys())


@dataclass(frozen=True)
class RunFolder:
    """Everything of one run on the disk; the only place that knows the names in it.

    Attributes:
        path: The folder, ``run.dir``.
        is_writer: Whether this process writes it; one process of a run does.
    """

    path: Path
    is_writer: bool = True

    @property
    def config(self) -> Path:
        """Every setting of the run."""
        return self.path / "config.json"

    @property
    def lock(self) -> Path:
        """Held by the process that trains; see ``runs.lock``."""
        return self.path / "lock"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints, one folder each."""
        return self.path / "checkpoints"

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.path / "tokenizer"

    @property
    def metrics(self) -> Path:
        """The metrics log."""
        return self.path / "metrics.jsonl"

    @property
    def trackers(self) -> Path:
        """Folder of what trackers keep with the run."""
        return self.path / "trackers"

    @property
    def trackers_state(self) -> Path:
        """Which trackers have every record, and under which id."""
        return self.path / "trackers.json"

    @property
    def samples(self) -> Path:
        """Held-out sentences as the model wrote them at every validation."""
        return self.path / "samples.jsonl"

    @property
    def diverged(self) -> Path:
        """Folder of updates that were not finite: ``update_N.json`` with sentences."""
        return self.path / "diverged"

    @property
    def summary(self) -> Path:
        """Result of the run."""
        return self.path / "summary.json"

    @property
    def evaluation(self) -> Path:
        """Result of the latest evaluation."""
        return self.path / "evaluation.json"

    @property
    def profile(self) -> Path:
        """Where the time of its updates goes; a text of this name lies beside it."""
        return self.path / "profile.json"

    @property
    def plots(self) -> Path:
        """Folder of pictures."""
        return self.path / "plots"

    # -- the run as a whole --------------------------------------------------

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config.is_file()

    def read_config(self) -> Config:
        """Configuration of the run.

        Raises:
            InputError: The folder is missing, or the configuration is damaged.
        """
        if not self.path.is_dir():
            raise InputError(f"[run] run folder {self.path} does not exist.")
        return read_config(self.config)

    def require_writable(self) -> None:
        """Refuse a folder that cannot be made or written.

        Raises:
            InputError: It is below a file, or may not be written.
        """
        if found := obstacle(self.path):
            raise InputError(
                f"[run] run.dir {self.path} must be a folder that can be written, got "
                f"{found}."
            )

    def check(self, config: Config) -> None:
        """Refuse a folder that holds another run or foreign files.

        Raises:
            InputError: The folder belongs to another configuration, or is not empty
                and not a run folder.
        """
        if not self.exists():
            if self.path.is_dir() and any(map(self._is_foreign, self.path.iterdir())):
                raise InputError(
                    f"[run] run.dir {self.path} must be empty or a run folder, got "
                    f"other files in it."
                )
            return
        other = differences(self.read_config(), config)
        free = _FREE | _LENGTH | (_BATCH if self.steps() else set())
        changed = {k: v for k, v in other.items() if k not in free}
        if changed:
            key, (old, new) = next(iter(changed.items()))
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise InputError(
                f"[run] {self.path} belongs to another configuration: {key} was "
                f"{old!r}, got {new!r}{more}; choose another run.dir."
            )

    def _is_foreign(self, path: Path) -> bool:
        """Whether a file was there before any run: no leftover of a start cut short."""
        ours = (self.tokenizer.name, self.lock.name, _OF_HYDRA)
        return path.name not in ours and not path.name.startswith(TEMPORARY_PREFIX)

    def begin_again(self, config: Config) -> None:
        """Write the configuration of a run that is to go on longer than it was to.

        The summary goes first: a run without one is not over, whenever this is cut
        short.
        """
        if self.is_writer:
            self.summary.unlink(missing_ok=True)
        self.begin(config)

    def begin(self, config: Config) -> None:
        """Write the configuration; the last thing before training starts."""
        if not self.is_writer:
            return
        write_signed(self.config, config.to_json())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the result, atomically."""
        if not self.is_writer:
            return
        write_signed(self.summary, summary)

    def read_summary(self) -> dict[str, Any]:
        """The result of the run, or an empty dictionary before its end.

        A damaged one is as none, with a warning: its run ends once more when it is
        resumed, and writes it again.
        """
        return read_summary(self.summary)

    def write_evaluation(self, figures: Mapping[str, Any]) -> None:
        """Write the result of an evaluation, atomically."""
        write_signed(self.evaluation, figures)

    def read_evaluation(self) -> dict[str, Any]:
        """The latest evaluation, or an empty dictionary; a damaged one is as none."""
        return read_result(self.evaluation)

    def open_metrics(self, config: Config) -> MetricsLog:
        """The metrics log, open for writing, with the run's trackers."""
        if not self.is_writer:
            return NoLog()
        if not config.trackers:
            return MetricsLog(self.metrics)
        settings = flatten(config.to_json())
        run = TrackedRun(self.trackers, config.name, config.run.project, settings)
        names = config.trackers
        return TrackedLog(self.metrics, self.trackers_state, run, names)

    def read_log(self) -> list[dict[str, Any]]:
        """Records of the metrics log; what is missing or damaged is said.

        Raises:
            InputError: The file is missing, or none.
        """
        return read_metrics(self.metrics, self._known(LOG))

    def read_samples(self) -> list[dict[str, Any]]:
        """Followed sentences, update after update; what is missing is said."""
        return read_samples(self.samples, self._known(SAMPLES_LOG))

    def _known(self, log: str) -> str:
        """Digest of a log when the newest checkpoint was written; may be empty."""
        return checkpoint.newest_meta(self.checkpoints).get(log, "")

    # -- checkpoints ---------------------------------------------------------

    def steps(self) -> list[int]:
        """Updates with a checkpoint, ascending, whole or not."""
        return checkpoint.steps(self.checkpoints)

    def save(
        self,
        step: int,
        arrays: Mapping[str, mx.array],
        meta: Mapping[str, Any],
        *,
        keep: int,
        best: int,
    ) -> None:
        """Write the checkpoint of an update and remove older ones.

        Args:
            step: Number of the update.
            arrays: Evaluated arrays, named ``KIND.path``.
            meta: JSON values.
            keep: Newest checkpoints that stay.
            best: Update whose checkpoint stays too.
        """
        if not self.is_writer:
            return
        folder = self.checkpoints
        checkpoint.save(folder, step, arrays, meta, keep=keep, protect={best})

    def prune(self, step: int, *, keep: int) -> None:
        """Remove what ``save`` would have, had it not been killed at its end.

        Args:
            step: Update whose checkpoint was read and is whole, or 0.
            keep: Newest checkpoints that stay.
        """
        if self.is_writer and step:
            checkpoint.prune(self.checkpoints, step, keep=keep)

    def latest(self, kinds: Collection[str] | None = None) -> checkpoint.Loaded | None:
        """The newest whole checkpoint, or none; damaged ones are skipped and named.

        Args:
            kinds: Kinds of arrays to read; none = all.

        Raises:
            InputError: There are checkpoints, and all are damaged.
        """
        return checkpoint.load_latest(self.checkpoints, groups=kinds)

    def best(self, kinds: Collection[str] | None = None) -> checkpoint.Loaded:
        """The best checkpoint by the run's chosen metric, or the newest that is whole.

        Args:
            kinds: Kinds of arrays to read; none = all.

        Raises:
            InputError: There is no checkpoint, or all are damaged.
        """
        found = checkpoint.load_best(self.checkpoints, groups=kinds)
        if found is None:
            raise InputError(f"[run] no checkpoint in {self.checkpoints}.")
        return found
