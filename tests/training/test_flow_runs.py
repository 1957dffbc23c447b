"""Runs of the lattice from the command line's config to evaluate, encode and decode."""

import json
from pathlib import Path

import numpy as np
import pytest

from energyflow_mlx import encode, evaluate
from energyflow_mlx.build.codec import load
from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.build.run import run
from energyflow_mlx.config import (
    Config,
    FlowConfig,
    FlowTextConfig,
    LatticeConfig,
    ReconstructionConfig,
    TrainerConfig,
)
from energyflow_mlx.config.lattice import CarrierConfig, CubeConfig, SpawnConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.similarity import cosine_rows
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.teacher import load_teacher
from tests.training.small import objectives


def make_lattice():
    return LatticeConfig(
        cube=CubeConfig(width=8, height=8, depth=4),
        spawn=SpawnConfig(per_cell=1 / 32),
        carrier=CarrierConfig(hidden=8, neuron_hidden=6, neuron_features=7),
    )


def make_config(folder, name="flow", **trainer):
    settings = {"max_steps": 40, "micro_batch": 16, "compile": False} | trainer
    own = {"share": "none", "objectives": objectives(flow=FlowConfig(lr=3e-3))}
    if name == "flow_text":
        text, back = FlowTextConfig(lr=3e-3), ReconstructionConfig()
        own = {"objectives": objectives(flow_text=text, reconstruction=back)}
    config = Config(trainer=TrainerConfig(**settings), lattice=make_lattice(), **own)
    config.data.captions, config.data.val_limit = 240, 32
    config.data.buckets, config.data.max_length = [16, 32], 32
    for part in (config.encoder, config.decoder):
        part.dim, part.hidden = 16, 24
    config.trainer.decode_samples = 4
    config.run.dir = str(folder / "run")
    config.teacher.cache_dir = str(folder / "cache")
    return config


