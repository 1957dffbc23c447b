"""What an attacker changes in honest folders and files, by reader and file."""

import gzip
import io
import struct

import numpy as np

from tests.faults.sent import (
    bound_socket,
    deep,
    edit,
    entry,
    folder,
    link,
    pipe,
    put,
    safetensors,
    sign,
    sign_source,
    sign_vocabulary,
    sparse,
    spoil_array,
)

CHECKPOINT = "run/checkpoints/step_00000001"
# Which file is read by what, and what the reader is given.
FILES = {
    "model/config.json": ("model", "model"),
    "model/model.safetensors": ("model", "model"),
    "model/tokenizer.json": ("model", "model"),
    "model/student_vocab.json": ("model", "model"),
    "run/config.json": ("model", "run"),
    "run/tokenizer/tokenizer.json": ("model", "run"),
    "run/summary.json": ("facts", "run"),
    "run/metrics.jsonl": ("facts", "run"),
    "run/samples.jsonl": ("facts", "run"),
    "run/evaluation.json": ("facts", "run"),
    f"{CHECKPOINT}/checkpoint.json": ("model", "run"),
    f"{CHECKPOINT}/model.safetensors": ("model", "run"),
    "teacher/config.json": ("teacher", "teacher"),
    "teacher/model.safetensors": ("teacher", "teacher"),
    "teacher/tokenizer.json": ("teacher", "teacher"),
    "a.efb": ("efb", "a.efb"),
    "a.efb.json": ("note", "a.efb"),
    "a.jsonl": ("jsonl", "a.jsonl"),
    "a.npy": ("vectors", "a.npy"),
    "a.txt": ("texts", "a.txt"),
    "a.txt.gz": ("texts", "a.txt.gz"),
    "a.tsv": ("sts", "a.tsv"),
    "a.efck1": ("efck1", "a.efck1"),
    "a.efop1": ("efop1", "a.efop1"),
}
# Results of a run: one that is damaged blocks nothing.
RESULTS = {"run/summary.json", "run/samples.jsonl", "run/evaluation.json"}
IN_PLACE = {
    "zero": link("/dev/zero"),
    "random": link("/dev/random"),
    "loop": lambda path: link(path.name)(path),
    "pipe": pipe,
    "folder": folder,
    "socket": bound_socket,
    "sparse": sparse,
}
JSON_FILES = [f for f in FILES if f.endswith(".json") and "tokenizer.json" not in f]
IN_JSON = {
    "deep": put(deep()),
    "deep_object": put('{"a":' * 100_000 + "1" + "}" * 100_000),
    "list": put([1]),
    "twice": put('{"format": 1, "format": 2}'),
    "nan": put('{"version": NaN}'),
    "infinite": put('{"version": 1e999}'),
    "long_number": put('{"version": ' + "9" * 100_000 + "}"),
    "large": put('{"a": "' + "b" * (33 << 20) + '"}'),
    "not_utf8": put(b'{"a": "\xff"}'),
}


def _first_array(**changes):
    def change(header):
        entry = header["files"]["model.safetensors"]
        entry["arrays"][min(entry["arrays"])] |= changes

    return sign(change)


def _payload(**changes):
    return sign(lambda h: h["files"]["model.safetensors"].update(changes))


def _file_named(name):
    def change(header):
        header["files"][name] = header["files"].pop("model.safetensors")

    return sign(change)


def _one_more_file(header):
    header["files"]["../a.safetensors"] = header["files"]["model.safetensors"]


def _npy(shape):
    return _npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")


def _npy_header(header):
    text = header.encode() + b"\n"
    return put(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"0" * 64)


def _npz(path):
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(3))
    path.write_bytes(stream.getvalue())


def _object_array(path):
    with path.open("wb") as file:
        np.save(file, np.array([{"a": 1}], object), allow_pickle=True)


def _at(offset, number):
    def change(path):
        data = bytearray(path.read_bytes())
        data[offset : offset + 4] = struct.pack("<I", number)
        path.write_bytes(data)

    return change


def _packed(data):
    return put(gzip.compress(data, 9))


