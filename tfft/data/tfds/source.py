"""TensorFlow Datasets as a source of examples: :func:`local_copy`.

Implementation notes: a dataset is written once into tfft's cache folder as files that tfft reads. Checks, duplicates,
splits and resuming then work as for any other files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfft.data.examples import Skipped
from tfft.data.split import TRAIN, VALIDATION
from tfft.data.tfds.export import SPLIT, TABLE, TEST, is_table, write_examples, write_task_files
from tfft.data.tfds.features import NUMBER, SEVERAL, Chosen, chosen_features, rate_of
from tfft.data.tfds.file_names import class_folder_names, safe_name
from tfft.errors import DataError, did_you_mean, join_names, missing_package
from tfft.io.cache_dir import SPARE, cache_dir, cached_folder, free_space
from tfft.registry import Modality, asked_task

PREFIX = "tfds:"
_ABOUT = "dataset.json"
_FORM = 1  # version of the files: a higher one rewrites all copies
_ROLES = {TRAIN: ("train", "training"), VALIDATION: ("validation", "valid", "val", "dev"), TEST: ("test", "testing")}
_OWN = "tensorflow_datasets."
ROLES = ("image", "audio", "text", "label")  # settings that name features


@dataclasses.dataclass(frozen=True)
class LocalCopy:
    """A dataset written to files.

    Attributes:
        source: Folder or table that tfft reads.
        settings: Further arguments for the loaders: columns, task and split. A value of None removes the user's
            argument.
        name: Name of the dataset, with which it can be loaded again.
        skipped: Examples that were not written.
        class_names: Class names by folder name, if they differ.
    """

    source: Path
    settings: Mapping[str, Any]
    name: str
    skipped: tuple[Skipped, ...]
    class_names: Mapping[str, str]


def is_tfds(source: Any) -> bool:
    """Whether a source is ``"tfds:NAME"`` or a folder prepared by tensorflow-datasets."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = Path(source).expanduser()
    return os.fspath(source).startswith(PREFIX) or all(
        (path / name).is_file() for name in ("dataset_info.json", "features.json")
    )


