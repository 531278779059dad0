"""Labelled data for the model of a run, without what the run has learned from: :func:`labelled_data`.

Hides how the run read its own data, and which part of it was held out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.data import (
    Examples,
    TextExamples,
    from_tagged,
    from_texts,
    from_waves,
    list_images,
    load_image_table,
    load_images,
    load_recording_table,
    load_recordings,
    load_tagged,
    load_texts,
    read_image_table,
    read_recording_table,
    read_texts,
    to_dataset,
)
from tfft.data.tfds.source import is_tfds, local_copy
from tfft.errors import DataError, did_you_mean, listed
from tfft.io.cache_dir import cache_dir
from tfft.layers.log_mel import audio_of
from tfft.layers.preprocess import preprocess_of
from tfft.modalities.audio.folder import holds_recordings
from tfft.modalities.image.folder import split_folders
from tfft.recipes.run import Run
from tfft.specs import AudioSpec

_HELD = ("val", "valid", "validation")

_Examples = TypeVar("_Examples", Examples, TextExamples)

# Batches, what was left out, and in words which examples they are.
Labelled = tuple[tf.data.Dataset, list[str], str]


def labelled_data(run: Run, data: str | os.PathLike[str], batch_size: int = 32) -> Labelled:
    """Reads labelled data as the model of a run takes it; of the data of the run itself, what was held out.

    Args:
        run: read with :func:`tfft.load_run`.
        data: folder or table of the kind that the run has learned from, or ``"tfds:NAME"``.
        batch_size: examples in a batch.

    Returns:
        Batches of inputs and labels, what was left out, and in words which examples they are.

    Raises:
        DataError: when the data cannot be used for this model.

    Example:
        >>> dataset, skipped, words = labelled_data(tfft.load_run("runs/photos"), "more-photos/")
        >>> tfft.evaluate(run.model, dataset)
    """
    run, path = _as_files(run, data)
    plan, spec = run.plan, audio_of(run.model)
    if spec is not None:
        return (_recording_rows if plan.audio is not None else _recordings)(run, path, spec, batch_size)
    takes_strings = all(tensor.dtype == "string" for tensor in run.model.inputs)
    if plan.image is None and (
        plan.text is not None or not registry.task(plan.task).labels_from_folders or takes_strings
    ):
        dataset, words = _texts(run, path, batch_size)
        return dataset, [], words
    examples, words = (_image_rows if plan.image is not None else _images)(run, path)
    dataset = to_dataset(examples, _input_spec(run), batch_size=batch_size, cache=False)
    return dataset, list(map(str, examples.skipped)), words


def _as_files(run: Run, data: str | os.PathLike[str]) -> tuple[Run, pathlib.Path]:
    """Puts files in place of datasets of TensorFlow Datasets, in the plan of the run and as data."""
    plan, own = run.plan, is_tfds(run.plan.data)
    columns = {name: getattr(plan, name) for name in ("image", "audio", "text", "label")} if own else {}
    rate = {"sample_rate": plan.sample_rate}
    if not is_tfds(data):
        if own and pathlib.Path(data).is_dir():  # the names of features say nothing about a folder
            run = dataclasses.replace(run, plan=dataclasses.replace(plan, **dict.fromkeys(columns)))
        return run, pathlib.Path(data)
    copy = local_copy(data, **columns, **rate, task=plan.task)
    learned = plan.data
    if own:
        with contextlib.suppress(DataError):  # where it is not there any more, this is other data
            learned = local_copy(plan.data, **columns, **rate, task=plan.task).source
    inner = {name: folder for folder, name in copy.class_names.items()}
    names = tuple(inner.get(name, name) for name in run.class_names)  # the files have those of folders
    plan = dataclasses.replace(plan, data=str(learned), **copy.settings)
    return dataclasses.replace(run, plan=plan, class_names=names), copy.source


def _is_own(run: Run, path: pathlib.Path) -> bool:
    """Whether this is the data that the run has learned from."""
    return path.exists() and pathlib.Path(run.plan.data).exists() and path.samefile(run.plan.data)


def _input_spec(run: Run) -> Any:
    preprocess = preprocess_of(run.model)
    if preprocess is None:
        raise DataError(f"The model in {run.folder} does not take image files. Use tfft.evaluate(model, dataset).")
    return preprocess.spec


def _table_settings(run: Run, files: str) -> dict[str, Any]:
    named = {name: getattr(run.plan, name) for name in (files, "label") if getattr(run.plan, name) is not None}
    return named | {"task": run.plan.task, "separator": run.plan.separator}


def _image_rows(run: Run, path: pathlib.Path) -> tuple[Examples, str]:
    how = _table_settings(run, "image")
    if _is_own(run, path):
        splits = load_image_table(path, **how, validation=run.folder / "split.csv")
        return splits.validation, f"held-out examples: {splits.split_from}"
    return read_image_table(path, run.class_names, **how), f"all examples in {path}"


def _images(run: Run, folder: pathlib.Path) -> tuple[Examples, str]:
    """Returns examples with the labels of the run's classes."""
    plan, own = run.plan, _is_own(run, folder)
    split = folder.is_dir() and {"train"} < {p.name.lower() for p in folder.iterdir() if p.is_dir()}
    if split or own:  # never on what the run has learned from
        drawn = run.folder / "split.csv"  # as it was when the run learned: files may have come since
        share = drawn if own and drawn.is_file() else plan.validation
        splits = load_images(folder, validation=share, seed=plan.seed, group=None if share is drawn else plan.group)
        examples, words = splits.validation, f"held-out examples: {splits.split_from}"
    else:
        place = split_folders(folder).get("train", folder) if folder.is_dir() else folder
        examples, words = list_images(place, least_classes=1), f"all examples in {place}"
    return _renumbered(examples, run, folder), words


