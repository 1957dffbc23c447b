"""Averaged weights: the formula, what skips, what is measured, saved and resumed."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.config import DistillationConfig
from energyflow_mlx.runs.folder import MODEL, TRAINED, RunFolder
from energyflow_mlx.training.averaging import Average, next_average
from energyflow_mlx.training.state import TrainState
from tests.training.small import (
    make_batch,
    make_config,
    make_stepper,
    objectives,
    step,
    weights,
)
from tests.training.test_parallel import assert_same_curve, curve, train_alone

A, B = "distillation", "reconstruction"
HEAD = "encoder.head.weight"
ON = {"trainer.ema": 0.9}


def averages(stepper):
    return {k: np.array(v) for k, v in stepper.state.average.weights.items()}


def expected_average(history, decay):
    """The formula in NumPy, over the weights before and after every update."""
    average = history[0].astype(np.float64)
    for n, new in enumerate(history[1:]):
        d = min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * new
    return average


@pytest.mark.parametrize("decay", [0.2, 0.9])
def test_an_average_follows_the_formula_with_its_warm_up(decay):
    history = [np.random.default_rng(n).normal(size=5) for n in range(12)]
    average = Average({"p": mx.array(history[0], mx.float32)}, mx.zeros(()))
    for new in history[1:]:
        parameters = {"p": mx.array(new, mx.float32), "other": mx.zeros(())}
        average = next_average(average, parameters, mx.array(True), decay)
    found = np.array(average.weights["p"])
    np.testing.assert_allclose(found, expected_average(history, decay), atol=1e-6)
    assert average.updates.item() == 11


@pytest.mark.parametrize(
    "changes",
    [
        {"token_rows.lazy": True},
        {"token_rows.lazy": False},
        {"token_rows.candidates": 40},
        {"precision.dtype": "bfloat16"},
        {"trainer.compile": False},
    ],
    ids=str,
)
def test_every_update_of_any_objective_enters_the_average(changes):
    """Of rows that the update does not touch too, and of the other part's weights."""
    stepper = make_stepper(make_config(ON | changes))
    history = [weights(stepper)]
    for number, name in enumerate((A, B, A, B, A)):
        step(stepper, name, make_batch(number))
        history.append(weights(stepper))
    found = averages(stepper)
    assert found.keys() == stepper.trainable
    for path, average in found.items():
        assert average.dtype == np.float32
        wanted = expected_average([w[path] for w in history], 0.9)
        np.testing.assert_allclose(average, wanted, atol=1e-6, err_msg=path)
    assert not np.array_equal(found[HEAD], history[-1][HEAD])


def test_an_average_in_packs_is_that_of_each_tensor(monkeypatch):
    """As on a GPU, where small tensors lie in one vector."""
    changes = ON | {"optimizer.weight_decay": 0.0}
    alone = make_stepper(make_config(changes))
    monkeypatch.setattr("energyflow_mlx.training.update.on_gpu", lambda: True)
    packed = make_stepper(make_config(changes))
    assert len(packed.packing.packs) < len(alone.packing.packs)
    packed.restore(alone.state)
    for number, name in enumerate((A, B, A)):
        for stepper in (alone, packed):
            step(stepper, name, make_batch(number))
    one, two = averages(alone), averages(packed)
    for path in one:
        np.testing.assert_allclose(two[path], one[path], atol=1e-5, err_msg=path)
    with packed.averaged():
        inside = np.array(packed.model.encoder.head.weight)
    np.testing.assert_array_equal(inside, two[HEAD])


def test_the_average_changes_no_weight_of_the_training():
    plain, averaged = make_stepper(make_config()), make_stepper(make_config(ON))
    for number, name in enumerate((A, B, A)):
        for stepper in (plain, averaged):
            step(stepper, name, make_batch(number))
    one, two = weights(plain), weights(averaged)
    assert all(np.array_equal(one[path], two[path]) for path in one)
    assert not plain.state.average.weights


