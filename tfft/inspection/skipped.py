"""Findings about skipped files: :func:`unusable`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tfft.data import Skipped
from tfft.data.class_folders import is_stray
from tfft.errors import quantity
from tfft.inspection.findings import Finding, Item


def unusable(skipped: Sequence[Skipped], items: str, suffixes: tuple[str, ...]) -> Iterator[Finding]:
    """Yield a finding about unusable files, and one about files of another type.

    Args:
        skipped: Skipped files and folders, with the reasons.
        items: Plural noun for the expected files, such as "images".
        suffixes: Suffixes of the expected files.
    """
    bad: list[Item] = []
    stray: list[Item] = []
    for item in skipped:  # rows of a table have no file of their own
        (stray if is_stray(item, suffixes) else bad).append(Item(item.path, item.reason))
    if bad:
        message = f"{quantity(len(bad), 'file or folder', 'files or folders')} cannot be used"
        remedy = "repair, replace or remove them; training skips them"
        yield Finding("unusable", "error", message, remedy, tuple(bad))
    if stray:
        yield Finding(
            "stray", "note", f"{len(stray)} files are no {items} by their names", "they are ignored", tuple(stray)
        )
