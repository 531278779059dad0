"""Repeated runs over seeds or folds: :func:`finetune_seeds`, :func:`cross_validate`.

Implementation notes: scores differ between seeds because the split, the order and the dropout differ, so compare
settings by the spread.
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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import keras
from rich.table import Table

from tfft.config import RunConfig, RunSettings, config_of
from tfft.console.progress import ReadingProgress, reading_bar
from tfft.console.tables import render
from tfft.data import Examples, Splits, fold_splits, load
from tfft.data.loader import reader_of, stays_batches
from tfft.data.tfds.source import is_tfds
from tfft.errors import PlanError
from tfft.evaluation import Scores
from tfft.io.atomic import write_whole
from tfft.io.cache_dir import cache_dir
from tfft.plans import NamedPlan
from tfft.recipes.fine_tuning import finetune
from tfft.recipes.run import check_out
from tfft.settings import defaults_of

SEEDS = "seeds.csv"
_OTHERS = ("out", "plan", "cache", "callbacks", "verbose", "config")
_EXPECTED = (
    "cross_validate takes a folder of images or recordings, a table of files with image= or audio=, (images, labels) "
    "arrays, a dataset of tfds with one of these, or Splits."
)


@dataclasses.dataclass(frozen=True)
class SeedRow:
    """One of several runs.

    Attributes:
        seed: Seed of the run, or the number of its fold.
        frozen_scores: Scores after the first phase.
        final_scores: Scores at the end.
        seconds: Total time of the run.
        folder: Folder of the run; None if nothing was written.
    """

    seed: int
    frozen_scores: Scores
    final_scores: Scores
    seconds: float
    folder: pathlib.Path | None

    @property
    def failed(self) -> bool:
        """Whether the run learned nothing: no better than one answer for all examples (Mosbach et al., 2021)."""
        return self.final_scores.learned_nothing


@dataclasses.dataclass(frozen=True)
class SeedRuns:
    """The same run with several seeds; ``print`` it.

    Attributes:
        rows: One row per seed, failed runs included.
        unit: ``"seed"`` or ``"fold"``.
    """

    rows: tuple[SeedRow, ...]
    unit: str = "seed"

    @property
    def mean(self) -> float:
        """Mean final score over the seeds."""
        return statistics.mean(row.final_scores.value for row in self.rows)

    @property
    def spread(self) -> float:
        """Standard deviation of the final score over the seeds."""
        return statistics.stdev(row.final_scores.value for row in self.rows)

    def __str__(self) -> str:
        """Format the runs as a table, followed by mean and spread."""
        table = Table(title_justify="left")
        for name in (self.unit, "after the first phase", "at the end", "seconds", ""):
            table.add_column(name, justify="right" if name else "left")
        for row in self.rows:
            note = "learned nothing" if row.failed else ""
            values = (f"{row.frozen_scores.value:.4f}", f"{row.final_scores.value:.4f}", f"{row.seconds:.0f}")
            table.add_row(str(row.seed), *values, note)
        scores = [row.final_scores.value for row in self.rows]
        metric = self.rows[0].final_scores.display.metric
        text = f"{metric} {self.mean:.4f} ± {self.spread:.4f} (standard deviation "
        text += f"over {len(scores)} {self.unit}s), {min(scores):.4f} to {max(scores):.4f}"
        failed = sum(row.failed for row in self.rows)
        if failed:
            text += f"\n{failed} of {len(scores)} runs learned nothing; the mean includes them"
        return f"{render(table).rstrip()}\n{text}"


def finetune_seeds(
    backbone: Any,
    data: Any,
    task: str = "auto",
    *,
    seeds: int | Sequence[int] = 5,
    out: str | os.PathLike[str] | None = None,
    plan: NamedPlan | str | None = None,
    cache: str | os.PathLike[str] | bool | None = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: bool | int = True,
    config: RunConfig | None = None,
    **settings: Unpack[RunSettings],
) -> SeedRuns:
    """Call :func:`tfft.finetune` once for each seed and report mean and spread.

    Use it before you conclude that one setting is better than another: a difference smaller than the spread over the
    seeds is not evidence. Models are stored in ``out`` only, so memory use does not grow with the number of seeds.

    Args:
        backbone: As in :func:`tfft.finetune`.
        data: As in :func:`tfft.finetune`.
        task: As in :func:`tfft.finetune`.
        seeds: Number of seeds, from 0 on, or the seeds themselves; at least two.
        out: New or empty folder, with a folder ``seed-0``, ... for each run and a table ``seeds.csv``.
        plan: A named plan, as in :func:`tfft.finetune`.
        cache: As in :func:`tfft.finetune`.
        callbacks: As in :func:`tfft.finetune`.
        verbose: As in :func:`tfft.finetune`.
        config: As in :func:`tfft.finetune`.
        **settings: Settings of :func:`tfft.finetune`, except ``seed``.

    Returns:
        One row for each seed, mean and spread; ``print`` it.

    Raises:
        PlanError: If there are fewer than two seeds, or the settings cannot be used.
        TfftError: As :func:`tfft.finetune`.

    Example:
        >>> print(tfft.finetune_seeds("efficientnet-lite0", "photos/", seeds=5, plan="gradual"))
    """
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if isinstance(seeds, bool) or len(set(chosen)) < max(2, len(chosen)):
        raise PlanError(f"seeds: Expected at least two different seeds. Received: {seeds!r}.")
    _check_single(settings, "seed", len(chosen))
    shared = config_of(config, task, settings, ("seeds", *_OTHERS))
    options = {"plan": plan, "cache": cache, "callbacks": callbacks, "verbose": verbose}
    runs = ((seed, data, dataclasses.replace(shared, seed=seed)) for seed in chosen)
    return _trained(backbone, runs, "seed", check_out(out), options)


def cross_validate(
    backbone: Any,
    data: Any,
    task: str = "auto",
    *,
    folds: int = 5,
    out: str | os.PathLike[str] | None = None,
    plan: NamedPlan | str | None = None,
    cache: str | os.PathLike[str] | bool | None = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: bool | int = True,
    config: RunConfig | None = None,
    **settings: Unpack[RunSettings],
) -> SeedRuns:
    """Call :func:`tfft.finetune` once for each fold of some data, and report mean and spread.

    Use it on small data, where one validation split is too small to compare two settings: every example is held out
    once. Duplicates and groups stay in one fold.

    Args:
        backbone: As in :func:`tfft.finetune`.
        data: A folder of images or recordings, a table of files with ``image=`` or ``audio=``, or
            :class:`tfft.data.Splits`; an existing split is merged. A backbone that takes waveforms needs
            ``sample_rate=``.
        task: As in :func:`tfft.finetune`.
        folds: Number of folds.
        out: New or empty folder, with a folder ``fold-1``, ... for each run and a table ``seeds.csv``.
        plan: A named plan, as in :func:`tfft.finetune`.
        cache: As in :func:`tfft.finetune`.
        callbacks: As in :func:`tfft.finetune`.
        verbose: As in :func:`tfft.finetune`.
        config: As in :func:`tfft.finetune`.
        **settings: Settings of :func:`tfft.finetune`, except ``validation``; ``seed`` also determines the folds.

    Returns:
        One row for each fold, mean and spread; ``print`` it.

    Raises:
        PlanError: If the settings cannot be used.
        DataError: If a class has fewer examples than folds, or there are fewer groups than folds.

    Example:
        >>> print(tfft.cross_validate("efficientnet-lite0", "photos/", folds=5, plan="linear_probe"))
    """
    _check_single(settings, "validation", folds)
    chosen = config_of(config, task, settings, ("folds", *_OTHERS))
    chosen.check()
    options = {"plan": plan, "cache": cache, "callbacks": callbacks, "verbose": verbose}
    folder = check_out(out)
    with reading_bar(bool(verbose)) as progress:
        whole, chosen = _listed(data, chosen, progress)
    parts = enumerate(fold_splits(whole, folds, seed=chosen.seed), 1)
    return _trained(backbone, ((number, splits, chosen) for number, splits in parts), "fold", folder, options)


def _trained(
    backbone: Any,
    runs: Iterable[tuple[int, Any, RunConfig]],
    unit: str,
    folder: pathlib.Path | None,
    options: dict[str, Any],
) -> SeedRuns:
    """Train runs of a number, data and settings each; the table is written after every one."""
    rows = []
    for number, data, config in runs:
        place = None if folder is None else folder / f"{unit}-{number}"
        rows.append(_row(backbone, data, number, place, config, options))
        if folder is not None:
            _write(rows, folder)
    return SeedRuns(tuple(rows), unit)


def _check_single(settings: Mapping[str, Any], name: str, runs: int) -> None:
    taken = [one for one in (name, "export_to") if one in settings]
    if taken:
        raise PlanError(f"{' and '.join(taken)} apply to a single run only. Received: {runs} runs.")


def _row(
    backbone: Any, data: Any, number: int, place: pathlib.Path | None, config: RunConfig, options: dict[str, Any]
) -> SeedRow:
    """Train one run and release its model, so that memory use does not grow with the number of runs."""
    began = time.perf_counter()
    run = finetune(backbone, data, out=place, export_to=False, config=config, **options)
    row = SeedRow(number, run.frozen_scores, run.final_scores, time.perf_counter() - began, place)
    del run
    keras.backend.clear_session(free_memory=False)
    gc.collect()
    return row


def _listed(data: Any, config: RunConfig, progress: ReadingProgress | None) -> tuple[Splits, RunConfig]:
    """Return the data for :func:`cross_validate`, and the config without the settings that reading has used."""
    if isinstance(data, Splits):
        return data, config
    given = config.given("reading")
    if not is_tfds(data):
        if stays_batches(data, given):
            raise PlanError(_EXPECTED)
        match = reader_of(data, given).match(data, given)
        if not (match.has_names or match.joinable):
            raise PlanError(_EXPECTED)
    reading = {name: value for name, value in given.items() if name not in ("seed", "validation")}
    splits = load(data, **reading, store=cache_dir() / "files.sqlite", progress=progress)
    if splits.items is None and type(splits.train).join is Examples.join:  # such as texts of tfds
        raise PlanError(_EXPECTED)
    defaults = defaults_of(RunConfig)
    return splits, dataclasses.replace(config, **{name: defaults[name] for name in reading})


def _write(rows: Sequence[SeedRow], folder: pathlib.Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", "frozen", "final", "seconds"])
    writer.writerows([row.seed, row.frozen_scores.value, row.final_scores.value, round(row.seconds, 1)] for row in rows)
    write_whole(folder / SEEDS, text.getvalue())
