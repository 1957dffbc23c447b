"""A bar on the terminal while sentences are encoded."""

import sys
from collections.abc import Iterator

import numpy as np

Parts = Iterator[tuple[np.ndarray, np.ndarray]]


def shown(parts: Parts, total: int, *, visible: bool) -> Parts:
    """Pass parts on, and count their rows in a bar on standard error.

    Args:
        parts: Numbers of rows ``[B]`` and the rows.
        total: Rows that will come.
        visible: Whether there is a bar.

    Yields:
        The parts.
    """
    if not visible:
        yield from parts
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("sentences", total=total)
        for members, rows in parts:
            yield members, rows
            bar.advance(task, len(members))
