"""Updates on a small model: equality, sharing, subsets, lazy rows, formats."""

import mlx.core as mx
import numpy as np
import pytest

from energyflow_mlx.build.model import build_model, parts_of
from energyflow_mlx.config import Config
from energyflow_mlx.data.batching import BucketBatcher
from energyflow_mlx.training.alternation import DISTILLATION, RECONSTRUCTION
from energyflow_mlx.training.feed import Feed, candidate_rows
from energyflow_mlx.training.objectives import Controls
from energyflow_mlx.training.update import Stepper, add_gradients

V, E, B, L = 50, 12, 6, 8


def make_config(**changes):
    config = Config()
    for part in (config.encoder, config.decoder):
        part.dim, part.hidden = 16, 24
    config.optimizer.weight_decay = 0.01
    for key, value in changes.items():
        target, names = config, key.split("__")
        for name in names[:-1]:
            target = getattr(target, name)
        setattr(target, names[-1], value)
    return config


def make_stepper(config=None):
    config = config or make_config()
    model = build_model(config, parts_of(config), V, E)
    model.train()
    return Stepper(model, config)


def as_batch(ids, mask, target):
    targets = np.asarray(target, np.float32)
    rows = [row[m > 0] for row, m in zip(ids, mask, strict=True)]
    batcher = BucketBatcher(
        rows, targets, vocab_size=V, batch_size=len(rows), buckets=(L,), seed=0
    )
    return batcher.batch(L, np.arange(len(rows)))


def make_batch(seed=0, size=B):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, L + 1, size)
    mask = (np.arange(L) < lengths[:, None]).astype(np.float32)
    ids = (rng.integers(1, V, (size, L)) * mask).astype(np.int32)
    target = rng.normal(size=(size, E)).astype(np.float32)
    return as_batch(ids, mask, target / np.linalg.norm(target, axis=1, keepdims=True))


def make_controls(seed):
    return Controls(mx.random.key(seed), mx.array(1.0), mx.array(0.0))


def to_update(batch, accumulate, stepper, number=0):
    feed = Feed(
        None,
        accumulate=accumulate,
        lazy=stepper.lazy,
        candidates=stepper.config.loss.candidates,
        shares=np.full(V, 1 / V),
        seed=0,
    )
    return feed.update(batch, number)


def step(stepper, objective, batch, lr=1e-2, seed=0):
    update = to_update(batch, 1, stepper)
    controls = make_controls(seed)
    report = stepper.update(objective, update.batches[0], update.rows, lr, controls)
    mx.eval(report, stepper.state.arrays())
    return {name: value.item() for name, value in report.items()}


def numpy_state(stepper):
    return {k: np.array(v) for k, v in stepper.state.parameters.items()}


@pytest.mark.parametrize("objective", [DISTILLATION, RECONSTRUCTION])
@pytest.mark.parametrize("seed", range(5))
def test_t18_loss_after_the_update_is_lower(objective, seed):
    """The loss is measured again after the update, on several fixed seeds."""
    stepper = make_stepper(make_config(seed=seed))
    batch = make_batch(seed)
    before = step(stepper, objective, batch)["loss"]
    for _ in range(3):
        after = step(stepper, objective, batch)["loss"]
    assert after < before


@pytest.mark.parametrize("objective", [DISTILLATION, RECONSTRUCTION])
@pytest.mark.parametrize("lazy", [True, False])
def test_t8_micro_batches_equal_one_big_batch(objective, lazy):
    whole = make_stepper(make_config(optimizer__lazy_rows=lazy))
    parts = make_stepper(make_config(optimizer__lazy_rows=lazy))
    batch = make_batch(3)
    update = to_update(batch, 1, whole)
    controls = make_controls(0)
    whole.update(objective, update.batches[0], update.rows, 1e-2, controls)
    split = to_update(batch, 3, parts)
    total = None
    for micro in split.batches:
        total = add_gradients(
            total, parts.micro_gradients(objective, micro, split.rows, controls)
        )
    parts.apply(total, split.rows, 1e-2)
    one, three = numpy_state(whole), numpy_state(parts)
    for path in one:
        np.testing.assert_allclose(three[path], one[path], atol=2e-5, err_msg=path)


