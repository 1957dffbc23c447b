"""The trainer from its command line: runs, resumes, refuses, reports."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from energyflow_mlx.build.codec import load
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import read_metrics
from tests.commands import run_command
from tests.runs.trackers.readers import points, read_csv

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "+experiment=smoke",
    "data.captions=300",
    "trainer.epochs=1",
    "trainer.max_steps=8",
    "trainer.log_every=2",
    "trainer.decode_samples=4",
    "data.buckets=[16,32]",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """One small finished run, shared by the tests that only look at it."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    done = run_command(
        "train", *SMALL, f"run.dir={folder}", f"teacher.cache_dir={cache}"
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def records(folder, kind):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def test_a_run_leaves_everything_in_its_folder(finished):
    folder, _ = finished
    names = {p.name for p in folder.iterdir()}
    assert {
        "config.json",
        "metrics.jsonl",
        "samples.jsonl",
        "checkpoints",
        "summary.json",
        "tokenizer",
        "lock",
    } == names
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["steps"] == 8
    assert {"cosine", "mse", "ce", "p_at_1", "bleu", "exact"} <= summary["final"].keys()
    assert summary["parameters"]["total"] > 0
    assert {r["step"] for r in records(folder, "train")} == {2, 4, 6, 8}


def test_header_names_machine_model_and_data(finished):
    _, output = finished
    for word in (
        "device",
        "cpu, ",
        "BLAS",
        "operations",
        "float32",
        "minilm",
        "held out",
    ):
        assert word in output


def test_both_learning_rates_follow_a_schedule(finished):
    folder, _ = finished
    rows = records(folder, "train")
    for key in ("distillation_lr", "reconstruction_lr"):
        values = [row[key] for row in rows if key in row]
        assert len(set(values)) > 1


def test_the_same_command_on_a_finished_run_does_nothing(finished, cache):
    folder, _ = finished
    before = (folder / "metrics.jsonl").read_bytes()
    again = run_command(
        "train", *SMALL, f"run.dir={folder}", f"teacher.cache_dir={cache}"
    )
    assert again.returncode == 0
    assert "nothing to do" in again.stdout + again.stderr
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_another_configuration_is_refused_naming_the_key(finished, cache):
    folder, _ = finished
    before = sorted(p.name for p in folder.iterdir())
    other = run_command(
        "train",
        *SMALL,
        f"run.dir={folder}",
        f"teacher.cache_dir={cache}",
        "objectives.distillation.lr=0.5",
    )
    assert other.returncode == 2
    assert (
        "objectives.distillation.lr" in other.stderr
        and "another run.dir" in other.stderr
    )
    assert other.stderr.count("\n") == 1
    assert sorted(p.name for p in folder.iterdir()) == before


# A training that dies one update after its first checkpoint.
KILLED = """
import os, signal
from energyflow_mlx import train
from energyflow_mlx.training.loop import Trainer

values_of = Trainer.values_of

def values_or_death(self, submitted):
    if self.progress.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return values_of(self, submitted)

Trainer.values_of = values_or_death
train.main()
"""


