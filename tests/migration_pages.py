"""The code in the pages of docs/migrating, run block by block in a folder with tiny data."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

DOCS = pathlib.Path(__file__).parent.parent / "docs"
_BLOCK = re.compile(r"<!-- run: ([\w -]+) -->\n```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PYTHON = re.compile(r"^```python", re.MULTILINE)


class Page:
    """Python blocks of a page, by the name in the comment above each of them.

    Args:
        name: Path below docs.
        changes: Texts to replace, such as a network by a small one. Each must occur in the page.
    """

    def __init__(self, name: str, changes: Mapping[str, str]) -> None:
        text = (DOCS / name).read_text("utf-8")
        assert len(_BLOCK.findall(text)) == len(_PYTHON.findall(text)), "a comment says how each block is run"
        for old, new in changes.items():
            assert old in text, f"{name} has no {old!r} to replace"
            text = text.replace(old, new)
        self.name, self.blocks = name, _BLOCK.findall(text)

    def run(self, *starts: str, namespace: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the blocks whose names start so, in the order of the page, and return their variables."""
        found = {} if namespace is None else namespace
        code = [(label, block) for label, block in self.blocks if label.startswith(starts)]
        assert code, starts
        for label, block in code:
            exec(compile(block, f"{self.name}: {label}", "exec"), found)
        return found
