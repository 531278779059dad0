"""Phases one after the other in plain Keras: :func:`train`, :func:`train_phase`.

Hides the order of freezing, compiling and checking that Keras needs for a phase to train what it says.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
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
from tfft.training.frozen import FeatureSource, Reduced, reduce, solve
from tfft.training.history import History
from tfft.training.parts import in_parts
from tfft.training.watching import EpochCount, OnWhole, PhaseWatch, Rank, line, rank_of

_NO_GRADIENT = 1e-7  # Adam's epsilon: below it a step is smaller than float32 can show


def train(
    model: keras.Model,
    dataset: tf.data.Dataset | Callable[[], tf.data.Dataset],
    validation: tf.data.Dataset | None,
    phases: Sequence[Phase],
    *,
    batch_norm: Literal["fixed", "train"] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: bool = True,
    loss: Any = None,
    metrics: Sequence[Any] | None = None,
    source: FeatureSource | None = None,
    epoch: tf.Variable | None = None,
    l2: float | Literal["auto"] = "auto",
    seed: int = 0,
    part_size: int | None = None,
    after_phase: Callable[[Phase, History], None] | None = None,
) -> History:
    """Trains a model through phases, each with its own trainable blocks, rate and schedule.

    Use it when a plan has more than one phase. After it the model is an ordinary compiled Keras model
    with the best weights by validation accuracy: a phase none of whose epochs beats the weights it
    started from hands those back, and its history says so.

    With a ``source``, what is frozen is computed once and kept, and only what trains is fitted, on the
    result; the numbers are the same. Where that cannot be, the phase fits the whole model on ``dataset``,
    and the history says why.

    Args:
        model: with a head of tfft, or pass ``loss``; changed in place.
        dataset: finite, batches of (inputs, labels); or a function that makes it, called when it is needed.
        validation: the same, held out; None keeps the last weights instead of the best.
        phases: in order.
        batch_norm: as :func:`tfft.unfreeze` takes it.
        callbacks: of Keras; used in every phase that has epochs, before tfft's own. Their ``model`` is the
            whole one, also where a part of it is fitted.
        verbose: print one line per epoch.
        loss: overrides the head's.
        metrics: override the head's.
        source: the examples behind both datasets. A phase that solves the head takes ``dataset`` without one.
        epoch: int64 variable on the CPU that is set to the number of the epoch, counted through all phases,
            before each one: give it to :func:`tfft.data.to_dataset` too, and the order of the examples does
            not depend on how often the dataset was read.
        l2: penalty of a solved head, or ``"auto"`` to choose it by cross-validation.
        seed: of that choice.
        part_size: examples that are computed at a time, for batches that do not fit into memory; see
            :func:`in_parts`. None for whole batches.
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
    if isinstance(dataset, tf.data.Dataset):
        _length(dataset, "training")
    if validation is not None:
        _length(validation, "validation")
    history = History()
    with distributing.scope_of(model):  # metrics have variables, which belong to the model's strategy
        arguments = {"loss": loss, "metrics": metrics} if loss is not None else heads.of(model).compile_args()
    if metrics is not None:
        arguments["metrics"] = metrics
    job = _Job(
        model, dataset, validation, arguments, batch_norm, tuple(callbacks), verbose, source, epoch, l2, seed,
        part_size,
    )  # fmt: skip
    best: Rank | None = None
    for phase in phases:
        with distributing.scope_of(model):
            done, best = (_solve if phase.solve else _run)(job, phase, best)
        job.epochs_before += len(done.rows)
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
        if phase.solve:
            if phase.unfreeze not in ("none", 0):
                problems.append(f"{where}the head is solved, so unfreeze must be 'none', got {phase.unfreeze!r}")
            continue
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


@dataclasses.dataclass(eq=False)
class _Job:
    """What stays the same over the phases, and the number of epochs so far."""

    model: keras.Model
    given: tf.data.Dataset | Callable[[], tf.data.Dataset]
    validation: tf.data.Dataset | None
    compile_arguments: Mapping[str, Any]
    batch_norm: Literal["fixed", "train"] | None
    callbacks: tuple[keras.callbacks.Callback, ...]
    verbose: bool
    source: FeatureSource | None
    epoch: tf.Variable | None
    l2: float | Literal["auto"]
    seed: int
    part_size: int | None
    epochs_before: int = 0

    @functools.cached_property
    def dataset(self) -> tf.data.Dataset:
        """Batches for the whole model."""
        return self.given if isinstance(self.given, tf.data.Dataset) else self.given()

    def part(self, notes: list[str], phase: Phase) -> Reduced:
        """Returns what is to be fitted in a phase whose blocks are unfrozen."""
        part: Reduced | str = (
            "" if self.source is None else reduce(self.model, self.source, self.epoch, verbose=self.verbose)
        )
        if isinstance(part, str):
            if part:
                notes.append(f"phase {phase.name!r}: every epoch runs the whole model. {part}")
            part = Reduced(self.model, self.dataset, self.validation)
        if self.part_size is None:
            return part
        statistics = "parts" if self.batch_norm == "train" else "refuse"
        return dataclasses.replace(part, model=in_parts(part.model, self.part_size, batch_norm=statistics))


