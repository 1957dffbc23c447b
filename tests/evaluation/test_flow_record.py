"""What a record says of its flows."""

import numpy as np
import pytest

from energyflow_mlx.evaluation.flow_record import (
    describe,
    mean_statistics,
)
from tests.plots.records import STATISTICS, make_cube, make_record


def test_births_and_arrivals_are_read_from_who_travels_when():
    cube = make_cube()
    record = make_record(cube)
    assert record.born.tolist() == [0] * 30 + [1, 1]
    assert record.arrived[0] == cube.steps + 1, "never arrives"
    assert record.arrived[1] == cube.steps
    assert record.arrived[3] == cube.steps - 1


def test_a_child_begins_sideways_where_it_was_born():
    record = make_record(make_cube())
    origin = record.position[record.born[-1], -1, :2]
    expected = np.linalg.norm(record.landed[-1, :2] - origin)
    assert record.sideways[-1] == pytest.approx(expected)


def test_statistics_are_averaged_and_put_into_words():
    cube = make_cube()
    records = [make_record(cube), make_record(cube, spawned=0)]
    mean = mean_statistics(records)
    assert mean["created"] == 31
    words = describe(mean)
    assert words["reach the near face, z = \u22121"] == "40.0 %"
    assert words["flows"] == "31"
    assert words["mean path length"] == "1.25"
    assert len(words) == 9


def test_a_closed_face_is_not_described():
    words = describe(STATISTICS | {"created": 10100.0}, is_dual=False)
    assert not any("near" in label for label in words)
    assert words["flows"] == "10100"


def test_statistics_that_a_log_does_not_hold_are_left_out():
    assert describe({"steps": 5.0, "other": 1.0}) == {"mean steps": "5"}
