"""Loading of labelled examples, :func:`load`, and batching, :func:`to_dataset`.

Implementation notes: each modality rates how surely it recognizes a source, and declares the settings that apply to it.
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
from tfft.data.folder_tables import check_no_table
from tfft.data.keras_sequences import with_datasets
from tfft.data.tfds.source import LocalCopy, is_tfds, local_copy
from tfft.errors import DataError, did_you_mean, raise_problems
from tfft.specs import AudioSpec, Augmentation, InputSpec

_DEFAULTS: dict[str, Any] = {
    "validation": 0.2, "seed": 0, "strict": False, "check": True, "progress": None, "group": None, "store": None,
    "label": None, "task": "auto", "separator": None, "root": None, "images": None, "encoding": None, "delimiter": None,
    "decimal": None, "masks": None, "ignore": None, "letter_case": None, "punctuation": None,
    "target": None,
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
    target: str | int | None = None,
    task: str = "auto",
    separator: str | None = None,
    root: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    masks: str | os.PathLike[str] | None = None,
    ignore: str | int | Sequence[str | int] | None = None,
    letter_case: str | None = None,
    punctuation: str | None = None,
    sample_rate: int | None = None,
    seconds: float | None = None,
    **further: Any,
) -> Splits[Any]:
    """Load labelled examples from any source and split them into training and validation examples.

    Use it as the first step of your own training loop; :func:`to_dataset` makes batches of the parts.
    Each modality has more specific loaders; see their pages.

    Args:
        source: One of these:

            - a folder with one folder per class, also within ``train/`` and ``val/``: of images
              (:func:`tfft.modalities.image.load_images`), of recordings
              (:func:`tfft.modalities.audio.load_recordings`), or of ``.txt`` files
              (:func:`tfft.modalities.text.load_texts`);
            - a table (``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``, DataFrame): with ``image=`` of image files
              (:func:`tfft.modalities.image.load_image_table`), with ``audio=`` of recordings
              (:func:`tfft.modalities.audio.load_recording_table`), else of texts;
            - with ``task="object_detection"`` boxes in COCO, Pascal VOC or YOLO format, or in a table;
            - ``(texts, labels)``; with ``task="token_classification"`` files or lists of tagged words;
            - with ``task="semantic_segmentation"`` a folder of images and one of masks
              (:func:`tfft.tasks.semantic_segmentation.data.load_masks`);
            - with ``task="transcription"`` recordings and their transcripts
              (:func:`tfft.tasks.transcription.data.load_transcripts`);
            - with ``task="speech_synthesis"`` clips and their texts
              (:func:`tfft.tasks.speech_synthesis.data.load_voice`);
            - with ``task="text_to_text"`` pairs of texts in a table, in two parallel files or in a TMX file
              (:func:`tfft.tasks.text_to_text.data.load_pairs`);
            - ``(images, labels)``, arrays or lists, twice for two parts, or a ``tf.data.Dataset`` of both
              (:func:`tfft.modalities.image.load_arrays`);
            - with ``sample_rate=`` waveforms in memory or in datasets: ``(waves, labels)``, twice for two parts, a
              ``tf.data.Dataset`` of both, or ``(train, validation)`` of two (:func:`tfft.modalities.audio.load_waves`);
            - ``(train, validation)`` or ``(train, validation, class_names)``, two datasets of inputs and labels;
            - ``"tfds:NAME"``, or a folder that tensorflow-datasets prepared.
        validation: Share to hold out, or the file of an earlier split if examples have names. No effect if the source
            is split already.
        seed: Seed for the split.
        strict: Whether an unusable example is an error.
        check: Whether to decode each file of an image folder once.
        progress: Function called with (files done, files in total).
        group: Groups to keep on one side of the split: ``"folder"`` or a regular expression for a folder of files, a
            column for a table.
        store: File that stores the statistics of files that were read.
        image: Column with the paths of images; for TensorFlow Datasets a feature, as for the next three.
        audio: Column with the paths of recordings.
        text: Column with the texts; two columns for pairs.
        label: Column with the labels.
        target: Column with the target texts, for the task ``"text_to_text"``.
        task: Meaning of the labels: ``"classification"``, ``"binary"``, ``"multilabel"``, ``"regression"``, or
            ``"token_classification"``, one tag per word, ``"semantic_segmentation"``, one class per pixel, or
            ``"transcription"``, the text of a recording;
            ``"auto"`` infers it.
        separator: Separator between several labels of one example.
        root: Folder of the files in a table.
        images: Folder of the images of an annotation file, for object detection. Defaults to the one beside it.
        encoding: Encoding of tables and text files. Defaults to that of a byte-order mark, UTF-8 or a guess.
        delimiter: Delimiter between the fields of a table. Inferred by default.
        decimal: ``","`` for numeric labels such as 1,5. Inferred by default.
        masks: Folder of the masks for semantic segmentation, absolute or below the data folder or each of its parts.
            Defaults to ``masks``, ``labels`` or ``annotations`` beside ``images``.
        ignore: Names, values or colours in masks that count as no label, in addition to 255.
        letter_case: ``"lower"`` or ``"keep"``, for transcripts.
        punctuation: ``"drop"`` or ``"keep"``, for transcripts.
        sample_rate: Sample rate in Hz to which recordings are resampled.
        seconds: Clip length in seconds.
        **further: Settings of a modality from another package.

    Returns:
        :class:`Splits`: ``train``, ``validation`` and the origin of the split. The class of the parts depends on the
        modality: :class:`tfft.modalities.image.ImageFiles`, :class:`tfft.modalities.text.TextExamples`, ...

    Raises:
        DataError: If there is no usable data, or a setting does not apply to it; the message names everything at fault.

    Example:
        >>> splits = load("photos/", validation=0.25)
        >>> len(splits.train), len(splits.validation), splits.split_from
        (184, 60, '25 % of each class in photos, drawn with seed 0')
        >>> train = to_dataset(splits.train, backbone.input_spec, shuffle=True)
    """
    named = {name: value for name, value in locals().items() if name not in ("source", "further")}
    given = explicit({**named, **further})
    _check_names(further)
    source = with_datasets(source)
    if stays_batches(source, given):
        registry.Match("tf.data datasets", ready_splits, frozenset({"task"})).check(given)
        return ready_splits(source[0], source[1], source[2] if len(source) > 2 else None, task=task)
    if is_tfds(source):
        return load_copy(local_copy(source, given), given)
    return _for_task(reader_of(source, given).load(source, given), given.get("task", registry.AUTO))


def _for_task(splits: Splits[Any], name: str) -> Splits[Any]:
    """Convert classes that were read from folder names to the labels of the requested task."""
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
    """Build a dataset of inputs and labels that fits a backbone, for ``model.fit`` and ``evaluate``.

    Args:
        examples: Part of the result of :func:`load`, such as ``splits.train``, or examples from a modality.
        spec: The backbone's ``input_spec``; required for image files. Not for texts, which the model takes as strings,
            or recordings, which have their sample rate.
        batch_size: Examples per batch; the last batch of a pass may be smaller.
        shuffle: Whether each pass has another order, a pure function of seed and epoch.
        seed: Seed for the orders.
        cache: True decodes every image file once, immediately, and keeps the pixels in memory; False decodes in each
            pass; ``"auto"`` is True if the pixels take less than 512 MB.
        epoch: An int64 variable on the CPU with the epoch at the start of each pass, for programs that resume. Without
            it, the dataset counts its passes from 0; every started pass counts, also an unfinished one.
        augment: For images ``"flip"``, ``"crop"``, ``"rand"``, ``"colour"``, for those with boxes or masks also
            ``"mosaic"``, ``"mixup"``, ``"cutmix"``, for recordings ``"shift"``, ``"mask"``, a list of several, or an
            :class:`~tfft.specs.Augmentation`: each repeat of an example is another view, a pure function of seed,
            position and number; the first one is the example itself. Image files are then decoded in each pass.
        views: Number of views, used in turn; None for a new one each time. No effect without ``augment``.
        sampling: ``"balanced"`` draws every class equally often, in passes of unchanged length: examples of small
            classes repeat, those of large classes appear in some of the passes only. None shows each example once per
            pass.

    Returns:
        Dataset of (inputs, labels) with a known length: uint8 [B, H, W, C] for images, strings [B] for texts (a dict of
        two for pairs), float32 [B, samples] for recordings.

    Raises:
        DataError: If there are no examples, or a file cannot be decoded while the pixels are cached; the message names
            the file. Without the cache, a file that was damaged after listing stops the pass with a
            ``tf.errors.OpError``, which names the file if it is missing, empty or not an image; it does not name a file
            with damaged content: list the folder again to find it.
        PlanError: If arguments are out of range, or do not apply to the examples.

    Example:
        >>> train = to_dataset(splits.train, backbone.input_spec, shuffle=True)
        >>> model.fit(train, epochs=3, shuffle=False)  # the dataset shuffles already, and Keras would warn
    """
    if not isinstance(examples, Examples):
        fix = " Give one of its parts, such as splits.train." if hasattr(examples, "train") else ""
        raise DataError(
            "Expected a part of the result of tfft.data.load (for arrays, use tfft.modalities.image.from_arrays; for "
            f"waveforms, tfft.modalities.audio.from_waves). Received: {type(examples).__name__}.{fix}"
        )
    options = BatchOptions(batch_size, shuffle, seed, epoch, augment, views, sampling, cache)
    return examples.batches(spec, options)


def load_copy(copy: LocalCopy, settings: Mapping[str, Any]) -> Splits[Any]:
    """Load a local copy of a dataset of TensorFlow Datasets, with its own class names.

    Args:
        copy: Copy from :func:`tfft.data.tfds.source.local_copy`.
        settings: Settings of :func:`load`; those that name features are replaced by the columns of the files.
    """
    splits = load(copy.source, **{**settings, **copy.settings})
    splits = dataclasses.replace(splits, skipped=(*splits.skipped, *copy.skipped))
    if not copy.class_names:
        return splits
    return splits.with_class_names(tuple(copy.class_names.get(name, name) for name in splits.class_names))


def explicit(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from their defaults."""
    return {name: value for name, value in settings.items() if value != _DEFAULTS.get(name)}


