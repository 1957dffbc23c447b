import numpy as np
import pytest

from energyflow_mlx.text.generation.correction import EXACT, correct


class Grid:
    """A stand-in decoder and encoder: sentences are unit vectors on a coarse grid.

    The decoder is biased: it hears ``z + bias``. Correction must learn to undo that.
    """

    def __init__(self, size=4, bias=0.35):
        self.bias = bias * np.eye(size, dtype=np.float32)[0]
        self.asked = []

    def decode(self, z):
        return np.round((z + self.bias) * 20).astype(np.int32)

    def tell(self, attempt):
        self.asked.append(attempt)
        return self.decode(attempt.condition)[:, None]

    def embed(self, ids):
        return ids / 20.0


class Reader(Grid):
    """A stand-in that reads its guess: one number of it at a time is put right."""

    def tell(self, attempt):
        if attempt.ids is None:
            return super().tell(attempt)
        self.asked.append(attempt)
        ids, right = attempt.ids.copy(), np.round(attempt.target * 20)
        column = (attempt.round - 1) % ids.shape[1]
        ids[:, column] = right[:, column]
        return ids[:, None]


def targets(n=6, size=4):
    z = np.random.default_rng(0).normal(size=(n, size)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def corrected(grid, z, **settings):
    return list(correct(grid.tell, grid.embed, z, **settings))


def test_correction_brings_a_biased_decoder_nearer_to_its_target():
    found = corrected(Grid(), targets(), rounds=4)
    assert len(found) == 5
    assert found[0].cosine.mean() < 0.96
    assert found[-1].cosine.mean() > 0.99


@pytest.mark.parametrize("kept", [1, 3])
@pytest.mark.parametrize("kind", [Grid, Reader])
def test_the_cosine_of_a_row_never_falls(kind, kept):
    settings = {"reads_guesses": kind is Reader, "kept": kept}
    found = corrected(kind(bias=0.8), targets(40), rounds=5, **settings)
    for before, after in zip(found, found[1:], strict=False):
        assert (after.cosine >= before.cosine).all()


@pytest.mark.parametrize("kept", [1, 3])
@pytest.mark.parametrize("kind", [Grid, Reader])
def test_a_row_does_not_depend_on_the_rows_beside_it(kind, kept):
    z, order = targets(12), np.random.default_rng(1).permutation(12)
    settings = {"reads_guesses": kind is Reader, "rounds": 3, "kept": kept}
    whole, turned = (corrected(kind(), rows, **settings)[-1] for rows in (z, z[order]))
    np.testing.assert_array_equal(turned.ids, whole.ids[order])
    np.testing.assert_array_equal(turned.cosine, whole.cosine[order])


@pytest.mark.parametrize("kind", [Grid, Reader])
def test_the_returned_cosine_is_that_of_the_returned_sentence(kind):
    grid, z = kind(), targets()
    settings = {"reads_guesses": kind is Reader, "rounds": 3}
    for result in corrected(grid, z * 7, **settings):
        vectors = grid.embed(result.ids)
        cosine = (vectors * z).sum(1) / np.linalg.norm(vectors, axis=1)
        np.testing.assert_allclose(result.cosine, cosine, atol=1e-5)


def test_the_condition_moves_by_the_difference_between_target_and_guess():
    grid, z = Grid(), targets(1)
    corrected(grid, z, rounds=1)
    guess = grid.embed(grid.decode(z))
    guess = guess / np.linalg.norm(guess, axis=1, keepdims=True)
    moved = z + 0.5 * (z - guess)
    moved = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(grid.asked[1].condition, moved, atol=1e-5)


def test_a_worse_guess_is_not_kept():
    good, bad = np.array([[[1, 0]]]), np.array([[[0, 1]]])
    answers, asked = iter([good, bad, bad, bad]), []

    def tell(attempt):
        asked.append(attempt.condition[0])
        return next(answers)

    target = np.array([[1.0, 0.1]])
    *_, last = correct(tell, lambda ids: ids.astype(np.float32), target, rounds=3)
    np.testing.assert_array_equal(last.ids, good[0])
    # After each failure the next attempt stays half as far from the best condition.
    moves = [np.linalg.norm(z - asked[0]) for z in asked[1:]]
    np.testing.assert_allclose(moves[1:], np.array(moves[:-1]) / 2, rtol=0.02)


def test_the_best_try_of_a_round_is_kept():
    tries = np.array([[[0, 1], [3, 1], [1, 0]], [[1, 1], [0, 2], [5, 0]]])
    target = np.array([[1.0, 0.0], [0.1, 1.0]])
    (found,) = correct(
        lambda attempt: tries, lambda ids: ids.astype(np.float32), target, rounds=0
    )
    np.testing.assert_array_equal(found.ids, [[1, 0], [0, 2]])


def test_a_decoder_that_reads_guesses_gets_each_once_with_its_vector():
    grid, z = Reader(), 3 * targets()
    found = corrected(grid, z, rounds=3, reads_guesses=True)
    first, *later = grid.asked
    assert first.ids is None and first.vectors is None
    for attempt in later:
        np.testing.assert_array_equal(attempt.target, z[attempt.rows])
        got_one = np.ones(len(z), bool)
        if attempt.round > 1:
            before, after = found[attempt.round - 2], found[attempt.round - 1]
            got_one = after.cosine > before.cosine
        reads = attempt.ids is not None
        assert (got_one[attempt.rows] == reads).all()
        if reads:
            ids = found[attempt.round - 1].ids[attempt.rows]
            np.testing.assert_array_equal(attempt.ids, ids)
            lengths = np.linalg.norm(attempt.vectors, axis=1)
            np.testing.assert_allclose(lengths, 3.0, atol=1e-4)
    assert {(a.round, a.ids is not None) for a in later} >= {
        (1, True),
        (2, True),
        (3, False),
    }


@pytest.mark.parametrize("kind", [Grid, Reader])
def test_rows_that_are_exact_are_left_alone(kind):
    grid = kind(bias=0.0)
    z = np.array([[1.0, 0, 0, 0], [0.61, 0.5, 0.5, 0.33]], np.float32)
    found = corrected(grid, z, rounds=2, reads_guesses=kind is Reader)
    assert found[0].cosine[0] > EXACT > found[0].cosine[1]
    assert list(grid.asked[0].rows) == [0, 1]
    assert all(list(attempt.rows) == [1] for attempt in grid.asked[1:])


# Sentence 2 comes of 1 alone, which is not the nearest of the first tries; 4 is never
# told. A sentence's vector is at its angle from the target.
ANGLES = np.array([0.5, 0.6, 0.2, 0.7, 0.0])
NEXT = {0: 0, 1: 2, 2: 3, 3: 3}


def around(ids):
    return np.stack([np.cos(ANGLES[ids[:, 0]]), np.sin(ANGLES[ids[:, 0]])], axis=1)


def told_by_angle(asked):
    """A decoder that tells by the guess it reads what comes next."""

    def tell(attempt):
        asked.append(attempt)
        if attempt.ids is None:
            first = [[0], [1], [0]] if attempt.round == 0 else [[0]]
            return np.tile(np.array(first), (len(attempt.rows), 1, 1))
        return np.array([[[NEXT[int(sentence)]]] for sentence in attempt.ids[:, 0]])

    return tell


@pytest.mark.parametrize(("kept", "best"), [(1, 0), (2, 2)])
def test_a_guess_that_is_not_the_best_goes_on_too(kept, best):
    asked = []
    *_, last = correct(
        *(told_by_angle(asked), around, np.array([[1.0, 0.0]])),
        **{"rounds": 2, "reads_guesses": True, "kept": kept},
    )
    assert last.ids.tolist() == [[best]]
    read = [attempt.ids[:, 0].tolist() for attempt in asked if attempt.ids is not None]
    # No sentence stands twice among those that go on, and each is read once.
    assert read == ([[0]] if kept == 1 else [[0, 1], [2]])


def test_no_rounds_is_plain_decoding():
    grid, z = Grid(), targets()
    (found,) = corrected(grid, z, rounds=0)
    np.testing.assert_array_equal(found.ids, grid.decode(z))
    with pytest.raises(ValueError, match="rounds must be at least 0, got -1"):
        corrected(grid, z, rounds=-1)


def exact_edits(asked):
    """An editor that knows the grid's exact sentence of the first row asked about."""

    def edit(attempt):
        asked.append(attempt)
        right = np.round(attempt.target[:1] * 20).astype(np.int32)
        return np.zeros(1, np.int64), right

    return edit


def test_an_edit_that_is_nearer_is_the_sentence_after_the_last_correction():
    z, asked = targets(), []
    plain = corrected(Grid(bias=0.8), z, rounds=3)
    grid = Grid(bias=0.8)
    found = corrected(grid, z, rounds=3, edits=[exact_edits(asked)] * 2)
    for before, after in zip(plain[:-1], found[:-1], strict=True):
        np.testing.assert_array_equal(before.ids, after.ids)
    first, second = asked
    np.testing.assert_array_equal(first.ids, plain[-1].ids[first.rows])
    assert (plain[-1].cosine[first.rows] <= EXACT).all()
    assert (first.round, second.round) == (4, 5)
    # Each round, the exact sentence of the first row that is not exact yet.
    exact = np.round(z * 20)
    for row in {int(first.rows[0]), int(second.rows[0])}:
        np.testing.assert_array_equal(found[-1].ids[row], exact[row])
    np.testing.assert_array_equal(found[-1].ids[2:], plain[-1].ids[2:])


def test_edits_are_likely_for_the_target_moved_by_twice_the_difference():
    grid, z, asked = Grid(), 3 * targets(1), []
    corrected(grid, z, rounds=0, edits=[exact_edits(asked)])
    guess = grid.embed(grid.decode(z))
    guess = guess / np.linalg.norm(guess, axis=1, keepdims=True)
    moved = z / 3 + 2 * (z / 3 - guess)
    moved = 3 * moved / np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(asked[0].condition, moved, atol=1e-4)
    np.testing.assert_allclose(asked[0].vectors, 3 * guess, atol=1e-4)


def test_rows_that_are_exact_are_not_edited():
    z = np.array([[1.0, 0, 0, 0], [0.61, 0.5, 0.5, 0.33]], np.float32)
    asked = []
    corrected(Grid(bias=0.0), z, rounds=0, edits=[exact_edits(asked)])
    assert [attempt.rows.tolist() for attempt in asked] == [[1]]


@pytest.mark.parametrize("kept", [1, 3])
def test_the_cosine_of_a_row_never_falls_by_edits(kept):
    rng = np.random.default_rng(0)

    def edit(attempt):
        of = np.repeat(np.arange(len(attempt.rows)), 2)
        return of, attempt.ids[of] + rng.integers(-2, 3, (len(of), 4))

    settings = {"rounds": 2, "kept": kept}
    plain = corrected(Grid(bias=0.8), targets(40), **settings)[-1]
    edited = corrected(Grid(bias=0.8), targets(40), edits=[edit] * 4, **settings)[-1]
    assert (edited.cosine >= plain.cosine).all() and (
        edited.cosine > plain.cosine
    ).any()
