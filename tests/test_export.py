"""A run's weights leave in every format and come back; bad input writes nothing."""

import re

import mlx.core as mx
import numpy as np
import pytest

import energyflow_mlx
from energyflow_mlx.config import command_line as cli
from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.errors import InputError
from energyflow_mlx.export import ExportArgs, export
from energyflow_mlx.runs import checkpoint
from energyflow_mlx.runs.swift_files import read_efck1, read_efop1, write_efck1
from energyflow_mlx.runs.weights import load_weights
from tests.commands import run_command
from tests.teacher.tiny import write_teacher

# A minute's job cut to seconds: a teacher of 24 numbers, two updates of each objective.
SIZES = [
    f"{part}.{key}=64" for part in ("encoder", "decoder") for key in ("dim", "hidden")
]
SMALL = [
    *("+experiment=smoke", "data.captions=100", "teacher.max_length=16", *SIZES),
    *("trainer.max_steps=4", "trainer.validate_every=2", "trainer.decode_samples=0"),
    *("trainer.micro_batch=8", "data.buckets=[16]", "data.max_length=16"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small finished run."""
    place = tmp_path_factory.mktemp("export")
    teacher = write_teacher(place / "teacher")
    words = [f"teacher.name={teacher}", f"teacher.cache_dir={place / 'cache'}"]
    done = run_command("train", *SMALL, *words, f"run.dir={place / 'run'}")
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "run"


@pytest.fixture(scope="module")
def best(run):
    """Arrays of the run's best checkpoint."""
    found = checkpoint.load_best(run / "checkpoints")
    assert found is not None
    return found.arrays


def run_export(**words):
    cli.main(ExportArgs, export, [f"{key}={value}" for key, value in words.items()])


@pytest.mark.parametrize(
    ("dtype", "relative"),
    [("float32", 0.0), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)],
)
def test_weights_keep_name_shape_and_precision(run, best, tmp_path, dtype, relative):
    path = tmp_path / "w.safetensors"
    run_export(run=run, output=path, dtype=dtype)
    weights = load_weights(path)
    assert {f"model.{name}" for name in weights} == {
        name for name in best if name.startswith("model.")
    }
    assert "encoder.blocks.0.conv1.weight" in weights
    for name, array in weights.items():
        assert array.dtype == getattr(mx, dtype), name
        stored, given = (
            np.array(best[f"model.{name}"]),
            np.array(array.astype(mx.float32)),
        )
        assert np.all(np.abs(stored - given) <= relative * np.abs(stored) + 2.0**-25)


def test_weights_are_float32_unless_said_otherwise(run, tmp_path):
    run_export(run=run, output=tmp_path / "w.safetensors")
    assert {a.dtype for a in load_weights(tmp_path / "w.safetensors").values()} == {
        mx.float32
    }


TEXTS = ["a dog runs on the beach.", "two cats sleep", "the old man eats at home"]


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    """The run as a folder, in 8 bits."""
    path = tmp_path_factory.mktemp("int8") / "model"
    run_export(run=run, output=path, dtype="int8", name="Mine", license="mit")
    return path


def test_8_bits_are_9_of_32_with_their_scales(best, packed, run, tmp_path):
    full = {n.removeprefix("model."): a for n, a in best.items() if "model." in n}
    run_export(run=run, output=tmp_path / "w.safetensors", dtype="int8")
    alone = load_weights(tmp_path / "w.safetensors")
    stored = load_weights(packed / "model.safetensors")
    assert stored.keys() == alone.keys()
    table = "encoder.embedding"
    size = sum(stored[f"{table}.{k}"].nbytes for k in ("weight", "scales", "biases"))
    assert size == 9 / 32 * full[f"{table}.weight"].nbytes


def test_a_folder_of_a_run_gives_its_vectors_and_texts(run, packed, tmp_path):
    whole, rounded = energyflow_mlx.load(run), energyflow_mlx.load(packed)
    expected, found = whole.encode(TEXTS), rounded.encode(TEXTS)
    cosines = (expected * found).sum(axis=1)
    assert 0.999 < cosines.min() and cosines.max() < 1 - 1e-9
    assert len(rounded.decode(expected, max_length=4)) == 3
    run_export(run=run, output=tmp_path / "model")
    same = energyflow_mlx.load(tmp_path / "model")
    np.testing.assert_array_equal(same.encode(TEXTS), expected)
    assert same.decode(expected, max_length=6) == whole.decode(expected, max_length=6)


def test_a_folder_may_be_exported_again_in_fewer_bits(run, packed, tmp_path):
    run_export(run=run, output=tmp_path / "whole")
    run_export(run=tmp_path / "whole", output=tmp_path / "less", dtype="int8")
    mine, other = (f / "model.safetensors" for f in (tmp_path / "less", packed))
    assert mine.read_bytes() == other.read_bytes()


def test_the_commands_take_an_exported_folder(packed, tmp_path):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    words = [f"run={packed}", f"input={tmp_path / 'in.txt'}"]
    done = run_command("encode", *words, f"output={tmp_path / 'out.npy'}")
    assert done.returncode == 0, done.stderr
    expected = energyflow_mlx.load(packed).encode(TEXTS)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)
    lines = [f"{score}\t{TEXTS[0]}\t{text}" for score, text in enumerate(TEXTS)]
    (tmp_path / "sts.tsv").write_text("\n".join(lines), encoding="utf-8")
    before = sorted(packed.iterdir())
    done = run_command("evaluate", f"run={packed}", f"sts={tmp_path / 'sts.tsv'}")
    assert done.returncode == 0 and '"spearman"' in done.stdout, done.stderr
    assert sorted(packed.iterdir()) == before


