"""A changed byte is met by the last good state, or by one line; never by silence."""

import pytest

from tests.faults import damaged

SEED = 1


@pytest.fixture(scope="module")
def whole(bench, tmp_path_factory):
    """A finished run with several checkpoints."""
    folder = tmp_path_factory.mktemp("damage") / "whole"
    return damaged.make_run(bench.processes, folder, bench.cache)


@pytest.fixture(scope="module")
def half_way(bench, tmp_path_factory):
    """A run that was killed as it saved its last checkpoint."""
    folder = tmp_path_factory.mktemp("damage") / "half"
    return damaged.make_run(bench.processes, folder, bench.cache, is_half_way=True)


def check(outcomes):
    bad = [f"seed {SEED}, {o}: {o.problems}" for o in outcomes if o.problems]
    assert not bad, "\n".join(bad)


def test_no_flipped_bit_or_lost_end_is_read_as_something_else(whole):
    check(damaged.judged(whole, SEED, 0, 60))


def test_a_run_goes_on_from_a_damaged_folder_or_says_why_not(bench, half_way):
    check(damaged.resumed(bench.processes, half_way, bench.cache, SEED, range(3)))


@pytest.mark.slow
def test_no_damage_of_two_thousand_is_read_as_something_else(whole, half_way):
    check(damaged.judged(whole, SEED + 1, 0, 1000))
    check(damaged.judged(half_way, SEED + 2, 0, 1000))


@pytest.mark.slow
def test_forty_runs_go_on_from_damaged_folders_or_say_why_not(bench, half_way):
    cases = range(100, 140)
    check(damaged.resumed(bench.processes, half_way, bench.cache, SEED, cases))
