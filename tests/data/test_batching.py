"""Batches are full, cover an epoch once, and any step can rebuild its own."""

import itertools
from collections import Counter

import numpy as np
import pytest

from energyflow_mlx.data.batching import (
    BucketBatcher,
    bucket_of,
    cover,
    lengths_that_pad_least,
    pad_rows,
    target_capacities,
    target_rows,
)
from energyflow_mlx.data.captions.generate import generate_captions

VOCAB = 97
BUCKETS = (8, 16, 32)
END = 3


def sentences(count, seed=0, longest=40):
    """Rows that start with 2, end with 3 and name their own number in the middle."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        middle = rng.integers(4, VOCAB, rng.integers(1, longest - 1))
        rows.append(np.concatenate([[2], middle, [END]]).astype(np.int32))
    targets = np.repeat(np.arange(count, dtype=np.float32)[:, None], 5, axis=1)
    return rows, targets


def batcher(count=103, batch_size=8, buckets=BUCKETS, seed=0):
    return over(*sentences(count), batch_size=batch_size, buckets=buckets, seed=seed)


def over(rows, targets, **changes):
    """Batcher over given sentences, two a batch unless said otherwise."""
    usual = {"vocab_size": VOCAB, "batch_size": 2, "buckets": BUCKETS, "seed": 0}
    return BucketBatcher(rows, targets, **usual | changes)


# Padding and cutting


def test_rows_are_padded_with_0_and_masked():
    ids, mask = pad_rows([np.array([5, 6]), np.array([7])], 3)
    assert ids.tolist() == [[5, 6, 0], [7, 0, 0]]
    assert mask.tolist() == [[1, 1, 0], [1, 0, 0]]
    assert (ids.dtype, mask.dtype) == (np.int32, np.float32)


def test_cutting_keeps_the_end_token():
    """Cutting the end off would lose it, and none would ever be learned."""
    ids, mask = pad_rows([np.array([2, 5, 6, 7, END]), np.array([2, 5, END])], 3)
    assert ids.tolist() == [[2, 5, END], [2, 5, END]]
    assert mask.all()


def test_missing_rows_of_a_batch_are_all_padding():
    ids, mask = pad_rows([np.array([5])], 2, batch_size=3)
    assert ids.tolist() == [[5, 0], [0, 0], [0, 0]]
    assert mask.sum() == 1
    ids, mask = pad_rows([], 4, batch_size=2)
    assert ids.shape == (2, 4) and not mask.any()


@pytest.mark.parametrize(("length", "size"), [(0, 2), (3, 1)])
def test_rows_that_do_not_fit_are_refused(length, size):
    with pytest.raises(ValueError, match=r"rows must fit \[B, L\]"):
        pad_rows([np.array([1]), np.array([2])], length, batch_size=size)


def test_a_length_goes_to_the_shortest_bucket_that_holds_it():
    lengths = np.array([1, 8, 9, 16, 32, 33, 500])
    assert bucket_of(lengths, BUCKETS).tolist() == [0, 0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("size", [1, 7, 500])
def test_covering_gives_every_row_once_in_its_own_bucket(size):
    rows, _ = sentences(103)
    seen = []
    for bucket, members in cover(rows, BUCKETS, size):
        assert 1 <= len(members) <= size
        wanted = BUCKETS[bucket_of(np.array([len(rows[members[0]])]), BUCKETS)[0]]
        assert bucket == wanted
        seen += members.tolist()
    assert sorted(seen) == list(range(103))
    assert list(cover([], BUCKETS, size)) == []


# The plan of an epoch


@pytest.mark.parametrize(("count", "size"), [(103, 8), (64, 8), (9, 9), (50, 7)])
def test_every_sample_comes_once_per_epoch_but_the_dropped_ones(count, size):
    source = batcher(count, size)
    for epoch in range(3):
        plan = source.plan(epoch)
        assert len(plan) == source.batches_per_epoch == count // size
        assert all(indices.shape == (size,) for _, indices in plan)
        seen = np.concatenate([indices for _, indices in plan])
        assert len(set(seen.tolist())) == len(seen) == count - count % size


def test_no_sample_is_left_out_for_good():
    """A rare length must not be what every epoch's remainder consists of."""
    source = batcher(103, 8)
    seen = Counter()
    for epoch in range(40):
        seen.update(i for _, indices in source.plan(epoch) for i in indices.tolist())
    assert len(seen) == 103
    assert min(seen.values()) > 25  # each is left out of 1 epoch in 15


def test_a_lone_long_sentence_is_seen():
    rows = [np.array([2, 5, END])] * 50 + [np.array([2, *[5] * 100, END])]
    source = over(rows, np.zeros((51, 2)), batch_size=8, buckets=(16, 128))
    epochs = [{i for _, x in source.plan(e) for i in x.tolist()} for e in range(10)]
    assert sum(50 in epoch for epoch in epochs) > 5


