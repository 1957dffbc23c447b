"""The home of what someone sent: regular files, plain JSON, values of their types."""

import os
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.runtime import received


@dataclass
class Settings:
    """A dataclass as a file has it."""

    size: int
    rate: float = 0.5
    name: str | None = None
    kind: Literal["a", "b"] = "a"
    rows: list[int] = field(default_factory=list)
    inside: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands there twice"),
        ("[" * 40 + "]" * 40, "over 32 levels"),
        ("[" * 100_000, "over 32 levels"),
        ("NaN", "NaN is no finite number"),
        ("-1e999", "no finite number"),
        ("9" * 65, "a number of 65 digits"),
        ("{", "not readable JSON"),
        ("", "not readable JSON"),
    ],
)
def test_json_that_nobody_here_wrote_is_refused(tmp_path, text, said):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"^\[room\] .*a\.json: .*{said}"):
        received.read_json(path, "room")


def test_plain_json_is_read_as_it_is(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, -2.5, null, true, "x"], "b": {}}')
    assert received.read_json(path, "room") == {
        "a": [1, -2.5, None, True, "x"],
        "b": {},
    }


def test_a_file_has_at_most_its_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert received.read_bytes(path, "room", 5) == b"12345"
    assert received.read_bytes(path, "room") == b"12345"
    with pytest.raises(InputError, match="at most 4 bytes, got 5"):
        received.read_bytes(path, "room", 4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "no such file"),
        ("folder", "expected a file, got a folder"),
        ("pipe", "expected a file, got a pipe"),
        ("device", "expected a file, got a device"),
        ("circle", "not readable: Too many levels"),
        ("file/inside", "not readable: Not a directory"),
        ("a\0b", "no file name"),
    ],
)
def test_only_a_file_is_opened(tmp_path, name, said):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=said):
        received.open_file(tmp_path / name, "room")


def test_a_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    assert received.read_text(tmp_path / "link", "room") == "x"


def test_values_of_their_types_make_the_dataclass():
    values = {"size": 3, "rate": 1, "name": None, "kind": "b", "rows": [1]}
    found = received.built(Settings, values | {"inside": {"a": [1]}}, "[room] a")
    assert found == Settings(3, 1, None, "b", [1], {"a": [1]})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": "3"}, "size must be an integer, got '3'"),
        ({"size": True}, "size must be an integer, got True"),
        ({"size": 1.0}, "size must be an integer, got 1.0"),
        ({"rate": "x"}, "rate must be a number, got 'x'"),
        ({"name": 3}, "name must be a text or null, got 3"),
        ({"kind": "c"}, "kind must be one of a, b, got 'c'"),
        ({"kind": []}, "kind must be one of a, b"),
        ({"rows": [1, "x"]}, "rows must be a list, each an integer"),
        ({"rows": "12"}, "rows must be a list"),
        ({"inside": []}, "inside must be an object"),
        ({"more": 1}, "unknown key more"),
    ],
)
def test_values_of_other_types_are_refused(changes, said):
    with pytest.raises(InputError, match=rf"^\[room\] a: {said}"):
        received.built(Settings, {"size": 3} | changes, "[room] a")


def test_a_missing_value_is_named():
    with pytest.raises(InputError, match="size is missing"):
        received.built(Settings, {}, "[room] a")


def test_a_large_file_of_holes_is_not_read(tmp_path):
    path = tmp_path / "holes"
    with path.open("wb") as file:
        file.write(b"data")
        file.truncate(2**30)
    if path.stat().st_blocks * 512 > 2**20:
        pytest.skip("needs a file system with holes")
    with pytest.raises(InputError, match="bytes of data, got .* and holes"):
        received.open_file(path, "files")
