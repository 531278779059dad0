"""Results of a run and its folder: :class:`Run`, :func:`load_run`.

Implementation notes: each file is written under a temporary name and renamed, ``metrics.json`` last of the small ones,
so a folder never holds half-written files.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import keras
import numpy as np
import yaml

from tfft import heads
from tfft.backbones.formats.keras_file import load_keras_file
from tfft.config import Plan
from tfft.console.profile import profiling, stage
from tfft.data import Skipped, write_split
from tfft.errors import PlanError, TfftError, join_names
from tfft.evaluation import Difference, Scores, TemperatureScaling, paired_difference, selection_optimism
from tfft.exporting.savedmodel import ExportResult
from tfft.inspection import DataReport
from tfft.io.atomic import whole, write_whole
from tfft.io.name_files import csv_text, format_lines
from tfft.training import History, on_chief

_Arguments = ParamSpec("_Arguments")

PLAN, METRICS, HISTORY, LABELS, SKIPPED, CHECK, SPLIT, MODEL, EXPORT, CHECKPOINTS, TIMING = (
    "plan.yaml",
    "metrics.json",
    "history.csv",
    "labels.txt",
    "skipped.csv",
    "check.json",
    "split.csv",
    "model.keras",
    "export",
    "checkpoints",
    "timing.json",
)

_SAME = 1e-5  # relative difference of equal scores
_SHOWN = 5e-5  # optimism that four digits show


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """Result of :func:`tfft.finetune`.

    Attributes:
        model: Trained model: an ordinary compiled Keras model from raw pixels to logits.
        plan: Plan with every setting as used, and the reasons.
        history: One row per epoch.
        frozen_scores: Scores on the held-out examples before any block was unfrozen.
        final_scores: Scores at the end.
        class_names: Class names in the order of the logits.
        skipped: Files that were skipped.
        folder: Folder of the run; None if nothing was written.
        export: Result of the export; None without one, or if the run was loaded from its folder.
        data_report: Result of the data check; None without one, or if the run was loaded from its folder.
        split_names: Names of the examples by split; None if they have none, or if the run was loaded from its folder.
        deduplicated_scores: Final scores without the held-out examples that also occur in the training data; None if
            there are none.
        test_scores: Final scores on the labelled ``test/`` folder of the data, not used for selection; None
            without one.
        calibration: Temperature scaling of the model at the end of the training; None without one.
        seconds: Seconds that each phase took, by name, its features and scores included.
        expected_seconds: The same as expected before training; empty if the training was too short to measure.
        stored_optimism: :attr:`optimism` of a run that was loaded from its folder.
        stored_change: :attr:`change` of a run that was loaded from its folder.
        stages: Seconds of each stage of the whole run, such as ``"open the backbone"``, without stages inside of it.
    """

    model: keras.Model
    plan: Plan
    history: History
    frozen_scores: Scores
    final_scores: Scores
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    folder: pathlib.Path | None = None
    export: ExportResult | None = None
    data_report: DataReport | None = None
    split_names: Mapping[str, Sequence[str]] | None = None
    deduplicated_scores: Scores | None = None
    test_scores: Scores | None = None
    calibration: TemperatureScaling | None = None
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    expected_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    stored_optimism: float | None = None
    stored_change: Difference | None = None
    stages: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def selected_from(self) -> int:
        """Number of epochs, with the computed head as one, from which the held-out examples chose the weights."""
        return len(self.history.rows)

    @functools.cached_property
    def optimism(self) -> float | None:
        """Estimate of how much that choice makes the final score too high; None if it is unknown.

        See :func:`tfft.evaluation.selection_optimism`.
        """
        if self.stored_optimism is not None:
            return self.stored_optimism
        kept = list(self.history.example_scores.values())
        if sum(map(len, kept)) != self.selected_from or not kept or len({each.shape[1] for each in kept}) > 1:
            return None
        return selection_optimism(np.concatenate(kept))

    @functools.cached_property
    def change(self) -> Difference | None:
        """Change of the score by fine-tuning, on the same held-out examples, with its 95 % interval.

        None if the scores of single examples do not give the score of the run, or were not kept. The held-out examples
        chose the best epoch, which makes it a little too high.
        """
        if self.stored_change is not None or len(self.plan.phases) < 2:
            return self.stored_change
        names = [phase.name for phase in self.plan.phases]
        first, last = (
            self._example_scores(names[:1], self.frozen_scores),
            self._example_scores(names, self.final_scores),
        )
        if first is None or last is None or first.shape != last.shape:
            return None
        found = paired_difference(last, first)
        return -found if self.final_scores.lower_is_better else found

    @property
    def effect(self) -> str:
        """Describe in one sentence the change by fine-tuning, and whether it may be chance."""
        # Folders of earlier versions do not name the best epochs.
        same = self.final_scores.to_dict() == self.frozen_scores.to_dict()
        if not self.history.best.get(self.plan.phases[-1].name, not same):
            return "fine-tuning did not help: its best epoch was no better, so the frozen backbone's weights were kept"
        return compare(self.frozen_scores, self.final_scores, self.change)

    def _example_scores(self, phases: Sequence[str], scores: Scores) -> np.ndarray | None:
        """Return the scores of the held-out examples with the weights that some phases left; None if unknown.

        Args:
            phases: Names of the phases.
            scores: Scores with these weights. Those of examples must have the same mean: weights may have been averaged
                after the last epoch.
        """
        wanted = -scores.value if scores.lower_is_better else scores.value
        for name in reversed(phases):
            best, rows = self.history.best.get(name, 0), self.history.example_scores.get(name, ())
            if best:
                row = rows[best - 1] if best <= len(rows) else np.zeros(0)
                return row if len(row) and abs(float(row.mean()) - wanted) < _SAME * max(1.0, abs(wanted)) else None
        return None

    @property
    def summary(self) -> str:
        """Summarize the scores: frozen, final, and the change by fine-tuning."""
        first = self.plan.phases[0]
        name = "frozen backbone" if first.unfreeze in ("none", 0) else first.name
        lines = [f"{name:15}  {self.frozen_scores.summary}", f"at the end       {self.final_scores.summary}"]
        if len(self.plan.phases) == 1 and self.final_scores.to_dict() == self.frozen_scores.to_dict():
            lines = lines[:1]
        elif len(self.plan.phases) > 1:
            lines.append(self.effect)
        if self.deduplicated_scores is not None:
            without = self.deduplicated_scores.summary
            lines.append(f"no duplicates    {without} (held-out examples without a duplicate in the training data)")
        if self.test_scores is not None:
            lines.append(f"test examples    {self.test_scores.summary} (not used for selection)")
        elif self.selected_from > 1:
            by = f", by up to about {self.optimism:.4f}" if self.optimism and self.optimism >= _SHOWN else ""
            lines.append(
                f"The held-out examples selected the best of {self.selected_from} epochs, so their scores are slightly "
                f"optimistic{by}; run tfft evaluate on other data."
            )
        return "\n".join(lines)

    @property
    def card(self) -> dict[str, Any]:
        """Return the facts for the model card of an export: the backbone and both scores."""
        scores = {"frozen": self.frozen_scores, "final": self.final_scores}
        if self.test_scores is not None:
            scores["test"] = self.test_scores
        return {
            **({} if self.calibration is None else {"calibration": str(self.calibration)}),
            "backbone": self.plan.backbone,
            "backbone_digest": self.plan.backbone_digest,
            "scores": {
                name: {s.metric: s.value, "interval": s.interval, "examples": s.examples, **s.baselines}
                for name, s in scores.items()
            },
        }


def compare(frozen: Scores, final: Scores, change: Difference | None = None) -> str:
    """Describe in one sentence the change by fine-tuning, and whether it may be chance.

    Args:
        frozen: Scores before any block was unfrozen.
        final: Scores at the end.
        change: Change on the same examples; None compares the two intervals.
    """
    gain = final.value - frozen.value
    text = f"fine-tuning changed {final.display.metric} by {gain:+.4f}"
    if change is not None:
        text += f" (95 % interval on the same examples {change.low:+.4f} to {change.high:+.4f})"
    if final.is_worse_than(frozen):
        text += ": it did not help; the frozen backbone (unfreeze='none') is the better model"
    if change is not None:
        return text + "; this may be chance" if change.low <= 0 <= change.high else text
    apart = frozen.interval[1] < final.interval[0] or final.interval[1] < frozen.interval[0]
    return text if apart else text + "; the two 95 % intervals overlap"


def metrics_of(run: Run) -> dict[str, Any]:
    """Return the content of ``metrics.json``."""
    found: dict[str, Any] = {
        "frozen": run.frozen_scores.to_dict(),
        "final": run.final_scores.to_dict(),
        "majority_baseline": run.final_scores.majority_baseline,
        **run.final_scores.baselines,
        "selection": {"examples": "those of final", "epochs": run.selected_from, "best_epochs": dict(run.history.best)},
    }
    if run.optimism is not None:
        found["selection"]["optimism"] = run.optimism
    if run.change is not None:
        found["change"] = dataclasses.asdict(run.change)
    if run.calibration is not None:
        found["calibration"] = run.calibration.to_dict()
    others = {"deduplicated": run.deduplicated_scores, "test": run.test_scores}
    return found | {name: scores.to_dict() for name, scores in others.items() if scores is not None}


def check_out(out: str | os.PathLike[str] | None) -> pathlib.Path | None:
    """Return the folder for a new run, or raise an error if it is not empty; create nothing.

    A folder with checkpoints is accepted: its run was interrupted and can resume.

    Raises:
        PlanError: If it is a file, or holds other files.
    """
    if out is None:
        return None
    folder = pathlib.Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise PlanError(f"out={str(out)!r} is a file. Expected a new or empty folder.")
    if folder.is_dir() and any(folder.iterdir()) and not is_unfinished(folder):
        inside = sorted(path.name for path in folder.iterdir())
        raise PlanError(
            f"The folder out={str(out)!r} is not empty ({join_names(inside, limit=5)}), and tfft never overwrites "
            "files. "
            "Use another folder or empty this one."
        )
    return folder


def is_unfinished(folder: pathlib.Path) -> bool:
    """Whether a folder holds an interrupted run that can resume."""
    return (folder / CHECKPOINTS).is_dir()


def check_writable(folder: pathlib.Path) -> None:
    """Check that a folder is writable, or can be created, before training.

    Raises:
        PlanError: If it is not writable, with the message of the system.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise PlanError(f"Nothing can be written to {folder}: {error.strerror or error} ({place}).") from error


