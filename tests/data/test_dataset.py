"""One record type for text and vectors; files join, split and keep rows together."""

import numpy as np
import pytest

from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.data.dataset import (
    SentenceSet,
    permutation,
    read_many,
    read_sentences,
    split,
    write_efb,
)
from energyflow_mlx.data.efb import EFBWriter
from energyflow_mlx.data.jsonl import write_jsonl
from energyflow_mlx.errors import InputError


def numbered(count, width=3):
    """Texts and vectors that name their own row, from 1 on."""
    numbers = np.arange(1, count + 1, dtype=np.float32)
    targets = np.repeat(numbers[:, None], width, axis=1)
    return SentenceSet([f"sentence {i}" for i in range(count)], None, targets)


def row_numbers(sentences):
    from_text = [int(text.split()[1]) for text in sentences.texts]
    assert (sentences.targets[:, 0] - 1).tolist() == from_text
    return from_text


def test_text_and_vectors_cannot_shift_against_each_other():
    """Formats section 11: rows were counted by text but joined by vector."""
    with pytest.raises(ValueError, match="targets must have 2 rows, got 3"):
        SentenceSet(["a", "b"], None, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="ids must have 1 rows, got 2"):
        SentenceSet(["a"], [np.ones(1), np.ones(1)])
    with pytest.raises(ValueError, match=r"targets must be \[N, E\], got \[1\]"):
        SentenceSet(["a"], None, np.zeros(1))
    with pytest.raises(ValueError, match="texts, ids or targets must be given"):
        SentenceSet(None)


def test_a_subset_keeps_rows_together():
    ids = [np.array([i]) for i in range(5)]
    full = SentenceSet(list("abcde"), ids, np.eye(5), list("vwxyz"), np.arange(5))
    part = full.subset(np.array([3, 1]))
    assert (part.texts, part.pair_texts) == (["d", "b"], ["y", "w"])
    assert [row.tolist() for row in part.ids] == [[3], [1]]
    assert part.files.tolist() == [3, 1]
    np.testing.assert_array_equal(part.targets, np.eye(5)[[3, 1]])


# Splitting


@pytest.mark.parametrize(("fraction", "expected"), [(0, 0), (0.001, 1), (0.19, 19)])
def test_validation_has_its_share(fraction, expected):
    train, held_out = split(numbered(100), fraction, seed=0)
    assert (len(train), len(held_out)) == (100 - expected, expected)


def test_split_covers_everything_once_and_keeps_rows_together():
    train, held_out = split(numbered(50), 0.3, seed=4)
    assert sorted(row_numbers(train) + row_numbers(held_out)) == list(range(50))


def test_split_depends_on_the_seed_alone():
    first, again = split(numbered(50), 0.3, seed=4), split(numbered(50), 0.3, seed=4)
    other = split(numbered(50), 0.3, seed=5)
    assert first[1].texts == again[1].texts
    assert first[1].texts != other[1].texts


def test_equal_sentences_stay_on_one_side():
    texts = [f"s{i % 20}" for i in range(100)]
    train, held_out = split(SentenceSet(texts), 0.2, seed=1)
    assert set(train.texts).isdisjoint(held_out.texts)
    ids = [np.array([i % 20]) for i in range(100)]
    train, held_out = split(SentenceSet(None, ids), 0.2, seed=1)
    assert {r[0] for r in train.ids}.isdisjoint(r[0] for r in held_out.ids)


def test_captions_split_into_disjoint_parts():
    train, held_out = split(SentenceSet(generate_captions(2000, 0)), 0.1, seed=0)
    assert len(held_out) == 200
    assert set(train.texts).isdisjoint(held_out.texts)


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\)"):
        split(numbered(5), fraction, seed=0)


def test_a_split_that_leaves_no_training_is_refused():
    with pytest.raises(ValueError, match="2 different sentences or more"):
        split(SentenceSet(["a", "a", "a"]), 0.5, seed=0)


def test_the_permutation_is_fixed_for_all_numpy_versions():
    assert permutation(8, 1, 2).tolist() == [5, 6, 3, 2, 1, 0, 4, 7]


# Reading


def write_text(folder, name="a.txt", content="One.\nTwo.\n"):
    path = folder / name
    path.write_text(content)
    return path


def test_each_suffix_has_its_reader(tmp_path):
    targets = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    text = write_text(tmp_path)
    jsonl, efb = tmp_path / "a.jsonl", tmp_path / "a.efb"
    write_jsonl(jsonl, texts=["One.", "Two."], targets=targets)
    write_efb(efb, SentenceSet(["One.", "Two."], None, targets), normalized=True)
    for path in (text, jsonl, efb):
        found = read_sentences(path)
        assert found.texts == ["One.", "Two."] and found.ids is None
        assert (found.targets is None) == (path is text)
        if path is not text:
            np.testing.assert_array_equal(found.targets, targets)


