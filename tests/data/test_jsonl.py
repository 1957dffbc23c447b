"""JSON Lines: every record checked, every flaw named with its line."""

import json

import numpy as np
import pytest

from energyflow_mlx.data.jsonl import read_jsonl, write_jsonl
from energyflow_mlx.errors import InputError

GOOD = {"text": "a", "target": [1, 0.5]}
TOKENS = {"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.jsonl"


def write(path, *records):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_text_and_vectors_are_read(path):
    records = read_jsonl(write(path, GOOD, {"text": " ü ", "target": [2, 3], "x": 1}))
    assert records.texts == ["a", "ü"]
    np.testing.assert_array_equal(records.targets, [[1, 0.5], [2, 3]])
    assert records.targets.dtype == np.float32
    assert records.ids is None and records.pair_texts is None


def test_numbers_may_be_written_as_strings(path):
    assert read_jsonl(write(path, {"text": "a", "target": ["1.5", 2]})).targets[0][0]


def test_token_rows_lose_their_padding(path):
    (row,) = read_jsonl(write(path, TOKENS)).ids
    assert row.tolist() == [5, 6] and row.dtype == np.int32


def test_has_tokens_only_if_all_records_have_them(path):
    records = read_jsonl(write(path, GOOD | TOKENS, GOOD))
    assert records.ids is None
    assert records.texts == ["a", "a"]
    assert len(read_jsonl(write(path, GOOD | TOKENS, GOOD | TOKENS)).ids) == 2


def test_an_empty_text_counts_as_absent(path):
    records = read_jsonl(write(path, GOOD | TOKENS, GOOD | TOKENS | {"text": ""}))
    assert records.texts is None and len(records.ids) == 2


def test_pairs_are_kept(path):
    records = read_jsonl(write(path, GOOD | {"pair_target": "b"}))
    assert records.pair_texts == ["b"]


def test_blank_lines_are_skipped_but_counted(path):
    with pytest.raises(InputError, match="line 3: expected a JSON object"):
        read_jsonl(write(path, GOOD, "", "[1]"))
    assert len(read_jsonl(write(path, GOOD, "  ", GOOD)).texts) == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "bad JSON"),
        ("3", "expected a JSON object, got int"),
        ({"text": "a"}, "expected a target in every record or in none, got no one"),
        ({"text": 1, "target": [1, 2]}, "text must be a string, got int"),
        ('{"text": "\\ud800", "target": [1, 2]}', "must be UTF-8 text"),
        ({"target": [1, 2, 3]}, "must have 2 numbers like the first record, got 3"),
        ({"target": []}, "target must be a list of numbers"),
        ({"target": None}, "target must be a list of numbers"),
        ({"target": 3}, "target must be a list of numbers"),
        ({"target": [1, "x"]}, "target must be a list of numbers"),
        ({"target": [1, True]}, "target must be a list of numbers"),
        ({"target": [1, [2]]}, "target must be a list of numbers"),
        ('{"target": [1, NaN]}', "got bad JSON .NaN is no finite"),
        ('{"target": [1e39, 1]}', r"target must be finite, got 1e\+39 at 0"),
        ('{"target": [1, 1%s]}' % ("0" * 400), "list of numbers .*too large"),
        ({"target": [1, 2], "input_ids": [1]}, "got only input_ids"),
        ({"target": [1, 2], "attention_mask": [1]}, "got only attention_mask"),
        (GOOD | TOKENS | {"attention_mask": [1]}, "as long as input_ids = 3, got 1"),
        (GOOD | TOKENS | {"attention_mask": [1, 2, 0]}, "list of 0 and 1"),
        (GOOD | TOKENS | {"input_ids": [-1, 2, 3]}, "input_ids must be a list of int"),
        (GOOD | TOKENS | {"input_ids": [1.0, 2, 3]}, "input_ids must be a list of int"),
        (GOOD | {"input_ids": [], "attention_mask": []}, "input_ids must be a list"),
    ],
)
def test_a_bad_record_is_refused_with_its_line(path, bad, message):
    with pytest.raises(InputError, match=f"line 2: .*{message}") as caught:
        read_jsonl(write(path, GOOD, bad))
    assert str(path) in str(caught.value)


def test_bytes_that_are_not_utf8_are_refused_with_their_line(path):
    path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(InputError, match="line 2: expected UTF-8, got byte 0xff"):
        read_jsonl(path)


def test_an_empty_file_is_refused(path):
    path.write_text("\n\n")
    with pytest.raises(InputError, match="expected records, got an empty file"):
        read_jsonl(path)


def test_round_trip_is_exact(path):
    targets = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    ids = [np.array([1, 2]), np.array([3]), np.array([4, 5, 6])]
    texts, pairs = ["é", 'a "b"', "c\\n"], ["x", "y", "z"]
    write_jsonl(path, texts=texts, ids=ids, targets=targets, pair_texts=pairs)
    records = read_jsonl(path)
    assert records.texts == texts and records.pair_texts == pairs
    np.testing.assert_array_equal(records.targets, targets)
    assert [row.tolist() for row in records.ids] == [row.tolist() for row in ids]
    assert "é" in path.read_text(encoding="utf-8")


def test_a_failed_write_leaves_nothing(path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_jsonl(path, targets=np.array([[1.0], [np.nan]]))
    with pytest.raises(ValueError, match="argument 2 is"):
        write_jsonl(path, texts=["a"], targets=np.ones((2, 1)))
    with pytest.raises(ValueError, match="at least one column"):
        write_jsonl(path)
    assert list(path.parent.iterdir()) == []
