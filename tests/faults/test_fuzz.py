"""Random changes of valid files are read or refused in one line, whatever they are."""

import os
import random
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import energyflow_mlx
from tests.faults.changes import change_bytes
from tests.faults.sent import send
from tests.faults.targets import TARGETS, try_change

# Targets that the guided loop goes through: those whose reader is all Python.
GUIDED = ("checkpoint", "config", "efb", "jsonl")
_PACKAGE = os.path.dirname(energyflow_mlx.__file__)


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """Honest files; every try puts back what it changed."""
    return send(tmp_path_factory.mktemp("fuzz") / "honest")


def fuzz(name, folder, count):
    target = TARGETS[name]
    honest = (folder / target.file).read_bytes()
    assert try_change(target, folder, honest) is None, "the honest file is refused"

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32))
    def try_one(seed):
        try_change(target, folder, target.change(honest, random.Random(seed)))

    try_one()


@pytest.mark.parametrize("name", TARGETS)
def test_a_changed_file_is_read_or_refused(sent, name):
    fuzz(name, sent, 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_thousands_of_changes_are_read_or_refused(sent, name):
    fuzz(name, sent, 1000)


# Guided by coverage ------------------------------------------------------------------


def edges_of(call):
    """Pairs of lines of the package that a call went through, one after the other."""
    found, last = set(), [None]

    def local(frame, event, _argument):
        if event == "line":
            here = (frame.f_code.co_filename, frame.f_lineno)
            found.add((last[0], here))
            last[0] = here
        return local

    def begin(frame, _event, _argument):
        return local if frame.f_code.co_filename.startswith(_PACKAGE) else None

    former = sys.gettrace()
    sys.settrace(begin)
    try:
        call()
    finally:
        sys.settrace(former)
    return found


def guided(name, folder, count, seed=0):
    """Change files on from those that reached new lines; how many were kept."""
    rng, target = random.Random(seed), TARGETS[name]
    corpus, seen = [(folder / target.file).read_bytes()], set()
    for _ in range(count):
        data = rng.choice(corpus)
        try:
            data = target.change(data, rng)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            data = change_bytes(data, rng)  # no longer of the structure
        found = edges_of(lambda data=data: try_change(target, folder, data))
        if found - seen:
            seen |= found
            corpus.append(data)
    return len(corpus) - 1


@pytest.mark.parametrize("name", GUIDED)
def test_changes_that_reach_new_lines_lead_to_no_crash(sent, name):
    assert guided(name, sent, 60) > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", GUIDED)
def test_thousands_of_guided_changes_lead_to_no_crash(sent, name):
    assert guided(name, sent, 1000) > 8
