"""Output of a recipe at the requested level of detail: :class:`Printer`."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Printer:
    """Printer of messages at the requested level of detail.

    Attributes:
        level: 0 prints nothing, 1 the result of each step, 2 details too.
    """

    level: int

    def say(self, text: object) -> None:
        """Print the result of a step."""
        if self.level > 0:
            print(text, flush=True)

    def detail(self, text: object) -> None:
        """Print a message if the user asked for details."""
        if self.level > 1:
            print(text, flush=True)
