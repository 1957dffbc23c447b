"""Processes that faults strike: one server and one bench for the tests of a file."""

import pytest

from tests.faults.harness import Processes, reason_not_to_run
from tests.faults.kills import Bench


@pytest.fixture(scope="package")
def bench(tmp_path_factory):
    """Undisturbed commands to compare with, and a place to strike others."""
    if reason := reason_not_to_run():
        pytest.skip(reason)
    work = tmp_path_factory.mktemp("faults")
    with Processes(work / "output") as processes:
        yield Bench(processes, work / "cases", work / "cache")
