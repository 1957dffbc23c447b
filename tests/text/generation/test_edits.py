"""Edits of a guess: which come first, what they may not be, what they depend on."""

import numpy as np

from energyflow_mlx.text.generation.edits import LIKELIEST, Likely, edits_of

START, END = 1, 2
ROW = np.array([START, 10, 11, 12, 13, END], np.int32)
PLACES = len(ROW) - 1


def likely(**changes):
    """Nothing is likelier than the sentence, but for the changes."""
    tokens = np.tile(np.arange(20, 20 + LIKELIEST), (PLACES, 1))
    log_p = np.full((PLACES, LIKELIEST), -20.0)
    own, after = np.full(PLACES, -1.0), np.full(PLACES, -20.0)
    found = {"tokens": tokens, "log_p": log_p, "own": own, "after": after}
    for name, at in changes.items():
        for place, value in at.items():
            found[name][place] = value
    return Likely(**found)


def edits(found, count, seed=0, tried=None):
    random = np.random.default_rng(seed)
    made = edits_of(ROW, found, count, random, set() if tried is None else tried)
    return [edit.tolist() for edit in made]


def first(**changes):
    return edits(likely(**changes), 1)[0]


def test_a_likelier_token_takes_the_place_of_the_sentences_own():
    assert first(log_p={2: (-20, -20, -0.5, -20, -20, -20)}, own={2: -9.0}) == [
        *(START, 10, 11, 22, 13, END)
    ]


def test_a_likely_token_comes_in_before_one_that_is_likely_too():
    assert first(log_p={3: (-0.1, -20, -20, -20, -20, -20)}) == [
        *(START, 10, 11, 12, 20, END)
    ]  # in place of 13 it gains 0.9, before it it has -1.1
    better = {3: (-0.1, -20, -20, -20, -20, -20)}
    assert first(log_p=better, own={3: 0.0}) == [START, 10, 11, 12, 20, END]
    assert edits(likely(log_p=better), 3)[1] == [START, 10, 11, 12, 20, 13, END]


def test_a_token_is_left_out_where_the_one_after_it_is_likelier():
    assert first(after={1: -0.5}, own={1: -4.0}) == [START, 10, 12, 13, END]


def test_the_end_stays_and_the_own_token_is_no_edit():
    end = PLACES - 1
    found = likely(
        log_p={end: np.zeros(LIKELIEST), 0: np.zeros(LIKELIEST)},
        own={end: -30.0},
        after={end: 0.0},
        tokens={0: 10},
    )
    made = edits(found, 40)
    assert made and all(edit[-1] == END for edit in made)
    assert ROW.tolist() not in made
    assert [*ROW[:-1].tolist(), 20, END] in made


def test_a_third_of_the_edits_move_a_phrase():
    made = edits(likely(), 30)
    moved = [edit for edit in made if sorted(edit) == sorted(ROW.tolist())]
    assert 8 <= len(moved) <= 10
    assert [START, 12, 13, 10, 11, END] in edits(likely(), 300)
    assert all(edit[0] == START and edit[-1] == END for edit in moved)


def test_no_edit_comes_twice_and_later_rounds_go_further_down():
    tried = set()
    rounds = [edits(likely(), 6, seed, tried) for seed in range(5)]
    every = [tuple(edit) for found in rounds for edit in found]
    assert len(every) == len(set(every)) == len(tried)
    assert all(len(found) >= 4 for found in rounds)


def test_the_same_numbers_give_the_same_edits():
    assert edits(likely(), 12, seed=1) == edits(likely(), 12, seed=1)
    assert edits(likely(), 12, seed=1) != edits(likely(), 12, seed=2)


def test_a_sentence_of_one_word_has_edits_too():
    row = np.array([START, 10, END], np.int32)
    found = Likely(*(array[:2] for array in likely()))
    made = edits_of(row, found, 6, np.random.default_rng(0), set())
    assert len(made) >= 4 and all(edit[0] == START for edit in made)