def _with_pieces(pieces):
    """A BPE tokenizer with further pieces."""
    import json

    def change(values):
        vocab = values["model"]["vocab"]
        for piece in pieces:
            vocab[piece] = len(vocab)
        return json.dumps(values)

    return sign_source(change)


_C, _CW = f"{CHECKPOINT}/checkpoint.json", f"{CHECKPOINT}/model.safetensors"
_MC, _MW, _MV = (
    "model/config.json",
    "model/model.safetensors",
    "model/student_vocab.json",
)
_TC, _TW = "teacher/config.json", "teacher/model.safetensors"
_OVERFLOW = [2**31, 2**31, 4]
OTHERS = {
    # Signed headers of checkpoints.
    "step_text": (_C, sign(lambda h: h.update(step="1"))),
    "step_true": (_C, sign(lambda h: h.update(step=True))),
    "step_negative": (_C, sign(lambda h: h.update(step=-1))),
    "no_files": (_C, sign(lambda h: h.pop("files") and None)),
    "more_keys": (_C, sign(lambda h: h.update(more=1))),
    "files_list": (_C, sign(lambda h: h.update(files=[]))),
    "meta_list": (_C, sign(lambda h: h.update(meta=[]))),
    "entry_text": (_C, sign(lambda h: h.update(files={"model.safetensors": "x"}))),
    "bytes_negative": (_C, _payload(bytes=-1)),
    "bytes_text": (_C, _payload(bytes="9")),
    "digest_number": (_C, _payload(sha256=9)),
    "arrays_list": (_C, _payload(arrays=[])),
    "array_text": (_C, _payload(arrays={"model.a": "x"})),
    "shape_negative": (_C, _first_array(shape=[-1])),
    "shape_text": (_C, _first_array(shape="x")),
    "shape_overflow": (_C, _first_array(shape=_OVERFLOW)),
    "dtype_unknown": (_C, _first_array(dtype="float7")),
    "dtype_list": (_C, _first_array(dtype=[])),
    "file_above": (_C, _file_named("../model.safetensors")),
    "file_absolute": (_C, _file_named("/etc/passwd")),
    "file_more": (_C, sign(_one_more_file)),
    "file_nul": (_C, _file_named("a\0.safetensors")),
    "best_step_text": (_C, sign(lambda h: h["meta"].update(best_step="x"))),
    "dimension_text": (_C, sign(lambda h: h["meta"].update(dimension="x"))),
    "dimension_none": (_C, sign(lambda h: h["meta"].pop("dimension") and None)),
    "dimension_huge": (_C, sign(lambda h: h["meta"].update(dimension=2**40))),
    "trained_number": (_C, sign(lambda h: h["meta"].update(trained=3))),
    "trained_numbers": (_C, sign(lambda h: h["meta"].update(trained=[3]))),
    "words_text": (_C, sign(lambda h: h["meta"].update(tokens_per_word="x"))),
    "checkpoint_nan": (_CW, spoil_array(float("nan"))),
    # Headers of safetensors files.
    **{
        f"{name}_{where}": (file, change)
        for where, file in (("model", _MW), ("checkpoint", _CW), ("teacher", _TW))
        for name, change in {
            "length": safetensors(lambda h: h, length=2**63),
            "length_beyond": safetensors(lambda h: h, length=2**20),
            "header_list": safetensors(lambda h: [1]),
            "header_deep": safetensors(lambda h: deep().encode()),
            "overlap": entry(data_offsets=[4, 8]),
            "offset_negative": entry(data_offsets=[-4, 0]),
            "offset_beyond": entry(data_offsets=[0, 2**62]),
            "offset_text": entry(data_offsets="x"),
            "header_shape": entry(shape=_OVERFLOW),
            "header_shape_negative": entry(shape=[-1]),
            "header_shape_deep": entry(shape=[[1]]),
            "header_dtype": entry(dtype="F7"),
            "header_dtype_list": entry(dtype=[1]),
            "infinite": spoil_array(float("inf")),
        }.items()
    },
    # Settings of a model.
    "nan_model": (_MW, spoil_array(float("nan"))),
    "buckets": (_MC, edit(config__data__buckets=[2**30])),
    "no_buckets": (_MC, edit(config__data__buckets=[])),
    "length_huge": (_MC, edit(config__data__max_length=2**40)),
    "dim": (_MC, edit(config__encoder__dim=2**40, config__decoder__dim=2**40)),
    "dim_large": (_MC, edit(config__encoder__dim=65536, config__decoder__dim=65536)),
    "hidden": (_MC, edit(config__decoder__hidden=60_000, config__share="none")),
    "dim_text": (_MC, edit(config__encoder__dim="16")),
    "dim_list": (_MC, edit(config__encoder__dim=[16])),
    "dimension": (_MC, edit(dimension=2**40)),
    "dimension_negative": (_MC, edit(dimension=-1)),
    "dimension_real": (_MC, edit(dimension=1.5)),
    "dilations": (_MC, edit(config__decoder__dilations=[1] * 10**6)),
    "dilation": (_MC, edit(config__decoder__dilations=[2**40, 2])),
    "dilations_text": (_MC, edit(config__decoder__dilations="12")),
    "encoder_number": (_MC, edit(config__encoder=3)),
    "family_list": (_MC, edit(config__encoder__family=["tcn"])),
    "transformer": (
        _MC,
        edit(
            config__share="none",
            config__encoder={
                **{"family": "transformer", "dim": 16, "hidden": 24, "heads": 2},
                **{"layers": 10**9, "max_positions": 10**9},
            },
        ),
    ),
    "positions": (
        _MC,
        edit(
            config__share="none",
            config__encoder={
                **{"family": "transformer", "dim": 16, "hidden": 24, "heads": 2},
                **{"layers": 1, "max_positions": 65_536},
            },
        ),
    ),
    "share": (_MC, edit(config__share="none")),
    "lattice_number": (_MC, edit(config__lattice=3)),
    "objectives_number": (_MC, edit(config__objectives=3)),
    "objective_list": (_MC, edit(config__objectives__distillation=[])),
    "version_9": (_MC, edit(config__version=9)),
    "version_list": (_MC, edit(config__version=[])),
    "task": (_MC, edit(config={"task": "x"})),
    "ratio": (_MC, edit(config={"task": "ab", "trainer": {"ratio": "x"}})),
    "trainer_list": (_MC, edit(config={"task": "ab", "trainer": []})),
    "config_text": (_MC, edit(config="x")),
    "parts_number": (_MC, edit(parts=3)),
    "record_list": (_MC, edit(record=[])),
    "record_trained": (_MC, edit(record={"trained": 3})),
    "record_step": (_MC, edit(record={"step": "x"})),
    # Tokenizers.
    "vocabulary_shorter": (_MV, sign_vocabulary(tokens=["[PAD]"], source_ids=[0])),
    "vocabulary_empty": (_MV, sign_vocabulary(tokens=[], source_ids=[])),
    "vocabulary_number": (_MV, sign_vocabulary(tokens=3)),
    "vocabulary_kind": (_MV, sign_vocabulary(kind="x")),
    "vocabulary_ids": (_MV, sign_vocabulary(source_ids=[2**40])),
    "vocabulary_version": (_MV, sign_vocabulary(version=[])),
    "vocabulary_larger": ("model/tokenizer.json", _with_pieces(["a b", "c d"])),
    "piece_long": ("model/tokenizer.json", _with_pieces(["a" * 10**6])),
    "source_deep": ("model/tokenizer.json", sign_source(lambda _: deep())),
    "source_empty": ("model/tokenizer.json", sign_source(lambda _: "{}")),
    "source_model": (
        "model/tokenizer.json",
        sign_source(lambda _: '{"version":"1.0","model":{"type":"BPE"}}'),
    ),
    # Teachers.
    "teacher_layers": (_TC, edit(num_hidden_layers=10**9)),
    "teacher_width": (_TC, edit(hidden_size=2**40)),
    "teacher_large": (_TC, edit(hidden_size=2**23, intermediate_size=2**23)),
    "teacher_words": (_TC, edit(vocab_size=2**24)),
    "teacher_eps": (_TC, edit(layer_norm_eps="x")),
    "teacher_eps_list": (_TC, edit(layer_norm_eps=[])),
    "teacher_kind": (_TC, edit(model_type=["bert"])),
    "teacher_activation": (_TC, edit(hidden_act=["gelu"])),
    # Data.
    "efb_samples": ("a.efb", _at(4, 2**32 - 1)),
    "efb_width": ("a.efb", _at(8, 2**32 - 1)),
    "efb_flags": ("a.efb", _at(12, 2**32 - 1)),
    "efb_length": ("a.efb", _at(16, 2**32 - 1)),
    "efb_id": ("a.efb", _at(16 + 4 + 20 + 4, 2**32 - 1)),
    "note_number": ("a.efb.json", edit(model=3)),
    "note_bytes": ("a.efb.json", edit(bytes="x")),
    "note_more": ("a.efb.json", edit(more=3)),
    "line_100_mb": ("a.jsonl", put('{"text": "' + "a" * (100 << 20) + '"}\n')),
    "numbers_100_mb": ("a.jsonl", put('{"target": [' + "0.1," * (25 << 20) + "1]}\n")),
    "record_5_mb": ("a.jsonl", put('{"target": [' + "0," * (5 << 19) + "1]}\n")),
    "line_deep": ("a.jsonl", put('{"text": ' + deep() + "}\n")),
    "line_long_number": ("a.jsonl", put('{"target": [' + "9" * 10**6 + "]}\n")),
    "text_line": ("a.txt", put("a" * (17 << 20))),
    "gz_line": ("a.txt.gz", _packed(b"a" * (300 << 20))),
    "gz_blank_lines": ("a.txt.gz", _packed(b"\n" * (300 << 20))),
    "gz_no_gz": ("a.txt.gz", put(b"not packed")),
    "npy_huge": (
        "a.npy",
        _npy((2**62, 2**62)),
    ),
    "npy_negative": (
        "a.npy",
        _npy((-1, -4)),
    ),
    "npy_text": (
        "a.npy",
        _npy(("a",)),
    ),
    "npy_code": ("a.npy", _npy_header("__import__('os')")),
    "npy_deep": ("a.npy", _npy_header("(" * 9000)),
    "npz": ("a.npy", _npz),
    "npy_objects": ("a.npy", _object_array),
    "sts_line": ("a.tsv", put("1\t" + "a" * (17 << 20))),
    "efck1_sizes": ("a.efck1", _at(5, 2**32 - 1)),
    "efop1_count": ("a.efop1", _at(9, 2**32 - 1)),
    "summary_empty_best": ("run/summary.json", sign(lambda s: s.update(best={}))),
    "evaluation_sts": ("run/evaluation.json", edit(details__sts__a={"score": [1]})),
    "evaluation_worst": ("run/evaluation.json", edit(details__retrieval__worst=[{}])),
}
LEFT_OUT = {
    # Whole checkpoints serve in the place of one that is not there.
    "step_huge": (_C, sign(lambda h: h["meta"].update(best_step=10**30))),
    "summary_changed": ("run/summary.json", edit(steps=2)),
    "summary_best": ("run/summary.json", sign(lambda s: s.update(best=[]))),
    "summary_status": ("run/summary.json", sign(lambda s: s.update(status=3))),
    "samples_more": ("run/samples.jsonl", put('{"step": 1}\n')),
    "metrics_deep": ("run/metrics.jsonl", put(deep() + "\n")),
    "metrics_finite": ("run/metrics.jsonl", put('{"non_finite": {"a": "x"}}\n')),
    "metrics_list": ("run/metrics.jsonl", put('{"non_finite": [1]}\n')),
}


def _attacks():
    for file in FILES:
        for name, change in IN_PLACE.items():
            yield f"{file} {name}", file, change, file in RESULTS
    for file in JSON_FILES:
        for name, change in IN_JSON.items():
            yield f"{file} {name}", file, change, file in RESULTS
    for others, is_left_out in ((OTHERS, False), (LEFT_OUT, True)):
        for name, (file, change) in others.items():
            yield name, file, change, is_left_out


def attacks(*, left_out):
    """Name, reader, path that it is given, spoilt file and change, of attacks.

    Args:
        left_out: Those on what is left out with a warning, or else those that are
            refused.
    """
    for name, file, change, is_left_out in _attacks():
        if is_left_out == left_out:
            yield name, *FILES[file], file, change
