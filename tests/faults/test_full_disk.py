"""A disk that is full, or fails, from one operation on: one line, nothing lost."""

import random

import pytest

from tests.faults.kinds import KINDS

SEED = 1


def check(bench, kind, mode, count):
    points = bench.points(kind, mode)
    for strike in random.Random(f"{SEED} {kind}").sample(
        points, min(count, len(points))
    ):
        outcome = bench.judge(strike)
        assert not outcome.problems, f"seed {SEED}, {outcome}: {outcome.problems}"


@pytest.mark.parametrize("kind", ["ab", "encode", "export"])
def test_a_full_disk_is_one_line_and_the_command_can_be_typed_again(bench, kind):
    check(bench, kind, "full", 2)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "broken"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fails_anywhere_is_one_line(bench, kind, mode):
    check(bench, kind, mode, 12)
