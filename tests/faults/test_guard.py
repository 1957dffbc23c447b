"""What is not finite never reaches the weights: injected NaN and Inf, and what follows.

Faults enter where they would in life: a vector after the data were checked, a row of a
token table, a weight, an objective of the user's own whose loss or gradient turns bad.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.config import (
    Config,
    DistillationConfig,
    FlowConfig,
    FlowTextConfig,
    ObjectiveConfig,
    ReconstructionConfig,
    objective_settings,
)
from energyflow_mlx.config import objectives as registry
from energyflow_mlx.config.objectives import ParaphraseConfig
from energyflow_mlx.config.store import register
from energyflow_mlx.errors import InputError
from energyflow_mlx.runs.metrics import read_metrics
from energyflow_mlx.runtime import distributed
from energyflow_mlx.training.divergence import Diverged
from energyflow_mlx.training.objectives import Objective, Outcome
from energyflow_mlx.training.token_rows import is_token_parameter
from tests.commands import run_command
from tests.processes import call
from tests.training.small import make_trainer, objectives, set_key
from tests.training.test_flow_runs import make_lattice
from tests.training.test_pairs import data_with_pairs
from tests.training.test_parallel import tiny_config, tiny_data

STEPS, BAD = 6, 3
ALL = {"trainer.validate_every": 100, "trainer.micro_batch": 4}
DTYPES = ("float32", "bfloat16", "float16")
VALUES = {"nan": np.nan, "inf": np.inf}


def of(kind, dtype="float32", **changes):
    """Configuration and data of a kind of run."""
    made = {"precision.dtype": dtype, "precision.loss_scale": 1.0}
    made |= {"trainer.max_skipped": 1}
    config = tiny_config(ALL, made, KINDS[kind], changes)
    data = data_with_pairs() if kind == "paraphrase" else tiny_data()
    data.train_targets = data.train_targets.copy()  # the held-out ones stay good
    return config, data


def lattice(settings, way="graph"):
    made = make_lattice()
    made.adjoint.way = way
    return {"objectives": settings, "lattice": made}


KINDS = {
    "encoder": {"objectives": objectives(distillation=DistillationConfig())},
    "decoder": {
        "objectives": objectives(reconstruction=ReconstructionConfig()),
        "token_rows.candidates": 60,
        "trainer.best_metric": "ce",
    },
    "plain": {},
    "both": {"share": "last", "trainer.ema": 0.9},
    "candidates": {"token_rows.candidates": 60},
    "dense": {"token_rows.lazy": False},
    "accumulated": {"trainer.accumulate": 3, "trainer.micro_batch": 2},
    "compiled": {"trainer.compile": True},
    "flow": lattice(objectives(flow=FlowConfig(lr=1e-3))),
    "stepwise": lattice(objectives(flow=FlowConfig(lr=1e-3)), "stepwise"),
    "flow_text": lattice(objectives(flow_text=FlowTextConfig(lr=1e-3))),
    "paraphrase": {
        "objectives": objectives(
            distillation=DistillationConfig(),
            paraphrase=ParaphraseConfig(file="pairs.tsv"),
        )
    },
}


def bits(trainer):
    """The state but for float16's loss scale, which a skipped update may halve."""
    state = trainer.stepper.state.arrays().items()
    return {k: np.array(a).tobytes() for k, a in state if not k.startswith("scale.")}


def trainer_of(config, data, folder):
    mx.random.seed(0)
    return make_trainer(config, data, folder)


def after(trainer, steps):
    """Run some updates, one by one."""
    feed = trainer.feed.updates(0)
    for step in range(steps):
        trainer.run_update(step, next(feed))
    feed.close()
    return trainer


def poison_a_target(trainer, value=np.nan):
    """Put a number into the vector of a sentence; returns the first update with it."""
    plan = trainer.feed._batcher.plan(0)
    update = min(BAD, len(plan) - 1)
    sentence = plan[update][1][1]
    trainer.data.train_targets[sentence, 0] = value
    return update, sentence


