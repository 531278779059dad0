"""Stop requests that wait for the end of a step: :class:`StopRequests`."""

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
    """Handle SIGTERM and SIGINT (Ctrl-C) during ``fit``, so that the state can be saved before the end.

    The second signal acts immediately, as it would without this class. So does the first one if ``fit`` is no longer
    running, because it ended with an error.

    Args:
        fitting: Function that returns whether ``fit`` runs, from the interrupted frame.

    Attributes:
        received: Number of the signal, or None.
    """

    def __init__(self, fitting: Callable[[FrameType | None], bool]) -> None:
        self.received: int | None = None
        self._fitting = fitting
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Install the handlers; do nothing outside the main thread, where Python does not allow them."""
        self.received = None
        if threading.current_thread() is not threading.main_thread() or self._previous:
            return
        for number in _SIGNALS:
            previous = signal.getsignal(number)
            if previous not in (None, signal.SIG_IGN):  # None: set by something that is not Python
                self._previous[number] = previous
                signal.signal(number, self._handle)

    def remove(self) -> None:
        """Restore the previous handlers."""
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous)
        self._previous = {}

    def leave(self, message: str) -> NoReturn:
        """End the process as the signal would have, after a message.

        Raises:
            SystemExit: 143, after SIGTERM.
            KeyboardInterrupt: After SIGINT.
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
