"""Every command and every block of Python in README and docs runs as it stands.

They run from the wheel, in a folder that holds nothing but the files they name, of a
few sentences each, and the examples. Training is cut to two updates of a tiny model by
words put after the documented ones.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from energyflow_mlx.teacher.folder import open_folder
from tests.docs.pages import CHECKOUT, SNIPPETS, Snippet
from tests.packages import build, install

# Beginnings of what is not run here, and why.
NOT_RUN = {
    "make setup": "installs packages from the network",
    "make test": "would run this test again",
    "make train": "the main job: minutes; test_makefile.py reads what it runs",
    "make golden": "needs a Python that has PyTorch",
    "make docs": "minutes of packages at first; test_site.py builds it",
    "make help": "test_makefile.py runs it",
    "energyflow --": "no command; tests/test_main.py calls it",
    "energyflow train +experiment=encoder_best": "its table has a rank above the width "
    "that this test trains; tests/config composes it",
    "energyflow train +experiment=decoder_best": "hours of a CPU; "
    "tests/build/test_recipes.py trains both recipes, made small",
    "energyflow train +experiment=both_best": "the same",
    "energyflow train +experiment=ab data.train=captions_8000.txt": "a table's "
    "command: real captions, minutes; test_commands.py composes it",
    "energyflow evaluate run=runs/decoder_best": "needs the run of the one above it",
    "energyflow evaluate run=runs/both_best": "needs the run of the one above it",
    "energyflow evaluate run=RUN data.val=broad": "a file with the source of each "
    "sentence; tests/test_evaluate.py gives one",
    "energyflow doctor kernels": "tests/runtime/test_kernel_check.py runs it",
    "source .venv/bin/activate": "the tests run in the environment already",
    "make bench": "minutes, or installs PyTorch; tests/benchmarks runs its parts",
    "python benchmarks/": "minutes each, or an NVIDIA GPU",
    "mlx.launch ": "several processes; tests/test_train_parallel.py runs one of them",
    "mlx.distributed_config ": "asks Macs over ssh",
    "MLX_USE_CUDA_GRAPHS=0 python benchmarks/": "an NVIDIA GPU",
    "train ": "a figure's command: real data, minutes; test_commands.py composes it",
    "evaluate ": "a figure's command: needs the run of the one above it",
    "python -m energyflow_mlx.train +experiment=ab data=hf": "needs the package "
    "datasets; tests/data/test_hugging_face.py reads such files",
    "python -m energyflow_mlx.export run=runs/mine output=out/graph": "the extra onnx",
    "python -m energyflow_mlx.export run=runs/mine output=out/st": "the extra onnx",
    "import queue": "a process where nothing else uses MLX; tests/inference runs it",
    "import mteb": "the extra mteb; tests/evaluation/test_mteb.py runs it",
    "from huggingface_hub import": "sends a model to the hub",
    "from sentence_transformers import": "that library; test_onnx.py runs it",
    "from dataclasses import": "tests/training/test_new_objective.py runs it",
    "pip install ": "packages from the network; test_newcomer.py installs them",
    "from pathlib import Path\n\nfrom energyflow_mlx.data": "would replace the few "
    "sentences that all others share; test_newcomer.py runs it",
}
SMALL = [
    *("trainer.max_steps=2", "trainer.micro_batch=4", "trainer.validate_every=2"),
    *("trainer.decode_samples=2", "token_rows.candidates=64", "data.captions=100"),
    *("encoder.dim=64", "encoder.hidden=64", "decoder.dim=64", "decoder.hidden=64"),
    *("encoder.embedding_init=normal", "decoder.embedding_init=normal"),
    *("tokenizer.kind=bpe", "tokenizer.bpe_size=300"),
    *("data.val_limit=4", "teacher.cache_dir=cache", "teacher.batch_size=32"),
]
SMALL_LATTICE = [
    *("lattice.cube.width=4", "lattice.cube.height=4", "lattice.cube.depth=4"),
    *("lattice.carrier.hidden=8", "lattice.ends.width_cap=16"),
    "lattice.spawn.per_cell=0.1",
]
FEW_EDITS = ["data.edits.count=20"]  # as many as the few sentences give
SENTENCES = [
    f"{who} {what} {where}."
    for who in ("A dog", "Two cats", "The old man")
    for what in ("runs", "sleeps", "eats")
    for where in ("on the beach", "at home", "in the park")
]


# Words of commands that need packages beside the core, and one such package.
EXTRAS = {
    **{name: name for name in ("tensorboard", "wandb", "mlflow")},
    **{"hydra/sweeper=optuna": "optuna", "hydra/launcher=joblib": "joblib"},
}


def reason_not_to_run(snippet):
    begins = (why for start, why in NOT_RUN.items() if snippet.text.startswith(start))
    return next(begins, None)


def missing_package(snippet):
    """A package that the command needs and that is not installed, or none."""
    needed = (package for word, package in EXTRAS.items() if word in snippet.text)
    is_code = snippet.language == "python"
    return None if is_code else next((p for p in needed if not find_spec(p)), None)


def has_lattice(snippet):
    return any(word in snippet.text for word in ("=flow", "lattice="))


# Asks which package it is that runs.
WHERE = Snippet("", "python", "import energyflow_mlx\nprint(energyflow_mlx.__file__)\n")
RUN = [snippet for snippet in SNIPPETS if not reason_not_to_run(snippet)]


def write_files(folder):
    """Small files under the names that the documentation uses."""
    lines = "\n".join(SENTENCES) + "\n"
    for name in ("my.txt", "new.txt", "held_out.txt"):
        (folder / name).write_text(lines)
    own = next(s for s in SNIPPETS if "def embed(" in s.text)
    (folder / "my_teacher.py").write_text(own.text)
    pairs = zip(SENTENCES, SENTENCES[::-1], strict=True)
    records = [json.dumps({"text": a, "pair_target": b}) + "\n" for a, b in pairs]
    for name in ("my.jsonl", "pairs.jsonl"):
        (folder / name).write_text("".join(records))
    scored = [f"{n % 6}\t{SENTENCES[n]}\t{SENTENCES[0]}\n" for n in range(6)]
    (folder / "sts.tsv").write_text("".join(scored))
    rows = np.random.default_rng(0).normal(size=(len(SENTENCES), 384))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    np.save(folder / "vectors.npy", rows)
    shutil.copytree(CHECKOUT / "examples", folder / "examples")
    (folder / "models").mkdir()
    (folder / "models" / "bge-small").symlink_to(open_folder("minilm").path)


def entry(number, snippet):
    """What ``run_snippets.py`` is told of a snippet."""
    if snippet.language == "python":
        return {"code": snippet.text}
    words = snippet.arguments
    if snippet.module == "train":
        small = SMALL + (SMALL_LATTICE if has_lattice(snippet) else [])
        small = small + (FEW_EDITS if "data.edits." in snippet.text else [])
        if "run.dir=" not in snippet.text:
            small = [*small, f"run.dir=runs/{number}"]
        # Overrides go before an option with a value.
        place = words.index("--cfg") if "--cfg" in words else len(words)
        words[place:place] = small
    what = "script" if snippet.script else "module"
    return {
        what: getattr(snippet, what),
        "arguments": words,
        "environment": snippet.environment,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands were run."""
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder in which the wheel is installed, and nothing else."""
    wheel = build(CHECKOUT, tmp_path_factory.mktemp("wheel"), "wheel")
    folder = tmp_path_factory.mktemp("site")
    install(wheel, folder)
    return folder


@pytest.fixture(scope="module")
def outcomes(folder, site):
    """Exit status and output of every snippet that is run, by its text."""
    write_files(folder)
    here = [WHERE, *(snippet for snippet in RUN if not missing_package(snippet))]
    done = subprocess.run(
        [sys.executable, CHECKOUT / "tests" / "docs" / "run_snippets.py"],
        input=json.dumps([entry(n, s) for n, s in enumerate(here)]),
        cwd=folder,
        # Compiling costs seconds a command, for two updates.
        env=os.environ | {"PYTHONPATH": str(site), "MLX_DISABLE_COMPILE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    # Before it is what jobs in processes of their own print.
    found = json.loads(done.stdout.splitlines()[-1])
    return {s.text: outcome for s, outcome in zip(here, found, strict=True)}


@pytest.mark.parametrize(
    "snippet", RUN, ids=lambda s: f"{s.page}: {s.text.splitlines()[0][:60]}"
)
def test_what_is_documented_runs(snippet, outcomes):
    if package := missing_package(snippet):
        pytest.skip(f"needs {package}, of an extra; it is not installed")
    outcome = outcomes[snippet.text]
    assert outcome["status"] == 0, f"{snippet.text}\n{outcome['output']}"


def test_what_is_not_run_is_documented_and_all_else_is_run():
    for start in NOT_RUN:
        assert any(s.text.startswith(start) for s in SNIPPETS), f"not there: {start}"
    for snippet in RUN:
        known = snippet.language == "python" or snippet.module or snippet.script
        assert known, snippet.text


@pytest.mark.parametrize(
    "name",
    ["my.npy", "back.txt", "my.efb", "w.safetensors", "head.efck1", "head.npz"]
    + ["through.npy", "pictures/flows.html", "pictures/surfaces.png"]
    + ["travel/flows.html", "noise/report.html", "out/gift/README.md", "held_out.npy"]
    + ["runs/absolute/summary.json", "runs/hashed/summary.json", "mine.efb"]
    + ["runs/sweep/sweep.md", "runs/mine/evaluation.json", "runs/mine/plots/loss.png"],
)
def test_commands_leave_the_files_they_name(name, outcomes, folder):
    assert (folder / name).stat().st_size > 0


def test_the_objective_of_the_example_is_what_is_trained(outcomes, folder):
    text = (folder / "runs" / "absolute" / "metrics.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    training = [record for record in records if record["kind"] == "train"]
    for record in training:
        assert record["absolute_loss"] == pytest.approx(100 * record["difference"])
        # Of 384 numbers of length 1: a sum divided twice by its count is below it.
        assert record["difference"] > 0.02
    held_out = [r["cosine"] for r in records if r["kind"] == "validation"]
    assert training and held_out[-1] > held_out[0] + 0.01


def test_what_runs_is_the_wheel(outcomes, site):
    assert outcomes[WHERE.text]["output"].startswith(str(site))
    assert (site / "energyflow_mlx" / "conf" / "config.yaml").is_file()
