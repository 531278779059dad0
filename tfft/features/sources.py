"""Sources of examples for features: examples of a modality, arrays or datasets, with their identity.

Implementation notes: arrays and datasets are identified by their values, and the examples read for computing must match
the key. Modalities have their own :class:`Source`.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.data.dataset_forms import regular, with_pixels
from tfft.data.examples import Examples
from tfft.data.forms import pixel_array, plain_labels
from tfft.data.keras_sequences import with_datasets
from tfft.errors import DataError, raise_problems
from tfft.features.engines import Staged
from tfft.specs import Augmentation

_ROWS = 1024  # maximum rows of an array to hash at a time
_BYTES = 64 * 2**20
_TEXTS = 128  # to tokenize at a time


class Source(abc.ABC):
    """Examples in a fixed order.

    Attributes:
        count: Number of examples including views, or None while unknown.
        labels: Labels of all examples, or None if there are none or they are unknown.
        weights: Sample weights of all examples in the loss, or None.
        views: Number of views per example.
        batch_size: Examples per batch of :meth:`batches`; 1 if unknown.
    """

    count: int | None = None
    labels: np.ndarray | None = None
    weights: np.ndarray | None = None
    views: int = 1
    batch_size: int = 1

    @abc.abstractmethod
    def identity(self) -> str:
        """Return a hash of all examples in order; afterwards ``count`` and ``labels`` are known."""

    @abc.abstractmethod
    def batches(self, staged: Staged, rows: range | None = None) -> Iterator[list[np.ndarray]]:
        """Yield the network's inputs batch by batch, reading ahead.

        Args:
            staged: Model.
            rows: Examples to yield, from a multiple of ``batch_size`` on; None for all. All first views come first,
                then the second ones.

        Raises:
            DataError: If an example cannot be read, or differs from those that :meth:`identity` saw.
        """


@dataclasses.dataclass(frozen=True)
class Views:
    """Augmented views of examples, see :func:`tfft.data.batches.assemble_views`."""

    changes: Augmentation
    count: int
    seed: int


class Positioned(Protocol):
    """Array that is read by position and may be in a file, such as waveforms."""

    shape: tuple[int, ...]
    ndim: int
    dtype: np.dtype[Any]
    nbytes: int

    def __len__(self) -> int: ...

    def __getitem__(self, at: Any) -> np.ndarray: ...


# All views of an array of inputs and their labels, or some of the rows: view 0 of each, then view 1 of each, and so on.
Vary = Callable[[Any, np.ndarray, Views, range | None], tf.data.Dataset]


def open_source(dataset: Any, staged: Staged, batch_size: int, views: Views | None = None) -> Source:
    """Return a source for any dataset of :func:`tfft.features.extract`.

    Raises:
        DataError: If it has another form, or does not fit the prefix.
    """
    dataset = with_datasets(dataset)
    if isinstance(dataset, Examples):
        given = dataset.feature_source(staged, batch_size, views)
        return given if isinstance(given, Source) else open_source(given, staged, batch_size, views)
    if views is not None:
        return _varied_arrays(dataset, staged, batch_size, views)
    if isinstance(dataset, tf.data.Dataset):
        return DatasetSource(dataset, staged)
    if isinstance(dataset, tuple) and len(dataset) == 2:
        return ArraySource(*dataset, staged, batch_size)
    if isinstance(dataset, (np.ndarray, dict)) or _is_texts(dataset) or _is_positioned(dataset):
        return ArraySource(dataset, None, staged, batch_size)
    raise DataError(
        "Features are made of a tf.data.Dataset of (inputs, labels) batches, of tfft.data.Examples, of an array or a "
        f"list of texts, or of a pair (array, labels). Received {type(dataset).__name__}."
    )


def _varied_arrays(dataset: Any, staged: Staged, batch_size: int, views: Views) -> Source:
    """Return augmented arrays from the modality whose inputs the model takes."""
    if isinstance(dataset, tuple) and len(dataset) == 2:
        for name in registry.modality_names():
            source = registry.modality(name).array_source(*dataset, staged, batch_size, views)
            if source is not None:
                return source
    raise DataError(
        "Only images and recordings can be augmented: pass tfft.data.Examples or a pair of arrays, (images, labels) "
        f"or (waves, labels), and a model of tfft.build. Received {type(dataset).__name__}."
    )


def enter_all(dataset: tf.data.Dataset, staged: Staged) -> Iterator[list[np.ndarray]]:
    """Yield the network's inputs for each batch of a dataset of (inputs, labels), reading ahead."""
    enter = tf.autograph.experimental.do_not_convert(lambda inputs, _: tuple(staged.enter(inputs)))
    for tensors in dataset.map(enter, tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE):
        yield [tensor.numpy() for tensor in tensors]