def test_samples_sit_in_the_shortest_bucket_or_move_up():
    source = batcher(400, 8)
    lengths = np.array([len(row) for row in sentences(400)[0]])
    moved = 0
    for bucket, indices in source.plan(0):
        held = lengths[indices]
        assert bucket == 32 or (held <= bucket).all()
        shorter = {8: 0, 16: 8, 32: 16}[bucket]
        moved += (held <= shorter).sum()
    assert moved < 2 * 8  # fewer than one batch from each of two buckets


def test_every_epoch_is_reshuffled():
    """An order drawn once would give the same batches for ever."""
    source = batcher()
    first, second = source.plan(0), source.plan(1)
    groups = [{frozenset(x.tolist()) for _, x in plan} for plan in (first, second)]
    assert groups[0].isdisjoint(groups[1])


def test_bucket_lengths_come_mixed():
    lengths = [bucket for bucket, _ in batcher(400, 8).plan(0)]
    assert lengths != sorted(lengths) and len(set(lengths)) == 3


def test_the_plan_is_a_pure_function_of_sizes_seed_and_epoch():
    source, same = batcher(), batcher()
    source.plan(0), source.plan(7)
    for a, b in zip(source.plan(3), same.plan(3), strict=True):
        assert a[0] == b[0] and a[1].tolist() == b[1].tolist()
    other = batcher(seed=1).plan(3)
    assert [x.tolist() for _, x in other] != [x.tolist() for _, x in same.plan(3)]


def test_seed_and_epoch_do_not_run_into_each_other():
    plans = [batcher(seed=s).plan(e)[0][1].tolist() for s, e in ((0, 1), (1, 0))]
    assert plans[0] != plans[1]


# Batches


def test_a_batch_holds_the_samples_it_names():
    source, (rows, _) = batcher(), sentences(103)
    bucket, indices = source.plan(0)[0]
    batch = source.batch(bucket, indices)
    assert batch.ids.shape == batch.mask.shape == (8, bucket)
    assert batch.target[:, 0].tolist() == indices.tolist()
    for i, row, mask in zip(indices, batch.ids, batch.mask, strict=True):
        kept = rows[i] if len(rows[i]) <= bucket else [*rows[i][: bucket - 1], END]
        assert row[mask == 1].tolist() == list(kept)


def test_dtypes_are_what_the_model_takes():
    batch = batcher().batch(16, np.arange(8))
    kinds = [np.int32, np.float32, np.float32]
    assert [array.dtype for array in batch] == kinds


def test_vectors_may_lie_on_disk(tmp_path):
    rows, targets = sentences(20)
    np.save(tmp_path / "t.npy", targets)
    mapped = np.load(tmp_path / "t.npy", mmap_mode="r")
    source = over(rows, mapped, batch_size=4)
    target = source.batch(64, np.array([3, 19])).target
    assert target[:, 0].tolist() == [3, 19] and type(target) is np.ndarray


# Iterating


def take(stream, count):
    taken = list(itertools.islice(stream, count))
    stream.close()
    return taken


def test_iteration_is_endless_and_numbered():
    source = batcher(20, 8)
    found = take(source.batches(0), 7)
    assert [number for number, _ in found] == list(range(7))
    plan = [pair for epoch in range(4) for pair in source.plan(epoch)]
    for (_, batch), (_, indices) in zip(found, plan, strict=False):
        assert batch.target[:, 0].tolist() == indices.tolist()


@pytest.mark.parametrize("start", [1, 11, 12, 13, 40])
def test_a_restart_gives_exactly_the_batches_that_were_left(start):
    whole = take(batcher().batches(0), start + 5)[start:]
    restarted = take(batcher().batches(start), 5)
    for (number, batch), (again, same) in zip(whole, restarted, strict=True):
        assert number == again
        for a, b in zip(batch, same, strict=True):
            np.testing.assert_array_equal(a, b)


def test_every_batch_is_as_long_as_one_of_the_buckets():
    for buckets in ((8, 16, 32), (10, 64)):
        stream = batcher(buckets=buckets).batches(0)
        lengths = {batch.ids.shape[1] for _, batch in take(stream, 24)}
        assert lengths == set(buckets)


