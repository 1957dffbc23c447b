"""A trained model as an object: fresh from a configuration, or from a run's folder."""

from pathlib import Path

from energyflow_mlx.build.model import PARTS, build_model
from energyflow_mlx.build.objectives import record_of
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import flat_parameters, install_parameters
from energyflow_mlx.runs.checkpoint import require_match
from energyflow_mlx.runs.folder import MODEL, RunFolder
from energyflow_mlx.runs.weights import load_full
from energyflow_mlx.runtime import jit_headers
from energyflow_mlx.text.tokenizer import Tokenizer


def load(path: str | Path, weights: str | Path | None = None) -> SentenceCodec:
    """Load a trained model from its run folder.

    The best checkpoint by the run's chosen metric is taken; its digests are checked.

    Args:
        path: Run folder, as given to ``run.dir``.
        weights: A ``.safetensors`` file that ``export`` wrote from this run, to be
            taken in place of the checkpoint; the model has the parts that are in it.

    Raises:
        InputError: The folder, its config, tokenizer or checkpoint is missing or
            damaged, or the file is not of this run's shapes.
    """
    folder = RunFolder(Path(path))
    config = folder.read_config()
    tokenizer = Tokenizer.load(folder.tokenizer)
    best = folder.best((MODEL,))
    parameters, dimension = best.arrays_of(MODEL), best.meta["dimension"]
    source = str(best.path)
    if weights is not None:
        parameters, source = load_full(Path(weights)), str(weights)
    parts = {name.partition(".")[0] for name in parameters}
    if unknown := parts - PARTS:
        raise InputError(
            f"[load] {source} must hold a model's weights, got {min(unknown)}."
        )
    model = build_model(config, parts, tokenizer.vocab_size, dimension)
    require_match(flat_parameters(model), parameters, source)
    install_parameters(model, parameters)
    jit_headers.prepare()
    record = record_of(best.meta, config)
    return SentenceCodec(model, tokenizer, config, dimension, record)
