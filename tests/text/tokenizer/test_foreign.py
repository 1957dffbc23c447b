"""Text that a vocabulary was not made for is noticed; text like its own is not."""

import logging

import numpy as np
import pytest

from energyflow_mlx.config import TeacherConfig
from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.teacher import teacher_from
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.text.tokenizer.foreign import (
    SpellingWatch,
    spelling_of,
    tokens_of_words,
)

CAPTIONS = generate_captions(1200, 42)
TRAINING, HELD_OUT = CAPTIONS[:1000], CAPTIONS[1000:]
NEWS = [
    "Government officials denied that negotiations over agricultural subsidies had "
    "collapsed in Brussels yesterday.",
    "Shares of pharmaceutical companies plunged after regulators rejected the merger.",
    "Researchers published evidence that vaccination campaigns reduced mortality.",
]


@pytest.fixture(scope="module")
def source():
    return teacher_from(TeacherConfig()).tokenizer_path


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def own(request, source):
    """A vocabulary of the captions, and its tokens a word on them."""
    if request.param == "bpe":
        tokenizer = Tokenizer.train_bpe(TRAINING, 2000)
    else:
        tokenizer = Tokenizer.from_source(source, TRAINING)
    found = spelling_of(tokenizer, TRAINING, len(TRAINING))
    return tokenizer, found.tokens / found.words


def warned(caplog, watch, *windows):
    """Warnings that each window brings."""
    counts = []
    for window in windows:
        caplog.clear()
        watch.look(window)
        counts.append(len(caplog.records))
    return counts


def test_held_out_text_of_the_same_kind_is_silent(own, caplog):
    """At once, and sentence by sentence."""
    watch = SpellingWatch(*own)
    assert warned(caplog, watch, HELD_OUT) == [0]
    single = SpellingWatch(*own)
    assert sum(warned(caplog, single, *([text] for text in HELD_OUT))) == 0


def test_foreign_text_warns_once_and_says_what_to_do(own, caplog):
    watch = SpellingWatch(*own)
    assert warned(caplog, watch, HELD_OUT[:5], NEWS, NEWS) == [0, 1, 0]
    watch = SpellingWatch(*own)
    with caplog.at_level(logging.WARNING):
        watch.look(NEWS)
    said = caplog.messages[-1]
    assert "of its words are split" in said and "train on text of this kind" in said
    assert ("tokenizer.full_vocabulary=true" in said) is (own[0].kind == "wordpiece")


def test_one_foreign_sentence_is_enough(own, caplog):
    assert warned(caplog, SpellingWatch(*own), NEWS[:1]) == [1]


def test_a_rare_name_in_a_short_sentence_is_not_foreign(own, caplog):
    assert warned(caplog, SpellingWatch(*own), ["A marmot runs."]) == [0]


def test_foreign_text_late_in_a_long_file_is_noticed(own, caplog):
    watch = SpellingWatch(*own)
    windows = [HELD_OUT] * 30
    assert sum(warned(caplog, watch, *windows)) == 0
    assert sum(warned(caplog, watch, *[NEWS] * 150)) == 1


def test_the_whole_vocabulary_of_the_teacher_knows_news(source, caplog):
    tokenizer = Tokenizer.from_source(source, None)
    found = spelling_of(tokenizer, TRAINING, 100)
    watch = SpellingWatch(tokenizer, found.tokens / found.words)
    assert warned(caplog, watch, NEWS * 5) == [0]


def test_nothing_is_counted_where_training_counted_nothing(own, caplog):
    assert warned(caplog, SpellingWatch(own[0], None), NEWS, []) == [0, 0]
    assert warned(caplog, SpellingWatch(*own), [], [""], ["   "]) == [0, 0, 0]


def test_tokens_are_those_of_the_students_words(source):
    tokenizer = Tokenizer.from_source(source, ["A dog runs."])
    sizes = tokens_of_words(tokenizer, ["A dog runs.", "", "A cat."])
    # "cat" is spelt c, ##a, ##t.
    assert sizes.tolist() == [1, 1, 1, 1, 1, 3, 1]
    rows = tokenizer.encode(["A dog runs.", "A cat."], 32)
    assert sizes.sum() == sum(len(row) - 2 for row in rows)
    found = spelling_of(tokenizer, ["A dog runs.", "A cat."], 10)
    assert (found.words, found.tokens, found.split) == (7, 9, 1)
    assert np.issubdtype(sizes.dtype, np.integer)
