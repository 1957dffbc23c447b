"""Gathered rows, sampled softmax, and the row update."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.config import OptimizerConfig
from energyflow_mlx.ops.adamw import Adamw, Rates, adamw
from energyflow_mlx.training import feed, token_rows
from energyflow_mlx.training.optimizer import constants, init_moments
from energyflow_mlx.training.token_rows import (
    TokenRows,
    candidate_softmax,
    draw_candidates,
    gathering_pays,
    occurring_rows,
    step_rows,
    token_shares,
)
from tests.training.small import (
    V,
    make_batch,
    make_config,
    make_feed,
    make_stepper,
    step,
    weights,
)

A, B = "distillation", "reconstruction"
CONFIG = OptimizerConfig(weight_decay=0.1)


def test_rows_name_every_token_once_and_place_finds_it():
    ids = np.array([[3, 7, 7, 0], [9, 3, 0, 0]], np.int32)
    rows = occurring_rows(ids, 12)
    assert len(rows.tokens) == 8 and len(set(rows.tokens.tolist())) == 8
    real = rows.tokens[rows.occurs > 0]
    assert real.tolist() == [0, 3, 7, 9]
    np.testing.assert_array_equal(rows.tokens[rows.place[ids]], ids)
    assert rows.log_p is None


def test_rows_are_never_more_than_the_vocabulary():
    ids = np.arange(20, dtype=np.int32).reshape(2, 10) % 5
    assert len(occurring_rows(ids, 6).tokens) == 6


def test_candidates_hold_the_occurring_tokens_first_and_are_a_function_of_the_seed():
    ids = make_batch(1).ids
    rows, shares = occurring_rows(ids, V), np.full(V, 1 / V)
    drawn = draw_candidates(rows, shares, 40, 45, (3, 7))
    occurring = np.unique(ids)
    assert drawn.tokens[: len(occurring)].tolist() == occurring.tolist()
    assert len(set(drawn.tokens.tolist())) == 45
    np.testing.assert_array_equal(drawn.tokens[drawn.place[ids]], ids)
    again = draw_candidates(rows, shares, 40, 45, (3, 7))
    np.testing.assert_array_equal(again.tokens, drawn.tokens)
    other = draw_candidates(rows, shares, 40, 45, (3, 8))
    assert not np.array_equal(other.tokens, drawn.tokens)


def test_sampled_partition_function_is_unbiased():
    """The mean over draws of the corrected sum equals the sum over the vocabulary."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=V)
    ids = make_batch(7).ids
    shares = np.zeros(V)
    shares[np.unique(ids)] = 1.0 - 1e-9  # these occur for sure
    rows, sums = occurring_rows(ids, V), []
    for number in range(2000):
        drawn = draw_candidates(rows, shares, 40, 40, (0, number))
        sums.append(np.exp(logits[drawn.tokens] - drawn.log_p).sum())
    assert np.mean(sums) == pytest.approx(np.exp(logits).sum(), rel=0.01)


def test_whole_softmax_keeps_ids_and_lowers_nothing():
    tokens = mx.array([4, 9])
    rows = TokenRows(None, None, mx.zeros(V, mx.int32))
    targets, lowered = candidate_softmax(rows, tokens)
    assert targets is tokens and lowered is None


@pytest.mark.parametrize("tied", [False, True])
def test_all_rows_as_candidates_equal_the_full_softmax(tied):
    """With every token a candidate, log_p is 0 and the loss is the whole softmax."""
    full = make_stepper(make_config({"decoder.tied": tied}))
    changes = {"decoder.tied": tied, "token_rows.candidates": V}
    sampled = make_stepper(make_config(changes))
    batch = make_batch(6)
    for _ in range(2):
        a = step(full, B, batch)
        b = step(sampled, B, batch)
        assert b["loss"] == pytest.approx(a["loss"], rel=2e-4)


