"""Honest folders and files as somebody might send them, and how to spoil them."""

import gzip
import hashlib
import json
import os
import socket
import struct

import mlx.core as mx
import numpy as np

from energyflow_mlx.data.efb import EFBWriter
from energyflow_mlx.data.jsonl import write_jsonl
from energyflow_mlx.data.provenance import Provenance
from energyflow_mlx.model import flat_parameters
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.swift_files import write_efck1, write_efop1
from energyflow_mlx.runtime.signed_json import digest_of
from tests.build.tiny import SENTENCES, E, make_codec, make_config, teacher_vectors
from tests.teacher.tiny import write_teacher

META = {
    **{"best_value": 0.5, "best_step": 1, "stale": 0, "seconds": 1.0, "samples": 64},
    **{"dimension": E, "trained": [""], "tokens_per_word": 1.2},
}


def send(folder):
    """Write one of everything; returns the folder."""
    folder.mkdir()
    codec = make_codec()
    codec.save_pretrained(folder / "model")
    write_run(folder / "run", codec)
    write_teacher(folder / "teacher")
    vectors = teacher_vectors(SENTENCES)
    note = Provenance("m", "mean", True, "0", 16)
    with EFBWriter(
        folder / "a.efb", E, has_text=True, has_tokens=True, provenance=note
    ) as writer:
        for text, vector in zip(SENTENCES, vectors, strict=True):
            writer.add(vector, text=text, ids=[5, 6, 7], mask=[1, 1, 0])
    write_jsonl(folder / "a.jsonl", texts=SENTENCES, targets=vectors)
    np.save(folder / "a.npy", vectors)
    (folder / "a.txt").write_text("\n".join(SENTENCES))
    with gzip.open(folder / "a.txt.gz", "wt") as file:
        file.write("\n".join(SENTENCES))
    pairs = (f"{i}\t{a}\t{a} too" for i, a in enumerate(SENTENCES))
    (folder / "a.tsv").write_text("\n".join(pairs) + "\n")
    write_efck1(folder / "a.efck1", vectors[:3], vectors[0, :3])
    write_efop1(folder / "a.efop1", 3, [(vectors[0], vectors[1])])
    return folder


def write_run(path, codec):
    """A run folder with one checkpoint, its logs and its result."""
    folder = RunFolder(path)
    folder.begin(make_config())
    codec.tokenizer.save(folder.tokenizer)
    arrays = {f"model.{k}": a for k, a in flat_parameters(codec.model).items()}
    arrays |= {"scale.scale": mx.array(1.0), "scale.good": mx.array(0)}
    folder.save(1, arrays, META, keep=2, best=1)
    record = {"kind": "train", "step": 1, "loss": None, "non_finite": {"loss": "nan"}}
    folder.metrics.write_text(json.dumps(record) + "\n")
    result = {"status": "finished", "steps": 1, "seconds": 1.5}
    result |= {"best": {"cosine": 0.5, "step": 1}, "final": {"cosine": 0.5}}
    folder.write_summary(result)
    sample = {"step": 1, "path": "plain", "sentence": 0, "original": "a", "decoded": ""}
    folder.samples.write_text(json.dumps(sample | {"cosine": 0.5}) + "\n")
    points = {"score": [1.0, 2.0], "cosine": [0.1, 0.2]}
    pair = {"sentence": "a", "nearest": "b", "own_cosine": 0.1, "nearest_cosine": 0.2}
    retrieval = {"confused": 1, "sentences": 2, "worst": [pair]}
    details = {"sts": {"a": points}, "retrieval": retrieval}
    evaluation = {"cosine": 0.5, "spearman": {"a": 7.0}, "details": details}
    folder.evaluation.write_text(json.dumps(evaluation))


# Small changes -----------------------------------------------------------------------


def put(data):
    """A file of these bytes, this text or this JSON in place of another."""

    def change(path):
        text = data if isinstance(data, bytes | str) else json.dumps(data)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def edit(**changes):
    """Other members of a JSON object; a name's double underscores go inward."""

    def change(path):
        values = json.loads(path.read_text())
        for name, value in changes.items():
            *groups, last = name.split("__")
            inside = values
            for group in groups:
                inside = inside[group]
            inside[last] = value
        path.write_text(json.dumps(values))

    return change


def sign(change_of_header):
    """A checkpoint header changed by a function, with the digest of the change."""

    def change(path):
        header = json.loads(path.read_text())
        header.pop("sha256")
        header = change_of_header(header) or header
        path.write_text(signed(header))

    return change


def signed(header):
    """Text of a checkpoint header whose digest agrees."""
    return json.dumps(header | {"sha256": digest_of(header)})


def sign_vocabulary(**changes):
    """A student vocabulary with other members, with the digest of the change."""

    def change(path):
        record = json.loads(path.read_text()) | changes
        record.pop("fingerprint")
        text = json.dumps(record, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(record | {"fingerprint": digest}))

    return change


def sign_source(change_of_text):
    """A changed tokenizer.json whose digest the vocabulary beside it has."""

    def change(path):
        values = json.loads(path.read_text())
        path.write_text(change_of_text(values))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        sign_vocabulary(source_sha256=digest)(path.with_name("student_vocab.json"))

    return change


def header_of(path):
    """Header and payload of a safetensors file."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def safetensors(change_of_header, length=None):
    """A safetensors file with another header, or another length before it."""

    def change(path):
        header, payload = header_of(path)
        header = change_of_header(header) or header
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(text) if length is None else length
        path.write_bytes(struct.pack("<Q", size) + text + payload)

    return change


def entry(**changes):
    """The first array of a safetensors header with other members."""

    def change(header):
        name = min(name for name in header if name != "__metadata__")
        header[name] |= changes

    return safetensors(change)


def spoil_array(value, name=None):
    """One number of a safetensors file replaced, all digests made anew."""

    def change(path):
        arrays = mx.load(str(path))
        chosen = name or min(arrays)
        flat = arrays[chosen].flatten()
        flat[0] = value
        arrays[chosen] = flat.reshape(arrays[chosen].shape)
        mx.eval(arrays)
        mx.save_safetensors(str(path), arrays, {"format": "mlx"})
        header = path.with_name("checkpoint.json")
        if header.exists():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            sign(lambda h: h["files"][path.name].update(sha256=digest))(header)

    return change


def link(target):
    """A symbolic link in place of a file."""

    def change(path):
        path.unlink()
        path.symlink_to(target)

    return change


def pipe(path):
    """A named pipe that nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def folder(path):
    """A folder in place of a file."""
    path.unlink()
    path.mkdir()


def bound_socket(path):
    """A socket in place of a file."""
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's name is short
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(path.name)
    os.chdir(here)


def sparse(path):
    """A terabyte of holes behind what the file has."""
    os.truncate(path, 1 << 40)


def deep(levels=100_000):
    """Lists in each other."""
    return "[" * levels + "]" * levels
