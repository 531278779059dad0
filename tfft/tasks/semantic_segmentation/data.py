"""Images with masks: :func:`load_masks`, :func:`read_masks`, :class:`MaskedImages`.

Implementation notes: every mask is read once before training, so that all problems are reported together. Training
reads them again, since masks of a large dataset do not fit into memory.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions
from tfft.data.examples import Skipped, Splits, divide
from tfft.data.options import ReadOptions, options_from
from tfft.data.split import SplitOptions, groups_by, joined
from tfft.errors import DataError, did_you_mean, join_names, raise_problems
from tfft.features.engines import Staged
from tfft.features.sources import Source, Views
from tfft.modalities.image.batches import file_batches
from tfft.modalities.image.composites import Combination
from tfft.modalities.image.examples import ImageFiles
from tfft.modalities.image.feature_source import FileSource
from tfft.modalities.image.file_info import ROTATED, ImageFileInfo
from tfft.modalities.image.folder import IMAGE_FILES
from tfft.modalities.image.headers import read_header
from tfft.tasks.semantic_segmentation import OUTSIDE, STRIDE, VOID
from tfft.tasks.semantic_segmentation.class_table import find_class_table
from tfft.tasks.semantic_segmentation.coding import Coding, Ignore, coding_of, coding_of_names, unknown_codes
from tfft.tasks.semantic_segmentation.folders import Layout, Pair, find_parts, pairs_of
from tfft.tasks.semantic_segmentation.masks import MaskInfo, Masks, survey_all

_LISTED = 20  # problems in one message


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedImages(ImageFiles):
    """Image files and their masks; batches are (uint8 [B, H, W, C], int32 masks [B, H, W]).

    ``labels`` are int32 [N, 1 + classes]: the position of the mask among the files of ``masks``, and the number of
    pixels of each class in it. Masks are read from their files and moved with the pixels, so a flip or a crop moves
    both.

    Attributes:
        masks: All mask files of the dataset, shared by its parts.
    """

    masks: Masks | None = None

    @property
    def combination(self) -> Combination | None:
        """Masks of several images in one view."""
        return self._joined(1)

    def _joined(self, stride: int) -> Combination | None:
        if self.masks is None:
            return None
        return Combination(
            ("mosaic", "cutmix"), self.masks.place, tf.int32, functools.partial(self.masks.join, stride=stride)
        )

    @property
    def counts(self) -> dict[str, int]:
        """Number of images that show each class."""
        return dict(zip(self.class_names, (self.labels[:, 1:] > 0).sum(axis=0).tolist(), strict=True))

    @property
    def pixels(self) -> np.ndarray:
        """Number of pixels of each class in all masks, int64 [classes]."""
        return self.labels[:, 1:].sum(axis=0, dtype=np.int64)

    def renumbered(self, numbers: np.ndarray, class_names: tuple[str, ...]) -> Self:
        """Return the same images with the numbers that a model has for their classes."""
        if self.masks is None:
            return dataclasses.replace(self, class_names=class_names)
        new = {**dict(enumerate(numbers.tolist())), VOID: VOID}
        values, colours = (
            {code: new[c] for code, c in table.items()} for table in (self.masks.values, self.masks.colours)
        )
        masks = dataclasses.replace(self.masks, values=values, colours=colours)
        labels = np.zeros((len(self), 1 + len(class_names)), np.int32)
        labels[:, 0], labels[:, 1 + numbers] = self.labels[:, 0], self.labels[:, 1:]
        return dataclasses.replace(self, labels=labels, class_names=class_names, masks=masks, follow=masks.follow)

    def join(self, other: Self) -> Self:
        """Return these images followed by others of the same dataset."""
        if other.masks is not self.masks:
            raise DataError("Only parts of one dataset can be merged. Load images and masks from one folder.")
        return super().join(other)

    def fingerprint(self, *others: Self) -> str:
        """Return a hash of names, sizes and labels of the images, the contents of their masks, and the classes."""
        result = hashlib.sha256(super().fingerprint(*others).encode())
        for part in (self, *others):
            if (masks := part.masks) is not None:
                coding = [part.class_names, sorted(masks.values.items()), sorted(masks.colours.items())]
                result.update(repr([coding, [masks.digests[at] for at in part.labels[:, 0]]]).encode())
        return result.hexdigest()

    def evaluation_batches(self, spec: Any, options: BatchOptions) -> tf.data.Dataset:
        """Return images in the size of the model, and masks in their own size, as users see and publish them.

        Masks are int16 [B, H, W] with the rows and columns of the largest image of the batch, :data:`OUTSIDE` beyond
        the edges of a smaller one. Where the model does not see whole images, masks have its size.
        """
        masks = self.masks
        if masks is None or spec is None or spec.resize != "stretch":
            return super().evaluation_batches(spec, options)

        def whole(row: tf.Tensor) -> tf.RaggedTensor:
            return tf.RaggedTensor.from_tensor(tf.cast(masks.read(row[0]), tf.int16))

        @tf.autograph.experimental.do_not_convert
        def with_masks(pixels: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            read = tf.map_fn(whole, labels, fn_output_signature=tf.RaggedTensorSpec([None, None], tf.int16))
            return pixels, read.to_tensor(OUTSIDE)

        dataset = file_batches(self.paths, self.labels, spec, options)
        return dataset.map(with_masks, num_parallel_calls=1, deterministic=True).prefetch(
            1
        )  # large masks, few at a time

    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Source:
        """Return the files, with masks at the stride of the logits."""
        masks = self.masks
        follow = None if masks is None else functools.partial(masks.follow_in, STRIDE)
        return FileSource(self.paths, self.labels, staged, batch_size, views, follow, self._joined(STRIDE))


@dataclasses.dataclass(frozen=True)
class MaskReport:
    """Statistics of masks; ``print`` it.

    Attributes:
        shares: Share of the labelled training pixels of each class.
        void: Share of the training pixels without a label.
        notes: Remarks, one sentence each.
    """

    shares: Mapping[str, float]
    void: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        ordered = sorted(self.shares.items(), key=lambda pair: -pair[1])
        line = "pixels: " + ", ".join(f"{name} {100 * share:.2g} %" for name, share in ordered)
        line += f"; {100 * self.void:.2g} % have no label" if self.void else ""
        return "\n".join((line, *self.notes))


@dataclasses.dataclass(frozen=True, eq=False)
class _Read:
    """Images and masks of all parts, checked."""

    layout: Layout
    examples: MaskedImages
    roles: np.ndarray  # role of each example, str [N]
    areas: np.ndarray  # pixels of each mask, with and without a label, int64 [N]
    coding: Coding


def load_masks(source: str | os.PathLike[str], **settings: Any) -> Splits[MaskedImages]:
    """Load images with masks and split them into training and validation examples.

    Masks are PNG files with the names of their images: of values (grey or with a palette), where 255 means no label,
    or of colours, where ``classes.txt`` has the colour of each class. :func:`find_parts` describes the folders,
    :func:`tfft.tasks.semantic_segmentation.class_table.read_class_table` the file with the classes.

    Args:
        source: Data folder.
        **settings: ``masks``, the folder of the masks; ``ignore``, names or values that count as no label;
            settings of :class:`tfft.data.SplitOptions` and :class:`tfft.data.options.ReadOptions`.

    Raises:
        DataError: If there is no usable data; the message names each file at fault.

    Example:
        >>> splits = load_masks("street/", ignore="unlabelled")
        >>> splits.train.counts["car"], splits.class_names[:3]
        (141, ('sky', 'building', 'pole'))
    """
    masks, ignore = settings.pop("masks", None), settings.pop("ignore", None)
    split, reading = options_from(settings, SplitOptions, ReadOptions)
    read = _read(source, masks, ignore, reading)
    examples, given = read.examples, "validation" in read.layout.parts
    duplicates = IMAGE_FILES.find_duplicates(examples.facts)
    groups = None if split.group is None else groups_by(examples.names, str(split.group))
    if given and groups is not None:
        raise DataError(f"{source} is split into parts already. Received: group={split.group!r}. Leave group out.")
    if given:
        held_out = read.roles == "validation"
        places = [str(part.pictures) for part in read.layout.parts.values()]
        named = read.layout.parts["train"].names is not None
        words = f"the lists of {source}" if named else f"the folders {' and '.join(places)}"
    else:
        whole = f"the images in {source}"
        held_out, words = split.hold_out(examples.names, whole, groups=groups, pairs=duplicates.positions)
        if not isinstance(split.validation, (str, os.PathLike)):
            together = joined(groups, duplicates.positions, len(examples))
            held_out = _keep_classes(held_out, examples.labels[:, 1:] > 0, together)
    _check_parts(examples, held_out, str(source))
    splits = divide(
        examples, held_out, words, groups=groups, duplicates=duplicates, task="semantic_segmentation",
        root=str(read.layout.root), test_folder=read.layout.test,
    )  # fmt: skip
    return dataclasses.replace(splits, report=_report(splits, read.coding, read.areas[~held_out]))


def read_masks(source: str | os.PathLike[str], class_names: Sequence[str], **settings: Any) -> MaskedImages:
    """Read images with masks without splitting them, for a model that knows its classes.

    Args:
        source: Data folder; of one that is split, both parts are read.
        class_names: Classes of the model.
        **settings: ``masks``, ``ignore`` and settings of :class:`tfft.data.options.ReadOptions`.

    Raises:
        DataError: As :func:`load_masks`, and for classes that the model does not know.
    """
    masks, ignore = settings.pop("masks", None), settings.pop("ignore", None)
    [reading] = options_from(settings, ReadOptions)
    return _read(source, masks, ignore, reading, tuple(class_names)).examples


def _read(
    source: Any, folder: Any, ignore: Ignore, reading: ReadOptions, class_names: tuple[str, ...] | None = None
) -> _Read:
    layout = find_parts(source, folder)
    problems: list[str] = []
    pairs, roles = [], list[str]()
    for role, part in layout.parts.items():
        found = pairs_of(part, layout.root, problems)
        pairs += found
        roles += [role] * len(found)
    if not pairs:
        _raise(source, [*problems, "there is no image with a mask"])
    infos = survey_all([pair.mask for pair in pairs])
    problems += [f"{info.path} {info.reason}" for info in infos if info.reason]
    good = [info for info in infos if info.reason is None]
    table = find_class_table(layout.places)
    if table is None and class_names is not None:
        coding = coding_of_names(class_names, good, ignore, problems)
    else:
        coding = coding_of(table, good, ignore, problems)
    facts, skipped = _facts(pairs, reading, problems)
    usable = [fact is None or fact.reason is None for fact in facts]
    for pair, info, fact, use in zip(pairs, infos, facts, usable, strict=True):
        if info.reason is None and use:
            problems += _mask_problems(pair, info, fact, coding)
    _raise(source, problems)
    if class_names is not None:
        coding = _for_model(coding, class_names, str(source))
    at = np.flatnonzero(usable).tolist()
    if not len(at):
        _raise(source, [str(one) for one in skipped])
    known = tuple(fact for i in at if (fact := facts[i]) is not None)
    examples = _examples([pairs[i] for i in at], [infos[i] for i in at], coding, tuple(skipped), known)
    areas = np.array([infos[i].counts.sum() for i in at], np.int64)
    return _Read(layout, examples, np.array([roles[i] for i in at]), areas, coding)


def _examples(
    pairs: Sequence[Pair],
    masks: Sequence[MaskInfo],
    coding: Coding,
    skipped: tuple[Skipped, ...],
    facts: tuple[ImageFileInfo, ...],
) -> MaskedImages:
    labels = np.array([_label(n, info, coding) for n, info in enumerate(masks)], np.int32)
    every = Masks(
        tuple(info.path for info in masks), np.array([coding.by_colour(info) for info in masks]), coding.values,
        coding.colours, tuple(info.digest for info in masks),
    )  # fmt: skip
    return MaskedImages(
        tuple(pair.picture for pair in pairs), labels, coding.names, skipped, facts,
        tuple(pair.name for pair in pairs), every.follow, every,
    )  # fmt: skip


def _facts(
    pairs: Sequence[Pair], reading: ReadOptions, problems: list[str]
) -> tuple[Sequence[ImageFileInfo | None], list[Skipped]]:
    if not reading.check:
        return [None] * len(pairs), []
    read: Callable[..., list[ImageFileInfo]] = IMAGE_FILES.read_facts
    facts = read([pair.picture for pair in pairs], reading.progress, reading.store)
    skipped = [Skipped(fact.path, fact.reason) for fact in facts if fact.reason]
    if reading.strict:
        problems += map(str, skipped)
    return facts, skipped


def _mask_problems(pair: Pair, info: MaskInfo, fact: ImageFileInfo | None, coding: Coding) -> list[str]:
    problems = []
    if (size := _upright_size(pair.picture, fact)) != info.size:
        turned = size == info.size[::-1]
        fix = "Save both upright, without an EXIF orientation" if turned else "Make masks in the size of the image"
        problems.append(
            f"{info.path} has {info.size[1]} x {info.size[0]} pixels, its image {size[1]} x {size[0]}. {fix}"
        )
    if (unknown := unknown_codes(info, coding)) is not None and coding.names:
        problems.append(unknown)
    elif coding.names and (coding.classes_of(info) == VOID).all():
        problems.append(f"{info.path} has no label in any pixel: label it, or remove it together with its image")
    return problems


def _upright_size(path: str, fact: ImageFileInfo | None) -> tuple[int, int]:
    """Return rows and columns of an image as it is decoded."""
    if fact is not None and ROTATED not in fact.oddities:
        return fact.height, fact.width
    with tf.device("CPU:0"):
        header = read_header(tf.io.read_file(path))
    size = int(header.height), int(header.width)
    return size[::-1] if int(header.orientation) >= 5 else size


def _label(position: int, info: MaskInfo, coding: Coding) -> np.ndarray:
    classes = coding.classes_of(info)
    shown = classes != VOID
    counts = np.bincount(classes[shown], info.counts[shown], minlength=len(coding.names))
    return np.array([position, *counts.astype(np.int64)])


def _for_model(coding: Coding, class_names: tuple[str, ...], source: str) -> Coding:
    unknown = [name for name in coding.names if name not in class_names]
    if unknown:
        hint = "".join(did_you_mean(name, class_names) for name in unknown[:3])
        raise DataError(
            f"{source} has classes that the model does not know: {join_names(unknown)}.{hint} Expected: "
            f"{join_names(class_names)}."
        )
    return coding.renumbered(class_names)


def _keep_classes(held_out: np.ndarray, shows: np.ndarray, together: Sequence[str] | None) -> np.ndarray:
    """Return a split in which training shows every class: images with a class that it lacks change sides.

    Args:
        held_out: bool [N].
        shows: Whether an image shows a class, bool [N, C].
        together: Groups that stay on one side, or None.
    """
    held_out = held_out.copy()
    group = np.arange(len(held_out)) if together is None else np.unique(np.array(together), return_inverse=True)[1]
    for c in range(shows.shape[1]):
        if shows[:, c].any() and not shows[~held_out, c].any():
            held_out[group == group[np.flatnonzero(shows[:, c])[0]]] = False
    return held_out


def _check_parts(examples: MaskedImages, held_out: np.ndarray, source: str) -> None:
    shown = examples.take(np.flatnonzero(~held_out)).pixels > 0
    problems = [
        f"no training mask shows the class {name!r}: add some, or leave it out with ignore={name!r}"
        for at, name in enumerate(examples.class_names)
        if not shown[at]
    ]
    for what, part in (("training", ~held_out), ("validation", held_out)):
        if not part.any():
            problems.append(f"there are no {what} images among {len(examples)}: add some, or change validation=")
    _raise(source, problems)


def _report(splits: Splits[MaskedImages], coding: Coding, areas: np.ndarray) -> MaskReport:
    pixels = splits.train.pixels
    shares = dict(zip(splits.class_names, (pixels / pixels.sum()).tolist(), strict=True))
    unseen = [name for name, count in splits.validation.counts.items() if not count]
    notes = list(coding.notes)
    if unseen:
        notes.append(f"no validation mask shows {join_names(unseen)}, so the scores do not cover it")
    return MaskReport(shares, 1 - float(pixels.sum() / areas.sum()), tuple(notes))


def _raise(source: Any, problems: Sequence[str]) -> None:
    raise_problems(DataError, f"The images and masks in {source} cannot be used", problems, limit=_LISTED)