def write_model(model: keras.Model, folder: pathlib.Path) -> None:
    """Write a model into the folder of a run atomically, replacing an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with whole(folder / MODEL) as aside:
            model.save(aside)
    except OSError as error:
        raise TfftError(f"The model could not be written to {folder / MODEL}: {error.strerror or error}.") from error


@stage("write the run")
def write_run(run: Run, folder: pathlib.Path) -> None:
    """Write all files of a run, except the export, into a folder."""
    write_model(run.model, folder)
    write_whole(folder / PLAN, plan_to_yaml(run.plan))
    run.history.to_csv(folder / HISTORY)
    write_whole(folder / LABELS, format_lines(run.class_names))
    if run.skipped:
        write_whole(folder / SKIPPED, csv_text([("path", "reason"), *((s.path, s.reason) for s in run.skipped)]))
    if run.data_report is not None:
        run.data_report.write_json(folder / CHECK)
    if run.split_names is not None:
        write_split(folder / SPLIT, run.split_names)
    write_timing(run, folder)
    write_whole(folder / METRICS, json.dumps(metrics_of(run), indent=2) + "\n")


def profiled(function: Callable[_Arguments, Run]) -> Callable[_Arguments, Run]:
    """Decorate a recipe: its run gets the seconds of all stages, and its folder too."""

    @functools.wraps(function)
    def measured(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Run:
        with profiling() as profile:
            run = function(*args, **kwargs)
            run = dataclasses.replace(run, stages=profile.stages)
        if (folder := run.folder) is not None:
            on_chief(run.model, lambda: write_timing(run, folder))
        return run

    return measured


def write_timing(run: Run, folder: pathlib.Path) -> None:
    """Write the seconds of phases and stages into a folder."""
    timing = {
        "seconds": dict(run.seconds), "expected_seconds": dict(run.expected_seconds), "stages": dict(run.stages)
    }  # fmt: skip
    write_whole(folder / TIMING, json.dumps(timing, indent=2) + "\n")


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Load a run, with its model, from the folder that :func:`tfft.finetune` wrote.

    Use it to predict with a model or continue training it, or to inspect its history.

    Args:
        folder: Folder of the run.

    Returns:
        The run; ``export`` is None even if the folder holds an export.

    Raises:
        TfftError: If a file of the run is missing or unreadable; the message names it.

    Example:
        >>> run = tfft.load_run("runs/ants")
        >>> run.model.predict(photos)
    """
    folder = pathlib.Path(folder).expanduser()
    missing = [name for name in (PLAN, METRICS, HISTORY, MODEL) if not (folder / name).is_file()]
    if missing:
        what = "does not exist" if not folder.is_dir() else f"has no {join_names(missing)}"
        raise TfftError(
            f"{folder} is not the folder of a finished run: it {what}. Create one with tfft.finetune(..., out=folder)."
        )
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        history = History.from_csv(folder / HISTORY)
        frozen, final = Scores.from_dict(metrics["frozen"]), Scores.from_dict(metrics["final"])
        deduplicated = metrics.get("deduplicated", metrics.get("unleaked"))  # its name before 0.1.0
        deduplicated = None if deduplicated is None else Scores.from_dict(deduplicated)
        tested = Scores.from_dict(metrics["test"]) if "test" in metrics else None
        selection = metrics.get("selection", {})
        history = dataclasses.replace(history, best=selection.get("best_epochs", {}))
        scaling = TemperatureScaling.from_dict(metrics["calibration"]) if "calibration" in metrics else None
        timing = json.loads((folder / TIMING).read_text(encoding="utf-8")) if (folder / TIMING).is_file() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise TfftError(f"A file in {folder} is damaged or was changed ({METRICS} or {HISTORY}): {error}") from error
    model = load_keras_file(folder / MODEL, compile=True)
    skipped = []
    if (folder / SKIPPED).is_file():
        with open(folder / SKIPPED, encoding="utf-8", newline="") as file:
            skipped = [Skipped(row["path"], row["reason"]) for row in csv.DictReader(file)]
    names = heads.from_model(model).class_names or ()
    plan = plan_from_yaml(folder / PLAN)
    return Run(
        model, plan, history, frozen, final, names, tuple(skipped), folder, deduplicated_scores=deduplicated,
        test_scores=tested, calibration=scaling, seconds=timing.get("seconds", {}),
        expected_seconds=timing.get("expected_seconds", {}), stored_optimism=selection.get("optimism"),
        stored_change=Difference(**metrics["change"]) if "change" in metrics else None,
        stages=timing.get("stages", {}),
    )  # fmt: skip


def plan_to_yaml(plan: Plan) -> str:
    """Format a plan as YAML, in the order of its fields."""
    return yaml.safe_dump(plan.to_dict(), sort_keys=False, allow_unicode=True, width=120)


def plan_from_yaml(path: str | os.PathLike[str]) -> Plan:
    """Load a plan from the folder of a run, or one written by hand.

    Args:
        path: Path of the YAML file.

    Returns:
        The plan, for :func:`rerun` or ``finetune(plan=...)``.

    Raises:
        PlanError: If the file is not a YAML mapping, or names an unknown setting.

    Example:
        >>> plan_from_yaml("runs/ants/plan.yaml").phases
    """
    try:
        values = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PlanError(f"The plan {os.fspath(path)!r} does not exist.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanError(f"The plan {os.fspath(path)!r} cannot be read: {error}") from error
    if not isinstance(values, Mapping):
        raise PlanError(
            f"Expected a YAML mapping of settings in the plan {os.fspath(path)!r}. Received: {type(values).__name__}."
        )
    try:
        return Plan.from_dict(values)
    except TypeError as error:
        raise PlanError(f"The plan {os.fspath(path)!r} lacks a setting: {error}") from error
