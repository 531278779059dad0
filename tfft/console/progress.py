"""Progress bars: :class:`ProgressBar`, :func:`progress_bar`, and :func:`reading_bar` for reading files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ReadingProgress = Callable[[int, int], None]


class ProgressBar:
    """Bar for a known number of steps, which disappears at the end.

    In a terminal it is a bar of rich. In a notebook it is one line of text that overwrites itself, which needs no
    widgets. Elsewhere, such as in a log file, nothing is shown.

    Args:
        title: Name of the work.
        total: Number of steps; None if it is not known yet.
        done: Number of completed steps.
        console: Console to write to. Defaults to standard output.
    """

    def __init__(self, title: str, total: int | None, *, done: int = 0, console: Console | None = None) -> None:
        self._title, self._total, self._width = title, total, 0
        self._console = console or Console()
        self._bar: Progress | None = None
        self.shown = self._console.is_terminal or self._console.is_jupyter
        if self._console.is_terminal and not self._console.is_jupyter:
            columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
            self._bar = Progress(*columns, TextColumn("{task.fields[now]}"), console=self._console, transient=True)
            self._task = self._bar.add_task(title, total=total, completed=done, now="", visible=total is not None)
            self._bar.start()

    def update(self, done: int, now: str = "", *, total: int | None = None) -> None:
        """Show the number of completed steps, and a short text behind it."""
        self._total = total or self._total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self._total, now=now, visible=True)
        elif self.shown:
            self._overwrite(f"{self._title} {done:,}/{self._total or 0:,}  {now}")

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._width:
            self._overwrite("")
        self.shown = False

    def _overwrite(self, text: str) -> None:
        ending = "" if text else "\r"
        print("\r" + text.ljust(self._width), end=ending, file=self._console.file, flush=True)
        self._width = len(text)


@contextlib.contextmanager
def progress_bar(title: str, total: int | None, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a :class:`ProgressBar` on standard output, and remove it at the end.

    Args:
        title: Name of the work.
        total: Number of steps; None if unknown.
        shown: Whether to show it.

    Yields:
        A function to call with the number of completed steps.
    """
    if not shown:
        yield lambda done: None
        return
    bar = ProgressBar(title, total)
    try:
        yield bar.update
    finally:
        bar.close()


@contextlib.contextmanager
def reading_bar(shown: bool = True) -> Iterator[ReadingProgress | None]:
    """Show a progress bar on standard error, in a terminal or a notebook, and remove it at the end.

    Args:
        shown: Whether to show the bar.

    Yields:
        A function to call with (files read, files in total); None if standard error is not shown to a user.

    Example:
        >>> with reading_bar() as progress:
        ...     splits = tfft.data.load("photos/", progress=progress)
    """
    console = Console(stderr=True)
    if not shown or not (console.is_terminal or console.is_jupyter):
        yield None
        return
    bar = ProgressBar("reading", None, console=console)
    try:
        yield lambda done, count: bar.update(done, total=count)
    finally:
        bar.close()
