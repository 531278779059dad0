"""Draws rich tables as plain text."""

from __future__ import annotations

import io
import shutil

from rich.console import Console, RenderableType


def render(*parts: RenderableType, least: int = 100) -> str:
    """Return what rich draws as text without colours, as wide as the terminal but not narrower than a table needs.

    Args:
        parts: drawn below each other.
        least: columns that a table needs.
    """
    width = max(least, min(shutil.get_terminal_size((120, 24)).columns, 160))
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None, force_terminal=False, legacy_windows=False)
    for part in parts:
        console.print(part)
    return text.getvalue().rstrip("\n")
