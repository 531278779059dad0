"""Figures of a report, drawn by matplotlib: :func:`confusion_figure`, :func:`reliability_figure`, :func:`as_svg`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfft.errors import missing_package
from tfft.evaluation.calibration import Calibration
from tfft.registry import ReportCurves

_GREY = "#808080"  # readable on white and on black
_MOST_CLASSES = 30


def figure(width: float, height: float) -> Any:
    """Return an empty figure whose text and axes are readable on light and dark pages.

    Args:
        width: Width in inches.
        height: Height in inches.

    Raises:
        DependencyError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        missing_package("matplotlib", "Drawing the figures of a report", "pip install 'tfft[plot]'")
    return Figure(figsize=(width, height), layout="constrained")


def as_svg(drawn: Any) -> str:
    """Return a figure as SVG with a transparent background and grey text."""
    for axis in drawn.axes:
        axis.set_facecolor("none")
        axis.tick_params(colors=_GREY)
        for part in (*axis.spines.values(),):
            part.set_edgecolor(_GREY)
        for text in (axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts):
            if text.get_color() == "black":
                text.set_color(_GREY)
        if (legend := axis.get_legend()) is not None:
            legend.get_frame().set_alpha(0)
            for text in legend.get_texts():
                text.set_color(_GREY)
    held = io.StringIO()
    drawn.savefig(held, format="svg", transparent=True, metadata={"Date": None})
    return held.getvalue()


def confusion_figure(confusion: np.ndarray, names: Sequence[str]) -> Any:
    """Draw a confusion matrix: true classes down, predictions across, each row in shares.

    Args:
        confusion: Counts, int [rows, columns]; the columns may have one more, for "nothing".
        names: Names of the rows.

    Returns:
        A figure; None for too many classes to read.
    """
    counts = np.asarray(confusion)
    if len(counts) > _MOST_CLASSES:
        return None
    columns = [*names, "background"][: counts.shape[1]]
    rows = [*names, "background"][: counts.shape[0]]
    side = 1.6 + 0.42 * len(columns)
    drawn = figure(side + 0.5, side)
    axis = drawn.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.5 else "#303030"
        axis.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    return drawn


def curves_figure(curves: ReportCurves) -> Any:
    """Draw curves with both axes from 0 to 1."""
    drawn = figure(5.6, 4.2)
    axis = drawn.subplots()
    for name, (horizontal, vertical) in curves.lines.items():
        axis.plot(horizontal, vertical, linewidth=1.5, label=name)
    axis.set_xlim(0, 1.02)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel(curves.horizontal)
    axis.set_ylabel(curves.vertical)
    axis.legend(loc="lower left", fontsize="small")
    return drawn


def reliability_figure(found: Calibration, after: Calibration | None = None) -> Any:
    """Draw a reliability diagram: the accuracy of predictions by their probability.

    Args:
        found: Calibration without temperature scaling.
        after: Calibration with temperature scaling; None leaves it out.
    """
    drawn = figure(4.2, 4.2)
    axis = drawn.subplots()
    axis.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="perfectly calibrated")
    for each, label in (
        (found, "without temperature scaling" if after is not None else "predictions"),
        (after, "with temperature scaling"),
    ):
        if each is None:
            continue
        known = each.counts > 0
        sizes = 20 + 180 * each.counts[known] / each.counts.max()
        (line,) = axis.plot(each.confidence[known], each.accuracy[known], linewidth=1, label=label)
        axis.scatter(each.confidence[known], each.accuracy[known], s=sizes, alpha=0.7, color=line.get_color())
    axis.set_xlim(0, 1.02)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("probability of the prediction")
    axis.set_ylabel("share that is correct")
    axis.legend(loc="upper left", fontsize="small")
    return drawn
