"""One process writes a run's folder; a second one says so and leaves it alone."""

import pytest

from tests.faults.harness import Processes
from tests.faults.writers import meet


@pytest.fixture(scope="module")
def other(bench, tmp_path_factory):
    with Processes(tmp_path_factory.mktemp("second")) as processes:
        yield processes


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_of_two_writers_one_trains_and_the_other_is_refused(bench, other, part):
    seconds = bench.undisturbed("ab").seconds
    meeting = meet(bench, other, "ab", part * seconds)
    assert not meeting.problems, f"{meeting}: {meeting.problems}"
