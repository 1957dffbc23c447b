"""The whole configuration of a run, cross-field rules, and its JSON form."""

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from energyflow_mlx.config.checks import (
    MOST_SEED,
    require,
    require_choice,
    require_range,
)
from energyflow_mlx.config.data import DataConfig, TeacherConfig
from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.config.objectives import (
    chosen_objectives,
    default_objectives,
    objectives_type,
)
from energyflow_mlx.config.text import (
    DecoderConfig,
    EncoderConfig,
    TcnEncoderConfig,
    TokenizerConfig,
    TransformerEncoderConfig,
)
from energyflow_mlx.config.training import (
    OptimizerConfig,
    PrecisionConfig,
    TokenRowsConfig,
    TrainerConfig,
)
from energyflow_mlx.config.upgrade import VERSION, upgrade
from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.received import is_there, require_type
from energyflow_mlx.runtime.signed_json import read_signed

TRACKERS = ("csv", "tensorboard", "wandb", "mlflow")


@dataclass
class RunConfig:
    """Where a run lives.

    Attributes:
        dir: Folder of everything the run writes; an existing one is resumed.
        project: What trackers file the run under: the project in Weights & Biases,
            the experiment in MLflow.
    """

    dir: str = "runs/latest"
    project: str = "energyflow_mlx"


@dataclass
class Config:
    """Configuration of one run.

    Attributes:
        objectives: What is trained; see ``config.objectives``.
        name: Name of the run, shown in tables.
        seed: Seed of everything random.
        share: Blocks that encoder and decoder share: ``none``, ``last``, ``all``.
        trackers: Where the records of ``metrics.jsonl`` go too: ``csv``,
            ``tensorboard``, ``wandb``, ``mlflow``.
        lattice: The energy lattice, where an objective has one.
        init: Run folder whose best weights a new run starts from; none = anew.
    """

    encoder: EncoderConfig = field(default_factory=TcnEncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    objectives: Any = field(default_factory=default_objectives)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    token_rows: TokenRowsConfig = field(default_factory=TokenRowsConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    lattice: LatticeConfig | None = None
    name: str = "run"
    seed: int = 42
    share: str = "last"
    trackers: list[str] = field(default_factory=list)
    init: str | None = None

    def __post_init__(self) -> None:
        """Check the rules that span groups; objectives check theirs when built."""
        require(
            dataclasses.is_dataclass(self.objectives),
            "objectives",
            "settings in braces, such as {distillation: {share: 1}}",
            self.objectives,
        )
        for settings in chosen_objectives(self.objectives).values():
            if settings.lr is None:
                settings.lr = self.optimizer.lr
            require(
                settings.peak_lr * self.optimizer.weight_decay <= 1.0,
                "optimizer.weight_decay",
                f"at most {1.0 / settings.peak_lr:g} = 1 / {settings.key}.lr",
                self.optimizer.weight_decay,
            )
        require(
            type(self.encoder) is ENCODERS[self.encoder.family],
            "encoder.family",
            "left as the choice of encoder set it; write encoder=NAME",
            self.encoder.family,
        )
        require_choice(self.share, "share", ("none", "last", "all"))
        require_range(self.seed, "seed", 0, MOST_SEED)
        for name in self.trackers:
            require_choice(name, "trackers", TRACKERS)
        require(
            len(set(self.trackers)) == len(self.trackers),
            "trackers",
            "different from each other",
            self.trackers,
        )
        if self.share != "none":
            self._check_shared_blocks()
        self._check_context()
        if self.teacher.kind == "precomputed" and not self.data.train:
            raise InputError(
                "[config] data.train must be set when teacher=precomputed, got nothing."
            )
        require(
            self.teacher.kind != "precomputed" or not self.data.edits.count,
            "data.edits.count",
            "0, because teacher=precomputed has no vectors of edited sentences",
            self.data.edits.count,
        )
        require(
            self.teacher.kind != "callable" or self.tokenizer.kind == "bpe",
            "tokenizer.kind",
            "bpe, because teacher=callable has no vocabulary to cut",
            self.tokenizer.kind,
        )

    def _check_shared_blocks(self) -> None:
        encoder, decoder = self.encoder, self.decoder
        require(
            isinstance(encoder, TcnEncoderConfig),
            "share",
            "none unless encoder=tcn",
            self.share,
        )
        assert isinstance(encoder, TcnEncoderConfig)
        same = ("dim", "hidden", "kernel_size", "gelu", "dropout")
        for name in same:
            require(
                getattr(encoder, name) == getattr(decoder, name),
                f"decoder.{name}",
                f"encoder.{name} = {getattr(encoder, name)}, as share={self.share}",
                getattr(decoder, name),
            )
        count = 1 if self.share == "last" else len(encoder.dilations)
        require(
            encoder.dilations[-count:] == decoder.dilations[-count:]
            and (self.share == "last" or encoder.dilations == decoder.dilations),
            "decoder.dilations",
            f"equal to the encoder's {encoder.dilations} where share={self.share}",
            decoder.dilations,
        )

    def _check_context(self) -> None:
        encoder = self.encoder
        if isinstance(encoder, TcnEncoderConfig) and encoder.context:
            count = len(encoder.dilations)
            require(
                count > 1 and self.shared_blocks < count,
                "encoder.context",
                "false where no own block comes before another, as with "
                f"share={self.share} and encoder.dilations={encoder.dilations}",
                encoder.context,
            )

    @property
    def shared_blocks(self) -> int:
        """Number of blocks that encoder and decoder share."""
        if self.share == "none":
            return 0
        return 1 if self.share == "last" else len(self.decoder.dilations)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary of every setting, nested by group, and the version."""
        return {"version": VERSION, **dataclasses.asdict(self)}


ENCODERS: dict[str, type[EncoderConfig]] = {
    "tcn": TcnEncoderConfig,
    "transformer": TransformerEncoderConfig,
}


def _build(cls: type, values: dict[str, Any], where: str) -> Any:
    """Instantiate a config dataclass from plain values, each of its own type."""
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise InputError(f"[config] unknown key {where}{key}.")
    built = {}
    for key, value in values.items():
        kind = _kind_of(cls, key, hints[key], value)
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            value = _build(typing.cast(type, kind), value, f"{where}{key}.")
        else:
            hint = kind if hints[key] is Any else hints[key]
            require_type(value, hint, f"[config] {where}{key}")
        built[key] = value
    return cls(**built)


def _kind_of(cls: type, key: str, hint: Any, value: Any) -> Any:
    """Dataclass that a member is built as, or the hint itself for plain values."""
    if cls is Config and key == "objectives":
        return objectives_type()
    kind = next((k for k in typing.get_args(hint) if dataclasses.is_dataclass(k)), hint)
    is_encoder = isinstance(kind, type) and issubclass(kind, EncoderConfig)
    if is_encoder and isinstance(value, dict):
        return ENCODERS.get(str(value.get("family")), EncoderConfig)
    return kind


def config_from_json(values: dict[str, Any]) -> Config:
    """Config from the dictionary that ``Config.to_json`` made, now or formerly.

    Nothing named in the file is imported or instantiated: only this package's
    dataclasses are built.

    Raises:
        InputError: Unknown key or value out of range.
    """
    return typing.cast(Config, _build(Config, upgrade(values), ""))


def read_config(path: Path) -> Config:
    """Config of a run folder's ``config.json``.

    Raises:
        InputError: The file is missing, not JSON, was changed after it was written, or
            holds unknown keys.
    """
    if not is_there(path):
        raise InputError(f"[config] no {path.name} in {path.parent}.")
    return config_from_json(read_signed(path))
