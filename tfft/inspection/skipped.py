"""Findings about files that are not used: :func:`unusable`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tfft.data import Skipped
from tfft.data.class_folders import is_stray
from tfft.inspection.findings import Finding, Item


def unusable(skipped: Sequence[Skipped], items: str, suffixes: tuple[str, ...]) -> Iterator[Finding]:
    """Yield a finding about files that cannot be used, and one about files of another kind.

    Args:
        skipped: files and folders that are not used, with the reasons.
        items: plural noun for the files that are looked for, such as "images".
        suffixes: that these files end in.
    """
    bad: list[Item] = []
    stray: list[Item] = []
    for item in skipped:  # rows of a table have no file of their own
        (stray if is_stray(item, suffixes) else bad).append(Item(item.path, item.reason))
    if bad:
        message = f"{len(bad)} files or folders cannot be used"
        remedy = "repair, replace or remove them; training goes on without them"
        yield Finding("unusable", "error", message, remedy, tuple(bad))
    if stray:
        yield Finding(
            "stray", "note", f"{len(stray)} files are no {items} by their names", "they are left alone", tuple(stray)
        )
