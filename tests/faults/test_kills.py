"""A killed run goes on from the last saved update, and ends as if nothing had been."""

import os
import random
import subprocess
import sys

import pytest

from tests.commands import CHECKOUT
from tests.faults.kills import Strike
from tests.faults.kinds import KINDS, RUNS
from tests.faults.state import differences, state_of

SEED = 1


def check(bench, strike):
    outcome = bench.judge(strike)
    assert not outcome.problems, f"seed {SEED}, {outcome}: {outcome.problems}"


def point(bench, kind, name, ending, *, is_first=False):
    """The strike before the last, or first, operation of a name on a file."""
    found = [
        number
        for number, operation in enumerate(bench.undisturbed(kind).operations, 1)
        if operation.startswith(f"{name} ") and operation.endswith(ending)
    ]
    return Strike(kind, "kill", found[0 if is_first else -1])


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("rename", "/config.json"),
        ("write", "/run/metrics.jsonl"),
        ("rename", "/run/checkpoints/step_00000004"),
        ("rename", "/run/summary.json"),
    ],
)
def test_a_kill_before_an_operation_changes_nothing_of_a_run(bench, name, ending):
    """Of the start, a record, a checkpoint, and the end."""
    check(bench, point(bench, "ab", name, ending))


@pytest.mark.parametrize(
    ("kind", "group"), [("own_pairs", "own_pairs"), ("correct", "guesses")]
)
def test_a_kill_before_a_checkpoint_changes_nothing_that_a_run_makes_itself(
    bench, kind, group
):
    saved = "/run/checkpoints/step_00000004"
    state = bench.undisturbed(kind).state
    assert f"run/checkpoints/step_00000005/{group}.safetensors" in state
    check(bench, point(bench, kind, "rename", saved))


def test_a_kill_between_the_first_record_and_its_checkpoint_leaves_one_record(bench):
    saved = "/run/checkpoints/step_00000000"
    check(bench, point(bench, "flow", "rename", saved, is_first=True))


def test_a_torn_write_of_weights_is_no_checkpoint(bench):
    strike = point(bench, "ab", "write", "/model.safetensors")
    check(bench, Strike("ab", "tear", strike.at))


@pytest.mark.parametrize("kind", ["accumulate", "transformer"])
def test_a_kill_at_a_random_instant_changes_nothing_of_a_run(bench, kind):
    part = random.Random(f"{SEED} {kind}").uniform(0.2, 1)
    check(bench, Strike(kind, "instant", part * bench.undisturbed(kind).seconds))


@pytest.mark.parametrize("kind", ["encode", "export", "prepare"])
def test_a_killed_command_can_be_typed_again(bench, kind):
    points = bench.points(kind)
    check(bench, random.Random(SEED).choice(points))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_before_any_operation_changes_nothing(bench, kind):
    """A share of them; ``python -m tests.faults.campaign operations`` takes all."""
    points = bench.points(kind)
    for strike in random.Random(SEED).sample(points, min(24, len(points))):
        check(bench, strike)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_ten_kills_at_random_instants_change_nothing(bench, kind):
    chosen = random.Random(f"{SEED} {kind}")
    for _ in range(10):
        at = chosen.uniform(0, bench.undisturbed(kind).seconds)
        check(bench, Strike(kind, "instant", at))


def test_a_fresh_process_ends_in_the_bits_of_a_forked_one(bench):
    """So that what holds for the processes struck here holds for a user's."""
    folder = bench.new_folder("ab")
    done = subprocess.run(
        [sys.executable, "-m", "energyflow_mlx", *KINDS["ab"].command(bench.cache)],
        cwd=folder,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        check=True,
    )
    assert not done.stderr
    assert not differences(bench.undisturbed("ab").state, state_of(folder))
