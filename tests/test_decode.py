"""The decode command does what ``decode`` of the loaded model does, row by row."""

import dataclasses

import numpy as np
import pytest

from energyflow_mlx import decode
from energyflow_mlx.config import command_line
from energyflow_mlx.errors import InputError
from energyflow_mlx.text.generation import Decoding
from tests.build.tiny import E, make_codec, trained_codec

ROWS = np.random.default_rng(0).normal(size=(11, E)).astype(np.float32)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command on words as typed; returns the lines of its output."""

    def run(codec, *words):
        monkeypatch.setattr("energyflow_mlx.build.codec.load", lambda path: codec)
        np.save(tmp_path / "in.npy", ROWS)
        files = [f"input={tmp_path / 'in.npy'}", f"output={tmp_path / 'out.txt'}"]
        words = ["run=somewhere", *files, *words]
        decode.decode_file(command_line.parse(decode.DecodeArgs, words))
        return (tmp_path / "out.txt").read_text(encoding="utf-8").split("\n")[:-1]

    return run


def lines(texts):
    return [text.replace("\n", " ") for text in texts]


SETTINGS = [
    {"max_length": 3},
    {"temperature": 1.5},
    {"temperature": 1.5, "seed": 8},
    {"temperature": 1.5, "top_k": 2},
    {"temperature": 1.5, "top_p": 0.3},
    {"beams": 4},
    {"beams": 4, "length_penalty": 0.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: list(s)[-1])
def test_every_setting_of_the_command_reaches_the_text(command, settings):
    codec = trained_codec()
    settings = {"max_length": 8} | settings
    words = [f"{name}={value}" for name, value in settings.items()]
    found = command(codec, *words)
    assert found == lines(codec.decode(ROWS, **settings))
    *_, last = settings
    without = {k: v for k, v in settings.items() if k != last}
    assert found != lines(codec.decode(ROWS, **without))


def test_corrections_are_to_be_had_from_the_command(command):
    codec = trained_codec()
    found = command(codec, "corrections=3", "max_length=8")
    assert found == lines(codec.decode(ROWS, corrections=3, max_length=8))
    assert found != lines(codec.decode(ROWS, max_length=8))


def test_edits_are_to_be_had_from_the_command_whatever_the_chunks(command):
    codec = trained_codec()
    whole = lines(codec.decode(ROWS, edits=3, max_length=8))
    assert command(codec, "edits=3", "max_length=8", "batch_size=2") == whole
    assert whole != lines(codec.decode(ROWS, max_length=8))


def test_samples_are_to_be_had_from_the_command_whatever_the_chunks(command):
    codec = trained_codec()
    whole = lines(codec.decode(ROWS, samples=4, max_length=8))
    assert command(codec, "samples=4", "max_length=8", "batch_size=2") == whole
    assert whole != lines(codec.decode(ROWS, max_length=8))


@pytest.mark.parametrize("settings", [{"temperature": 1.5, "seed": 3}, {}])
def test_chunks_of_the_file_do_not_show_in_the_texts(command, settings):
    """Sentence i depends on the seed and on i, wherever the file is cut."""
    codec = make_codec()
    words = [f"{name}={value}" for name, value in settings.items()]
    found = command(codec, "max_length=8", "batch_size=2", *words)
    assert found == lines(codec.decode(ROWS, max_length=8, **settings))


def test_arguments_are_the_settings_of_decoding_and_the_files():
    names = {f.name: f.default for f in dataclasses.fields(decode.DecodeArgs)}
    settings = {f.name: f.default for f in dataclasses.fields(Decoding)}
    assert settings.items() <= names.items()
    files = {"run", "input", "output", "batch_size", "function"}
    assert names.keys() - settings.keys() == files


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("top_p=3", r"\[decode\] top_p must be <="),
        ("batch_size=-1", "batch_size must"),
    ],
)
def test_settings_out_of_range_leave_no_file(command, tmp_path, word, message):
    with pytest.raises(InputError, match=message):
        command(make_codec(), word)
    assert not (tmp_path / "out.txt").exists()
