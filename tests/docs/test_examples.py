"""What the examples compute is what their docstrings say; test_running.py runs them."""

import runpy

import numpy as np
import pytest

from tests.docs.pages import CHECKOUT

EXAMPLES = CHECKOUT / "examples"


def functions_of(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def vectors():
    """Unit vectors, ``[40, 16]`` float32."""
    rows = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    return unit(rows)


@pytest.mark.parametrize("k", [1, 5, 40, 41])
def test_nearest_are_the_highest_cosines_in_order(vectors, k):
    found = functions_of("search")["nearest"](vectors, vectors[3], k)
    expected = np.argsort(-(vectors @ vectors[3]), kind="stable")[:k]
    assert found.tolist() == expected.tolist() and found[0] == 3


def test_points_between_are_unit_vectors_at_even_angles(vectors):
    a, b = vectors[:2]
    points = functions_of("interpolate")["slerp"](a, b, 7)
    np.testing.assert_allclose(points[[0, -1]], [a, b], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-6)
    cosines = np.sum(points[1:] * points[:-1], axis=1)
    np.testing.assert_allclose(np.arccos(cosines), np.arccos(a @ b) / 6, atol=1e-5)


def test_points_between_equal_vectors_are_that_vector(vectors):
    points = functions_of("interpolate")["slerp"](vectors[0], vectors[0], 3)
    np.testing.assert_allclose(points, vectors[[0, 0, 0]], atol=1e-6)


def test_groups_that_lie_apart_are_found():
    noise = np.random.default_rng(1).normal(size=(60, 8))
    rows = unit(np.repeat(np.eye(8)[:3], 20, axis=0) + 0.1 * noise)
    centers = functions_of("codebook")["k_means"](rows.astype(np.float32), 3)
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 1, atol=1e-6)
    assert len({*map(tuple, np.round(centers).tolist())}) == 3


def test_own_teacher_counts_words_and_their_neighbors():
    one, two, none = functions_of("own_teacher")["embed"](["a b", "b a", ""])
    assert one.sum() == two.sum() == 3 and none.sum() == 0
    assert (one != two).any() and one.dtype == np.float32
