"""Phases one after the other in plain Keras: :func:`train`, :func:`train_phase`.

Hides the order of freezing, compiling and checking that Keras needs for a phase to train what it says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.errors import AuditError, DataError, PlanError, listed, raise_problems
from tfft.slicing import Audit, audit, unfreeze
from tfft.specs import Phase
from tfft.training import distributing
from tfft.training.history import History
from tfft.training.watching import PhaseWatch, Rank

_NO_GRADIENT = 1e-7  # Adam's epsilon: below it a step is smaller than float32 can show


@dataclasses.dataclass(frozen=True, eq=False)
class Reduced:
    """What a phase is fitted on: the whole model, or the part of it that is left to train.

    Attributes:
        model: shares its variables with the whole model and has all that train.
        dataset: what it takes, with as many batches as the whole model's.
        validation: the same, held out; None for none.
    """

    model: keras.Model
    dataset: tf.data.Dataset
    validation: tf.data.Dataset | None


def train(
    model: keras.Model,
    dataset: tf.data.Dataset,
    validation: tf.data.Dataset | None,
    phases: Sequence[Phase],
    *,
    batch_norm: Literal["fixed", "train"] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: bool = True,
    loss: Any = None,
    metrics: Sequence[Any] | None = None,
    reduce: Callable[[keras.Model, Phase], Reduced | None] | None = None,
    after_phase: Callable[[Phase, History], None] | None = None,
) -> History:
    """Trains a model through phases, each with its own trainable blocks, rate and schedule.

    Use it when a plan has more than one phase. After it the model is an ordinary compiled Keras model
    with the best weights by validation accuracy: a phase none of whose epochs beats the weights it
    started from hands those back, and its history says so.

    Args:
        model: with a head of tfft, or pass ``loss``; changed in place.
        dataset: finite, batches of (inputs, labels).
        validation: the same, held out; None keeps the last weights instead of the best.
        phases: in order.
        batch_norm: as :func:`tfft.unfreeze` takes it.
        callbacks: of Keras; used in every phase, before tfft's own.
        verbose: print one line per epoch.
        loss: overrides the head's.
        metrics: override the head's.
        reduce: called in every phase once its blocks are unfrozen; gives the part of the model that is left
            to train, on inputs computed beforehand, or None to fit the whole model.
        after_phase: called with the phase and its history when its best weights are back in the model.

    Returns:
        The history of all phases.

    Raises:
        PlanError: when settings are out of range (all listed) or the loss is not a finite number.
        DataError: when the dataset or the validation dataset is empty or never ends.
        AuditError: when a frozen variable moved or a trainable one did not though it has a gradient.

    Example:
        >>> phases = [Phase("frozen", "none", 5, 3e-3), Phase("fine-tune", 3, 5, 3e-4)]
        >>> history = tfft.training.train(model, train, validation, phases)
        >>> history.to_csv("history.csv")
    """
    check_phases(phases)
    dataset, steps = _counted(dataset)
    if validation is not None:
        _length(validation, "validation")
    history = History()
    with distributing.scope_of(model):  # metrics have variables, which belong to the model's strategy
        arguments = {"loss": loss, "metrics": metrics} if loss is not None else heads.of(model).compile_args()
    if metrics is not None:
        arguments["metrics"] = metrics
    job = _Job(model, dataset, validation, steps, arguments, batch_norm, tuple(callbacks), verbose, reduce)
    best: Rank | None = None
    for phase in phases:
        with distributing.scope_of(model):
            done, best = _run(job, phase, best)
        history += done
        if after_phase is not None:
            after_phase(phase, done)
    return history


def train_phase(
    model: keras.Model, dataset: tf.data.Dataset, validation: tf.data.Dataset | None, phase: Phase, **settings: Any
) -> History:
    """Trains one phase: freezes, compiles, checks the trainable set, fits, keeps the best weights, audits.

    Use it to put something of your own between phases.

    Args:
        model: as in :func:`train`.
        dataset: as in :func:`train`.
        validation: as in :func:`train`.
        phase: what trains, how fast and how long.
        **settings: the keyword arguments of :func:`train`.

    Returns:
        The history of the phase.

    Raises:
        TfftError: as in :func:`train`.

    Example:
        >>> history = tfft.training.train_phase(model, train, validation, Phase("fine-tune", 3, 5, 3e-4))
    """
    return train(model, dataset, validation, [phase], **settings)


def learning_rate_schedule(phase: Phase, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the rate of a phase as a function of the step: a linear rise, then a cosine down to nearly 0.

    Use it with your own ``compile``.

    Args:
        phase: gives the peak and the share of the steps that the rise takes.
        steps: number of steps of the whole phase.

    Returns:
        A schedule whose first step is never 0, so that even one step trains.

    Example:
        >>> schedule = learning_rate_schedule(Phase("fine-tune", 3, 5, 3e-4), steps=5 * 45)
    """
    rise = min(int(phase.warmup * steps), steps - 1)
    if not rise:
        return keras.optimizers.schedules.CosineDecay(phase.learning_rate, steps)
    return keras.optimizers.schedules.CosineDecay(
        phase.learning_rate / (rise + 1), steps - rise, warmup_target=phase.learning_rate, warmup_steps=rise
    )


