import pytest

from energyflow_mlx.training.alternation import (
    DISTILLATION,
    RECONSTRUCTION,
    objective_counts,
    objective_of,
)
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


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 42])
def test_objectives_hold_the_ratio_in_every_stretch(ratio, seed):
    names = [objective_of(step, ratio, seed) for step in range(400)]
    for start in range(0, 400, 40):
        share = names[start : start + 40].count(DISTILLATION) / 40
        assert abs(share - ratio) <= 1 / 40 + 1e-9
    counts = objective_counts(400, ratio, seed)
    assert counts[DISTILLATION] == names.count(DISTILLATION)
    assert counts[RECONSTRUCTION] == names.count(RECONSTRUCTION)


def test_t13_objective_is_a_pure_function_of_the_step():
    first = [objective_of(step, 0.4, 7) for step in range(100)]
    again = [objective_of(step, 0.4, 7) for step in reversed(range(100))]
    assert first == again[::-1]