def test_lazy_rows_equal_the_dense_first_update():
    """In the first update the untouched rows would not move with dense AdamW either."""
    lazy = make_stepper(make_config(optimizer__lazy_rows=True))
    dense = make_stepper(make_config(optimizer__lazy_rows=False))
    assert lazy.lazy and not dense.lazy
    step(lazy, DISTILLATION, make_batch(1))
    step(dense, DISTILLATION, make_batch(1))
    one, two = numpy_state(lazy), numpy_state(dense)
    for path in one:
        np.testing.assert_allclose(one[path], two[path], atol=1e-5, err_msg=path)


def test_lazy_rows_leave_untouched_rows_and_their_moments_alone():
    stepper = make_stepper()
    batch = make_batch(1)
    before = numpy_state(stepper)["encoder.embedding.weight"]
    for _ in range(3):
        step(stepper, DISTILLATION, batch)
    after = numpy_state(stepper)["encoder.embedding.weight"]
    moved = np.flatnonzero(np.any(after != before, axis=1))
    assert set(moved) <= set(np.unique(batch.ids))
    assert len(moved) > 5


def test_t7_shared_block_has_one_parameter_and_one_state():
    stepper = make_stepper()
    paths = [p for p in stepper.state.parameters if "shared" in p]
    assert paths and not any(
        p.startswith(("encoder.blocks.1", "decoder.blocks.1"))
        for p in stepper.state.parameters
    )
    step(stepper, DISTILLATION, make_batch(1))
    once = stepper.state.moments["shared.0.conv1.weight"]["t"].item()
    step(stepper, RECONSTRUCTION, make_batch(2))
    twice = stepper.state.moments["shared.0.conv1.weight"]["t"].item()
    assert (once, twice) == (1.0, 2.0)
    assert stepper.state.moments["encoder.head.weight"]["t"].item() == 1.0


def test_an_objective_does_not_move_the_other_part():
    stepper = make_stepper()
    before = numpy_state(stepper)
    step(stepper, DISTILLATION, make_batch(1))
    after = numpy_state(stepper)
    for path in before:
        moved = not np.array_equal(before[path], after[path])
        if path.startswith("decoder"):
            assert not moved, path
    assert not np.array_equal(
        before["shared.0.conv1.weight"], after["shared.0.conv1.weight"]
    )


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        ("projection", {"encoder.head.", "decoder.output."}),
        ("last_block", {"encoder.head.", "decoder.output.", "shared.0."}),
    ],
)
def test_trainable_subset_is_exact(subset, expected):
    stepper = make_stepper(make_config(trainer__train=subset))
    before = numpy_state(stepper)
    for objective in (DISTILLATION, RECONSTRUCTION):
        step(stepper, objective, make_batch(1))
        step(stepper, objective, make_batch(2))
    after = numpy_state(stepper)
    moved = {p for p in before if not np.array_equal(before[p], after[p])}
    wanted = {p for p in before if p.startswith(tuple(expected))}
    assert moved == wanted
    if subset == "last_block":
        assert len([p for p in moved if p.startswith("shared.0")]) == 6


def test_each_update_is_traced_once_per_shape():
    stepper = make_stepper()
    for seed in range(4):
        step(stepper, DISTILLATION, make_batch(seed))
        step(stepper, RECONSTRUCTION, make_batch(seed))
    assert stepper.traces == {"distillation update": 1, "reconstruction update": 1}


def test_compiled_and_plain_updates_agree():
    compiled = make_stepper()
    plain = make_stepper(make_config(trainer__compile=False))
    for seed in range(3):
        a = step(compiled, RECONSTRUCTION, make_batch(seed))
        b = step(plain, RECONSTRUCTION, make_batch(seed))
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_bfloat16_follows_float32_and_keeps_float32_master_weights():
    exact = make_stepper()
    half = make_stepper(make_config(precision__dtype="bfloat16"))
    for seed in range(5):
        a = step(exact, RECONSTRUCTION, make_batch(seed % 2))
        b = step(half, RECONSTRUCTION, make_batch(seed % 2))
        assert b["loss"] == pytest.approx(a["loss"], rel=0.03)
    assert {v.dtype for v in half.state.parameters.values()} == {mx.float32}


