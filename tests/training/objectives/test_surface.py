"""Surface: encoder and mapper made alike; then a lattice takes texts and vectors."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.codec import load
from energyflow_mlx.build.objectives import build_objectives
from energyflow_mlx.build.run import run
from energyflow_mlx.config import (
    FlowTextConfig,
    ReconstructionConfig,
    SurfaceConfig,
)
from energyflow_mlx.errors import InputError
from energyflow_mlx.model import flat_parameters
from energyflow_mlx.runs.metrics import read_metrics
from tests.training.small import objectives
from tests.training.test_flow_runs import make_config

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