def check_phases(phases: Sequence[Phase]) -> None:
    """Raises one :class:`PlanError` with everything that is out of range in the phases."""
    problems = [] if phases else ["there is no phase, so nothing would be trained"]
    names = [phase.name for phase in phases]
    problems += [f"two phases are called {name!r}" for name in sorted(set(names)) if names.count(name) > 1]
    for phase in phases:
        where = f"in phase {phase.name!r} "
        if isinstance(phase.epochs, bool) or not isinstance(phase.epochs, int) or phase.epochs < 1:
            problems.append(f"{where}epochs must be an int of at least 1, got {phase.epochs!r}")
        if not _number(phase.learning_rate) or not 0 < phase.learning_rate < math.inf:
            problems.append(f"{where}learning_rate must be a number over 0, got {phase.learning_rate!r}")
        if not _number(phase.warmup) or not 0 <= phase.warmup < 1:
            problems.append(f"{where}warmup is a share of the steps, 0 <= warmup < 1, got {phase.warmup!r}")
        if phase.patience is not None and (not isinstance(phase.patience, int) or phase.patience < 1):
            problems.append(f"{where}patience must be None or an int of at least 1, got {phase.patience!r}")
    raise_problems(PlanError, "The phases cannot be trained", problems)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    """What stays the same over the phases."""

    model: keras.Model
    dataset: tf.data.Dataset
    validation: tf.data.Dataset | None
    steps: int
    compile_arguments: Mapping[str, Any]
    batch_norm: Literal["fixed", "train"] | None
    callbacks: tuple[keras.callbacks.Callback, ...]
    verbose: bool
    reduce: Callable[[keras.Model, Phase], Reduced | None] | None


def _run(job: _Job, phase: Phase, start: Rank | None) -> tuple[History, Rank | None]:
    model = job.model
    model.compiled = False  # it is compiled below; unfreeze need not do it too
    unfreeze(model, phase.unfreeze, batch_norm=job.batch_norm)
    if not model.trainable_weights:
        raise PlanError(
            f"In phase {phase.name!r} nothing trains: unfreeze={phase.unfreeze!r} and the model has no head."
        )
    part = job.reduce(model, phase) if job.reduce is not None else None
    part = part or Reduced(model, job.dataset, job.validation)
    _compile(part.model, phase, job)
    part.model.optimizer.build(part.model.trainable_variables)
    watch = PhaseWatch(phase, job.steps, lambda: _likely_cause(job.dataset, phase), job.verbose, start)
    own: list[keras.callbacks.Callback] = [watch]
    if phase.patience is not None:
        monitor = "loss" if part.validation is None else "val_loss"
        own.append(keras.callbacks.EarlyStopping(monitor, patience=phase.patience, mode="min"))
    check = audit(model)  # of the whole model, also where a part of it is fitted
    fit = {"epochs": phase.epochs, "callbacks": [*job.callbacks, *own], "verbose": 0}
    distributing.fit(part.model, part.dataset, part.validation, **fit)  # the dataset orders itself
    notes = _settle(check, part, phase)  # before the best weights come back: those may be the first ones
    watch.restore_best()
    if part.model is not model:
        _compile(model, phase, job)  # what the user is given back is whole and compiled
    if not watch.best_epoch:
        notes.append(
            f"phase {phase.name!r}: no epoch was better on the validation examples than the weights from before it, "
            "so those were kept"
        )
    history = History(tuple(watch.rows), {phase.name: watch.best_epoch}, {phase.name: check.report}, tuple(notes))
    return history, watch.best


