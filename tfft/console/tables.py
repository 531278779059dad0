"""Rendering of rich tables as plain text."""

from __future__ import annotations

import io
import shutil

from rich.console import Console, RenderableType


def render(*parts: RenderableType, least: int = 100) -> str:
    """Render rich objects as text without colours, as wide as the terminal but at least ``least`` columns.

    Args:
        parts: Objects to render below each other.
        least: Minimum width in columns.
    """
    width = max(least, min(shutil.get_terminal_size((120, 24)).columns, 160))
    text = io.StringIO()
    # In a notebook, rich would show the parts at once and return nothing.
    console = Console(
        file=text, width=width, color_system=None, force_terminal=False, force_jupyter=False, legacy_windows=False
    )
    for part in parts:
        console.print(part)
    return text.getvalue().rstrip("\n")
