"""Labelled examples from any source: :func:`load`.

Hides how the kind of a source is told (:func:`kind_of`), which nobody else decides, and which loader reads it. What a
loader takes is read from its signature, so that a setting which means nothing for a source is refused and not ignored.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.data.examples import Splits
from tfft.data.file_table import Task
from tfft.data.split import TRAIN, VALIDATION
from tfft.data.table import SUFFIXES
from tfft.data.tfds.source import LocalCopy, is_tfds, local_copy
from tfft.errors import DataError
from tfft.modalities.audio.folder import RecordingSplits, holds_recordings, load_recordings
from tfft.modalities.audio.table import load_recording_table
from tfft.modalities.image.arrays import ArraySplits, load_arrays
from tfft.modalities.image.folder import load_images
from tfft.modalities.image.table import load_image_table
from tfft.modalities.text.examples import TextSplits, load_texts
from tfft.registry import AUTO, asked_task
from tfft.tasks.token_classification.data import TaggedSplits, load_tagged

IMAGES, RECORDINGS = "a folder of images", "a folder of recordings"
IMAGE_TABLE, RECORDING_TABLE = "a table of images", "a table of recordings"
TEXTS, TAGGED, ARRAYS = "texts", "tagged words", "arrays"
READY = "ready datasets"  # batches, which nothing here reads

AnySplits = Splits | RecordingSplits | TextSplits | TaggedSplits | ArraySplits

_LOADERS: dict[str, Callable[..., AnySplits]] = {
    IMAGES: load_images,
    RECORDINGS: load_recordings,
    IMAGE_TABLE: load_image_table,
    RECORDING_TABLE: load_recording_table,
    TEXTS: load_texts,
    TAGGED: load_tagged,
    ARRAYS: load_arrays,
}
# Settings that ask for nothing where there is nothing to do: no file to decode, to skip, to remember or to wait for.
_HARMLESS = ("validation", "seed", "strict", "check", "progress", "store")
_COLUMNS_OF_TAGGED = {"text": "words", "label": "tags"}


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
    task: Task | str = "auto",
    separator: str | None = None,
    root: str | os.PathLike[str] | None = None,
    encoding: str | None = None,
    sample_rate: int | None = None,
    seconds: float | None = None,
) -> Any:
    """Reads labelled examples from wherever they are, and decides which are held out for validation.

    Use it as the first step of a training that you write yourself; :func:`to_dataset` makes batches of the parts.
    Each kind of data has a loader of its own, whose page tells more.

    Args:
        source: one of these:

            - a folder with one folder per class, also within ``train/`` and ``val/``: of images (:func:`load_images`),
              of recordings (:func:`load_recordings`), or of ``.txt`` files (:func:`load_texts`);
            - a table (``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``, DataFrame): with ``image=`` of image files
              (:func:`load_image_table`), with ``audio=`` of recordings (:func:`load_recording_table`), else of texts;
            - ``(texts, labels)``; with ``task="token_classification"`` whatever :func:`load_tagged` takes;
            - ``(images, labels)``, two arrays (:func:`load_arrays`);
            - ``"tfds:NAME"``, or a folder that tensorflow-datasets prepared.
        validation: share to hold out, or the file of an earlier split, where examples have names. Of no effect where
            the source is split already.
        seed: of the split.
        strict: True makes an example that cannot be used an error.
        check: False does not decode the files of a folder of images once.
        progress: called with (files done, files in all).
        group: what must not be on both sides: ``"folder"`` or a regular expression for a folder of files, a column of
            a table.
        store: file in which is kept what reading files told.
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
        seconds: of recordings that are heard.

    Returns:
        :class:`Splits`, :class:`RecordingSplits`, :class:`TextSplits`, :class:`TaggedSplits` or :class:`ArraySplits`;
        each has ``train``, ``validation`` and ``split_from``.

    Raises:
        DataError: when there is no usable data, or a setting means nothing for it; everything at fault is named.

    Example:
        >>> splits = load("photos/", validation=0.25)
        >>> len(splits.train), len(splits.validation), splits.split_from
        (184, 60, '25 % of each class in photos, drawn with seed 0')
        >>> train = to_dataset(splits.train, backbone.input_spec, shuffle=True)
    """
    given = {name: value for name, value in locals().items() if name != "source"}
    if is_tfds(source):
        names = ("image", "audio", "text", "label", "task", "sample_rate", "progress")
        return load_copy(local_copy(source, **{name: given[name] for name in names}), **given)
    kind = kind_of(source, image=image, audio=audio, text=text, label=label, separator=separator, task=task)
    check_settings(kind, {name: value for name, value in given.items() if value != _DEFAULTS[name]})
    taken = inspect.signature(_LOADERS[kind]).parameters
    settings = {name: value for name, value in given.items() if value != _DEFAULTS[name] and name in taken}
    if kind == TAGGED:
        settings |= {to: given[name] for name, to in _COLUMNS_OF_TAGGED.items() if given[name] is not None}
        source = _two_files(source)
    return _LOADERS[kind](source, **settings)


_DEFAULTS = {
    name: parameter.default for name, parameter in inspect.signature(load).parameters.items() if name != "source"
}


def load_copy(copy: LocalCopy, **settings: Any) -> Any:
    """Reads a dataset of tfds that is there as files, with the names of classes that it has itself.

    Args:
        copy: from :func:`tfft.data.tfds.source.local_copy`.
        **settings: of :func:`load`; those that name features are replaced by what the files have.
    """
    splits = load(copy.source, **settings | copy.settings)
    splits = dataclasses.replace(splits, skipped=(*splits.skipped, *copy.skipped))
    if not copy.class_names:
        return splits
    names = tuple(copy.class_names.get(name, name) for name in splits.class_names)
    parts = {part: dataclasses.replace(getattr(splits, part), class_names=names) for part in (TRAIN, VALIDATION)}
    return dataclasses.replace(splits, **parts, class_names=names)


def kind_of(
    source: Any,
    *,
    image: Any = None,
    audio: Any = None,
    text: Any = None,
    label: Any = None,
    separator: str | None = None,
    task: str = "auto",
) -> str:
    """Tells which kind of examples a source holds, by its form, its names of files and the columns that are named.

    Args:
        source: as :func:`load` takes it, but no dataset of tfds.
        image: as in :func:`load`, like all that follows.
        audio: column with the paths of recordings.
        text: column with the texts.
        label: column with the labels.
        separator: between several labels.
        task: what the labels are.

    Returns:
        One of the constants of this module, which are words for a sentence.

    Raises:
        DataError: when it is none of them.
    """
    roles = (("text", text), ("image", image), ("audio", audio))
    named = [name for name, value in roles if value is not None]
    if len(named) > 1:
        raise DataError(f"{' and '.join(named)} each say what is to be looked at: give one of them.")
    if image is not None:
        return IMAGE_TABLE
    if audio is not None:
        return RECORDING_TABLE
    asked = asked_task(task)
    if asked is not None and asked.has_own_format:
        return TAGGED
    columns = any(value is not None for value in (text, label, separator))
    if isinstance(source, (str, os.PathLike)):
        return _kind_of_path(Path(source).expanduser(), text is not None, columns)
    if hasattr(source, "columns") and hasattr(source, "iloc"):  # a DataFrame, without importing pandas
        return TEXTS
    if isinstance(source, (tuple, list)) and len(source) == 2 and not isinstance(source[0], tf.data.Dataset):
        if all(isinstance(part, (str, os.PathLike)) for part in source):
            if columns or Path(source[0]).suffix.lower() in SUFFIXES:
                return TEXTS
        elif columns or _are_texts(source[0]):
            return TEXTS
        elif not isinstance(source[0], str):
            return ARRAYS
    if columns:
        return TEXTS  # whose loader says what it takes
    got = f"a {type(source).__name__}" + (f" of {len(source)}" if isinstance(source, (tuple, list)) else "")
    raise DataError(
        "Data must be a folder with one folder per class, a table of texts or of files (.csv, .tsv, .jsonl, or a "
        "DataFrame; image= or audio= names the column of files), 'tfds:NAME', "
        "(images, labels) or (texts, labels), or (train, validation, class_names) with two tf.data.Dataset of batches; "
        f"got {got}."
    )


def modality_of(kind: str) -> str:
    """Returns the name of the modality of a kind of source, from :func:`kind_of`."""
    if kind in (RECORDINGS, RECORDING_TABLE):
        return "audio"
    return "text" if kind in (TEXTS, TAGGED) else "image"


def check_settings(kind: str, given: Mapping[str, Any]) -> None:
    """Refuses settings that mean nothing for a kind of source.

    Args:
        kind: from :func:`kind_of`, or ``READY``.
        given: settings of :func:`load` that are not left as they are by default.

    Raises:
        DataError: naming all of them.
    """
    of_files = kind in (IMAGES, RECORDINGS, IMAGE_TABLE, RECORDING_TABLE)
    if isinstance(given.get("validation"), (str, os.PathLike)) and not of_files:
        raise DataError(f"validation={given['validation']!r} is for files of images, which have names.")
    if "group" in given and kind in (TAGGED, ARRAYS, READY):
        raise DataError(f"group={given['group']!r} is for folders of files, which have names, and for tables.")
    asked = asked_task(given.get("task", AUTO))
    if asked is not None and not asked.labels_from_folders and kind in (IMAGES, RECORDINGS, ARRAYS, READY):
        raise DataError(
            f"task={given['task']!r} is for tables; folders and arrays are read for classification. Give a table with "
            "a column of files (image= or audio=), or build the model with tfft.build(backbone, tfft.heads....)."
        )
    own = inspect.signature(_LOADERS[kind]).parameters if kind in _LOADERS else ()
    taken = {*own, *_HARMLESS, "task"}
    taken |= {*_COLUMNS_OF_TAGGED} if kind == TAGGED else set()
    problems = [f"{name}={value!r}" for name, value in given.items() if name not in taken]
    if problems:
        has = "mean" if len(problems) > 1 else "means"
        raise DataError(f"{', '.join(problems)} {has} nothing for {kind}. Leave it out, or give another source.")


def _kind_of_path(path: Path, names_texts: bool, names_columns: bool) -> str:
    if not path.is_dir():
        return TEXTS if names_columns or path.suffix.lower() in SUFFIXES else IMAGES  # which says what is there
    if names_texts or _holds_texts(path):
        return TEXTS
    return RECORDINGS if holds_recordings(path) else IMAGES


def _two_files(source: Any) -> Any:
    pair = isinstance(source, (tuple, list)) and len(source) == 2
    if pair and all(isinstance(part, (str, os.PathLike)) for part in source):
        return {"train": source[0], "validation": source[1]}
    return source


def _are_texts(values: Any) -> bool:
    """Whether values are strings, looking at the first few; pairs of texts are a pair of lists."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__") or not len(values):
        return False
    if isinstance(values, np.ndarray) and values.ndim != 1:
        return False
    return all(isinstance(value, str) for value in list(values[:5]))


def _holds_texts(folder: Path) -> bool:
    """Whether a folder has tables, or folders of mostly .txt files: a note among photos makes no texts of them."""
    for entry in sorted(folder.iterdir()):
        if entry.suffix.lower() in SUFFIXES:
            return True
        if entry.is_dir() and not entry.name.startswith("."):
            inside = sorted(entry.iterdir())[:50]
            if _mostly_texts(inside):
                return True
            if any(inner.is_dir() and _mostly_texts(list(inner.iterdir())[:50]) for inner in inside):
                return True
    return False


def _mostly_texts(paths: Sequence[Path]) -> bool:
    files = [path.suffix.lower() for path in paths if path.is_file() and not path.name.startswith(".")]
    return 2 * files.count(".txt") > len(files)
