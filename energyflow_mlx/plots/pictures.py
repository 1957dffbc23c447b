"""Pictures of the lattice's flows: surfaces, arrivals and histograms."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from energyflow_mlx.evaluation.flow_record import Cube, FlowRecord
from energyflow_mlx.runtime.atomic import write_aside

_SIGNED = "RdBu_r"  # energies: zero is white
_COUNT = "viridis_r"  # arrivals; none is white
_MOST_ROWS = 8  # sentences in the picture of the surfaces


def write_pictures(
    cube: Cube, records: Sequence[FlowRecord], folder: Path
) -> list[Path]:
    """Draw the flows of some sentences.

    Args:
        cube: What the sentences have in common.
        records: At least one sentence.
        folder: Where the pictures go; created when missing.

    Returns:
        ``surfaces.png`` (of the first eight sentences), ``arrivals.png``,
        ``regions.png`` and ``histograms.png`` (of all), and with several sentences
        ``changes.png``.
    """
    drawn = draw_pictures(cube, records)
    return [
        save(figure, Path(folder) / f"{name}.png") for name, figure in drawn.items()
    ]


def draw_pictures(cube: Cube, records: Sequence[FlowRecord]) -> dict[str, Figure]:
    """The pictures of ``write_pictures`` by name; arguments as there."""
    drawn = {
        "surfaces": _draw_surfaces(records[:_MOST_ROWS]),
        "arrivals": _draw_arrivals(cube, records),
        "regions": _draw_regions(records),
        "histograms": _draw_histograms(cube, records),
    }
    if len(records) > 1:
        drawn["changes"] = _draw_changes(records[: _MOST_ROWS + 1])
    return drawn


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    with write_aside(path) as aside:
        figure.savefig(aside, format="png")
    return path


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _draw_surfaces(records: Sequence[FlowRecord]) -> Figure:
    """One row a sentence: energies at the start, energies that arrived.

    All have one color scale, so that a row's two surfaces can be compared.
    """
    figure = _figure(8.4, 3.7 * len(records))
    pairs = [(record.surface_in, record.surface_out) for record in records]
    limit = max(1e-6, float(np.max(np.abs(pairs))))
    rows = figure.subfigures(len(records), 1, squeeze=False)[:, 0]
    for row, record, pair in zip(rows, records, pairs, strict=True):
        row.suptitle(shorten(record.text, 90, placeholder=" ..."), fontsize=11)
        places = row.subplots(1, 2)
        for axes, title, surface in zip(
            places, ("Input surface", "Output surface"), pair, strict=True
        ):
            image = _show(axes, surface, _SIGNED, -limit, limit)
            axes.set_title(title, fontsize=10)
        row.colorbar(image, ax=places, shrink=0.85, label="energy")
    return figure


def _draw_arrivals(cube: Cube, records: Sequence[FlowRecord]) -> Figure:
    """Mean number of flows that landed on each cell of each open face."""
    faces = [("Far face, z = +1", [record.arrivals_far for record in records])]
    if cube.is_dual:
        near = [record.arrivals_near for record in records]
        faces.insert(0, ("Near face, z = \u22121", near))
    counts = [np.mean(arrivals, axis=0) for _, arrivals in faces]
    figure = _figure(1.4 + 4.4 * len(faces), 5.1)
    axes = figure.subplots(1, len(faces), squeeze=False)[0]
    crowd = float(np.max(counts))
    colors = colormaps[_COUNT].with_extremes(under="white")
    least = 0.5 / len(records)  # less than one flow of one sentence: none at all
    for place, (title, _), count in zip(axes, faces, counts, strict=True):
        image = _show(place, count, colors, least, max(1.0, crowd))
        hit = f"{count.sum():.4g} flows, {np.mean(count > 0):.0%} of the cells hit"
        place.set_title(f"{title}\n{hit}", fontsize=10)
    over = f", mean of {len(records)} sentences" if len(records) > 1 else ""
    figure.colorbar(
        image, ax=axes, shrink=0.85, extend="min", label=f"flows on a cell{over}"
    )
    return figure


def _draw_regions(records: Sequence[FlowRecord]) -> Figure:
    """What the cosine loses when a region's flows start without energy."""
    worth = np.mean([record.worth for record in records], axis=0)
    figure = _figure(5.8, 5.1)
    axes = figure.subplots()
    image = _show(axes, worth, _COUNT, 0.0, max(1e-6, float(worth.max())))
    over = f", mean of {len(records)} sentences" if len(records) > 1 else ""
    axes.set_title(f"Loss without the region{over}", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.85, label="1 \u2212 cosine")
    return figure


