import numpy as np
import pytest

from energyflow_mlx.data.vectors import unit_rows
from energyflow_mlx.evaluation import group_recall, precision_at, retrieval
from energyflow_mlx.evaluation.retrieval import confusions


def angles(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_precision_by_hand():
    targets = angles(0, 10, 20, 90)
    queries = angles(1, 17, 40, 51)  # ranks of the own target: 1, 2, 1, 2
    assert precision_at(queries, targets, (1, 2, 4)) == {1: 0.5, 2: 1.0, 4: 1.0}


def test_precision_ignores_length():
    queries, targets = angles(1, 17, 40), angles(0, 10, 20)
    scale = np.array([[3.0], [0.1], [70.0]])
    assert precision_at(queries * scale, targets / scale) == precision_at(
        queries, targets
    )


def test_a_constant_or_zero_output_finds_nothing():
    """Ties count against the model, otherwise a dead student would score 100 %."""
    targets = angles(0, 10, 20, 30)
    assert precision_at(np.zeros((4, 2)), targets, (1, 3)) == {1: 0.0, 3: 0.0}
    assert precision_at(np.zeros((4, 2)), targets, (4,)) == {4: 1.0}


def test_a_sentence_that_occurs_twice_does_not_compete_with_itself():
    targets = angles(0, 50, 0)
    assert precision_at(targets, targets, (1,)) == {1: 1.0}


def test_group_recall_by_hand():
    # nearest other of 0: 4 (foreign), of 4: 0 (foreign); 40 and 45 find each other
    vectors = angles(0, 10, 4, 15, 40, 45)
    groups = ["a", "a", "b", "b", "c", "c"]
    # 0: 4(b), 10 hit at 2; 10: 15(b), 4(b), 0 hit at 3; 4: 0, 10, 15 hit at 3;
    # 15: 10, 4 hit at 2
    recall = group_recall(vectors, np.array(groups), (1, 2, 3))
    assert recall == {1: 2 / 6, 2: 4 / 6, 3: 1.0}


def test_group_recall_never_counts_the_row_itself():
    vectors = angles(0, 90, 1, 91)
    recall = group_recall(vectors, np.array([0, 0, 1, 1]), (1, 2, 3))
    assert recall == {1: 0.0, 2: 0.5, 3: 1.0}  # 0 and 91 have one foreign row nearer


def test_group_recall_against_another_gallery():
    vectors, gallery = angles(0, 5, 90, 95), angles(100, 1, 91, 92)
    groups = np.array([0, 0, 1, 1])
    recall = group_recall(vectors, groups, (1,), gallery=gallery)
    assert recall == {1: 0.75}  # 5 may not take 1, its own row, and misses 100


def test_blocks_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((53, 8))
    targets = queries + 0.8 * rng.standard_normal((53, 8))
    groups = np.arange(53) // 5
    groups[-3:] = 0
    whole = precision_at(queries, targets), group_recall(queries, groups)
    monkeypatch.setattr(retrieval, "_BLOCK_ELEMENTS", 53 * 4)
    assert (precision_at(queries, targets), group_recall(queries, groups)) == whole
    assert 0 < whole[0][1] < 1


def test_memory_stays_bounded_for_many_rows():
    """100,000 rows would need 40 GB of similarities at once; a block holds 64 MiB."""
    blocks = retrieval._blocks(np.ones((100_000, 2), "f"), np.ones((100_000, 2), "f"))
    rows, similarity = next(blocks)
    assert similarity.nbytes <= 1 << 26
    assert len(rows) == 167


def test_bad_cut_offs_and_groups_are_refused():
    vectors = angles(0, 1, 2, 3)
    for ks in ((), (0,), (1, -1)):
        with pytest.raises(ValueError, match="ks must be at least 1"):
            precision_at(vectors, vectors, ks)
    with pytest.raises(ValueError, match="two rows or more"):
        group_recall(vectors, np.array([0, 0, 0, 1]))
    with pytest.raises(ValueError, match=r"groups must be \[4\]"):
        group_recall(vectors, np.array([0, 0]))
    with pytest.raises(ValueError, match="one shape"):
        precision_at(vectors, vectors[:3])


def test_confusions_are_those_that_miss_the_first_place_the_worst_first():
    rng = np.random.default_rng(3)
    targets = rng.normal(size=(60, 4)).astype(np.float32)
    targets[7] = targets[8]  # a sentence that occurs twice competes with neither
    queries = targets + rng.normal(size=targets.shape).astype(np.float32)
    found = confusions(queries, targets)
    assert len(found) == round(60 * (1 - precision_at(queries, targets, (1,))[1])) > 3
    cosines = unit_rows(queries) @ unit_rows(targets).T
    for c in found:
        assert c.found != c.query and {c.query, c.found} != {7, 8}
        assert c.own_cosine == pytest.approx(cosines[c.query, c.query], abs=1e-6)
        assert c.found_cosine == pytest.approx(cosines[c.query, c.found], abs=1e-6)
        equal = [c.query, {7: 8, 8: 7}.get(c.query, c.query)]
        assert c.found_cosine >= np.delete(cosines[c.query], equal).max() - 1e-6
    gaps = [c.found_cosine - c.own_cosine for c in found]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] >= 0
    assert confusions(targets, targets) == []