def _slice(job: _Job, phase: Phase) -> None:
    job.model.compiled = False  # it is compiled later; unfreeze need not do it too
    unfreeze(job.model, phase.unfreeze, batch_norm=job.batch_norm)
    if not job.model.trainable_weights:
        raise PlanError(
            f"In phase {phase.name!r} nothing trains: unfreeze={phase.unfreeze!r} and the model has no head."
        )


def _run(job: _Job, phase: Phase, start: Rank | None) -> tuple[History, Rank | None]:
    model, notes = job.model, []
    _slice(job, phase)
    part = job.part(notes, phase)
    dataset, steps = _counted(part.dataset)
    schedule = learning_rate_schedule(phase, steps * phase.epochs)
    optimizer = keras.optimizers.Adam(schedule)
    model.compile(optimizer=optimizer, **job.compile_arguments)  # what callbacks see, and the user is given back
    if part.model is not model:
        part.model.compile(optimizer=optimizer, **job.compile_arguments)
    part.model.optimizer.build(part.model.trainable_variables)
    watch = PhaseWatch(phase, steps, lambda: _likely_cause(job.dataset, phase), job.verbose, start)
    own: list[keras.callbacks.Callback] = [watch]
    if job.epoch is not None:
        own.append(EpochCount(job.epoch, job.epochs_before))
    if phase.patience is not None:
        monitor = "loss" if part.validation is None else "val_loss"
        own.append(keras.callbacks.EarlyStopping(monitor, patience=phase.patience, mode="min"))
    theirs = job.callbacks if part.model is model else [OnWhole(c, model) for c in job.callbacks]
    check = audit(model)  # of the whole model, also where a part of it is fitted
    fit = {"epochs": phase.epochs, "callbacks": [*theirs, *own], "verbose": 0}
    distributing.fit(part.model, dataset, part.validation, **fit)  # the dataset orders itself
    notes += _settle(check, dataclasses.replace(part, dataset=dataset), phase)  # before the best weights come back
    watch.restore_best()
    if not watch.best_epoch:
        notes.append(_kept(phase, "epoch"))
    history = History(tuple(watch.rows), {phase.name: watch.best_epoch}, {phase.name: check.report}, tuple(notes))
    return history, watch.best


def _solve(job: _Job, phase: Phase, start: Rank | None) -> tuple[History, Rank | None]:
    began, model = time.perf_counter(), job.model
    _slice(job, phase)
    source = job.source or FeatureSource(job.dataset, job.validation, cache=None)
    check = audit(model)
    before = [(v, keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]
    probe = solve(model, source, l2=job.l2, seed=job.seed, verbose=job.verbose)
    model.compile(optimizer="adam", **job.compile_arguments)
    row: dict[str, Any] = {"phase": phase.name, "epoch": 1}
    row |= distributing.alone(probe.part.model, lambda: _measured(probe.part, heads.of(model).compile_args))
    row |= {"learning_rate": 0.0, "seconds": time.perf_counter() - began}
    notes = [f"phase {phase.name!r}: {probe.note}"]
    if check.compare().frozen_moved:
        check.check()
    if job.verbose:
        print(line(row, 1), flush=True)
    rank, best = rank_of(row), 1
    if rank is not None and start is not None and rank <= start:
        for variable, value in before:
            variable.assign(value)
        notes.append(_kept(phase, "solution"))
        rank, best = start, 0
    return History((row,), {phase.name: best}, {phase.name: check.report}, tuple(notes)), rank


def _measured(part: Reduced, arguments: Callable[[], Mapping[str, Any]]) -> dict[str, float]:
    part.model.compile("adam", **arguments())
    found = dict(part.model.evaluate(part.dataset, verbose=0, return_dict=True))
    if part.validation is not None:
        held_out = part.model.evaluate(part.validation, verbose=0, return_dict=True)
        found |= {f"val_{name}": value for name, value in held_out.items()}
    return found


def _kept(phase: Phase, what: str) -> str:
    return (
        f"phase {phase.name!r}: no {what} was better on the validation examples than the weights from before it, "
        "so those were kept"
    )


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