def _draw_changes(records: Sequence[FlowRecord]) -> Figure:
    """What each other sentence changes: its energies and arrivals, less the first's."""
    first, *others = records
    figure = _figure(11.4, 3.6 * len(others))
    rows = figure.subfigures(len(others), 1, squeeze=False)[:, 0]
    for row, record in zip(rows, others, strict=True):
        title = f"{record.text}  less  {first.text}"
        row.suptitle(shorten(title, 130, placeholder=" ..."), fontsize=11)
        kinds = {
            "Energies that started": record.surface_in - first.surface_in,
            "Energies that arrived": record.surface_out - first.surface_out,
            "Flows that landed, both faces": record.arrivals - first.arrivals,
        }
        places = row.subplots(1, len(kinds))
        for axes, (name, difference) in zip(places, kinds.items(), strict=True):
            limit = max(1e-6, float(np.abs(difference).max()))
            image = _show(axes, difference, _SIGNED, -limit, limit)
            axes.set_title(name, fontsize=10)
            row.colorbar(image, ax=axes, shrink=0.85)
    return figure


def _show(
    axes: Axes,
    surface: np.ndarray,
    colors: str | Colormap,
    low: float,
    high: float,
) -> AxesImage:
    image = axes.imshow(
        surface, cmap=colors, vmin=low, vmax=high, origin="lower", aspect="equal"
    )
    axes.set(xlabel="x", ylabel="y")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    return image


def _draw_histograms(cube: Cube, records: Sequence[FlowRecord]) -> Figure:
    """Final z, age, time of arrival and sideways displacement of all flows."""
    final_z = np.concatenate([record.position[-1, :, 2] for record in records])
    age = np.concatenate([record.age for record in records])
    by_itself = [record.arrived[record.reached != 0] for record in records]
    sideways = np.concatenate([record.sideways for record in records])
    whole = np.arange(cube.steps + 2) - 0.5
    figure = _figure(9, 6.4)
    axes = figure.subplots(2, 2)
    panels = (
        ("z at the end, before projection", final_z, np.linspace(-1, 1, 41)),
        ("Age", age, whole),
        ("Arrival on a face", np.concatenate(by_itself), whole),
        ("Sideways displacement", sideways, _forty_bins(sideways)),
    )
    never = len(age) - sum(len(steps) for steps in by_itself)
    late = f"step; {never} of {len(age)} flows never arrive"
    labels = ("z", "steps taken", late, "distance in x and y")
    for place, (title, values, bins), label in zip(
        axes.flat, panels, labels, strict=True
    ):
        _histogram(place, values, bins)
        if label != "z" and len(values):  # two faces: their middle says nothing
            mean = float(values.mean())
            place.axvline(mean, color="C3", lw=1.4)
            title = f"{title}, mean {mean:.3g}"
        place.set(title=title, xlabel=label, ylabel="flows")
        ticks = MaxNLocator(8, steps=[1, 2, 5, 10], integer=bins is whole)
        place.xaxis.set_major_locator(ticks)
    return figure


def _forty_bins(values: np.ndarray) -> np.ndarray:
    top = float(values.max(initial=0.0))
    return np.linspace(0, top if top > 1e-6 else 1.0, 41)


def _histogram(axes: Axes, values: np.ndarray, bins: np.ndarray) -> None:
    edges = [float(edge) for edge in bins]
    axes.hist(values, edges, color="C0", edgecolor="white", linewidth=0.4)
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
