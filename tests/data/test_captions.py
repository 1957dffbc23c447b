"""The built-in captions are distinct, repeatable and correct English."""

import hashlib
import re
import time

import pytest

from energyflow_mlx.data.captions import words
from energyflow_mlx.data.captions.generate import _Grammar, generate_captions
from energyflow_mlx.data.captions.inflection import (
    participle,
    pluralize,
    third_person,
    with_article,
)
from energyflow_mlx.data.captions.scenes import SCENES

COUNT = 20_000
GOLDEN_DIGEST = "21c4211d4a919c33"


@pytest.fixture(scope="module")
def captions():
    return generate_captions(COUNT, seed=0)


def test_captions_are_distinct(captions):
    assert len(captions) == len(set(captions)) == COUNT


def test_a_seed_gives_the_same_captions_on_every_machine():
    text = "\n".join(generate_captions(500, seed=3))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest.startswith(GOLDEN_DIGEST), digest


def test_another_seed_gives_other_captions():
    first, second = set(generate_captions(500, seed=1)), generate_captions(500, seed=2)
    assert len(first.intersection(second)) < 25


def test_a_longer_list_begins_with_the_shorter_one():
    assert generate_captions(300, seed=5)[:100] == generate_captions(100, seed=5)


def test_20000_captions_take_about_a_second():
    start = time.process_time()
    generate_captions(COUNT, seed=1)
    assert time.process_time() - start < 2.0


def test_captions_are_sentences_of_6_to_14_words(captions):
    pattern = re.compile(r"[A-Z][a-z]*(,? [a-z]+){5,13}\.")
    assert [s for s in captions if not pattern.fullmatch(s)] == []


def test_articles_follow_the_sound(captions):
    wrong = re.compile(r"\b(a (?!uni|one)[aeiou]|an [^aeiou]|an uni)")
    assert [s for s in captions if wrong.search(s.lower())] == []


def test_number_and_verb_agree(captions):
    many = "|".join(words.NUMBERS.split(";"))
    plural_is = re.compile(rf"^({many})( \w+){{1,2}} is ", re.IGNORECASE)
    one_are = re.compile(r"^an? (?!\w+ and|\w+ \w+ and)(\w+ ){1,2}are ", re.IGNORECASE)
    assert [s for s in captions if plural_is.search(s) or one_are.search(s)] == []


def test_no_word_is_repeated_in_a_row(captions):
    assert [s for s in captions if re.search(r"\b(\w+) \1\b", s.lower())] == []


def test_no_pronoun_can_disagree_with_its_noun(captions):
    assert [s for s in captions if re.search(r"\b(its|his|her|their)\b", s)] == []


def test_of_is_not_followed_by_a_number(captions):
    number = rf"\bof ({words.NUMBERS.replace(';', '|')})\b"
    assert [s for s in captions if re.search(number, s)] == []


def test_vocabulary_is_small_and_well_used(captions):
    found = {word for s in captions for word in re.findall("[a-z]+", s.lower())}
    assert 1_000 < len(found) < 1_500  # word forms; about 850 words


def test_every_pattern_of_subject_occurs(captions):
    starts = ("There is", "There are", "A group of", "In ", "Two ", "The ", "Snow")
    for start in starts:
        assert any(s.startswith(start) for s in captions), start


def test_too_many_captions_are_refused():
    with pytest.raises(ValueError, match="count must be at least 0"):
        generate_captions(-1, seed=0)


def table_verbs():
    tables = [scene[2] for scene in SCENES] + [animal[2] for animal in words.ANIMALS]
    lines = [line.partition(":")[0] for t in tables for line in t.splitlines()]
    lines += [words.MEETINGS, *words.PETTING.values()]
    verbs = {v.strip() for line in lines for v in line.split(";")}
    return {v.split(" ")[0] for v in verbs}


@pytest.mark.parametrize("verb", sorted(table_verbs()))
def test_participle_doubles_a_single_final_consonant(verb):
    is_short = re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", verb)
    assert (participle(verb)[len(verb) :] == verb[-1] + "ing") == bool(is_short)


@pytest.mark.parametrize(
    ("form", "word", "expected"),
    [
        (participle, "lie", "lying"),
        (participle, "see", "seeing"),
        (participle, "make", "making"),
        (participle, "sit next to", "sitting next to"),
        (third_person, "carry", "carries"),
        (third_person, "play", "plays"),
        (third_person, "watch over", "watches over"),
        (third_person, "go", "goes"),
        (pluralize, "toy car", "toy cars"),
        (pluralize, "firefighter", "firefighters"),
        (pluralize, "policeman", "policemen"),
        (pluralize, "peach", "peaches"),
        (pluralize, "potato", "potatoes"),
        (pluralize, "young wolf", "young wolves"),
        (with_article, "old man", "an old man"),
        (with_article, "uniform", "a uniform"),
        (with_article, "hour", "an hour"),
    ],
)
def test_word_forms(form, word, expected):
    assert form(word) == expected


def test_more_captions_than_the_grammar_has_are_refused(monkeypatch):
    monkeypatch.setattr(_Grammar, "sentence", lambda self: "A cat sleeps.")
    with pytest.raises(ValueError, match="count must be at most about 1, got 2"):
        generate_captions(2, seed=0)
