"""Call many commands in this process, in a folder of small files; say how each went.

``python -m tests.wrong_commands FOLDER < commands.json``: a command is a list of words
after ``energyflow``, and an outcome is printed for each, as JSON. One process for all,
because starting one for each takes a second; each still reads ``sys.argv`` alone.
"""

import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path

import numpy as np

import energyflow_mlx.__main__ as command
from energyflow_mlx.data.captions.generate import generate_captions

RUN = "run"
TRAINED = [
    *("+experiment=smoke", "data.train=good.txt", "trainer.max_steps=1"),
    *("trainer.decode_samples=0", "teacher.cache_dir=cache"),
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


def listing(folder):
    """Every file with its size and time, and every folder."""
    return {
        path.relative_to(folder).as_posix(): (
            (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
        )
        for path in folder.rglob("*")
        if "cache" not in path.relative_to(folder).parts
    }


def outcome(words):
    """Status, what was said, and which files were made, changed or lost."""
    here, out, err = Path.cwd(), io.StringIO(), io.StringIO()
    before, status = listing(here), 0
    sys.argv = ["energyflow", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command.main()
        except SystemExit as end:
            status = end.code or 0
        except BaseException:  # what a user would see of it, and go on
            status = 1
            traceback.print_exc()
    after = listing(here)
    names = before.keys() | after.keys()
    changed = sorted(n for n in names if before.get(n, 0) != after.get(n, 0))
    return {"status": status, "err": err.getvalue(), "changed": changed}


def remove_made(folder, before):
    """Remove what a command left, or nobody sees that the next one makes it too."""
    for name in sorted(listing(folder).keys() - before.keys(), reverse=True):
        path = folder / name
        path.rmdir() if path.is_dir() else path.unlink()


def outcome_alone(words):
    """The outcome of a command in a folder that is as it was before all others."""
    before = listing(Path.cwd())
    found = outcome(words)
    remove_made(Path.cwd(), before)
    return found


def main():
    """See the module."""
    folder = Path(sys.argv[1])
    commands = json.load(sys.stdin)
    write_files(folder)
    os.chdir(folder)
    outcome(["train", *TRAINED, f"run.dir={RUN}"])
    json.dump([outcome_alone(words) for words in commands], sys.stdout)


if __name__ == "__main__":
    main()
