"""One self-contained HTML page about a run, made of what its folder holds.

The page holds its style, its pictures as SVG and its tables, and loads nothing. It
follows the reader's light or dark theme. The page of the flows stands in it whole.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from energyflow_mlx.evaluation.corrections import ALL, HEADS, SPEED, correction_rows
from energyflow_mlx.evaluation.flow_record import (
    Cube,
    FlowRecord,
    describe,
    mean_statistics,
)
from energyflow_mlx.plots.curves import Curves, draw, panels_of
from energyflow_mlx.plots.facts import Record, RunFacts
from energyflow_mlx.plots.page import fill, page_text, read
from energyflow_mlx.plots.pictures import draw_pictures
from energyflow_mlx.plots.svg import inline, page_style
from energyflow_mlx.plots.tables import (
    Section,
    contents,
    folded,
    joined,
    pictures,
    table,
)
from energyflow_mlx.runtime.atomic import write_text

REPORT = "report.html"


class Flows(NamedTuple):
    """Sentences that were sent through the lattice of a run.

    Attributes:
        cube: What they have in common.
        records: One a sentence.
    """

    cube: Cube
    records: Sequence[FlowRecord]


def write_report(folder: Path, facts: RunFacts, flows: Sequence[Flows] = ()) -> Path:
    """Write ``report.html``, whole or not at all.

    Args:
        folder: Where it goes; created when missing.
        facts: What is known of the run.
        flows: Sentences through its lattice, where it has one.
    """
    sections = [
        Section("figures", "Figures", _figures(facts)),
        Section("curves", "Curves", draw_curves(facts.curves)),
        Section("sentences", "Held-out sentences, decoded", _samples(facts)),
        Section("corrections", "Decoded after corrections", _corrected(facts)),
        Section("failures", "Not decoded exactly", _failures(facts.evaluation)),
        Section("confused", "Confused sentences", _confused(facts.evaluation)),
        Section("sts", "Similarity of sentence pairs", _sts(facts.evaluation)),
        Section("flows", "Flows through the lattice", _flows(facts.name, flows)),
        Section("settings", "Settings", _settings(facts)),
    ]
    return write_sections(
        Path(folder) / REPORT, f"Run {facts.name}", _subtitle(facts), sections
    )


def write_sections(
    path: Path, title: str, subtitle: str, sections: Sequence[Section]
) -> Path:
    """Write a page of sections; those without a body are left out.

    Args:
        path: The HTML file; its folder is created when missing.
        title: Its heading, plain text.
        subtitle: A line under it, plain text.
        sections: Its parts.
    """
    kept = [section for section in sections if section.body]
    parts = {
        "title": escape(title),
        "theme.css": read("theme.css"),
        "report.css": read("report.css"),
        "heading": escape(title),
        "subtitle": escape(subtitle),
        "contents": contents(kept),
        "sections": joined(kept),
    }
    write_text(path, fill(read("report.html"), parts))
    return path


def draw_curves(curves: Curves) -> str:
    """Every panel as SVG, and the curves' figures in a table."""
    drawn = []
    with page_style():
        for panel, chosen in panels_of(curves):
            told = f"{panel.title} over the updates"
            drawn.append(inline(draw(panel, chosen), panel.file, told))
    rows = [
        [label, kind, len(values), *_extremes(steps, values)]
        for _, chosen in panels_of(curves)
        for (kind, label), (steps, values) in chosen.items()
    ]
    columns = ["value", "record", "points", "first", "last", "least", "at", "most"]
    return pictures(drawn) + folded("In figures", table([*columns, "at update"], rows))


def _extremes(steps: np.ndarray, values: np.ndarray) -> list[float | int | None]:
    first, last = float(values[0]), float(values[-1])
    if not np.isfinite(values).any():
        return [first, last, None, None, None, None]
    low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
    least, most = float(values[low]), float(values[high])
    return [first, last, least, int(steps[low]), most, int(steps[high])]


def _subtitle(facts: RunFacts) -> str:
    summary = facts.summary
    if not summary:
        return "This run has not ended."
    metric, value = next(iter(summary["best"].items()))
    return (
        f"{summary['status']} after {summary['steps']:,} updates and "
        f"{summary['seconds']:.0f} s of training; best at update "
        f"{summary['best']['step']:,}, {metric} {value:.4f}"
    )


def _figures(facts: RunFacts) -> str:
    """Figures at the end of training beside those of the latest evaluation."""
    evaluated = {k: v for k, v in facts.evaluation.items() if k != "details"}
    for stem, value in evaluated.pop("spearman", {}).items():
        evaluated[f"spearman {stem}"] = value
    evaluated = {k: v for k, v in evaluated.items() if not isinstance(v, dict)}
    columns = {"end of training": facts.figures, "latest evaluation": evaluated}
    columns = {head: found for head, found in columns.items() if found}
    names = list(dict.fromkeys(name for found in columns.values() for name in found))
    if not names:
        return ""
    rows = [[name, *(found.get(name) for found in columns.values())] for name in names]
    return table(["measure", *columns], rows)


