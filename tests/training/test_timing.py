"""Times of updates are summed over their micro-batches and averaged over updates."""

import pytest

from energyflow_mlx.readback import BatchTiming, OperationTiming
from energyflow_mlx.training.timing import UpdateTimings


def timing(build, peak=0, **parts):
    operations = tuple(
        OperationTiming(k.replace("_", " "), (), v) for k, v in parts.items()
    )
    return BatchTiming("x", build, 2 * build, 3 * build, peak, operations)


def test_micro_batches_add_up_and_updates_are_averaged():
    timings = UpdateTimings()
    timings.add(0.5, [timing(1.0), timing(2.0)])
    timings.add(1.5, [timing(5.0)])
    taken = timings.take()
    assert taken["batch_ms"] == 1.0
    assert (taken["build_ms"], taken["submit_ms"], taken["wait_ms"]) == (4, 8, 12)


def test_the_peak_is_the_highest_and_starts_anew():
    timings = UpdateTimings()
    timings.add(0.0, [timing(1.0, 7), timing(1.0, 3)])
    timings.add(0.0, [timing(1.0, 5)])
    assert timings.take()["peak_bytes"] == 7
    assert timings.take() == {"peak_bytes": 0}


def test_a_part_is_averaged_over_the_updates_that_have_it():
    timings = UpdateTimings()
    timings.add(0.0, [timing(1.0, a_forward=2.0, update=1.0)])
    timings.add(0.0, [timing(1.0, b_forward=6.0, update=3.0)])
    taken = timings.take()
    assert taken["a_forward_ms"] == 2.0 and taken["b_forward_ms"] == 6.0
    assert taken["update_ms"] == pytest.approx(2.0)
