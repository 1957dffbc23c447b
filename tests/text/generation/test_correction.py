import numpy as np
import pytest

from energyflow_mlx.text.generation.correction import correct


class Grid:
    """A stand-in decoder and encoder: sentences are unit vectors on a coarse grid.

    The decoder is biased: it hears ``z + bias``. Correction must learn to undo that.
    """

    def __init__(self, size=4, bias=0.35):
        self.bias = bias * np.eye(size, dtype=np.float32)[0]
        self.asked = []

    def decode(self, z):
        self.asked.append(np.array(z))
        return np.round((z + self.bias) * 20).astype(np.int32)

    def encode(self, ids):
        return ids / 20.0


def targets(n=6, size=4):
    z = np.random.default_rng(0).normal(size=(n, size)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def test_correction_brings_a_biased_decoder_nearer_to_its_target():
    grid = Grid()
    result = correct(grid.decode, grid.encode, targets(), rounds=4)
    assert (result.cosine >= result.first_cosine).all()
    assert result.first_cosine.mean() < 0.96
    assert result.cosine.mean() > 0.99


def test_the_returned_cosine_is_that_of_the_returned_sentence():
    grid, z = Grid(), targets()
    result = correct(grid.decode, grid.encode, z * 7, rounds=3)
    vectors = grid.encode(result.ids)
    cosine = (vectors * z).sum(1) / np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(result.cosine, cosine, atol=1e-5)


def test_the_condition_moves_by_the_difference_between_target_and_guess():
    grid, z = Grid(), targets(1)
    correct(grid.decode, grid.encode, z, rounds=1, rate=0.5)
    guess = grid.encode(grid.decode(z))
    guess = guess / np.linalg.norm(guess, axis=1, keepdims=True)
    moved = z + 0.5 * (z - guess)
    moved = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(grid.asked[1], moved, atol=1e-5)


def test_a_worse_guess_is_not_kept():
    good, bad = np.array([[1, 0]]), np.array([[0, 1]])
    answers, asked = iter([good, bad, bad, bad]), []

    def decode(z):
        asked.append(z[0])
        return next(answers)

    result = correct(
        decode,
        lambda ids: ids.astype(np.float32),
        np.array([[1.0, 0.1]]),
        rounds=3,
    )
    np.testing.assert_array_equal(result.ids, good)
    assert result.cosine[0] == result.first_cosine[0]
    # After each failure the next attempt stays half as far from the best condition.
    moves = [np.linalg.norm(z - asked[0]) for z in asked[1:]]
    np.testing.assert_allclose(moves[1:], np.array(moves[:-1]) / 2, rtol=0.02)


def test_no_rounds_is_plain_decoding():
    grid, z = Grid(), targets()
    result = correct(grid.decode, grid.encode, z, rounds=0)
    np.testing.assert_array_equal(result.ids, grid.decode(z))
    with pytest.raises(ValueError, match="rounds must be at least 0, got -1"):
        correct(grid.decode, grid.encode, z, rounds=-1)
