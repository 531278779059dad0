"""Metrics of each epoch: :class:`History`."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfft.freezing import AuditReport
from tfft.io.atomic import write_whole

_FIRST = ("phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")


@dataclasses.dataclass(frozen=True)
class History:
    """History of a training.

    Attributes:
        rows: One mapping per epoch, in order: ``phase``, ``epoch`` (from 1 within its phase), ``loss`` and the head's
            metrics, the same with ``val_``, final ``learning_rate``, ``seconds``.
        best: Best epoch of each phase, whose weights were restored at its end; 0 for those from before it.
        audits: Audit report of each phase.
        notes: Remarks of the training, one sentence each.
        example_scores: Score of each validation example after each epoch, by phase, [epochs, N]; empty unless
            :func:`train` was asked for them and the head has such scores.
    """

    rows: tuple[Mapping[str, Any], ...] = ()
    best: Mapping[str, int] = dataclasses.field(default_factory=dict)
    audits: Mapping[str, AuditReport] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    example_scores: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Names of all columns, the usual ones first."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return [n for n in _FIRST if n in names] + [n for n in names if n not in _FIRST]

    def of(self, phase: str) -> list[Mapping[str, Any]]:
        """Return the rows of one phase."""
        return [row for row in self.rows if row["phase"] == phase]

    def __add__(self, other: History) -> History:
        """Join the histories of two phases."""
        return History(
            self.rows + other.rows,
            {**self.best, **other.best},
            {**self.audits, **other.audits},
            self.notes + other.notes,
            {**self.example_scores, **other.example_scores},
        )

    def to_csv(self, path: str | os.PathLike[str]) -> pathlib.Path:
        """Write one line per epoch, atomically.

        Args:
            path: Path of the file; its folder must exist.

        Returns:
            The path.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns or _FIRST, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: round(v, 8) if isinstance(v, float) else v for k, v in row.items()} for row in self.rows)
        return write_whole(path, text.getvalue())

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> History:
        """Read the rows that :meth:`to_csv` wrote, which do not include the audits."""
        with open(path, encoding="utf-8", newline="") as file:
            rows = [{k: _value(k, v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
        return cls(tuple(rows))


def _value(name: str, text: str) -> Any:
    if name == "phase":
        return text
    return int(text) if name == "epoch" else float(text)
