"""The whole configuration of a run, cross-field rules, and its JSON form."""

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from energyflow_mlx.config.checks import require, require_choice
from energyflow_mlx.config.data import DataConfig, TeacherConfig
from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.config.text import (
    DecoderConfig,
    EncoderConfig,
    TcnEncoderConfig,
    TokenizerConfig,
    TransformerEncoderConfig,
)
from energyflow_mlx.config.training import (
    LossConfig,
    OptimizerConfig,
    PrecisionConfig,
    TrainerConfig,
)
from energyflow_mlx.errors import InputError


@dataclass
class RunConfig:
    """Where a run lives.

    Attributes:
        dir: Folder of everything the run writes; an existing one is resumed.
    """

    dir: str = "runs/latest"


@dataclass
class Config:
    """Configuration of one run.

    Attributes:
        name: Of the run, shown in tables.
        seed: Of everything random.
        share: Blocks that encoder and decoder share: ``none``, ``last``, ``all``.
        task: ``ab``: distil the encoder and train the decoder in alternation.
            ``flow``: send the teacher's vectors through the lattice and back.
            ``flow_text``: text -> encoder -> lattice -> vector -> decoder -> text.
        lattice: The energy lattice; none for ``ab``.
    """

    encoder: EncoderConfig = field(default_factory=TcnEncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    lattice: LatticeConfig | None = None
    name: str = "ab"
    seed: int = 42
    share: str = "last"
    task: str = "ab"

    def __post_init__(self) -> None:
        """Check the rules that span groups."""
        require_choice(self.share, "share", ("none", "last", "all"))
        require(self.seed >= 0, "seed", ">= 0", self.seed)
        if self.share != "none":
            self._check_shared_blocks()
        if self.teacher.kind == "precomputed" and not self.data.train:
            raise InputError(
                "[config] data.train must be set when teacher=precomputed, got none."
            )
        self._check_task()
        used = {"cosine": self.trainer.ratio > 0, "ce": self.trainer.ratio < 1}
        require(
            used.get(self.trainer.best_metric, self.trainer.ratio > 0),
            "trainer.best_metric",
            f"a metric that trainer.ratio = {self.trainer.ratio} trains",
            self.trainer.best_metric,
        )

    def _check_task(self) -> None:
        require_choice(self.task, "task", ("ab", "flow", "flow_text"))
        if self.task == "ab":
            given = self.trainer.train
            require(given != "flow", "trainer.train", "not flow when task=ab", given)
        if self.task != "flow":
            require(not self.data.pairs, "data.pairs", "false unless task=flow", True)
        if self.task == "ab":
            require(self.lattice is None, "lattice", "none when task=ab", "a lattice")
            return
        require(self.lattice is not None, "lattice", f"set when task={self.task}", None)
        if self.task == "flow":
            ratio = self.trainer.ratio
            require(ratio == 1.0, "trainer.ratio", "1 when task=flow", ratio)
            require(self.share == "none", "share", "none when task=flow", self.share)

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

    @property
    def shared_blocks(self) -> int:
        """Number of blocks that encoder and decoder share."""
        if self.share == "none":
            return 0
        return 1 if self.share == "last" else len(self.decoder.dilations)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary of every setting, nested by group."""
        return dataclasses.asdict(self)


ENCODERS: dict[str, type[EncoderConfig]] = {
    "tcn": TcnEncoderConfig,
    "transformer": TransformerEncoderConfig,
}


def _build(cls: type, values: dict[str, Any], where: str) -> Any:
    """Instantiate a config dataclass from plain values, refusing unknown keys."""
    known = {f.name for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise InputError(f"[config] unknown key {where}{key}.")
    hints = typing.get_type_hints(cls)
    built = {}
    for key, value in values.items():
        kind = hints[key]
        if kind == LatticeConfig | None:
            kind = LatticeConfig
        if isinstance(kind, type) and issubclass(kind, EncoderConfig):
            kind = ENCODERS.get(value.get("family", ""), EncoderConfig)
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            value = _build(typing.cast(type, kind), value, f"{where}{key}.")
        built[key] = value
    return cls(**built)


def config_from_json(values: dict[str, Any]) -> Config:
    """Config from the dictionary that ``Config.to_json`` made.

    Nothing named in the file is imported or instantiated: only this package's
    dataclasses are built.

    Raises:
        InputError: Unknown key or value out of range.
    """
    return typing.cast(Config, _build(Config, values, ""))


def read_config(path: Path) -> Config:
    """Config of a run folder's ``config.json``.

    Raises:
        InputError: The file is missing, not JSON, or holds unknown keys.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"[config] no {path.name} in {path.parent}.") from None
    except ValueError as error:
        raise InputError(f"[config] {path} is not JSON: {error}.") from None
    return config_from_json(values)
