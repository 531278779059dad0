"""Progress bar of a phase: :class:`Progress`."""

from __future__ import annotations

import time
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_PAUSE = 0.2  # seconds between two reads of the rate, which copies from the device


class Progress(keras.callbacks.Callback):
    """Show phase, step, loss, learning rate and remaining time, in a terminal or a notebook.

    If the output goes to a file, nothing is shown, since each epoch prints a line.

    Args:
        title: Name of the phase.
        steps: Steps of the whole phase.
        console: Console to write to. Defaults to standard output.
    """

    def __init__(self, title: str, steps: int, console: Console | None = None) -> None:
        super().__init__()
        self._title, self._steps = title, steps
        self._console = console or Console()
        self._bar: Bar | None = None
        self._done, self._looked = 0, 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Show the bar."""
        if self._bar is not None or not (self._console.is_terminal or self._console.is_jupyter):
            return
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        self._bar = Bar(*columns, TextColumn("{task.fields[now]}"), console=self._console, transient=True)
        self._task = self._bar.add_task(self._title, total=self._steps, completed=self._done, now="")
        self._bar.start()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Move it."""
        self._done += 1
        if self._bar is None or time.perf_counter() - self._looked < _PAUSE:
            return
        self._looked = time.perf_counter()
        loss = (logs or {}).get("loss")
        now = f"rate {float(self.model.optimizer.learning_rate):.2g}"
        now = now if loss is None else f"loss {float(loss):.4f}  {now}"
        self._bar.update(self._task, completed=self._done, now=now)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remove the bar."""
        self.close()

    def go_on(self, done: int) -> None:
        """Show steps that were completed before an interruption; called after ``on_train_begin``."""
        self._done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def close(self) -> None:
        """Remove the bar, also after an error, when Keras calls no hook."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
