"""Curves of a run, drawn from its metrics log alone.

One picture per panel. Training records are drawn as thin lines, with a running mean
once there are many; validation records as dots joined by a line. A curve of a single
record is a dot.
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

_FLOW_SHARES = ("reached", "reached_near", "reached_far", "projected", "covered")
_SMOOTH_FROM = 60  # points, from which on a running mean is drawn over the raw line


# Numbers of a record that are no measure, or that another one is made of.
_KEPT_BACK = ("step", "epoch", "seconds", "traces", "peak_bytes")
_STEP_MS = "step_ms"


@dataclass(frozen=True)
class Panel:
    """One picture: which values belong in it, and how its axis is called.

    Attributes:
        file: Name of the picture, without its suffix.
        title: Its title.
        axis: What stands beside its vertical axis.
        holds: Whether a value of that name belongs in it.
        is_share: The values are shares, on an axis from 0 to 1.
        prefix: What all their names begin with; it is not shown.
    """

    file: str
    title: str
    axis: str
    holds: Callable[[str], bool]
    is_share: bool = False
    prefix: str = ""


def _named(*names: str) -> Callable[[str], bool]:
    return lambda name: name in names


def _closeness(name: str) -> Callable[[str], bool]:
    """Of sentences, and of vectors through the lattice where both are measured."""
    return _named(name, f"transform_{name}")


_PANELS = (
    Panel("loss", "Training loss", "loss", lambda n: n.split("_")[-1] == "loss"),
    Panel("cosine", "Cosine with the teacher", "cosine", _closeness("cosine")),
    Panel("mse", "Squared error", "MSE", _closeness("mse")),
    Panel(
        "cross_entropy",
        "Cross entropy of the next token",
        "nats per token",
        _named("ce", "student_ce", "own_ce"),
    ),
    Panel(
        "retrieval",
        "Retrieval of the teacher's vector",
        "precision",
        lambda n: n.startswith(("p_at_", "transform_p_at_")),
        is_share=True,
    ),
    Panel(
        "sts",
        "Similarity of sentences",
        "Spearman x 100",
        lambda n: n.startswith(("sts", "similarity")) and not n.endswith("_loss"),
    ),
    Panel(
        "vectors",
        "Numbers of the encoder's vectors",
        "value",
        lambda n: n.startswith("vector_"),
    ),
    Panel(
        "flows",
        "Flows that reach a face, cells they cover",
        "share",
        _named(*(f"flow_{n}" for n in _FLOW_SHARES)),
        prefix="flow_",
    ),
    Panel(
        "flow_lengths",
        "Way of the flows",
        "mean length; the cube is 2 wide",
        _named("flow_path", "flow_sideways"),
        prefix="flow_",
    ),
    Panel(
        "flow_steps",
        "Steps of the flows",
        "mean steps",
        _named("flow_steps"),
        prefix="flow_",
    ),
    Panel(
        "learning_rate",
        "Learning rate",
        "learning rate",
        lambda n: n == "lr" or n.endswith("_lr"),
    ),
    Panel(
        "grad_norm",
        "Gradient norm before clipping",
        "norm",
        lambda n: n.endswith("grad_norm"),
    ),
    Panel("speed", "Speed", "samples/s", _named("samples_per_second")),
    Panel("step_time", "Time of an update", "ms", _named(_STEP_MS)),
    Panel(
        "host_time",
        "Time of the host in an update",
        "ms",
        _named("batch_ms", "build_ms", "submit_ms", "wait_ms"),
    ),
    Panel(
        "own_pairs",
        "Own pairs made since the last record",
        "sentences",
        _named("own_pairs_sampled", "own_pairs_kept"),
        prefix="own_pairs_",
    ),
)

Curve = tuple[np.ndarray, np.ndarray]
# Steps and values by the record's kind and the value's name.
Curves = dict[tuple[str, str], Curve]


def plot_metrics(curves: Curves, out_folder: Path) -> list[Path]:
    """Draw the curves of a metrics log.

    Args:
        curves: Those of its records; see ``curves_of``.
        out_folder: Where the pictures go; created when missing.

    Returns:
        The files, one per panel for which there are values.

    Raises:
        InputError: There is nothing to draw.
    """
    panels = panels_of(curves)
    if not panels:
        raise InputError(
            "[plot] metrics.jsonl must hold records with a step and numbers, got none."
        )
    folder = Path(out_folder)
    return [save(draw(p, curves), folder / f"{p.file}.png") for p, curves in panels]


def panels_of(curves: Curves) -> list[tuple[Panel, Curves]]:
    """The panels for which there are values, with these.

    A measure that no panel is made for gets one of its own.
    """
    names = {key: key[1].split()[-1] for key in curves}
    known = [n for n in names.values() if any(p.holds(n) for p in _PANELS)]
    others = dict.fromkeys(n for n in names.values() if _is_other(n, known))
    own = [Panel(n, n.replace("_", " "), n, _named(n)) for n in others]
    found = []
    for panel in (*_PANELS, *own):
        chosen = {key: curves[key] for key, name in names.items() if panel.holds(name)}
        if chosen:
            found.append((panel, chosen))
    return found


def _is_other(name: str, known: list[str]) -> bool:
    """Whether a value is a measure that no panel is made for."""
    is_time = name.endswith("_ms")
    return not (
        name in known or name in _KEPT_BACK or is_time or name.startswith("flow_")
    )


def curves_of(records: list[dict[str, Any]]) -> Curves:
    """Collect the values of each kind and name over the steps.

    The time of an update, ``step_ms``, is the mean between two training records.
    """
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    last: tuple[int, float] | None = None
    for record in records:
        step = record.get("step")
        if not isinstance(step, int):
            continue
        kind, values = str(record.get("kind", "train")), dict(record)
        if kind == "train" and isinstance(record.get("seconds"), float):
            if last is not None and step > last[0]:
                taken = (record["seconds"] - last[1]) / (step - last[0])
                values[_STEP_MS] = taken * 1e3
            last = step, record["seconds"]
        objective = values.pop("objective", None)
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            label = f"{objective} {name}" if objective else name
            points.setdefault((kind, label), []).append((step, float(value)))
    return {
        key: (np.array([s for s, _ in found]), np.array([v for _, v in found]))
        for key, found in points.items()
    }


def draw(panel: Panel, curves: Curves) -> Figure:
    """The picture of one panel; the group of each curve is named by ``gid_of``."""
    figure, axes = blank(panel.title, panel.axis)
    for index, ((kind, label), curve) in enumerate(curves.items()):
        color = f"C{index}"
        name = label.removeprefix(panel.prefix).replace("_", " ")
        name = f"{name}, {kind}" if kind == "validation" else name
        gid = gid_of(kind, label)
        if kind != "validation":
            style = ("-", "--", ":")[index % 3]  # curves may lie on each other
            draw_training(axes, curve, name, color, style, gid=gid)
        else:
            marker = "osD^v"[index % 5] + "-"
            size = max(4, 9 - index)  # hollow and of every size, for the same reason
            axes.plot(
                *curve, marker, ms=size, mfc="none", lw=1.4, color=color, label=name,
                gid=gid, clip_on=not panel.is_share,
            )  # fmt: skip
    if panel.is_share:
        axes.set_ylim(0, 1)
    figure.legend(frameon=False, loc="outside right upper")
    return figure


def gid_of(kind: str, label: str) -> str:
    """Name of a curve's group in an SVG file."""
    return f"{kind}-{label}".replace(" ", "-")


def blank(title: str, axis: str) -> tuple[Figure, Axes]:
    """A picture of values over updates, still empty."""
    figure = Figure(figsize=(8.6, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel="update", ylabel=axis)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_training(
    axes: Axes, curve: Curve, name: str, color: str, style: str, *, gid: str
) -> None:
    """Draw a curve of training records: thin, and smoothed where they are many."""
    steps, values = curve
    if len(values) >= _SMOOTH_FROM:
        axes.plot(steps, values, lw=0.6, alpha=0.3, color=color, gid=gid)
        values, gid = _running_mean(values), f"{gid}-mean"
    marker = "o" if len(values) == 1 else ""
    axes.plot(
        steps, values, style, marker=marker, lw=1.6, color=color, label=name, gid=gid
    )


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
