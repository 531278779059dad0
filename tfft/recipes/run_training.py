"""Training of the model of a run, phase by phase, with its scores: :func:`train_run`."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.backbones.base import Backbone
from tfft.config import Phase, Plan
from tfft.console.printer import Printer
from tfft.data import class_weights
from tfft.evaluation import Scores, TemperatureScaling, evaluate
from tfft.evaluation.answers import LogitSample
from tfft.evaluation.loop import evaluate_and_sample
from tfft.evaluation.temperature import can_calibrate, fit_temperature, sample_for, scale_logits
from tfft.freezing import describe
from tfft.recipes.costing import cost
from tfft.recipes.preparing import build_model, is_cached, spec_of, training_source
from tfft.recipes.run import CHECKPOINTS, MODEL, Run, write_model
from tfft.recipes.run_data import RunData
from tfft.specs import InputSpec
from tfft.training import CheckpointConfig, History, TrainableSuffix, on_chief, train
from tfft.training.distribute import has_workers
from tfft.training.tracking import RunTracking


def train_run(
    backbone: Backbone,
    data: RunData,
    plan: Plan,
    *,
    cache: str | os.PathLike[str] | bool | None,
    callbacks: Sequence[keras.callbacks.Callback],
    printer: Printer,
    folder: pathlib.Path | None,
    expected: Mapping[str, float],
    tracked: RunTracking,
) -> tuple[Run, Callable[[], tf.data.Dataset]]:
    """Build the model of a run and train it; measure it after each phase.

    Args:
        backbone: Opened backbone.
        data: Data of the run.
        plan: Complete plan.
        cache: As in :func:`tfft.finetune`.
        callbacks: Keras callbacks for all epochs.
        printer: Printer for results.
        folder: Folder of the run, for checkpoints and the model after each phase; None for none.
        expected: Expected seconds of each phase, by name; empty if they were not measured.
        tracked: Experiment trackers.

    Returns:
        The run without what is written and exported, and a function that returns batches of the held-out examples.
    """
    keras.utils.set_random_seed(plan.seed)  # again: opening may or may not have drawn numbers
    model = build_model(backbone, data, plan)
    spec = spec_of(backbone, plan)
    if estimate := cost(model, plan, len(data.splits.train), cached=is_cached(data, cache)):
        printer.detail(estimate)
    held_out = functools.cache(lambda: data.validation(spec, plan.batch_size))
    with tf.device("CPU:0"):
        epoch = tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")
    results = _PhaseResults(model, plan, data, spec, printer, folder, tracked, expected)
    history = train(
        model,
        lambda: data.training(spec, plan, epoch),
        held_out() if data.is_ready or spec is None else held_out,  # what may not fit the model is an error at once
        plan.phases,
        source=training_source(data, plan, cache),
        epoch=epoch,
        l2=plan.l2,
        seed=plan.seed,
        microbatch_size=plan.microbatch_size,
        class_weight=_class_weight(data, plan),
        batch_norm=plan.batch_norm,
        callbacks=callbacks,
        verbose=printer.level,
        after_phase=results.add,
        checkpoints=_checkpoints(model, plan, data, folder),
        memory=results.stored,
        example_scores=True,
        after_epoch=tracked.log,
    )
    printer.detail(describe(model))
    clean, scores = data.deduplicated(spec, plan.batch_size), results.scores
    run = Run(
        model, plan, history, scores[0], scores[-1], data.class_names, data.splits.skipped,
        data_report=data.checked, split_names=data.splits.items,
        deduplicated_scores=None if clean is None else evaluate(model, clean), calibration=results.calibration,
        seconds=results.stored["seconds"], expected_seconds=results.stored["expected_seconds"],
    )  # fmt: skip
    return run, held_out


class _PhaseResults:
    """Scores and seconds of each phase of a run, also of those before an interruption.

    Attributes:
        stored: What the checkpoints keep.
    """

    def __init__(
        self,
        model: keras.Model,
        plan: Plan,
        data: RunData,
        spec: InputSpec | None,
        printer: Printer,
        folder: pathlib.Path | None,
        tracked: RunTracking,
        expected: Mapping[str, float],
    ) -> None:
        self._model, self._plan, self._data, self._spec = model, plan, data, spec
        self._printer, self._folder, self._tracked = printer, folder, tracked
        self.stored: dict[str, Any] = {"scores": [], "seconds": {}, "expected_seconds": dict(expected)}
        self._began = time.perf_counter()
        self._sample: LogitSample | None = None  # of the last measurement
        self._weights: list[np.ndarray] = []  # from before the last phase, unless the folder has them

    @property
    def scores(self) -> list[Scores]:
        """Scores after each phase that was measured."""
        return [Scores.from_dict(json.loads(text)) for text in self.stored["scores"]]

    @property
    def calibration(self) -> TemperatureScaling | None:
        """Temperature scaling of the model; None if it has none."""
        text = self.stored.get("calibration")
        return None if text is None else TemperatureScaling.from_dict(json.loads(text))

    def add(self, phase: Phase, history: History, part: TrainableSuffix | None) -> History | None:
        """Measure the model after a phase, print the result and write the model.

        Returns:
            The history with no best epoch if the last phase made the score worse, so that the weights from before it
            were restored; else None.
        """
        is_last, restored, remark = phase is self._plan.phases[-1], None, ""
        before = self.scores[-1] if self.stored["scores"] else None
        if phase.contrastive_repeats and before is not None and not is_last:
            line = "features changed; the next phase fits the head"  # a score would mean nothing
        else:
            scores = self._measured(part)
            line = scores.summary if self._printer.level > 1 else scores.brief
            if is_last and before is not None and self._goes_on(phase):
                if not history.best[phase.name]:
                    scores = before  # of the same weights
                elif scores.is_worse_than(before):
                    self._restore()
                    restored = dataclasses.replace(history, best={**history.best, phase.name: 0})
                    scores, remark = before, f"; {before.brief} before this phase, so the weights from then were kept"
                    self._measured(part)  # for the logits
            scores = self._calibrated(scores, part) if is_last else scores
            self.stored["scores"].append(json.dumps(scores.to_dict()))
            self._tracked.log_scores(phase.name, {"loss": scores.loss, scores.metric: scores.value})
        if phase.epochs and not phase.contrastive_repeats:
            line += f", epoch {history.best[phase.name]} of {phase.epochs}{remark}"
        self._say(phase, history, line)
        if not is_last:
            self._keep()
        return restored

    def _say(self, phase: Phase, history: History, line: str) -> None:
        """Print the result of a phase, and note its seconds."""
        now = time.perf_counter()
        self.stored["seconds"][phase.name], self._began = now - self._began, now
        self._printer.say(f"{phase.name}: {line}; {history.audits[phase.name].summary}")
        for note in history.notes:
            self._printer.say("  " + note.removeprefix(f"phase {phase.name!r}: "))
        if self.calibration is not None:
            self._printer.say(f"calibration: {self.calibration.brief}")

    def _goes_on(self, phase: Phase) -> bool:
        """Whether the last phase began with the weights that were measured last, and chose the best of its epochs."""
        return phase.epochs > 0 and not phase.contrastive_repeats and not self._plan.phases[-2].contrastive_repeats

    def _keep(self) -> None:
        """Keep the weights of a phase: a failure in a later phase loses that phase only, and the last may be worse."""
        folder = self._folder
        if folder is not None:
            on_chief(self._model, lambda: write_model(self._model, folder))
        if (folder is None or has_workers(self._model)) and len(self.stored["seconds"]) == len(self._plan.phases) - 1:
            self._weights = [keras.ops.convert_to_numpy(variable).copy() for variable in self._model.weights]

    def _restore(self) -> None:
        """Give the model the weights that :meth:`_keep` kept."""
        weights = self._weights
        if not weights and self._folder is not None:
            weights = keras.models.load_model(self._folder / MODEL, compile=False).get_weights()
        self._model.set_weights(weights)

    def _measured(self, part: TrainableSuffix | None) -> Scores:
        """Return the scores of the model, computed on the features of the held-out examples if a phase has them."""
        self._sample = None
        if self._plan.calibrate and can_calibrate(self._model) and not has_workers(self._model):
            self._sample = sample_for(heads.from_model(self._model), seed=self._plan.seed)
        kept = part is not None and part.features is not None and not self._data.has_own_evaluation
        if part is not None and kept and part.validation is not None:
            head = heads.from_model(self._model)
            return evaluate_and_sample(part.model, part.validation, head=head, sample=self._sample)
        held_out = self._data.evaluation(self._spec, self._plan.batch_size)
        return evaluate_and_sample(self._model, held_out, sample=self._sample)

    def _calibrated(self, scores: Scores, part: TrainableSuffix | None) -> Scores:
        """Fit a temperature to the measured model and apply it; return the scores with the last loss."""
        if self._sample is None:
            return scores
        found = fit_temperature(heads.from_model(self._model), *self._sample.arrays(), seed=self._plan.seed)
        if found is None:
            return scores
        scale_logits(self._model, found)
        self.stored["calibration"] = json.dumps(found.to_dict())
        return self._measured(part)


def _checkpoints(model: keras.Model, plan: Plan, data: RunData, folder: pathlib.Path | None) -> CheckpointConfig | None:
    """Return where to write checkpoints; None with several workers, which cannot write them."""
    if folder is None or has_workers(model):
        return None
    settings = {name: value for name, value in plan.to_dict().items() if name not in ("reasons", "versions", "phases")}
    identity = {"plan": settings, "data": data.splits.fingerprint()}
    return CheckpointConfig(folder / CHECKPOINTS, identity=identity, remove=False)


def _class_weight(data: RunData, plan: Plan) -> Mapping[int, float] | None:
    if plan.class_weight is None:
        return None
    weights: Any = plan.class_weight
    return class_weights(np.repeat(np.arange(len(data.counts)), data.counts), data.class_names, weights)
