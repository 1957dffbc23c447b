"""Curves come from the metrics file alone, and show what is in it."""

import math
import subprocess
import sys

import numpy as np
import pytest

from energyflow_mlx.errors import InputError
from energyflow_mlx.plots import plot_metrics
from energyflow_mlx.plots.curves import _running_mean, curves_of, draw, panels_of
from energyflow_mlx.runs.metrics import MetricsLog, read_metrics


def write_log(path, steps=200):
    rng = np.random.default_rng(0)
    with MetricsLog(path) as log:
        for step in range(10, 10 * steps + 1, 10):
            x = step / (10 * steps)
            log.write(
                {
                    "kind": "train",
                    "step": step,
                    "epoch": 3 * x,
                    "loss": math.nan if step == 50 else 2 * math.exp(-3 * x),
                    "cosine": 1 - math.exp(-4 * x) + 0.03 * rng.standard_normal(),
                    "ce": 8 * math.exp(-2 * x) + 0.3 * rng.standard_normal(),
                    "lr": 1e-3 * math.cos(x * math.pi / 2),
                    "decoder_lr": 2e-3 * math.cos(x * math.pi / 2),
                    "samples_per_second": 1000.0 + rng.standard_normal(),
                    "seconds": step * 0.1,
                }
            )
            if step % 200 == 0:
                val = {"cosine": 0.95 - math.exp(-4 * x), "ce": 8.5 * math.exp(-2 * x)}
                log.write({"kind": "validation", "step": step, "best": True} | val)


def test_every_panel_with_values_becomes_a_picture(tmp_path):
    write_log(tmp_path / "metrics.jsonl")
    curves = curves_of(read_metrics(tmp_path / "metrics.jsonl"))
    files = plot_metrics(curves, tmp_path / "plots")
    assert [file.name for file in files] == [
        *("loss.png", "cosine.png", "cross_entropy.png"),
        *("learning_rate.png", "speed.png", "step_time.png"),
    ]
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 5000


def test_curves_are_separated_by_kind_and_objective():
    records = [
        {"kind": "train", "objective": "distillation", "step": 1, "loss": 1.0},
        {"kind": "train", "objective": "reconstruction", "step": 2, "loss": 5.0},
        {"kind": "train", "objective": "distillation", "step": 3, "loss": 0.5},
        {"kind": "validation", "step": 3, "cosine": 0.5, "best": True, "note": "x"},
        {"event": "no step"},
    ]
    curves = curves_of(records)
    steps, values = curves["train", "distillation loss"]
    assert (steps.tolist(), values.tolist()) == ([1, 3], [1.0, 0.5])
    assert curves["train", "reconstruction loss"][1].tolist() == [5.0]
    assert "best" not in {name for _, name in curves}
    assert curves["validation", "cosine"][1].tolist() == [0.5]


def test_running_mean_keeps_a_line_and_skips_gaps():
    line = np.arange(200.0)
    np.testing.assert_allclose(_running_mean(line)[4:-4], line[4:-4])
    line[100] = np.nan
    assert np.all(np.isfinite(_running_mean(line)))
    assert abs(_running_mean(line)[100] - 100) < 1e-9


def test_an_empty_log_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="a step and numbers, got none"):
        plot_metrics(curves_of([]), tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


def test_plotting_needs_no_window_and_no_global_state(checkout):
    code = (
        "import sys, energyflow_mlx.plots\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)


def drawn(records):
    """Axes of the only panel that records give."""
    ((panel, curves),) = panels_of(curves_of(records))
    return draw(panel, curves).axes[0]


def test_a_curve_of_one_record_is_a_dot():
    record = {"kind": "train", "step": 5, "loss": 2.0}
    (line,) = drawn([record]).lines
    assert line.get_marker() == "o"
    (line,) = drawn([record, record | {"step": 6}]).lines
    assert line.get_marker() == ""


def test_shares_of_retrieval_stand_on_an_axis_from_0_to_1():
    axes = drawn([{"kind": "validation", "step": 5, "p_at_1": 0.5, "p_at_10": 0.6}])
    assert axes.get_ylim() == (0, 1)
    assert not axes.lines[0].get_clip_on(), "a dot at 1 would be half"


def test_closeness_of_sentences_and_of_vectors_stand_in_one_picture():
    values = {"cosine": 0.8, "p_at_1": 1.0}
    values |= {f"transform_{name}": 0.5 for name in values}
    panels = panels_of(curves_of([{"kind": "validation", "step": 5, **values}]))
    assert {panel.file: len(curves) for panel, curves in panels} == {
        "cosine": 2,
        "retrieval": 2,
    }


def test_a_measure_without_a_panel_gets_its_own():
    values = {"oddity": 70.0, "best": True, "epoch": 1.0, "flow_created": 9.0}
    panels = panels_of(curves_of([{"kind": "validation", "step": 5, **values}]))
    assert [panel.file for panel, _ in panels] == ["oddity"]


def test_names_of_objectives_stay_whole_and_flows_are_called_short():
    losses = {"flow_text_loss": 2.0, "flow_loss": 1.0}
    names = [line.get_label() for line in drawn([{"step": 1, **losses}]).lines]
    assert names == ["flow text loss", "flow loss"]
    (line,) = drawn([{"step": 1, "flow_reached": 0.5}]).lines
    assert line.get_label() == "reached"
