"""Labelled images, in files or in memory: :class:`ImageFiles`, :class:`ImageArrays`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions
from tfft.data.examples import Examples, Skipped
from tfft.data.file_examples import FileExamples
from tfft.errors import DataError
from tfft.features.engines import Staged
from tfft.features.sources import ArraySource, Source, Views
from tfft.modalities.image.batches import Follow, array_batches, array_views, checked_arrays, file_batches
from tfft.modalities.image.composites import Combination
from tfft.modalities.image.feature_source import FileSource
from tfft.modalities.image.headers import picture_size
from tfft.specs import AudioSpec, InputSpec

_HEADERS_READ = 64  # files whose size is read


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles(FileExamples):
    """Labelled image files; ``facts`` are :class:`tfft.modalities.image.file_info.ImageFileInfo`.

    Attributes:
        follow: Function that moves the label of an example with its pixels, ``follow(label, transform)`` with a
            :class:`tfft.modalities.image.transform.PixelTransform`, for labels that are places in an image (boxes,
            masks); None for other labels.
    """

    modality: ClassVar[str] = "image"
    follow: Follow | None = None

    @property
    def combination(self) -> Combination | None:
        """How labels are joined where a view shows several images; None if they cannot be."""
        return None

    @property
    def shorter_side(self) -> float | None:
        """Median over up to 64 files, of which only the headers are read."""
        sizes = self._sizes()
        return float(np.median(sizes.min(axis=1))) if len(sizes) else None

    @property
    def image_shape(self) -> tuple[float, float] | None:
        """Median over up to 64 files, of which only the headers are read."""
        sizes = self._sizes()
        return (float(np.median(sizes[:, 0])), float(np.median(sizes[:, 1]))) if len(sizes) else None

    def _sizes(self) -> np.ndarray:
        """Return rows and columns of some files, as far as they are known, float32 [n, 2]."""
        paths = self.paths[:: max(1, len(self) // _HEADERS_READ)]
        sizes = np.array([picture_size(tf.io.read_file(path)) for path in paths]).reshape(-1, 2)
        return sizes[sizes.min(axis=1) > 0]

    @property
    def export_files(self) -> tuple[str, ...]:
        """The first four files."""
        return self.paths[:4]

    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Build a dataset of (uint8 [B, H, W, C], labels); files are decoded in parallel."""
        if spec is None:
            raise DataError(
                "Expected a spec, to resize image files: pass the backbone's input_spec. A backbone without one takes "
                "no images."
            )
        return file_batches(self.paths, self.labels, as_image_spec(spec), options, self.follow, self.combination)

    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Source:
        """Return the files, which are decoded as in the model's preprocessing."""
        return FileSource(self.paths, self.labels, staged, batch_size, views, self.follow, self.combination)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageArrays(Examples):
    """Selection of the images in an array; images are copied on access only.

    Attributes:
        source: All images, [M, H, W] or [M, H, W, C].
        positions: Which of them these are, int [N].
        labels: As the task has them.
        class_names: Names of the labels; empty for numbers.
        skipped: Nothing; arrays hold no broken files.
    """

    modality: ClassVar[str] = "image"
    source: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def images(self) -> np.ndarray:
        """The selected images, a new array at each access."""
        return self.source[self.positions]

    @property
    def inputs(self) -> Any:
        """The images."""
        return self.images

    @property
    def shorter_side(self) -> float | None:
        """Shorter side of every image."""
        return float(min(self.source.shape[1:3]))

    @property
    def image_shape(self) -> tuple[float, float] | None:
        """Height and width of every image."""
        return float(self.source.shape[1]), float(self.source.shape[2])

    @property
    def title(self) -> str:
        """Their shape."""
        return f"arrays {self.source.shape}"

    def take(self, positions: np.ndarray) -> Self:
        """Return the examples at some positions."""
        return dataclasses.replace(self, positions=self.positions[positions], labels=self.labels[positions])

    def join(self, other: Self) -> Self:
        """Return these examples followed by others of the same array."""
        if other.source is not self.source:
            return super().join(other)
        positions = np.concatenate([self.positions, other.positions])
        return dataclasses.replace(self, positions=positions, labels=np.concatenate([self.labels, other.labels]))

    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Build a dataset of (uint8 [B, H, W, C], labels)."""
        return array_batches(self.images, self.labels, None if spec is None else as_image_spec(spec), options)

    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Any:
        """Return the images in the form that the model takes."""
        if staged.spec is None:
            return self.batches(None, BatchOptions(batch_size))
        pixels, labels = checked_arrays(self.images, self.labels)
        channels = staged.spec.channels
        pixels = np.repeat(pixels, channels, -1) if pixels.shape[-1] < channels else pixels
        return image_source(pixels, labels, staged, batch_size, views)

    def fingerprint(self, *others: Self) -> str:
        """Hash the names of the classes, all images and their labels."""
        # int64 for classes, as checkpoints of earlier versions have it.
        dtype = np.int64 if self.labels.dtype.kind in "iu" else self.labels.dtype
        labels = np.zeros((len(self.source), *self.labels.shape[1:]), dtype)
        for part in (self, *others):
            labels[part.positions] = part.labels
        return _hash_of(self.class_names, self.source, labels)


def image_source(pixels: Any, labels: Any, staged: Staged, batch_size: int, views: Views | None) -> Source:
    """Return a source of features for images in memory; with ``views`` for all views of each."""

    def vary(values: np.ndarray, labels: np.ndarray, views: Views, rows: range | None) -> tf.data.Dataset:
        if staged.spec is None:
            raise DataError("Augmentation expects a model with a Preprocess layer.")
        options = BatchOptions(batch_size, seed=views.seed, rows=rows)
        return array_views(values, labels, staged.spec, views.changes, views.count, options)

    return ArraySource(pixels, labels, staged, batch_size, views, vary)


def as_image_spec(spec: InputSpec | AudioSpec) -> InputSpec:
    """Return an image spec; raise an error for an audio spec."""
    if isinstance(spec, AudioSpec):
        raise DataError("Expected an image spec. Received: an AudioSpec. Pass the backbone's input_spec.")
    return spec


def _hash_of(names: Sequence[str], *arrays: np.ndarray) -> str:
    result = hashlib.sha256(repr(names).encode())
    for array in arrays:
        result.update(f"{array.shape} {array.dtype}".encode())
        result.update(np.ascontiguousarray(array).data)  # read in place: the images may fill half of the memory
    return result.hexdigest()
