"""What the header says of learning rates, and the table of what it measures."""

import pytest

from energyflow_mlx.config import Config, DistillationConfig, ReconstructionConfig
from energyflow_mlx.config.training import OptimizerConfig
from energyflow_mlx.errors import InputError
from energyflow_mlx.training.run import learning_rates
from tests.training.small import objectives


def config_of(common, distillation, reconstruction):
    group = objectives(
        distillation=DistillationConfig(lr=distillation),
        reconstruction=ReconstructionConfig(lr=reconstruction),
    )
    return Config(objectives=group, optimizer=OptimizerConfig(lr=common))


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ((2e-3, None, None), "0.002"),
        ((2e-3, 3e-3, None), "0.002; not moved by optimizer.lr: distillation 0.003"),
        (
            (2e-3, 3e-3, 1e-3),
            "none in common; not moved by optimizer.lr: distillation 0.003, "
            "reconstruction 0.001",
        ),
    ],
)
def test_the_header_names_the_objectives_with_a_rate_of_their_own(rates, said):
    assert learning_rates(config_of(*rates)) == said


def test_the_common_rate_moves_the_objectives_without_one_of_their_own():
    config = config_of(2e-3, 3e-3, None)
    assert config.objectives.distillation.lr == 3e-3
    assert config.objectives.reconstruction.lr == 2e-3


def test_a_common_rate_of_nothing_is_refused():
    with pytest.raises(InputError, match="optimizer.lr must be > 0"):
        OptimizerConfig(lr=0.0)
