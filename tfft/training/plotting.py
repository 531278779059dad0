"""Plot of a training history: :func:`plot_history`."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from tfft.errors import DataError, missing_package
from tfft.training.history import History


def plot_history(history: History | Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Plot loss, metrics and learning rate over the epochs of all phases, which are shaded in turn.

    Args:
        history: A :class:`~tfft.training.History`, an object with one as ``history`` (a run), or the path of a
            ``history.csv``.
        path: File to write, by its suffix (``.png``, ``.svg``, ``.pdf``); None only returns the figure.

    Returns:
        The ``matplotlib`` figure, which notebooks display.

    Raises:
        DependencyError: If matplotlib is not installed.
        DataError: If the history has no epoch.

    Example:
        >>> tfft.plot_history(run, "history.png")
        >>> tfft.plot_history("runs/photos/history.csv")
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        missing_package("matplotlib", "Drawing the history", "pip install 'tfft[plot]'")
    if isinstance(history, (str, os.PathLike)):
        history = History.from_csv(history)
    if not isinstance(history, History):
        history = history.history
    rows = history.rows
    if not rows:
        raise DataError("Expected a history with epochs. Received: an empty one.")
    logged = [name for name in history.columns if name not in _OTHERS and not name.startswith("val_")]
    panels: list[tuple[str, ...]] = [
        (name, f"val_{name}") for name in ("loss", *(name for name in logged if name != "loss"))
    ]
    panels.append(("learning_rate",))
    panels = [names for names in panels if any(name in row for row in rows for name in names)]
    figure = Figure(figsize=(8, 2.4 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    epochs = range(1, len(rows) + 1)
    for axis, names in zip(axes, panels, strict=True):
        for name in names:
            known = [(epoch, row[name]) for epoch, row in zip(epochs, rows, strict=True) if name in row]
            if known:
                axis.plot(*zip(*known, strict=True), marker="o", markersize=3, label=name)
        _shade(axis, history)
        axis.legend(loc="best", fontsize="small")
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("epoch, over all phases")
    if path is not None:
        figure.savefig(pathlib.Path(path).expanduser(), dpi=120)
    return figure


_OTHERS = ("phase", "epoch", "seconds", "learning_rate")  # columns that are not measurements


def _shade(axis: Any, history: History) -> None:
    """Mark the phases and their best epochs."""
    names = [row["phase"] for row in history.rows]
    for number, phase in enumerate(dict.fromkeys(names)):
        first, count = names.index(phase) + 0.5, names.count(phase)
        axis.axvspan(first, first + count, alpha=0.08 if number % 2 else 0.0, color="black", linewidth=0)
        axis.annotate(phase, (first, 1), xycoords=("data", "axes fraction"), fontsize="x-small", va="top")
        best = history.best.get(phase)
        if best:
            axis.axvline(first - 0.5 + best, color="black", linestyle=":", linewidth=1)
