import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.nn.dropout import (
    active_key,
    check_rate,
    drop_tokens,
    dropout,
    key_stream,
)


def test_dropout_keeps_the_mean_and_drops_the_stated_share():
    y = np.array(dropout(mx.ones((400, 500)), 0.25, mx.random.key(3)))
    assert set(np.unique(y).round(5)) == {0.0, np.float32(4 / 3).round(5)}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.005)
    assert y.mean() == pytest.approx(1.0, abs=0.01)


def test_the_same_key_gives_the_same_pattern_also_when_compiled():
    x, key = mx.random.normal((7, 9)), mx.random.key(5)
    plain = dropout(x, 0.4, key)
    compiled = mx.compile(lambda v, k: dropout(v, 0.4, k))(x, key)
    np.testing.assert_array_equal(np.array(plain), np.array(compiled))
    other = dropout(x, 0.4, mx.random.key(6))
    assert (np.array(plain) != np.array(other)).any()


def test_dropped_elements_hide_even_infinite_values():
    y = np.array(dropout(mx.full((1000,), mx.inf), 0.5, mx.random.key(0)))
    assert not np.isnan(y).any()


def test_key_is_wanted_exactly_when_something_is_dropped():
    key = mx.random.key(0)
    assert active_key("x", training=False, rate=0.5, key=None) is None
    assert active_key("x", training=False, rate=0.5, key=key) is None
    assert active_key("x", training=True, rate=0.0, key=key) is None
    assert active_key("x", training=True, rate=0.5, key=key) is key
    with pytest.raises(ValueError, match=r"\[x\] key must be given"):
        active_key("x", training=True, rate=0.5, key=None)


def test_key_stream_yields_distinct_keys_or_none():
    keys = key_stream(mx.random.key(0))
    drawn = {tuple(np.array(next(keys)).tolist()) for _ in range(5)}
    assert len(drawn) == 5
    assert next(key_stream(None)) is None


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_outside_the_range_are_refused(rate):
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\)"):
        check_rate("x", rate)


def test_hidden_tokens_are_the_stated_share_and_never_the_first_or_padding():
    mask = mx.array([[1.0] * 300 + [0.0] * 100] * 200)
    kept = np.array(drop_tokens(mask, 0.25, mx.random.key(1)))
    assert (kept[:, 0] == 1).all() and (kept[:, 300:] == 0).all()
    assert kept[:, 1:300].mean() == pytest.approx(0.75, abs=0.01)
    assert drop_tokens(mask, 0.0, mx.random.key(1)) is mask
