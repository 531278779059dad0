"""What stays the same over the phases of a training: :class:`Job`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import DataError, PlanError
from tfft.slicing import unfreeze
from tfft.specs import Phase
from tfft.training.frozen import FeatureSource, Reduced, reduce
from tfft.training.keeping import Keeper
from tfft.training.parts import in_parts


@dataclasses.dataclass(eq=False)
class Job:
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
    keeper: Keeper | None = None

    def course(self, callbacks: Sequence[keras.callbacks.Callback]) -> list[keras.callbacks.Callback]:
        """Returns callbacks as ``fit`` is to have them: alone, or inside of one that saves what they know too."""
        return list(callbacks) if self.keeper is None else self.keeper.course(callbacks, self.model)

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


def slice_for(job: Job, phase: Phase) -> None:
    """Makes the blocks of a phase trainable, and no others."""
    job.model.compiled = False  # it is compiled later; unfreeze need not do it too
    unfreeze(job.model, phase.unfreeze, batch_norm=job.batch_norm)
    if not job.model.trainable_weights:
        raise PlanError(
            f"In phase {phase.name!r} nothing trains: unfreeze={phase.unfreeze!r} and the model has no head."
        )


def counted(dataset: tf.data.Dataset) -> tuple[tf.data.Dataset, int]:
    """Returns a dataset that knows its number of batches, and the number."""
    count = length(dataset, "training")
    if count == tf.data.UNKNOWN_CARDINALITY:
        count = int(dataset.reduce(np.int64(0), lambda n, *_: n + 1))
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))  # else Keras warns of running out
        length(dataset, "training")
    return dataset, count


def length(dataset: tf.data.Dataset, name: str) -> int:
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
