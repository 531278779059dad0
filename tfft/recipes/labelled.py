"""Labelled data for evaluating a run, without its training examples: :func:`labelled_data`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from typing import Any

import tensorflow as tf

from tfft import registry
from tfft.data import BatchOptions, Examples
from tfft.data.loader import explicit, task_reader
from tfft.data.tfds.source import ROLES, is_tfds, local_copy
from tfft.errors import DataError, join_names
from tfft.io.cache_dir import cache_dir
from tfft.recipes.run import Run

_COLUMNS = (
    *ROLES, "separator", "delimiter", "encoding", "decimal", "masks", "ignore", "letter_case", "punctuation", "target",
)  # fmt: skip


def labelled_data(
    run: Run,
    data: str | os.PathLike[str],
    batch_size: int = 32,
    *,
    images: str | os.PathLike[str] | None = None,
) -> tuple[tf.data.Dataset, list[str], str]:
    """Read labelled data for the model of a run; for the run's own data, only the held-out examples.

    Args:
        run: Run from :func:`tfft.load_run`.
        data: Folder or table of the kind that the run was trained on, or ``"tfds:NAME"``.
        batch_size: Examples per batch.
        images: Folder of the images of an annotation file. Defaults to the one beside it, or that of the run for the
            run's own data.

    Returns:
        Batches of inputs and labels, the skipped files, and a description of the examples.

    Raises:
        DataError: If the data does not fit the model.

    Example:
        >>> dataset, skipped, words = labelled_data(tfft.load_run("runs/photos"), "more-photos/")
        >>> tfft.evaluate(run.model, dataset)
    """
    examples, spec, skipped, words = labelled_examples(run, data, images=images)
    dataset = examples.evaluation_batches(spec, BatchOptions(batch_size, cache=False))
    return dataset, list(map(str, skipped)), words


def labelled_examples(
    run: Run, data: str | os.PathLike[str], *, images: str | os.PathLike[str] | None = None
) -> tuple[Examples, Any, tuple[Any, ...], str]:
    """Read labelled data as :func:`labelled_data` does, without making batches.

    Args:
        run: As in :func:`labelled_data`.
        data: As in :func:`labelled_data`.
        images: As in :func:`labelled_data`.

    Returns:
        The examples, the input spec of the model for :func:`tfft.data.to_dataset`, the skipped files, and a description
        of the examples.

    Raises:
        DataError: If the data does not fit the model.
    """
    run, path = _as_files(run, data)
    plan, (reader, spec) = run.plan, _reader(run)
    settings = {name: value for name in _COLUMNS if (value := getattr(plan, name)) is not None}
    settings |= {"task": plan.task, "store": cache_dir() / "files.sqlite"}
    own = path.exists() and pathlib.Path(plan.data).exists() and path.samefile(plan.data)
    folder = images if images is not None else plan.images if own else None
    settings |= {} if folder is None else {"images": folder}
    if own or reader.is_split(path):  # never the training examples
        drawn = _folder(run) / "split.csv"  # as during training: files may have been added since
        split = {"validation": plan.validation, "seed": plan.seed, "group": plan.group}
        splits = reader.load(
            path, explicit({**settings, **({"validation": drawn} if own and drawn.is_file() else split)})
        )
        examples, skipped, words = splits.validation, splits.skipped, f"held-out examples: {splits.split_from}"
    else:
        further = {name: value for name in reader.labelled_settings if (value := getattr(plan, name)) is not None}
        examples = reader.read_labelled(path, run.class_names, {**settings, **further})
        skipped, words = examples.skipped, f"all examples in {path}"
    examples = reader.fitted(examples, run.model).for_classes(run.class_names, str(path))
    return examples, spec, tuple(skipped), words


def _reader(run: Run) -> tuple[registry.Modality, Any]:
    """Return the modality that reads data for the model of a run, and the input spec of the model."""
    kinds, own = [registry.modality(name) for name in registry.modality_names()], task_reader(run.plan.task)
    for kind in kinds if own is None else (own, *kinds):
        if (spec := kind.input_of(run.model)) is not None:
            return own or kind, spec
    raise DataError(
        f"The model in {run.folder} takes no input that tfft reads from files "
        f"({join_names(k.items for k in kinds)}). "
        "Use tfft.evaluate(model, dataset)."
    )


def _as_files(run: Run, data: str | os.PathLike[str]) -> tuple[Run, pathlib.Path]:
    """Replace datasets of TensorFlow Datasets by their files, in the plan of the run and in the data."""
    plan, own = run.plan, is_tfds(run.plan.data)
    columns = {name: getattr(plan, name) for name in ROLES} if own else {}
    settings = {**columns, "sample_rate": plan.sample_rate, "task": plan.task}
    if not is_tfds(data):
        if own and pathlib.Path(data).is_dir():  # feature names do not apply to a folder
            without: dict[str, Any] = dict.fromkeys(columns)
            run = dataclasses.replace(run, plan=dataclasses.replace(plan, **without))
        return run, pathlib.Path(data)
    copy = local_copy(data, settings)
    learned = plan.data
    if own:
        with contextlib.suppress(DataError):  # if the source is gone, this is other data
            learned = str(local_copy(plan.data, settings).source)
    inner = {name: folder for folder, name in copy.class_names.items()}
    names = tuple(inner.get(name, name) for name in run.class_names)  # the files use the folder names
    plan = dataclasses.replace(plan, data=learned, **copy.settings)
    return dataclasses.replace(run, plan=plan, class_names=names), copy.source


def _folder(run: Run) -> pathlib.Path:
    return pathlib.Path() if run.folder is None else run.folder
