"""The loop on real captions and the real teacher: learning, fences, both modes."""

import logging
from unittest.mock import Mock

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.evaluation.held_out import mean_cross_entropy
from energyflow_mlx.readback import ReadbackEngine
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.training.objectives import Distillation
from tests.training.small import (
    make_config as make_small_config,
)
from tests.training.small import (
    make_trainer,
    quiet_display,
    set_key,
)

A, B = "distillation", "reconstruction"


def make_config(**trainer):
    config = make_small_config({"data.captions": 240, "data.max_length": 32})
    config.data.buckets = [16, 32]
    for part in (config.encoder, config.decoder):
        part.dim, part.hidden = 32, 48
    config.trainer.micro_batch = 32
    config.trainer.validate_every = 100
    config.data.val_limit = 0
    config.objectives.distillation.lr = 3e-3
    config.objectives.reconstruction.lr = 3e-3
    for key, value in trainer.items():
        set_key(config, f"trainer.{key}", value)
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = make_config()
    config.teacher.cache_dir = str(tmp_path_factory.mktemp("cache"))
    return load_run_data(config, build_objectives(config), None, quiet_display())


def measured(trainer, name):
    return trainer.measure()[name]


def take(trainer, count):
    feed = trainer.feed.updates(0)
    updates = [next(feed) for _ in range(count)]
    feed.close()
    return updates


@pytest.mark.parametrize("seed", range(5))
def test_a_updates_raise_cosine_and_b_updates_lower_cross_entropy(seed, data, tmp_path):
    """Each is measured right before and after its own updates."""
    config = make_config(max_steps=400, compile=False)
    config.seed = seed
    trainer = make_trainer(config, data, tmp_path)
    batches = take(trainer, 16)
    steps = {A: [], B: []}
    for number in range(40, 80):
        steps[trainer.alternation.objective_of(number)].append(number)
    cosine, ce = measured(trainer, "cosine"), measured(trainer, "ce")
    for number, batch in enumerate(batches):
        trainer.run_update(steps[A][number], batch)
    assert measured(trainer, "cosine") > cosine
    ce = measured(trainer, "ce")
    for number, batch in enumerate(batches):
        trainer.run_update(steps[B][number], batch)
    assert measured(trainer, "ce") < ce


def test_several_hundred_alternating_updates_keep_improving_both(data, tmp_path):
    config = make_config(max_steps=400)
    config.objectives.reconstruction.lr = 1e-3  # few sentences: soon known by heart
    trainer = make_trainer(config, data, tmp_path)
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
def test_one_evaluation_per_micro_batch(accumulate, data, tmp_path):
    config = make_config(max_steps=4, accumulate=accumulate, compile=False)
    trainer = make_trainer(config, data, tmp_path)
    for step, update in enumerate(take(trainer, 3)):
        before = trainer.engine.evaluations
        trainer.run_update(step, update)
        assert trainer.engine.evaluations - before == accumulate


