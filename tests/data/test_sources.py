"""Texts come from lines, records, columns and folders; flaws name file and line."""

import gzip

import numpy as np
import pytest

from energyflow_mlx.data.dataset import SentenceSet, write_efb
from energyflow_mlx.data.sources import iter_texts, read_texts
from energyflow_mlx.errors import InputError


def test_lines_are_stripped_and_blank_ones_skipped(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffOne.\r\n\n  Two ü. \n \t\nThree\u2028b".encode())
    assert read_texts(path) == ["One.", "Two ü.", "Three\u2028b"]


def test_packed_lines_are_read(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"One.\nTwo.\n"))
    assert read_texts(path) == ["One.", "Two."]


@pytest.mark.parametrize("cut", [1, 12, 25])
def test_a_damaged_gz_is_named(tmp_path, cut):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"One.\nTwo.\n" * 50)[:cut])
    with pytest.raises(InputError, match=r"a\.txt\.gz: unreadable after line \d+"):
        read_texts(path)


def test_a_gz_that_is_none_is_named(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(b"plain text\n")
    with pytest.raises(InputError, match="unreadable after line 0: Not a gzipped file"):
        read_texts(path)


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"One.\nTw\xe9.\n")
    message = r"a\.txt: line 2: expected UTF-8, got byte 0xe9 at column 3"
    with pytest.raises(InputError, match=message):
        read_texts(path)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected sentences, got none in it"):
        read_texts(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"a\.txt: no such file"):
        read_texts(tmp_path / "a.txt")


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected \.txt, .* got '\.doc'"):
        read_texts(tmp_path / "a.doc")


def test_a_csv_column_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"One, two."\n2,\n3,"a ""b""\nc"\n\n4,Four\n')
    assert read_texts(path) == ["One, two.", 'a "b" c', "Four"]
    assert read_texts(path, "id") == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "id,words\n1,a\n",
            "line 1: expected a header with one column 'text', got id, words; text_col",
        ),
        ("", "line 1: expected a header with one column 'text', got none"),
        ("text,id,text\na,1,b\n", "got 2 of that name in text, id, text"),
        ("id,text\n1,a\n2\n", "line 3: expected 2 columns, got 1"),
        ('text\n"a"b\n', "line 2: bad CSV"),
        ("text\n \n", "expected sentences, got none in it"),
    ],
)
def test_a_bad_csv_is_refused(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_texts(path)


def test_a_folder_gives_one_text_per_file_in_name_order(tmp_path):
    for name, text in {
        "b.txt": "B\nb\n",
        "a.txt": "A",
        "c.txt": "\n",
        "d": "D",
    }.items():
        (tmp_path / name).write_text(text)
    assert read_texts(tmp_path) == ["A", "B b"]


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected \.txt files with text, got none"):
        read_texts(tmp_path)


def test_a_jsonl_key_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"s": "One"}\n{"s": "Two"}\n')
    assert read_texts(path, "s") == ["One", "Two"]
    message = r"a\.jsonl: line 1: expected a text under 'text', got none; text_column"
    with pytest.raises(InputError, match=message):
        read_texts(path)


def test_a_table_with_tabs_knows_no_quotes(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\n1\t"Wait, he said.\n2\tTwo.\n')
    assert read_texts(path) == ['"Wait, he said.', "Two."]


def test_texts_in_turn_keep_the_numbers_of_lines_and_rows(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\n")
    assert list(iter_texts(tmp_path / "a.txt")) == ["One.", "", "Two."]
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(b"id,text\n1,One.\n2,\n3,Two.\n"))
    assert list(iter_texts(packed)) == ["One.", "", "Two."]


def test_texts_of_an_efb_file_are_read_and_vectors_alone_refused(tmp_path):
    vectors = np.eye(3, dtype=np.float32)[:2]
    texts = ["A dog runs.", "Two cats sleep."]
    write_efb(tmp_path / "a.efb", SentenceSet(texts, None, vectors))
    assert list(iter_texts(tmp_path / "a.efb")) == texts
    ids = [np.array([5, 6], np.int32)] * 2
    write_efb(tmp_path / "ids.efb", SentenceSet(None, ids, vectors))
    with pytest.raises(InputError, match="expected text, got token ids alone"):
        read_texts(tmp_path / "ids.efb")
    np.save(tmp_path / "a.npy", vectors)
    with pytest.raises(InputError, match="expected text, got vectors alone"):
        read_texts(tmp_path / "a.npy")
