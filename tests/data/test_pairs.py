"""Files of pairs, and batches in which the sentences of a pair lie side by side."""

import gzip
import json

import numpy as np
import pytest

from energyflow_mlx.data.pairs import PairBatcher, read_pairs
from energyflow_mlx.errors import InputError


def test_pairs_are_read_from_either_kind_of_file(tmp_path):
    rows = [("a dog", "one dog"), ("two cats", "cats, two of them")]
    tsv, packed = tmp_path / "p.tsv", tmp_path / "p.jsonl.gz"
    tsv.write_text("".join(f"{a}\t{b} \n" for a, b in rows), encoding="utf-8")
    with gzip.open(packed, "wt", encoding="utf-8") as file:
        for a, b in rows:
            file.write(json.dumps({"text": a, "pair_target": b}) + "\n")
    for path in (tsv, packed):
        assert [*zip(*read_pairs(path), strict=True)] == rows


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.tsv", "a\tb\nalone\n", "line 2 must be two sentences with a tab between"),
        ("p.tsv", "a\tb\na\t \n", "line 2 must be .* got 2 fields, one of them empty"),
        ("p.tsv", "", "must hold pairs, got an empty file"),
        ("p.jsonl", '{"text": "a"}\n', "every record must have 'text' and 'pair_"),
        ("p.txt", "a\tb\n", "must end in .tsv, .jsonl"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_pairs(path)


def test_sentences_of_a_pair_lie_side_by_side_in_the_bucket_of_the_longer():
    first = [np.arange(1, n + 1, dtype=np.int32) for n in (3, 5, 2, 4)]
    second = [np.full(n, 9, np.int32) for n in (2, 3, 7, 4)]
    batcher = PairBatcher(
        first, second, vocab_size=10, batch_size=2, buckets=[6, 8], seed=0
    )
    for bucket, members in batcher.plan(0):
        batch = batcher.batch(bucket, members)
        assert batch.ids.shape == batch.mask.shape == (4, bucket)
        for place, member in enumerate(members):
            for row, side in enumerate((first, second)):
                own = batch.ids[2 * place + row]
                length = len(side[member])
                np.testing.assert_array_equal(own[:length], side[member])
                assert batch.mask[2 * place + row].sum() == length
    assert any(bucket == 8 for bucket, _ in batcher.plan(0))
