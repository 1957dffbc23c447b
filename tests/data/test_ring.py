"""The ring of pairs: newest kept, drawn by length, restored in its place."""

import numpy as np
import pytest

from energyflow_mlx.data.ring import PairRing

E, LONGEST, VOCAB = 5, 12, 90


def pairs(count, first=0, seed=0):
    """Sentences whose second id is their number; the vector repeats that number."""
    random = np.random.default_rng(seed)
    lengths = random.integers(4, LONGEST + 1, count)
    ids = [np.full(n, 7, np.int32) for n in lengths]
    for number, row in enumerate(ids, first):
        row[1] = number
    numbers = np.arange(first, first + count, dtype=np.float32)
    return ids, np.repeat(numbers[:, None], E, axis=1)


def make_ring(size=20, vocab_size=VOCAB):
    return PairRing(size, LONGEST, E, vocab_size)


def numbers_in(ring):
    return sorted(ring.arrays()["ids"][:, 1].tolist())


def draw(ring, above, length, size, seed=0, most=10_000):
    return ring.draw(above, length, size, most, np.random.default_rng(seed))


def test_new_pairs_take_the_place_of_the_oldest():
    ring = make_ring(20)
    ring.add(*pairs(13))
    assert len(ring) == 13 and numbers_in(ring) == list(range(13))
    ring.add(*pairs(12, first=13))
    assert len(ring) == 20 and numbers_in(ring) == list(range(5, 25))
    ring.add(*pairs(50, first=30))
    assert len(ring) == 20 and numbers_in(ring) == list(range(60, 80))


def test_a_drawn_sentence_keeps_its_ids_and_its_vector():
    ring = make_ring()
    ids, vectors = pairs(15)
    ring.add(ids, vectors)
    batch = draw(ring, 0, LONGEST, 9)
    assert batch.ids.dtype == np.int32 and batch.target.dtype == np.float32
    for row, mask, vector in zip(*batch, strict=True):
        number = row[1]
        assert row[mask > 0].tolist() == ids[number].tolist()
        assert not row[mask == 0].any()
        assert vector.tolist() == vectors[number].tolist()


def test_pairs_are_given_by_their_places():
    ring = make_ring()
    ids, vectors = pairs(15)
    ring.add(ids, vectors)
    found, own = ring.pairs(np.array([3, 11, 3]))
    assert [row.tolist() for row in found] == [ids[i].tolist() for i in (3, 11, 3)]
    assert own.dtype == np.float32 and own.tolist() == vectors[[3, 11, 3]].tolist()
    assert ring.pairs(np.array([], np.int64))[1].shape == (0, E)


def test_a_batch_is_of_one_bucket_while_that_has_enough():
    ring = make_ring(400)
    ring.add(*pairs(400))
    lengths = draw(ring, 6, 9, 64).mask.sum(axis=1)
    assert set(lengths) == {7, 8, 9}
    assert draw(ring, 6, 9, 64).ids.shape == (64, 9)


def test_shorter_sentences_fill_a_bucket_that_has_too_few():
    ring = make_ring(40)
    ring.add(*pairs(40))
    lengths = draw(ring, 11, 16, 30).mask.sum(axis=1)
    assert lengths.max() <= 16 and lengths.min() < 11
    assert draw(ring, 11, 16, 30).ids.shape == (30, 16)


@pytest.mark.parametrize("most", [220, 200, 180])
def test_the_longest_give_way_where_targets_would_not_fit(most):
    ring = make_ring(400)
    ring.add(*pairs(400))
    free, fitted = (draw(ring, 0, 12, 32, most=m) for m in (10_000, most))
    targets = [int(batch.mask[:, 1:].sum()) for batch in (free, fitted)]
    assert targets[0] > most >= targets[1] > most - 12
    assert fitted.ids.shape == free.ids.shape
    kept = {*map(bytes, free.ids)} & {*map(bytes, fitted.ids)}
    assert len(kept) > 4 and len({*map(bytes, fitted.ids)}) > 16


def test_sentences_that_can_never_fit_are_as_short_as_they_come():
    ring = make_ring(60)
    ring.add(*pairs(60))
    batch = draw(ring, 10, 12, 4, most=3)
    assert batch.ids.shape == (4, 12) and batch.mask.sum() <= 4 * 12


def test_too_few_pairs_make_no_batch():
    ring = make_ring()
    assert draw(ring, 0, LONGEST, 1) is None
    ring.add(*pairs(8))
    assert draw(ring, 0, LONGEST, 9) is None
    assert draw(ring, 0, 3, 1) is None


@pytest.mark.parametrize("count", [0, 7, 33])
def test_a_restored_ring_goes_on_as_the_first_one(count):
    ring, other = make_ring(), make_ring()
    ring.add(*pairs(count))
    other.add(*pairs(3, first=60))
    other.restore(ring.arrays(), count)
    assert len(other) == len(ring)
    for one in (ring, other):
        one.add(*pairs(9, first=40, seed=1))
    for one, two in zip(draw(ring, 0, 12, 8), draw(other, 0, 12, 8), strict=True):
        assert np.array_equal(one, two)


def test_a_full_ring_has_the_bytes_that_it_says():
    ring = make_ring()
    said = ring.nbytes
    ring.add(*pairs(33))
    assert sum(array.nbytes for array in ring.arrays().values()) == said


def test_ids_of_a_large_vocabulary_are_not_cut_to_two_bytes():
    ring = make_ring(vocab_size=100_000)
    ring.add([np.array([1, 70_000, 99_999, 2], np.int32)], np.ones((1, E)))
    assert draw(ring, 0, 4, 1).ids.tolist() == [[1, 70_000, 99_999, 2]]