def stays_batches(source: Any, settings: Mapping[str, Any]) -> bool:
    """Whether a source is two datasets of batches that no modality reads into memory with these settings."""
    if not is_ready(source):
        return False
    matches = [registry.modality(name).matches(source, settings) for name in registry.modality_names()]
    return not any(match is not None and match.reads_datasets for match in matches)


def reader_of(source: Any, settings: Mapping[str, Any]) -> registry.Modality:
    """Return the modality that recognizes a source with the most confidence; the first of equals.

    Args:
        source: Source for :func:`load`, except TensorFlow Datasets.
        settings: Explicit settings of :func:`load`.

    Raises:
        DataError: If columns of several modalities are named, or no modality recognizes the source.
    """
    modalities = [registry.modality(name) for name in registry.modality_names()]
    columns = dict.fromkeys(column for each in modalities for column in each.columns)  # some read the same ones
    named = [column for column in columns if settings.get(column) is not None]
    reader = task_reader(settings.get("task", registry.AUTO))
    if len(named) > 1 and (reader is None or not set(named) <= set(reader.columns)):
        raise DataError(f"{' and '.join(named)} each name the input: give one of them.")
    if not named and (reader is None or reader.own_format(source) is None):
        _check_own_formats(source, None if reader is None else settings["task"])
    if reader is not None and set(named) <= set(reader.columns):
        return reader
    if not named:
        check_no_table(source)
    _check_no_paths(source, modalities)
    matches = [(match.certainty, each) for each in modalities if (match := each.matches(source, settings)) is not None]
    if matches:
        best = max(certainty for certainty, _ in matches)
        return next(each for certainty, each in matches if certainty == best)
    got = type(source).__name__ + (f" of {len(source)}" if isinstance(source, (tuple, list)) else "")
    raise DataError(
        "Expected a folder with one folder per class, a table of texts or of files (.csv, .tsv, .jsonl, or a "
        "DataFrame; image= or audio= names the column of files), 'tfds:NAME', "
        "(images, labels) or (texts, labels), or (train, validation, class_names) with two tf.data.Dataset of batches; "
        f"Received: {got}.{_likely_fix(source)}"
    )


