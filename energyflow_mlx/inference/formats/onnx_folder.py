"""An encoder's folder for other runtimes: graph, tokenizer, card.

    model.onnx        the graph, see ``onnx_graph``
    tokenizer.json    its tokenizer, as Hugging Face ``tokenizers`` reads it
    config.json       format, version, vector size, longest sentence
    README.md         the model card, with a script that needs this package no more

For sentence-transformers there are ``modules.json`` and the module that it names.
"""

from pathlib import Path

from energyflow_mlx.inference.formats import card, onnx_graph
from energyflow_mlx.inference.formats.folder import (
    CONFIG,
    GRAPH,
    Pretrained,
    new_folder,
    write_json,
)
from energyflow_mlx.inference.formats.onnx_nodes import require_onnx

TOKENIZER = "tokenizer.json"
FORMAT, VERSION = "energyflow-onnx", 1
SCRIPT = """\
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

session = onnxruntime.InferenceSession("PATH/model.onnx")
tokenizer = Tokenizer.from_file("PATH/tokenizer.json")
tokenizer.encode_special_tokens = True  # "[SEP]" in a text is five characters
tokenizer.enable_padding()

def encode(sentences):
    rows = tokenizer.encode_batch(sentences, add_special_tokens=False)
    ids = np.array([row.ids for row in rows], np.int64)
    mask = np.array([row.attention_mask for row in rows], np.int64)
    return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]

print(encode(["A dog runs.", "A cat sleeps."]).shape)
"""

# What sentence-transformers reads: a list of modules, here one, and where its class is.
_MODULE = Path(__file__).with_name("for_sentence_transformers.py")
_MODULE_NAME = "energyflow_onnx"
_LIBRARY_SCRIPT = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH", trust_remote_code=True)
print(model.encode(["A dog runs.", "A cat sleeps."]).shape)
"""


def write(
    path: Path, source: Pretrained, facts: card.CardFacts, *, with_modules: bool
) -> None:
    """Write the folder, all of it or nothing.

    Args:
        path: A folder that is new, empty or holds an earlier export alone.
        source: The model.
        facts: What the card says beside what the model knows of itself.
        with_modules: Whether sentence-transformers can open it too.

    Raises:
        InputError: The extra is not installed, the folder holds other files, or the
            model has no graph.
    """
    require_onnx("export")
    with new_folder(path) as aside:
        graph = onnx_graph.encoder_graph(source)
        (aside / GRAPH).write_bytes(graph.SerializeToString())
        text = source.tokenizer.bare_source()
        (aside / TOKENIZER).write_text(text, encoding="utf-8")
        config = {
            "format": FORMAT,
            "version": VERSION,
            "dimension": source.dimension,
            "max_length": source.config.data.max_length,
        }
        write_json(aside / CONFIG, config)
        if with_modules:
            _write_modules(aside)
        usage = _usage(with_modules=with_modules)
        card.write_card(aside, source, "float32", facts, usage)


def _write_modules(folder: Path) -> None:
    module = f"{_MODULE_NAME}.EnergyFlowOnnx"
    described = {"idx": 0, "name": "0", "path": "", "type": module}
    write_json(folder / "modules.json", [described])
    write_json(
        folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"}
    )
    text = _MODULE.read_text(encoding="utf-8")
    (folder / f"{_MODULE_NAME}.py").write_text(text, encoding="utf-8")


def _usage(*, with_modules: bool) -> str:
    """How to use the folder, for its card."""
    parts = ["## Use", "`PATH` is this folder."]
    if with_modules:
        parts += [
            "`trust_remote_code` lets the library import `energyflow_onnx.py` of this "
            "folder (read it first; `pip install sentence-transformers onnxruntime`):",
            f"```python\n{_LIBRARY_SCRIPT}```",
            "Or without that library:",
        ]
    parts += [
        "This needs `pip install numpy onnxruntime tokenizers` and nothing else; the "
        "graph cuts long sentences itself, and its vectors have length 1.",
        f"```python\n{SCRIPT}```",
    ]
    return "\n\n".join(parts)