def stopped_at(trainer, run=None):
    """Update that a run ends at; the error too."""
    with pytest.raises(Diverged) as caught:
        (run or trainer.run)()
    line = str(caught.value)
    assert "\n" not in line and line.startswith("[train] ")
    return int(line.split(" update ")[1].split(" ")[0]), line


def poisoned(trainer, path, value):
    """Put a number into a parameter; of a table, into a row that update BAD reads."""
    state = trainer.stepper.state
    array = np.array(state.parameters[path])
    row = trainer.feed.batch_of(BAD).ids[0, 1] if is_token_parameter(path) else 0
    array.reshape(len(array), -1)[row, 0] = value
    parameters = {**state.parameters, path: mx.array(array)}
    trainer.stepper.restore(state._replace(parameters=parameters))


def go_on(trainer, first):
    """Updates from a number on as a run makes them, one in flight."""
    feed = trainer.feed.updates(first)
    try:
        list(trainer.landed(feed, range(first, STEPS)))
    finally:
        feed.close()


# -- the weights ----------------------------------------------------------------------

GRID = [
    *((kind, "float32", "nan") for kind in KINDS if kind != "paraphrase"),
    *((k, d, "inf") for k in ("encoder", "both", "flow") for d in DTYPES),
]


@pytest.mark.parametrize(("kind", "dtype", "value"), GRID)
def test_state_is_that_before_the_update_bit_for_bit(kind, dtype, value, tmp_path):
    """One target turns bad after the checks of the data."""
    config, data = of(kind, dtype)
    trainer = trainer_of(config, data, tmp_path / "run")
    expected, _ = poison_a_target(trainer, VALUES[value])
    bad, line = stopped_at(trainer)
    assert bad == expected and "not finite: target;" in line
    alone = after(trainer_of(*of(kind, dtype), tmp_path / "alone"), expected)
    assert bits(trainer) == bits(alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("encoder", "encoder.embedding.weight"),
        ("encoder", "encoder.blocks.0.conv1.weight"),
        ("decoder", "decoder.output.weight"),
        ("decoder", "decoder.embedding.weight"),
        ("flow", "lattice.collector.stack.layers.0.weight"),
        ("paraphrase", "encoder.head.weight"),
    ],
)
def test_a_weight_or_a_table_row_turns_bad(kind, path, value, dtype, tmp_path):
    trainer = after(trainer_of(*of(kind, dtype), tmp_path), BAD)
    poisoned(trainer, path, VALUES[value])
    before = bits(trainer)
    _, line = stopped_at(trainer, lambda: go_on(trainer, BAD))
    assert f"not finite: weight {path}" in line and "another checkpoint" in line
    assert bits(trainer) == before


@mx.custom_function
def with_gradient_times(x, _):
    return x


@with_gradient_times.vjp
def _with_gradient_times(primals, cotangent, _):
    factor = primals[1]
    return cotangent * factor.astype(cotangent.dtype), mx.zeros_like(factor)


@pytest.fixture(scope="module")
def own():
    """An objective of the user's own, with a fault at one update."""

    @objective_settings("own")
    @dataclass
    class OwnConfig(ObjectiveConfig):
        """Settings of the objective."""

    class Own(Objective):
        """Train the encoder to give long vectors."""

        name = "own"
        measures = {"norm": True}
        parts = ("encoder",)
        fault, value, times = "loss", 1.0, 0

        def controls(self, step):
            factors = {"loss": 1.0, "gradient": 1.0, "constant": 0.0}
            if step == BAD and self.times > 0:
                self.times -= 1
                factors[self.fault] = self.value
            return factors

        def loss(self, model, batch, key):
            y = model.encode(batch.ids, batch.mask, key=key).astype(mx.float32)
            y = with_gradient_times(y, batch.controls["gradient"])
            length = mx.sum(mx.linalg.norm(y, axis=-1))
            count = mx.array(float(len(y)))
            loss = -length * batch.controls["loss"] + batch.controls["constant"]
            return Outcome(loss, count, {"norm": length})

        def validate(self, codec, held_out, engine):
            vectors = codec.encode_ids(held_out.ids, batch_size=64, normalize=False)
            return {"norm": float((vectors**2).sum(axis=1).mean() ** 0.5)}

    yield OwnConfig
    del registry._REGISTERED["own"], Objective.registered["own"]
    register()


