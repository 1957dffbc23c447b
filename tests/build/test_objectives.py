"""Objectives of a configuration: which parts they need and what they refuse."""

import pytest

from energyflow_mlx.build.objectives import build_objectives, parts_of, record_of
from energyflow_mlx.config import (
    Config,
    DistillationConfig,
    FlowConfig,
    LatticeConfig,
    ReconstructionConfig,
    objectives_type,
)
from energyflow_mlx.errors import InputError
from energyflow_mlx.model import LatticeFlow
from tests.docs.pages import compose_config


def group(**members):
    return objectives_type()(**members)


def test_default_objectives_need_encoder_decoder_and_their_shared_block():
    made = build_objectives(Config())
    assert list(made) == ["distillation", "reconstruction"]
    assert parts_of(made) == {"encoder", "decoder", "shared"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": group()}, "objectives must be at least one"),
        ({"lattice": LatticeConfig()}, "lattice must be none, because"),
        (
            {"objectives": group(flow=FlowConfig()), "share": "none"},
            "lattice must be set, because objectives.flow trains one",
        ),
        (
            {"objectives": group(flow=FlowConfig()), "lattice": LatticeConfig()},
            "share must be none, because flow trains neither",
        ),
        (
            {"objectives": group(reconstruction=ReconstructionConfig())},
            "best_metric must be one that reconstruction measures: ce, got 'cosine'",
        ),
        (
            {"objectives": group(distillation=DistillationConfig(lr=1e-6))},
            "min_lr must be <= objectives.distillation.lr = 1e-06, got 1e-05",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        build_objectives(Config(**changes))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"matryoshka": [64, 32]}, "matryoshka must be ascending sizes >= 2"),
        (
            {"matryoshka": [64], "matryoshka_weights": [1.0, 2.0]},
            "matryoshka_weights must be empty or 1 numbers > 0, one for each size",
        ),
        ({"similarity_kind": "cos"}, "similarity_kind must be one of mse, kl"),
        ({"similarity_weight": -1.0}, "similarity_weight must be >= 0"),
        ({"similarity_temperature": 0.0}, "similarity_temperature must be > 0"),
    ],
)
def test_settings_of_similarities_are_checked(settings, message):
    with pytest.raises(InputError, match=message):
        DistillationConfig(**settings)


def test_a_shortened_size_that_is_not_shorter_is_refused():
    own = group(distillation=DistillationConfig(matryoshka=[64, 384]))
    (made,) = build_objectives(Config(objectives=own)).values()
    made.require_dimension(385)
    with pytest.raises(InputError, match="matryoshka must be below the 384 numbers"):
        made.require_dimension(384)


def test_sts_needs_an_encoder_and_may_choose_the_best_checkpoint():
    config = Config()
    config.trainer.best_metric = "sts"
    with pytest.raises(InputError, match="best_metric must be one that"):
        build_objectives(config)
    config.trainer.sts = "dev.tsv"
    build_objectives(config)
    config.objectives = group(reconstruction=ReconstructionConfig(lr=1e-3))
    with pytest.raises(InputError, match="trainer.sts must be unset, because recon"):
        build_objectives(config)


def test_pairs_are_refused_by_objectives_that_cannot_take_them():
    config = Config()
    config.data.pairs = True
    with pytest.raises(InputError, match="data.pairs must be false with distillation"):
        build_objectives(config)


def test_flows_train_alone_only_where_there_is_a_lattice():
    config = Config()
    config.trainer.train = "flow"
    with pytest.raises(InputError, match="trainer.train must be a choice whose parts"):
        build_objectives(config)


@pytest.mark.parametrize("call", sorted(LatticeFlow.paths))
def test_the_text_experiment_trains_all_that_each_call_needs(call):
    config = compose_config("+experiment=flow_text", "run.dir=x")
    record_of({"step": 1}, config).require(call, LatticeFlow.paths[call])
