"""Vectors to learn from are checked alike, whatever they come from."""

import json
import struct

import numpy as np
import pytest

from energyflow_mlx.build.run import run
from energyflow_mlx.build.sentences import read_sets
from energyflow_mlx.config import Config
from energyflow_mlx.data.dataset import SentenceSet, read_sentences, write_efb
from energyflow_mlx.data.efb import EFBReader
from energyflow_mlx.data.jsonl import write_jsonl
from energyflow_mlx.data.vectors import require_targets
from energyflow_mlx.errors import InputError
from energyflow_mlx.prepare import PrepareArgs, prepare
from energyflow_mlx.teacher import FunctionTeacher, PrecomputedTeacher, cached_vectors

ROWS, BAD_ROW = 12, 7
BAD = {
    "zero": 0.0,
    "short": 1e-4,
    "long": 1e4,
    "beyond float16": 7e4,
    "beyond float32": 1e30,
    "infinite": np.inf,
    "not a number": np.nan,
}


def texts():
    return [f"a dog sees {n} cats." for n in range(ROWS)]


def targets(value):
    """Unit vectors ``[12, 4]`` of which one is ``value`` times such a one."""
    rows = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        rows[BAD_ROW] *= value
    return rows


def write_targets(path, value):
    """A file of texts and vectors; those that no writer of ours would write, too."""
    rows, good = targets(value), targets(1.0)
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".efb":
        write_efb(path, SentenceSet(texts(), None, good))
        data = path.read_bytes()
        path.write_bytes(data.replace(good[BAD_ROW].tobytes(), rows[BAD_ROW].tobytes()))
    else:
        write_jsonl(path, texts=texts(), targets=good)
        lines = path.read_text().splitlines()
        record = json.loads(lines[BAD_ROW])
        lines[BAD_ROW] = json.dumps(record | {"target": rows[BAD_ROW].tolist()})
        path.write_text("\n" + "\n".join(lines))  # blank lines are counted


PLACES = {  # of row 7
    "a.npy": r"a\.npy row 7 must be finite",
    "a.efb": r"a\.efb: (vector of sample 7|byte \d+: target) must be finite",
    # NaN and infinity are no JSON; written as text they are numbers.
    "a.jsonl": r"a\.jsonl: line 9: (target must be finite|.*(NaN|Infinity) is no)",
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_a_vector_to_learn_from_is_refused_with_its_file_and_row(tmp_path, name, value):
    write_targets(tmp_path / name, value)
    with pytest.raises(InputError, match=PLACES[name]):
        read_sentences(tmp_path / name)


@pytest.mark.parametrize("name", PLACES)
def test_vectors_of_a_length_that_can_be_are_read(tmp_path, name):
    for value in (0.011, 99.0):
        write_targets(tmp_path / name, value)
        norms = np.linalg.norm(read_sentences(tmp_path / name).targets, axis=1)
        assert norms[BAD_ROW] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_a_file_of_vectors_for_sentences_is_checked_alike(tmp_path, value):
    write_targets(tmp_path / "v.npy", value)
    with pytest.raises(InputError, match=r"v\.npy row 7 must be finite with a norm of"):
        PrecomputedTeacher(tmp_path / "v.npy", normalize=True)


def test_numbers_too_large_for_float32_are_refused_in_one_line(tmp_path):
    """Without a warning about the cast, which would be a second line."""
    np.save(tmp_path / "v.npy", targets(1.0).astype(np.float64) * [[1e300]])
    with pytest.raises(InputError, match="row 0 must be finite .* got norm inf"):
        PrecomputedTeacher(tmp_path / "v.npy", normalize=True)


def test_what_overflowed_in_a_stored_float16_is_refused(tmp_path):
    with np.errstate(over="ignore"):
        np.save(tmp_path / "v.npy", targets(2e5).astype(np.float16))
    with pytest.raises(InputError, match="row 7 must be finite .* got norm inf"):
        read_sentences(tmp_path / "v.npy")


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_a_functions_vectors_are_checked_alike(tmp_path, value):
    place = {text: row for row, text in enumerate(texts())}
    rows = targets(value)

    def function(asked):
        return [rows[place.get(text, 0)] for text in asked]

    teacher = FunctionTeacher(function, name="mine", version="", normalize=True)
    message = f"mine: vector of '{texts()[BAD_ROW]}' must be finite with a norm of"
    with pytest.raises(InputError, match=message):
        cached_vectors(teacher, texts(), tmp_path / "cache", batch_size=0)
    assert not list((tmp_path / "cache").rglob("*.shard"))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", ["a.efb", "a.jsonl"])
def test_prepare_refuses_them_and_writes_nothing(tmp_path, name, normalize):
    write_targets(tmp_path / name, 0.0)
    output = tmp_path / "out.efb"
    words = {"input": str(tmp_path / name), "output": str(output)}
    with pytest.raises(InputError, match=PLACES[name]):
        prepare(PrepareArgs(**words, teacher="precomputed", normalize=normalize))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_either_vector_of_a_pair_is_checked(tmp_path):
    """The whole row has a norm that can be; its second half is no vector."""
    rows = targets(1.0)
    rows[BAD_ROW, 2:] = 0.0
    np.save(tmp_path / "p.npy", rows)
    config = Config()
    config.data.train, config.data.pairs = [str(tmp_path / "p.npy")], True
    message = r"p\.npy row 7, the second of its two vectors must be finite"
    with pytest.raises(InputError, match=message):
        read_sets(config)


def test_rows_are_named_beyond_the_first_block():
    rows = np.ones((9000, 2), np.float32)
    rows[8999] = 0
    with pytest.raises(InputError, match="row 8999 must be finite"):
        require_targets(rows, lambda row: f"row {row}")


@pytest.mark.parametrize("length", [0.5, 2.0])
def test_a_header_that_promises_unit_vectors_is_held_to_it(tmp_path, length):
    path = tmp_path / "a.efb"
    good = targets(1.0)
    write_efb(path, SentenceSet(texts(), None, good), normalized=True)
    assert EFBReader(path).normalized
    data = path.read_bytes()
    at = data.index(good[BAD_ROW].tobytes())
    path.write_bytes(data.replace(good[BAD_ROW].tobytes(), targets(length)[BAD_ROW]))
    message = f"byte {at}: target of sample 7 must have length 1 .*, got {length:g}"
    with pytest.raises(InputError, match=message):
        EFBReader(path)
    flags = struct.pack("<I", 2)  # without the promise
    path.write_bytes(data[:12] + flags + path.read_bytes()[16:])
    assert len(EFBReader(path)) == ROWS


@pytest.mark.parametrize("held_out", [False, True])
def test_a_run_is_refused_before_its_folder_is_made(tmp_path, held_out):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    write_targets(good, 1.0)
    write_targets(bad, 0.0)
    config = Config()
    config.data.train, config.data.val = [str(good)], [str(good)]
    if held_out:
        config.data.val = [str(bad)]
    else:
        config.data.train = [str(bad)]
    config.run.dir = str(tmp_path / "run")
    with pytest.raises(InputError, match=r"bad\.jsonl: line 9: target must be finite"):
        run(config)
    assert not (tmp_path / "run").exists()
