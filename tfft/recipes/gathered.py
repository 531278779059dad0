"""What a recipe knows of its data, wherever it came from: :class:`Gathered`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.config import Plan
from tfft.data import Skipped, TextExamples
from tfft.inspection import DataReport
from tfft.specs import AudioSpec, InputSpec


@dataclasses.dataclass(frozen=True, eq=False)
class Gathered:
    """Labelled examples, split, before it is known which size and batches they are needed in.

    Attributes:
        class_names: in the order of the labels.
        examples: number of training examples.
        held_out: number of validation examples.
        counts: of training examples in each class.
        unseen: classes that no validation example has.
        origin: how train and validation came about, in words.
        skipped: files that are not used.
        image_side: median of the shorter side in pixels; None when not known.
        training: makes the training dataset for a spec and a plan; its order follows a variable with the epoch.
        validation: makes the validation dataset for a spec and a batch size.
        ordered: gives the training and the validation examples for a spec, the same ones in the same order each
            time, as :func:`tfft.features.extract` takes them; of ready datasets nobody knows whether they do.
        batch_size: of ready datasets; None where it can be chosen.
        task: name of the head that the labels are for.
        texts: the training examples where they are texts, else None.
        lengths: of the training texts, that batches of similar length are made by; None for what has one size.
        audio: how the examples are listened to; None where they are no sounds.
        report: what is worth knowing of the data, to be printed.
        probe: image files to check an export with; empty: take them from the validation dataset.
        name: what is written into the plan.
        fingerprint: gives another one for other data; a run that was stopped goes on with the same only.
        checked: what a look at the data found; None where it was not looked at.
        items: names of the examples by part, which are written into the run folder; None where they have none.
        apart: whether the held-out examples are of other groups than those that are learned from, or may be, as voices.
        listen: reads the waves of recordings, telling (files read, files in all); None for other data.
        unleaked: makes the validation dataset without copies of training examples; None where there are none.
    """

    class_names: tuple[str, ...]
    examples: int
    held_out: int
    counts: tuple[int, ...]
    unseen: tuple[str, ...]
    origin: str
    skipped: tuple[Skipped, ...]
    image_side: float | None
    training: Callable[[InputSpec | None, Plan, tf.Variable], tf.data.Dataset]
    validation: Callable[[InputSpec | None, int], tf.data.Dataset]
    ordered: Callable[[InputSpec | None], tuple[Any, Any]]
    probe: tuple[str, ...]
    name: str
    fingerprint: Callable[[], str]
    batch_size: int | None = None
    task: str = "classification"
    texts: TextExamples | None = None
    lengths: np.ndarray | None = None
    report: str = ""
    audio: AudioSpec | None = None
    checked: DataReport | None = None
    items: Mapping[str, Sequence[str]] | None = None
    apart: bool = False
    listen: Callable[[Callable[[int, int], None] | None], None] | None = None
    unleaked: Callable[[InputSpec | None, int], tf.data.Dataset] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the batches were given, and may be shuffled or augmented."""
        return self.batch_size is not None


def by_class(names: Sequence[str], train: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Returns counts by class, and the classes that nothing is measured on, from the labels of both parts."""
    learned, measured = (np.bincount(part, minlength=len(names)) for part in (train, held_out))
    return classes(names, learned, measured)


def classes(names: Sequence[str], learned: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """Returns the fields of :class:`Gathered` that follow from the counts of both parts."""
    unseen = tuple(name for name, count in zip(names, measured, strict=True) if not count)
    return {"counts": tuple(int(n) for n in learned), "unseen": unseen}
