"""Updates on a small model: equality, sharing, subsets, token rows, formats."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.config import DistillationConfig
from energyflow_mlx.training.state import add_gradients
from tests.training.small import (
    gradients,
    make_batch,
    make_config,
    make_stepper,
    objectives,
    step,
    to_update,
    weights,
)

A, B = "distillation", "reconstruction"


@pytest.mark.parametrize("objective", [A, B])
@pytest.mark.parametrize("seed", range(5))
def test_loss_after_the_update_is_lower(objective, seed):
    """The loss is measured again after the update, on several fixed seeds."""
    stepper = make_stepper(make_config(seed=seed))
    batch = make_batch(seed)
    before = step(stepper, objective, batch)["loss"]
    for _ in range(3):
        after = step(stepper, objective, batch)["loss"]
    assert after < before


@pytest.mark.parametrize("objective", [A, B])
@pytest.mark.parametrize("seed", range(5))
def test_one_update_of_the_last_block_lowers_the_loss(objective, seed):
    stepper = make_stepper(make_config({"trainer.train": "last_block"}, seed=seed))
    batch = make_batch(seed)
    before = step(stepper, objective, batch)["loss"]
    assert step(stepper, objective, batch, lr=0.0)["loss"] < before


@pytest.mark.parametrize("objective", [A, B])
@pytest.mark.parametrize("lazy", [True, False])
def test_micro_batches_equal_one_big_batch(objective, lazy):
    changes = {"token_rows.lazy": lazy}
    whole, batch = make_stepper(make_config(changes)), make_batch(3)
    step(whole, objective, batch)
    parts = make_stepper(make_config(changes | {"trainer.accumulate": 3}))
    total, update = None, to_update(batch, parts.config)
    assert len(update) == 3
    for micro in update:
        new = parts.micro_gradients(objective, micro, mx.random.key(0))
        total = add_gradients(total, new)
    parts.apply(total, update[0].rows, 1e-2, {})
    one, three = weights(whole), weights(parts)
    for path in one:
        np.testing.assert_allclose(three[path], one[path], atol=2e-5, err_msg=path)


def test_gathered_rows_equal_the_dense_first_update():
    """In the first update the untouched rows would not move with dense AdamW either."""
    lazy = make_stepper(make_config({"token_rows.lazy": True}))
    dense = make_stepper(make_config({"token_rows.lazy": False}))
    assert lazy.gathered and not dense.gathered
    step(lazy, A, make_batch(1))
    step(dense, A, make_batch(1))
    one, two = weights(lazy), weights(dense)
    for path in one:
        np.testing.assert_allclose(one[path], two[path], atol=1e-5, err_msg=path)


def test_gathered_rows_leave_untouched_rows_and_their_moments_alone():
    stepper = make_stepper()
    batch = make_batch(1)
    before = weights(stepper)["encoder.embedding.weight"]
    for _ in range(3):
        step(stepper, A, batch)
    after = weights(stepper)["encoder.embedding.weight"]
    moved = np.flatnonzero(np.any(after != before, axis=1))
    assert set(moved) <= set(np.unique(batch.ids))
    assert len(moved) > 5


def moved_rows(before, after, path):
    change = before[path] != after[path]
    return set(np.flatnonzero(change.reshape(len(change), -1).any(axis=1)))


def test_drawn_negatives_move_output_rows_and_never_input_rows():
    stepper = make_stepper(make_config({"token_rows.candidates": 10_000}))
    # These rows have moments, and are drawn negatives of the second update.
    step(stepper, B, make_batch(1))
    before, batch = weights(stepper), make_batch(2)
    occurring = set(np.unique(batch.ids))
    drawn_again = set(np.unique(make_batch(1).ids)) - occurring
    step(stepper, B, batch)
    after = weights(stepper)
    assert drawn_again
    assert moved_rows(before, after, "decoder.embedding.weight") <= occurring
    assert drawn_again <= moved_rows(before, after, "decoder.output.weight")


def test_as_many_output_rows_move_as_there_are_candidates():
    batch = make_batch(1)
    count = len(np.unique(batch.ids)) + 7
    stepper = make_stepper(make_config({"token_rows.candidates": count}))
    before = weights(stepper)
    step(stepper, B, batch)
    moved = moved_rows(before, weights(stepper), "decoder.output.weight")
    assert len(moved) == count


def test_shared_block_has_one_parameter_and_one_state():
    stepper = make_stepper()
    paths = [p for p in stepper.state.parameters if "shared" in p]
    assert paths and not any(
        p.startswith(("encoder.blocks.1", "decoder.blocks.1"))
        for p in stepper.state.parameters
    )
    step(stepper, A, make_batch(1))
    once = stepper.state.moments["shared.0.conv1.weight"]["t"].item()
    step(stepper, B, make_batch(2))
    twice = stepper.state.moments["shared.0.conv1.weight"]["t"].item()
    assert (once, twice) == (1.0, 2.0)
    assert stepper.state.moments["encoder.head.weight"]["t"].item() == 1.0


def test_an_objective_does_not_move_the_other_part():
    stepper = make_stepper()
    before = weights(stepper)
    step(stepper, A, make_batch(1))
    after = weights(stepper)
    for path in before:
        moved = not np.array_equal(before[path], after[path])
        if path.startswith("decoder"):
            assert not moved, path
    assert not np.array_equal(
        before["shared.0.conv1.weight"], after["shared.0.conv1.weight"]
    )


@pytest.mark.parametrize(
    ("subset", "share", "expected"),
    [
        ("projection", "last", {"encoder.head.", "decoder.output."}),
        ("last_block", "last", {"encoder.head.", "decoder.output.", "shared.0."}),
        (
            "last_block",
            "none",
            {
                *("encoder.head.", "decoder.output."),
                *("encoder.blocks.1.", "decoder.blocks.1."),
            },
        ),
    ],
)
def test_trainable_subset_is_exact(subset, share, expected):
    stepper = make_stepper(make_config({"trainer.train": subset}, share=share))
    before = weights(stepper)
    for objective in (A, B):
        step(stepper, objective, make_batch(1))
        step(stepper, objective, make_batch(2))
    after = weights(stepper)
    moved = {p for p in before if not np.array_equal(before[p], after[p])}
    wanted = {p for p in before if p.startswith(tuple(expected))}
    assert moved == wanted
    if (subset, share) == ("last_block", "last"):
        assert len([p for p in moved if p.startswith("shared.0")]) == 6


def test_each_update_is_traced_once_per_shape():
    stepper = make_stepper()
    for seed in range(4):
        step(stepper, A, make_batch(seed))
        step(stepper, B, make_batch(seed))
    assert stepper.traces == {f"{A} update": 1, f"{B} update": 1}


def test_compiled_and_plain_updates_agree():
    compiled = make_stepper()
    plain = make_stepper(make_config({"trainer.compile": False}))
    for seed in range(3):
        a = step(compiled, B, make_batch(seed))
        b = step(plain, B, make_batch(seed))
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_an_update_is_clipped_to_the_norm_of_the_configuration():
    """With AdamW's bias correction the first step hides the size of a gradient."""
    moments = {}
    for bound in (0.0, 0.01):
        stepper = make_stepper(make_config({"optimizer.clip_norm": bound}))
        report = step(stepper, A, make_batch(1))
        assert report["grad_norm"] > 0.02
        squares = [mx.sum(m["m"] ** 2).item() for m in stepper.state.moments.values()]
        moments[bound] = sum(squares) ** 0.5 / 0.1  # m = (1 - b1) g
    assert moments[0.01] == pytest.approx(0.01, rel=1e-3)
    assert moments[0.0] == pytest.approx(report["grad_norm"], rel=1e-3)


