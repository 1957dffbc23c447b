"""A file appears whole or not at all, and so do the folders above it."""

import pytest

from energyflow_mlx.runtime.atomic import remove_leftovers, write_aside, write_text


def test_folders_are_made_for_a_file_that_is_written(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "text")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "text"


def test_folders_are_not_left_where_nothing_was_written(tmp_path):
    with pytest.raises(ZeroDivisionError), write_aside(tmp_path / "a" / "b" / "c") as p:
        p.write_text("half")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_stay(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ZeroDivisionError), write_aside(tmp_path / "a" / "c"):
        _ = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_leftovers_of_one_file_go_and_those_of_others_stay(tmp_path):
    for name in (".tmp-1-a.json", ".tmp-22-b.json", "a.json"):
        (tmp_path / name).touch()
    (tmp_path / ".tmp-3-a.json" / "inside").mkdir(parents=True)
    remove_leftovers(tmp_path / "a.json")
    assert {path.name for path in tmp_path.iterdir()} == {".tmp-22-b.json", "a.json"}
