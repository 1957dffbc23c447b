"""Loss scale and casts, without a training step around them."""

import mlx.core as mx
import pytest

from energyflow_mlx.config import Config, PrecisionConfig
from energyflow_mlx.training.precision import (
    LossScale,
    cast_parameters,
    init_loss_scale,
    most_skipped,
    next_loss_scale,
)

HALF = PrecisionConfig(dtype="float16", loss_scale=1024.0, scale_interval=3)


def states(updates, config=HALF, start=1024.0, most=50):
    """State after updates that were finite or not, and which of them were made."""
    state, made = LossScale(mx.array(start), mx.array(0.0), mx.array(0.0)), []
    for finite in updates:
        state, moves = next_loss_scale(state, mx.array(finite), config, most)
        made.append(moves.item())
    return state, made


def after(updates, config=HALF, start=1024.0):
    """Scale and count of good updates after updates that were finite or not."""
    state, _ = states(updates, config, start)
    return state.scale.item(), state.good.item()


def test_updates_after_the_first_bad_one_are_skipped_too():
    single = PrecisionConfig(dtype="float32")
    state, made = states([True, False, True, True], single, 1.0, most=1)
    assert made == [True, False, False, False]
    assert state.scale.item() == 1.0


def test_float16_goes_on_after_fewer_skips_in_a_row_than_the_most():
    bad = [False] * 3
    state, made = states([False, False, True, *bad, True, False], most=3)
    assert made == [False, False, True, *bad, False, False]
    assert state.scale.item() == 32.0  # nothing changes after the end


def test_only_float16_may_skip():
    config = Config()
    assert most_skipped(config) == 1
    config.precision.dtype, config.trainer.max_skipped = "float16", 7
    assert most_skipped(config) == 7


def test_an_overflow_halves_the_scale_and_restarts_the_count():
    assert after([True, True, False]) == (512.0, 0.0)
    assert after([True, True, False, True, True]) == (512.0, 2.0)


def test_the_scale_doubles_after_the_interval_and_counts_anew():
    assert after([True] * 2) == (1024.0, 2.0)
    assert after([True] * 3) == (2048.0, 0.0)
    assert after([True] * 7) == (4096.0, 1.0)


def test_the_scale_stays_between_1_and_65536():
    assert after([False] * 2, start=1.5)[0] == 1.0
    assert after([True] * 3, start=65536.0)[0] == 65536.0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_float16_is_scaled(dtype):
    config = PrecisionConfig(dtype=dtype, loss_scale=1024.0, scale_interval=1)
    assert init_loss_scale(config).scale.item() == 1.0
    assert after([True, False, True], config, start=1.0) == (1.0, 0.0)
    assert init_loss_scale(HALF).scale.item() == 1024.0


def test_floating_parameters_are_cast_and_others_are_not():
    arrays = {"weight": mx.ones((2,)), "count": mx.array([3], mx.int32)}
    cast = cast_parameters(arrays, HALF)
    assert cast["weight"].dtype == mx.float16
    assert cast["count"].dtype == mx.int32
    plain = cast_parameters(arrays, PrecisionConfig(dtype="float32"))
    assert plain["weight"] is arrays["weight"]
