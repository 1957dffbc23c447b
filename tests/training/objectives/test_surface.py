"""Surface: encoder and mapper made alike; then a lattice takes texts and vectors."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.codec import load
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.build.run import run
from energyflow_mlx.config import (
    FlowConfig,
    FlowTextConfig,
    ReconstructionConfig,
    SurfaceConfig,
)
from energyflow_mlx.errors import InputError
from energyflow_mlx.model import flat_parameters
from energyflow_mlx.runs.metrics import read_metrics
from tests.build.tiny import make_lattice
from tests.training.small import (
    gradients,
    make_batch,
    make_stepper,
    objectives,
    step,
    weights,
)
from tests.training.small import make_config as make_small_config
from tests.training.test_flow_runs import make_config
from tests.training.test_parallel import assert_same_curve, curve, train_alone

SIDES = {"encoder": ("encoder.", "shared."), "mapper": ("lattice.mapper.",)}
OTHER = {"encoder": "mapper", "mapper": "encoder"}
TEXTS = ["A dog runs along the beach.", "Two women wait for the train."]


def fit(folder, learns, **trainer):
    config = make_config(folder, **trainer)
    config.objectives = objectives(surface=SurfaceConfig(lr=3e-3, learns=learns))
    config.trainer.best_metric = "surface_mse"
    config.trainer.decode_samples = 0
    config.encoder.dim, config.encoder.hidden = 64, 96
    config.encoder.embedding_init = "normal"
    config.data.captions, config.trainer.micro_batch = 600, 32
    run(config)
    return config


def checks_of(config):
    records = read_metrics(f"{config.run.dir}/metrics.jsonl")
    return [record for record in records if record["kind"] == "validation"]


def parameters_before_and_after(config):
    """Those of the model before any update, drawn from the seed, and at the end."""
    from energyflow_mlx.build.model import build_model

    codec = load(config.run.dir)
    parts = {"encoder", "shared", "lattice"}
    fresh = build_model(config, parts, codec.tokenizer.vocab_size, codec.dimension)
    return flat_parameters(fresh), flat_parameters(codec.model)


def test_text_is_fitted_to_fixed_surface_targets(tmp_path):
    """The squared distance on held-out sentences falls to less than half."""
    config = fit(tmp_path, "encoder", max_steps=240, validate_every=80)
    found = [check["surface_mse"] for check in checks_of(config)]
    assert found[-1] < 0.5 * found[0]
    before, after = parameters_before_and_after(config)
    for path in before:
        is_learned = path.startswith(("encoder.", "shared."))
        assert mx.array_equal(before[path], after[path]) != is_learned, path


def test_the_mapper_is_fitted_to_the_encoder_and_nothing_else_changes(tmp_path):
    config = fit(tmp_path, "mapper", max_steps=20, validate_every=10)
    found = [check["surface_mse"] for check in checks_of(config)]
    assert found[-1] < 0.7 * found[0]
    before, after = parameters_before_and_after(config)
    changed = {path for path in before if not mx.array_equal(before[path], after[path])}
    assert changed and all(path.startswith("lattice.mapper.") for path in changed)


def test_transform_of_a_text_run_answers_through_a_mapper_fitted_to_it(tmp_path):
    config = make_config(tmp_path, "flow_text", max_steps=6)
    config.objectives = objectives(
        flow_text=FlowTextConfig(lr=3e-3),
        reconstruction=ReconstructionConfig(lr=3e-3),
        surface=SurfaceConfig(lr=3e-3, learns="mapper"),
    )
    config.trainer.decode_samples = 0
    run(config)
    codec = load(config.run.dir)
    assert np.isfinite(codec.transform(codec.encode(TEXTS))).all()


def test_it_needs_a_lattice_and_a_side_that_exists(tmp_path):
    config = make_config(tmp_path)
    config.objectives, config.lattice = objectives(surface=SurfaceConfig()), None
    with pytest.raises(InputError, match=r"lattice must be set.*objectives\.surface"):
        build_objectives(config)
    with pytest.raises(InputError, match=r"surface\.learns must be"):
        SurfaceConfig(learns="decoder")


def averaged_run(learns, **changes):
    """Changes of a run in which other objectives move the target, an average."""
    surface = SurfaceConfig(lr=3e-2, learns=learns, target="average")
    members = {"surface": surface, "flow": FlowConfig(lr=3e-2)}
    members["flow_text"] = FlowTextConfig(lr=3e-2, text=0.0)
    found = {"lattice": make_lattice(), "objectives": objectives(**members)}
    found |= {"share": "none", "trainer.ema": 0.9, "trainer.compile": False}
    return found | changes


def moved_stepper(changes):
    """After updates of both objectives that move the sides."""
    stepper = make_stepper(make_small_config(changes))
    for number, name in enumerate(("flow", "flow_text", "flow", "flow_text")):
        step(stepper, name, make_batch(number))
    return stepper


@pytest.mark.parametrize("learns", OTHER)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"token_rows.lazy": False},
        {"precision.dtype": "bfloat16"},
    ],
    ids=str,
)
def test_the_average_of_the_other_side_is_the_target(learns, changes):
    """Loss and gradients are those of a model whose target side has its average."""
    stepper = moved_stepper(averaged_run(learns, **changes))
    state = stepper.state
    target = {
        path: average
        for path, average in state.average.weights.items()
        if path.startswith(SIDES[OTHER[learns]])
    }
    found = gradients(stepper, "surface", make_batch(9))

    stepper.objectives[-1].settings.target = "current"
    current = make_stepper(stepper.config)
    current.restore(state)
    of_the_weights = gradients(current, "surface", make_batch(9))
    current.restore(state._replace(parameters=state.parameters | target))
    wanted = gradients(current, "surface", make_batch(9))

    assert found.loss.item() == wanted.loss.item() != of_the_weights.loss.item()
    assert found.gradients.keys() == wanted.gradients.keys()
    for path, gradient in found.gradients.items():
        assert path.startswith(SIDES[learns])
        assert mx.array_equal(gradient, wanted.gradients[path]), path


@pytest.mark.parametrize("learns", OTHER)
def test_an_update_moves_the_side_that_learns_and_no_target(learns):
    changes = {"trainer.compile": learns == "mapper"}
    stepper = moved_stepper(averaged_run(learns, **changes))
    before, report = weights(stepper), gradients(stepper, "surface", make_batch(9))
    found = step(stepper, "surface", make_batch(9))
    assert found["loss"] == pytest.approx(report.loss.item() / report.count.item())
    after = weights(stepper)
    changed = {p for p in before if not np.array_equal(before[p], after[p])}
    assert changed and all(path.startswith(SIDES[learns]) for path in changed)
    assert stepper.traces["surface update"] == 1


def test_targets_in_packs_are_those_of_each_tensor(monkeypatch):
    """As on a GPU, where small tensors of both sides lie in one vector."""
    changes = averaged_run("mapper", **{"optimizer.weight_decay": 0.0})
    alone = moved_stepper(changes)
    monkeypatch.setattr("energyflow_mlx.training.update.on_gpu", lambda: True)
    packed = make_stepper(make_small_config(changes))
    packed.restore(alone.state)
    one = gradients(alone, "surface", make_batch(9))
    two = gradients(packed, "surface", make_batch(9))
    for path, gradient in one.gradients.items():
        np.testing.assert_allclose(two.gradients[path], gradient, atol=1e-6)


def test_a_resumed_run_has_the_same_targets(tmp_path):
    changes = averaged_run("encoder", **{"trainer.best_metric": "surface_mse"})
    whole = train_alone(tmp_path / "whole", changes)
    folder, name = tmp_path / "resumed", "checkpoints/step_00000004"
    (folder / "checkpoints").mkdir(parents=True)
    (tmp_path / "whole" / name).rename(folder / name)
    log = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(log)
    resumed = train_alone(folder, changes)
    assert_same_curve(curve(folder), curve(tmp_path / "whole"), 0)
    one, two = whole.stepper.state.arrays(), resumed.stepper.state.arrays()
    assert all(mx.array_equal(one[path], two[path]) for path in one | two)


def test_an_averaged_target_needs_an_average():
    with pytest.raises(InputError, match=r"trainer\.ema must be above 0 where obj"):
        build_objectives(
            make_small_config(averaged_run("mapper", **{"trainer.ema": 0.0}))
        )
    with pytest.raises(InputError, match=r"surface\.target must be"):
        SurfaceConfig(target="slow")
