"""A finished run as an object."""

from pathlib import Path

from energyflow_mlx.build.model import build_model
from energyflow_mlx.config import read_config
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import flat_parameters, install_parameters
from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.folder import CHECKPOINTS, CONFIG, TOKENIZER
from energyflow_mlx.text.tokenizer import Tokenizer


def load(path: str | Path) -> SentenceCodec:
    """Load a trained model from its run folder.

    The best checkpoint by the run's chosen metric is taken; its digests are checked.

    Args:
        path: Run folder, as given to ``run.dir``.

    Raises:
        InputError: The folder, its config, tokenizer or checkpoint is missing or
            damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"[load] run folder {folder} does not exist.")
    config = read_config(folder / CONFIG)
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    best = checkpoint.load_best(folder / CHECKPOINTS, groups=("model",))
    if best is None:
        raise InputError(f"[load] no checkpoint in {folder / CHECKPOINTS}.")
    dimension = best.meta["dimension"]
    model = build_model(config, tokenizer.vocab_size, dimension)
    parameters = {name.split(".", 1)[1]: array for name, array in best.arrays.items()}
    checkpoint.require_match(
        flat_parameters(model), parameters, str(folder / CHECKPOINTS)
    )
    install_parameters(model, parameters)
    return SentenceCodec(model, tokenizer, config, dimension)
