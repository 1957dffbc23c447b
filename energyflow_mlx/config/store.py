"""Where the YAML groups are and which dataclass types each of them."""

from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from energyflow_mlx.config import (
    Config,
    DataConfig,
    DecoderConfig,
    LatticeConfig,
    PrecisionConfig,
    TcnEncoderConfig,
    TeacherConfig,
    TokenizerConfig,
    TransformerEncoderConfig,
)

_PACKAGE = Path(__file__).resolve().parents[1]


def _find_conf() -> Path:
    """``conf/`` inside the installed package, or beside it in a checkout."""
    inside = _PACKAGE / "conf"
    return inside if inside.is_dir() else _PACKAGE.parent / "conf"


CONF_FOLDER = _find_conf()


def register() -> None:
    """Tell Hydra the schema of the root and of every group."""
    store = ConfigStore.instance()
    root = OmegaConf.structured(Config)
    root.encoder = "???"  # any family may fill it
    store.store(name="schema", node=root)
    for group, name, node in (
        ("encoder", "schema_tcn", TcnEncoderConfig),
        ("encoder", "schema_transformer", TransformerEncoderConfig),
        ("decoder", "schema_decoder", DecoderConfig),
        ("tokenizer", "schema_tokenizer", TokenizerConfig),
        ("lattice", "schema_lattice", LatticeConfig),
        ("data", "schema_data", DataConfig),
        ("teacher", "schema_teacher", TeacherConfig),
        ("precision", "schema_precision", PrecisionConfig),
    ):
        store.store(group=group, name=name, node=node)
