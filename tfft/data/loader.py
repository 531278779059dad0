"""Labelled examples from any source, :func:`load`, and their batches, :func:`to_dataset`.

Hides which modality reads a source: each says how surely it holds its kind of data, and which settings mean something.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf

from tfft import registry
from tfft.data.batches import BatchOptions
from tfft.data.dataset_examples import is_ready, ready_splits
from tfft.data.examples import Examples, Splits
from tfft.data.tfds.source import LocalCopy, is_tfds, local_copy
from tfft.errors import DataError, did_you_mean, raise_problems
from tfft.specs import AudioSpec, Augmentation, InputSpec

_DEFAULTS: dict[str, Any] = {
    "validation": 0.2, "seed": 0, "strict": False, "check": True, "progress": None, "group": None, "store": None,
    "label": None, "task": "auto", "separator": None, "root": None, "encoding": None,
}  # fmt: skip


def load(
    source: Any,
    *,
    validation: float | str | os.PathLike[str] = 0.2,
    seed: int = 0,
    strict: bool = False,
    check: bool = True,
    progress: Callable[[int, int], None] | None = None,
    group: str | int | None = None,
    store: str | os.PathLike[str] | None = None,
    image: str | int | None = None,
    audio: str | int | None = None,
    text: str | int | Sequence[str | int] | None = None,
    label: str | int | None = None,
    task: str = "auto",
    separator: str | None = None,
    root: str | os.PathLike[str] | None = None,
    encoding: str | None = None,
    sample_rate: int | None = None,
    seconds: float | None = None,
    **further: Any,
) -> Splits[Any]:
    """Reads labelled examples from wherever they are, and decides which are held out for validation.

    Use it as the first step of a training that you write yourself; :func:`to_dataset` makes batches of the parts.
    Each modality has loaders of its own, whose pages tell more.

    Args:
        source: one of these:

            - a folder with one folder per class, also within ``train/`` and ``val/``: of images
              (:func:`tfft.modalities.image.load_images`), of recordings
              (:func:`tfft.modalities.audio.load_recordings`), or of ``.txt`` files
              (:func:`tfft.modalities.text.load_texts`);
            - a table (``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``, DataFrame): with ``image=`` of image files
              (:func:`tfft.modalities.image.load_image_table`), with ``audio=`` of recordings
              (:func:`tfft.modalities.audio.load_recording_table`), else of texts;
            - ``(texts, labels)``; with ``task="token_classification"`` files or lists of tagged words;
            - ``(images, labels)``, arrays or lists, twice for two parts, or a ``tf.data.Dataset`` of both
              (:func:`tfft.modalities.image.load_arrays`);
            - ``(train, validation)`` or ``(train, validation, class_names)``, two datasets of inputs and labels;
            - ``"tfds:NAME"``, or a folder that tensorflow-datasets prepared.
        validation: share to hold out, or the file of an earlier split, where examples have names. Of no effect where
            the source is split already.
        seed: of the split.
        strict: True makes an example that cannot be used an error.
        check: False does not decode the files of a folder of images once.
        progress: called with (files done, files in all).
        group: what must not be on both sides: ``"folder"`` or a regular expression for a folder of files, a column of
            a table.
        store: file that keeps the statistics of files that were read.
        image: column with the paths of images; of a dataset of tfds a feature, as with the next three.
        audio: column with the paths of recordings.
        text: column with the texts, two for pairs.
        label: column with the labels.
        task: what the labels are: ``"classification"``, ``"binary"``, ``"multilabel"``, ``"regression"``, or
            ``"token_classification"``, a tag for each word; ``"auto"`` looks at them.
        separator: between several labels of one example.
        root: folder of the files that a table names.
        encoding: of tables and text files, UTF-8 by default.
        sample_rate: that recordings are brought to.
        seconds: length of the clips that recordings become.
        **further: settings of a modality that another package brought.

    Returns:
        :class:`Splits`: ``train``, ``validation`` and how they came about. What its parts are, the modality says:
        :class:`tfft.modalities.image.ImageFiles`, :class:`tfft.modalities.text.TextExamples`, ...

    Raises:
        DataError: when there is no usable data, or a setting means nothing for it; everything at fault is named.

    Example:
        >>> splits = load("photos/", validation=0.25)
        >>> len(splits.train), len(splits.validation), splits.split_from
        (184, 60, '25 % of each class in photos, drawn with seed 0')
        >>> train = to_dataset(splits.train, backbone.input_spec, shuffle=True)
    """
    named = {name: value for name, value in locals().items() if name not in ("source", "further")}
    given = explicit({**named, **further})
    _check_names(further)
    if is_ready(source):
        registry.Match("ready datasets", ready_splits, frozenset({"task"})).check(given)
        return ready_splits(source[0], source[1], source[2] if len(source) > 2 else None, task=task)
    if is_tfds(source):
        return load_copy(local_copy(source, given), given)
    return _for_task(reader_of(source, given).load(source, given), given.get("task", registry.AUTO))


def _for_task(splits: Splits[Any], name: str) -> Splits[Any]:
    """Returns classes that were read from the names of folders as the labels of the task that was asked for."""
    task = registry.asked_task(name)
    if task is None or task.name == splits.task or not task.labels_from_folders:
        return splits
    values = [[part.class_names[label] for label in part.labels] for part in splits.parts.values()]
    names = task.class_names(values[0])
    problems: list[str] = []
    for part, own in zip(splits.parts.values(), values, strict=True):
        problems += task.label_problems(own, names, part.places)
    raise_problems(DataError, f"The labels cannot be used for the task {task.name}", problems)
    parts = {
        key: dataclasses.replace(part, labels=task.encode(own, names), class_names=names)
        for (key, part), own in zip(splits.parts.items(), values, strict=True)
    }
    return dataclasses.replace(splits, **parts, task=task.name)


def to_dataset(
    examples: Examples,
    spec: InputSpec | AudioSpec | None = None,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    cache: bool | Literal["auto"] = "auto",
    epoch: tf.Variable | None = None,
    augment: Augmentation | str | Sequence[str] | None = None,
    views: int | None = None,
    sampling: str | None = None,
) -> tf.data.Dataset:
    """Makes a dataset of inputs and labels that fits a backbone, for ``model.fit`` and ``evaluate``.

    Args:
        examples: a part of what :func:`load` gives, such as ``splits.train``, or of what a modality lists.
        spec: the backbone's ``input_spec``; needed for files of images. Texts and recordings do without: a model of
            texts takes strings, and recordings know their rate.
        batch_size: examples per batch; the last one of a pass may be smaller.
        shuffle: True gives another order in each pass, a pure function of seed and epoch.
        seed: picks another series of orders.
        cache: True decodes every image file once, now, and keeps the pixels in memory; False decodes in
            each pass; ``"auto"`` is True where the pixels take less than 512 MB.
        epoch: an int64 variable on the CPU that holds the epoch at the start of each pass, for
            programs that resume. Unless given, the dataset counts its passes from 0; every start
            of a pass counts, also one that is not finished.
        augment: of images ``"flip"``, ``"crop"``, ``"rand"``, of recordings ``"shift"``, ``"mask"``, several in a list,
            or an :class:`~tfft.specs.Augmentation`: each showing is another view, a pure function of seed, position and
            number; the first one is the example as it is. Files of images are then decoded in each pass.
        views: how many views there are, used in turn; None for another one each time. Of no effect
            without ``augment``.
        sampling: ``"balanced"`` draws every class equally often, in passes of unchanged length: examples of
            small classes come several times, those of large ones in some of the passes. None shows each
            example once in a pass.

    Returns:
        Dataset of (inputs, labels), its length known: uint8 [B, H, W, C] for images, strings [B] for texts (for pairs a
        dict of two), float32 [B, samples] for recordings.

    Raises:
        DataError: when there are no examples, or a file cannot be decoded while the pixels are cached; the
            file is named. Where they are not, a file that broke after it was listed stops the pass that
            reads it with a ``tf.errors.OpError``, which names the file when it is missing, empty or no
            image; damage inside of a picture is reported without its name: list the folder again to find it.
        PlanError: when arguments are out of range, or mean nothing for such examples.

    Example:
        >>> train = to_dataset(splits.train, backbone.input_spec, shuffle=True)
        >>> model.fit(train, epochs=3, shuffle=False)  # the dataset has shuffled; Keras would warn
    """
    if not isinstance(examples, Examples):
        fix = " Give one of its parts, such as splits.train." if hasattr(examples, "train") else ""
        raise DataError(
            "Expected a part of what tfft.data.load gives (for arrays there is tfft.modalities.image.from_arrays, for "
            f"waves tfft.modalities.audio.from_waves), got a {type(examples).__name__}.{fix}"
        )
    options = BatchOptions(batch_size, shuffle, seed, epoch, augment, views, sampling, cache)
    return examples.batches(spec, options)


def load_copy(copy: LocalCopy, settings: Mapping[str, Any]) -> Splits[Any]:
    """Reads a dataset of TensorFlow Datasets that is there as files, with the names of classes that it has itself.

    Args:
        copy: from :func:`tfft.data.tfds.source.local_copy`.
        settings: of :func:`load`; those that name features are replaced by what the files have.
    """
    splits = load(copy.source, **{**settings, **copy.settings})
    splits = dataclasses.replace(splits, skipped=(*splits.skipped, *copy.skipped))
    if not copy.class_names:
        return splits
    return splits.with_class_names(tuple(copy.class_names.get(name, name) for name in splits.class_names))


def explicit(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that are not left as they are by default."""
    return {name: value for name, value in settings.items() if value != _DEFAULTS.get(name)}


