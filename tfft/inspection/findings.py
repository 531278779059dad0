"""Findings of a check, and their display: :class:`DataReport`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tfft.errors import in_number, join_names
from tfft.io.atomic import write_whole

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
_SHOWN = 5  # items of a finding in the terminal; the JSON has all


@dataclasses.dataclass(frozen=True)
class Item:
    """One subject of a finding.

    Attributes:
        name: File, row or class.
        detail: Problem, as the rest of a sentence; may be empty.
        other: Second file, if the finding is about two.
    """

    name: str
    detail: str = ""
    other: str | None = None

    def __str__(self) -> str:
        return " ".join(part for part in (self.name, self.detail, self.other or "") if part)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One type of problem in a dataset.

    Attributes:
        kind: Short identifier, such as ``"unreadable"``.
        level: ``"error"`` (training stops or skips the items), ``"warning"`` (the result may mislead) or ``"note"``
            (handled by tfft, for information).
        message: Sentence about the problem, without a full stop.
        remedy: Sentence about the fix, without a full stop.
        items: Affected files, rows or classes.
    """

    kind: str
    level: Level
    message: str
    remedy: str
    items: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", in_number(self.message))

    def __str__(self) -> str:
        lines = [f"{self.level}: {self.message}. {self.remedy[:1].upper()}{self.remedy[1:]}."]
        lines += [f"    {item}" for item in self.items[:_SHOWN]]
        if len(self.items) > _SHOWN:
            lines.append(f"    and {len(self.items) - _SHOWN:,} more")
        return "\n".join(lines)


def counted(items: Sequence[Item], kind: str, level: Level, words: str, remedy: str) -> Iterator[Finding]:
    """Yield one finding about some items; nothing if there are none.

    Args:
        items: Affected files, rows or classes.
        kind: As in :class:`Finding`.
        level: As in :class:`Finding`.
        words: Message behind the number of the items.
        remedy: As in :class:`Finding`.
    """
    if items:
        yield Finding(kind, level, f"{len(items)} {words}", remedy, tuple(items))


@dataclasses.dataclass(frozen=True, eq=False)
class DataReport:
    """All findings of a check, the most severe first.

    Attributes:
        data: Name of the checked data.
        counts: Number of usable examples per class, by part of the data.
        findings: Findings.
        notes: Checks that were skipped, and why.
        seconds: Duration of the check.
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
        """Whether there are no findings other than notes."""
        return all(finding.level == "note" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with all items."""
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
        """Write :meth:`to_dict` to a file atomically."""
        _write(Path(path), json.dumps(self.to_dict(), ensure_ascii=False, indent=1))

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Write a self-contained page with the findings and thumbnails of their files."""
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
    """Sort findings by severity, and remove those that lost all items."""
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
