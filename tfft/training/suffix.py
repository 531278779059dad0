"""Trainable suffix of a model on cached frozen features, and heads solved on them.

Implementation notes: the suffix shares its variables with the model, and :mod:`tfft.features` computes and caches the
features.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.arrays.npy_files import item_bytes
from tfft.arrays.ragged import Ragged
from tfft.arrays.store import megabytes
from tfft.data.batches import BatchOptions
from tfft.data.examples import Examples
from tfft.errors import BackboneError, DataError, PlanError
from tfft.features import Features, fit_linear_probe, set_head_weights, split_head
from tfft.features.batching import check_axes
from tfft.features.cache import default_folder
from tfft.features.engines import Staged, largest_difference, stage
from tfft.features.extraction import extract_each, kept_seconds
from tfft.features.linear_probe.nearest_mean import nearest_mean_head
from tfft.features.shards import Shard, extract_shards
from tfft.features.sources import Views, open_source
from tfft.features.split_model import example_bytes, split_steady
from tfft.io.cache_dir import free_space
from tfft.specs import Augmentation, augmentation

_SHARE_OF_DISK = 0.5  # of the free space; larger features are computed again in every epoch
_SAMPLE = 256  # texts whose length predicts the size of all features
_GAPS = {"float32": 1e-3, "float16": 1e-2}  # largest difference of a result, relative to the largest result


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureSource:
    """Examples behind a training dataset, before shuffling and batching.

    Attributes:
        train: Examples for :func:`tfft.features.extract`: ``tfft.data.Examples``, arrays with labels, or a dataset with
            the same examples in the same order each time.
        validation: Validation examples; None for none.
        batch_size: Examples per step.
        shuffle: Whether each epoch has another order, that of :func:`tfft.data.to_dataset` for the same seed.
        seed: Seed for the order.
        cache: Place for features, as in :func:`tfft.features.extract`.
        dtype: Type of the stored features.
        augment: Augmentation of training images while blocks train, as in :func:`tfft.data.to_dataset`; a head is
            solved without augmentation.
        views: Number of views, used in turn, one per epoch.
        sampling: ``"balanced"`` draws all classes equally often, as in :func:`tfft.data.to_dataset`.
        lengths: Lengths of the training texts, [N], see :attr:`tfft.data.Examples.lengths`: texts of similar length
            share batches, as without features. None ignores the length.
    """

    train: Any
    validation: Any | None = None
    batch_size: int = 32
    shuffle: bool = True
    seed: int = 0
    cache: str | os.PathLike[str] | bool | None = "auto"
    dtype: Literal["float32", "float16"] = "float32"
    augment: Augmentation | str | Sequence[str] | None = None
    views: int = 1
    sampling: str | None = None
    lengths: np.ndarray | None = None

    def extract(self, prefix: keras.Model, verbose: int, *, varied: bool) -> tuple[Features, Features | None]:
        """Return the features of the training examples, with or without augmentation, and of the validation
        examples."""
        found = extract_each(prefix, verbose=verbose, **self._request(varied))
        return found[0], None if self.validation is None else found[1]

    def extract_shard(self, prefix: keras.Model, shard: tuple[int, int], verbose: int, *, varied: bool) -> list[Shard]:
        """Compute a shard of what :meth:`extract` returns; see :func:`tfft.features.extract_shard`."""
        return extract_shards(prefix, shard=shard, verbose=verbose, **self._request(varied))

    def kept_seconds(self, prefix: keras.Model, *, varied: bool) -> float | None:
        """Return the seconds that the features took, if they are in the cache; None if they must be computed."""
        return kept_seconds(prefix, **self._request(varied))

    def _request(self, varied: bool) -> dict[str, Any]:
        """Return which features are wanted, as arguments of the functions that compute them or look them up."""
        changes = augmentation(self.augment) if varied else None
        return {
            "datasets": [d for d in (self.train, self.validation) if d is not None],
            "cache": self.cache,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "views": None if changes is None else Views(changes, self.views, self.seed),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class TrainableSuffix:
    """Model and data that a phase fits: the whole model, or its trainable part.

    Attributes:
        model: Model that shares its variables with the whole model and has all trainable ones.
        dataset: Its training data, with as many batches as the whole model's.
        validation: Its validation data; None for none.
        notes: Differences between the part and the whole model.
        features: Features in the training dataset; None for the whole model.
    """

    model: keras.Model
    dataset: tf.data.Dataset
    validation: tf.data.Dataset | None
    notes: tuple[str, ...] = ()
    features: Features | None = None


def build_suffix(
    model: keras.Model, source: FeatureSource, epoch: tf.Variable | None, *, verbose: bool | int = True
) -> TrainableSuffix | str:
    """Compute the frozen features of a model, and return the trainable suffix with its data.

    Args:
        model: Model with the trainable blocks of the phase.
        source: Examples.
        epoch: As in :func:`tfft.data.to_dataset`.
        verbose: As in :func:`tfft.features.extract`.

    Returns:
        The trainable part and its datasets; or the reason why there is none.
    """
    own = _own_part(model, source, epoch)
    if own is not None:
        return own
    if len(getattr(getattr(source.train, "dataset", source.train), "element_spec", ())) == 3:
        return "Its examples have weights in the loss, which features do not carry."
    try:
        prefix, suffix, note = split_steady(model)
        staged = stage(prefix)
        check_axes(staged)
    except (BackboneError, DataError) as error:
        return str(error)
    needed = _bytes(prefix, staged, source)
    free = free_space(Path(tempfile.gettempdir())) if source.cache is None else _free(source.cache)
    if needed is not None and needed > _SHARE_OF_DISK * free:
        return (
            f"The features in front of the first layer that trains take {megabytes(needed)}, and {megabytes(free)} are "
            "free. Freeze more blocks, use smaller images or shorter texts, or choose another folder with cache=."
        )
    train, held_out = source.extract(prefix, verbose, varied=True)
    if staged.mask is not None and (why := _gap(model, suffix, train, source)):
        return why
    dataset = train.dataset(
        source.batch_size,
        shuffle=source.shuffle,
        seed=source.seed,
        epoch=epoch,
        sampling=source.sampling,
        lengths=source.lengths,
    )
    validation = None if held_out is None else held_out.dataset(source.batch_size)
    return TrainableSuffix(suffix, dataset, validation, (note,) if note else (), train)


def _own_part(model: keras.Model, source: FeatureSource, epoch: tf.Variable | None) -> TrainableSuffix | str | None:
    """Return the part that the examples make themselves; None if they leave it to :mod:`tfft.features`."""
    if not isinstance(source.train, Examples):
        return None
    options = BatchOptions(source.batch_size, source.shuffle, source.seed, epoch)
    part = source.train.trainable_part(model, source.validation, options)
    return part if part is None or isinstance(part, str) else TrainableSuffix(*part)


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """Head solved on frozen features.

    Attributes:
        part: Head alone, on features.
        note: Result in one sentence.
    """

    part: TrainableSuffix
    note: str


def solve(
    model: keras.Model,
    source: FeatureSource,
    *,
    l2: float | Literal["auto"],
    seed: int,
    verbose: int,
    class_weight: Mapping[int, float] | None = None,
    prototypes: bool = False,
) -> Probe:
    """Set the head of a model to the linear probe on the frozen backbone, or to the nearest class mean.

    Args:
        model: Model with a head of tfft; changed in place: kernel, bias and the head's ``l2``.
        source: Examples.
        l2: Strength of the penalty, or ``"auto"`` to choose it by cross-validation.
        seed: Seed for the folds.
        verbose: As in :func:`tfft.features.extract`.
        class_weight: Class weights, for a linear probe.
        prototypes: Whether to use the mean of each class instead of the linear probe.

    Returns:
        The solution, for evaluation and for the record.
    """
    prefix, suffix = split_head(model)
    train, held_out = source.extract(prefix, verbose, varied=False)
    if any(isinstance(part, Ragged) for part in train.parts):
        raise PlanError(
            f"The head of {model.name!r} predicts for every token of a text, so it cannot be solved on one "
            "feature vector per text. Train it: a phase with epochs, a learning rate and head='train'."
        )
    features, head = np.asarray(train.arrays), heads.from_model(model)
    labels: Any = train.labels  # without labels, solving raises the error
    if prototypes:
        means = nearest_mean_head(features, labels, head)
        set_head_weights(model, means)
        note = f"the head is the mean of each class ({means.distance} distance)"
    else:
        solved = fit_linear_probe(
            features, labels, head, l2=l2, seed=seed, class_weight=class_weight, sample_weight=train.weights
        )
        set_head_weights(model, solved)
        heads.set_l2(model, solved.l2)
        note = f"head solved in {solved.seconds:.1f} s with l2={solved.l2:.3g}"
        if solved.best is not None:
            note += f", the best of {len(solved.table)} tried (held-out loss {solved.best.loss:.4f})"
        if not solved.converged:
            note += "; it stopped before reaching its tolerance"
    batch = source.batch_size
    validation = None if held_out is None else held_out.dataset(batch)
    return Probe(TrainableSuffix(suffix, train.dataset(batch), validation, features=train), note)


def _bytes(prefix: keras.Model, staged: Staged, source: FeatureSource) -> int | None:
    """Return the size of the features, or None if unknown."""
    examples = source.train
    if isinstance(examples, tf.data.Dataset) or getattr(examples, "batch_size", None):
        return None  # its length is in batches, if it is known
    if staged.mask is None:
        each: float | None = example_bytes(prefix.outputs)
    else:
        items = [(t.shape[1:], tf.as_dtype(t.dtype).as_numpy_dtype) for t in prefix.outputs]
        some = _some(_inputs(examples), np.linspace(0, _count(examples) - 1, _SAMPLE).astype(np.int64))
        pieces = next(open_source(some, staged, _SAMPLE).batches(staged))[staged.mask]
        each = item_bytes(items, float(pieces.sum(axis=1).mean()))
    if each is None:
        return None
    return round(each * source.views * _count(examples))


def _inputs(examples: Any) -> Any:
    """Return the model inputs, from a pair (inputs, labels) or from examples in memory; None for others."""
    return examples[0] if isinstance(examples, tuple) else getattr(examples, "inputs", None)


def _count(examples: Any) -> int:
    return len(examples[1]) if isinstance(examples, tuple) else len(examples)


def _some(values: Any, at: np.ndarray) -> Any:
    """Return some of the texts, or pairs of texts, in a source."""
    if isinstance(values, Mapping):
        return {name: _some(value, at) for name, value in values.items()}
    return np.asarray(values, object)[at]


def _gap(model: keras.Model, suffix: keras.Model, train: Features, source: FeatureSource) -> str:
    """Describe the difference between features of texts and the model's own results, if any.

    They differ if a layer reads beyond the end of a text: a convolution, a mean over padding.
    """
    ragged = next((part for part in train.parts if isinstance(part, Ragged)), None)
    given = _inputs(source.train)
    if ragged is None or given is None:
        return ""
    order = np.argsort(ragged.lengths, kind="stable")
    at = np.unique(np.concatenate([order[:4], order[-4:]]))  # short and long ones in a batch
    inputs = keras.tree.map_structure(tf.constant, _some(given, at))
    wanted = keras.tree.flatten(model(inputs, training=False))
    got = keras.tree.flatten(suffix(train.take(at), training=False))
    shown = np.arange(ragged.lengths[at].max()) < ragged.lengths[at][:, None]
    worst = 0.0
    for a, b in zip(map(np.asarray, wanted), map(np.asarray, got), strict=True):
        if a.ndim > 2 and a.shape[:2] == shown.shape:  # one result for each piece
            a, b = a[shown], b[shown]
        worst = max(worst, largest_difference([a], [b]))
    if worst <= _GAPS[source.dtype]:
        return ""
    return (
        f"With features cached without padding, the model's results differ by {worst:.2g} of the largest: a layer of "
        f"{model.name!r} looks at the padding behind the end of a text. Let it use the mask."
    )


def _free(cache: Any) -> int:
    return free_space(default_folder() if cache in ("auto", True, "memory") else Path(cache).expanduser())
