"""``formats.md`` says what is: an EFB file, a run folder, a checkpoint, old runs."""

import json
import re
import shutil

import pytest

from energyflow_mlx import load
from energyflow_mlx.data.dataset import read_sentences
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.swift_files import read_efck1, read_efop1
from tests.commands import run_command
from tests.docs.pages import PAGES, names_in, section, table_rows

PAGE = "docs/formats.md"
SMALL = [
    *("trainer.max_steps=2", "trainer.micro_batch=4", "trainer.validate_every=1"),
    *("trainer.decode_samples=0", "data.val_limit=8"),
    *("encoder.dim=16", "encoder.hidden=16", "decoder.dim=16", "decoder.hidden=16"),
    *("tokenizer.kind=bpe", "tokenizer.bpe_size=300", "data.captions=100"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run and the words that made it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    words = ["+experiment=ab", *SMALL, f"run.dir={folder}"]
    words.append(f"teacher.cache_dir={folder.parent / 'cache'}")
    done = run_command("train", *words)
    assert done.returncode == 0, done.stderr
    return RunFolder(folder), words


def test_its_efb_example_is_a_whole_file(tmp_path):
    (example,) = re.findall(r"^(45464232[0-9a-f ]+)$", PAGES[PAGE], re.M)
    path = tmp_path / "example.efb"
    path.write_bytes(bytes.fromhex(example))
    sentences = read_sentences(path)
    assert sentences.texts == ["Hé"]
    assert sentences.targets.tolist() == [[1.0, -0.5]]


@pytest.mark.parametrize(
    ("magic", "read"), [("EFCK1", read_efck1), ("EFOP1", read_efop1)]
)
def test_its_files_of_the_reference_trainer_begin_as_it_says(magic, read, tmp_path):
    assert f'`"{magic}"' in section(PAGE, "Exported weights")
    path = tmp_path / "file"
    path.write_bytes(magic.encode())
    with pytest.raises(InputError, match="truncated: number must be 4 bytes"):
        read(path)


def test_a_run_folder_holds_the_files_of_its_table(run):
    rows = table_rows(section(PAGE, "Run folder"), "In `run.dir`")
    named = {names_in(row[0])[0].rstrip("/") for row in rows}
    properties = (n for n, v in vars(RunFolder).items() if isinstance(v, property))
    assert named == {getattr(run[0], name).name for name in properties}
    there = {path.name for path in run[0].path.iterdir()}
    later = {"evaluation.json", "profile.json", "plots"}
    assert there == named - later - {"trackers", "trackers.json", "diverged"}


def test_a_checkpoint_holds_the_files_of_its_table(run):
    rows = table_rows(section(PAGE, "Checkpoint"), "File")
    newest = run[0].latest().path
    assert re.fullmatch(r"step_\d{8}", newest.name)
    assert {names_in(row[0])[0] for row in rows} == {p.name for p in newest.iterdir()}
    (path,) = (n for row in rows for n in names_in(row[1]) if n.startswith("model."))
    assert path.startswith("model.encoder.blocks.0.")


def as_first_version(values):
    """Settings of the run as ``config.json`` of the first version held them."""
    old = {
        k: v for k, v in values.items() if k not in ("version", "objectives", "sha256")
    }
    chosen = values["objectives"]
    a, b = chosen["distillation"], chosen["reconstruction"]
    rows = old.pop("token_rows")
    own = {**a, **b}
    old["loss"] = {k: v for k, v in own.items() if k not in ("share", "lr")}
    old["loss"]["candidates"] = rows["candidates"]
    old["optimizer"] |= {"lr": a["lr"], "decoder_lr": b["lr"]}
    old["optimizer"]["lazy_rows"] = rows["lazy"]
    old["trainer"] = old["trainer"] | {"ratio": 0.5}
    return old | {"task": "ab"}


def test_a_run_folder_of_the_first_version_loads_and_resumes(run, tmp_path):
    folder, words = run
    old = RunFolder(tmp_path / "old")
    shutil.copytree(folder.path, old.path)
    values = as_first_version(json.loads(folder.config.read_text()))
    old.config.write_text(json.dumps(values))
    old.summary.unlink()
    shutil.rmtree(old.latest().path)  # one update is left to do
    assert old.steps() == [1]
    assert load(old.path).encode(["A dog runs."]).shape == (1, 384)
    done = run_command("train", *words, f"run.dir={old.path}")
    assert done.returncode == 0, done.stderr
    assert old.read_summary()["final"] == folder.read_summary()["final"]
