"""A request to stop that waits until a step is done: :class:`StopRequests`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """Takes SIGTERM and SIGINT (Ctrl-C) while ``fit`` runs, so that what was done can be saved before the end.

    The second signal acts at once, as it would without this. So does the first one when ``fit`` is not running any
    more, because it ended with an error.

    Args:
        fitting: tells whether ``fit`` runs, from the frame that a signal interrupted.

    Attributes:
        received: number of the signal, or None.
    """

    def __init__(self, fitting: Callable[[FrameType | None], bool]) -> None:
        self.received: int | None = None
        self._fitting = fitting
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Start to listen; do nothing outside of the main thread, where Python allows no handlers."""
        self.received = None
        if threading.current_thread() is not threading.main_thread() or self._previous:
            return
        for number in _SIGNALS:
            previous = signal.getsignal(number)
            if previous not in (None, signal.SIG_IGN):  # None: set by something that is not Python
                self._previous[number] = previous
                signal.signal(number, self._handle)

    def remove(self) -> None:
        """Put the handlers back that were there before."""
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous)
        self._previous = {}

    def leave(self, message: str) -> NoReturn:
        """End the process as the signal would have, after what there was to say.

        Raises:
            SystemExit: 143, after SIGTERM.
            KeyboardInterrupt: after SIGINT.
        """
        number = self.received
        self.remove()
        if number == signal.SIGINT:
            raise KeyboardInterrupt(message)
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(128 + int(number or signal.SIGTERM))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None or not self._fitting(frame):
            self.remove()
            os.kill(os.getpid(), number)
            return
        self.received = number
        if number == signal.SIGINT:
            print("Saving after this step; press Ctrl-C again to stop at once.", file=sys.stderr, flush=True)
