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
from rich.constrain import Constrain
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

_RATE_WINDOW = 500  # reports over which the speed for the ETA is measured
_TRAINING = "train"
_BEFORE_TRAINING = "first update"  # which compiles
_ROOM_FOR_ECHO = 3
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
        if self._training is not None:
            self._bars.remove_task(self._training)
            self._training, self._values = None, {}
        while self._handlers:
            handler, stream = self._handlers.pop()
            handler.setStream(stream)

    def header(self, rows: Mapping[str, Any]) -> None:
        """Show what the run is: one row per entry, a list of lines as its value."""
        lines = [
            ("" if index else key, line)
            for key, value in rows.items()
            for index, line in enumerate(_lines(value))
        ]
        if not self.is_live:
            self._plain(self._title)
            self.lines(lines)
            return
        title = Text(self._title, "bold")
        self._console.print(
            Panel(_grid(lines, "cyan"), title=title, title_align="left")
        )

    def lines(self, rows: Sequence[tuple[str, str]]) -> None:
        """Show lines of text, each after its label."""
        if self.is_live:
            if rows:
                self._console.print(Padding(_grid(rows, "dim"), (0, 0, 0, 2)))
            return
        width = max((len(label) for label, _ in rows), default=0)
        for label, text in rows:
            self._plain(f"  {label:<{width}}  {text}")

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

    def advance(self, step: int, total: int) -> None:
        """Move the bar of the training, between two reports of ``progress``."""
        self._pace.report(step)
        if self._training is not None:
            self._bars.update(self._training, description=_TRAINING)
            self._update(self._training, step, total, self._pace)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say what the run does while its bar rests; on a terminal only."""
        if self._training is None:
            yield
            return
        self._bars.update(self._training, description=what)
        try:
            yield
        finally:
            if self._training is not None:
                self._bars.update(self._training, description=_TRAINING)

    @contextmanager
    def task(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Show a side task, such as encoding; yields its ``report(done, total)``."""
        pace = _Pace(self._clock)
        bar = self._bars.add_task(name, total=None, counts="", eta="")
        if self.is_live:
            self._show()
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
        self._console.print(Text(title, "bold"))  # a table's own would wrap to it
        table = Table(box=box.SIMPLE_HEAD)
        for index, column in enumerate(columns):
            right = _is_numeric([row[index] for row in rows])
            justify = "right" if right else "left"
            table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in rows:
            table.add_row(*[Text(format_value(value)) for value in row])
        self._console.print(table)

    def message(self, text: str) -> None:
        """Say one thing, such as a validation; a terminal's lines end at words."""
        if self.is_live:
            self._console.print(Text(text))
        else:
            self._plain(text)

    def command(self, words: Sequence[str]) -> None:
        """Show a command to copy; a backslash continues it on a narrow terminal.

        Args:
            words: Its words, quoted for a shell.
        """
        room = self._console.width - 2 if self.is_live else None
        for line in _shell_lines(words, room):
            self._plain(f"  {line}")

    def _plain(self, line: str) -> None:
        self._console.print(Text(line.rstrip()), soft_wrap=True)

    def _draw(self, step: int, total: int) -> None:
        if self._training is None:
            self._training = self._bars.add_task(_BEFORE_TRAINING, counts="", eta="")
        self._update(self._training, step, total, self._pace)

    def _start(self) -> None:
        """Begin drawing, with log handlers turned to print above the block."""
        self._live = Live(self._block(), console=self._console, refresh_per_second=8)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and _on_terminal(handler):
                self._handlers.append((handler, handler.stream))
                handler.setStream(FileProxy(self._console, handler.stream))
        self._live.start(refresh=True)

    def _update(self, bar: TaskID, done: int, total: int, pace: "_Pace") -> None:
        counts = f"{done:,}/{total:,}"
        eta = pace.eta(total)
        self._bars.update(bar, completed=done, total=total, counts=counts, eta=eta)
        self._show()

    def _show(self) -> None:
        """Draw the block as it is now; a thread draws it eight times a second."""
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
        block = Group(self._bars, *([Padding(values, (0, 0, 0, 1))] if shown else []))
        # A terminal echoes ^C at the end of the last line: it must not start another.
        return Constrain(block, self._console.width - _ROOM_FOR_ECHO)


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


def _grid(rows: Sequence[tuple[str, str]], style: str) -> Table:
    """Labels and texts, which are broken at words where they are too long."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=style, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(label, Text(text))
    return grid


def _shell_lines(words: Sequence[str], room: int | None) -> list[str]:
    """A command in lines of at most ``room`` characters, where its words allow."""
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if room is not None and lines[-1] and len(longer) + 2 > room:
            lines[-1] += " \\"
            longer = f"    {word}"
            lines.append("")
        lines[-1] = longer
    return lines


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
        SpinnerColumn("line", style="dim", finished_text=" "),
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[counts]}"),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("[dim]ETA[/] {task.fields[eta]}"),
        expand=True,
    )
