"""Progress bar of a phase: :class:`Progress`."""

from __future__ import annotations

import time
from typing import Any

import keras
from rich.console import Console

from tfft.console.progress import ProgressBar

_PAUSE = 0.2  # seconds between two reads of the rate, which copies from the device


class Progress(keras.callbacks.Callback):
    """Show phase, step, loss, learning rate and remaining time, in a terminal or a notebook.

    Args:
        title: Name of the phase.
        steps: Steps of the whole phase.
        console: Console to write to. Defaults to standard output.
    """

    def __init__(self, title: str, steps: int, console: Console | None = None) -> None:
        super().__init__()
        self._title, self._steps, self._console = title, steps, console
        self._bar: ProgressBar | None = None
        self._done, self._looked = 0, 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Show the bar."""
        if self._bar is None:
            self._bar = ProgressBar(self._title, self._steps, done=self._done, console=self._console)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Move it."""
        self._done += 1
        if self._bar is None or not self._bar.shown or time.perf_counter() - self._looked < _PAUSE:
            return
        self._looked = time.perf_counter()
        loss = (logs or {}).get("loss")
        now = f"rate {float(self.model.optimizer.learning_rate):.2g}"
        self._bar.update(self._done, now if loss is None else f"loss {float(loss):.4f}  {now}")

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remove the bar."""
        self.close()

    def go_on(self, done: int) -> None:
        """Show steps that were completed before an interruption; called after ``on_train_begin``."""
        self._done = done
        if self._bar is not None:
            self._bar.update(done)

    def close(self) -> None:
        """Remove the bar, also after an error, when Keras calls no hook."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
