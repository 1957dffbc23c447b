"""The loop on real captions and the real teacher: learning, fences, both modes."""

import io

import numpy as np
import pytest
from rich.console import Console

from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.model import build_model, parts_of, start_tables
from energyflow_mlx.config import Config
from energyflow_mlx.display import RunDisplay
from energyflow_mlx.inference import SentenceCodec
from energyflow_mlx.runs.folder import RunFolder
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.training.alternation import DISTILLATION, objective_of
from energyflow_mlx.training.loop import Trainer


def quiet_display():
    return RunDisplay(console=Console(file=io.StringIO()))


def make_config(**trainer):
    config = Config()
    config.data.captions = 240
    config.data.buckets = [16, 32]
    config.data.max_length = 32
    for part in (config.encoder, config.decoder):
        part.dim, part.hidden = 32, 48
    config.trainer.micro_batch = 32
    config.trainer.validate_every = 100
    config.optimizer.lr = 3e-3
    config.optimizer.decoder_lr = 3e-3
    for key, value in trainer.items():
        setattr(config.trainer, key, value)
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = make_config()
    config.teacher.cache_dir = str(tmp_path_factory.mktemp("cache"))
    return load_run_data(config, None, quiet_display())


def make_trainer(config, data, folder):
    model = build_model(
        config, parts_of(config), data.tokenizer.vocab_size, data.dimension
    )
    start_tables(model, config, data.word_embeddings)
    codec = SentenceCodec(model, data.tokenizer, config, data.dimension)
    model.train()
    return Trainer(config, codec, data, RunFolder(folder), quiet_display())


def measured(trainer, name):
    return trainer.measure(0)[name]


@pytest.mark.parametrize("seed", range(5))
def test_a_updates_raise_cosine_and_b_updates_lower_cross_entropy(seed, data, tmp_path):
    """T18: each mode is measured right before and after its own updates."""
    config = make_config(max_steps=400, compile=False)
    config.seed = seed
    trainer = make_trainer(config, data, tmp_path)
    feed = trainer._feed()
    batches = [next(feed) for _ in range(16)]
    feed.close()
    steps = {True: [], False: []}
    for step in range(40, 80):
        kind = objective_of(step, 0.5, seed) == DISTILLATION
        steps[kind].append(step)
    cosine, ce = measured(trainer, "cosine"), measured(trainer, "ce")
    for number, batch in enumerate(batches):
        trainer.run_update(steps[True][number], batch)
    assert measured(trainer, "cosine") > cosine
    ce = measured(trainer, "ce")
    for number, batch in enumerate(batches):
        trainer.run_update(steps[False][number], batch)
    assert measured(trainer, "ce") < ce


def test_several_hundred_alternating_updates_keep_improving_both(data, tmp_path):
    trainer = make_trainer(make_config(max_steps=400), data, tmp_path)
    trainer.run()
    rows = [
        r for r in read_metrics(tmp_path / "metrics.jsonl") if r["kind"] == "validation"
    ]
    assert [r["step"] for r in rows] == [100, 200, 300, 400]
    cosines, ces = [r["cosine"] for r in rows], [r["ce"] for r in rows]
    assert cosines[0] < cosines[1] < cosines[-1]
    assert ces[0] > ces[1] > ces[-1]
    curves = [
        r for r in read_metrics(tmp_path / "metrics.jsonl") if r["kind"] == "train"
    ]
    for row in curves:
        assert all(np.isfinite(v) for v in row.values() if isinstance(v, float))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_r12_one_evaluation_per_micro_batch(accumulate, data, tmp_path):
    config = make_config(max_steps=4, accumulate=accumulate, compile=False)
    trainer = make_trainer(config, data, tmp_path)
    feed = trainer._feed()
    for step in range(3):
        before = trainer.engine.evaluations
        trainer.run_update(step, next(feed))
        assert trainer.engine.evaluations - before == accumulate
    feed.close()


def test_debug_timing_lists_each_step_and_agrees(data, tmp_path):
    values = []
    for debug in (False, True):
        trainer = make_trainer(
            make_config(max_steps=4, debug_timing=debug, compile=False),
            data,
            tmp_path / str(debug),
        )
        feed = trainer._feed()
        values.append(trainer.run_update(0, next(feed)))
        feed.close()
    labels = [o.label for o in trainer.engine.last_timing.operations]
    assert len(labels) == 1 and "report" in labels[0]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_early_stop_after_stale_validations(data, tmp_path):
    config = make_config(
        max_steps=300,
        validate_every=10,
        patience=2,
        min_delta=10.0,
        keep=2,
        compile=False,
    )
    summary = make_trainer(config, data, tmp_path).run()
    assert summary["status"] == "stopped early"
    assert summary["steps"] == 30
    assert summary["best"]["step"] == 10
    kept = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert "step_00000010" in kept and len(kept) == 3


def test_t13_every_sentence_meets_both_objectives(data, tmp_path):
    trainer = make_trainer(make_config(max_steps=400, epochs=8), data, tmp_path)
    seen = {True: set(), False: set()}
    number = 0
    for epoch in range(8):
        for _, members in trainer.batcher.plan(epoch):
            kind = objective_of(number, 0.5, trainer.config.seed) == DISTILLATION
            seen[kind] |= set(members.tolist())
            number += 1
    everything = set(range(len(data.train_ids)))
    assert len(seen[True] & seen[False]) > 0.95 * len(everything)
