import mlx.core as mx

from energyflow_mlx.lattice.convergence import Progress, has_converged


def verdicts(config, arrived, total=100):
    """Verdict after every step of a run in which ``arrived[i]`` flows have landed."""
    progress, stops = Progress.start(), []
    exists = mx.full((1, total), True)
    for step, count in enumerate(arrived):
        alive = mx.arange(total)[None] >= count
        progress, stop = has_converged(config, progress, alive, exists, step + 1)
        stops.append(stop.item())
    return stops


def test_stops_when_the_share_is_reached_but_not_before_the_least_steps(small_config):
    config = small_config(convergence_threshold=0.9, convergence_min_steps=3)
    assert verdicts(config, [95, 95, 95]) == [False, False, True]
    assert verdicts(config, [0, 10, 89, 90]) == [False, False, False, True]


def test_stops_when_no_more_flows_arrive(small_config):
    config = small_config(convergence_threshold=0.9, convergence_patience=2)
    stops = verdicts(config, [50] * 8)
    assert stops == [False] * 6 + [True, True]


def test_progress_forgives_a_stall(small_config):
    config = small_config(convergence_threshold=0.9, convergence_patience=2)
    assert not any(verdicts(config, [10, 10, 10, 10, 10, 10, 30, 40, 50, 60]))


def test_late_in_a_run_half_the_patience_is_enough(small_config):
    config = small_config(convergence_threshold=0.99, convergence_patience=6)
    stops = verdicts(config, [85] * 13)
    assert stops.index(True) == 10  # after 11 steps: stalled 6 times, more than 3
    low = verdicts(config, [70] * 11)
    assert low.index(True) == 10  # by the full patience


def test_nothing_arriving_at_all_is_no_stall(small_config):
    """F25: the reference's counters are Python numbers read in every step."""
    config = small_config(convergence_threshold=0.9, convergence_patience=1)
    assert not any(verdicts(config, [0] * 12))
