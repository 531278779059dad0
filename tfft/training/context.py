"""State shared by the phases of a training: :class:`TrainingContext`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.config import Phase
from tfft.data import apply_class_weights, apply_mixup, one_hot
from tfft.errors import DataError, PlanError, join_names
from tfft.freezing import add_lora, relative_gradients, select, unfreeze
from tfft.registry import Metric
from tfft.training.checkpoint.manager import CheckpointManager
from tfft.training.folding import fold_norms
from tfft.training.history import History
from tfft.training.microbatch import microbatched
from tfft.training.suffix import FeatureSource, TrainableSuffix, build_suffix


@dataclasses.dataclass(eq=False)
class TrainingContext:
    """Model, data and settings shared by the phases, the history so far, and what the previous phase trained."""

    model: keras.Model
    given: tf.data.Dataset | Callable[[], tf.data.Dataset]
    given_validation: tf.data.Dataset | Callable[[], tf.data.Dataset] | None
    compile_arguments: Mapping[str, Any]
    batch_norm: Literal["fixed", "train"] | None
    callbacks: tuple[keras.callbacks.Callback, ...]
    verbose: int
    source: FeatureSource | None
    epoch: tf.Variable | None
    l2: float | Literal["auto"]
    seed: int
    microbatch_size: int | None
    class_weight: Mapping[int, float] | None
    pretrained: Mapping[str, np.ndarray] | None
    selection: Metric
    example_scores: bool = False
    after_epoch: Callable[[Mapping[str, Any], int], None] | None = None
    epochs_before: int = 0
    optimizer: keras.optimizers.Optimizer | None = None
    manager: CheckpointManager | None = None
    done: History = dataclasses.field(default_factory=History)
    trained: TrainableSuffix | None = None

    def course(self, callbacks: Sequence[keras.callbacks.Callback]) -> list[keras.callbacks.Callback]:
        """Return the callbacks for ``fit``, wrapped in the checkpoint callback if there are checkpoints."""
        return list(callbacks) if self.manager is None else self.manager.course(callbacks, self.model)

    def record(self, row: Mapping[str, Any]) -> None:
        """Pass a row of the history on to the caller of the training."""
        if self.after_epoch is not None:
            self.after_epoch(row, self.epochs_before + row["epoch"])

    @functools.cached_property
    def dataset(self) -> tf.data.Dataset:
        """Batches for the whole model."""
        return self.given if isinstance(self.given, tf.data.Dataset) else self.given()

    @functools.cached_property
    def validation(self) -> tf.data.Dataset | None:
        """Validation batches for the whole model."""
        given = self.given_validation
        return given if given is None or isinstance(given, tf.data.Dataset) else given()

    def part(self, notes: list[str], phase: Phase) -> TrainableSuffix:
        """Return the part to fit in a phase with unfrozen blocks."""
        part: TrainableSuffix | str = (
            "" if self.source is None else build_suffix(self.model, self.source, self.epoch, verbose=self.verbose)
        )
        if isinstance(part, str):
            if part:
                notes.append(f"phase {phase.name!r}: every epoch runs the whole model. {part}")
            part = TrainableSuffix(self.model, self.dataset, self.validation)
        notes += [f"phase {phase.name!r}: {note}" for note in part.notes]
        part = dataclasses.replace(part, model=fold_norms(part.model))
        if self.microbatch_size is None:
            return part
        statistics: Literal["refuse", "parts"] = "parts" if self.batch_norm == "train" else "refuse"
        return dataclasses.replace(part, model=microbatched(part.model, self.microbatch_size, batch_norm=statistics))

    def batches(
        self, part: TrainableSuffix, phase: Phase, notes: list[str]
    ) -> tuple[TrainableSuffix, int, dict[str, Any]]:
        """Return a part with mixed and weighted examples, its steps per epoch, and its compile arguments."""
        dataset, steps = counted(part.dataset)
        for metric in keras.tree.flatten(self.compile_arguments.get("metrics")):
            if isinstance(metric, keras.metrics.Metric):
                metric.reset_state()  # of the phase before; Keras does not know a metric before the first step
        part, arguments = dataclasses.replace(part, dataset=dataset), dict(self.compile_arguments)
        if phase.mixup_alpha or phase.cutmix_alpha:
            head = heads.from_model(self.model)
            arguments = head.compile_args(soft=True)
            training = apply_mixup(
                part.dataset,
                head.units,
                mixup_alpha=phase.mixup_alpha,
                cutmix_alpha=phase.cutmix_alpha,
                seed=self.seed,
                epoch=self.epoch,
            )
            held_out = None if part.validation is None else one_hot(part.validation, head.units)
            part = dataclasses.replace(part, dataset=training, validation=held_out)
            if self.source is not None and part.model.inputs[0].shape != self.model.inputs[0].shape:
                notes.append(f"phase {phase.name!r}: frozen layers run once, so features are mixed instead of inputs")
        if self.class_weight is not None:
            part = dataclasses.replace(part, dataset=apply_class_weights(part.dataset, self.class_weight))
        return part, steps, arguments


def slice_for(context: TrainingContext, phase: Phase, notes: list[str]) -> None:
    """Make the blocks of a phase trainable, and no others."""
    model = context.model
    model.compiled = False  # it is compiled later; unfreeze need not do it too
    unfreeze(model, phase.unfreeze, batch_norm=context.batch_norm)
    if phase.num_surgical_blocks:
        found = relative_gradients(model, context.dataset, loss=context.compile_arguments["loss"])
        among = {block.name for block in select(model, phase.unfreeze)}
        chosen = [name for name in found.best(len(found.rows)) if name in among][: phase.num_surgical_blocks]
        notes.append(f"phase {phase.name!r}: the largest gradients relative to the weights are in {join_names(chosen)}")
        unfreeze(model, chosen, batch_norm=context.batch_norm)
    if phase.lora_rank:
        add_lora(model, phase.unfreeze, phase.lora_rank, seed=context.seed)
    if not context.model.trainable_weights:
        raise PlanError(
            f"In phase {phase.name!r} nothing trains: unfreeze={phase.unfreeze!r} and the model has no head."
        )


def counted(dataset: tf.data.Dataset) -> tuple[tf.data.Dataset, int]:
    """Return a dataset with a known number of batches, and the number."""
    count = length(dataset, "training")
    if count == tf.data.UNKNOWN_CARDINALITY:
        count = int(dataset.reduce(np.int64(0), lambda n, *_: n + 1))
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))  # else Keras warns of running out
        length(dataset, "training")
    return dataset, count


def length(dataset: tf.data.Dataset, name: str) -> int:
    """Return the number of batches, or the marker for an unknown one; raise an error for empty or infinite data."""
    count = int(dataset.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        raise DataError(f"The {name} data repeats without end. Limit it, for example with dataset.take(steps).")
    if count == 0:
        raise DataError(
            f"The {name} data holds no batch. With drop_remainder, a batch larger than the data gives none."
        )
    return count