def test_a_negative_start_is_refused():
    with pytest.raises(ValueError, match="start must be at least 0, got -1"):
        batcher().batches(-1)


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, r"batch_size must be 1\.\.10"),
        ({"batch_size": 11}, r"batch_size must be 1\.\.10"),
        ({"buckets": ()}, "buckets must rise"),
        ({"buckets": (16, 8)}, "buckets must rise"),
        ({"buckets": (1, 8)}, "buckets must rise from at least 2"),
        ({"targets": np.zeros((9, 5))}, r"targets must be \[N, E\] with N = 10"),
        ({"targets": np.zeros(10)}, r"targets must be \[N, E\]"),
        ({"targets": np.full((10, 5), np.nan)}, "targets must be finite, row 0"),
        ({"vocab_size": 50}, r"token ids must be 0\.\.49, got \d\d in sentence \d"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    rows, targets = sentences(10)
    with pytest.raises(ValueError, match=message):
        over(rows, **{"targets": targets} | change)


def test_ids_outside_the_vocabulary_are_refused():
    """Such an id would read row 0, or arbitrary memory."""
    rows = [np.array([2, 5, END]), np.array([2, VOCAB, END])]
    with pytest.raises(ValueError, match=f"got {VOCAB} in sentence 1"):
        over(rows, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="got -1 in sentence 0"):
        over([np.array([-1])], np.zeros((1, 3)), batch_size=1)


def test_a_sentence_without_tokens_is_refused():
    rows = [np.array([2, END]), np.array([], np.int32)]
    with pytest.raises(ValueError, match="sentence 1 has no tokens"):
        over(rows, np.zeros((2, 3)))


def padded_tokens(lengths, buckets):
    return sum(min(b for b in buckets if b >= length) for length in lengths)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_the_chosen_lengths_pad_least_of_all(seed, most):
    lengths = np.random.default_rng(seed).integers(2, 13, 40)
    chosen = lengths_that_pad_least(lengths, most)
    longest = int(lengths.max())
    others = (
        (*some, longest)
        for count in range(most)
        for some in itertools.combinations(range(2, longest), count)
    )
    least = min(padded_tokens(lengths, buckets) for buckets in others)
    assert len(chosen) <= most and chosen == sorted(set(chosen))
    assert padded_tokens(lengths, chosen) == least


def test_no_more_lengths_are_chosen_than_there_are():
    assert lengths_that_pad_least(np.array([7, 7, 7]), 8) == [7]
    assert lengths_that_pad_least(np.array([5, 9, 5]), 8) == [5, 9]


def test_real_captions_pad_less_in_8_chosen_lengths_than_in_fixed_ones():
    """And one length each is all that 5,000 batches of mixed lengths have."""
    words = [len(text.split()) for text in generate_captions(3000, 7)]
    rows = [np.ones(count + 2, np.int32) for count in words]
    lengths = np.array([len(row) for row in rows])
    tokens = {}
    for name, buckets in (
        ("chosen", lengths_that_pad_least(lengths, 8)),
        ("fixed", [12, 14, 16, 18, 20, 24, 32, 64, 128]),
    ):
        source = over(rows, np.zeros((3000, 2)), batch_size=32, buckets=buckets)
        batches = [bucket for epoch in range(54) for bucket, _ in source.plan(epoch)]
        assert len(batches) >= 5000
        tokens[name] = np.mean(batches)
        if name == "chosen":
            assert len(set(batches)) <= 8
    assert tokens["chosen"] < tokens["fixed"]


@pytest.mark.parametrize("capacity", [5, 8, 99])
def test_target_rows_hold_every_real_next_token_and_lead_back(capacity):
    """Five are real: they fit, with or without room; 99 is more than there is."""
    ids, mask = pad_rows([np.array([2, 7, 9, 3]), np.array([2, 5, 3])], 6)
    rows = target_rows(ids, mask, capacity)
    assert len(rows.token) == min(capacity, 10)
    np.testing.assert_array_equal(rows.token[:5], [7, 9, 3, 5, 3])
    np.testing.assert_array_equal(
        ids[:, 1:].reshape(-1)[rows.position[:5]], rows.token[:5]
    )
    assert rows.count.tolist() == [1.0] * 5 + [0.0] * (len(rows.count) - 5)
    real = mask[:, 1:].reshape(-1) > 0
    np.testing.assert_array_equal(rows.place[real], np.arange(5))
    assert (rows.place[~real] == -1).all()


def test_target_rows_above_the_capacity_take_every_position():
    ids, mask = pad_rows([np.array([2, 7, 9, 3]), np.array([2, 5, 3])], 6)
    rows = target_rows(ids, mask, 4)
    assert len(rows.token) == 10 and rows.count.sum() == 5


def test_target_capacities_hold_nearly_every_batch_of_an_epoch():
    rows, targets = sentences(4000)
    lengths = np.array([len(row) for row in rows])
    found = target_capacities(lengths, BUCKETS, 32)
    batches = over(rows, targets, batch_size=32).batches(0)
    needed = [
        (b.ids.shape[1], b.mask[:, 1:].sum()) for _, b in itertools.islice(batches, 120)
    ]
    assert all(count <= found[bucket] for bucket, count in needed)
    assert all(found[bucket] <= 32 * (bucket - 1) for bucket in BUCKETS)
    assert found[16] < 32 * 15  # and padding has little room
    assert target_capacities(lengths[:0], BUCKETS, 32)[16] == 32 * 15
