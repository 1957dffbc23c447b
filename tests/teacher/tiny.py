"""Tiny teachers on disk, made from the golden files' weights."""

import json
from pathlib import Path

import mlx.core as mx
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LAYOUTS = ("bert", "distilbert")
WORDS = "a the man woman dog cat red big runs sits on in park ##s ##ing".split()
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
VOCAB += list("bcdefghijklmnop") + [f"##{c}" for c in "abcdefghijklmno"]


def read_golden(layout):
    """Weights by stored name, the recorded batch, and the configuration."""
    arrays, metadata = mx.load(
        str(GOLDEN / f"teacher_{layout}.safetensors"), return_metadata=True
    )
    prefix = "model."
    weights = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    batch = {name: arrays[name] for name in ("ids", "mask", "hidden")}
    return weights, batch, json.loads(metadata["config"])


def word_pieces():
    vocab = {token: i for i, token in enumerate(VOCAB)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def write_teacher(folder, layout="bert", **changes):
    """A teacher's folder; ``changes`` go into its configuration."""
    weights, _, config = read_golden(layout)
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(config | changes))
    word_pieces().save(str(folder / "tokenizer.json"))
    return folder