def _samples(facts: RunFacts) -> str:
    """Followed sentences at the best update, and what they were before and after."""
    samples = facts.samples
    if not samples:
        return ""
    last = max(sample["step"] for sample in samples)
    best = facts.summary.get("best", {}).get("step", last)
    chosen = [sample for sample in samples if sample["step"] == best]
    head = f"<p>At update {best:,}:</p>\n"
    history = sorted(samples, key=lambda s: (s["path"], s["sentence"], s["step"]))
    return (
        head
        + _sample_table(chosen)
        + folded("At every validation", _sample_table(history, with_step=True))
    )


def _sample_table(samples: Sequence[Record], *, with_step: bool = False) -> str:
    paths = {sample["path"] for sample in samples}
    keys = ["original", *["path"] * (len(paths) > 1), "decoded", "cosine"]
    keys = ["step", *keys] if with_step else keys
    heads = {"step": "update", "original": "held-out sentence"}
    rows = [[sample[key] for key in keys] for sample in samples]
    return table([heads.get(key, key) for key in keys], rows)


def _corrected(facts: RunFacts) -> str:
    """Figures after each number of corrections, of all sentences and of groups."""
    rows = correction_rows(facts.evaluation)
    if not rows:
        return ""
    every = [row[1:] for row in rows if row[0] == ALL]
    head = table([*HEADS[1:], SPEED], every)
    groups = [row[:-1] for row in rows if row[0] != ALL]
    return head + folded("By length and source", table(HEADS, groups))


def _failures(evaluation: Record) -> str:
    """The worst of the decoded sentences, before and after corrections."""
    found = evaluation.get("details", {}).get("failures")
    if not found:
        return ""
    rows: list[list[Any]] = []
    for failure in found["worst"]:
        sentence = failure["sentence"]
        for own in failure["written"]:
            rows.append([sentence, own["corrections"], own["text"], own["cosine"]])
            sentence = ""
    head = (
        f"<p>{found['wrong']:,} of {found['sentences']:,} held-out sentences are not "
        "exact after the most corrections. First those whose text's vector is farthest "
        "from the one that it was decoded from.</p>\n"
    )
    columns = ["held-out sentence", "corrections", "decoded", "cosine"]
    return head + (table(columns, rows) if rows else "")


def _confused(evaluation: Record) -> str:
    found = evaluation.get("details", {}).get("retrieval")
    if not found:
        return ""
    head = (
        f"<p>{found['confused']:,} of {found['sentences']:,} held-out sentences get a "
        "vector that is nearer to another sentence's teacher vector than to their own."
        "</p>\n"
    )
    if not found["worst"]:
        return head
    keys = ("sentence", "nearest", "own_cosine", "nearest_cosine")
    rows = [[pair[key] for key in keys] for pair in found["worst"]]
    columns = ["sentence", "nearest teacher vector", "cosine, own", "cosine, nearest"]
    return head + table(columns, rows)


def _sts(evaluation: Record) -> str:
    points = evaluation.get("details", {}).get("sts", {})
    scores = evaluation.get("spearman", {})
    drawn = []
    with page_style():
        for number, (stem, found) in enumerate(points.items()):
            title = f"{stem}: Spearman x 100 = {scores[stem]:.2f}"
            told = f"Cosine against score of the pairs of {stem}"
            figure = _draw_pairs(title, found, f"sts-{stem}")
            drawn.append(inline(figure, f"sts{number}", told))
    return pictures(drawn) if drawn else ""


def _draw_pairs(title: str, points: Record, gid: str) -> Figure:
    figure = Figure(figsize=(8.6, 4.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    drawn = axes.scatter(points["score"], points["cosine"], s=22, alpha=0.6, lw=0)
    drawn.set_gid(gid)
    axes.set(title=title, xlabel="score that people gave", ylabel="cosine of vectors")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _flows(name: str, flows: Sequence[Flows]) -> str:
    parts = []
    for number, (cube, records) in enumerate(flows):
        with page_style(font_size=9.5):
            drawn = [
                inline(figure, f"{kind}{number}", f"The flows: {kind}")
                for kind, figure in draw_pictures(cube, records).items()
            ]
        described = describe(mean_statistics(records), is_dual=cube.is_dual)
        rows: list[Sequence[Any]] = list(described.items())
        inner = escape(page_text(cube, records, name))
        parts += [
            table(["flows", f"mean of {len(records)} sentences"], rows),
            pictures(drawn),
            "<h3>Their paths</h3>",
            f'<iframe title="Paths of the flows" srcdoc="{inner}"></iframe>',
        ]
    return "\n".join(parts)


def _settings(facts: RunFacts) -> str:
    rows = list(facts.settings.items())
    marked = {i for i, (key, _) in enumerate(rows) if key in facts.changed}
    changed = [rows[i] for i in sorted(marked)]
    return table(["changed setting", "value"], changed) + folded(
        "All settings; changed ones in bold",
        table(["setting", "value"], rows, marked=marked),
    )
