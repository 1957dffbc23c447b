"""Edited sentences: near real ones, equal to none, the same for the same seed."""

import hashlib
from collections import Counter

import pytest

from energyflow_mlx.data import edits
from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.data.distinct import deduplicate
from energyflow_mlx.data.edits import KINDS, TRIES, edited_sentences

CAPTIONS = generate_captions(400, seed=0)
COUNT = 900
DIGEST = "f0352631537cd157"
WORDS = "A dog is running on the beach".split()
OTHER = "Two old men carry a chair".split()


def all_of(kind, sentence):
    """What a kind may make of a sentence, with draws from 0 to 1."""
    draws = [i / 12 for i in range(12)]
    return {" ".join(kind(sentence.split(), OTHER, [x])) for x in draws}


def made(texts=CAPTIONS, taken=CAPTIONS, count=COUNT, seed=1):
    return edited_sentences(texts, taken, count, seed)


def test_a_seed_gives_the_same_edits_on_every_machine():
    digest = hashlib.sha256("\n".join(made()).encode()).hexdigest()
    assert digest.startswith(DIGEST), digest


def test_another_seed_gives_other_edits():
    assert len(set(made()) & set(made(seed=2))) < COUNT / 10


def test_edits_are_distinct_from_each_other_and_from_every_sentence_taken():
    """Of few sentences, whose edits are soon the same ones or one of the taken."""
    few = CAPTIONS[:6]
    taken = made(few, few, 200)
    free = made(few, few, 200, seed=2)
    assert set(free) & set(taken)  # or what follows says nothing
    found = made(few, few + taken, 200, seed=2)
    assert len(found) == 200
    together, _ = deduplicate(few + taken + found, ignore_case=True)
    assert len(together) == len(few) + 400


def test_letter_case_and_white_space_make_no_new_sentence():
    free = made(CAPTIONS[:1], CAPTIONS[:1], 60)
    taken = [f"  {text.upper()} ".replace(" ", "\t ") for text in free]
    found = made(CAPTIONS[:1], CAPTIONS[:1] + taken, 60)
    together, _ = deduplicate(free + found, ignore_case=True)
    assert found and len(together) == len(free) + len(found)


def test_every_kind_is_tried_as_often(monkeypatch):
    tried = Counter()

    def counted(kind):
        return lambda *given: tried.update([kind.__name__]) or kind(*given)

    monkeypatch.setattr(edits, "KINDS", tuple(map(counted, KINDS)))
    made(count=1200)
    mean = tried.total() / len(KINDS)
    assert len(tried) == len(KINDS)
    assert all(abs(number - mean) < 0.25 * mean for number in tried.values()), tried


def test_both_sentences_are_drawn_from_all():
    texts = [" ".join(f"{letter}{i}" for i in range(9)) for letter in "abcdef"]
    letters = Counter(word[0] for text in made(texts, texts) for word in text.split())
    assert set(letters) - set("noNTi") == set("abcdef")
    assert min(letters[x] for x in "abcdef") > 0.6 * max(letters[x] for x in "abcdef")


@pytest.mark.parametrize("few", [["a b"], ["one"], ["a b c"], ["a b c d"], ["x", ""]])
def test_an_edit_has_three_words_or_more(few):
    assert all(len(text.split()) >= 3 for text in made(few, few, 100))


@pytest.mark.parametrize("texts", [CAPTIONS[:1], ["one two"], []])
def test_a_tiny_file_ends_after_so_many_tries(monkeypatch, texts):
    tries, attempt = [], edits._try
    monkeypatch.setattr(edits, "_try", lambda *x: tries.append(x) or attempt(*x))
    found = made(texts, texts, 5000)
    assert len(found) < 5000
    assert len(tries) == (TRIES * 5000 if texts else 0)


@pytest.mark.parametrize(
    ("kind", "draws", "edit"),
    [
        ("leave_out", [0, 0, 0], "dog is running on the beach"),
        ("leave_out", [0.5, 0.99, 0.9], "A dog is on the"),
        ("replace", [0.2, 0, 0, 0.99], "A chair is running on the beach"),
        ("replace", [0, 0.99, 0.9, 0, 0.2], "Two dog is running on the old"),
        ("swap", [0.2, 0.7, 0], "A the is running on dog beach"),
        ("swap", [0, 0, 0], "dog A is running on the beach"),
        ("rotate", [0.0], "dog is running on the beach A"),
        ("rotate", [0.99], "beach A dog is running on the"),
        ("join_halves", [], "A dog is running carry a chair"),
        ("negate", [0.0], "A dog is not running on the beach"),
        ("negate", [0.3], "No dog is running on the beach"),
        ("negate", [0.5], "There is no dog running on the beach"),
        ("negate", [0.99], "Nobody is running on the beach"),
        ("reword", [0.0], "A dog running on the beach"),
        ("reword", [0.3], "A dog is running on the beach"),
        ("reword", [0.5], "A dog that is running on the beach"),
        ("reword", [0.99], "There is a dog running on the beach"),
    ],
)
def test_an_edit_is_what_its_kind_says(kind, draws, edit):
    assert " ".join(getattr(edits, kind)(WORDS, OTHER, draws)) == edit


@pytest.mark.parametrize(
    ("sentence", "denials"),
    [
        ("A bird sings.", {"No bird sings.", "There is no bird sings."}),
        ("Are they here?", {"Are not they here?"}),
        ("Two men have left.", {"Two men have not left."}),
        ("Birds were here.", {"Birds were not here."}),
        ("Snow was here.", {"Snow was not here.", "Nobody was here."}),
        ("Birds sing.", {"Birds sing."}),
        ("A bird is not here.", {"A bird is not here."}),
        ("no bird is here.", {"no bird is here."}),
        ("Two men riding", {"Two men are not riding"}),
    ],
)
def test_a_sentence_is_denied_in_each_way_that_its_words_allow(sentence, denials):
    assert all_of(edits.negate, sentence) == denials


@pytest.mark.parametrize(
    ("sentence", "others"),
    [
        ("A big bowl", {"There is a big bowl"}),
        ("The bird sings", {"There is the bird sings"}),
        ("Birds sing", {"Birds sing"}),
        ("Are they here", {"Are they here"}),
        ("There are two men", {"There are two men"}),
        ("a building here", {"There is a building here"}),
        (
            "Two men riding",
            {"Two men riding", "Two men are riding"}
            | {"Two men that are riding", "There are two men riding"},
        ),
        (
            "A man riding",
            {"A man riding", "A man is riding"}
            | {"A man that is riding", "There is a man riding"},
        ),
    ],
)
def test_a_sentence_is_reworded_in_each_way_that_its_words_allow(sentence, others):
    assert all_of(edits.reword, sentence) == others


@pytest.mark.parametrize("end", [".", " !", "?!"])
def test_the_marks_that_end_a_sentence_end_its_edits(end):
    texts = ["One of us is to sing", "a b, c d; e f"]
    with_end = [text + end for text in texts]
    plain, marked = made(texts, texts, 200), made(with_end, with_end, 200)
    assert len(plain) > 100
    assert marked == [text + end for text in plain]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_edit_leaves_its_sentences_as_they_are(kind):
    words, other = list(WORDS), list(OTHER)
    kind(words, other, [0.3, 0.6, 0.9, 0.1, 0.2])
    assert (words, other) == (WORDS, OTHER)