def test_tokens_come_without_padding(tmp_path):
    path = tmp_path / "a.efb"
    with EFBWriter(path, 1, has_text=False, has_tokens=True, version=1) as writer:
        writer.add(np.ones(1), ids=[5, 6, 0, 0], mask=[1, 1, 0, 0])
    found = read_sentences(path)
    assert found.texts is None and found.ids[0].tolist() == [5, 6]


@pytest.mark.parametrize("name", ["a.doc", "a.npz", "a"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    with pytest.raises(
        InputError, match=r"expected \.txt, \.jsonl, \.csv, \.tsv .* or a folder"
    ):
        read_sentences(tmp_path / name)


def test_vectors_alone_are_read_from_npy(tmp_path):
    rows = np.arange(6, dtype=np.float16).reshape(3, 2)
    np.save(tmp_path / "v.npy", rows)
    found = read_many([tmp_path / "v.npy"] * 2)
    assert (found.texts, found.ids, len(found)) == (None, None, 6)
    assert found.targets.dtype == np.float32
    train, held_out = split(found, 0.4, 0)
    # Equal rows stay on one side.
    assert not {tuple(r) for r in train.targets} & {tuple(r) for r in held_out.targets}
    rows[1, 0] = np.nan
    np.save(tmp_path / "v.npy", rows)
    with pytest.raises(InputError, match=r"v\.npy row 1 must be finite"):
        read_sentences(tmp_path / "v.npy")


def test_records_of_mixed_kind_are_refused(tmp_path):
    path = write_text(
        tmp_path,
        "a.jsonl",
        '{"text": "a"}\n{"input_ids": [1], "attention_mask": [1]}\n',
    )
    with pytest.raises(InputError, match="in every record, or tokens in every one"):
        read_sentences(path)


def efb_file(path, rows, **kind):
    with EFBWriter(
        path, 1, **{"has_text": False, "has_tokens": False} | kind
    ) as writer:
        for row in rows:
            writer.add(np.ones(1), **row)
    return path


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ({"has_text": True}, [], "expected samples, got an empty file"),
        (
            {"has_text": True},
            [{"text": "a"}, {"text": " "}],
            "sample 1 has a blank text",
        ),
        ({"has_tokens": True}, [{"ids": [1], "mask": [0]}], "sample 0 has no token"),
    ],
)
def test_samples_without_content_are_refused(tmp_path, kind, rows, message):
    with pytest.raises(InputError, match=message):
        read_sentences(efb_file(tmp_path / "a.efb", rows, **kind))


def test_many_files_are_one_set(tmp_path):
    first = write_text(tmp_path, "a.txt", "One.\n")
    second = write_text(tmp_path, "b.txt", "Two.\nThree.\n")
    both = read_many([first, second])
    assert both.texts == ["One.", "Two.", "Three."]
    assert (both.files.tolist(), both.files.dtype) == ([0, 1, 1], np.int32)
    assert read_many([second]).texts == ["Two.", "Three."]


def test_many_files_must_fit_together(tmp_path):
    text = write_text(tmp_path)
    wide, narrow, tokens = (tmp_path / f"{n}.jsonl" for n in ("wide", "narrow", "tok"))
    write_jsonl(wide, texts=["a"], targets=np.ones((1, 3)))
    write_jsonl(narrow, texts=["b"], targets=np.ones((1, 2)))
    write_jsonl(tokens, ids=[np.array([1])])
    with pytest.raises(InputError, match=r"narrow.*size 3 like .*wide.*, got 2"):
        read_many([wide, narrow])
    with pytest.raises(
        InputError, match=r"wide.*: expected vectors in all files or in"
    ):
        read_many([text, wide])
    with pytest.raises(InputError, match=r"tok\.jsonl: has no text"):
        read_many([text, tokens])
    with pytest.raises(InputError, match="at least one file"):
        read_many([])


def test_many_files_keep_vectors_beside_their_text(tmp_path):
    paths = []
    for start in (0, 4):
        paths.append(tmp_path / f"{start}.efb")
        write_efb(paths[-1], numbered(8).subset(range(start, start + 4)))
    assert row_numbers(read_many(paths)) == list(range(8))


def test_an_efb_needs_vectors(tmp_path):
    with pytest.raises(ValueError, match="targets must be given"):
        write_efb(tmp_path / "a.efb", SentenceSet(["a"]))