def test_weight_decay_reaches_matrices_and_spares_tables():
    before = weights(make_stepper())
    changed = {}
    for decay in (0.0, 0.5):
        stepper = make_stepper(make_config({"optimizer.weight_decay": decay}))
        step(stepper, A, make_batch(1), lr=0.1)
        changed[decay] = weights(stepper)
    head, table = "encoder.head.weight", "encoder.embedding.weight"
    shrunk = changed[0.0][head] - 0.1 * 0.5 * before[head]
    np.testing.assert_allclose(changed[0.5][head], shrunk, atol=1e-6)
    np.testing.assert_array_equal(changed[0.5][table], changed[0.0][table])


def test_bfloat16_follows_float32_and_keeps_float32_master_weights():
    exact = make_stepper()
    half = make_stepper(make_config({"precision.dtype": "bfloat16"}))
    for seed in range(5):
        a = step(exact, B, make_batch(seed % 2))
        b = step(half, B, make_batch(seed % 2))
        assert b["loss"] == pytest.approx(a["loss"], rel=0.03)
        assert b["loss"] != a["loss"]
    assert {v.dtype for v in half.state.parameters.values()} == {mx.float32}


def test_float16_gradients_are_divided_by_the_loss_scale():
    exact = make_stepper()
    half = make_stepper(make_config({"precision.dtype": "float16"}))
    assert half.state.loss_scale.scale.item() > 100
    a, b = step(exact, A, make_batch(1)), step(half, A, make_batch(1))
    assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=0.02)
    raw = gradients(half, A, make_batch(1)).gradients["encoder.head.bias"]
    plain = gradients(exact, A, make_batch(1)).gradients["encoder.head.bias"]
    ratio = mx.linalg.norm(raw).item() / mx.linalg.norm(plain).item()
    assert ratio == pytest.approx(half.state.loss_scale.scale.item(), rel=0.1)


