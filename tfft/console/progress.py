"""Progress bar for reading files: :func:`reading_bar`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress

ReadingProgress = Callable[[int, int], None]


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
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None, visible=False)
        yield lambda done, count: bar.update(task, completed=done, total=count, visible=True)
