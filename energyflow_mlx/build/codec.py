"""A trained model as an object: fresh from a configuration, or from a run's folder."""

from pathlib import Path

from energyflow_mlx.build.model import build_model
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.model import flat_parameters, install_parameters
from energyflow_mlx.runs.checkpoint import require_match
from energyflow_mlx.runs.folder import MODEL, RunFolder
from energyflow_mlx.runtime import jit_headers
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
    folder = RunFolder(Path(path))
    config = folder.read_config()
    tokenizer = Tokenizer.load(folder.tokenizer)
    best = folder.best((MODEL,))
    parameters, dimension = best.arrays_of(MODEL), best.meta["dimension"]
    parts = {path.partition(".")[0] for path in parameters}
    model = build_model(config, parts, tokenizer.vocab_size, dimension)
    require_match(flat_parameters(model), parameters, str(best.path))
    install_parameters(model, parameters)
    jit_headers.prepare()
    return SentenceCodec(model, tokenizer, config, dimension)