def test_float16_overflow_halves_the_scale_and_skips_the_update():
    stepper = make_stepper(make_config({"precision.dtype": "float16"}))
    step(stepper, A, make_batch(1))
    scale = stepper.state.loss_scale.scale.item()
    before = weights(stepper)
    bad = make_batch(2)
    bad = bad._replace(target=bad.target * np.float32(1e30))
    step(stepper, A, bad)
    assert stepper.state.loss_scale.scale.item() == scale / 2
    after = weights(stepper)
    assert all(np.array_equal(before[p], after[p]) for p in before)
    step(stepper, A, make_batch(3))
    head = "encoder.head.weight"
    assert not np.array_equal(before[head], weights(stepper)[head])


def test_float16_scale_doubles_after_the_interval():
    changes = {"precision.dtype": "float16", "precision.scale_interval": 3}
    stepper = make_stepper(make_config(changes))
    start = stepper.state.loss_scale.scale.item()
    for seed in range(3):
        step(stepper, A, make_batch(seed))
    assert stepper.state.loss_scale.scale.item() == 2 * start


@pytest.mark.parametrize("lazy", [True, False])
def test_loss_ignores_padding_and_the_row_end(lazy):
    """Ids under the padding and the id after the last token change nothing."""
    batch = make_batch(4)
    ids = np.where(batch.mask > 0, batch.ids, 17).astype(np.int32)
    config = make_config({"token_rows.lazy": lazy})
    a = step(make_stepper(config), B, batch)
    b = step(make_stepper(config), B, batch._replace(ids=ids))
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)


@pytest.mark.parametrize("share", ["none", "last", "all"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("candidates", [0, 40])
def test_every_sharing_and_tying_trains(share, tied, candidates):
    changes = {"decoder.tied": tied, "token_rows.candidates": candidates}
    stepper = make_stepper(make_config(changes, share=share))
    batch = make_batch(5)
    first = step(stepper, B, batch)["loss"]
    step(stepper, A, batch)
    for _ in range(3):
        last = step(stepper, B, batch)["loss"]
    assert last < first


def test_a_tied_table_is_gathered_for_candidates_even_without_lazy_rows():
    changes = {
        **{"decoder.tied": True, "token_rows.candidates": 40},
        "token_rows.lazy": False,
    }
    stepper = make_stepper(make_config(changes))
    assert stepper.gathered == {"decoder.embedding.weight", "decoder.output_bias"}
    assert np.isfinite(step(stepper, B, make_batch(5))["loss"])


def test_state_survives_the_checkpoint_form():
    stepper = make_stepper()
    step(stepper, A, make_batch(1))
    state = type(stepper.state).from_arrays(stepper.state.arrays())
    assert state.arrays().keys() == stepper.state.arrays().keys()
    assert state.moments.keys() == stepper.state.moments.keys()


def test_only_the_parts_of_the_objectives_are_built_and_stepped():
    config = make_config(
        objectives=objectives(distillation=DistillationConfig()), share="none"
    )
    stepper = make_stepper(config)
    assert {p.partition(".")[0] for p in stepper.state.parameters} == {"encoder"}
    assert stepper.state.moments.keys() == stepper.state.parameters.keys()
