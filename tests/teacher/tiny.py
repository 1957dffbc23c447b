"""Tiny teachers on disk, made from the golden files' weights."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from energyflow_mlx.data.captions.generate import generate_captions

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LAYOUTS = ("bert", "distilbert", "roberta", "xlm-roberta", "mpnet", "modernbert")
WORDS = "a the man woman dog cat red big runs sits on in park ##s ##ing".split()
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
CORPUS = generate_captions(200, 0)
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


def byte_pairs():
    """RoBERTa's kind of tokenizer: byte-level BPE between <s> and </s>."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def unigram():
    """XLM-RoBERTa's kind of tokenizer: SentencePiece unigrams."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def write_teacher_of(folder, layout, tokenizer):
    """A teacher's folder with a tokenizer of another size: its table is drawn anew."""
    write_teacher(folder, layout)
    size = tokenizer.get_vocab_size()
    config = read_golden(layout)[2] | {"vocab_size": size, "pad_token_id": 1}
    weights, name = read_golden(layout)[0], "embeddings.word_embeddings.weight"
    rows = np.random.default_rng(0).normal(size=(size, weights[name].shape[1]))
    weights[name] = mx.array(rows.astype(np.float32))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