def test_a_killed_run_continues_the_same_curve(tmp_path, cache, finished):
    """SIGKILL in the middle; the resumed run ends with the same weights, bit by bit."""
    reference, _ = finished
    folder = tmp_path / "killed"
    words = [*SMALL, f"run.dir={folder}", f"teacher.cache_dir={cache}"]
    words += ["trainer.save_every=2", "trackers=[csv]"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoint.steps(folder / "checkpoints") == [2]
    assert run_command("train", *words).returncode == 0
    one, _ = checkpoint.load(folder / "checkpoints" / "step_00000008")
    two, _ = checkpoint.load(reference / "checkpoints" / "step_00000008")
    assert one.keys() == two.keys()
    for name in one:
        assert np.array_equal(np.array(one[name]), np.array(two[name])), name
    drop = ("seconds", "samples_per_second", "digest")
    curves = [
        [{k: v for k, v in r.items() if k not in drop} for r in records(f, "train")]
        for f in (folder, reference)
    ]
    assert curves[0] == curves[1]
    found = read_csv(folder / "trackers")
    assert found == points(read_metrics(folder / "metrics.jsonl"))


def test_messages_reach_the_terminal_at_the_chosen_level(finished, cache, tmp_path):
    _, output = finished
    assert "epoch 1 begins at update 0" in output and "saved update 8" in output
    words = [*SMALL, f"teacher.cache_dir={cache}", "trainer.max_steps=2"]
    words += ["tokenizer=bpe", "tokenizer.bpe_size=300", "trainer.compile=false"]
    shown = {
        level: run_command(
            "train", *words, f"run.dir={tmp_path / level}", f"trainer.log_level={level}"
        ).stdout
        for level in ("debug", "warning")
    }
    assert "update 0: " in shown["debug"] and "grad_norm" in shown["debug"]
    assert "saved update" not in shown["warning"]
    folder = tmp_path / "warning"
    (folder / "summary.json").unlink()
    again = run_command(
        "train", *words, f"run.dir={folder}", "trainer.log_level=info"
    ).stdout
    assert f"resumed {folder} at update 2" in again


def test_loaded_model_encodes_and_decodes(finished):
    folder, _ = finished
    ef = load(folder)
    texts = ["A dog runs.", "Two people walk along the beach in the evening.", ""]
    together = ef.encode(texts, batch_size=2)
    assert together.shape == (3, 384) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for i, text in enumerate(texts):
        np.testing.assert_allclose(ef.encode([text])[0], together[i], atol=1e-5)
    decoded = ef.decode(together, max_length=8)
    assert len(decoded) == 3 and all(isinstance(t, str) for t in decoded)
    a = ef.decode(together, max_length=8, temperature=1.0, top_k=5, seed=3)
    b = ef.decode(together, max_length=8, temperature=1.0, top_k=5, seed=3)
    assert a == b
    with pytest.raises(ValueError, match=r"\[N, 384\]"):
        ef.decode(np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(ef.encode(texts[0]), ef.encode(texts[:1])[0])


def test_loading_needs_no_training_dependency(finished):
    folder, _ = finished
    code = (
        "import sys\n"
        "for name in ('hydra', 'omegaconf', 'rich', 'sacrebleu', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "import energyflow_mlx\n"
        f"ef = energyflow_mlx.load({str(folder)!r})\n"
        "assert isinstance(ef, energyflow_mlx.SentenceCodec)\n"
        "assert issubclass(energyflow_mlx.InputError, ValueError)\n"
        "assert ef.encode(['a dog']).shape == (1, 384)\n"
        "assert len(ef.decode(ef.encode(['a dog']), max_length=4)) == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def loads_and_ends(folder, count):
    """Exit statuses of fresh processes that load a run and encode a sentence."""
    code = (
        "import energyflow_mlx\n"
        f"ef = energyflow_mlx.load({str(folder)!r})\n"
        "assert ef.encode(['a dog']).shape == (1, 384)\n"
    )
    words = [sys.executable, "-c", code]
    return [subprocess.run(words, cwd=ROOT).returncode for _ in range(count)]


def test_a_process_that_loaded_a_run_ends_in_peace(finished):
    assert loads_and_ends(finished[0], 2) == [0] * 2


@pytest.mark.slow
def test_100_processes_that_loaded_a_run_end_in_peace(finished):
    assert loads_and_ends(finished[0], 100) == [0] * 100


def test_encode_decode_and_evaluate_commands(finished, tmp_path):
    folder, _ = finished
    lines = tmp_path / "in.txt"
    lines.write_text("A dog runs.\n\nTwo cats sleep.\n", encoding="utf-8")
    vectors, texts = tmp_path / "v.npy", tmp_path / "out.txt"
    done = run_command("encode", f"run={folder}", f"input={lines}", f"output={vectors}")
    assert done.returncode == 0, done.stderr
    assert np.load(vectors).shape == (3, 384)
    done = run_command(
        "decode", f"run={folder}", f"input={vectors}", f"output={texts}", "max_length=5"
    )
    assert done.returncode == 0, done.stderr
    assert len(texts.read_text().splitlines()) == 3
    sts = tmp_path / "tiny.tsv"
    sts.write_text("5.0\ta dog\ta dog\n1.0\ta dog\ta red car\n3.0\ta cat\ta dog\n")
    done = run_command("evaluate", f"run={folder}", f"data.val={lines}", f"sts=[{sts}]")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    stored = RunFolder(folder).read_evaluation()
    assert stored.pop("details").keys() == {"retrieval", "sts"} and stored == result
    expected = {"cosine", "mse", "p_at_1", "p_at_5", "p_at_10", "spearman", "ce"}
    expected |= {"bleu", "exact", "token_f1", "semantic_cosine", "sentences", "seconds"}
    expected |= {"reachable", "changed_case"}
    causes = ("length", "unknown", "punctuation", "other")
    expected |= {f"unreachable_{cause}" for cause in causes}
    assert expected == result.keys()
    assert list(result["spearman"]) == ["tiny"]
    (folder / "evaluation.json").unlink()


def test_lines_of_standard_input_are_encoded(finished, tmp_path):
    """And what is decoded from them goes to standard output, nothing else does."""
    folder, _ = finished
    vectors = tmp_path / "v.npy"
    words = [f"run={folder}", "input=-", f"output={vectors}"]
    done = run_command("encode", *words, stdin="A dog runs.\nTwo cats sleep.\n")
    assert done.returncode == 0, done.stderr
    expected = load(folder).encode(["A dog runs.", "Two cats sleep."])
    np.testing.assert_allclose(np.load(vectors), expected, atol=1e-5)
    words = [f"run={folder}", f"input={vectors}", "output=-", "max_length=5"]
    done = run_command("decode", *words)
    assert done.returncode == 0, done.stderr
    texts = load(folder).decode(expected, max_length=5)
    assert done.stdout.splitlines() == texts
    assert not (ROOT / "-").exists()


@pytest.mark.parametrize(
    ("module", "words", "named"),
    [
        ("train", ["data.train=missing.txt"], "missing.txt"),
        ("train", ["trainer.epoch=3"], "epoch"),
        ("train", ["trainer.epochs=many"], "trainer.epochs"),
        ("train", ["objectives.flow.share=-1"], "objectives.flow.share"),
        ("train", ["+experiment=absent"], "absent"),
        ("train", ["teacher.name=/no/such/folder"], "/no/such/folder"),
        ("encode", ["run=nowhere", "input=a.txt", "output=b.npy"], "a.txt"),
        ("encode", ["run=nowhere"], "input"),
        ("decode", ["run=nowhere", "input=a.npy", "output=b.txt"], "a.npy"),
        ("decode", ["run=nowhere", "input=-", "output=-"], ".npy file, got -"),
        ("evaluate", ["run=nowhere", "sts=[a.tsv]"], "nowhere"),
        ("evaluate", ["sts=[a.tsv]"], "run=PATH"),
        ("evaluate", ["runn=x"], "runn"),
    ],
)
def test_bad_input_is_one_line_and_status_2(module, words, named, tmp_path):
    extra = [f"run.dir={tmp_path / 'run'}"] if module == "train" else []
    done = run_command(module, *words, *extra)
    assert done.returncode == 2, done.stdout + done.stderr
    assert named in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "run").exists()


def test_multirun_gives_each_job_a_folder_and_prints_a_table(tmp_path, cache):
    done = run_command(
        "train",
        "-m",
        *SMALL,
        "trainer.max_steps=2",
        "objectives.distillation.share=1,0.5",
        f"run.dir={tmp_path / 'sweep'}",
        f"teacher.cache_dir={cache}",
    )
    assert done.returncode == 0, done.stderr
    for job in ("0", "1"):
        assert (tmp_path / "sweep" / job / "summary.json").is_file()
    assert "objectives.distillation.share" in done.stdout
    table = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert len(table["jobs"] if isinstance(table, dict) else table) == 2


def test_an_unknown_experiment_of_a_loaded_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "absent")
