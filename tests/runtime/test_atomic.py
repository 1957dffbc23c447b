"""A file appears whole or not at all, and so do the folders above it."""

import os
import subprocess
import sys

import pytest

from energyflow_mlx.runtime.atomic import (
    TEMPORARY_PREFIX,
    folder_aside,
    remove_leftovers,
    write_aside,
    write_text,
)


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


def dead_process():
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_writer_left_goes_and_what_a_live_one_has_stays(tmp_path):
    dead = tmp_path / f"{TEMPORARY_PREFIX}{dead_process()}-a[1].txt"
    live = tmp_path / f"{TEMPORARY_PREFIX}{os.getppid()}-a[1].txt"
    other = tmp_path / f"{TEMPORARY_PREFIX}{dead_process()}-b.txt"
    for path in (dead, live, other):
        path.write_text("half")
    write_text(tmp_path / "a[1].txt", "whole")
    assert not dead.exists() and live.exists() and other.exists()


def test_a_folder_that_a_killed_writer_had_moved_away_goes_back(tmp_path):
    number = dead_process()
    former = tmp_path / f"{TEMPORARY_PREFIX}{number}-model-former"
    (former / "x").mkdir(parents=True)
    (tmp_path / f"{TEMPORARY_PREFIX}{number}-model").mkdir()
    with pytest.raises(RuntimeError), folder_aside(tmp_path / "model"):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "x").is_dir()