def _renumbered(examples: _Examples, run: Run, place: pathlib.Path) -> _Examples:
    """Returns examples that have names of classes of their own with the numbers that the model has for these."""
    known, own = run.class_names, examples.class_names
    unknown = [name for name in own if name not in known]
    if unknown:
        hint = "".join(did_you_mean(name, known) for name in unknown[:3])
        raise DataError(
            f"{place} has classes that the model does not know: {listed(unknown)}.{hint} It knows: {listed(known)}."
        )
    numbers = np.array([known.index(name) for name in own], np.int32)
    if examples.labels.ndim > 1:  # several labels: a column for each class
        labels = np.zeros((len(examples), len(known)), examples.labels.dtype)
        labels[:, numbers] = examples.labels
    else:
        labels = numbers[examples.labels] if own else examples.labels  # numbers have no classes
    return dataclasses.replace(examples, labels=labels, class_names=known)


def _recording_rows(run: Run, path: pathlib.Path, spec: AudioSpec, batch_size: int) -> Labelled:
    how, store = _table_settings(run, "audio"), cache_dir() / "files.sqlite"
    if _is_own(run, path):
        heard = {"sample_rate": spec.sample_rate, "seconds": spec.seconds, "store": store}
        splits = load_recording_table(path, **how, **heard, validation=run.folder / "split.csv")
        waves, labels, skipped = splits.waves[1], splits.validation.labels, splits.skipped
        words = f"held-out recordings: {splits.split_from}"
    else:
        waves, labels, skipped = read_recording_table(path, run.class_names, spec=spec, **how, store=store)
        words = f"all recordings in {path}"
    return from_waves(waves, labels, spec, batch_size=batch_size), list(map(str, skipped)), words


def _recordings(run: Run, path: pathlib.Path, spec: AudioSpec, batch_size: int) -> Labelled:
    if not path.is_dir() or not holds_recordings(path):
        raise DataError(f"{path} holds no recordings, and the model in {run.folder} listens to them.")
    own, drawn = _is_own(run, path), run.folder / "split.csv"
    ready = any(p.name.lower() in _HELD for p in path.iterdir())
    share = drawn if own and not ready and drawn.is_file() else 0.5
    splits = load_recordings(
        path, sample_rate=spec.sample_rate, seconds=spec.seconds, validation=share, store=cache_dir() / "files.sqlite"
    )
    if list(splits.class_names) != list(run.class_names):
        raise DataError(f"{path} has the classes {listed(splits.class_names)}, the model {listed(run.class_names)}.")
    if own or ready:
        waves, labels = splits.waves[1], splits.validation.labels
        words = f"held-out recordings: {splits.split_from}"
    else:
        waves, labels = splits.every_wave, np.concatenate([splits.train.labels, splits.validation.labels])
        words = f"all recordings in {path}"
    return from_waves(waves, labels, spec, batch_size=batch_size), list(map(str, splits.skipped)), words


def _texts(run: Run, data: pathlib.Path, batch_size: int) -> tuple[tf.data.Dataset, str]:
    plan, own = run.plan, _is_own(run, data)
    columns = {name: getattr(plan, name) for name in ("text", "label") if getattr(plan, name) is not None}
    how = {"task": plan.task, "separator": plan.separator, **columns}
    grouped = {} if plan.group is None else {"group": plan.group}
    if registry.task(plan.task).has_own_format:
        return _tagged(run, data, own, batch_size)
    if own or (data.is_dir() and _is_split(data)):  # never on what the run has learned from
        splits = load_texts(data, validation=plan.validation, seed=plan.seed, **how, **grouped)
        examples = _renumbered(splits.validation, run, data)
        words = f"held-out examples: {splits.split_from}"
    else:
        examples, words = read_texts(data, run.class_names, **how), f"all examples in {data}"
    return from_texts(examples, batch_size=batch_size), words


def _is_split(folder: pathlib.Path) -> bool:
    names = {path.stem.lower() for path in folder.iterdir()}
    return "train" in names and not names.isdisjoint((*_HELD, "dev"))


def _tagged(run: Run, data: pathlib.Path, own: bool, batch_size: int) -> tuple[tf.data.Dataset, str]:
    plan = run.plan
    lists = {name: value for name, value in (("words", plan.text), ("tags", plan.label)) if value is not None}
    if not own and not pathlib.Path(plan.data).exists():
        raise DataError(
            f"The run has learned from {plan.data}, which is not there, and without it the numbers of the tags "
            "are not known. Use tfft.evaluate(run.model, dataset)."
        )
    source = data if own else {"train": plan.data, "validation": data}  # tags have the order of the training file
    tagged = load_tagged(source, validation=plan.validation, seed=plan.seed, **lists)
    words = f"held-out sentences: {tagged.split_from}" if own else f"all sentences in {data}"
    return from_tagged(tagged.validation, batch_size=batch_size), words
