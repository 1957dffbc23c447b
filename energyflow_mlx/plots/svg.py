"""Figures as SVG text that stands in a page and follows its light or dark theme.

Matplotlib draws; its black becomes the page's ink and its grid the page's lines, by
colors that stand for them until the text is written.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

# Colors that no picture has, and what takes their place in the page.
_INK, _GRID, _PAPER = "#010203", "#040506", "#070809"
_OF_THE_PAGE = {
    _INK: "currentColor",
    _GRID: "var(--line)",
    _PAPER: "var(--paper)",
}
_COLORS: tuple[str, ...] = ("#2f86d0", "#d9730d", "#2f9e4f", "#e0524f", "#9172cf")
_COLORS += ("#a6735f", "#d468ad", "#7d838d", "#96951a", "#1fa3b5")
_STYLE: dict[Any, Any] = {
    # Colors that stand out on both papers.
    "axes.prop_cycle": cycler(color=_COLORS),
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "energyflow_mlx",
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.facecolor": "none",
}


@contextmanager
def page_style(font_size: float = 12) -> Iterator[None]:
    """Draw figures inside it that ``inline`` is to turn into text.

    Args:
        font_size: In points; pictures stand in the page at some two thirds of theirs.
    """
    with matplotlib.rc_context(_STYLE | {"font.size": font_size}):
        yield


def inline(figure: Figure, name: str, description: str) -> str:
    """A figure as an ``svg`` element.

    Args:
        figure: Drawn inside ``page_style``.
        name: Stands before every id in it, so that those of two figures differ.
        description: What a reader hears who does not see it; plain text.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for color, role in _OF_THE_PAGE.items():
        text = text.replace(color, role)
    label = description.replace("&", "&amp;").replace('"', "&quot;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
