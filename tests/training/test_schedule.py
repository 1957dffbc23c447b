import pytest

from energyflow_mlx.training.schedule import learning_rate

SHAPE = {"base": 1e-3, "floor": 1e-5, "warmup": 10, "decay": 90}


def test_learning_rate_follows_warm_up_then_cosine_then_floor():
    assert learning_rate(0, **SHAPE) == pytest.approx(1e-4)
    assert learning_rate(9, **SHAPE) == pytest.approx(1e-3)
    assert learning_rate(10, **SHAPE) == pytest.approx(1e-3)
    assert learning_rate(55, **SHAPE) == pytest.approx(1e-5 + 0.5 * (1e-3 - 1e-5))
    assert learning_rate(100, **SHAPE) == pytest.approx(1e-5, abs=1e-7)
    assert learning_rate(145, **SHAPE) == pytest.approx(1e-5, abs=1e-7)
    assert learning_rate(10_000, **SHAPE) == pytest.approx(1e-5, abs=1e-7)


def test_learning_rate_without_decay_stays_at_its_peak():
    shape = {**SHAPE, "decay": 0}
    assert learning_rate(10, **shape) == learning_rate(5000, **shape) == 1e-3