def test_sampled_softmax_lowers_the_full_loss():
    stepper = make_stepper(make_config({"token_rows.candidates": 32}))
    full = make_stepper(make_config())
    batch = make_batch(6)
    before = step(full, B, batch, lr=0.0)["loss"]
    for _ in range(20):
        step(stepper, B, batch)
    full.restore(full.state._replace(parameters=stepper.state.parameters))
    assert step(full, B, batch, lr=0.0)["loss"] < 0.7 * before


def test_row_update_equals_dense_adamw_on_the_touched_rows():
    mx.random.seed(1)
    table = mx.random.normal((10, 4))
    tokens, occurs = mx.array([2, 5, 7, 9]), mx.array([1.0, 1.0, 1.0, 0.0])
    rows = TokenRows(tokens, occurs, None)
    rates = Rates(mx.array(1.0), mx.array(0.01), mx.array(True))
    gradient = mx.random.normal((4, 4))
    state = Adamw(table, **init_moments("table", table, OptimizerConfig()))
    new = step_rows(state, gradient, rows, rates, CONFIG, only_occurring=True)
    dense = mx.zeros((10, 4)).at[tokens[:3]].add(gradient[:3])
    expected = adamw(state, dense, rates, constants(CONFIG))
    np.testing.assert_allclose(new.p, expected.p, atol=1e-6)
    untouched = [0, 1, 3, 4, 6, 8, 9]
    assert np.array_equal(np.array(new.p)[untouched], np.array(table)[untouched])
    assert np.all(np.array(new.v)[untouched] == 0)
    every = step_rows(state, gradient, rows, rates, CONFIG, only_occurring=False)
    assert not np.array_equal(np.array(every.p)[9], np.array(table)[9])


def test_shares_are_those_of_the_training_text():
    shares = token_shares([np.array([1, 1, 2]), np.array([4])], 6)
    np.testing.assert_allclose(shares, [0, 0.5, 0.25, 0, 0.25, 0])


def test_candidate_logits_are_lowered_by_their_chance_of_being_drawn():
    log_p = mx.array([0.0, -1.0, -2.5])
    rows = TokenRows(
        mx.array([4, 2, 9]),
        mx.array([1.0, 1.0, 0.0]),
        mx.array([0, 0, 1, 0, 0]),
        log_p,
    )
    targets, lowered = candidate_softmax(rows, mx.array([4, 2]))
    assert lowered is log_p
    assert targets.tolist() == [0, 1]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("candidates", [0, 40])
@pytest.mark.parametrize("objective", [A, B])
def test_an_update_of_whole_tables_is_that_of_gathered_rows(
    objective, candidates, tied, monkeypatch
):
    """The same tokens move, by the same amount, whichever way is faster."""
    found = []
    for pays in (True, False):
        for module in (feed, token_rows):
            monkeypatch.setattr(module, "gathering_pays", lambda *_, pays=pays: pays)
        # A CPU steps gathered rows where they lie; a GPU passes over the table.
        monkeypatch.setattr(token_rows, "on_gpu", lambda pays=pays: not pays)
        changes = {"token_rows.candidates": candidates, "decoder.tied": tied}
        stepper = make_stepper(make_config(changes))
        for seed in range(3):
            step(stepper, objective, make_batch(seed))
        found.append(weights(stepper))
    for path in found[0]:
        np.testing.assert_allclose(found[1][path], found[0][path], atol=1e-6)


def test_rows_are_gathered_where_few_tokens_meet_a_large_table(monkeypatch):
    monkeypatch.setattr(token_rows, "on_gpu", lambda: False)
    assert gathering_pays(100, 200) and not gathering_pays(101, 200)
    monkeypatch.setattr(token_rows, "on_gpu", lambda: True)
    assert gathering_pays(100, 1600) and not gathering_pays(101, 1600)


def test_every_update_draws_its_own_candidates():
    config, batch = make_config({"token_rows.candidates": 40}), make_batch(1)
    feed = make_feed(config)
    one, again, two = (feed.rows_of(batch, n).tokens for n in (3, 3, 4))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, two)
    assert make_feed(make_config()).rows_of(batch, 3).log_p is None
