"""Configurations, models and codecs small enough for any test."""

import functools

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from energyflow_mlx.build import objectives
from energyflow_mlx.build.model import build_model
from energyflow_mlx.config import (
    Config,
    FlowConfig,
    FlowTextConfig,
    LatticeConfig,
    ReconstructionConfig,
    objectives_type,
)
from energyflow_mlx.config import TransformerEncoderConfig as Transformer
from energyflow_mlx.config.lattice import CarrierConfig, CubeConfig, SpawnConfig
from energyflow_mlx.data.batching import pad_rows
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.nn.losses import cosine
from energyflow_mlx.text.tokenizer import Tokenizer

V, E = 50, 12
SENTENCES = [
    f"{subject} {verb} {where}."
    for subject in ("a dog", "two cats", "the old man")
    for verb in ("runs", "sleeps", "eats")
    for where in ("at home", "in the park")
]


def make_lattice():
    return LatticeConfig(
        cube=CubeConfig(width=8, height=8, depth=4),
        spawn=SpawnConfig(per_cell=1 / 32),
        carrier=CarrierConfig(hidden=8, neuron_hidden=6, neuron_features=7),
    )


def make_config(*, experiment="ab", family="tcn", **changes):
    """Config of a tiny run; ``encoder__dim=8`` sets a key of a group."""
    group, own = objectives_type(), {}
    if experiment == "flow":
        own = {"share": "none", "objectives": group(flow=FlowConfig())}
    if experiment == "flow_text":
        both = {"flow_text": FlowTextConfig(), "reconstruction": ReconstructionConfig()}
        own = {"objectives": group(**both)}
    if experiment != "ab":
        own["lattice"] = make_lattice()
    config = Config(**own)
    if family == "transformer":
        config.encoder = Transformer(family=family, heads=2)
        config.share = "none"
    for part in (config.encoder, config.decoder):
        part.dim, part.hidden = 16, 24
    config.data.buckets, config.data.max_length = [16, 32], 32
    for key, value in changes.items():
        *groups, name = key.split("__")
        group = functools.reduce(getattr, groups, config)
        assert hasattr(group, name), key
        setattr(group, name, value)
    return config


def parts_of(config):
    return objectives.parts_of(objectives.build_objectives(config))


def make_model(config, parts=None):
    return build_model(config, parts or parts_of(config), V, E)


@functools.cache
def tokenizer():
    return Tokenizer.train_bpe(SENTENCES, 300)


def make_codec(config=None, parts=None):
    """A codec of fresh weights, loud enough that its texts differ."""
    config = config or make_config()
    words = tokenizer()
    model = build_model(config, parts or parts_of(config), words.vocab_size, E)
    if "decoder" in model:
        model.decoder.output.weight = model.decoder.output.weight * 8
    return SentenceCodec(model, words, config, E)


def teacher_vectors(texts):
    """Unit sums of one random vector per word, ``[N, E]`` float32."""
    vectors = [
        sum(np.random.default_rng(list(word.encode())).normal(size=E) for word in words)
        for words in (text.split() for text in texts)
    ]
    vectors = np.array(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@functools.cache
def trained_codec(steps=60):
    """A codec that learnt both ways between the sentences and their vectors."""
    mx.random.seed(0)
    codec = SentenceCodec(*_fresh())
    ids, mask = map(mx.array, pad_rows(codec.tokenizer.encode(SENTENCES, 32), 16))
    target = mx.array(teacher_vectors(SENTENCES))

    def loss(model):
        features = model.decode_features(ids[:, :-1], mask[:, :-1], target)
        logits = model.decoder.logits(features)
        losses = nn.losses.cross_entropy(logits, ids[:, 1:]) * mask[:, 1:]
        return losses.sum() / mask[:, 1:].sum() + mx.mean(
            1 - cosine(model.encode(ids, mask), target)
        )

    model, optimizer = codec.model, optim.Adam(1e-2)
    gradients_of = nn.value_and_grad(model, loss)
    for _ in range(steps):
        _, gradients = gradients_of(model)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
    return codec


def _fresh():
    config, words = make_config(decoder__conditioning="additive"), tokenizer()
    model = build_model(config, parts_of(config), words.vocab_size, E)
    return model, words, config, E


def run_words(folder):
    """Words of a training so small that most of its time is the start of the process.

    Args:
        folder: For its sentences and vectors.
    """
    text, vectors = folder / "text.txt", folder / "vectors.npy"
    text.write_text("\n".join(SENTENCES) + "\n")
    np.save(vectors, teacher_vectors(SENTENCES))
    size = [f"{p}.{k}=8" for p in ("encoder", "decoder") for k in ("dim", "hidden")]
    return [
        *size,
        *(f"data.{split}=[{text}]" for split in ("train", "val")),
        *(f"teacher.{split}_vectors={vectors}" for split in ("train", "val")),
        "teacher=precomputed",
        "tokenizer=bpe",
        "tokenizer.bpe_size=300",
        "data.buckets=[32]",
        "data.max_length=32",
        "trainer.micro_batch=4",
        "trainer.decode_samples=2",
        "trainer.log_every=2",
        "trainer.compile=false",
    ]
