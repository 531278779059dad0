"""What a recipe prints, at the level that the user asked for: :class:`Printer`."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Printer:
    """Prints what the user wants to read.

    Attributes:
        level: 0 prints nothing, 1 the result of each step, 2 details too.
    """

    level: int

    def say(self, text: object) -> None:
        """Print the result of a step."""
        if self.level > 0:
            print(text, flush=True)

    def detail(self, text: object) -> None:
        """Print what only a user who asked for details wants to read."""
        if self.level > 1:
            print(text, flush=True)
