"""Data and model of a contrastive phase: :func:`contrast`.

Implementation notes: the examples for pairs come from any dataset; the fitted model ends at the features.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import heads, registry
from tfft.config import Phase
from tfft.contrastive import MOST, SIZE, PairCosine, check_classes, fetched_pairs
from tfft.errors import DataError, PlanError, in_number
from tfft.features import Features, split_head
from tfft.training.context import TrainingContext
from tfft.training.suffix import TrainableSuffix, build_suffix

_LEAST = 4  # minimum batch for pairs: two examples of two classes

# From positions to inputs of any structure, and the classes of all positions.
_Paired = tuple[Callable[[tf.Tensor], Any], np.ndarray[Any, Any]]


def check_contrast(model: keras.Model, phases: Sequence[Phase]) -> None:
    """Raise an error for contrastive phases if the examples of the model have no class, before training."""
    names = [phase.name for phase in phases if phase.contrastive_repeats]
    if not names:
        return
    head = heads.from_model(model)
    if not registry.task(head.task).exclusive_classes:
        raise PlanError(
            f"Phase {names[0]!r} is contrastive: it compares examples by class. Expected a head for classification "
            f"or binary. Received: {head.task}."
        )


def freeze_head(model: keras.Model) -> None:
    """Freeze everything after the features, which pairs do not train."""
    for layer in split_head(model)[1].layers:
        layer.trainable = False


def contrast(context: TrainingContext, phase: Phase, notes: list[str]) -> tuple[TrainableSuffix, int, dict[str, Any]]:
    """Return the model up to its features with its pairs, the steps per epoch, and the compile arguments.

    Args:
        job: Context, whose model has the trainable blocks of the phase.
        phase: Phase with the number of pairs.
        notes: List to which a sentence is added for each difference from other phases.

    Raises:
        DataError: If the examples form no pairs.
    """
    model, fetch, labels = _examples(context, phase, notes)
    names = heads.from_model(context.model).class_names or ()
    counts = np.bincount(labels, minlength=len(names))
    check_classes(counts, names)
    notes.append(f"phase {phase.name!r}: its scores are those of the previous head, which does not fit these features")
    if counts.max() >= MOST:
        notes.append(f"phase {phase.name!r}: at most {MOST} examples of each class are compared")
    alone = int((counts == 1).sum())
    if alone:
        notes.append(
            f"phase {phase.name!r}: "
            + in_number(f"{alone} classes have one example, which is paired with those of other classes only")
        )
    if context.class_weight is not None:
        notes.append(f"phase {phase.name!r}: class weights are not used for pairs")
    size = SIZE
    if context.microbatch_size is not None and context.microbatch_size < SIZE:
        size = max(_LEAST, context.microbatch_size)
        notes.append(
            f"phase {phase.name!r}: batches have {size} examples, because all examples of a batch are "
            "compared with each other"
        )
    dataset = fetched_pairs(
        fetch, labels, shown=phase.contrastive_repeats, size=size, seed=context.seed, epoch=context.epoch
    )
    return TrainableSuffix(split_head(model)[0], dataset, None), len(dataset), {"loss": PairCosine(), "metrics": None}


def _examples(
    context: TrainingContext, phase: Phase, notes: list[str]
) -> tuple[keras.Model, Callable[[tf.Tensor], Any], np.ndarray[Any, Any]]:
    """Return the model to fit, the whole one or its trainable suffix, and its examples."""
    if context.source is not None:
        # Each example once and as it is: what is drawn twice, or varied, would be compared with itself.
        plain = dataclasses.replace(
            context.source, shuffle=False, sampling=None, augment=None, views=1, validation=None
        )
        part = build_suffix(context.model, plain, context.epoch, verbose=context.verbose)
        if isinstance(part, TrainableSuffix) and part.features is not None:
            return part.model, *_of_features(part.features, context.seed)
        notes.append(f"phase {phase.name!r}: every epoch runs the whole model. {part}")
    if context.epoch is not None:
        context.epoch.assign(context.epochs_before)  # the order in which examples come, and so which of many are taken
    found = _collect(context.dataset)
    if found is None:
        raise DataError(
            f"Phase {phase.name!r} is contrastive: it puts examples of several batches together, so all must have one "
            "shape, and these have several. Resize the images to one size."
        )
    return context.model, *found


def _of_features(features: Features, seed: int) -> _Paired:
    """Select at most :data:`MOST` examples per class with the seed, none of them twice."""
    labels = np.asarray(_whole_numbers(features.labels))
    taken: dict[int, set[bytes]] = {}
    kept = []
    for at in np.random.default_rng(seed).permutation(len(labels)).tolist():
        seen = taken.setdefault(int(labels[at]), set())
        if len(seen) < MOST and (digest := _digest(features.rows(np.array([at])))) not in seen:
            seen.add(digest)
            kept.append(at)
    rows = np.sort(kept)
    with tf.device("CPU:0"):
        positions = tf.constant(rows, tf.int64)
    return lambda drawn: features.fetch(tf.gather(positions, drawn)), labels[rows]


def _collect(dataset: tf.data.Dataset) -> _Paired | None:
    """Read at most :data:`MOST` examples per class; None if their shapes differ."""
    taken: dict[int, set[bytes]] = {}
    rows: list[list[Any]] = []
    classes: list[int] = []
    for batch in dataset:
        leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(batch[0])]
        for i, label in enumerate(_whole_numbers(batch[1])):
            seen = taken.setdefault(label, set())
            row = [leaf[i] for leaf in leaves]
            if len(seen) >= MOST or (digest := _digest(row)) in seen:
                continue
            seen.add(digest)
            if rows and [np.shape(leaf) for leaf in row] != [np.shape(leaf) for leaf in rows[0]]:
                return None
            rows.append([value.copy() if isinstance(value, np.ndarray) else value for value in row])
            classes.append(label)
    if not rows:
        raise DataError("The training data holds no example, so it has no pairs.")
    # A list of texts as it is: an array of bytes would lose zeros at their ends.
    stacked = [c if isinstance(c[0], bytes) else np.stack(c) for c in map(list, zip(*rows, strict=True))]
    with tf.device("CPU:0"):
        inputs = [tf.convert_to_tensor(column) for column in stacked]

    def fetch(drawn: tf.Tensor) -> Any:
        return keras.tree.pack_sequence_as(dataset.element_spec[0], [tf.gather(column, drawn) for column in inputs])

    return fetch, np.asarray(classes)


def _whole_numbers(labels: Any) -> list[int]:
    found = np.asarray(labels)
    if found.ndim != 1 or found.dtype.kind not in "iub":
        raise DataError(
            f"Expected integer labels [B] for pairs, one class per example. Received: {found.dtype} {found.shape}."
        )
    return found.tolist()


def _digest(row: Sequence[Any]) -> bytes:
    found = hashlib.sha256()
    for value in row:
        content = value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes()
        found.update(len(content).to_bytes(8, "little") + content)
    return found.digest()