def own_trainer(own, folder, fault="loss", value=np.nan, times=99, **changes):
    given = {"objectives": objectives(own=own(lr=1e-2)), "trainer.best_metric": "norm"}
    dots = {key.replace("__", "."): value for key, value in changes.items()}
    config = tiny_config(ALL, given, dots)
    trainer = trainer_of(config, tiny_data(), folder)
    objective = trainer.objectives["own"]
    objective.fault, objective.value, objective.times = fault, value, times
    return trainer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("fault", ["loss", "gradient"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_or_a_gradient_turns_bad(fault, value, dtype, accumulate, own, tmp_path):
    changes = {"precision__dtype": dtype, "trainer__max_skipped": 1}
    changes |= {"trainer__accumulate": accumulate, "trainer__micro_batch": 2}
    trainer = own_trainer(own, tmp_path / "run", fault, VALUES[value], **changes)
    bad, line = stopped_at(trainer)
    assert bad == BAD and f"not finite: {fault}" in line
    assert "objectives.own.lr" in line
    alone = own_trainer(own, tmp_path / "alone", times=0, **changes)
    assert bits(trainer) == bits(after(alone, BAD))


def test_a_bad_loss_that_passes_on_no_gradient_is_caught(own, tmp_path):
    """As a constant that is added to it does."""
    trainer = own_trainer(own, tmp_path, "constant", np.inf)
    bad, line = stopped_at(trainer)
    assert bad == BAD and "not finite: loss;" in line


def poison_in_each_process(folder):
    """Runs in each process: a target of one of them is bad."""
    group = distributed.join()
    config, data = of("plain", **{"trainer.micro_batch": 2})
    mx.random.seed(0)
    trainer = make_trainer(config, data, Path(folder, "run"), group)
    expected, _ = poison_a_target(trainer)
    bad, line = stopped_at(trainer)
    assert bad == expected and "not finite: target;" in line
    state = {k: np.array(a) for k, a in trainer.stepper.state.arrays().items()}
    np.savez(f"{folder}/{group.rank}.npz", **state)


def test_processes_stop_together(tmp_path):
    call(poison_in_each_process, 2, tmp_path, tmp_path)
    one, two = (np.load(tmp_path / f"{rank}.npz") for rank in range(2))
    alone = after(trainer_of(*of("plain"), tmp_path / "alone"), BAD)
    for name, array in alone.stepper.state.arrays().items():
        assert np.array_equal(one[name], two[name])
        np.testing.assert_allclose(one[name], np.array(array), atol=1e-5)


# -- what is said and kept ------------------------------------------------------------


def test_the_sentences_of_the_update_are_kept(tmp_path):
    config, data = of("both", **{"trainer.save_every": 2})
    trainer = trainer_of(config, data, tmp_path)
    _, sentence = poison_a_target(trainer)
    _, line = stopped_at(trainer)
    path = tmp_path / "diverged" / f"update_{BAD}.json"
    assert str(path) in line and "newest checkpoint: update 2" in line
    kept = json.loads(path.read_text())
    assert kept["update"] == BAD and kept["objective"] in line
    assert kept["not_finite"] == ["target"] and kept["loss"] == "nan"
    assert len(kept["sentences"]) == 4 and kept["left_out"] == 0
    worst, *others = kept["sentences"]
    assert worst["target_norm"] == "nan"
    assert worst["ids"] == data.train_ids[sentence].tolist()
    assert worst["text"] == data.tokenizer.decode([data.train_ids[sentence]])[0]
    assert all(s["target_norm"] == pytest.approx(1, abs=1e-4) for s in others)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    trainer = after(trainer_of(*of("both"), tmp_path), BAD)
    poisoned(trainer, "decoder.output.bias", np.inf)
    with pytest.raises(Diverged, match="finite to be saved, got others in trained.dec"):
        trainer.save()
    assert not trainer.folder.steps()


def test_a_checkpoint_that_is_not_finite_is_not_resumed(tmp_path):
    """Written by an earlier version, or by other hands."""
    trainer = after(trainer_of(*of("encoder"), tmp_path), BAD)
    trainer.progress.step, trainer.progress.samples = BAD, BAD * 4
    poisoned(trainer, "encoder.head.bias", np.nan)
    arrays, meta = trainer.stepper.state.arrays(), trainer.progress.to_json()
    trainer.folder.save(BAD, arrays, meta, keep=1, best=BAD)
    with pytest.raises(InputError, match="finite numbers, got others in model.enc"):
        trainer_of(*of("encoder"), tmp_path)


# -- float16 --------------------------------------------------------------------------


def test_float16_stops_after_so_many_skipped_in_a_row(tmp_path):
    changes = {"trainer.max_skipped": 3, "trainer.max_steps": 40}
    config, data = of("both", "float16", **changes)
    trainer = trainer_of(config, data, tmp_path / "run")
    data.train_targets[:] = np.inf
    bad, line = stopped_at(trainer)
    assert bad == 2 and "the last of 3 skipped in a row" in line
    assert "mend the vectors" in line
    assert trainer.progress.skipped == 3
    assert (
        bits(trainer)["model.encoder.head.bias"]
        == bits(trainer_of(*of("both", "float16"), tmp_path / "new"))[
            "model.encoder.head.bias"
        ]
    )


def test_float16_skips_a_bad_update_and_says_how_many(own, tmp_path):
    changes = {"precision__dtype": "float16", "trainer__max_skipped": 2}
    trainer = own_trainer(own, tmp_path, times=1, **changes)
    summary = trainer.run()
    assert summary["status"] == "finished"
    assert (summary["skipped"], summary["loss_scale"]) == (1, 512.0)
    records = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "skipped" in r]
    told = [(r["skipped"], r["loss_scale"]) for r in records]
    later = STEPS - BAD - 1
    assert told == [(0, 1024.0)] * BAD + [(1, 1024.0)] + [(1, 512.0)] * later


def test_a_run_that_skipped_most_updates_is_not_finished(tmp_path):
    config, data = of("both", "float16", **{"trainer.max_skipped": 50})
    trainer = trainer_of(config, data, tmp_path)
    data.train_targets[:] = np.inf
    with pytest.raises(Diverged, match="6 updates must be finite, got 6 skipped"):
        trainer.run()
    again = trainer_of(config, tiny_data(), tmp_path)
    with pytest.raises(Diverged, match="got 6 skipped"):
        again.run()


def test_skips_in_a_row_are_counted_over_a_resumption(tmp_path):
    changes = {"trainer.max_skipped": 5, "trainer.save_every": 2}
    config, data = of("both", "float16", **changes)
    trainer = trainer_of(config, data, tmp_path)
    data.train_targets[:] = np.inf
    steps = iter(range(3))
    values_of = trainer.values_of

    def killed(submitted):
        if next(steps, None) is None:
            raise ZeroDivisionError
        return values_of(submitted)

    trainer.values_of = killed
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    again_config, bad = of("both", "float16", **changes)
    again = trainer_of(again_config, bad, tmp_path)
    assert again.progress.skipped_in_row == 2
    assert again.stepper.state.loss_scale.skipped.item() == 2
    bad.train_targets[:] = np.inf
    assert stopped_at(again)[0] == 4


# -- rollback -------------------------------------------------------------------------

ROLLBACK = {
    "trainer__on_divergence": "rollback",
    "trainer__save_every": 2,
    "trainer__max_steps": 8,
}


def rates(folder):
    records = read_metrics(folder / "metrics.jsonl")
    found = [(r["step"], r["own_lr"]) for r in records if r["kind"] == "train"]
    assert len(dict(found)) == len(found)  # each update once
    return dict(found)


def test_a_rollback_goes_on_from_the_newest_checkpoint_with_lower_rates(own, tmp_path):
    calm = own_trainer(own, tmp_path / "calm", times=0, **ROLLBACK)
    assert "rollbacks" not in calm.run()
    trainer = own_trainer(own, tmp_path / "run", times=2, **ROLLBACK)
    summary = trainer.run()
    assert summary["status"] == "finished" and summary["steps"] == 8
    assert (summary["rollbacks"], summary["rate_factor"]) == (2, 0.25)
    plain, lowered = rates(tmp_path / "calm"), rates(tmp_path / "run")
    assert [*lowered] == [*plain] == [*range(1, 9)]
    factors = [lowered[step] / plain[step] for step in plain]
    assert factors == pytest.approx([1, 1] + [0.25] * 6)


def test_a_rollback_before_the_first_checkpoint_goes_to_the_start(own, tmp_path):
    settings = ROLLBACK | {"trainer__save_every": 0}
    trainer = own_trainer(own, tmp_path, times=1, **settings)
    assert trainer.run()["rollbacks"] == 1
    assert rates(tmp_path)[1] == pytest.approx(0.5 * 1e-2)


def test_a_run_stops_after_so_many_rollbacks(own, tmp_path):
    settings = ROLLBACK | {"trainer__max_rollbacks": 2}
    trainer = own_trainer(own, tmp_path / "run", **settings)
    bad, line = stopped_at(trainer)
    assert bad == BAD and "after 2 rollbacks try" in line
    assert "on_divergence" not in line
    assert trainer.progress.rollbacks == 2


def test_a_rolled_back_run_that_is_resumed_ends_in_the_same_bits(own, tmp_path):
    whole = own_trainer(own, tmp_path / "whole", times=1, **ROLLBACK)
    whole.run()
    killed = own_trainer(own, tmp_path / "killed", times=1, **ROLLBACK)
    submit = killed.submit

    def submit_until_killed(step, update):
        if step == BAD and killed.progress.rollbacks:
            raise ZeroDivisionError
        return submit(step, update)

    killed.submit = submit_until_killed
    with pytest.raises(ZeroDivisionError):
        killed.run()
    again = own_trainer(own, tmp_path / "killed", times=0, **ROLLBACK)
    assert (again.progress.step, again.progress.rollbacks) == (2, 1)
    again.run()
    assert bits(again) == bits(whole)
    assert rates(tmp_path / "killed") == rates(tmp_path / "whole")


def test_a_run_that_stopped_may_be_told_to_roll_back(own, tmp_path):
    stop = ROLLBACK | {"trainer__on_divergence": "stop"}
    stopped = own_trainer(own, tmp_path, **stop)
    stopped.folder.begin(stopped.config)
    stopped_at(stopped)
    trainer = own_trainer(own, tmp_path, times=1, **ROLLBACK)
    trainer.folder.check(trainer.config)
    assert trainer.progress.step == 2
    assert trainer.run()["rollbacks"] == 1


# -- settings -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("optimizer.lr", [np.inf, np.nan, -1.0, 0.0, 1e39, 101.0]),
        ("optimizer.min_lr", [np.inf, np.nan, -1.0]),
        ("objectives.distillation.lr", [np.inf, np.nan, -1e-3]),
        ("optimizer.weight_decay", [np.inf, np.nan, -0.1, 1e9]),
        ("optimizer.betas", [[1.0, 0.9], [0.9, np.nan], [-0.1, 0.9]]),
        ("optimizer.eps", [0.0, np.nan, np.inf, 1e-60]),
        ("optimizer.clip_norm", [np.inf, np.nan, -1.0]),
        ("trainer.on_divergence", ["give up"]),
        ("trainer.rollback_factor", [0.0, 1.0, np.nan]),
        ("trainer.max_rollbacks", [0]),
        ("trainer.max_skipped", [0]),
    ],
)
def test_settings_that_cannot_train_are_refused(key, values):
    for value in values:
        config = Config()
        set_key(config, key, value)
        *groups, _ = key.split(".")
        group = config
        for name in groups:
            group = getattr(group, name)
        with pytest.raises(InputError, match=key):
            group.__post_init__()
            config.__post_init__()


def test_a_refused_rate_is_one_line_and_leaves_no_folder(tmp_path):
    folder = tmp_path / "run"
    words = ["+experiment=smoke", "optimizer.lr=inf", f"run.dir={folder}"]
    done = run_command("train", *words)
    assert done.returncode == 2 and not folder.exists()
    line = "error: [config] optimizer.lr must be a finite number, got inf.\n"
    assert done.stderr == line
