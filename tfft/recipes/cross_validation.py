"""The same run with several seeds, or on several folds: :func:`finetune_seeds`, :func:`cross_validate`.

One run says little: another seed draws another split, order and dropout, and the scores differ by that alone.
"""

from __future__ import annotations

import csv
import dataclasses
import gc
import io
import os
import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import keras
from rich.table import Table

from tfft.console.progress import ReadingProgress, reading_bar
from tfft.console.tables import render
from tfft.data import Splits, fold_splits, load
from tfft.data.loader import IMAGE_TABLE, IMAGES, RECORDING_TABLE, RECORDINGS, kind_of
from tfft.data.tfds.source import is_tfds
from tfft.errors import PlanError
from tfft.evaluation import Scores
from tfft.io.atomic import write_whole
from tfft.io.cache_dir import cache_dir
from tfft.recipes.fine_tuning import finetune
from tfft.recipes.run import check_out

SEEDS = "seeds.csv"
_OF_FILES = (IMAGES, RECORDINGS, IMAGE_TABLE, RECORDING_TABLE)
_EXPECTED = (
    "cross_validate takes a folder of images or recordings, a table of files with image= or audio=, a dataset of tfds "
    "with one of these, or Splits."
)


@dataclasses.dataclass(frozen=True)
class SeedRow:
    """One run of several.

    Attributes:
        seed: its seed, or the number of its fold.
        frozen: scores after the first phase.
        final: scores at the end.
        seconds: that the run took, everything counted.
        folder: where it was written; None where nowhere.
    """

    seed: int
    frozen: Scores
    final: Scores
    seconds: float
    folder: pathlib.Path | None

    @property
    def failed(self) -> bool:
        """Whether the run learned nothing: no better than naming the commonest class (Mosbach et al., 2021)."""
        return self.final.majority is not None and self.final.value <= self.final.majority


