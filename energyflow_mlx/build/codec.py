"""A trained model as an object: fresh from a configuration, or from a folder."""

from pathlib import Path

from energyflow_mlx.build.objectives import record_of
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.inference.formats import folder as formats
from energyflow_mlx.runs.folder import MODEL, RunFolder
from energyflow_mlx.runtime import jit_headers
from energyflow_mlx.runtime.received import require_type
from energyflow_mlx.text.tokenizer import Tokenizer


def load(path: str | Path) -> SentenceCodec:
    """Load a trained model from its run folder, an exported folder, or the hub.

    Of a run the best checkpoint by its chosen metric is taken; its digests are checked.

    Args:
        path: Run folder, as given to ``run.dir``; a folder that ``export`` wrote; or
            ``user/name`` on the Hugging Face hub.

    Raises:
        InputError: The folder, its config, tokenizer or weights are missing or
            damaged, or the hub does not supply it.
    """
    found = formats.find_folder(path)
    if formats.is_pretrained(found):
        return SentenceCodec.from_pretrained(found)
    if (found / formats.GRAPH).is_file():
        raise InputError(
            f"[load] {found} is a graph for other runtimes; its README.md says how to "
            "use it."
        )
    folder = RunFolder(found)
    config = folder.read_config()
    tokenizer = Tokenizer.load(folder.tokenizer)
    best = folder.best((MODEL,))
    dimension = best.meta.get("dimension")
    require_type(dimension, int, f"[load] {best.path}: dimension")
    assert isinstance(dimension, int)
    whole = formats.build_pretrained(
        config,
        tokenizer,
        best.arrays_of(MODEL),
        dimension,
        str(best.path),
    )
    jit_headers.prepare()
    record = record_of(best.meta, config)
    return SentenceCodec(whole.model, tokenizer, config, whole.dimension, record)