def test_a_skipped_update_leaves_the_average_alone():
    stepper = make_stepper(make_config(ON | {"precision.dtype": "float16"}))
    step(stepper, A, make_batch(1))
    before, bad = averages(stepper), make_batch(2)
    step(stepper, A, bad._replace(target=bad.target * np.float32(1e30)))
    after = averages(stepper)
    assert all(np.array_equal(before[path], after[path]) for path in before)
    assert stepper.state.average.updates.item() == 1


def test_only_what_trains_is_averaged_and_the_rest_is_kept_as_it_is():
    stepper = make_stepper(make_config(ON | {"trainer.train": "projection"}))
    step(stepper, A, make_batch(1))
    paths = set(stepper.state.average.weights)
    assert paths == stepper.trainable < set(stepper.state.parameters)
    saved = {k for k in stepper.state.arrays() if k.startswith(f"{MODEL}.")}
    assert saved == {f"{MODEL}.{path}" for path in stepper.state.parameters}


def test_a_checkpoint_has_the_average_as_the_model_and_the_weights_beside_it():
    stepper = make_stepper(make_config(ON))
    step(stepper, A, make_batch(1))
    arrays = stepper.state.arrays()
    np.testing.assert_array_equal(arrays[f"{MODEL}.{HEAD}"], averages(stepper)[HEAD])
    np.testing.assert_array_equal(arrays[f"{TRAINED}.{HEAD}"], weights(stepper)[HEAD])
    again = TrainState.from_arrays(arrays).arrays()
    assert again.keys() == arrays.keys()
    assert all(mx.array_equal(again[name], arrays[name]) for name in arrays)


def test_without_an_average_a_checkpoint_has_the_arrays_it_always_had():
    kinds = {name.partition(".")[0] for name in make_stepper().state.arrays()}
    assert kinds == {"model", "optimizer", "scale"}


def test_the_model_has_the_average_while_it_is_measured_and_then_its_weights():
    stepper = make_stepper(make_config(ON))
    step(stepper, A, make_batch(1))
    with stepper.averaged():
        inside = np.array(stepper.model.encoder.head.weight)
    outside = np.array(stepper.model.encoder.head.weight)
    np.testing.assert_array_equal(inside, averages(stepper)[HEAD])
    np.testing.assert_array_equal(outside, weights(stepper)[HEAD])


def distilling(**trainer):
    changes = {f"trainer.{key}": value for key, value in trainer.items()}
    own = objectives(distillation=DistillationConfig(lr=3e-2))
    return ON | {"objectives": own} | changes


def test_a_run_measures_saves_and_ends_with_averaged_weights(tmp_path):
    trainer = train_alone(tmp_path, distilling())
    plain = train_alone(tmp_path / "plain", distilling(ema=0.0))
    found, raw = curve(tmp_path), curve(tmp_path / "plain")
    for one, other in zip(found, raw, strict=True):
        same = one["kind"] == "train"  # the training itself is the same
        assert (one == other) is same, one
    state = trainer.stepper.state
    assert trainer.progress.best_step == trainer.progress.step
    trainer.restore_best()
    best = RunFolder(tmp_path).best((MODEL,)).arrays_of(MODEL)
    installed = np.array(trainer.codec.model.encoder.head.weight)
    np.testing.assert_array_equal(installed, best[HEAD])
    assert not np.array_equal(installed, state.parameters[HEAD])
    assert plain.progress.step == trainer.progress.step


def test_a_resumed_run_goes_on_with_the_same_bits(tmp_path):
    whole = train_alone(tmp_path / "whole", distilling())
    folder, name = tmp_path / "resumed", "checkpoints/step_00000004"
    (folder / "checkpoints").mkdir(parents=True)
    (tmp_path / "whole" / name).rename(folder / name)
    log = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(log)
    resumed = train_alone(folder, distilling())
    assert_same_curve(curve(folder), curve(tmp_path / "whole"), 0)
    one, two = whole.stepper.state.arrays(), resumed.stepper.state.arrays()
    assert one.keys() == two.keys()
    assert all(mx.array_equal(one[path], two[path]) for path in one)
