import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.text.generation.sampling import (
    draw,
    forbidden,
    log_probabilities,
    token_weights,
    uniform_numbers,
)
from energyflow_mlx.text.tokenizer.vocabulary import SpecialIds

PROBABILITIES = np.array([0.4, 0.3, 0.2, 0.07, 0.03])
LOGITS = mx.array(np.log(PROBABILITIES)[None].astype(np.float32)) + 3.0


def kept(**settings):
    weights = np.array(token_weights(LOGITS, temperature=1.0, **settings))[0]
    return weights.nonzero()[0].tolist()


def test_weights_are_the_softmax_up_to_scale():
    for temperature in (0.5, 1.0, 2.0):
        weights = np.array(token_weights(LOGITS, temperature=temperature))[0]
        expected = PROBABILITIES ** (1 / temperature)
        np.testing.assert_allclose(
            weights / weights.sum(), expected / expected.sum(), rtol=1e-5
        )


@pytest.mark.parametrize(
    ("top_k", "expected"), [(1, 1), (2, 2), (4, 4), (5, 5), (9, 5), (0, 5)]
)
def test_top_k_keeps_that_many_likeliest_tokens(top_k, expected):
    assert kept(top_k=top_k) == list(range(expected))


def test_top_k_keeps_exactly_k_of_equal_tokens():
    weights = np.array(token_weights(mx.zeros((1, 9)), temperature=1.0, top_k=3))
    assert np.count_nonzero(weights) == 3


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(0.01, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.75, 3), (1.0, 5)],
)
def test_top_p_keeps_the_smallest_set_that_holds_the_share(top_p, expected):
    assert kept(top_p=top_p) == list(range(expected))


def test_top_p_after_top_k_is_a_share_of_what_top_k_left():
    # Of the two left, the first holds 0.4 / 0.7 = 57 %.
    assert kept(top_k=2, top_p=0.5) == [0]
    assert kept(top_k=2, top_p=0.6) == [0, 1]
    assert kept(top_k=5, top_p=0.75) == kept(top_p=0.75)


def test_forbidden_tokens_have_no_weight():
    logits = LOGITS + forbidden(5, SpecialIds(start=0, end=1, pad=2, unknown=3))
    weights = np.array(token_weights(logits, temperature=1.0))[0]
    assert weights.nonzero()[0].tolist() == [1, 3, 4]


def test_draw_is_the_inverse_of_the_distribution_function():
    weights = mx.array([[0.0, 2.0, 0.0, 1.0, 1.0, 0.0]] * 6)
    uniform = mx.array([0.0, 0.49, 0.51, 0.74, 0.76, 1 - 2.0**-20])
    assert np.array(draw(weights, uniform)).tolist() == [1, 1, 3, 3, 4, 4]


def test_frequencies_of_draws_match_the_probabilities():
    n = 20000
    uniform = mx.array(uniform_numbers(3, np.arange(n), 1)[0])
    weights = mx.broadcast_to(token_weights(LOGITS, temperature=1.0), (n, 5))
    counts = np.bincount(np.array(draw(weights, uniform)), minlength=5) / n
    np.testing.assert_allclose(counts, PROBABILITIES, atol=0.012)


def test_uniform_numbers_depend_on_seed_row_and_step_only():
    whole = uniform_numbers(7, np.arange(100), 50)
    assert whole.shape == (50, 100) and whole.dtype == np.float32
    assert (whole >= 0).all() and (whole < 1).all()
    np.testing.assert_array_equal(
        uniform_numbers(7, np.arange(40, 60), 20), whole[:20, 40:60]
    )
    assert (uniform_numbers(8, np.arange(100), 50) != whole).mean() > 0.99
    assert whole.mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(whole[:, 0], whole[:, 1])[0, 1]) < 0.4
    assert abs(np.corrcoef(whole[0], whole[1])[0, 1]) < 0.3
    assert len(np.unique(whole)) > 4900


def test_log_probabilities_are_the_log_softmax():
    logits = mx.random.normal((3, 70)) * 5
    expected = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    np.testing.assert_allclose(
        np.array(log_probabilities(logits)), np.array(expected), atol=1e-5
    )
    banned = logits + forbidden(70, SpecialIds(start=0, end=1, pad=2, unknown=3))
    logp = np.array(log_probabilities(banned))
    assert np.isneginf(logp[:, [0, 2]]).all() and np.isfinite(logp[:, 1]).all()