def _check_no_paths(source: Any, modalities: Sequence[registry.Modality]) -> None:
    """Raise DataError for a list of files with labels, which would be read as texts."""
    if not isinstance(source, (tuple, list)) or len(source) != 2 or not isinstance(source[0], (tuple, list)):
        return
    first = [os.fspath(value) for value in source[0][:5] if isinstance(value, (str, os.PathLike))]
    names = [one.lower() for one in first if isinstance(one, str)]
    for each in [kind for kind in modalities if kind.numeric and names]:
        if (ends := each.file_suffixes()) and all(name.endswith(ends) for name in names):
            column = each.columns[0]
            raise DataError(
                f"Expected {each.items}, or a table of their files. Received: a list of paths such as {first[0]!r}. "
                f"Write pandas.DataFrame({{{column!r}: paths, 'label': labels}}), and {column}={column!r}."
            )


def _likely_fix(source: Any) -> str:
    """Return what was probably meant by a source in no accepted form, as a sentence after a blank; or nothing."""
    if isinstance(source, Mapping):
        for pair in (("train", "validation"), ("train", "val"), ("train", "test"), ("image", "label"), ("x", "y")):
            if set(pair) <= set(source):
                return f" Write (source[{pair[0]!r}], source[{pair[1]!r}])."
    if hasattr(source, "__next__"):
        return " A generator gives its examples once: make a tf.data.Dataset.from_generator of it, or arrays."
    if not isinstance(source, (tuple, list)):
        return ""
    if len(source) in (3, 4) and all(hasattr(part, "shape") for part in source):
        if len(source) == 4:
            return " Write ((x_train, y_train), (x_validation, y_validation))."
        return " Sample weights need two datasets: tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(32)."
    if len(source) > 3 and all(isinstance(part, (tuple, list)) and len(part) == 2 for part in source[:5]):
        return " Write (inputs, labels): tuple(zip(*source))."
    return ""


