"""Image files as a source of features: :class:`FileSource`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions, as_targets
from tfft.errors import DataError, raise_problems
from tfft.features.engines import Staged
from tfft.features.sources import Source, Views, enter_all, with_views
from tfft.modalities.image.batches import Follow, file_batches, file_views, raise_unreadable, view_labels
from tfft.modalities.image.composites import Combination, check_combined
from tfft.specs import Augmentation


class FileSource(Source):
    """Source of image files, identified by relative name, size and content.

    Args:
        paths: Paths of the files.
        labels: Labels of the files.
        staged: Model that starts with a Preprocess layer.
        batch_size: Files per batch.
        views: Augmentation, or None.
        follow: Function that moves the label of a file with its pixels, or None; ``labels`` are then those of all
            views.
        combination: How labels are joined where a view shows several images; None if they cannot be.

    Raises:
        DataError: If there are no files, or the model does not define the size of its images.
        PlanError: If the augmentation combines images whose labels cannot be joined.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: np.ndarray,
        staged: Staged,
        batch_size: int,
        views: Views | None = None,
        follow: Follow | None = None,
        combination: Combination | None = None,
    ) -> None:
        if not len(paths):
            raise DataError("Expected at least one example. Received: none.")
        if staged.spec is None:
            raise DataError(
                "Expected a model with a Preprocess layer, which defines the image size. Pass a dataset: "
                "tfft.data.to_dataset(examples, spec)."
            )
        check_combined(None if views is None else views.changes, combination)
        self._paths, self._spec, self.batch_size = paths, staged.spec, batch_size
        self._views, self.views = views, 1 if views is None else views.count
        self.count = len(paths) * self.views
        self._targets = as_targets(np.asarray(labels))
        self.labels = self._targets if follow is None else self._moved(follow, combination)
        self._seen: list[tuple[int, int]] = []

    def identity(self) -> str:
        """Hash every file."""
        self._seen = self._stamps()
        top = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in self._paths])
        names = [os.path.relpath(os.path.abspath(p), top).replace(os.sep, "/") for p in self._paths]
        with ThreadPoolExecutor() as pool:
            digests = pool.map(_file_digest, self._paths)
        files = [[n, size, d] for n, (size, _), d in zip(names, self._seen, digests, strict=True)]
        return with_views(json.dumps([self._spec.to_dict(), files]), self._views)

    def batches(self, staged: Staged, rows: range | None = None) -> Iterator[list[np.ndarray]]:
        """Decode the files."""
        size, views = self.batch_size, self._views
        if views is None:
            shown = slice(None) if rows is None else slice(rows.start, rows.stop)
            paths, targets = self._paths[shown], self._targets[shown]
            dataset = file_batches(paths, targets, self._spec, BatchOptions(size, cache=False))
        else:
            options = BatchOptions(size, seed=views.seed, rows=rows)
            dataset = file_views(self._paths, self._targets, self._spec, views.changes, views.count, options)
        try:
            yield from enter_all(dataset, staged)
        except tf.errors.OpError as error:
            raise_unreadable(self._paths)
            raise error
        if self._seen and self._stamps() != self._seen:
            raise DataError("Files were changed while their features were computed. Run it again.")

    def _moved(self, follow: Follow, combination: Combination | None) -> np.ndarray:
        views = self._views or Views(Augmentation(), 1, 0)
        options, changes = BatchOptions(self.batch_size, seed=views.seed), views.changes
        return view_labels(self._paths, self._targets, self._spec, changes, views.count, options, follow, combination)

    def _stamps(self) -> list[tuple[int, int]]:
        stamps, problems = [], []
        for path in self._paths:
            try:
                status = os.stat(path)
                stamps.append((status.st_size, status.st_mtime_ns))
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
        raise_problems(DataError, "Files cannot be read", problems)
        return stamps


def _file_digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