def unit_rows(count, seed=0, width=12):
    """Rows of low rank, as sentence vectors are."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(9).normal(size=(4, width))
    rows = rng.normal(size=(count, 4)) @ basis
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    config = make_config(folder)
    np.save(folder / "train.npy", unit_rows(400))
    np.save(folder / "val.npy", unit_rows(64, seed=1))
    config.data.train = [str(folder / "train.npy")]
    config.data.val = [str(folder / "val.npy")]
    run(config)
    return folder


def test_flow_learns_vectors_alone_and_its_flows_travel(flow_run):
    records = read_metrics(flow_run / "run" / "metrics.jsonl")
    checks = [r for r in records if r["kind"] == "validation"]
    assert checks[-1]["cosine"] > checks[0]["cosine"] + 0.5
    for check in (checks[0], checks[-1]):
        assert check["flow_reached"] >= 0.95
        assert check["flow_covered"] >= 0.8
        assert check["flow_completed"] == 1.0


def evaluate_json(capsys, **arguments):
    data = evaluate.EvaluateData(val=arguments.pop("val"))
    evaluate.evaluate(evaluate.EvaluateArgs(data=data, **arguments))
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_evaluate_of_a_flow_run_reports_the_cosine_of_output_to_target(
    flow_run, capsys
):
    val = str(flow_run / "val.npy")
    found = evaluate_json(capsys, run=str(flow_run / "run"), val=val)
    out = load(flow_run / "run").transform(unit_rows(64, seed=1))
    cosine = (out * unit_rows(64, seed=1)).sum(1) / np.linalg.norm(out, axis=1)
    assert found["cosine"] == pytest.approx(cosine.mean(), abs=1e-4)
    assert found["sentences"] == 64
    assert found["flow_path"] > 0.9


def test_encode_sends_vectors_of_a_file_through_the_lattice(flow_run):
    arguments = {"run": str(flow_run / "run"), "output": str(flow_run / "out.npy")}
    source = str(flow_run / "val.npy")
    encode.encode_file(encode.EncodeArgs(input=source, normalize=False, **arguments))
    expected = load(flow_run / "run").transform(unit_rows(64, seed=1))
    assert np.allclose(np.load(flow_run / "out.npy"), expected, atol=1e-5)
    np.save(flow_run / "wide.npy", np.ones((3, 13), np.float32))
    with pytest.raises(InputError, match="must have 12 columns .* got 13"):
        encode.encode_file(
            encode.EncodeArgs(input=str(flow_run / "wide.npy"), **arguments)
        )


def test_equal_flow_runs_with_noise_end_in_equal_bits(flow_run, tmp_path):
    def vectors(name):
        config = make_config(tmp_path, max_steps=4)
        config.run.dir = str(tmp_path / name)
        config.data.train = [str(flow_run / "train.npy")]
        config.data.val = [str(flow_run / "val.npy")]
        config.lattice.noise.sigma = 0.1
        run(config)
        return load(config.run.dir).transform(unit_rows(8, seed=3))

    assert np.array_equal(vectors("one"), vectors("two"))


def test_text_tasks_refuse_vectors_alone(flow_run, tmp_path):
    config = make_config(tmp_path, name="flow_text")
    config.data.train = [str(flow_run / "train.npy")]
    config.data.val = [str(flow_run / "val.npy")]
    with pytest.raises(InputError, match="must have text or token ids"):
        run(config)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    records = [
        {"text": f"A dog runs {i} times.", "pair_target": f"An animal moves {i} times."}
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_pairs_map_a_premise_to_its_hypothesis(pairs, tmp_path):
    """Target: the pair's vector; source: the text's own."""
    config = make_config(tmp_path, max_steps=3)
    config.data.train, config.data.pairs = [str(pairs)], True
    from energyflow_mlx.display import RunDisplay

    with RunDisplay() as display:
        data = load_run_data(config, build_objectives(config), None, display)
    assert data.train_targets.shape[1] == 2 * data.dimension == 768
    teacher = load_teacher("minilm", 128, normalize=True)
    expected = teacher.encode(
        ["An animal moves 7 times.", "A dog runs 7 times."], batch_size=64
    )
    wanted = expected.reshape(1, -1)
    every = np.concatenate([data.train_targets, data.held_out.targets])
    assert np.abs(every - wanted).max(axis=1).min() < 1e-4
    summary = run(config)
    assert np.isfinite(summary["final"]["cosine"])


def test_pairs_need_both_sentences_of_every_record(tmp_path):
    path = tmp_path / "single.jsonl"
    path.write_text("".join(f'{{"text": "Dog {i} runs."}}\n' for i in range(40)))
    config = make_config(tmp_path)
    config.data.train, config.data.pairs = [str(path)], True
    with pytest.raises(InputError, match="text and pair_target in every record"):
        run(config)


def test_flow_text_goes_from_text_through_the_lattice_to_text(tmp_path, capsys):
    config = make_config(tmp_path, name="flow_text", max_steps=6)
    summary = run(config)
    for name in ("cosine", "ce", "bleu", "bleu_through_lattice", "flow_reached"):
        assert np.isfinite(summary["final"][name]), name
    codec = load(config.run.dir)
    vectors = codec.encode(["A dog runs.", "Two cats sleep."])
    assert vectors.shape == (2, 384)
    assert len(codec.decode(vectors)) == 2
    with pytest.raises(InputError, match=r"the lattice\.mapper .* was never trained"):
        codec.transform(vectors)
    (tmp_path / "val.txt").write_text("A dog runs.\nA man eats.\n")
    val = str(tmp_path / "val.txt")
    found = evaluate_json(capsys, run=config.run.dir, val=val)
    assert {"cosine", "bleu", "bleu_through_lattice", "ce"} <= set(found)


def test_vectors_and_sentences_through_one_lattice_are_measured_apart(tmp_path, capsys):
    config = make_config(tmp_path, name="flow_text", max_steps=3)
    config.objectives.flow = FlowConfig(lr=3e-3)
    config.data.captions, config.trainer.decode_samples = 100, 0
    run(config)
    texts = [f"A {who} {what}." for who in ("dog", "man") for what in ("runs", "eats")]
    (tmp_path / "val.txt").write_text("\n".join(texts))
    val = str(tmp_path / "val.txt")
    found = evaluate_json(capsys, run=config.run.dir, val=val)
    codec = load(config.run.dir)
    goals = load_teacher("minilm", 128, normalize=True).encode(texts, batch_size=4)
    for name, rows in (
        ("cosine", codec.encode(texts)),
        ("transform_cosine", codec.transform(goals)),
    ):
        wanted = float(np.mean(cosine_rows(rows, goals)))
        assert found[name] == pytest.approx(wanted, abs=1e-4), name
    confused = RunFolder(Path(config.run.dir)).read_evaluation()["details"]["retrieval"]
    own = dict(zip(texts, cosine_rows(codec.encode(texts), goals), strict=True))
    assert confused["worst"]
    for pair in confused["worst"]:
        assert pair["own_cosine"] == pytest.approx(own[pair["sentence"]], abs=1e-4)
