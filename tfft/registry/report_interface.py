"""Sections that a task adds to the report of a run: :class:`ReportBuilder`, :class:`ReportSection`.

Implementation notes: tasks give plain values, and the report draws and writes them, so a task imports nothing of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class ReportCurves:
    """Curves in one figure, all with the range 0 to 1.

    Attributes:
        horizontal: Title of the horizontal axis.
        vertical: Title of the vertical axis.
        lines: Positions on both axes by the name of the curve.
    """

    horizontal: str
    vertical: str
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class ReportPicture:
    """Image of a report.

    Attributes:
        caption: Sentence below it.
        jpeg: JPEG file.
    """

    caption: str
    jpeg: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class ReportSection:
    """Section of a report; what is empty is left out.

    Attributes:
        title: Title.
        text: Paragraphs.
        curves: A figure of curves.
        legend: Colours, ``#rrggbb``, by name.
        pictures: Images.
    """

    title: str
    text: tuple[str, ...] = ()
    curves: ReportCurves | None = None
    legend: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pictures: tuple[ReportPicture, ...] = ()


class ReportBuilder:
    """Collects the predictions for held-out examples, batch by batch, for sections of a report."""

    def add(self, names: Sequence[str], labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch.

        Args:
            names: Path, or text, of each example.
            labels: Labels, as an :class:`tfft.registry.Evaluator` takes them.
            logits: Output of the model.
        """
        raise NotImplementedError

    def sections(self) -> list[ReportSection]:
        """Return the sections, in their order."""
        raise NotImplementedError
