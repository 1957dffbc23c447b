"""Host and device overlap: one update in flight, and none where the state is wanted."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.data import load_run_data
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.runs.metrics import read_metrics
from tests.training.small import make_config as make_small_config
from tests.training.small import make_trainer, quiet_display, set_key


def make_config(**trainer):
    config = make_small_config({"data.captions": 160, "data.max_length": 32})
    config.data.buckets = [32]
    config.trainer.micro_batch = 16
    for key, value in ({"compile": False, "validate_every": 100} | trainer).items():
        set_key(config, f"trainer.{key}", value)
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = make_config()
    config.teacher.cache_dir = str(tmp_path_factory.mktemp("cache"))
    return load_run_data(config, build_objectives(config), None, quiet_display())


def watched(trainer):
    """What a run does, in order: submits, waits, measures, saves."""
    happened = []

    def spy(owner, name, label):
        function = getattr(owner, name)

        def call(*args):
            happened.append(label(*args))
            return function(*args)

        setattr(owner, name, call)

    spy(trainer, "submit", lambda step, _: f"submit {step}")
    spy(trainer, "values_of", lambda submitted: f"wait {submitted.step}")
    spy(trainer, "measure", lambda: "measure")
    spy(trainer, "save", lambda _: "save")
    return happened


def test_update_1_is_submitted_before_update_0_is_waited_for(data, tmp_path):
    trainer = make_trainer(make_config(max_steps=4), data, tmp_path)
    happened = watched(trainer)
    trainer.run()
    assert happened == [
        *("submit 0", "submit 1", "wait 0", "submit 2", "wait 1", "submit 3"),
        *("wait 2", "wait 3", "measure", "save"),
    ]


def test_waiting_starts_after_the_next_update_was_handed_to_the_device(data, tmp_path):
    """Seen from the engine: what is started and what is waited for."""
    trainer = make_trainer(make_config(max_steps=3), data, tmp_path)
    happened, engine = [], trainer.engine
    evaluate, start = engine._evaluate, engine.start
    engine._evaluate = lambda label, *a: happened.append(label) or evaluate(label, *a)
    engine.start = lambda *a: happened.append("start") or start(*a)
    trainer._validate = lambda log: None
    trainer.run()
    waits = [entry.split()[-1] for entry in happened]
    assert waits == ["start", "start", "0.0", "start", "1.0", "2.0"]


def test_nothing_is_in_flight_where_weights_are_measured_or_saved(data, tmp_path):
    config = make_config(max_steps=6, validate_every=4, save_every=3)
    trainer = make_trainer(config, data, tmp_path)
    happened = watched(trainer)
    trainer.run()
    for number, entry in enumerate(happened):
        if entry in ("measure", "save"):
            submitted = sum(e.startswith("submit") for e in happened[:number])
            waited = sum(e.startswith("wait") for e in happened[:number])
            assert submitted == waited
    assert happened.count("measure") == 2 and happened.count("save") == 3


@pytest.mark.parametrize("accumulate", [1, 3])
def test_values_equal_those_of_updates_that_are_waited_for(data, tmp_path, accumulate):
    config = make_config(
        max_steps=5, log_every=1, accumulate=accumulate, micro_batch=16 // accumulate
    )
    trainer = make_trainer(config, data, tmp_path / "overlapped")
    trainer.run()
    rows = read_metrics(tmp_path / "overlapped" / "metrics.jsonl")
    logged = [row for row in rows if row["kind"] == "train"]
    alone = make_trainer(config, data, tmp_path / "alone")
    feed = alone.feed.updates(0)
    for step, row in enumerate(logged):
        values = alone.run_update(step, next(feed))
        assert row["step"] == step + 1
        assert {k: row[k] for k in values} == values
    feed.close()
    one, two = (t.stepper.state.arrays() for t in (trainer, alone))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def poisoned(trainer, number):
    """Update ``number`` gets targets that are not finite."""
    submit = trainer.submit

    def poison(step, update):
        if step == number:
            update = [
                batch._replace(target=mx.full(batch.target.shape, mx.nan))
                for batch in update
            ]
        return submit(step, update)

    trainer.submit = poison


def test_an_update_that_is_not_finite_is_named_and_nothing_is_saved(data, tmp_path):
    config = make_config(max_steps=8, save_every=4, log_every=1)
    trainer = make_trainer(config, data, tmp_path)
    poisoned(trainer, 5)
    happened = watched(trainer)
    with pytest.raises(FloatingPointError, match="update 5 must be finite"):
        trainer.run()
    assert "submit 6" in happened
    assert [int(p.name[-8:]) for p in trainer.folder.checkpoints.iterdir()] == [4]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert max(row["step"] for row in rows) == 5  # updates 0 to 4


@pytest.mark.parametrize("lazy", [True, False])
def test_an_update_that_is_not_finite_changes_no_state(data, tmp_path, lazy):
    config = make_config(max_steps=8)
    config.token_rows.lazy = lazy
    trainer = make_trainer(config, data, tmp_path)
    feed = trainer.feed.updates(0)
    trainer.run_update(0, next(feed))
    trainer.run_update(1, next(feed))
    stepper = trainer.stepper
    before = {k: np.array(v) for k, v in stepper.state.arrays().items()}
    poisoned(trainer, 2)
    with pytest.raises(FloatingPointError):
        trainer.run_update(2, next(feed))
    with pytest.raises(FloatingPointError):
        trainer.run_update(3, next(feed))  # it was on its way, and is not made either
    feed.close()
    after = stepper.state.arrays()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_with_debug_timing_every_update_is_alone_on_the_device(data, tmp_path):
    trainer = make_trainer(make_config(max_steps=3, debug_timing=True), data, tmp_path)
    happened = watched(trainer)
    trainer.run()
    assert happened[:4] == ["submit 0", "wait 0", "submit 1", "wait 1"]


def test_the_models_own_parameters_are_those_of_the_last_update(data, tmp_path):
    trainer = make_trainer(make_config(max_steps=2, compile=True), data, tmp_path)
    trainer.run()
    state = trainer.stepper.state.parameters
    parameters = trainer.codec.model.encoder.head.parameters()
    for name, array in parameters.items():
        assert np.array_equal(array, state[f"encoder.head.{name}"])