@dataclasses.dataclass(frozen=True)
class SeedRuns:
    """The same run with several seeds; ``print`` it.

    Attributes:
        rows: one for each seed, failed ones too.
        unit: what they differ in, ``"seed"`` or ``"fold"``.
    """

    rows: tuple[SeedRow, ...]
    unit: str = "seed"

    @property
    def mean(self) -> float:
        """Mean over the seeds of the score at the end."""
        return statistics.mean(row.final.value for row in self.rows)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds of the score at the end."""
        return statistics.stdev(row.final.value for row in self.rows)

    def __str__(self) -> str:
        """A table, and mean and spread under it."""
        table = Table(title_justify="left")
        for name in (self.unit, "after the first phase", "at the end", "seconds", ""):
            table.add_column(name, justify="right" if name else "left")
        for row in self.rows:
            note = "learned nothing" if row.failed else ""
            values = (f"{row.frozen.value:.4f}", f"{row.final.value:.4f}", f"{row.seconds:.0f}")
            table.add_row(str(row.seed), *values, note)
        scores = [row.final.value for row in self.rows]
        text = f"{self.rows[0].final.metric.replace('_', ' ')} {self.mean:.4f} ± {self.spread:.4f} (standard deviation "
        text += f"over {len(scores)} {self.unit}s), {min(scores):.4f} to {max(scores):.4f}"
        failed = sum(row.failed for row in self.rows)
        if failed:
            text += f"\n{failed} of {len(scores)} runs learned nothing; they are in the mean"
        return f"{render(table).rstrip()}\n{text}"


def finetune_seeds(
    backbone: Any,
    data: Any,
    *,
    seeds: int | Sequence[int] = 5,
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> SeedRuns:
    """Calls :func:`tfft.finetune` once for each seed and reports mean and spread.

    Use it before you believe that one setting is better than another: a difference that is smaller than the spread
    over the seeds is none. Models are kept in ``out`` only, so memory does not grow with the seeds.

    Args:
        backbone: as :func:`tfft.finetune` takes it.
        data: as :func:`tfft.finetune` takes it.
        seeds: how many, from 0 on, or which ones; at least two.
        out: new or empty folder, with a folder ``seed-0``, ... for each run and a table ``seeds.csv``.
        **settings: of :func:`tfft.finetune`, but ``seed`` and ``export_to``.

    Returns:
        One row for each seed, mean and spread; ``print`` it.

    Raises:
        PlanError: when there are fewer than two seeds, or the settings cannot be used.
        TfftError: as :func:`tfft.finetune`.

    Example:
        >>> print(tfft.finetune_seeds("efficientnet-lite0", "photos/", seeds=5, plan="gradual"))
    """
    chosen = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else list(seeds)
    if len(set(chosen)) < max(2, len(chosen)):
        raise PlanError(f"A spread needs at least two seeds, all of them different, got seeds={seeds!r}.")
    taken = [name for name in ("seed", "export_to") if name in settings]
    if taken:
        raise PlanError(f"{' and '.join(taken)} belong to a single run: here there are {len(chosen)}.")
    folder = check_out(out)
    rows = []
    for seed in chosen:
        place = None if folder is None else folder / f"seed-{seed}"
        rows.append(_row(backbone, data, seed, seed, place, settings))
        if folder is not None:
            _write(rows, folder)
    return SeedRuns(tuple(rows))


def cross_validate(
    backbone: Any,
    data: Any,
    *,
    folds: int = 5,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> SeedRuns:
    """Calls :func:`tfft.finetune` once for each fold of some data, and reports mean and spread.

    Use it on small data, where one held-out part is too small to tell two settings apart: every example is held out
    once. Copies of one picture, and groups, stay in one fold.

    Args:
        backbone: as :func:`tfft.finetune` takes it.
        data: a folder of images or recordings, a table of files with ``image=`` or ``audio=``, or
            :class:`tfft.data.Splits`; what is split already is put together. A backbone that takes waves needs
            ``sample_rate=``.
        folds: how many.
        seed: of the folds and of every run.
        out: new or empty folder, with a folder ``fold-1``, ... for each run and a table ``seeds.csv``.
        **settings: of :func:`tfft.finetune`, but ``validation`` and ``export_to``.

    Returns:
        One row for each fold, mean and spread; ``print`` it.

    Raises:
        PlanError: when the settings cannot be used.
        DataError: when there are fewer examples of a class, or fewer groups, than folds.

    Example:
        >>> print(tfft.cross_validate("efficientnet-lite0", "photos/", folds=5, plan="linear_probe"))
    """
    taken = [name for name in ("validation", "export_to") if name in settings]
    if taken:
        raise PlanError(f"{' and '.join(taken)} belong to a single run: here there are {folds}.")
    folder = check_out(out)
    with reading_bar(settings.get("verbose", True)) as progress:
        whole = _listed(data, settings, progress)
    rows = []
    for number, splits in enumerate(fold_splits(whole, folds, seed=seed), 1):
        place = None if folder is None else folder / f"fold-{number}"
        rows.append(_row(backbone, splits, number, seed, place, settings))
        if folder is not None:
            _write(rows, folder)
    return SeedRuns(tuple(rows), "fold")


def _row(
    backbone: Any, data: Any, number: int, seed: int, place: pathlib.Path | None, settings: dict[str, Any]
) -> SeedRow:
    """One run; its model is let go, so memory does not grow with the runs."""
    began = time.perf_counter()
    run = finetune(backbone, data, seed=seed, out=place, export_to=False, **settings)
    row = SeedRow(number, run.frozen, run.final, time.perf_counter() - began, place)
    del run
    keras.backend.clear_session(free_memory=False)
    gc.collect()
    return row


def _listed(data: Any, settings: dict[str, Any], progress: ReadingProgress | None) -> Splits:
    """Lists the data of :func:`cross_validate`; what says how it is read is taken out of the settings."""
    if isinstance(data, Splits):
        return data
    columns = ("image", "audio", "text", "label", "task", "separator")
    named = {name: settings[name] for name in columns if settings.get(name) is not None}
    if not is_tfds(data) and kind_of(data, **named) not in _OF_FILES:
        raise PlanError(_EXPECTED)
    asked = (*columns, "group", "strict", "sample_rate", "seconds")
    reading = {name: settings.pop(name) for name in asked if settings.get(name) is not None}
    splits = load(data, **reading, store=cache_dir() / "files.sqlite", progress=progress)
    if not isinstance(splits, Splits):  # such as texts of tfds
        raise PlanError(_EXPECTED)
    return splits


def _write(rows: Sequence[SeedRow], folder: pathlib.Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", "frozen", "final", "seconds"])
    writer.writerows([row.seed, row.frozen.value, row.final.value, round(row.seconds, 1)] for row in rows)
    write_whole(folder / SEEDS, text.getvalue())
