"""Call many commands in this process, in a folder of small files; say how each went.

``python -m tests.wrong_commands FOLDER < commands.json``: a command is a list of words
after ``energyflow``, and an outcome is printed for each, as JSON. One process for all,
because starting one for each takes a second; each still reads ``sys.argv`` alone.
"""

import gzip
import json
import os
import struct
import sys
from pathlib import Path

import numpy as np

from energyflow_mlx.data.captions.generate import generate_captions
from tests.in_process import call

RUN, FLOW_RUN = "run", "flowrun"
TRAINED = [
    *("+experiment=smoke", "data.train=good.txt", "trainer.max_steps=1"),
    *("trainer.decode_samples=0", "teacher.cache_dir=cache"),
    *("tokenizer=bpe", "tokenizer.bpe_size=300"),  # loads faster than the teacher's
]

FLOWS = [
    *("+experiment=flow", "lattice.cube.width=6", "lattice.cube.height=6"),
    *("lattice.cube.depth=4", *TRAINED[1:]),
]


def write_files(folder):
    """The files that the commands name."""
    captions = generate_captions(100, 1)
    texts = {
        "good.txt": "\n".join(captions[:10]) + "\n",
        "one.txt": captions[0] + "\n",
        "equal.txt": (captions[0] + "\n") * 50,
        "empty.txt": "",
        "blank.txt": "\n  \n\n",
        "table.csv": "a,b\n1,2\n",
        "text.npy": "not an array\n",
        "broken.jsonl": '{"text": "a dog"\n',
        "no_text.jsonl": '{"sentence": "a dog"}\n',
        "damaged.efb": "EFB2 and nothing of it",
        "bad_score.tsv": "high\ta dog\ta cat\n",
        "two_columns.tsv": "5.0\ta dog\n",
        "text.safetensors": "not weights",
        "text.efck1": "not a layer",
        "file": "a file\n",
        "foreign/notes.md": "mine\n",
        "hollow/.keep": "",
        "folder.txt/.keep": "",
        "folder.npy/.keep": "",
        "folder.efb/.keep": "",
        "folder.safetensors/.keep": "",
        "damaged/config.json": "{",
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "binary.txt").write_bytes(bytes(range(128, 256)) * 4)
    rows = np.random.default_rng(0).normal(size=(3, 384)).astype(np.float32)
    np.save(folder / "good.npy", rows)
    np.save(folder / "narrow.npy", rows[:, :5])
    np.save(folder / "flat.npy", rows[0])
    rows[1, 2] = np.nan
    np.save(folder / "nan.npy", rows)