def test_the_card_has_the_figures_of_the_run_folder(run, tmp_path):
    measured = run / "evaluation.json"
    measured.write_text('{"spearman": {"stsb_test": 76.2}}')
    words = {"language": "de", "license": "mit", "datasets": "[me/mine]"}
    run_export(run=run, output=tmp_path / "model", **words)
    measured.unlink()
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    for line in ("language: de", "license: mit", "- me/mine", "value: 76.2"):
        assert f"{line}\n" in card, line
    assert re.search(r"\| held-out sentences: cosine \| -?0\.\d+ \|", card)


def test_the_graph_of_a_run_gives_its_vectors(run, tmp_path):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")
    run_export(run=run, output=tmp_path / "graph", format="onnx")
    card = (tmp_path / "graph" / "README.md").read_text(encoding="utf-8")
    script = re.findall(r"```python\n(.*?)```", card, re.S)[-1]
    names = {}
    exec(script.rpartition("print(")[0].replace("PATH", f"{tmp_path}/graph"), names)
    expected = energyflow_mlx.load(run).encode(TEXTS)
    assert np.abs(names["encode"](TEXTS) - expected).max() <= 1e-5
    with pytest.raises(InputError, match="graph is a graph for other runtimes"):
        energyflow_mlx.load(tmp_path / "graph")


def test_the_command_says_what_it_wrote(run, tmp_path):
    path = tmp_path / "p.efck1"
    done = run_command("export", f"run={run}", f"output={path}")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"wrote {path}, {path.stat().st_size} bytes\n"


def test_projection_is_the_encoders_last_layer_and_comes_back(run, best, tmp_path):
    swift = tmp_path / "p.efck1"
    run_export(run=run, output=swift)
    wanted = {k: np.array(best[f"model.encoder.head.{k}"]) for k in ("weight", "bias")}
    layer = read_efck1(swift)
    np.testing.assert_array_equal(layer.weight, wanted["weight"])
    np.testing.assert_array_equal(layer.bias, wanted["bias"])
    assert layer.weight.shape == (24, 64)
    for name in ("back.npz", "back.safetensors"):
        run_export(input=swift, output=tmp_path / name)
        for key, values in read_arrays(tmp_path / name, wanted).items():
            np.testing.assert_array_equal(values, wanted[key])


def test_moments_are_the_projections_and_come_back(run, best, tmp_path):
    swift = tmp_path / "o.efop1"
    run_export(run=run, output=swift)
    state = read_efop1(swift, sizes=[24 * 64, 24])
    wanted = {"step": np.array(best["optimizer.encoder.head.weight.t"])}
    for number, part in enumerate(("weight", "bias")):
        for key, letter in (("first", "m"), ("second", "v")):
            moment = np.array(best[f"optimizer.encoder.head.{part}.{letter}"])
            wanted[f"{key}.{number}"] = moment.ravel()
    assert state.step == wanted["step"] >= 1
    np.testing.assert_array_equal(state.moments[0][1], wanted["second.0"])
    assert np.any(state.moments[1][0] != 0)
    for name in ("back.npz", "back.safetensors"):
        run_export(input=swift, output=tmp_path / name)
        for key, values in read_arrays(tmp_path / name, wanted).items():
            np.testing.assert_array_equal(values, wanted[key])


def test_a_run_of_muon_has_no_second_moments_to_write(run, tmp_path, capsys):
    folder, place = tmp_path / "muon", run.parent
    words = [
        f"teacher.name={place / 'teacher'}",
        f"teacher.cache_dir={place / 'cache'}",
    ]
    run_command("train", *SMALL, *words, "optimizer.kind=muon", f"run.dir={folder}")
    with pytest.raises(SystemExit) as end:
        run_export(run=folder, output=tmp_path / "o.efop1")
    assert end.value.code == 2
    assert "by optimizer.kind=adamw, got muon" in capsys.readouterr().err
    assert not (tmp_path / "o.efop1").exists()


