import gzip

import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation import (
    cosine_rows,
    group_recall,
    mse_rows,
    precision_at,
    read_sts,
    spearman,
    sts_score,
)
from energyflow_mlx.evaluation.similarity import (
    StsPairs,
    similarity_score,
    sts_scores,
)


def test_cosine_and_squared_error_of_rows_by_hand():
    a = np.array([[3, 4], [1, 0], [0, 0]])
    b = np.array([[6, 8], [0, 2], [1, 1]])
    np.testing.assert_allclose(cosine_rows(a, b), [1, 0, 0], atol=1e-7)
    np.testing.assert_allclose(mse_rows(a, b), [12.5, 2.5, 1.0])


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3], [1, 100, 2], 0.5),
        # 1 - 6 sum d^2 / (n (n^2 - 1)) with d = 1, 1, 1, 1, 0
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 1 - 6 * 4 / 120),
        # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / np.sqrt(4.5 * 5)),
        # ranks 2, 2, 2, 4.5, 4.5 against 1.5, 1.5, 3, 4.5, 4.5 (scipy: 0.889087)
        ([0, 0, 0, 1, 1], [5, 5, 6, 7, 7], 7.5 / np.sqrt(7.5 * 9)),
    ],
)
def test_spearman_by_hand_with_ties(x, y, expected):
    assert spearman(np.array(x), np.array(y)) == pytest.approx(expected, abs=1e-12)
    assert spearman(np.array(y), np.array(x)) == pytest.approx(expected, abs=1e-12)


def test_spearman_depends_on_ranks_alone():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 50))
    assert spearman(np.exp(3 * x), y**3) == pytest.approx(spearman(x, y), abs=1e-12)


def test_sts_score_is_a_hundred_times_the_correlation_of_the_cosines():
    first = np.tile([1.0, 0.0], (4, 1))
    second = np.array([[1, 0], [1, 1], [0, 1], [-1, 0]])  # cosines fall
    assert sts_score(first, second, np.array([5, 4, 3, 1])) == pytest.approx(100)
    assert sts_score(first, second, np.array([1, 100, 2, 0.5])) == pytest.approx(40)


def test_spearman_of_a_constant_is_not_a_number():
    assert np.isnan(spearman(np.ones(4), np.arange(4)))


@pytest.mark.parametrize(
    ("x", "y"), [([1.0], [1.0]), ([1, 2], [1, 2, 3]), ([1, np.nan], [1, 2])]
)
def test_spearman_refuses_what_has_no_ranks(x, y):
    with pytest.raises(ValueError, match="must be"):
        spearman(np.array(x), np.array(y))


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (np.ones(3), r"a must be \[N, E\]"),
        (np.ones((0, 3)), r"a must be \[N, E\]"),
        (np.ones((2, 4)), r"one shape, got \[2, 4\] and \[2, 3\]"),
        (np.array([[1, 2, 3], [1, np.inf, 3]]), "a must be finite, got row 1"),
    ],
)
def test_bad_rows_are_refused(a, message):
    with pytest.raises(ValueError, match=message):
        cosine_rows(a, np.ones((2, 3)))


# -- STS files -------------------------------------------------------------------------


def test_sts_files_are_read_with_their_lines(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('5.000\tA "b.\tÄ c.\r\n0\t x\u2028y \tz\n', encoding="utf-8")
    pairs = read_sts(path)
    assert pairs.scores.tolist() == [5.0, 0.0]
    assert pairs.first == ['A "b.', "x\u2028y"]
    assert pairs.second == ["Ä c.", "z"]
    assert len(pairs) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1.0\tonly one", "line 2 must have 3 tab-separated fields, got 2"),
        (b"1.0\ta\tb\tc", "line 2 must have 3 tab-separated fields, got 4"),
        (b"", "line 2 must have 3 tab-separated fields, got 1"),
        (b"high\ta\tb", "line 2 must start with a number, got 'high'"),
        (b"nan\ta\tb", "line 2 must have a finite score, got nan"),
        (b"1.0\t \tb", "line 2 must have two sentences, got an empty one"),
        (b"1.0\t\xff\tb", "line 2: expected UTF-8, got byte 0xff"),
    ],
)
def test_a_damaged_sts_line_is_named(tmp_path, line, message):
    path = tmp_path / "bad.tsv"
    path.write_bytes(b"1\ta\tb\n" + line + b"\n2\ta\tb\n")
    with pytest.raises(InputError, match=r"bad\.tsv: " + message):
        read_sts(path)


def test_missing_and_empty_sts_files_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_sts(tmp_path / "none.tsv")
    (tmp_path / "empty.tsv").write_bytes(b"")
    with pytest.raises(InputError, match="empty file"):
        read_sts(tmp_path / "empty.tsv")


def test_similarity_score_is_the_rank_correlation_of_all_pairs_of_rows():
    rng = np.random.default_rng(3)
    vectors, targets = rng.normal(size=(7, 4)), rng.normal(size=(7, 9))
    pairs = [(i, j) for i in range(7) for j in range(i)]
    own, gold = ([cosine_rows(x[[i]], x[[j]])[0] for i, j in pairs]
                 for x in (vectors, targets))  # fmt: skip
    found = similarity_score(vectors, targets)
    assert found == pytest.approx(100 * spearman(own, gold))
    assert similarity_score(targets, targets) == pytest.approx(100)
    assert np.isnan(similarity_score(vectors[:2], targets[:2]))


def test_scores_of_a_set_are_measured_for_shortened_vectors_too():
    rng = np.random.default_rng(4)
    table = {text: rng.normal(size=6) for text in "abcdef"}
    pairs = StsPairs(np.array([1.0, 3.0, 2.0]), list("abc"), list("def"))
    first, second = (np.array([table[t] for t in x]) for x in ("abc", "def"))
    found = sts_scores("dev", first, second, pairs.scores, {4, 2})
    assert list(found) == ["dev", "dev_2", "dev_4"]
    cut = sts_score(first[:, :4], second[:, :4], pairs.scores)
    assert found["dev_4"] == pytest.approx(cut)


# -- The teacher's stored vectors ------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("stsb_test", 82.03), ("stsb_dev", 86.72), ("sickr_test", 77.15)],
)
def test_the_teachers_stored_vectors_score_as_published(shared_folder, name, expected):
    data = shared_folder / "data"
    pairs = read_sts(data / "sts" / f"{name}.tsv")
    first, second = (np.load(data / "minilm" / f"{name}_s{i}.npy") for i in (1, 2))
    assert sts_score(first, second, pairs.scores) == pytest.approx(expected, abs=0.005)


def test_the_teachers_caption_retrieval_is_as_published(shared_folder):
    data = shared_folder / "data"
    vectors = np.load(data / "minilm" / "captions_val.npy")
    with gzip.open(data / "captions_val.txt.gz", "rt", encoding="utf-8") as file:
        assert len(file.readlines()) == len(vectors)
    recall = group_recall(vectors, np.arange(len(vectors)) // 5, (1, 10))
    assert recall[1] == pytest.approx(0.6745, abs=0.0005)
    assert recall[10] == pytest.approx(0.9450, abs=0.0005)
    assert precision_at(vectors, vectors, (1,)) == {1: 1.0}
