"""Tokens of one vocabulary are spelt in another of the same source."""

import numpy as np
import pytest

from energyflow_mlx.config import TeacherConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.teacher import teacher_from
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.text.tokenizer.translation import spelt_by

OLD, NEW = ["A dog runs home."], ["A marmot runs homewards.", "Zwei Hunde, 狗."]


@pytest.fixture(scope="module")
def source():
    return teacher_from(TeacherConfig()).tokenizer_path


def spelt(old, new):
    rows = spelt_by(old, new)
    assert len(rows) == new.vocab_size and all(len(row) for row in rows)
    return {
        token: [old.tokens[i] for i in row]
        for token, row in zip(new.tokens, rows, strict=True)
    }


def test_known_word_pieces_are_themselves_and_new_ones_are_spelt(source):
    old, new = (Tokenizer.from_source(source, text) for text in (OLD, NEW))
    found = spelt(old, new)
    assert found["runs"] == ["runs"] and found["[SEP]"] == ["[SEP]"]
    assert found["home"] == ["home"]
    assert all(
        row == [token] for token, row in found.items() if token in set(old.tokens)
    )
    for token, row in found.items():
        if token.isascii() and not token.startswith("["):
            plain = token.removeprefix("##")
            assert "".join(t.removeprefix("##") for t in row) == plain or "<0x" in token


def test_a_sentence_keeps_its_tokens_through_the_new_vocabulary(source):
    """Spelt token by token it is what the old vocabulary makes of it."""
    old, new = (Tokenizer.from_source(source, text) for text in (OLD, NEW))
    rows = spelt_by(old, new)
    (ids,) = new.encode(NEW[:1], 64)
    (expected,) = old.encode(NEW[:1], 64)
    assert np.concatenate([rows[i] for i in ids]).tolist() == expected.tolist()


def test_byte_pairs_are_spelt_without_marks():
    old, new = Tokenizer.train_bpe(OLD * 4, 290), Tokenizer.train_bpe(NEW * 4, 320)
    for token, row in spelt(old, new).items():
        assert "".join(row) == token
    old = Tokenizer.train_bpe(["bedstead roadstead instead"] * 4, 290)
    new = Tokenizer.train_bpe(["one homestead"] * 4, 290)
    found = spelt(old, new)["\u0120homestead"]  # the mark of a space before it
    assert found[-1] == "stead"


def test_other_kinds_and_sources_are_refused(source, tmp_path):
    words, pairs = Tokenizer.from_source(source, OLD), Tokenizer.train_bpe(OLD, 290)
    with pytest.raises(InputError, match="got bpe to wordpiece"):
        spelt_by(pairs, words)
    other = tmp_path / "tokenizer.json"
    other.write_text(source.read_text() + "\n")
    with pytest.raises(InputError, match="of another source"):
        spelt_by(Tokenizer.from_source(other, OLD), words)