def reader_of(source: Any, settings: Mapping[str, Any]) -> registry.Modality:
    """Returns the modality that reads a source: the one that is surest of it, the first among equals.

    Args:
        source: as :func:`load` takes it, but no dataset of TensorFlow Datasets.
        settings: of :func:`load` that are given.

    Raises:
        DataError: when columns of several modalities are named, or none of them knows the source.
    """
    modalities = [registry.modality(name) for name in registry.modality_names()]
    named = [column for each in modalities for column in each.columns if settings.get(column) is not None]
    if len(named) > 1:
        raise DataError(f"{' and '.join(named)} each say what is to be looked at: give one of them.")
    reader = task_reader(settings.get("task", registry.AUTO))
    if reader is not None and set(named) <= set(reader.columns):
        return reader
    matches = [(match.certainty, each) for each in modalities if (match := each.matches(source, settings)) is not None]
    if matches:
        best = max(certainty for certainty, _ in matches)
        return next(each for certainty, each in matches if certainty == best)
    got = f"a {type(source).__name__}" + (f" of {len(source)}" if isinstance(source, (tuple, list)) else "")
    raise DataError(
        "Data must be a folder with one folder per class, a table of texts or of files (.csv, .tsv, .jsonl, or a "
        "DataFrame; image= or audio= names the column of files), 'tfds:NAME', "
        "(images, labels) or (texts, labels), or (train, validation, class_names) with two tf.data.Dataset of batches; "
        f"got {got}."
    )


def task_reader(task: str) -> registry.Modality | None:
    """Returns what reads the data of a task whose labels have a form of their own; None for all other tasks."""
    asked = registry.asked_task(task)
    return None if asked is None else asked.reader


def _check_names(further: Mapping[str, Any]) -> None:
    """Refuses a setting that no modality has."""
    known = set(_DEFAULTS)
    for name in registry.modality_names():
        each = registry.modality(name)
        known |= {*each.columns, *each.settings}
    for name in further:
        if name not in known:
            raise TypeError(f"load has no setting {name!r}.{did_you_mean(name, known)}")
