import math

import pytest

from energyflow_mlx.evaluation.generation import normalize, score_generation


def test_normalization_is_the_documented_one():
    assert normalize("  A  Man\tRIDES\na Cafe\u0301 . ") == "a man rides a café ."


def test_equal_texts_score_full_marks_whatever_their_case():
    texts = ["A man rides a horse.", "Two dogs  play in the snow ."]
    scores = score_generation([t.upper() for t in texts], texts)
    assert (scores.exact, scores.token_f1, scores.sentences) == (1.0, 1.0, 2)
    assert scores.bleu == pytest.approx(100)


def test_bleu_by_hand():
    """One word of six is wrong: precisions 5/6, 3/5, 1/4 (and 4-grams 0 of 3)."""
    reference, hypothesis = "the cat sat on the mat", "the cat lay on the mat"
    scores = score_generation([hypothesis], [reference])
    # exponential smoothing gives the empty 4-grams 1 / (2 * 3)
    precisions = [5 / 6, 3 / 5, 1 / 4, 1 / 6]
    expected = 100 * math.exp(sum(math.log(p) for p in precisions) / 4)
    assert scores.bleu == pytest.approx(expected, abs=1e-6)
    assert scores.token_f1 == pytest.approx(5 / 6)
    assert scores.exact == 0.0


def test_bleu_is_of_the_corpus_and_has_a_brevity_penalty():
    long = "a b c d e f g h"
    scores = score_generation([long, "a b c d"], [long, long])
    assert scores.bleu == pytest.approx(100 * math.exp(1 - 16 / 12))


def test_the_signature_names_case_and_tokenizer():
    signature = score_generation(["a"], ["a"]).signature
    for part in ("nrefs:1", "case:lc", "tok:13a", "smooth:exp", "version:"):
        assert part in signature


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        ("a a b", "a b b", 4 / 6),  # the bags share one a and one b
        ("a b", "b a", 1.0),
        ("a b", "a", 2 / 3),  # half of what is said is right, all that should be is
        ("a", "a b c", 1 / 2),
        ("a", "b", 0.0),
        ("", "a", 0.0),
        ("", "", 1.0),
        ("A man.", "a man", 0.5),  # white space alone separates tokens
    ],
)
def test_token_f1_by_hand(hypothesis, reference, expected):
    scores = score_generation([hypothesis], [reference])
    assert scores.token_f1 == pytest.approx(expected)


def test_exact_match_counts_sentences():
    scores = score_generation(["A b", "c", "d"], ["a  B", "c!", "d"])
    assert scores.exact == pytest.approx(2 / 3)


def test_empty_generations_score_zero():
    scores = score_generation(["", ""], ["a man rides a horse", "a dog"])
    assert (scores.bleu, scores.exact, scores.token_f1) == (0.0, 0.0, 0.0)


def test_unpaired_lists_are_refused():
    for lists in (([], []), (["a"], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match="as many, at least one"):
            score_generation(*lists)