def write_damaged_files(folder):
    """Files that are almost right: texts, packed files, vectors, links."""
    texts = {
        "one.tsv": "5.0\ta dog\ta cat\n",
        "const.tsv": "5.0\ta dog\ta cat\n5.0\ta man\ta woman\n",
        "nan.tsv": "nan\ta dog\ta cat\n5.0\ta man\ta woman\n",
        "good.tsv": "5.0\ta dog\ta cat\n1.0\ta man\ta woman\n3\ta car\ta bus\n",
        "cr.tsv": "5.0\ta dog\ta cat\r1.0\ta man\ta woman\r",
        "nul.tsv": "5.0\ta\0dog\ta cat\n1.0\ta man\ta woman\n",
        "nul.txt": "a dog\0 runs\na cat sits\n",
        "cr.txt": "a dog\ra cat\ra man\r",
        "empty.tsv": "",
        "empty.jsonl": "",
        "empty.npy": "",
        "empty.txt.gz": "",
        "empty.efck1": "",
        "no.txt.gz": "a dog\n",
        "bad.csv": 'text\n"a dog\n',
        "two.csv": "text,text\na,b\n",
        "wide.csv": "text\na,b\n",
        "head.csv": "text\n",
        "nul.csv": "text\na\0dog\na cat\n",
        "deep.jsonl": "[" * 100_000 + "]" * 100_000 + "\n",
        "list.jsonl": "[1]\n",
        "nan.jsonl": '{"text": "a", "target": [NaN, 1]}\n',
        "nankey.jsonl": '{"text": "a", "x": NaN}\n{"text": "b"}\n',
        "inf.jsonl": '{"text": "a", "target": [1e999, 1]}\n',
        "digits.jsonl": f'{{"text": "a", "target": [{"9" * 5000}, 1]}}\n',
        "mixed.jsonl": '{"text": "a", "target": [1, 2]}\n{"text": "", "target": [1]}\n',
        "half.jsonl": '{"text": "\\ud800"}\n',
        "number.jsonl": '{"text": 3}\n',
        "ids.jsonl": '{"input_ids": [-1], "attention_mask": [1]}\n',
        "ids70.jsonl": f'{{"input_ids": [{2**70}], "attention_mask": [1]}}\n',
        "zero.jsonl": "".join(
            f'{{"text": "{text}", "target": [0, 0]}}\n' for text in ("a", "b")
        ),
        "pairs.txt": "a\tb\n",
        "one_field.tsv": "a dog\n",
        "empty_field.tsv": "a dog\t\n",
        "words.parquet": "not parquet",
        "tok/config.json": "{}",
        "folder.json/.keep": "",
        "sweep/outcomes/0.json": "{",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    for name in ("bom.tsv", "bom.txt", "bom.csv", "bom.jsonl"):
        (folder / name).write_bytes(b"\xef\xbb\xbf")
    noise = np.random.default_rng(0).bytes(2000).hex().encode()
    packed = gzip.compress(b"a dog runs on the beach\n" * 200 + noise + b"\n")
    (folder / "cut.txt.gz").write_bytes(packed[:-40])
    (folder / "crc.txt.gz").write_bytes(packed[:-8] + bytes(4) + packed[-4:])
    (folder / "tail.txt.gz").write_bytes(packed + b"more")
    (folder / "middle.txt.gz").write_bytes(packed[:60] + b"\xff" * 3 + packed[63:])
    (folder / "cut.tsv.gz").write_bytes(gzip.compress(b"text\na dog\n" * 50)[:-9])
    layer = struct.pack("<III", 2, 3, 0) + np.ones(6, np.float32).tobytes()
    (folder / "good.efck1").write_bytes(b"EFCK1" + layer)
    links = {
        **{"link.npy": "good.npy", "link.txt": "good.npy", "link.efb": "good.txt"},
        **{"loop.npy": "loop.npy", "loop.txt": "loop.txt", "lost.txt": "nowhere/x"},
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    (folder / "hard.txt").hardlink_to(folder / "good.npy")
    (folder / "hard.npy").hardlink_to(folder / "good.txt")
    (folder / "hard.efb").hardlink_to(folder / "good.txt")


def write_arrays(folder):
    """Files of arrays that are no vectors, and headers that no array has."""
    rows = np.random.default_rng(0).normal(size=(3, 384)).astype(np.float32)
    arrays = {
        "object": np.array([[1, "a"], [None, 2]], dtype=object),
        "structured": np.zeros((3, 384), dtype=[("a", "f4")]),
        **{"zero": rows[:0], "zero_columns": rows[:, :0], "int": rows.astype(int)},
        **{"complex": rows.astype(complex), "cube": rows[None], "bool": rows > 0},
        **{"words": rows.astype("U8"), "huge": rows.astype(np.float64) * 1e300},
        **{"date": np.zeros((3, 384), "M8[s]"), "zeros": np.zeros((3, 384), "f4")},
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=True)
    np.savez(folder / "zip.npz", a=rows)
    (folder / "zip.npz").replace(folder / "zip.npy")
    whole = (folder / "good.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-100])
    (folder / "version.npy").write_bytes(whole[:6] + b"\x09" + whole[7:])
    (folder / "length.npy").write_bytes(whole[:8] + b"\xff\xff{")
    (folder / "magic.npy").write_bytes(whole[:6])
    header = "{'descr': %s, 'fortran_order': False, 'shape': %s, }"
    shapes = {
        **{"shape40": (2**40, 384), "shape63": (2**63 - 1, 384)},
        **{"shape70": (2**70, 384), "negative": (-1, 384), "fraction": (3.0, 384)},
        **{"truth": (True, 384), "list": [3, 384], "scalar": ()},
    }
    headers = {name: header % ("'<f4'", shape) for name, shape in shapes.items()}
    headers["nonsense"] = header % ("'nonsense'", "(3, 384)")
    headers["code"] = "__import__('os').system('true')"
    headers["deep"] = "(" * 3000
    headers["bare"] = "{}"
    for name, text in headers.items():
        padded = text.encode() + b" " * (63 - (10 + len(text)) % 64) + b"\n"
        head = whole[:8] + struct.pack("<H", len(padded)) + padded
        (folder / f"{name}_header.npy").write_bytes(head + rows.tobytes())


def listing(folder="."):
    """Every file with its size and time, and every folder, but for the cache."""
    found = {}
    for entry in os.scandir(folder):
        name = entry.path.removeprefix("./")
        if entry.is_dir(follow_symlinks=False):
            found |= {name: None} | listing(entry.path) if name != "cache" else {}
        else:
            about = entry.stat(follow_symlinks=False)
            found[name] = (about.st_size, about.st_mtime_ns)
    return found


def outcome(words, before):
    """Status, what was said, and which files were made, changed or lost.

    What was made goes, or nobody sees that the next command makes it too.

    Args:
        words: Of the command.
        before: The listing of the folder.
    """
    status, _, said = call(words)
    after = listing()
    names = before.keys() | after.keys()
    changed = sorted(n for n in names if before.get(n, 0) != after.get(n, 0))
    for name in sorted(after.keys() - before.keys(), reverse=True):
        os.rmdir(name) if after[name] is None else os.unlink(name)
    return {"status": status, "err": said, "changed": changed}


def main():
    """See the module."""
    folder = Path(sys.argv[1])
    commands = json.load(sys.stdin)
    for write in (write_files, write_damaged_files, write_arrays):
        write(folder)
    os.chdir(folder)
    for words in ([*TRAINED, f"run.dir={RUN}"], [*FLOWS, f"run.dir={FLOW_RUN}"]):
        status, _, said = call(["train", *words])
        assert status == 0, said
    before = listing()
    json.dump([outcome(words, before) for words in commands], sys.stdout)


if __name__ == "__main__":
    main()
