"""Texts come from lines, records, columns and folders; flaws name file and line."""

import gzip

import pytest

from energyflow_mlx.data.sources import read_text_lines, read_texts
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
        read_text_lines(path)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected sentences, got an empty file"):
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
        ("id,words\n1,a\n", "line 1: expected the column 'text', got id, words"),
        ("", "line 1: expected the column 'text', got none"),
        ("id,text\n1,a\n2\n", "line 3: expected 2 columns, got 1"),
        ('text\n"a"b\n', "line 2: bad CSV"),
        ("text\n \n", "got an empty column"),
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
    with pytest.raises(InputError, match="every record must have 'text'"):
        read_texts(path)