def local_copy(
    source: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LocalCopy:
    """Write a dataset into tfft's cache folder, unless it is there already.

    The split ``train`` is used for training, ``validation`` for validation; ``test`` is written but not used. Without
    ``validation``, a share of ``train`` is held out. The file names are the example ids of tensorflow-datasets, so they
    are the same on every machine.

    Args:
        source: ``"tfds:NAME"``, also with ``/CONFIG`` and ``:VERSION``; or a prepared folder.
        settings: Settings of :func:`tfft.data.load`. ``image``, ``audio``, ``text`` (two for pairs) and ``label`` name
            features if there are several; ``task`` fixes the meaning of the labels; ``sample_rate`` is for recordings
            of a dataset that does not state it.
        progress: Function called with (examples written, examples in total); None for the one in ``settings``.

    Raises:
        DataError: If the dataset does not exist or cannot be prepared, or if the choice of features is ambiguous.
        DependencyError: If tensorflow-datasets is not installed.

    Example:
        >>> copy = local_copy("tfds:rock_paper_scissors")
        >>> load_images(copy.source).class_names
        ('paper', 'rock', 'scissors')
    """
    given = dict(settings or {})
    task, progress = given.get("task", "auto"), progress or given.get("progress")
    asked = asked_task(task)
    if asked is not None and asked.reader is not None:
        return _task_copy(source, asked.reader, str(task), given, progress)
    builder, name = _opened(os.fspath(source))
    chosen = chosen_features(builder.info, **{role: given.get(role) for role in ROLES})
    parts = _parts(builder.info)
    # The dataset's own rate is written as it is; the loaders resample if another rate is requested.
    rate = given.get("sample_rate") if chosen.kind == "audio" and rate_of(builder.info, chosen) is None else None

    def write(folder: Path) -> list[tuple[str, str]]:
        return write_examples(builder, chosen, parts, folder, rate, progress)

    folder, skipped = _written(builder, name, parts, write, (dataclasses.asdict(chosen), dict(parts), rate))
    return LocalCopy(_place(folder, chosen, parts), _settings(folder, chosen, task), name, skipped, _renamed(chosen))


def _task_copy(
    source: str | os.PathLike[str],
    reader: Modality,
    task: str,
    given: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> LocalCopy:
    """Write a dataset in the form of a task with files of its own."""
    if type(reader).tfds_files is Modality.tfds_files:
        raise DataError(
            f"task={task!r} expects files in its own format. Received: {os.fspath(source)}, a dataset of tfds."
        )
    builder, name = _opened(os.fspath(source))
    files, parts = reader.tfds_files(builder.info, given), _parts(builder.info)

    def write(folder: Path) -> list[tuple[str, str]]:
        return write_task_files(builder, files, parts, folder, progress)

    folder, skipped = _written(builder, name, parts, write, (task, files.features, files.classes, dict(parts)))
    return LocalCopy(folder, dict.fromkeys(ROLES), name, skipped, {})


def _written(
    builder: Any,
    name: str,
    parts: Mapping[str, str],
    write: Callable[[Path], list[tuple[str, str]]],
    chosen: Sequence[Any],
) -> tuple[Path, tuple[Skipped, ...]]:
    """Return the folder of a copy, which is written unless it is there, and the examples that were skipped."""

    def fill(folder: Path) -> None:
        _check_room(builder.info, parts)
        try:
            about = {"name": name, "parts": parts, "skipped": write(folder)}
            (folder / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{name} cannot be written to {cache_dir()}: {error.strerror or error}.") from error

    entry = f"{safe_name(builder.info.full_name.replace('/', '-'))}-{_key(builder, chosen, parts)[:16]}"
    folder = cached_folder(f"tfds/{entry}", fill, by_size=True, error=DataError)
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    return folder, tuple(Skipped(item, reason) for item, reason in about["skipped"])


def _renamed(chosen: Chosen) -> dict[str, str]:
    if chosen.kind == "text" or is_table(chosen):
        return {}
    return {inner: name for name, inner in class_folder_names(chosen.classes).items() if inner != name}


def _place(folder: Path, chosen: Chosen, parts: Mapping[str, str]) -> Path:
    if is_table(chosen):
        return folder / TABLE
    return folder / f"{TRAIN}.jsonl" if chosen.kind == "text" and VALIDATION not in parts else folder


def _settings(folder: Path, chosen: Chosen, task: str) -> dict[str, Any]:
    found: dict[str, Any] = {"image": None, "audio": None, "text": None, "label": None}
    if chosen.kind == "text":
        found |= {"text": chosen.inputs if len(chosen.inputs) > 1 else chosen.inputs[0], "label": chosen.label}
    elif is_table(chosen):
        found |= {chosen.kind: chosen.kind, "label": "label"}
        if (folder / SPLIT).is_file():
            found["validation"] = str(folder / SPLIT)
    if asked_task(task) is None and chosen.labels in (NUMBER, SEVERAL):
        found["task"] = chosen.labels
    return found


# --- the package -------------------------------------------------------------------------------------------------


def _opened(source: str) -> tuple[Any, str]:
    """Return the builder of a prepared dataset, and its name in plans."""
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError:
        missing_package("tensorflow-datasets", f"Reading {source}", 'pip install "tfft[tfds]"')
    if not source.startswith(PREFIX):
        folder = Path(source).expanduser()
        _check_classes(folder)
        try:
            return tfds.builder_from_directory(folder), source
        except Exception as error:  # any exception: the files are arbitrary
            raise DataError(f"The dataset in {folder} cannot be opened: {_first_line(error)}") from error
    builder = _named(tfds, source.removeprefix(PREFIX))
    _prepare(builder)
    base, *config = builder.info.full_name.split("/")[:-1]
    return builder, f"{PREFIX}{'/'.join([base, *config])}:{builder.info.version}"


def _named(tfds: Any, wanted: str) -> Any:
    if not wanted:
        raise DataError(f"Expected the name of a dataset after {PREFIX}, such as {PREFIX}rock_paper_scissors.")
    # Read here, since the package reads the variable only once.
    place = os.environ.get("TFDS_DATA_DIR")
    try:
        return tfds.builder(wanted, data_dir=place)
    except ImportError as error:
        missing_package(error.name or "?", f"The dataset {wanted!r}", f"pip install {error.name}")
    except Exception as error:  # ValueError, AssertionError, own classes: for a name, a configuration or a version
        base = wanted.split("/")[0].split(":")[0]
        known = tfds.list_builders(with_community_datasets=False)
        if base in known:
            raise DataError(f"TensorFlow Datasets cannot open {wanted!r}: {_first_line(error)}") from error
        where = place or "~/tensorflow_datasets"
        raise DataError(
            f"No dataset {wanted!r} among the {len(known)} of TensorFlow Datasets, and none prepared "
            f"in {where}.{did_you_mean(base, known)} Expected {PREFIX}NAME, {PREFIX}NAME/CONFIG or "
            f"{PREFIX}NAME:VERSION."
        ) from error


def _prepare(builder: Any) -> None:
    if builder.is_prepared():
        return
    name = builder.info.full_name
    try:
        builder.download_and_prepare()
    except ImportError as error:
        missing_package(error.name or "?", f"Preparing {name}", f"pip install {error.name}")
    except Exception as error:  # from the network, the publisher's page or the dataset's code
        raise DataError(
            f"{name} is not prepared in {builder.data_dir}, and downloading and preparing it failed: "
            f"{type(error).__name__}: {_first_line(error)} Prepare it elsewhere (tfds build {builder.name}) and "
            "copy the folder there, or pass the folder instead of the name."
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0][:300].rstrip('.')}." if lines else f"{type(error).__name__}."


def _check_classes(folder: Path) -> None:
    """Reject a folder whose features name a foreign class: the package would import it and run its code."""
    try:
        tree = json.loads((folder / "features.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / 'features.json'} cannot be read: {error}.") from error
    foreign = sorted({name for name in _class_names(tree) if not str(name).startswith(_OWN)})
    if foreign:
        raise DataError(
            f"{folder / 'features.json'} names classes from outside tensorflow-datasets, and opening the dataset "
            f"would run their code: {join_names(foreign)}. If you trust them, read the data with tfds and pass arrays."
        )


def _class_names(tree: Any) -> Iterator[Any]:
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if key in ("pythonClassName", "python_class_name"):
            yield value
        yield from _class_names(value)


# --- splits ------------------------------------------------------------------------------------------------------


def _parts(info: Any) -> dict[str, str]:
    """Return the splits by the part that they are for; other splits are ignored."""
    there = {name.lower(): name for name, split in info.splits.items() if split.num_examples}
    found = {role: there[name] for role, names in _ROLES.items() for name in reversed(names) if name in there}
    if TRAIN not in found and len(there) == 1 and not found:
        found[TRAIN] = next(iter(there.values()))  # such as "all", which is then split
    if TRAIN not in found:
        has = join_names(map(repr, info.splits)) or "none"
        raise DataError(f"{info.full_name} has no split 'train'. Splits: {has}.")
    return {role: found[role] for role in _ROLES if role in found}


def _check_room(info: Any, parts: Mapping[str, str]) -> None:
    wanted = sum(info.splits[split].num_bytes for split in parts.values())
    free = free_space(cache_dir())
    if wanted + SPARE > free:
        raise DataError(
            f"Writing {info.full_name} takes about {wanted / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free in "
            f"{cache_dir()}. Free some, or choose another folder with the environment variable TFFT_CACHE_DIR."
        )


def _key(builder: Any, chosen: Sequence[Any], parts: Mapping[str, str]) -> str:
    """Return a hash of everything that determines the written files."""
    files = []
    for split in parts.values():
        for path in builder.info.splits[split].filepaths:
            about = os.stat(path)
            files.append((os.path.basename(path), about.st_size, about.st_mtime_ns))
    parts_of_key = [_FORM, builder.info.full_name, *chosen, files]
    return hashlib.sha256(json.dumps(parts_of_key, sort_keys=True).encode()).hexdigest()