def _compile(model: keras.Model, phase: Phase, job: _Job) -> None:
    schedule = learning_rate_schedule(phase, job.steps * phase.epochs)
    model.compile(optimizer=keras.optimizers.Adam(schedule), **job.compile_arguments)


def _counted(dataset: tf.data.Dataset) -> tuple[tf.data.Dataset, int]:
    count = _length(dataset, "training")
    if count == tf.data.UNKNOWN_CARDINALITY:
        count = int(dataset.reduce(np.int64(0), lambda n, *_: n + 1))
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))  # else Keras warns of running out
        _length(dataset, "training")
    return dataset, count


def _length(dataset: tf.data.Dataset, name: str) -> int:
    """Returns the number of batches, or that it is not known; refuses none and no end."""
    count = int(dataset.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        raise DataError(
            f"The {name} data never ends (it repeats): an epoch needs an end, for example dataset.take(steps)."
        )
    if count == 0:
        raise DataError(
            f"The {name} data holds no batch. With drop_remainder, a batch larger than the data gives none."
        )
    return count


def _likely_cause(dataset: tf.data.Dataset, phase: Phase) -> str:
    """Looks for what makes a loss NaN: values in the data that are no numbers, else the rate."""
    parts: dict[str, int] = {}
    for batch in dataset:
        for name, part in zip(("inputs", "labels"), batch, strict=False):
            for tensor in keras.tree.flatten(part):
                if tensor.dtype.is_floating:
                    bad = int(np.sum(~np.isfinite(np.asarray(tensor, np.float32))))
                    parts[name] = parts.get(name, 0) + bad
    found = [f"{n} values of the {name}" for name, n in parts.items() if n]
    if found:
        return f"Cause: {listed(found)} are NaN or infinite. Remove those examples."
    return f"The data is finite, so most likely the rate is too high: try {phase.learning_rate / 10:g}."


def _settle(check: Audit, part: Reduced, phase: Phase) -> list[str]:
    """Audits a phase; lets a variable stand still only if it is shown to have no gradient."""
    report = check.compare()
    if report.ok:
        return []
    if report.frozen_moved:
        check.check()
    found = _gradients(part.model, part.dataset, check.unchanged)
    still = [v for v, g in zip(check.unchanged, found, strict=True) if g > _NO_GRADIENT]
    if still:
        raise AuditError(
            f"In phase {phase.name!r} {len(still)} trainable variables have a gradient but did not change: "
            f"{listed(v.path for v in still)}. Learning rate {phase.learning_rate:g}; did a callback put them back?"
        )
    return [f"phase {phase.name!r}: no gradient reaches {listed(report.trainable_unchanged)}"]


def _gradients(model: keras.Model, dataset: tf.data.Dataset, variables: Sequence[keras.Variable]) -> list[float]:
    inputs, labels = next(iter(dataset))[:2]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=inputs, y=labels, y_pred=model(inputs, training=False))
    found = tape.gradient(loss, [distributing.one_copy(v) for v in variables])
    return [0.0 if g is None else float(tf.reduce_max(tf.abs(tf.convert_to_tensor(g)))) for g in found]
