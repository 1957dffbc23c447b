"""What a user sees of a run: a header, a progress display, tables and messages.

On a terminal the progress is one live block that rewrites itself. Anywhere else (a
pipe, a file, a dumb terminal) it is one plain line every ``log_every`` steps, and
tables are aligned text without colors or box drawing. Log lines and messages that come
while the live block is shown are printed above it.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

_RATE_WINDOW = 50  # reports over which the speed for the ETA is measured
_TASK_LINES = 5  # plain lines per side task
_ORDER = ("loss", "cosine", "CE", "lr", "samples/s")  # others follow as they came
_LABELS = {"ce": "CE", "student_ce": "student CE", "samples_per_second": "samples/s"}


class RunDisplay:
    """Shows one run; use it as a context manager.

    Attributes:
        is_live: Whether there is a terminal to draw on.
    """

    def __init__(
        self,
        *,
        log_every: int = 1,
        title: str = "energyflow_mlx",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a display; nothing is shown yet.

        Args:
            log_every: Steps between plain progress lines, at least 1; a run says how
                many, by default every report is shown.
            title: Title of the header.
            console: Where to draw; by default standard output.
            clock: Seconds, for elapsed time and ETA.
        """
        if log_every < 1:
            raise ValueError(
                f"[display] log_every must be at least 1, got {log_every}."
            )
        self._console = console or Console(highlight=False)
        self.is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._log_every = log_every
        self._title = title
        self._clock = clock
        self._values: dict[str, float] = {}
        self._pace = _Pace(clock)
        self._next_line = 0
        self._bars = _bars()
        self._training: TaskID | None = None
        self._live: Live | None = None
        self._handlers: list[tuple[logging.StreamHandler[Any], Any]] = []

    def __enter__(self) -> "RunDisplay":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the last progress on the screen and stop drawing."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        while self._handlers:
            handler, stream = self._handlers.pop()
            handler.setStream(stream)

    def header(self, rows: Mapping[str, Any]) -> None:
        """Show what the run is: one row per entry, a list of lines as its value."""
        if not self.is_live:
            width = max(map(len, rows), default=0)
            self._plain(self._title)
            for key, value in rows.items():
                for index, line in enumerate(_lines(value)):
                    self._plain(f"  {'' if index else key:<{width}}  {line}")
            return
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="cyan", no_wrap=True)
        grid.add_column(overflow="fold")
        for key, value in rows.items():
            grid.add_row(key, Text("\n".join(_lines(value))))
        panel = Panel(grid, title=Text(self._title, "bold"), title_align="left")
        self._console.print(panel)

    def progress(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Report a training step.

        Args:
            step: Steps done so far; a resumed run goes on counting. A first report
                without values, before the first step, lets the ETA start early.
            total: Steps of the whole run.
            values: What to show, by name. A name that is missing keeps its last value,
                since alternating objectives each report their own.
        """
        named = {_LABELS.get(name, name): value for name, value in values.items()}
        merged = {**self._values, **named}
        self._values = dict(sorted(merged.items(), key=_place))
        self._pace.report(step)
        if self.is_live:
            self._draw(step, total)
        elif self._values and (step >= self._next_line or step == total):
            self._next_line = (step // self._log_every + 1) * self._log_every
            parts = [f"step {step}/{total}"]
            parts += [f"{k} {format_value(v)}" for k, v in self._values.items()]
            parts.append(f"ETA {self._pace.eta(total)}")
            self._plain("  ".join(parts))

    @contextmanager
    def task(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Show a side task, such as encoding; yields its ``report(done, total)``."""
        pace = _Pace(self._clock)
        bar = self._bars.add_task(name, total=None, counts="", eta="")
        reported = -1

        def report(done: int, total: int) -> None:
            nonlocal reported
            pace.report(done)
            if self.is_live:
                self._update(bar, done, total, pace)
                return
            tenth = done * _TASK_LINES // max(total, 1)
            if tenth > reported:
                reported = tenth
                self._plain(f"{name} {done}/{total}  ETA {pace.eta(total)}")

        try:
            yield report
        finally:
            self._bars.remove_task(bar)
            if self._live is not None:
                self._live.update(self._block(), refresh=True)
                if not self._bars.tasks:
                    self.close()

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Show a table; numbers are formatted and set to the right."""
        if not self.is_live:
            self._plain(title)
            for line in format_table(columns, rows).splitlines():
                self._plain(f"  {line}")
            return
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
        table.title_style = "bold"
        for index, column in enumerate(columns):
            right = _is_numeric([row[index] for row in rows])
            justify = "right" if right else "left"
            table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in rows:
            table.add_row(*[Text(format_value(value)) for value in row])
        self._console.print(table)

    def message(self, text: str) -> None:
        """Say one thing, such as a validation result or a saved checkpoint."""
        self._plain(text)

    def _plain(self, line: str) -> None:
        self._console.print(Text(line.rstrip()), soft_wrap=True)

    def _draw(self, step: int, total: int) -> None:
        if self._training is None:
            self._training = self._bars.add_task("train", counts="", eta="")
        self._update(self._training, step, total, self._pace)
        if step >= total:  # leave it on the screen; what follows is printed below
            self.close()
            self._bars.remove_task(self._training)
            self._training = None
            self._values = {}

    def _start(self) -> None:
        """Begin drawing, with log handlers turned to print above the block."""
        self._live = Live(self._block(), console=self._console, refresh_per_second=4)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and _on_terminal(handler):
                self._handlers.append((handler, handler.stream))
                handler.setStream(FileProxy(self._console, handler.stream))
        self._live.start(refresh=True)

    def _update(self, bar: TaskID, done: int, total: int, pace: "_Pace") -> None:
        counts = f"{done:,}/{total:,}"
        eta = pace.eta(total)
        self._bars.update(bar, completed=done, total=total, counts=counts, eta=eta)
        if self._live is None:
            self._start()
        else:
            self._live.update(self._block())

    def _block(self) -> RenderableType:
        shown = [
            Text.assemble((f"{name} ", "dim"), (format_value(value), "bold"))
            for name, value in self._values.items()
        ]
        values = Columns(shown, padding=(0, 3))
        return Group(self._bars, *([Padding(values, (0, 0, 0, 1))] if shown else []))


class _Pace:
    """Speed over the latest reports, and what it means for the rest."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reports: deque[tuple[float, int]] = deque(maxlen=_RATE_WINDOW)

    def report(self, done: int) -> None:
        """Note how much is done now."""
        self._reports.append((self._clock(), done))

    def eta(self, total: int) -> str:
        """Time left until ``total``, by the latest reports."""
        (first_time, first), (last_time, last) = self._reports[0], self._reports[-1]
        if last >= total:
            return format_duration(0)
        if last <= first or last_time <= first_time:
            return "-:--"
        rate = (last - first) / (last_time - first_time)
        return format_duration((total - last) / rate)


def format_value(value: Any) -> str:
    """Format a number to about four digits; text and everything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if size < 1e-3:
        return f"{value:.2e}"
    return f"{value:.4f}" if size < 10 else f"{value:,.{2 if size < 1000 else 0}f}"


def format_duration(seconds: float) -> str:
    """Format seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def format_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lay out a table as plain text, numbers to the right; one line per row."""
    cells = [list(columns), *[[format_value(value) for value in row] for row in rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [
        _is_numeric([row[index] for row in rows]) for index in range(len(widths))
    ]

    def line(row: list[str]) -> str:
        parts = zip(row, widths, numeric, strict=True)
        return "  ".join(f"{c:>{w}}" if n else f"{c:<{w}}" for c, w, n in parts)

    rule = ["-" * width for width in widths]
    return "\n".join(line(row).rstrip() for row in [cells[0], rule, *cells[1:]])


def _is_numeric(values: Sequence[Any]) -> bool:
    numbers = [v for v in values if v is not None]
    return bool(numbers) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in numbers
    )


def _lines(value: Any) -> list[str]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return [str(line) for line in value] if is_list else str(value).splitlines() or [""]


def _place(item: tuple[str, float]) -> int:
    return _ORDER.index(item[0]) if item[0] in _ORDER else len(_ORDER)


def _on_terminal(handler: logging.StreamHandler[Any]) -> bool:
    isatty = getattr(handler.stream, "isatty", None)
    return isatty is not None and isatty()


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[counts]}"),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("[dim]ETA[/] {task.fields[eta]}"),
        expand=True,
    )
