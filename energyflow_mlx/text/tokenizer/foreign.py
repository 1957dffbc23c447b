"""Notices text that a vocabulary was not made for, and says so once.

A vocabulary cut to its training text spells words that it does not know with many
short pieces. The model has hardly seen such rows of tokens: a sentence that becomes 40
of them in place of 15 gets a vector that means nothing. What is measured is tokens a
word, against that of the training text.
"""

import logging
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from energyflow_mlx.text.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# Held-out captions take 1.0 to 1.2 times the training captions' tokens a word, those of
# another collection 1.3 to 2.0, sentences of news 1.6 to 2.4, German 2.7 to 3.6.
_MOST = 1.4
_RARE_NAME = 6  # tokens too many that say nothing yet
_ENOUGH_WORDS = 1000  # words after which counting starts anew
_SAMPLE = 256


class Spelling(NamedTuple):
    """How texts are spelt.

    Attributes:
        words: Words, punctuation marks among them.
        tokens: Student tokens.
        split: Words that are spelt with several tokens.
    """

    words: int = 0
    tokens: int = 0
    split: int = 0

    def plus(self, other: "Spelling") -> "Spelling":
        """Both together."""
        return Spelling(*(a + b for a, b in zip(self, other, strict=True)))


def spelling_of(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> Spelling:
    """Spelling of texts, or of some evenly spread ones.

    Args:
        tokenizer: The student's.
        texts: Sentences.
        most: Sentences that are looked at.
    """
    count = min(most, len(texts))
    chosen = np.linspace(0, len(texts) - 1, count).astype(int)
    sizes = tokens_of_words(tokenizer, [texts[i] for i in chosen])
    return Spelling(len(sizes), int(sizes.sum()), int((sizes > 1).sum()))


def tokens_of_words(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Student tokens of each word of some texts, ``[words]`` int64.

    What a word is, the tokenizer's source says: punctuation marks are words too.
    """
    counts = [np.zeros(0, np.int64)]
    source = tokenizer._source
    for found in source.encode_batch(list(texts), add_special_tokens=False):
        if len(found.ids):
            _, spelt = tokenizer._expand(np.array(found.ids, np.int64))
            words = np.array(found.word_ids, np.int64)
            counts.append(np.bincount(words, spelt).astype(np.int64))
    sizes = np.concatenate(counts)
    return sizes[sizes > 0]


class SpellingWatch:
    """Looks at texts on their way into an encoder; several threads may.

    Args:
        tokenizer: The student's.
        usual: Tokens a word of the training text; none = do not look.
    """

    def __init__(self, tokenizer: Tokenizer, usual: float | None) -> None:
        self._tokenizer = tokenizer
        self._usual = usual
        self._seen = Spelling()
        self._lock = threading.Lock()

    def look(self, texts: Sequence[str]) -> None:
        """Count some of the texts; warn when they are foreign, the first time."""
        if self._usual is None or not len(texts):
            return
        found = spelling_of(self._tokenizer, texts, _SAMPLE)
        with self._lock:
            seen, usual = self._seen.plus(found), self._usual
            if usual is None:  # another thread has just said so
                return
            self._seen = seen
            if seen.tokens > _MOST * usual * seen.words + _RARE_NAME:
                self._usual = None
                logger.warning(_message(self._tokenizer, seen, usual))
            elif seen.words >= _ENOUGH_WORDS:
                self._seen = Spelling()


def _message(tokenizer: Tokenizer, seen: Spelling, usual: float) -> str:
    advice = "train on text of this kind"
    if tokenizer.vocab_size < len(tokenizer._pieces):
        advice += ", or with tokenizer.full_vocabulary=true"
    share, each = seen.split / seen.words, seen.tokens / seen.words
    return (
        f"this text is foreign to the model's vocabulary: {share:.0%} of its words are "
        f"split, {each:.1f} tokens a word against {usual:.1f} in training; its vectors "
        f"may mean little: {advice}."
    )
