"""Report of a run: :func:`write_report`."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np

from tfft import registry
from tfft.errors import TfftError
from tfft.evaluation import Scores
from tfft.evaluation.abstention import coverage_curve
from tfft.evaluation.calibration import Calibration, calibration
from tfft.evaluation.temperature import TemperatureScaling
from tfft.explanation import explain
from tfft.io.atomic import write_whole
from tfft.recipes import Run, load_run
from tfft.recipes.run import CHECK
from tfft.reporting.embedding import LEAST_POINTS, MOST_CLASSES, colours_of, draw_map, embed
from tfft.reporting.explanations import add_explanations
from tfft.reporting.figures import confusion_figure, curves_figure, figure, reliability_figure
from tfft.reporting.held_out import HeldOut, held_out_results
from tfft.reporting.page import Page
from tfft.training import plot_history

FILE = "report.html"
_EXAMPLES = 24  # of each kind
_EXPLAINED = 6  # mistakes
_SURE = 0.9  # predictions with a higher probability are not doubtful
_FEW = 100  # predictions below which a reliability diagram says little


def write_report(
    run: Run | str | os.PathLike[str], path: str | os.PathLike[str] | None = None, *, batch_size: int = 32
) -> pathlib.Path:
    """Write a report of a run: one HTML file without scripts, which needs no network.

    It shows scores with intervals and baselines, learning curves, scores per class, the confusion matrix, the
    calibration of the probabilities, the most confident mistakes with the evidence for the wrong class, the least
    certain predictions, a map of the features, what a task adds (for detection and segmentation the worst images,
    drawn), the findings of the data check, and every setting with its reason. The model predicts the held-out examples
    again for this.

    Args:
        run: Run with a folder, or the folder.
        path: HTML file to write. Defaults to ``report.html`` in the folder of the run.
        batch_size: Examples per step.

    Returns:
        The path of the file.

    Raises:
        TfftError: If the run has no folder, or a file of it is missing.
        DependencyError: If matplotlib is not installed.

    Example:
        >>> tfft.write_report("runs/photos")
        PosixPath('runs/photos/report.html')
    """
    run = run if isinstance(run, Run) else load_run(run)
    if path is None and run.folder is None:
        raise TfftError("Expected a run with a folder, or path=. The run was not written: call finetune(..., out=...).")
    target = pathlib.Path(path).expanduser() if path is not None else pathlib.Path(run.folder or ".") / FILE
    figure(1, 1)  # a missing package is an error before anything is computed
    held_out = held_out_results(run, batch_size=batch_size)
    page = Page(f"{run.plan.data or 'Run'}: {run.plan.task.replace('_', ' ')}")
    _overview(page, run)
    if run.history.rows:
        page.section("Learning curves")
        page.text("Dotted lines mark the best epoch of each phase, whose weights were kept.", "soft")
        page.figure(plot_history(run), "Loss, metric and learning rate by epoch")
    _classes(page, run.final_scores)
    for section in held_out.sections:
        _section(page, section)
    if held_out.results or not held_out.sections:
        _predictions(page, held_out, run.calibration)
        _map(page, held_out)
        _explanations(page, run, held_out)
    _findings(page, run.folder)
    _plan(page, run)
    return write_whole(target, page.render())


def _overview(page: Page, run: Run) -> None:
    trained = [phase for phase in run.plan.phases if phase.unfreeze not in (0, "none")]
    page.text(f"{run.plan.backbone}, plan {run.plan.name or '(custom)'}, trained on {run.plan.data}.", "soft")
    named = [("after the first phase", run.frozen_scores)] if trained and len(run.plan.phases) > 1 else []
    named += [("at the end", run.final_scores)]
    named += [("without duplicates of training examples", run.deduplicated_scores)] if run.deduplicated_scores else []
    named += [("on the test folder", run.test_scores)] if run.test_scores else []
    metric = run.final_scores.display.metric
    page.table(
        ("", metric, "95 % interval", "examples", "loss"),
        [(name, s.value, f"{s.interval[0]:.4f} to {s.interval[1]:.4f}", s.examples, s.loss) for name, s in named],
    )
    for name, value in _baselines(run.final_scores):
        page.text(f"Baseline, {name}: {metric} {value:.4f}.")
    if len(named) > 1 and len(run.plan.phases) > 1:
        page.text(f"{run.effect[:1].upper()}{run.effect[1:]}.")
    if run.test_scores is None and run.selected_from > 1:
        page.text(
            f"The held-out examples selected the best of {run.selected_from} epochs, so their scores are slightly "
            "optimistic."
        )


def _baselines(scores: Scores) -> list[tuple[str, float]]:
    words = scores.display
    found = [] if scores.majority_baseline is None else [(words.baseline, scores.majority_baseline)]
    return found + [(words.baselines[name], value) for name, value in scores.baselines.items()]


def _classes(page: Page, scores: Scores) -> None:
    if not scores.per_class:
        return
    words = scores.display
    page.section(f"Scores {words.table}")
    further = list(dict.fromkeys(name for row in scores.per_class for name in row.measures))
    shown = ("precision", "recall", "f1", "iou")[: 2 + len(words.columns)]
    page.table(
        (words.row, words.count, "predicted", "precision", "recall", *words.columns, *further),
        [
            (row.name, row.examples, row.predicted, *(getattr(row, name) for name in shown),
             *map(row.measures.get, further))
            for row in scores.per_class
        ],
    )  # fmt: skip
    if scores.confusion is not None:
        drawn = confusion_figure(scores.confusion, [row.name for row in scores.per_class])
        if drawn is not None:
            page.figure(drawn, "Confusion matrix: true classes down, predictions across")
        if scores.most_confused:
            pairs = "; ".join(f"{true} as {given} ({count})" for true, given, count in scores.most_confused)
            page.text(f"Most confused (true class first): {pairs}.")


def _predictions(page: Page, held_out: HeldOut, scaling: TemperatureScaling | None) -> None:
    if not held_out.results:
        page.section("Held-out examples")
        page.text(held_out.note, "soft")
        return
    _calibration(page, held_out, scaling)
    pairs = held_out.ranked
    judged = all(result.correct is not None for _, result in pairs)
    wrong = [(name, result) for name, result in pairs if not result.correct]
    page.section(
        f"Mistakes ({len(wrong):,} of {len(pairs):,}), the most confident first" if judged else "Largest errors"
    )
    if wrong:
        page.examples(wrong[:_EXAMPLES])
    else:
        page.text("No held-out example is misclassified.", "good")
    doubtful = sorted(  # the names differ, so results are never compared
        (result.confidence, name, result)
        for name, result in pairs
        if result.confidence is not None and result.confidence < _SURE
    )
    if doubtful:
        page.section("Least certain predictions")
        page.examples((name, result) for _, name, result in doubtful[:_EXAMPLES])


def _map(page: Page, held_out: HeldOut) -> None:
    """Draw the held-out examples by their features, if they have few classes."""
    labels = [result.label for result in held_out.results]
    judged = all(result.correct is not None for result in held_out.results)
    if held_out.features is None or not judged or len(labels) < LEAST_POINTS:
        return
    if not 1 < len(set(labels)) <= MOST_CLASSES:
        return
    found = embed(held_out.features, labels)
    page.section("Map of the features")
    shown = f"{len(found.rows):,} of {len(labels):,}" if len(found.rows) < len(labels) else f"All {len(labels):,}"
    page.text(
        f"{shown} held-out examples by {found.method}; red rings mark wrong predictions, and names and images appear "
        "under the pointer. Distances on such a map are not those of the features. In the features themselves, the "
        f"nearest neighbour of {found.neighbours:.1%} of these examples has their label.", "soft",
    )  # fmt: skip
    colours = colours_of(labels)
    page.legend(colours)
    page.drawing(draw_map(found, held_out.names, held_out.results, colours), "Map of the features")


def _explanations(page: Page, run: Run, held_out: HeldOut) -> None:
    """Show the evidence for the wrong class in the most confident mistakes."""
    wrong = [name for name, result in held_out.ranked if result.correct is False]
    if not wrong or len(run.model.inputs) > 1:
        return
    try:
        found = explain(run.model, wrong[:_EXPLAINED])
    except TfftError:  # a task or a kind of data without explanations
        return
    page.section("Why the most confident mistakes")
    page.text(
        "Images are yellow to red where they support the predicted class; words and moments are green, and red "
        "where they contradict it.", "soft",
    )  # fmt: skip
    add_explanations(page, found)


def _section(page: Page, section: registry.ReportSection) -> None:
    """Write a section of a task."""
    page.section(section.title)
    for text in section.text:
        page.text(text, "soft")
    if section.curves is not None:
        page.figure(curves_figure(section.curves), f"{section.curves.vertical} by {section.curves.horizontal}")
    if section.legend:
        page.legend(section.legend)
    if section.pictures:
        page.pictures(section.pictures)


def _calibration(page: Page, held_out: HeldOut, applied: TemperatureScaling | None) -> None:
    known = [(r.confidence, r.correct) for r in held_out.results if r.confidence is not None and r.correct is not None]
    if not known:
        return
    page.section("Calibration")
    confidence, correct = (np.array(values) for values in zip(*known, strict=True))
    before: Calibration
    after: Calibration | None
    if applied is not None:
        before, after = _applied(page, applied)
    else:
        before, after = _measured(page, confidence, correct), _scaling(page, held_out.scaling)
    if len(known) < _FEW:
        page.text(f"There are only {len(known)} predictions, so the calibration is uncertain.", "soft")
    page.figure(reliability_figure(before, after), "Reliability diagram: accuracy by probability")
    page.section("Answering only when certain")
    page.text(
        "If less probable predictions are referred to a person, fewer examples get an answer and more answers are "
        "right. A threshold that is chosen here makes its accuracy look slightly better than it is.", "soft",
    )  # fmt: skip
    page.table(
        ("lowest probability", "examples with an answer", "accuracy of the answers", "95 % interval"),
        [
            (one.threshold, f"{one.coverage:.1%}", one.accuracy, "{:.4f} to {:.4f}".format(*one.interval))
            for one in coverage_curve(confidence, correct)
        ],
    )


def _measured(page: Page, confidence: np.ndarray, correct: np.ndarray) -> Calibration:
    """Write how well the probabilities match the accuracy."""
    found = calibration(confidence, correct)
    low, high = found.interval
    page.text(
        f"Expected calibration error {found.error:.4f} (95 % interval {low:.4f} to {high:.4f}), Brier score "
        f"{found.brier:.4f}: the mean probability of the predictions is {confidence.mean():.4f}, and "
        f"{correct.mean():.4f} of them are correct."
    )
    return found


def _applied(page: Page, scaling: TemperatureScaling) -> tuple[Calibration, Calibration]:
    """Write what the temperature scaling of the model changed; return the calibration without and with it."""
    bias = " and adds a bias to each label" if scaling.bias.any() else ""
    page.text(
        f"Temperature scaling divides the logits by {scaling.temperature:.3g}{bias}. It was fitted to "
        f"{scaling.examples} held-out examples and cross-fitted in five folds for these numbers. The expected "
        "calibration error is {:.4f} (95 % interval {:.4f} to {:.4f}) without it ".format(
            scaling.before.error, *scaling.before.interval
        )
        + "and {:.4f} ({:.4f} to {:.4f}) with it; ".format(scaling.after.error, *scaling.after.interval)
        + f"the Brier score is {scaling.before.brier:.4f} and {scaling.after.brier:.4f}. Because these examples also "
        "selected the epoch, they show fewer mistakes than new ones, and the temperature allows for one more."
    )
    return scaling.before, scaling.after


def _scaling(page: Page, scaling: TemperatureScaling | None) -> Calibration | None:
    """Write what temperature scaling would change; return the calibration with it, None if it is unknown."""
    if scaling is None:
        return None
    low, high = scaling.after.interval
    page.text(
        f"With temperature scaling, cross-fitted in five folds, the error is {scaling.after.error:.4f} ({low:.4f} to "
        f"{high:.4f}) and the Brier score {scaling.after.brier:.4f}. tfft export RUN OUT --calibrate divides the "
        f"logits by {scaling.temperature:.3g}."
    )
    return scaling.after


def _findings(page: Page, folder: pathlib.Path | None) -> None:
    if folder is None or not (folder / CHECK).is_file():
        return
    report: dict[str, Any] = json.loads((folder / CHECK).read_text("utf-8"))
    page.section("Data check")
    findings = report.get("findings", [])
    if not findings:
        page.text("Nothing was found.", "good")
        return
    page.table(
        ("level", "finding", "remedy"), [(one["level"], one["message"], one.get("remedy", "")) for one in findings]
    )


def _plan(page: Page, run: Run) -> None:
    page.section("Settings")
    rows = []
    for phase in run.plan.phases:
        settings = ", ".join(f"{name}={value}" for name, value in phase.to_dict().items() if name != "name")
        rows.append((f"phase {phase.name}", settings, ""))
    skipped = ("phases", "reasons", "versions")
    for name, value in run.plan.to_dict().items():
        if name not in skipped:
            rows.append((name, str(value), run.plan.reasons.get(name, "")))
    page.table(("setting", "value", "reason"), rows)
