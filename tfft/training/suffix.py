"""The frozen part of a model, computed once in place of once per epoch, and the head solved on what it gives.

Hides which part of a phase is constant, and what is fitted instead of the whole model: a part that shares
its variables, on features that :mod:`tfft.features` computes and keeps.
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
from tfft.errors import BackboneError, DataError, PlanError
from tfft.features import Features, fit_linear_probe, set_head_weights, split_head
from tfft.features.batching import check_axes
from tfft.features.cache import default_folder
from tfft.features.engines import Staged, largest_difference, stage
from tfft.features.extraction import extract_each
from tfft.features.linear_probe.nearest_mean import nearest_mean_head
from tfft.features.sources import Views, open_source
from tfft.features.split_model import example_bytes, split_steady
from tfft.io.cache_dir import free_space
from tfft.specs import Augmentation, augmentation

_SHARE_OF_DISK = 0.5  # of what is free; features that need more are computed again in every epoch
_SAMPLE = 256  # texts whose length tells how much the features of all will take
_GAPS = {"float32": 1e-3, "float16": 1e-2}  # largest difference of a result, relative to the largest result


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureSource:
    """The examples behind a training dataset, as they are before they are shuffled and batched.

    Attributes:
        train: what :func:`tfft.features.extract` takes: ``tfft.data.Examples``, arrays with labels, or a
            dataset that gives the same examples in the same order each time.
        validation: the same, held out; None for none.
        batch_size: examples per step.
        shuffle: True trains in another order in each epoch, the one that :func:`tfft.data.to_dataset` has
            for the same seed.
        seed: of the order.
        cache: where features are kept, as :func:`tfft.features.extract` takes it.
        dtype: that features are kept in.
        augment: how training pictures are varied while blocks train, as :func:`tfft.data.to_dataset` takes it;
            a head is solved on the pictures as they are.
        views: of each picture, used in turn, one in each epoch.
        sampling: ``"balanced"`` draws all classes equally often, as :func:`tfft.data.to_dataset` does.
        lengths: of the training texts, [N], see :attr:`tfft.data.Examples.lengths`: texts of similar length share
            batches, as they do without features. None for an order that does not look at the length.
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

    def extract(self, prefix: keras.Model, verbose: bool, *, varied: bool) -> tuple[Features, Features | None]:
        """Returns the features of the training examples, varied or as they are, and of the validation examples."""
        changes = augmentation(self.augment) if varied else None
        found = extract_each(
            prefix,
            [d for d in (self.train, self.validation) if d is not None],
            cache=self.cache,
            dtype=self.dtype,
            batch_size=self.batch_size,
            verbose=verbose,
            views=None if changes is None else Views(changes, self.views, self.seed),
        )
        return found[0], None if self.validation is None else found[1]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainableSuffix:
    """What a phase is fitted on: the whole model, or the part of it that is left to train.

    Attributes:
        model: shares its variables with the whole model and has all that train.
        dataset: what it takes, with as many batches as the whole model's.
        validation: the same, held out; None for none.
        notes: on how the part differs from the whole model.
        features: what the training dataset is made of; None where the model is the whole one.
    """

    model: keras.Model
    dataset: tf.data.Dataset
    validation: tf.data.Dataset | None
    notes: tuple[str, ...] = ()
    features: Features | None = None


def build_suffix(
    model: keras.Model, source: FeatureSource, epoch: tf.Variable | None, *, verbose: bool = True
) -> TrainableSuffix | str:
    """Computes what is frozen in a model, and returns what is left to train on the result.

    Args:
        model: sliced for the phase.
        source: the examples.
        epoch: as in :func:`tfft.data.to_dataset`.
        verbose: print what is computed.

    Returns:
        The part that trains and its datasets; or why there is none, in words.
    """
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


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """A head solved on the features of the frozen backbone.

    Attributes:
        part: the head alone, on features.
        note: what was found, in one sentence.
    """

    part: TrainableSuffix
    note: str


def solve(
    model: keras.Model,
    source: FeatureSource,
    *,
    l2: float | Literal["auto"],
    seed: int,
    verbose: bool,
    class_weight: Mapping[int, float] | None = None,
    prototypes: bool = False,
) -> Probe:
    """Puts the best linear head for the frozen backbone into a model (the linear probe), or the nearest class mean.

    Args:
        model: with a head of tfft; changed in place: kernel, bias and the head's ``l2``.
        source: the examples.
        l2: strength of the penalty, or ``"auto"`` to choose it by cross-validation.
        seed: of the folds.
        verbose: print what is computed.
        class_weight: of the examples of each class, for a linear probe.
        prototypes: True takes the mean of each class in place of the best head.

    Returns:
        What was solved, for measuring and for the record.
    """
    prefix, suffix = split_head(model)
    train, held_out = source.extract(prefix, verbose, varied=False)
    if any(isinstance(part, Ragged) for part in train.parts):
        raise PlanError(
            f"The head of {model.name!r} answers for every piece of a text, so it cannot be solved on one row of "
            "features for each text. Train it: a phase with epochs, a rate and head='train'."
        )
    features, head = np.asarray(train.arrays), heads.from_model(model)
    labels: Any = train.labels  # where there are none, solving says so
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
            note += "; it stopped before it met its tolerance"
    batch = source.batch_size
    part = TrainableSuffix(suffix, train.dataset(batch), None if held_out is None else held_out.dataset(batch))
    return Probe(part, note)


def _bytes(prefix: keras.Model, staged: Staged, source: FeatureSource) -> int | None:
    """Returns what the features will take, or None where that is not known."""
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
    """Returns what the model takes, of a pair (inputs, labels) or of examples in memory; None of others."""
    return examples[0] if isinstance(examples, tuple) else getattr(examples, "inputs", None)


def _count(examples: Any) -> int:
    return len(examples[1]) if isinstance(examples, tuple) else len(examples)


def _some(values: Any, at: np.ndarray) -> Any:
    """Returns some of the texts, or pairs of texts, that a source is made of."""
    if isinstance(values, Mapping):
        return {name: _some(value, at) for name, value in values.items()}
    return np.asarray(values, object)[at]


def _gap(model: keras.Model, suffix: keras.Model, train: Features, source: FeatureSource) -> str:
    """Says how features of texts fail to give what the model gives, or nothing.

    They do where a layer looks at what is behind the end of a text: a convolution, a mean over padding.
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
        f"With features kept without padding the model's results differ by {worst:.2g} of the largest: a layer of "
        f"{model.name!r} looks at the padding behind the end of a text. Let it use the mask."
    )


def _free(cache: Any) -> int:
    return free_space(default_folder() if cache in ("auto", True, "memory") else Path(cache).expanduser())