def test_a_projection_without_bias_comes_back_without_one(tmp_path):
    write_efck1(tmp_path / "p.efck1", unit_rows(np.ones((2, 3))))
    run_export(input=tmp_path / "p.efck1", output=tmp_path / "p.npz")
    assert np.load(tmp_path / "p.npz").files == ["weight"]


def read_arrays(path, names):
    """Arrays of an exported file, which must have these names."""
    loaded = np.load(path) if path.suffix == ".npz" else load_weights(path)
    assert set(loaded) == set(names)
    return {name: np.array(loaded[name]) for name in loaded}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"output": "a.npz"}, "either run=PATH or input=FILE"),
        ({"run": "RUN", "input": "b.efck1", "output": "a.npz"}, "either run=PATH"),
        ({"run": "RUN"}, "missing: output"),
        ({"run": "nowhere", "output": "a.efck1"}, "run folder nowhere does not exist"),
        ({"run": ".", "output": "a.efck1"}, "no checkpoint in checkpoints"),
        ({"run": "RUN", "output": "a.npz"}, "must end in .safetensors or .efck1"),
        (
            {"run": "RUN", "output": "a.safetensors", "dtype": "int5"},
            "dtype must be one",
        ),
        (
            {"run": "RUN", "output": "a.efck1", "dtype": "float16"},
            "must be float32 but",
        ),
        (
            {"run": "RUN", "output": "a", "dtype": "int8", "format": "onnx"},
            "must be float32 but",
        ),
        ({"run": "RUN", "output": "a", "format": "tf"}, "format must be one of"),
        (
            {"run": "RUN", "output": "a.safetensors", "format": "onnx"},
            "must be a folder with format=onnx",
        ),
        ({"run": "nowhere", "output": "a"}, "run folder nowhere does not exist"),
        ({"run": "RUN", "output": "cut.efop1/a"}, "a must lie in a folder"),
        ({"run": "RUN", "output": "."}, "earlier export alone, got cut.efop1 in it"),
        ({"input": "b.efck1", "output": "a"}, "must end in .npz or .safetensors with"),
        ({"input": "b.efck1", "output": "a.efck1"}, "must end in .npz or .safetensors"),
        (
            {"input": "absent.efck1", "output": "a.npz"},
            "absent.efck1: no such file",
        ),
        ({"input": "b.bin", "output": "a.npz"}, "input must end in .efck1 or .efop1"),
        ({"input": "cut.efop1", "output": "a.npz"}, "cut.efop1: magic must be"),
        ({"run": "RUN", "output": "cut.efop1/a.efck1"}, "a.efck1 must lie in"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    run, tmp_path, monkeypatch, capsys, words, named
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.efop1").write_bytes(b"EFO")
    given = {k: str(run) if v == "RUN" else v for k, v in words.items()}
    with pytest.raises(SystemExit) as end:
        run_export(**given)
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert named in errors and errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cut.efop1"]


@pytest.mark.parametrize(
    ("output", "value", "named"),
    [
        ("a.safetensors", 70000.0, "'encoder.head.weight' must fit"),
        ("a.efck1", float("nan"), "weight must be finite"),
        ("a.efop1", 1.0, "must have trained an encoder"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, capsys, output, value, named):
    arrays = {"model.encoder.head.weight": mx.full((2, 2), value)}
    arrays |= {"model.encoder.head.bias": mx.zeros(2), "optimizer.other.m": mx.zeros(2)}
    checkpoint.save(tmp_path / "run" / "checkpoints", 1, arrays, {}, keep=1)
    dtype = "float16" if output.endswith("safetensors") else "float32"
    with pytest.raises(SystemExit) as end:
        run_export(run=tmp_path / "run", output=tmp_path / output, dtype=dtype)
    assert end.value.code == 2
    assert named in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_without_an_encoder_has_no_projection(tmp_path, capsys):
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoint.save(checkpoints, 1, {"model.lattice.w": mx.zeros(2)}, {}, keep=1)
    with pytest.raises(SystemExit):
        run_export(run=tmp_path / "run", output=tmp_path / "a.efck1")
    assert "must have a text encoder" in capsys.readouterr().err


def test_the_best_checkpoint_is_taken_not_the_newest(tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    for step in (1, 2):
        arrays = {"model.w": mx.full((2,), step)}
        checkpoint.save(checkpoints, step, arrays, {"best_step": 1}, keep=3)
    run_export(run=tmp_path / "run", output=tmp_path / "w.safetensors")
    assert load_weights(tmp_path / "w.safetensors")["w"].tolist() == [1, 1]
