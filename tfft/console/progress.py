"""A bar that moves while files are read: :func:`reading_bar`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress

ReadingProgress = Callable[[int, int], None]


@contextlib.contextmanager
def reading_bar(shown: bool = True) -> Iterator[ReadingProgress | None]:
    """Show on standard error how many files are read, in a terminal or a notebook, and take the bar away at the end.

    Args:
        shown: False shows nothing anywhere.

    Yields:
        What is called with (files read, files in all); None where nobody would see it.

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
