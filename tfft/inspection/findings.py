"""What a check found, and how it is shown: :class:`DataReport`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tfft.errors import join_names
from tfft.io.atomic import write_whole

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
_SHOWN = 5  # items of a finding in the terminal; the JSON has all


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing that a finding is about.

    Attributes:
        name: file, row or class.
        detail: what is the matter with it, as the rest of a sentence; may be empty.
        other: a second file, where the finding is about two.
    """

    name: str
    detail: str = ""
    other: str | None = None

    def __str__(self) -> str:
        return " ".join(part for part in (self.name, self.detail, self.other or "") if part)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        kind: short name, such as ``"unreadable"``; always the same for the same kind.
        level: ``"error"`` (training stops, or leaves the items out), ``"warning"`` (the result may mislead) or
            ``"note"`` (it is dealt with, and worth knowing).
        message: what was found, a sentence without a full stop.
        remedy: what to do about it, the same.
        items: where.
    """

    kind: str
    level: Level
    message: str
    remedy: str
    items: tuple[Item, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.level}: {self.message}. {self.remedy[:1].upper()}{self.remedy[1:]}."]
        lines += [f"    {item}" for item in self.items[:_SHOWN]]
        if len(self.items) > _SHOWN:
            lines.append(f"    and {len(self.items) - _SHOWN:,} more")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, eq=False)
class DataReport:
    """Everything that a check found, the worst first.

    Attributes:
        data: what was checked.
        counts: number of usable examples of each class, by part of the data.
        findings: what was found.
        notes: what was not looked for, and why.
        seconds: that the check took.
    """

    data: str
    counts: Mapping[str, Mapping[str, int]]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def examples(self) -> int:
        """Number of usable examples."""
        return sum(sum(part.values()) for part in self.counts.values())

    @property
    def ok(self) -> bool:
        """True where nothing was found but notes."""
        return all(finding.level == "note" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON; all items are in it."""
        return {
            "data": self.data,
            "examples": self.examples,
            "counts": {part: dict(counts) for part, counts in self.counts.items()},
            "ok": self.ok,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 2),
        }

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_dict` into a file, under another name first."""
        _write(Path(path), json.dumps(self.to_dict(), ensure_ascii=False, indent=1))

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page with the findings and small pictures of their files; it needs nothing beside it."""
        from tfft.inspection.html_report import page

        _write(Path(path), page(self))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for part, counts in self.counts.items():
            several = join_names([f"{name} {count:,}" for name, count in counts.items()], limit=12)
            yield f"{part or 'examples'}: {sum(counts.values()):,}" + (f" ({several})" if counts else "")
        for finding in self.findings:
            yield str(finding)
        if not self.findings:
            yield "Nothing was found."
        yield from self.notes


def in_order(findings: Iterator[Finding]) -> tuple[Finding, ...]:
    """Sort findings, the worst first, and leaves out those without a place where they need one."""
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
