"""Plain HTML: tables, figures and sections of a report."""

from collections.abc import Collection, Sequence
from html import escape
from typing import Any, NamedTuple


class Section(NamedTuple):
    """One part of a page.

    Attributes:
        name: Its anchor.
        title: Its heading, plain text.
        body: HTML; empty where there is nothing to show.
    """

    name: str
    title: str
    body: str


def shown(value: Any) -> str:
    """A value as text: numbers to about four digits."""
    if value is None:
        return "\u2013"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    marked: Collection[int] = (),
) -> str:
    """A table; columns of numbers stand to the right.

    Args:
        columns: Their heads, plain text.
        rows: Values; the first of a row names it.
        marked: Numbers of rows that stand out.
    """
    numeric = [_is_numeric([row[i] for row in rows]) for i in range(len(columns))]
    kinds = [' class="number"' if n else "" for n in numeric]
    head = "".join(
        f'<th scope="col"{kind}>{escape(column)}</th>'
        for column, kind in zip(columns, kinds, strict=True)
    )
    lines = []
    for number, (first, *others) in enumerate(rows):
        cells = "".join(
            f"<td{kind}>{escape(shown(value))}</td>"
            for value, kind in zip(others, kinds[1:], strict=True)
        )
        mark = ' class="changed"' if number in marked else ""
        name = f'<th scope="row"{kinds[0]}>{escape(shown(first))}</th>'
        lines.append(f"<tr{mark}>{name}{cells}</tr>")
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def pictures(figures: Sequence[str]) -> str:
    """SVG texts beside each other."""
    inside = "\n".join(f"<figure>{figure}</figure>" for figure in figures)
    return f'<div class="pictures">\n{inside}\n</div>'


def folded(title: str, body: str) -> str:
    """Something that a reader opens."""
    return f"<details><summary>{escape(title)}</summary>\n{body}\n</details>"


def contents(sections: Sequence[Section]) -> str:
    """Links to the sections of a page."""
    return "\n".join(f'<a href="#{s.name}">{escape(s.title)}</a>' for s in sections)


def joined(sections: Sequence[Section]) -> str:
    """The sections of a page, one after the other."""
    return "\n".join(
        f'<section id="{s.name}">\n<h2>{escape(s.title)}</h2>\n{s.body}\n</section>'
        for s in sections
    )


def _is_numeric(values: Sequence[Any]) -> bool:
    known = [v for v in values if v is not None]
    return bool(known) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in known
    )
