"""Readers for fuzzing: an honest file, what changes it, and what reads the change."""

import hashlib
import json
import signal
import struct
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from energyflow_mlx.config import read_config
from energyflow_mlx.data.efb import EFBReader
from energyflow_mlx.data.jsonl import read_jsonl
from energyflow_mlx.data.provenance import read_provenance
from energyflow_mlx.data.vectors import open_matrix
from energyflow_mlx.errors import InputError
from energyflow_mlx.inference.formats.folder import open_folder
from energyflow_mlx.plots import read_facts
from energyflow_mlx.runs.checkpoint import HEADER, load
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.runs.swift_files import read_efck1, read_efop1
from energyflow_mlx.teacher.load import load_teacher
from energyflow_mlx.text.tokenizer import Tokenizer
from tests.faults.changes import change_bytes, change_json
from tests.faults.sent import sign_vocabulary, signed

_SECONDS = 20
_STEP = "run/checkpoints/step_00000001"


class Target(NamedTuple):
    """One reader under random changes.

    Attributes:
        file: The file that is changed.
        change: Makes other contents of it: ``(bytes, generator) -> bytes``.
        read: What a user calls afterwards, with the folder of all files.
        finish: What an attacker mends afterwards, such as digests.
    """

    file: str
    change: Callable
    read: Callable
    finish: Callable = lambda _path: None


def in_json(data, rng):
    """The same file with a changed JSON value."""
    return json.dumps(change_json(json.loads(data), rng)).encode()


def in_header(data, rng):
    """A safetensors file with a changed header; the length before it fits."""
    length = struct.unpack("<Q", data[:8])[0]
    text = in_json(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def in_checkpoint(data, rng):
    """A checkpoint header changed and signed anew."""
    header = json.loads(data)
    header.pop("sha256")
    header = change_json(header, rng)
    return signed(header).encode() if isinstance(header, dict) else b"[]"


def in_line(data, rng):
    """JSON Lines with one record changed."""
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = in_json(lines[at], rng)
    return b"\n".join(lines) + b"\n"


def in_either(structured):
    """Half of the changes in the structure, half in the bytes."""

    def change(data, rng):
        return (structured if rng.random() < 0.5 else change_bytes)(data, rng)

    return change


def _sign_payload(path):
    header = json.loads((path.parent / HEADER).read_text())
    header.pop("sha256")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    header["files"][path.name] |= {"bytes": len(data), "sha256": digest}
    (path.parent / HEADER).write_text(signed(header))


def _sign_source(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sign_vocabulary(source_sha256=digest)(path.with_name("student_vocab.json"))


def _sign_record(path):
    record = json.loads(path.read_text())
    if isinstance(record, dict) and "fingerprint" in record:
        sign_vocabulary()(path)


def _teacher(folder: Path):
    return load_teacher(folder / "teacher", 16, normalize=True).encode(["a dog"])


def _facts(folder: Path):
    return read_facts(RunFolder(folder / "run"))


def _use_tokenizer(folder: Path):
    words = Tokenizer.load(folder / "model")
    return words.decode(words.encode(["a dog runs.", ""], 16))


TARGETS = {
    "checkpoint": Target(f"{_STEP}/{HEADER}", in_checkpoint, lambda f: load(f / _STEP)),
    "payload": Target(
        f"{_STEP}/model.safetensors",
        in_either(in_header),
        lambda f: load(f / _STEP),
        _sign_payload,
    ),
    "config": Target(
        "run/config.json", in_json, lambda f: read_config(f / "run/config.json")
    ),
    "model": Target("model/config.json", in_json, lambda f: open_folder(f / "model")),
    "weights": Target(
        "model/model.safetensors", in_header, lambda f: open_folder(f / "model")
    ),
    "source": Target("model/tokenizer.json", in_json, _use_tokenizer, _sign_source),
    "vocabulary": Target(
        "model/student_vocab.json", in_json, _use_tokenizer, _sign_record
    ),
    "teacher": Target("teacher/config.json", in_json, _teacher),
    "teacher_weights": Target("teacher/model.safetensors", in_header, _teacher),
    "efb": Target("a.efb", change_bytes, lambda f: EFBReader(f / "a.efb").targets),
    "note": Target(
        "a.efb.json", in_either(in_json), lambda f: read_provenance(f / "a.efb")
    ),
    "jsonl": Target("a.jsonl", in_either(in_line), lambda f: read_jsonl(f / "a.jsonl")),
    "npy": Target(
        "a.npy",
        lambda data, rng: change_bytes(data[:128], rng) + data[128:],
        lambda f: open_matrix(f / "a.npy"),
    ),
    "metrics": Target(
        "run/metrics.jsonl",
        in_either(in_line),
        lambda f: read_metrics(f / "run/metrics.jsonl"),
    ),
    "summary": Target("run/summary.json", in_json, _facts),
    "evaluation": Target("run/evaluation.json", in_json, _facts),
    "samples": Target("run/samples.jsonl", in_either(in_line), _facts),
    "efck1": Target("a.efck1", change_bytes, lambda f: read_efck1(f / "a.efck1")),
    "efop1": Target("a.efop1", change_bytes, lambda f: read_efop1(f / "a.efop1")),
}


def try_change(target: Target, folder: Path, data: bytes) -> str | None:
    """Read changed contents; the refusal, or none where they are read.

    Any other error than ``InputError`` passes, and so does an endless reader.
    """
    path = folder / target.file
    beside = [path.with_name(n) for n in (HEADER, "student_vocab.json")]
    kept = {p: p.read_bytes() for p in (path, *beside) if p.is_file()}
    try:
        path.write_bytes(data)
        target.finish(path)
        with _limited():
            target.read(folder)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, str(error)[:2000]
        return str(error)
    finally:
        for each, contents in kept.items():
            each.write_bytes(contents)
    return None


@contextmanager
def _limited():
    """End a reader that does not end."""

    def stop(_number, _frame):
        raise AssertionError(f"not read after {_SECONDS} s")

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
