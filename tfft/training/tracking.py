"""Experiment trackers that follow a run: TensorBoard, MLflow and Weights & Biases.

A tracker gets the settings of a run, the metrics of each epoch with epochs counted over all phases, the scores of each
phase, and at the end the records of the run folder. A tracker that fails is left out with a warning: a training is not
lost because a server does not answer. For anything else, pass a Keras callback.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf

from tfft.errors import PlanError, did_you_mean, installed_version, join_names, missing_package
from tfft.training.distribute import is_chief

RECORDS = ("plan.yaml", "metrics.json", "history.csv", "check.json", "labels.txt")  # small files of a run folder
_LONGEST = 500  # characters of a setting; MLflow refuses long ones


class Tracker(Protocol):
    """An experiment tracker, open for one run."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Store numbers by name.

        Args:
            values: Numbers.
            step: Epochs so far, over all phases.
        """

    def finish(self, records: Sequence[pathlib.Path], failed: bool) -> None:
        """Close the run.

        Args:
            records: Files to keep with it.
            failed: Whether an error ended the training.
        """


class _TensorBoard:
    """Event files in ``tensorboard/`` of the run folder."""

    def __init__(self, folder: pathlib.Path | None, settings: Mapping[str, str]) -> None:
        assert folder is not None  # noqa: S101  # see check_trackers
        self._writer = tf.summary.create_file_writer(str(folder / "tensorboard"))
        table = "\n".join(["| setting | value |", "|---|---|", *(f"| {n} | {v} |" for n, v in settings.items())])
        with self._writer.as_default():
            tf.summary.text("settings", table, step=0)

    def log(self, values: Mapping[str, float], step: int) -> None:
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)
        self._writer.flush()

    def finish(self, records: Sequence[pathlib.Path], failed: bool) -> None:
        self._writer.close()


class _MLflow:
    """A run of MLflow, at its tracking URI; the active one if there is one, which then stays open."""

    def __init__(self, folder: pathlib.Path | None, settings: Mapping[str, str]) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._own = self._mlflow.active_run() is None
        if self._own:
            self._mlflow.start_run(run_name=None if folder is None else folder.name)
        self._mlflow.log_params(dict(settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def finish(self, records: Sequence[pathlib.Path], failed: bool) -> None:
        for path in records:
            self._mlflow.log_artifact(str(path))
        if self._own:
            self._mlflow.end_run("FAILED" if failed else "FINISHED")


class _WandB:
    """A run of Weights & Biases, in the project ``tfft`` unless its variables say otherwise; or the active one."""

    def __init__(self, folder: pathlib.Path | None, settings: Mapping[str, str]) -> None:
        self._wandb = importlib.import_module("wandb")
        self._own = self._wandb.run is None
        if self._own:
            project = os.environ.get("WANDB_PROJECT", "tfft")
            self._wandb.init(project=project, name=None if folder is None else folder.name)
        self._wandb.config.update(dict(settings), allow_val_change=True)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._wandb.log(dict(values), step=step)

    def finish(self, records: Sequence[pathlib.Path], failed: bool) -> None:
        for path in records:
            self._wandb.save(str(path), base_path=str(path.parent), policy="now")
        if self._own:
            self._wandb.finish(exit_code=int(failed))


_Opener = Callable[[pathlib.Path | None, Mapping[str, str]], Tracker]
TRACKERS: dict[str, _Opener] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WandB}
_PACKAGES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "mlflow-skinny"), "wandb": ("wandb",)}  # one of each


def check_trackers(names: str | Sequence[str], folder: str | os.PathLike[str] | None) -> tuple[str, ...]:
    """Return the names of trackers as a tuple, if all of them can be used.

    Args:
        names: One name or several.
        folder: Run folder; None where nothing is written.

    Raises:
        PlanError: For an unknown name, and for event files without a folder.
        DependencyError: If the package of a tracker is not installed.
    """
    given = (names,) if isinstance(names, str) else tuple(names)
    for name in given:
        if name not in TRACKERS:
            raise PlanError(
                f"log: Expected one of {join_names(TRACKERS)}. Received: {name!r}.{did_you_mean(str(name), TRACKERS)}"
            )
        packages = _PACKAGES.get(name, ())  # none for one that was added from outside
        if packages and all(installed_version(package) is None for package in packages):
            missing_package(packages[0], f"log={name!r}", f"pip install {packages[0]}")
    if "tensorboard" in given and folder is None:
        raise PlanError("log='tensorboard' writes into the run folder. Received: none. Give one: out='runs/NAME'.")
    return given


class RunTracking:
    """Trackers of one run; see :func:`tracking`.

    Args:
        trackers: Open trackers by name.
    """

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._trackers = dict(trackers)
        self._step = 0

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Store numbers in each tracker.

        Args:
            values: Numbers by name, such as a row of the history; words and the count of epochs are left out.
            step: Epochs so far, over all phases.
        """
        self._step = step
        numbers = {name: float(value) for name, value in values.items() if name not in ("phase", "epoch")}
        self._each(lambda tracker: tracker.log(numbers, step))

    def log_scores(self, phase: str, scores: Mapping[str, float]) -> None:
        """Store the scores at the end of a phase, as ``PHASE/NAME``.

        Args:
            phase: Name of the phase.
            scores: Numbers by name.
        """
        self.log({f"{phase}/{name}": value for name, value in scores.items()}, self._step)

    def finish(self, folder: pathlib.Path | None, failed: bool = False) -> None:
        """Close the run in each tracker.

        Args:
            folder: Run folder, whose records are kept with the run.
            failed: Whether an error ended the training.
        """
        paths = [] if folder is None else [folder / name for name in RECORDS if (folder / name).is_file()]
        self._each(lambda tracker: tracker.finish(paths, failed))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                act(tracker)
            except Exception as error:  # of a server, a disk or a package: none of them may stop a training
                warnings.warn(f"{name} failed and is disabled for the rest of the run: {error}", stacklevel=3)
                del self._trackers[name]


@contextlib.contextmanager
def tracking(names: Sequence[str], folder: pathlib.Path | None, settings: Mapping[str, Any]) -> Iterator[RunTracking]:
    """Follow a run with trackers until the block ends.

    Args:
        names: Names from :func:`check_trackers`.
        folder: Run folder; None where nothing is written.
        settings: Settings of the run, by name.

    Yields:
        The trackers; none in workers other than the first.

    Raises:
        PlanError: If a tracker cannot start, such as one of a server without a login.
    """
    shown = {name: str(value)[:_LONGEST] for name, value in settings.items()}
    found = RunTracking({name: _open(name, folder, shown) for name in names} if is_chief() else {})
    try:
        yield found
    except BaseException:
        found.finish(folder, failed=True)
        raise
    found.finish(folder)


def _open(name: str, folder: pathlib.Path | None, settings: Mapping[str, str]) -> Tracker:
    try:
        return TRACKERS[name](folder, settings)
    except Exception as error:  # of a server or a package
        raise PlanError(f"log={name!r} could not start: {error}") from error
