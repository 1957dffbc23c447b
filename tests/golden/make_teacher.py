"""Record what PyTorch's sentence encoders give to the teacher's tests.

    python tests/golden/make_teacher.py

Needs torch, transformers, sentence-transformers and safetensors. Each file holds a tiny
model with random weights, its configuration, a padded batch of ids with its mask, and
the last hidden state. Biases and norm weights are drawn too: at their usual 0 and 1
they would hide a mistake. Weights are stored under the names of ``save_pretrained``.

``teacher_stages.safetensors`` holds features and the vectors that pooling and dense
layers of sentence-transformers make of them, with the files of their folders.
"""

import json
import tempfile
from pathlib import Path

import sentence_transformers
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
)

SEED = 20240
FOLDER = Path(__file__).parent
CONFIGS = {
    "bert": transformers.BertConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=16,
    ),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=60,
        dim=24,
        n_layers=2,
        n_heads=3,
        hidden_dim=40,
        max_position_embeddings=16,
    ),
    "roberta": transformers.RobertaConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=18,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    ),
    # Another padding id and epsilon than RoBERTa's usual ones, and more segments.
    "xlm-roberta": transformers.XLMRobertaConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
        type_vocab_size=2,
        pad_token_id=3,
        layer_norm_eps=1e-3,
    ),
    # Long enough for buckets of several distances.
    "mpnet": transformers.MPNetConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=80,
        layer_norm_eps=1e-5,
    ),
    # The window of 2 to either side is shorter than the rows.
    "modernbert": transformers.ModernBertConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=32,
        max_position_embeddings=64,
        local_attention=4,
        pad_token_id=0,
        cls_token_id=2,
        bos_token_id=2,
        sep_token_id=3,
        eos_token_id=3,
        attn_implementation="eager",
    ),
}
LENGTHS = (11, 2, 7, 1)
LONG = (70, 12, 33, 1)  # for relative positions
STAGES = ("mean", "cls", "lasttoken")


def main() -> None:
    for layout, config in CONFIGS.items():
        record_encoder(layout, config)
    record_stages()


def record_encoder(layout: str, config: transformers.PreTrainedConfig) -> None:
    torch.manual_seed(SEED)
    model = transformers.AutoModel.from_config(config).eval()
    draw(model)
    lengths = LONG if layout == "mpnet" else LENGTHS
    ids = torch.randint(5, config.vocab_size, (len(lengths), max(lengths)))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    pads = config.pad_token_id if layout != "distilbert" else 0
    ids = torch.where(mask.bool(), ids, pads)
    if layout not in ("bert", "distilbert"):
        ids[0, 4] = pads  # a padding token amid a text, which the mask shows
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    arrays = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
    arrays |= {"ids": ids.int(), "mask": mask.float(), "hidden": hidden}
    save(arrays, f"teacher_{layout}", config=json.dumps(config.to_dict()))


def record_stages() -> None:
    """Each pooling with two dense layers after it, and a normalization between."""
    torch.manual_seed(SEED)
    hidden = torch.randn(len(LENGTHS), max(LENGTHS), 12)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    arrays, files = {"hidden": hidden, "mask": mask.float()}, {}
    dense = [Dense(12, 8), Dense(8, 6, bias=False, activation_function=torch.nn.GELU())]
    normalize = Normalize()
    for number, stage in zip((2, 4), dense, strict=True):
        draw(stage)
        files[f"{number}_Dense/config.json"] = saved(stage, f"{number}.", arrays)
    for mode in STAGES:
        pooling = Pooling(12, pooling_mode=mode)
        files[f"1_Pooling/{mode}.json"] = saved(pooling, "", {})
        features = {"token_embeddings": hidden.clone(), "attention_mask": mask}
        with torch.no_grad():
            for stage in (pooling, dense[0], normalize, dense[1]):
                features = stage(features)
        arrays[f"vectors.{mode}"] = features["sentence_embedding"].contiguous()
    version = sentence_transformers.__version__
    save(
        arrays, "teacher_stages", files=json.dumps(files), sentence_transformers=version
    )


def saved(stage: torch.nn.Module, prefix: str, arrays: dict[str, torch.Tensor]) -> str:
    """Text of the stage's configuration; its tensors go into ``arrays``."""
    with tempfile.TemporaryDirectory() as folder:
        stage.save(folder)
        weights = Path(folder) / "model.safetensors"
        if weights.is_file():
            tensors = load_file(weights)
            arrays |= {f"{prefix}{name}": value for name, value in tensors.items()}
        return (Path(folder) / "config.json").read_text()


def draw(model: torch.nn.Module) -> None:
    """Random weights everywhere."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.3 * torch.randn_like(parameter))
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))


def save(arrays: dict[str, torch.Tensor], name: str, **more: str) -> None:
    metadata = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seed": str(SEED),
    }
    save_file(arrays, FOLDER / f"{name}.safetensors", metadata | more)


if __name__ == "__main__":
    main()
