"""The same run with several seeds, and what they have in common: :func:`finetune_seeds`.

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

from tfft.errors import PlanError
from tfft.evaluation import Scores
from tfft.recipes.finetuning import finetune
from tfft.recipes.runs import check_out
from tfft.slicing.tables import render
from tfft.training.history import write_whole

SEEDS = "seeds.csv"


@dataclasses.dataclass(frozen=True)
class SeedRow:
    """One run of several.

    Attributes:
        seed: its seed.
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
    """

    rows: tuple[SeedRow, ...]

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
        for name in ("seed", "after the first phase", "at the end", "seconds", ""):
            table.add_column(name, justify="right" if name else "left")
        for row in self.rows:
            note = "learned nothing" if row.failed else ""
            values = (f"{row.frozen.value:.4f}", f"{row.final.value:.4f}", f"{row.seconds:.0f}")
            table.add_row(str(row.seed), *values, note)
        scores = [row.final.value for row in self.rows]
        text = f"{self.rows[0].final.metric.replace('_', ' ')} {self.mean:.4f} ± {self.spread:.4f} (standard deviation "
        text += f"over {len(scores)} seeds), {min(scores):.4f} to {max(scores):.4f}"
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
        began = time.perf_counter()
        run = finetune(backbone, data, seed=seed, out=place, export_to=False, **settings)
        rows.append(SeedRow(seed, run.frozen, run.final, time.perf_counter() - began, place))
        del run
        keras.backend.clear_session(free_memory=False)
        gc.collect()
        if folder is not None:
            _write(rows, folder)
    return SeedRuns(tuple(rows))


def _write(rows: Sequence[SeedRow], folder: pathlib.Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", "frozen", "final", "seconds"])
    writer.writerows([row.seed, row.frozen.value, row.final.value, round(row.seconds, 1)] for row in rows)
    write_whole(folder / SEEDS, text.getvalue())
