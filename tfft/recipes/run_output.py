"""Where a run writes: its folder and its export: :class:`RunOutput`."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.errors import TfftError
from tfft.exporting.parity import FreshProcess
from tfft.exporting.savedmodel import export, version_folder
from tfft.recipes.run import CHECKPOINTS, EXPORT, Run, check_out, check_writable, is_unfinished, write_run
from tfft.recipes.run_data import RunData
from tfft.training import on_chief


@dataclasses.dataclass(frozen=True)
class RunOutput:
    """Folder and export of a run.

    Attributes:
        folder: Folder of the run; None to write nothing.
        target: Version folder of the export; None to export nothing.
    """

    folder: pathlib.Path | None
    target: pathlib.Path | None

    @classmethod
    def of(cls, out: str | os.PathLike[str] | None, export_to: str | os.PathLike[str] | bool | None) -> RunOutput:
        """Return where a run writes, from the arguments of :func:`tfft.finetune`; create nothing.

        Raises:
            TfftError: If the folder is not empty, or if the version of the export is taken.
        """
        folder = check_out(out)
        if export_to is not None and not isinstance(export_to, bool):
            return cls(folder, version_folder(export_to))
        return cls(folder, None if folder is None or export_to is False else folder / EXPORT / "1")

    @property
    def resumes(self) -> bool:
        """Whether the folder holds an interrupted run, which resumes."""
        return self.folder is not None and is_unfinished(self.folder)

    def check_writable(self) -> None:
        """Raise PlanError if a folder cannot be written to: before training, not after."""
        for place in (self.folder, None if self.target is None else self.target.parent):
            if place is not None:
                check_writable(place)

    def write(self, run: Run) -> None:
        """Write all files of a run except the export."""
        if (folder := self.folder) is not None:
            on_chief(run.model, lambda: write_run(run, folder))

    def is_exported(self, resumed: bool) -> bool:
        """Whether a run that resumed had been exported before it was stopped; exports are complete or absent."""
        target = self.target
        return resumed and target is not None and target.is_dir() and target.parent.parent == self.folder

    def export(
        self, run: Run, data: RunData, held_out: Callable[[], tf.data.Dataset], process: FreshProcess | None
    ) -> Run:
        """Export the model of a run, checked on held-out examples; return the run with its export.

        Args:
            run: Trained run.
            data: Data of the run.
            held_out: Function that returns batches of the held-out examples.
            process: Started process for the check; None starts one.

        Raises:
            TfftError: If the export fails; its attribute ``run`` holds the trained model.
        """
        if (target := self.target) is None:
            return run
        examples = _export_examples(data, held_out)
        try:
            exported = on_chief(
                run.model, lambda: export(run.model, target, examples=examples, card=run.card, process=process)
            )
        except TfftError as error:
            error.run = run  # type: ignore[attr-defined]  # a failed export does not lose the trained model
            error.add_note("The attribute `run` of this error holds the trained model.")
            raise
        return dataclasses.replace(run, export=exported)

    def remove_checkpoints(self, run: Run) -> None:
        """Remove the checkpoints of a complete run."""
        if self.folder is not None and (checkpoints := self.folder / CHECKPOINTS).is_dir():
            on_chief(run.model, lambda: shutil.rmtree(checkpoints))


def _export_examples(data: RunData, held_out: Callable[[], tf.data.Dataset]) -> Any:
    """Return held-out examples to compare an export on; None for those that :func:`export` makes up."""
    if examples := list(data.splits.validation.export_files):
        return examples
    inputs = next(iter(held_out()))[0]
    if isinstance(inputs, dict):
        return {name: np.asarray(values)[:8] for name, values in inputs.items()}
    return np.asarray(inputs)[:8] if isinstance(inputs, tf.Tensor) else None
