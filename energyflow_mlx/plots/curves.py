"""Curves of a run as PNG files, drawn from its metrics log alone.

One file per panel. Training records are drawn as thin lines, with a running mean once
there are many; validation records as dots joined by a line.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from energyflow_mlx.errors import InputError
from energyflow_mlx.plots.pictures import save
from energyflow_mlx.runs.metrics import read_metrics

_FLOW_SHARES = ("reached", "reached_near", "reached_far", "projected", "covered")
_SMOOTH_FROM = 60  # points, from which on a running mean is drawn over the raw line


@dataclass(frozen=True)
class _Panel:
    """One picture: which values belong in it, and how its axis is called."""

    file: str
    title: str
    axis: str
    holds: Callable[[str], bool]


def _named(*names: str) -> Callable[[str], bool]:
    return lambda name: name in names


_PANELS = (
    _Panel("loss", "Training loss", "loss", lambda n: n.split("_")[-1] == "loss"),
    _Panel("cosine", "Cosine with the teacher", "cosine", _named("cosine")),
    _Panel("mse", "Squared error", "MSE", _named("mse")),
    _Panel(
        "cross_entropy",
        "Cross entropy of the next token",
        "nats per token",
        _named("ce", "student_ce", "own_ce"),
    ),
    _Panel(
        "retrieval",
        "Retrieval of the teacher's vector",
        "precision",
        lambda n: n.startswith("p_at_"),
    ),
    _Panel(
        "sts",
        "Similarity of sentences",
        "Spearman x 100",
        lambda n: n.startswith(("sts", "similarity")) and not n.endswith("_loss"),
    ),
    _Panel(
        "vectors",
        "Numbers of the encoder's vectors",
        "value",
        lambda n: n.startswith("vector_"),
    ),
    _Panel(
        "flows",
        "Flows that reach a face, cells they cover",
        "share",
        _named(*(f"flow_{n}" for n in _FLOW_SHARES)),
    ),
    _Panel(
        "flow_lengths",
        "Way of the flows",
        "mean length; the cube is 2 wide",
        _named("flow_path", "flow_sideways"),
    ),
    _Panel("flow_steps", "Steps of the flows", "mean steps", _named("flow_steps")),
    _Panel(
        "learning_rate",
        "Learning rate",
        "learning rate",
        lambda n: n == "lr" or n.endswith("_lr"),
    ),
    _Panel(
        "grad_norm",
        "Gradient norm before clipping",
        "norm",
        lambda n: n.endswith("grad_norm"),
    ),
    _Panel("speed", "Speed", "samples/s", _named("samples_per_second")),
    _Panel(
        "host_time",
        "Time of the host in an update",
        "ms",
        _named("batch_ms", "build_ms", "submit_ms", "wait_ms"),
    ),
)

_Curve = tuple[np.ndarray, np.ndarray]
_Curves = dict[tuple[str, str], _Curve]


def plot_metrics(metrics_path: Path, out_folder: Path) -> list[Path]:
    """Draw the curves of a metrics log.

    Args:
        metrics_path: A ``metrics.jsonl``. Records hold ``step`` and numbers; the key
            ``kind`` says ``"train"`` or ``"validation"``, and ``objective``, where
            there is one, separates the curves.
        out_folder: Where the pictures go; created when missing.

    Returns:
        The files, one per panel for which there are values.

    Raises:
        InputError: The log is missing, damaged or holds nothing to draw.
    """
    curves = _curves(read_metrics(Path(metrics_path)))
    drawn = []
    for panel in _PANELS:
        chosen = {
            key: c for key, c in curves.items() if panel.holds(key[1].split()[-1])
        }
        if chosen:
            drawn.append((panel, chosen))
    if not drawn:
        raise InputError(
            f"[plot] {metrics_path}: must hold records with a step and numbers, got "
            "none."
        )
    return [_draw(panel, chosen, Path(out_folder)) for panel, chosen in drawn]


def _curves(records: list[dict[str, Any]]) -> _Curves:
    """Collect the values of each kind and name over the steps."""
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for record in records:
        step = record.get("step")
        if not isinstance(step, int):
            continue
        objective = record.get("objective")
        for name, value in record.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            label = f"{objective} {name}" if objective else name
            key = (str(record.get("kind", "train")), label)
            points.setdefault(key, []).append((step, float(value)))
    return {
        key: (np.array([s for s, _ in found]), np.array([v for _, v in found]))
        for key, found in points.items()
    }


def _draw(panel: _Panel, curves: _Curves, folder: Path) -> Path:
    figure = Figure(figsize=(8.6, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    for index, ((kind, label), curve) in enumerate(curves.items()):
        color = f"C{index}"
        name = label.removeprefix("flow_").replace("_", " ")
        name = f"{name}, {kind}" if kind == "validation" else name
        if kind != "validation":
            style = ("-", "--", ":")[index % 3]  # curves may lie on each other
            _draw_training(axes, curve, name, color, style)
        else:
            marker = "osD^v"[index % 5] + "-"
            size = max(4, 9 - index)  # hollow and of every size, for the same reason
            axes.plot(
                *curve, marker, ms=size, mfc="none", lw=1.4, color=color, label=name
            )
    axes.set(title=panel.title, xlabel="update", ylabel=panel.axis)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside right upper")
    return save(figure, folder / f"{panel.file}.png")


def _draw_training(
    axes: Axes, curve: _Curve, name: str, color: str, style: str
) -> None:
    steps, values = curve
    if len(values) >= _SMOOTH_FROM:
        axes.plot(steps, values, lw=0.6, alpha=0.3, color=color)
        values = _running_mean(values)
    axes.plot(steps, values, style, lw=1.6, color=color, label=name)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a centered window, cut off at both ends; skips non-finite values."""
    half = max(1, len(values) // 50)
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    center = np.arange(len(values))
    first = np.maximum(center - half, 0)
    last = np.minimum(center + half + 1, len(values))
    count = counts[last] - counts[first]
    mean = (sums[last] - sums[first]) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)
