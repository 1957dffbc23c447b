import pytest

from energyflow_mlx.config.lattice import LatticeConfig
from energyflow_mlx.lattice.schedule import displacement_scale, exploration_sigma


def test_displacement_scale_decays_in_intervals_after_the_warmup():
    """F18: the reference's schedule is constant with its own defaults."""
    config = LatticeConfig()
    assert config.displacement_scale > config.displacement_scale_min
    assert displacement_scale(config, 0) == 2.0
    assert displacement_scale(config, 99) == 2.0
    assert displacement_scale(config, 100) == 2.0
    assert displacement_scale(config, 109) == 2.0
    assert displacement_scale(config, 110) == pytest.approx(1.8)
    assert displacement_scale(config, 120) == pytest.approx(1.62)
    assert displacement_scale(config, 10_000) == 1.0


def test_exploration_noise_falls_linearly_to_zero():
    config = LatticeConfig(exploration_noise=0.1, exploration_steps=200)
    sigmas = [exploration_sigma(config, step) for step in (0, 50, 200, 10_000)]
    assert sigmas == pytest.approx([0.1, 0.075, 0.0, 0.0])


def test_exploration_noise_stays_constant_without_an_end():
    config = LatticeConfig(exploration_noise=0.1, exploration_steps=0)
    assert exploration_sigma(config, 10_000) == 0.1