def _is_positioned(value: Any) -> bool:
    """Whether a value is not an array but is read by position like one."""
    wanted = ("shape", "dtype", "nbytes", "__getitem__", "__len__")
    return not isinstance(value, np.ndarray) and all(hasattr(value, name) for name in wanted)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, (str, bytes)) for v in value)


def _as_array(value: Any) -> np.ndarray | Positioned:
    """Return an array, or an object that is read by position like one.

    Texts become Python strings, whatever their kind, so that equal texts have equal hashes.
    """
    if _is_positioned(value) and not tf.is_tensor(value):
        return value
    array = np.asarray(value, object) if _is_texts(value) else np.asarray(value)
    if array.dtype.kind in "US":
        array = array.astype(object)
    if array.dtype == object:
        wrong = [(i, v) for i, v in enumerate(array.reshape(-1)) if not isinstance(v, (str, bytes))]
        problems = [f"example {i} is {v!r} ({type(v).__name__})" for i, v in wrong[:5]]
        problems += [f"and {len(wrong) - 5} more"] if len(wrong) > 5 else []
        raise_problems(DataError, "Texts must be strings", problems)
    return array


class ArraySource(Source):
    """Arrays in memory, memory-mapped, or read by position.

    Args:
        values: Inputs of the model.
        labels: Labels of the examples, or None.
        staged: Model.
        batch_size: Examples per batch; at least 128 for texts.
        views: Augmentation, or None.
        vary: Function that makes the views, if any.

    Raises:
        DataError: If the arrays do not match each other or the model.
    """

    def __init__(
        self,
        values: Any,
        labels: Any,
        staged: Staged,
        batch_size: int,
        views: Views | None = None,
        vary: Vary | None = None,
    ) -> None:
        if staged.spec is not None and not _is_positioned(values):
            pixels = pixel_array(values)
            grey = pixels.shape[-1] < staged.spec.channels
            values = np.repeat(pixels, staged.spec.channels, -1) if grey else pixels
        if _is_texts(values):
            values = _as_array(values)
        elif isinstance(values, dict):
            values = {name: _as_array(value) if _is_texts(value) else value for name, value in values.items()}
        self._leaves = [_as_array(v) for v in staged.takes(values)]
        self.labels = None if labels is None else plain_labels(labels)
        self.batch_size = batch_size if staged.mask is None else max(batch_size, _TEXTS)
        given: list[Any] = [*self._leaves, *([] if self.labels is None else [self.labels])]
        counts = {len(array) if array.ndim else -1 for array in given}
        if len(counts) != 1 or min(counts) < 1:
            shapes = [a.shape for a in self._leaves]
            raise DataError(
                "Arrays must hold the same number of examples along their first axis, at least one. Received shapes "
                f"{shapes}, labels {None if self.labels is None else self.labels.shape}."
            )
        self._views, self._vary, self.views = views, vary, 1 if views is None else views.count
        self.count = counts.pop() * self.views
        _check(staged, [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in self._leaves])

    def identity(self) -> str:
        """Hash the values."""
        hashes = [_RowHash() for _ in self._leaves]
        count = len(self._leaves[0])
        step = max(1, min(_ROWS, _BYTES * count // max(1, *(leaf.nbytes for leaf in self._leaves))))
        for start in range(0, count, step):
            for each, leaf in zip(hashes, self._leaves, strict=True):
                each.add(leaf[start : start + step])
        return _joined(hashes) if self._views is None else with_views(_joined(hashes), self._views)

    def batches(self, staged: Staged, rows: range | None = None) -> Iterator[list[np.ndarray]]:
        """Slice the arrays."""
        if self._views is not None and self._vary is not None and self.labels is not None:
            yield from enter_all(self._vary(self._leaves[0], self.labels, self._views, rows), staged)
            return
        shown, size, leaves = range(self.count or 0) if rows is None else rows, self.batch_size, self._leaves

        def read(start: np.ndarray) -> list[np.ndarray]:
            stop = min(int(start) + size, shown.stop)
            return [np.ascontiguousarray(a[int(start) : stop]) for a in leaves]

        @tf.autograph.experimental.do_not_convert
        def enter(start: tf.Tensor) -> tuple[tf.Tensor, ...]:
            tensors = tf.numpy_function(read, [start], [tf.as_dtype(a.dtype) for a in leaves])
            for tensor, leaf in zip(tensors, leaves, strict=True):
                tensor.set_shape([None, *leaf.shape[1:]])
            return tuple(staged.enter(tensors))

        dataset = tf.data.Dataset.range(shown.start, shown.stop, size).map(enter, tf.data.AUTOTUNE, deterministic=True)
        for tensors in dataset.prefetch(tf.data.AUTOTUNE):
            yield [t.numpy() for t in tensors]


class DatasetSource(Source):
    """Batches of a ``tf.data.Dataset``."""

    def __init__(self, dataset: tf.data.Dataset, staged: Staged) -> None:
        if isinstance(dataset.element_spec, (tuple, Mapping)) and len(dataset.element_spec) > 1:
            dataset = _with_labels(dataset, staged)
        spec = dataset.element_spec
        self._has_labels = isinstance(spec, tuple) and len(spec) >= 2
        self._has_weights = isinstance(spec, tuple) and len(spec) == 3
        if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise DataError(
                "The dataset never ends (it repeats); pass one pass over it, for example dataset.take(steps)."
            )
        self._dataset, self._takes, self._identity = dataset, staged.takes, ""
        _check(staged, staged.takes(self._inputs(spec)))

    def identity(self) -> str:
        """Read the dataset once."""
        digest = _Digest(self)
        for element in self._dataset:
            digest.add(element)
        self._identity = digest.finish()
        return self._identity

    def batches(self, staged: Staged, rows: range | None = None) -> Iterator[list[np.ndarray]]:
        """Read the dataset; all of it, also for some examples, since it cannot be read by position."""

        @tf.autograph.experimental.do_not_convert
        def enter(*element: Any) -> tuple[Any, ...]:
            given = element if len(element) > 1 else element[0]
            return given, tuple(staged.enter(self._inputs(given)))

        digest = _Digest(self, labels_only=not self._identity)
        dataset = self._dataset.map(enter, tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
        done = 0
        for given, tensors in dataset:
            digest.add(given)
            arrays = [t.numpy() for t in tensors]
            start, done = done, done + len(arrays[0])
            wanted = slice(None) if rows is None else slice(max(rows.start - start, 0), max(rows.stop - start, 0))
            if len(arrays[0][wanted]):
                yield [a[wanted] for a in arrays]
        if digest.finish() != self._identity:
            raise DataError(
                "The dataset gave other examples, or another order, when it was read again, so its features cannot be "
                "matched with its labels. Build it without shuffling and without random augmentation, or pass "
                "cache=None, which reads it only once."
            )

    def _inputs(self, element: Any) -> Any:
        return element[0] if self._has_labels or (isinstance(element, tuple) and len(element) == 1) else element


def _with_labels(dataset: tf.data.Dataset, staged: Staged) -> tf.data.Dataset:
    """Return a dataset of examples with labels in batches, images as the model takes them."""
    if isinstance(dataset.element_spec, Mapping) and not {"label", "labels", "y"} & set(dataset.element_spec):
        return dataset  # inputs by name
    rank = len(staged.inputs[0].shape) if len(staged.inputs) == 1 else None
    dataset = regular(dataset, "the dataset", rank=rank)
    if staged.spec is None:
        return dataset
    return with_pixels(dataset, "the dataset", staged.spec.channels)


class _Digest:
    """Hash of the batches of a dataset, which also collects count and labels."""

    def __init__(self, source: DatasetSource, labels_only: bool = False) -> None:
        self._source, self._labels_only = source, labels_only
        self._hashes: list[_RowHash] = []
        self._labels: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []
        self._count = 0

    def add(self, element: Any) -> None:
        leaves = [np.asarray(t) for t in self._source._takes(self._source._inputs(element))]
        if not self._labels_only:
            self._hashes = self._hashes or [_RowHash() for _ in leaves]
            for each, leaf in zip(self._hashes, leaves, strict=True):
                each.add(leaf)
        self._count += len(leaves[0])
        if self._source._has_labels:
            self._labels.append(np.asarray(element[1]))
        if self._source._has_weights:
            self._weights.append(np.asarray(element[2]))

    def finish(self) -> str:
        if not self._count:
            raise DataError("The dataset gives no examples.")
        self._source.count = self._count
        labels = plain_labels(np.concatenate(self._labels)) if self._labels else None
        self._source.labels = labels
        self._source.weights = np.concatenate(self._weights) if self._weights else None
        if self._labels_only:
            return ""
        hashes = self._hashes
        if labels is not None:  # a dataset that shuffles equal images must be noticed as well
            hashes = [*hashes, _RowHash()]
            hashes[-1].add(labels)
        return _joined(hashes)


class _RowHash:
    """Hash of an array that comes in parts, independent of the division."""

    def __init__(self) -> None:
        self._digest, self._count = hashlib.sha256(), 0
        self._item: tuple[str, tuple[int, ...]] | None = None

    def add(self, rows: np.ndarray) -> None:
        item = (rows.dtype.str, rows.shape[1:])
        if item != self._item:  # sizes may change between batches
            self._item = item
            self._digest.update(f"{self._count}{item}".encode())
        self._count += len(rows)
        if rows.dtype == object:  # texts
            for value in rows.reshape(-1):
                data = value if isinstance(value, bytes) else str(value).encode()
                self._digest.update(len(data).to_bytes(8, "little") + data)
        else:
            self._digest.update(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)

    def hexdigest(self) -> str:
        return f"{self._count}:{self._digest.hexdigest()}"


def _joined(hashes: Sequence[_RowHash]) -> str:
    return hashlib.sha256(" ".join(each.hexdigest() for each in hashes).encode()).hexdigest()


def with_views(identity: str, views: Views | None) -> str:
    """Return the identity of augmented examples."""
    settings = None if views is None else [views.changes.to_dict(), views.count, views.seed]
    return hashlib.sha256(json.dumps([identity, settings]).encode()).hexdigest()


def _check(staged: Staged, specs: Sequence[Any]) -> None:
    """Raise DataError with all mismatches between examples and the prefix' inputs."""
    if len(specs) != len(staged.inputs):
        names = [t.name for t in staged.inputs]
        raise DataError(f"The model takes {len(names)} inputs ({', '.join(names)}), received {len(specs)}.")
    problems = []
    for tensor, spec in zip(staged.inputs, specs, strict=True):
        wanted, given = tf.as_dtype(tensor.dtype), tf.as_dtype(spec.dtype)
        if (wanted == tf.string) != (given == tf.string):
            problems.append(f"{tensor.name} must be {wanted.name}, received {given.name}")
        elif wanted.is_integer and not given.is_integer:
            hint = "; tfft.modalities.image.from_arrays makes uint8 pixels" if wanted == tf.uint8 else ""
            problems.append(f"{tensor.name} must be {wanted.name}, received {given.name}{hint}")
        if not tf.TensorShape(tensor.shape).is_compatible_with(spec.shape):
            problems.append(f"{tensor.name} has the shape {tuple(tensor.shape)}, received {tuple(spec.shape)}")
    raise_problems(DataError, "The examples do not fit the model", problems)