def task_reader(task: str) -> registry.Modality | None:
    """Return the modality for a task with its own label format; None for other tasks."""
    asked = registry.asked_task(task)
    return None if asked is None else asked.reader


def modality_of(splits: Splits[Any]) -> registry.Modality:
    """Return the modality of loaded examples: the reader of their task if it has one."""
    return task_reader(splits.task) or registry.modality(splits.modality)


def _check_own_formats(source: Any, asked: str | None) -> None:
    """Raise an error for a source in the format of a task that has to be named, or of another than the given one."""
    for name in registry.task_names():
        reader = registry.task(name).reader
        if reader is None or (form := reader.own_format(source)) is None:
            continue
        if asked is None:
            raise DataError(
                f"Pass task={name!r} (--task {name}) for {os.fspath(source)}: it holds {form} annotations. If "
                "its folders are classes, pass task='classification'."
            )
        raise DataError(
            f"Expected data for task={asked!r}. Received: {os.fspath(source)}, which holds {form} annotations: pass "
            f"task={name!r} (--task {name})."
        )


def _check_names(further: Mapping[str, Any]) -> None:
    """Raise an error for a setting that no modality has."""
    known = set(_DEFAULTS)
    for name in registry.modality_names():
        each = registry.modality(name)
        known |= {*each.columns, *each.settings}
    for name in further:
        if name not in known:
            raise TypeError(f"load has no setting {name!r}.{did_you_mean(name, known)}")
