"""What no decoder could write, by cause."""

import numpy as np
import pytest

from energyflow_mlx.evaluation.reachable import reach

# Sentence, what is left of it in 6 tokens, its tokens, one of them unknown, the cause.
SENTENCES = [
    ("a dog runs.", "a dog runs.", 6, False, "reachable"),
    ("A dog runs.", "a dog runs.", 6, False, "changed_case"),
    ("a dog runs on and on.", "a dog runs on", 8, False, "unreachable_length"),
    ("\u5149 \u222e runs.", "runs.", 8, True, "unreachable_length"),
    ("a \u5149.", "a .", 4, True, "unreachable_unknown"),
    ("a dog( runs", "a dog (runs", 6, False, "unreachable_punctuation"),
    ("a caf\u00e9.", "a cafe.", 5, False, "unreachable_other"),
]


def shares_of(rows):
    texts, back, lengths, is_unknown, _ = zip(*rows, strict=True)
    return reach(texts, back, np.array(lengths), 6, np.array(is_unknown))


@pytest.mark.parametrize("row", SENTENCES, ids=lambda row: row[-1])
def test_a_sentence_counts_once_under_its_cause(row):
    found = shares_of([row])
    cause = row[-1]
    if cause == "changed_case":
        assert found.pop("reachable") == 1
    assert found.pop(cause) == 1 and not any(found.values())


def test_the_shares_add_up_to_one():
    found = shares_of(SENTENCES)
    found.pop("changed_case")
    assert sum(found.values()) == pytest.approx(1)
    assert found["reachable"] == pytest.approx(2 / 7)