@pytest.mark.parametrize("accumulate", [1, 2])
def test_debug_timing_times_each_part_and_changes_no_value(accumulate, data, tmp_path):
    values = []
    for debug in (False, True):
        trainer = make_trainer(
            make_config(
                max_steps=4, debug_timing=debug, compile=False, accumulate=accumulate
            ),
            data,
            tmp_path / str(debug),
        )
        values.append(trainer.run_update(0, take(trainer, 1)[0]))
    name = trainer.alternation.objective_of(0)
    labels = [o.label for o in trainer.engine.last_timing.operations]
    parts = [f"{name} {part}" for part in ("forward", "loss", "gradient")]
    assert [label for label in labels if label != f"{name} loss sum"] == [
        *(*parts, "update"),
        f"{name} report",
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_the_log_says_where_the_time_of_the_updates_went(data, tmp_path):
    config = make_config(max_steps=4, log_every=2, debug_timing=True, compile=False)
    make_trainer(config, data, tmp_path).run()
    rows = [
        r for r in read_metrics(tmp_path / "metrics.jsonl") if r["kind"] == "timing"
    ]
    assert [r["step"] for r in rows] == [2, 4]
    for row in rows:
        host = {row[f"{k}_ms"] for k in ("batch", "build", "submit", "wait")}
        assert all(value >= 0 for value in host) and len(host) == 4
        assert row["peak_bytes"] > 100_000 and row["traces"] > 0
        for name in (A, B):
            forward, loss, gradient = (
                row[f"{name}_{part}_ms"] for part in ("forward", "loss", "gradient")
            )
            assert min(forward, loss, gradient) > 0
        assert row["update_ms"] > 0


@pytest.mark.parametrize("ended_by", ["submit", "save"])
def test_a_start_that_is_cut_short_is_measured_and_logged_once(
    ended_by, data, tmp_path
):
    """Killed before update 1, after its checkpoint was saved or before that."""

    def start():
        trainer = make_trainer(make_config(max_steps=4, compile=False), data, tmp_path)
        trainer.objectives[A].measured_at_start = True
        return trainer

    trainer = start()
    setattr(trainer, ended_by, Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["kind"] for row in rows].count("validation") == 1
    start().run()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    found = [(r["step"], r["best"]) for r in rows if r["kind"] == "validation"]
    assert found == [(0, True), (4, True)]


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


def test_every_sentence_meets_both_objectives(data, tmp_path):
    trainer = make_trainer(make_config(max_steps=400, epochs=8), data, tmp_path)
    seen = {A: set(), B: set()}
    number = 0
    for epoch in range(8):
        for _, members in trainer.feed._batcher.plan(epoch):
            seen[trainer.alternation.objective_of(number)] |= set(members.tolist())
            number += 1
    everything = set(range(len(data.train_ids)))
    assert len(seen[A] & seen[B]) > 0.95 * len(everything)


def test_parameters_and_moments_are_evaluated_with_their_update(data, tmp_path):
    """Without the fence the graph would grow from update to update."""
    trainer = make_trainer(make_config(max_steps=4, compile=False), data, tmp_path)
    fenced = []
    fence = trainer.engine.fence
    trainer.engine.fence = lambda *trees: fenced.extend(trees) or fence(*trees)
    trainer.run_update(0, take(trainer, 1)[0])
    ours = trainer.stepper.arrays()
    assert [id(a) for tree in fenced for a in tree] == [id(a) for a in ours]
    state = trainer.stepper.state.arrays()
    assert sum(a.size for a in ours) >= sum(a.size for a in state.values()) - len(state)


def test_each_objective_follows_its_own_rate_and_schedule(data, tmp_path):
    config = make_config(max_steps=200)
    config.objectives.distillation.lr = 1e-2
    config.objectives.reconstruction.lr = 2e-3
    config.optimizer.warmup_steps, config.optimizer.min_lr = 10, 1e-4
    trainer = make_trainer(config, data, tmp_path)
    for name, peak in ((A, 1e-2), (B, 2e-3)):
        own = [s for s in range(200) if trainer.alternation.objective_of(s) == name]
        rates = [trainer.learning_rate(step, name) for step in own]
        assert max(rates) == pytest.approx(peak) == rates[9]
        assert rates[0] == pytest.approx(peak / 10)
        assert rates[-1] == pytest.approx(1e-4, rel=0.1)
        step = own[15]
        values = trainer.run_update(step, take(trainer, 1)[0])
        assert values[f"{name}_lr"] == rates[15]


def test_the_scheduled_rate_reaches_the_weights(data, tmp_path):
    moved = []
    for rate in (1e-3, 4e-3):
        config = make_config(max_steps=50, compile=False)
        config.optimizer.warmup_steps = 0
        config.objectives.distillation.lr = rate
        trainer = make_trainer(config, data, tmp_path / str(rate))
        step = next(s for s in range(9) if trainer.alternation.objective_of(s) == A)
        before = np.array(trainer.stepper.state.parameters["encoder.head.bias"])
        trainer.run_update(step, take(trainer, 1)[0])
        after = np.array(trainer.stepper.state.parameters["encoder.head.bias"])
        moved.append(np.abs(after - before).max())
    assert moved[1] / moved[0] == pytest.approx(4, rel=0.05)


def test_controls_of_an_objective_reach_its_loss(data, tmp_path):
    seen = []

    class Spy(Distillation):
        def controls(self, step):
            return {"step": float(step)}

        def loss(self, model, batch, key):
            seen.append(batch.controls["step"].item())
            return super().loss(model, batch, key)

    try:
        config = make_config(max_steps=20, compile=False)
        trainer = make_trainer(config, data, tmp_path)
        spy = Spy(config.objectives.distillation, config)
        trainer.objectives[A] = spy
        trainer.stepper.objectives = [spy]
        trainer.stepper.__post_init__()
        step = next(s for s in range(9) if trainer.alternation.objective_of(s) == A)
        trainer.run_update(step, take(trainer, 1)[0])
    finally:
        type(trainer.objectives[B]).registered[A] = Distillation
    assert set(seen) == {float(step)}


def test_random_keys_differ_between_updates_and_repeat_with_the_seed(data, tmp_path):
    def losses(seed):
        config = make_config(max_steps=20, compile=False)
        config.seed = seed
        config.encoder.dropout = config.decoder.dropout = 0.5
        trainer = make_trainer(config, data, tmp_path / str(seed))
        steps = [s for s in range(20) if trainer.alternation.objective_of(s) == A][:2]
        update = take(trainer, 1)[0]
        state = trainer.stepper.state
        found = []
        for step in (*steps, steps[0]):
            trainer.stepper.restore(state)
            found.append(trainer.run_update(step, update)[f"{A}_loss"])
        return found

    one, two, again = losses(5)
    assert one == again != two


def test_validation_cross_entropy_is_the_mean_over_tokens_of_all_batches(
    data, tmp_path
):
    """Not the mean of the batches' means: batches differ in tokens."""
    trainer = make_trainer(make_config(max_steps=4), data, tmp_path)
    codec, held_out = trainer.codec, data.held_out.first(11)
    codec.model.eval()
    engine = ReadbackEngine()
    alone = [
        (mean_cross_entropy(codec, held_out_of(held_out, i), engine), len(ids) - 1)
        for i, ids in enumerate(held_out.ids)
    ]
    assert len({tokens for _, tokens in alone}) > 2
    expected = sum(ce * n for ce, n in alone) / sum(n for _, n in alone)
    for size in (2, 64):
        found = mean_cross_entropy(codec, held_out, engine, size)
        assert found == pytest.approx(expected, rel=1e-5)


def held_out_of(held_out, index):
    cut = slice(index, index + 1)
    return type(held_out)(held_out.texts[cut], held_out.ids[cut], held_out.targets[cut])


def test_restore_best_brings_back_the_weights_of_the_best_validation(data, tmp_path):
    config = make_config(max_steps=20, validate_every=10, compile=False)
    trainer = make_trainer(config, data, tmp_path)
    kept = {}
    save = trainer.save

    def spy(log_digest):
        kept[trainer.progress.step] = np.array(
            trainer.stepper.state.parameters["encoder.head.weight"]
        )
        save(log_digest)

    trainer.save = spy
    measure, values = trainer.measure, iter([0.9, 0.1])
    trainer.measure = lambda: measure() | {"cosine": next(values)}
    trainer.run()
    assert trainer.progress.best_step == 10
    trainer.restore_best()
    restored = np.array(trainer.codec.model.encoder.head.weight)
    np.testing.assert_array_equal(restored, kept[10])
    assert not np.array_equal(kept[10], kept[20])


def test_best_is_the_lowest_where_lower_is_better(data, tmp_path):
    config = make_config(max_steps=30, validate_every=10, compile=False)
    config.trainer.best_metric = "ce"
    trainer = make_trainer(config, data, tmp_path)
    measure, values = trainer.measure, iter([3.0, 2.0, 2.5])
    trainer.measure = lambda: measure() | {"ce": next(values)}
    summary = trainer.run()
    assert summary["best"] == {"ce": 2.0, "step": 20}


def test_messages_say_epochs_and_saves_and_the_gradient_norm_at_debug(
    data, tmp_path, caplog
):
    config = make_config(max_steps=8, epochs=2, validate_every=4, compile=False)
    trainer = make_trainer(config, data, tmp_path)
    with caplog.at_level(logging.DEBUG, "energyflow_mlx"):
        trainer.run()
    info = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert "epoch 1 begins at update 0" in info and "epoch 2 begins at update 7" in info
    assert {"saved update 4", "saved update 8"} <= set(info)
    assert not any("grad_norm" in message for message in info)
    debug = [r.getMessage() for r in caplog.records if r.levelno == logging.DEBUG]
    assert sum("grad_norm" in message for message in debug) == 8
    caplog.clear()
    with caplog.at_level(logging.INFO, "energyflow_mlx"):
        make_trainer(config, data, tmp_path)
    assert any("resumed" in r.getMessage() for r in caplog.records)


def test_prefetch_bounds_the_updates_prepared_ahead(data, tmp_path):
    import time

    made = {}
    for depth in (1, 4):
        config = make_config(max_steps=4)
        config.data.prefetch = depth
        trainer = make_trainer(config, data, tmp_path / str(depth))
        count, rows_of = [], trainer.feed.rows_of
        trainer.feed.rows_of = lambda *a, c=count, f=rows_of: c.append(1) or f(*a)
        feed = trainer.feed.updates(0)
        next(feed)
        deadline = time.monotonic() + 120
        # One handed over, ``depth`` waiting, one more in the making.
        while len(count) < depth + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        feed.close()
        made[depth] = len(count)
    assert made == {1: 3, 4: 6}


def test_a_loss_that_is_not_finite_ends_the_run_naming_the_update(data, tmp_path):
    trainer = make_trainer(make_config(max_steps=4, compile=False), data, tmp_path)
    update = [
        batch._replace(target=mx.full(batch.target.shape, mx.nan))
        for batch in take(trainer, 1)[0]
    ]
    step = next(s for s in range(9) if trainer.alternation.objective_of(s) == A)
    with pytest.raises(FloatingPointError, match=f"{A} update {step} must be finite"):
        trainer.run_update(step, update)
