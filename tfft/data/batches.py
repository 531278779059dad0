"""Batched ``tf.data`` pipelines with a repeatable order: :class:`BatchOptions`, :func:`assemble`.

Implementation notes: :mod:`tfft.data.sampling` computes the order of the rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfft.data.sampling import classes_to_balance, rows
from tfft.errors import PlanError, raise_problems
from tfft.settings import is_count
from tfft.specs import Augmentation

CACHE_LIMIT = 512 * 2**20  # bytes of decoded examples that cache="auto" keeps in memory

Fetch = Callable[[tf.Tensor], Any]  # int64 [b] positions to model inputs
# From position, label, seed int64 [2] of the example and view number to one augmented input and its label.
MakeView = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True, eq=False)
class BatchOptions:
    """Options for batching examples.

    Attributes:
        batch_size: Examples per batch; the last batch of a pass may be smaller.
        shuffle: Whether each pass has another order, a pure function of seed and epoch.
        seed: Seed for the orders.
        epoch: An int64 variable on the CPU with the epoch at the start of each pass, for programs that resume. None
            counts the passes from 0; every started pass counts, also an unfinished one.
        augment: Augmentation, see :func:`tfft.data.to_dataset`; None for none.
        views: Number of views, used in turn; None for a new one each time. No effect without ``augment``.
        sampling: ``"balanced"`` draws every class equally often; None shows each example once per pass.
        cache: Whether to keep decoded examples in memory; ``"auto"`` if they take less than 512 MB.
        rows: Rows to make where a dataset holds every view of every example; None for all. See :func:`assemble_views`.

    Raises:
        PlanError: If a value is out of range.
    """

    batch_size: int = 32
    shuffle: bool = False
    seed: int = 0
    epoch: tf.Variable | None = None
    augment: Augmentation | str | Sequence[str] | None = None
    views: int | None = None
    sampling: str | None = None
    cache: bool | Literal["auto"] = "auto"
    rows: range | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.views is not None and not is_count(self.views):
            problems.append(f"views must be an integer of at least 1 or None, received {self.views!r}")
        if not is_count(self.batch_size):
            problems.append(f"batch_size must be an integer of at least 1, received {self.batch_size!r}")
        if self.cache not in (True, False, "auto"):
            problems.append(f"cache must be True, False or 'auto', received {self.cache!r}")
        if self.epoch is not None and not isinstance(self.epoch, tf.Variable):
            problems.append(f"epoch must be a tf.Variable of dtype int64 or None, received {type(self.epoch).__name__}")
        raise_problems(PlanError, "The dataset cannot be built", problems)

    def refuse(self, names: Sequence[str], items: str) -> None:
        """Raise PlanError if one of some options is set that does not apply to ``items``."""
        given = [f"{name}={value!r}" for name in names if (value := getattr(self, name)) is not None]
        raise_problems(PlanError, f"These options do not apply to {items}; leave them out", given)


def assemble(
    fetch: Fetch,
    labels: np.ndarray,
    options: BatchOptions,
    *,
    views: int = 1,
    lengths: np.ndarray | None = None,
    moved: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Build a dataset from a function that fetches by position, in the order of :func:`tfft.data.to_dataset`.

    Args:
        fetch: Function from int64 rows [b] to model inputs, as TensorFlow ops. The row of a view of an example is its
            position plus ``view * len(labels)``.
        labels: Labels of all examples, by position.
        options: Batch size and order; no augmentation here.
        views: Number of views per example; one in each pass, in turn.
        lengths: Lengths of the examples, [N], to batch examples of similar length; see :func:`tfft.data.sampling.rows`.
        moved: Labels of all rows, if those of the views of an example differ, such as boxes in crops; None otherwise.

    Returns:
        Dataset of (inputs, labels) with a known length.
    """
    targets = on_cpu(labels if moved is None else moved)
    order = example_rows(labels, options, views=views, lengths=lengths)
    dataset = order.batch(options.batch_size).map(
        lambda batch: (fetch(batch), tf.gather(targets, batch % len(targets))),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return with_length(dataset, len(labels), options.batch_size)


def assemble_views(
    make: MakeView,
    labels: np.ndarray,
    options: BatchOptions,
    *,
    every: int | None = None,
    lengths: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Build a dataset of augmented examples; a view is a pure function of seed, position and number.

    Args:
        make: Function that makes one view of one example, as TensorFlow ops; view 0 is the example itself.
        labels: Labels of all examples, by position.
        options: Batch size and order, and the number of views to use in turn.
        every: Number of views of each example per pass, view 0 of each first, or those of them that are in
            ``options.rows``, where row ``v * len(labels) + i`` is view v of example i; None for one view per pass.
        lengths: As for :func:`assemble`; without effect with ``every``.

    Returns:
        Dataset of (inputs, labels) with a known length.
    """
    targets, count = on_cpu(labels), len(labels)
    length = count
    if every:
        shown = range(every * count) if options.rows is None else options.rows
        order, length = tf.data.Dataset.range(shown.start, shown.stop), len(shown)
    else:
        order = example_rows(labels, options, views=options.views, lengths=lengths)

    def one(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position, view = row % count, row // count
        seed = tf.random.fold_in(tf.constant([options.seed, count], tf.int64), position)
        return make(position, targets[position], seed, view)

    dataset = order.map(one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return with_length(dataset.batch(options.batch_size), length, options.batch_size)


def example_rows(
    labels: np.ndarray, options: BatchOptions, *, views: int | None = 1, lengths: np.ndarray | None = None
) -> tf.data.Dataset:
    """Build a dataset of the rows of each pass, see :func:`tfft.data.sampling.rows`."""
    classes = classes_to_balance(options.sampling, labels)
    return rows(len(labels), options.shuffle, options.seed, options.epoch, views, classes, lengths, options.batch_size)


def with_length(dataset: tf.data.Dataset, count: int, batch_size: int) -> tf.data.Dataset:
    """Set the number of batches of a dataset, and prefetch."""
    # flat_map loses the length, and Keras needs it to find the end of an epoch.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(math.ceil(count / batch_size)))
    return dataset.prefetch(tf.data.AUTOTUNE)


def on_cpu(values: np.ndarray) -> tf.Tensor:
    """Return a tensor on the CPU, where tf.data runs; elsewhere, each call would copy it."""
    with tf.device("CPU:0"):
        return tf.constant(values)


def gathering(values: tf.Tensor) -> Fetch:
    """Return a function that fetches rows of a tensor."""
    return lambda positions: tf.gather(values, positions)


def as_targets(labels: np.ndarray) -> np.ndarray:
    """Return labels as int32, or as float32 if they are not integers."""
    return labels.astype(np.float32 if labels.dtype.kind == "f" else np.int32)
