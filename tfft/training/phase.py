"""Training of one phase: :func:`fit_phase`, or :func:`solve_phase` for a computed head.

Implementation notes: freezing, compiling and checking follow the order that Keras needs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfft import heads
from tfft.config import Phase
from tfft.freezing import audit, merge_lora, reinitialize
from tfft.optimizers import build_optimizer, transfer_slots
from tfft.regularizers import add_l2_sp, remove_l2_sp
from tfft.training import distribute
from tfft.training.callbacks import EpochCount, OnWhole, PhaseWatch, build_metrics, line, rate_setter
from tfft.training.context import TrainingContext, slice_for
from tfft.training.contrastive_phase import contrast, freeze_head
from tfft.training.diagnostics import audit_phase, diagnose_nan_loss
from tfft.training.example_scores import ExampleScores
from tfft.training.history import History
from tfft.training.progress import Progress
from tfft.training.suffix import FeatureSource, TrainableSuffix, solve
from tfft.weight_averaging import ExponentialMovingAverage, StochasticWeightAveraging, interpolate
from tfft.weight_averaging.selection import Score, selection_score

_PLATEAU = 2  # epochs without a better validation loss before the rate falls


def fit_phase(context: TrainingContext, phase: Phase, start: Score | None) -> tuple[History, Score | None]:
    """Train one phase; return its history and the score of the weights it leaves."""
    notes: list[str] = []
    slice_for(context, phase, notes)
    if phase.contrastive_repeats:
        freeze_head(context.model)
    before = _reinitialized(context, phase)
    try:
        if phase.l2_sp:
            add_l2_sp(context.model, phase.l2_sp, start=context.pretrained)
        return _fit(context, phase, start, before, notes)
    finally:
        if phase.l2_sp:
            remove_l2_sp(context.model)
        if phase.lora_rank:
            merge_lora(context.model)
            context.optimizer = context.trained = None  # they knew of nothing but the updates
        changed = (
            phase.l2_sp or phase.mixup_alpha or phase.cutmix_alpha
        )  # what `fit` and `evaluate` of the user would go on with
        if changed and getattr(context.model, "optimizer", None) is not None:
            context.model.compile(optimizer=context.model.optimizer, **context.compile_arguments)


def _fit(
    context: TrainingContext,
    phase: Phase,
    start: Score | None,
    before: Sequence[tuple[Any, np.ndarray]],
    notes: list[str],
) -> tuple[History, Score | None]:
    contrastive = phase.contrastive_repeats > 0
    part, steps, optimizer = _compiled(context, phase, before, notes)
    watch = PhaseWatch(
        phase,
        steps,
        lambda: diagnose_nan_loss(context.dataset, phase),
        context.verbose,
        start,
        before,
        context.selection,
        ExampleScores(part, context.model) if context.example_scores and not contrastive else lambda: None,
        context.record,
    )
    bar = Progress(phase.name, steps * phase.epochs)
    check = audit(context.model)  # of the whole model, also where a part of it is fitted
    callbacks = context.course(_callbacks(context, phase, part, watch, bar))
    try:  # the dataset orders itself
        distribute.fit(part.model, part.dataset, part.validation, epochs=phase.epochs, callbacks=callbacks, verbose=0)
    finally:
        bar.close()
    report, found = audit_phase(check, part, phase)  # before the best weights come back
    notes += found
    watch.restore_best()
    best = watch.best
    if not watch.best_epoch:
        notes.append(_kept(phase, "epoch"))
    elif phase.interpolate:
        best = _interpolated(context, phase, part, watch, notes)
    context.optimizer = optimizer if watch.best_epoch and not contrastive else None
    history = History(
        tuple(watch.rows), {phase.name: watch.best_epoch}, {phase.name: report}, tuple(notes),
        _by_phase(phase, watch.example_scores),
    )  # fmt: skip
    return history, best


def _compiled(
    context: TrainingContext, phase: Phase, before: Sequence[tuple[Any, np.ndarray]], notes: list[str]
) -> tuple[TrainableSuffix, int, keras.optimizers.Optimizer]:
    """Compile the model, and the part of it that is fitted; return that part, its steps an epoch and the optimizer."""
    model, contrastive = context.model, phase.contrastive_repeats > 0
    if contrastive:
        part, steps, arguments = contrast(context, phase, notes)
        context.optimizer = context.trained = None  # they knew another loss
    else:
        context.trained = context.part(notes, phase)
        part, steps, arguments = context.batches(context.trained, phase, notes)
    setter = rate_setter(context.callbacks)
    if setter and phase.schedule != "plateau":
        notes.append(
            f"phase {phase.name!r}: {setter} sets the learning rate, so it starts at {phase.learning_rate:g} and the "
            f"schedule {phase.schedule!r} is not used"
        )
    scheduled = dataclasses.replace(phase, schedule="plateau") if setter else phase  # a number, which can be set
    optimizer = _optimizer(context, scheduled, steps * phase.epochs, {variable.path for variable, _ in before})
    whole = context.compile_arguments if contrastive else arguments
    model.compile(optimizer=optimizer, **whole)  # what callbacks see, and the user is given back
    if part.model is not model:
        part.model.compile(optimizer=optimizer, **arguments)
        if context.callbacks and not contrastive:
            build_metrics(model, part.dataset)
    return part, steps, optimizer


def _reinitialized(context: TrainingContext, phase: Phase) -> list[tuple[Any, np.ndarray]]:
    """Give the last blocks new weights, and return the old values of all variables that may change."""
    if not phase.reinitialize:
        return []
    before = [(v, keras.ops.convert_to_numpy(v).copy()) for v in context.model.weights]
    reinitialize(context.model, phase.reinitialize, seed=context.seed, dataset=context.dataset)
    return [(v, value) for v, value in before if not np.array_equal(value, keras.ops.convert_to_numpy(v))]


def _optimizer(context: TrainingContext, phase: Phase, steps: int, fresh: set[str]) -> keras.optimizers.Optimizer:
    optimizer = build_optimizer(phase, context.model, steps, wrapped=context.optimizer is not None)
    if context.optimizer is not None:
        transfer_slots(context.optimizer, optimizer, fresh=fresh)
    return optimizer


def _interpolated(
    context: TrainingContext, phase: Phase, part: TrainableSuffix, watch: PhaseWatch, notes: list[str]
) -> Score | None:
    found = interpolate(part.model, watch.first, part.validation)
    notes.append(f"phase {phase.name!r}: the best point between its start (0) and its end (1) is {found.alpha:g}")
    return selection_score(found.best.results, context.selection)  # type: ignore[return-value]  # there is a loss


def _callbacks(
    context: TrainingContext, phase: Phase, part: TrainableSuffix, watch: PhaseWatch, bar: Progress
) -> list[keras.callbacks.Callback]:
    own: list[keras.callbacks.Callback] = [watch]
    if context.epoch is not None:
        own.append(EpochCount(context.epoch, context.epochs_before))
    monitor = "loss" if part.validation is None else "val_loss"
    if phase.patience is not None:
        own.append(keras.callbacks.EarlyStopping(monitor, patience=phase.patience, mode="min"))
    if phase.schedule == "plateau":
        own.append(keras.callbacks.ReduceLROnPlateau(monitor, factor=0.1, patience=_PLATEAU, mode="min"))
    if context.verbose and distribute.is_chief():
        own.append(bar)
    averages = []  # in front of all others, which see the averaged weights
    if phase.ema_decay:
        averages.append(ExponentialMovingAverage(phase.ema_decay))
    if phase.swa_fraction:
        averages.append(StochasticWeightAveraging(phase.swa_fraction, refresh=part.dataset))
    theirs = (
        context.callbacks if part.model is context.model else [OnWhole(c, context.model) for c in context.callbacks]
    )
    return [*averages, *theirs, *own]


def solve_phase(context: TrainingContext, phase: Phase, start: Score | None) -> tuple[History, Score | None]:
    """Compute the head; return the history with one row, and the score of the weights it leaves."""
    began, model = time.perf_counter(), context.model
    slice_for(context, phase, [])
    source = context.source or FeatureSource(context.dataset, context.validation, cache=None)
    check = audit(model)
    before = [(v, keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]
    probe = solve(
        model,
        source,
        l2=context.l2,
        seed=context.seed,
        verbose=context.verbose,
        class_weight=context.class_weight,
        prototypes=phase.head == "nearest_mean",
    )
    context.trained = probe.part
    model.compile(optimizer="adam", **context.compile_arguments)
    model.optimizer.build(model.trainable_variables)  # a .keras file of an optimizer without slots loads with a warning
    row: dict[str, Any] = {"phase": phase.name, "epoch": 1}
    row |= distribute.alone(probe.part.model, lambda: _measured(probe.part, heads.from_model(model).compile_args))
    row |= {"learning_rate": 0.0, "seconds": time.perf_counter() - began}
    notes = [f"phase {phase.name!r}: {probe.note}"]
    if context.callbacks:
        notes.append(f"phase {phase.name!r}: it has no epochs, so callbacks are not called")
    report = check.compare()
    if report.frozen_moved:
        check.check()
    if context.verbose > 1:
        print(line(row, 1), flush=True)
    context.record(row)
    score, best = selection_score(row, context.selection, "val_"), 1
    if score is not None and start is not None and score <= start:
        for variable, value in before:
            variable.assign(value)
        notes.append(_kept(phase, "solution"))
        score, best = start, 0
    if start is None:
        notes += _worse_than_before(context, phase, score)
    each = ExampleScores(probe.part, model)() if context.example_scores else None
    scores = _by_phase(phase, [] if each is None else [each])
    return History((row,), {phase.name: best}, {phase.name: report}, tuple(notes), scores), score


def _by_phase(phase: Phase, scores: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {phase.name: np.stack(scores)} if scores else {}


def _worse_than_before(context: TrainingContext, phase: Phase, score: Score | None) -> list[str]:
    """Return a note if a head on tuned features is worse than an earlier one; the features are not restored."""
    scored = ((selection_score(row, context.selection, "val_"), row["phase"]) for row in context.done.rows)
    earlier = [(found, name) for found, name in scored if found is not None]
    if score is None or not earlier or score >= max(earlier)[0]:
        return []
    best, name = max(earlier)
    metric = context.selection.name

    def shown(found: Score) -> str:
        return f"{metric} {abs(found[0]):.4f}, loss {-found[1]:.4f}"

    return [
        f"phase {phase.name!r}: with the tuned features the model is worse on the validation examples "
        f"({shown(score)}) than it was in phase {name!r} ({shown(best)}). They are kept anyway: so few examples "
        "cannot settle which is better"
    ]


def _measured(part: TrainableSuffix, arguments: Callable[[], Mapping[str, Any]]) -> dict[str, float]:
    part.model.compile("adam", **arguments())
    found = dict(part.model.evaluate(part.dataset, verbose=0, return_dict=True))
    if part.validation is not None:
        held_out = part.model.evaluate(part.validation, verbose=0, return_dict=True)
        found |= {f"val_{name}": value for name, value in held_out.items()}
    return found


def _kept(phase: Phase, what: str) -> str:
    return (
        f"phase {phase.name!r}: no {what} was better on the validation examples than the weights before this "
        "phase, so those were kept"
    )
