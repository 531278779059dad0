"""One phase from its slicing to its audit: :func:`fit_phase`, and :func:`solve_phase` where nothing is stepped.

Hides the order of freezing, compiling and checking that Keras needs for a phase to train what it says.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfft import heads
from tfft.slicing import audit
from tfft.specs import Phase
from tfft.training import distributing
from tfft.training.frozen import FeatureSource, Reduced, solve
from tfft.training.history import History
from tfft.training.job import Job, counted, slice_for
from tfft.training.settling import likely_cause, settle
from tfft.training.watching import EpochCount, OnWhole, PhaseWatch, Rank, line, rank_of


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


def fit_phase(job: Job, phase: Phase, start: Rank | None) -> tuple[History, Rank | None]:
    """Trains one phase; returns its history and the rank of the weights it leaves."""
    model, notes = job.model, []
    slice_for(job, phase)
    part = job.part(notes, phase)
    dataset, steps = counted(part.dataset)
    schedule = learning_rate_schedule(phase, steps * phase.epochs)
    optimizer = keras.optimizers.Adam(schedule)
    model.compile(optimizer=optimizer, **job.compile_arguments)  # what callbacks see, and the user is given back
    if part.model is not model:
        part.model.compile(optimizer=optimizer, **job.compile_arguments)
    part.model.optimizer.build(part.model.trainable_variables)
    watch = PhaseWatch(phase, steps, lambda: likely_cause(job.dataset, phase), job.verbose, start)
    own: list[keras.callbacks.Callback] = [watch]
    if job.epoch is not None:
        own.append(EpochCount(job.epoch, job.epochs_before))
    if phase.patience is not None:
        monitor = "loss" if part.validation is None else "val_loss"
        own.append(keras.callbacks.EarlyStopping(monitor, patience=phase.patience, mode="min"))
    theirs = job.callbacks if part.model is model else [OnWhole(c, model) for c in job.callbacks]
    check = audit(model)  # of the whole model, also where a part of it is fitted
    fit = {"epochs": phase.epochs, "callbacks": job.course([*theirs, *own]), "verbose": 0}
    distributing.fit(part.model, dataset, part.validation, **fit)  # the dataset orders itself
    notes += settle(check, dataclasses.replace(part, dataset=dataset), phase)  # before the best weights come back
    watch.restore_best()
    if not watch.best_epoch:
        notes.append(_kept(phase, "epoch"))
    history = History(tuple(watch.rows), {phase.name: watch.best_epoch}, {phase.name: check.report}, tuple(notes))
    return history, watch.best


def solve_phase(job: Job, phase: Phase, start: Rank | None) -> tuple[History, Rank | None]:
    """Computes the head; returns the history with one row, and the rank of the weights it leaves."""
    began, model = time.perf_counter(), job.model
    slice_for(job, phase)
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
