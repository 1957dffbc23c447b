"""Figures after corrections, by group; the worst sentences; what is asked for."""

import gzip

import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.evaluation.corrections import (
    ALL,
    HEADS,
    Written,
    correction_figures,
    correction_rows,
    failures,
    read_labels,
)

TRUTH = ["a dog runs.", "two cats sleep on it.", "Snow falls."]
FOUND = {
    0: Written(["a dog", "two cats", "snow"], np.array([0.5, 0.4, 0.3]), 2.0),
    4: Written(["a dog runs.", "two dogs", "snow"], np.array([1, 0.6, 0.2]), 4.0),
}
GROUPS = {"length": {"short": np.array([0, 2]), "long": np.array([1])}}


def test_figures_are_of_all_sentences_and_of_each_group():
    figures = correction_figures(FOUND, TRUTH, GROUPS)
    assert [*figures] == ["corrections_0", "corrections_4"]
    last = figures["corrections_4"]
    assert last["exact"] == pytest.approx(1 / 3)
    assert last["sentences_per_second"] == pytest.approx(3 / 4)
    assert last["cosine"] == pytest.approx(0.6)
    short = last["length"]["short"]
    assert short["sentences"] == 2 and short["exact"] == 0.5
    assert short["cosine"] == pytest.approx(0.6)
    assert last["length"]["long"]["cosine"] == pytest.approx(0.6)


def test_rows_of_the_table_keep_a_group_together():
    figures = correction_figures(FOUND, TRUTH, GROUPS) | {"cosine": 0.1}
    rows = correction_rows(figures)
    assert all(len(row) == len(HEADS) + 1 for row in rows)
    assert [(row[0], row[2]) for row in rows] == [
        *((ALL, 0), (ALL, 4)),
        *(("length: short", 0), ("length: short", 4)),
        *(("length: long", 0), ("length: long", 4)),
    ]
    assert rows[1][-1] == pytest.approx(3 / 4) and [row[1] for row in rows[1:3]] == [
        3,
        2,
    ]


def test_failures_are_those_that_stay_the_farthest_first():
    told = failures(FOUND, TRUTH, 9)
    found = told["worst"]
    assert (told["wrong"], told["sentences"]) == (2, 3)
    assert [failure["sentence"] for failure in found] == [TRUTH[2], TRUTH[1]]
    assert found[1]["written"] == [
        {"corrections": 0, "text": "two cats", "cosine": 0.4},
        {"corrections": 4, "text": "two dogs", "cosine": 0.6},
    ]
    assert len(failures(FOUND, TRUTH, 1)["worst"]) == 1


def test_labels_are_as_many_as_sentences(tmp_path):
    with gzip.open(tmp_path / "a.src.gz", "wt") as file:
        file.write("wiki\nnews\n")
    (tmp_path / "b.src").write_text("talk\n")
    paths = [str(tmp_path / "a.src.gz"), str(tmp_path / "b.src")]
    assert read_labels(paths, 3) == ["wiki", "news", "talk"]
    with pytest.raises(InputError, match="sources must have 4 lines, .* got 3"):
        read_labels(paths, 4)
