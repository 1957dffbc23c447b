"""A signed object comes back as it was, or is refused."""

import json

import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime.signed_json import read_signed, write_signed

VALUES = {"b": 1, "a": {"x": [1.5, None, True]}, "word": "Größe"}


def test_an_object_comes_back_in_its_order_without_its_digest(tmp_path):
    write_signed(tmp_path / "a.json", VALUES)
    found = read_signed(tmp_path / "a.json")
    assert found == VALUES and list(found) == list(VALUES)


def test_a_file_without_a_digest_is_read_as_it_is(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(VALUES))
    assert read_signed(tmp_path / "a.json") == VALUES


def test_white_space_and_order_may_change_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_signed(path, VALUES)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values, sort_keys=True, indent=4))
    assert read_signed(path) == VALUES
    path.write_text(json.dumps(values | {"b": 2}))
    with pytest.raises(InputError, match="must match its own sha256"):
        read_signed(path)


@pytest.mark.parametrize("text", ["[1]", "{", "null", "[" * 10_000])
def test_what_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="not readable JSON|must be a JSON object"):
        read_signed(tmp_path / "a.json")


def test_a_digest_whose_key_was_hit_is_no_file_without_one(tmp_path):
    path = tmp_path / "a.json"
    write_signed(path, VALUES)
    whole = path.read_bytes()
    key = whole.index(b"sha256")
    for place in range(key, key + len("sha256")):
        for bit in range(8):
            broken = bytearray(whole)
            broken[place] ^= 1 << bit
            path.write_bytes(broken)
            with pytest.raises(InputError, match=r"a\.json"):
                read_signed(path)


def test_an_object_whose_last_value_is_a_text_needs_no_digest(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": 1, "word": "sha256"}))
    assert read_signed(tmp_path / "a.json") == {"a": 1, "word": "sha256"}
