"""Cycle consistency: what the term is, what its gradient reaches, what it needs."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.run import run
from energyflow_mlx.config import (
    DistillationConfig,
    ReconstructionConfig,
    TransformerEncoderConfig,
)
from energyflow_mlx.errors import InputError
from energyflow_mlx.model import flat_parameters, install_parameters
from energyflow_mlx.nn.losses import unit_rows
from energyflow_mlx.training.feed import on_device as on_devices
from energyflow_mlx.training.objectives.cycle import cycle_cosine
from energyflow_mlx.training.objectives.reconstruction import target_features
from tests.training.small import (
    V,
    gradients,
    make_batch,
    make_config,
    make_feed,
    make_stepper,
    objectives,
    on_device,
    set_key,
)

B = "reconstruction"
KEY = mx.random.key(3)


def settings(changes=None, *, family="tcn", cycle=0.5, share="none"):
    """Both objectives, the second with the term."""
    chosen = objectives(
        distillation=DistillationConfig(),
        reconstruction=ReconstructionConfig(cycle=cycle),
    )
    config = make_config(objectives=chosen, share=share)
    if family == "transformer":
        config.encoder = TransformerEncoderConfig(
            family=family, dim=16, hidden=24, heads=2, dropout=0.0
        )
    for key, value in (changes or {}).items():
        set_key(config, key, value)
    config.__post_init__()
    return config


def spread(stepper, seed=0):
    """Larger tokens and logits than at the start, so that every difference shows."""
    mx.random.seed(seed)
    model = stepper.model
    for path in ("encoder.embedding.weight", "decoder.output.weight"):
        array = flat_parameters(model)[path]
        install_parameters(model, {path: mx.random.normal(array.shape)})
    state = stepper.state._replace(parameters=flat_parameters(model))
    stepper.restore(state)
    return stepper


def by_hand(writer, reader, batch, lowered=0.0):
    """Sum over the targets of the cosine of their sentence, the slow way.

    The soft rows are put in the reader's table, and read by their numbers.
    """
    ids, mask = batch.ids, batch.mask
    logits = np.array(writer.decoder(*_inputs(writer, batch)), np.float64) - lowered
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    table = np.array(reader.encoder.embedding.weight)
    rows = np.concatenate([table[np.array(ids[:, :1])], p @ table], axis=1)  # [B, L, R]
    true = np.array(reader.encode(ids, mask))
    reader.encoder.embedding.weight = mx.array(
        rows.reshape(-1, rows.shape[-1]).astype(np.float32)
    )
    found = reader.encode(mx.arange(ids.size).reshape(ids.shape), mask)
    reader.encoder.embedding.weight = mx.array(table)
    found = np.array(found)
    cos = (found * true).sum(1) / np.linalg.norm(found, axis=1)
    cos /= np.linalg.norm(true, axis=1)
    return float((np.array(mask[:, 1:]).sum(axis=1) * cos).sum())


def _inputs(model, batch):
    ids, mask = batch.ids[:, :-1], batch.mask[:, :-1]
    return ids, mask, batch.target, model.shared


def outcome_of(stepper, batch):
    return stepper.objectives[1].loss(stepper.model, batch, KEY)


@pytest.mark.parametrize("family", ["tcn", "transformer"])
def test_the_term_is_one_minus_the_cosine_of_what_is_read_for_every_target(family):
    stepper = spread(make_stepper(settings(family=family)))
    batch = on_device(make_batch(0))
    outcome = outcome_of(stepper, batch)
    total = by_hand(stepper.model, stepper.model, batch)
    count, ce = outcome.count.item(), outcome.metrics["ce"].item()
    assert -0.9 < total / count < 0.9
    assert outcome.metrics["cycle_cosine"].item() == pytest.approx(total, rel=1e-4)
    expected = ce + 0.5 * (count - total)
    assert outcome.loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("share", ["none", "last"])
def test_its_gradient_is_that_of_finite_differences_with_the_reader_held_fixed(share):
    """Along a random direction of all that the decoder has, shared blocks included."""
    stepper = spread(make_stepper(settings(share=share)))
    reader = spread(make_stepper(settings(share=share))).model
    model, batch = stepper.model, on_device(make_batch(1))
    start = flat_parameters(model)
    moved = {k: v for k, v in start.items() if k.startswith(("decoder", "shared"))}
    direction = {k: mx.random.normal(v.shape) for k, v in moved.items()}

    def loss(parameters):
        install_parameters(model, parameters)
        h = target_features(model, batch, batch.target, KEY)
        tokens = mx.sum(batch.mask[:, 1:], axis=1)
        return mx.sum(tokens * cycle_cosine(model, batch, h, KEY))

    gradient = mx.grad(loss)(moved)
    along = sum(mx.sum(gradient[k] * d).item() for k, d in direction.items())

    def at(step):
        install_parameters(
            model, {k: v + step * direction[k] for k, v in moved.items()}
        )
        return by_hand(model, reader, batch)

    step = 2e-3
    difference = (at(step) - at(-step)) / (2 * step)
    assert abs(along) > 0.1
    assert along == pytest.approx(difference, rel=0.02)


@pytest.mark.parametrize("family", ["tcn", "transformer"])
def test_the_encoder_gets_no_gradient_and_the_decoder_does(family):
    stepper = spread(make_stepper(settings(family=family)))
    model, batch = stepper.model, on_device(make_batch(2))

    def loss(parameters):
        install_parameters(model, parameters)
        h = target_features(model, batch, batch.target, KEY)
        return mx.sum(cycle_cosine(model, batch, h, KEY))

    found = mx.grad(loss)(flat_parameters(model))
    largest = {path: mx.max(mx.abs(g)).item() for path, g in found.items()}
    read = {path for path in largest if path.startswith("encoder")}
    assert read and all(largest[path] == 0 for path in read)
    assert largest["decoder.output.weight"] > 0 and largest["decoder.norm.weight"] > 0


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_text_written_with_certainty_is_read_as_the_sentence_itself(rate):
    """With dropout too: both are read with one pattern of it."""
    changes = {"encoder.token_dropout": rate, "encoder.dropout": rate}
    model = spread(make_stepper(settings(changes))).model
    batch = on_device(make_batch(3))
    weight = unit_rows(mx.random.normal(model.decoder.output.weight.shape))
    model.decoder.output.weight = weight
    h = 1e3 * weight[batch.targets.token]
    found = cycle_cosine(model, batch, h, KEY)
    np.testing.assert_allclose(np.array(found), 1.0, atol=1e-5)
    wrong = 1e3 * weight[(batch.targets.token + 1) % V]
    assert mx.max(cycle_cosine(model, batch, wrong, KEY)).item() < 0.99


def test_without_it_the_cross_entropy_has_the_same_bits_and_nothing_else_is_there():
    changes = {"decoder.dropout": 0.3, "encoder.dropout": 0.3}
    changes["objectives.reconstruction.latent_noise"] = 0.2
    batch = on_device(make_batch(4))
    off, on = (
        outcome_of(make_stepper(settings(changes, cycle=cycle)), batch)
        for cycle in (0.0, 1.0)
    )
    assert off.metrics.keys() == {"ce"}
    assert off.loss.item() == off.metrics["ce"].item() == on.metrics["ce"].item()
    chosen = objectives(reconstruction=ReconstructionConfig())
    config = make_config({"trainer.best_metric": "ce"}, objectives=chosen, share="none")
    assert "encoder" not in make_stepper(config).model


@pytest.mark.parametrize(
    "changes",
    [
        {"token_rows.lazy": False},
        {"token_rows.candidates": V},
        {"token_rows.candidates": V, "token_rows.lazy": False},
        {"token_rows.candidates": V, "trainer.train": "last_block"},
    ],
    ids=["every row", "all are candidates", "the encoder's whole", "of a fixed table"],
)
def test_whatever_rows_an_update_holds_the_term_is_the_same(changes):
    whole = gradients(spread(make_stepper(settings())), B, make_batch(5))
    found = gradients(spread(make_stepper(settings(changes))), B, make_batch(5))
    expected = whole.metrics["cycle_cosine"].item()
    assert found.metrics["cycle_cosine"].item() == pytest.approx(expected, rel=1e-4)


def test_candidates_estimate_the_whole_distribution():
    """Their chance to be drawn is divided out; a token that is none has no part."""
    config = settings({"token_rows.candidates": 40})
    stepper = spread(make_stepper(config))
    feed = make_feed(config)
    feed._shares = np.random.default_rng(0).dirichlet(np.full(V, 0.5))
    batch = make_batch(5)
    (micro,) = on_devices(feed.micro_batches(batch, feed.rows_of(batch, 0)))
    lowered = np.full(V, np.inf)
    lowered[np.array(micro.rows.tokens)] = np.array(micro.rows.log_p)
    assert np.ptp(lowered[np.isfinite(lowered)]) > 0.4
    total = by_hand(stepper.model, stepper.model, micro, lowered)
    found = stepper.micro_gradients(B, micro, KEY).metrics["cycle_cosine"]
    assert found.item() == pytest.approx(total, rel=1e-4)


def test_updates_hold_every_row_where_all_tokens_may_be_written():
    ids = make_batch(6, size=2)
    for cycle, is_whole in ((0.0, False), (0.5, True)):
        rows = make_feed(settings(cycle=cycle)).rows_of(ids, 0)
        assert (rows.tokens is None) == is_whole
    config = settings({"token_rows.candidates": 40})
    assert len(make_feed(config).rows_of(ids, 0).tokens) == 40


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_formats_give_the_same_term_and_finite_gradients(dtype):
    expected = gradients(spread(make_stepper(settings())), B, make_batch(7))
    stepper = spread(make_stepper(settings({"precision.dtype": dtype})))
    found = gradients(stepper, B, make_batch(7))
    wide = expected.metrics["cycle_cosine"].item()
    assert found.metrics["cycle_cosine"].item() == pytest.approx(wide, abs=0.5)
    assert all(mx.all(mx.isfinite(g)).item() for g in found.gradients.values())


def test_micro_batches_add_up_to_their_batch():
    stepper = spread(make_stepper(settings()))
    batch = make_batch(8)
    whole = gradients(stepper, B, batch)
    halves = [
        gradients(stepper, B, type(batch)(*(a[i::2] for a in batch))) for i in (0, 1)
    ]
    total = sum(half.metrics["cycle_cosine"].item() for half in halves)
    expected = whole.metrics["cycle_cosine"].item()
    assert total == pytest.approx(expected, rel=1e-4)


def test_a_run_that_trains_no_encoder_is_refused(tmp_path):
    chosen = objectives(reconstruction=ReconstructionConfig(cycle=0.3))
    config = make_config({"trainer.best_metric": "ce"}, objectives=chosen, share="none")
    config.run.dir = str(tmp_path / "run")
    said = r"\[config\] objectives.reconstruction.cycle must be 0, because .* got 0.3"
    with pytest.raises(InputError, match=said):
        run(config)
    assert not (tmp_path / "run").exists()
