"""What was spoilt where a command uses it: one line, and nothing half-written."""

import gzip
import json
import os

import numpy as np
import pytest

from energyflow_mlx.build.data import _word_embeddings
from energyflow_mlx.config import Config
from energyflow_mlx.data.captions import generate_captions
from energyflow_mlx.data.efb import EFBReader
from energyflow_mlx.data.sources import read_texts
from energyflow_mlx.errors import InputError
from energyflow_mlx.prepare import PrepareArgs, prepare
from energyflow_mlx.runs.record import Record
from energyflow_mlx.runtime import received
from energyflow_mlx.teacher.cache import cached_vectors
from energyflow_mlx.teacher.load import load_teacher
from energyflow_mlx.text.tokenizer import Tokenizer
from energyflow_mlx.training.state import Progress
from tests.commands import run_command
from tests.faults.sent import META, edit, send, spoil_array
from tests.teacher.test_cache import TEXTS, CountingTeacher, entry_of, vectors_of
from tests.teacher.tiny import write_teacher


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (
            "config.json",
            edit(config__encoder__dim=2**40),
            "encoder.dim must be <= 16384",
        ),
        ("model.safetensors", spoil_array(float("nan")), "must be finite"),
    ],
)
def test_a_command_refuses_a_spoilt_model_in_one_line(tmp_path, file, change, said):
    sent = send(tmp_path / "sent")
    change(sent / "model" / file)
    output = tmp_path / "out.npy"
    words = (f"run={sent / 'model'}", f"input={sent / 'a.txt'}", f"output={output}")
    done = run_command("encode", *words)
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert said in done.stderr and file.partition(".")[0] in done.stderr + "config"
    assert not output.exists()


# Prepared data -----------------------------------------------------------------------


def test_a_prepared_file_that_was_changed_is_not_up_to_date(tmp_path, capsys):
    write_teacher(tmp_path / "teacher")
    (tmp_path / "in.txt").write_text("a dog runs\nthe cat sits\n")
    output = tmp_path / "out.efb"
    arguments = PrepareArgs(
        input=str(tmp_path / "in.txt"),
        output=str(output),
        teacher=str(tmp_path / "teacher"),
        max_length=16,
    )
    prepare(arguments)
    prepare(arguments)
    assert "is up to date" in capsys.readouterr().out
    whole, times = output.read_bytes(), output.stat()
    output.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(output, ns=(times.st_atime_ns, times.st_mtime_ns))
    prepare(arguments)
    assert "is up to date" not in capsys.readouterr().out
    assert output.read_bytes() == whole
    assert len(EFBReader(output)) == 2


# Teachers ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vectors.npy", "entry.json"])
def test_a_cached_file_that_leads_to_a_device_is_made_anew(tmp_path, name):
    cached_vectors(CountingTeacher(), TEXTS, tmp_path, batch_size=64)
    path = entry_of(tmp_path) / name
    path.unlink()
    path.symlink_to("/dev/zero")
    vectors = cached_vectors(CountingTeacher(), TEXTS, tmp_path, batch_size=64)
    assert np.array_equal(vectors, vectors_of(TEXTS))
    assert not path.is_symlink()


def test_a_lock_that_leads_elsewhere_is_not_opened(tmp_path):
    cached_vectors(CountingTeacher(), TEXTS, tmp_path, batch_size=64)
    (entry_of(tmp_path) / "entry.json").unlink()  # a whole one is read without a lock
    lock = entry_of(tmp_path) / "lock"
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="lock: must be a file"):
        cached_vectors(CountingTeacher(), TEXTS, tmp_path, batch_size=64)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("path", ["../x", "/etc", "a/../../x"])
def test_a_teachers_module_stays_in_its_folder(tmp_path, path):
    teacher = write_teacher(tmp_path / "teacher")
    kinds = [{"type": "a.Transformer", "path": path}, {"type": "a.Pooling"}]
    (teacher / "modules.json").write_text(json.dumps(kinds))
    with pytest.raises(InputError, match="must stay in the folder"):
        load_teacher(teacher, 16, normalize=True)


def test_a_tokenizer_larger_than_the_table_is_refused(tmp_path):
    """A run starts from rows of the table: one outside would be another's memory."""
    folder = write_teacher(tmp_path / "teacher")
    teacher = load_teacher(folder, 16, normalize=True)
    values = json.loads((folder / "tokenizer.json").read_text())
    vocab = values["model"]["vocab"]
    rows = len(teacher.word_embeddings)
    vocab |= {f"dogs{i}": i for i in range(len(vocab), rows + 1)}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    words = Tokenizer.from_source(folder / "tokenizer.json", None)
    with pytest.raises(InputError, match=f"id {rows} is outside its table"):
        _word_embeddings(Config(), teacher, words)


# Resuming ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"samples": "x"}, {"seconds": None}, {"best_value": [1]}, {"step": 1.5}]
)
def test_progress_of_another_type_is_refused(changes):
    with pytest.raises(InputError, match=f"{next(iter(changes))} must be"):
        Progress().take_over(META | {"step": 3} | changes)


def test_progress_that_lacks_something_is_as_at_the_start_there():
    progress = Progress(stale=7)
    progress.take_over({"step": 3})
    assert progress == Progress(step=3)


@pytest.mark.parametrize("trained", [3, "encoder", [3], {"a": 1}])
def test_a_record_of_another_type_is_refused(trained):
    with pytest.raises(InputError, match="trained of the model must be a list"):
        Record.from_json({"trained": trained}, ())


# The home of it ----------------------------------------------------------------------


def test_what_does_not_fit_the_memory_is_refused_before_it_is_read(tmp_path):
    with pytest.raises(InputError, match="this machine's memory, got"):
        received.require_memory(1 << 60, tmp_path / "a", "room")


def test_a_large_file_of_data_is_read(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        for _ in range(65):
            file.write(b"a" * received.MIB)
    assert received.require_file(path, "room") == 65 * received.MIB


def test_packed_sentences_unpack_to_an_honest_size(tmp_path):
    """Repeated text packs well; what people have stays far from the limit."""
    path = tmp_path / "a.txt.gz"
    texts = generate_captions(2000, seed=0) * 60
    with gzip.open(path, "wt") as file:
        file.write("\n".join(texts))
    assert len(read_texts(path)) == len(texts)