def test_t8_float16_overflow_halves_the_scale_and_skips_the_update():
    stepper = make_stepper(make_config(precision__dtype="float16"))
    step(stepper, DISTILLATION, make_batch(1))
    scale = stepper.state.loss_scale.scale.item()
    before = numpy_state(stepper)
    bad = make_batch(2)
    bad = bad._replace(target=bad.target * np.float32(1e30))
    step(stepper, DISTILLATION, bad)
    assert stepper.state.loss_scale.scale.item() == scale / 2
    after = numpy_state(stepper)
    assert all(np.array_equal(before[p], after[p]) for p in before)
    step(stepper, DISTILLATION, make_batch(3))
    assert not np.array_equal(
        before["encoder.head.weight"], numpy_state(stepper)["encoder.head.weight"]
    )


def test_float16_scale_doubles_after_the_interval():
    config = make_config(precision__dtype="float16", precision__scale_interval=3)
    stepper = make_stepper(config)
    start = stepper.state.loss_scale.scale.item()
    for seed in range(3):
        step(stepper, DISTILLATION, make_batch(seed))
    assert stepper.state.loss_scale.scale.item() == 2 * start


def test_t1_t2_loss_ignores_padding_and_the_row_end():
    """Ids under the padding and the id after the last token change nothing."""
    batch = make_batch(4)
    changed = batch._replace(
        ids=np.where(batch.mask > 0, batch.ids, 17).astype(np.int32)
    )
    config = make_config(optimizer__lazy_rows=False)
    a = step(make_stepper(config), RECONSTRUCTION, batch)
    b = step(make_stepper(config), RECONSTRUCTION, changed)
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)


@pytest.mark.parametrize("share", ["none", "last", "all"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_sharing_and_tying_trains(share, tied):
    config = make_config(share=share, decoder__tied=tied)
    stepper = make_stepper(config)
    batch = make_batch(5)
    first = step(stepper, RECONSTRUCTION, batch)["loss"]
    step(stepper, DISTILLATION, batch)
    for _ in range(3):
        last = step(stepper, RECONSTRUCTION, batch)["loss"]
    assert last < first


def test_state_survives_the_checkpoint_form():
    stepper = make_stepper()
    step(stepper, DISTILLATION, make_batch(1))
    state = type(stepper.state).from_arrays(stepper.state.arrays())
    assert state.arrays().keys() == stepper.state.arrays().keys()
    assert state.moments.keys() == stepper.state.moments.keys()


@pytest.mark.parametrize("tied", [False, True])
def test_all_rows_as_candidates_equal_the_full_softmax(tied):
    """With every token a candidate, log_p is 0 and the loss is the whole softmax."""
    full = make_stepper(make_config(decoder__tied=tied))
    sampled = make_stepper(make_config(decoder__tied=tied, loss__candidates=V))
    batch = make_batch(6)
    for _ in range(2):
        a = step(full, RECONSTRUCTION, batch)
        b = step(sampled, RECONSTRUCTION, batch)
        assert b["loss"] == pytest.approx(a["loss"], rel=2e-4)


def test_sampled_softmax_lowers_the_full_loss():
    config = make_config(loss__candidates=32)
    stepper = make_stepper(config)
    full = make_stepper(make_config())
    batch = make_batch(6)
    before = step(full, RECONSTRUCTION, batch, lr=0.0)["loss"]
    for _ in range(20):
        step(stepper, RECONSTRUCTION, batch)
    full.restore(
        type(full.state)(
            stepper.state.parameters, full.state.moments, full.state.loss_scale
        )
    )
    assert step(full, RECONSTRUCTION, batch, lr=0.0)["loss"] < 0.7 * before


def test_sampled_partition_function_is_unbiased():
    """The mean over draws of the corrected sum equals the sum over the vocabulary."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=V)
    batch = make_batch(7)
    shares = np.zeros(V)
    shares[np.unique(batch.ids)] = 1.0 - 1e-9  # these occur for sure
    sums = []
    for number in range(2000):
        new, log_p = candidate_rows(batch, shares, 40, 0, number)
        sums.append(np.exp(logits[new.rows] - log_p).sum())
    assert np.mean(sums) == pytest.approx(np.exp(logits).sum(), rel=0.01)
