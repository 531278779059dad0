"""Export of TensorFlow Datasets to files that tfft reads: :func:`write_examples`.

Implementation notes: classes become folders; multi-label and regression data a table next to the files; texts become
JSON lines. Images are written as stored, without decoding.
"""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfft.data.split import TRAIN, VALIDATION, write_split
from tfft.data.tfds.features import NUMBER, ONE, SEVERAL, Chosen, leaves, rate_of
from tfft.data.tfds.file_names import class_folder_names, safe_name
from tfft.data.tfds.task_files import TaskFiles
from tfft.errors import DataError

TABLE, SPLIT = "examples.jsonl", "split.csv"
TEST = "test"
_ENDINGS = (
    (b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"BM", ".bmp"), (b"fLaC", ".flac"),
    (b"OggS", ".ogg"), (b"ID3", ".mp3"), (b"\xff\xfb", ".mp3"), (b"FORM", ".aiff"),
)  # fmt: skip


def is_table(chosen: Chosen) -> bool:
    """Whether files are listed in a table, because folders can only represent one class per file."""
    return chosen.kind != "text" and chosen.labels != ONE


def write_examples(
    builder: Any,
    chosen: Chosen,
    parts: Mapping[str, str],
    folder: Path,
    rate: int | None,
    progress: Callable[[int, int], None] | None,
) -> list[tuple[str, str]]:
    """Write the examples of a dataset.

    Args:
        builder: Prepared builder of TensorFlow Datasets.
        chosen: Features to write.
        parts: Names of the dataset splits by part: ``"train"``, ``"validation"`` and ``"test"``.
        folder: Folder to fill.
        rate: Sample rate in Hz for recordings of a dataset that does not state one.
        progress: Function called with (examples written, examples in total).

    Returns:
        Examples that were skipped, with the reason as the rest of a sentence.

    Raises:
        DataError: If a value is not one that a model can train on.
    """
    writer = _Writer(builder.info, chosen, folder, rate)
    count, done = sum(builder.info.splits[split].num_examples for split in parts.values()), 0
    with writer:
        for part, split in parts.items():
            for name, values, label in _read(builder, chosen, split):
                writer.add(part, name, values, label)
                done += 1
                if progress is not None:
                    progress(done, count)
    return writer.skipped


def write_task_files(
    builder: Any,
    files: TaskFiles,
    parts: Mapping[str, str],
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> list[tuple[str, str]]:
    """Write the examples of a dataset in the form that a task reads.

    Args:
        builder: As in :func:`write_examples`.
        files: Features and form of the files.
        parts: As in :func:`write_examples`, like all that follow.
        folder: Folder to fill.
        progress: Function called with (examples written, examples in total).

    Returns:
        Examples that were skipped, with the reason as the rest of a sentence.
    """
    count, done = sum(builder.info.splits[split].num_examples for split in parts.values()), 0
    skipped = []
    with files.open(folder.resolve()) as writer:
        for part, split in parts.items():
            for name, values in _rows(builder, files.features, files.encoded, split):
                if (reason := writer.add(part, name, values)) is not None:
                    skipped.append((name, reason))
                done += 1
                if progress is not None:
                    progress(done, count)
    return skipped


def _read(builder: Any, chosen: Chosen, split: str) -> Iterator[tuple[str, list[Any], Any]]:
    """Yield name, inputs and label of each example; other features are not read."""
    known = {"/".join(path): feature for path, feature in leaves(builder.info.features)}
    encoded = [name for name in chosen.inputs if chosen.kind == "image" or _is_lazy(known[name])]
    for name, values in _rows(builder, (*chosen.inputs, chosen.label), encoded, split):
        yield name, [values[one] for one in chosen.inputs], values[chosen.label]


def _rows(
    builder: Any, features: Sequence[str], encoded: Sequence[str], split: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and features of each example, some of them as they are stored; others are not read."""
    import tensorflow_datasets as tfds

    ways = {"/".join(path): path for path, _ in leaves(builder.info.features)}
    wanted: dict[str, Any] = {}
    as_stored: dict[str, Any] = {}
    for name in features:
        _put(wanted, ways[name], True)
        if name in encoded:
            _put(as_stored, ways[name], tfds.decode.SkipDecoding())
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(wanted, decoders=as_stored),
        read_config=tfds.ReadConfig(add_tfds_id=True, try_autocache=False),
    )
    for example in dataset.as_numpy_iterator():
        yield example["tfds_id"].decode(), {name: _value(example, ways[name]) for name in features}


def file_ending(data: bytes, default: str) -> str:
    """Return the ending of a file's name for its content, with its dot."""
    if data[:4] == b"RIFF":
        return ".webp" if data[8:12] == b"WEBP" else ".wav"
    return next((ending for start, ending in _ENDINGS if data.startswith(start)), default)


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _value(example: Any, path: Sequence[str]) -> Any:
    for name in path:
        example = example[name]
    return example


def _is_lazy(feature: Any) -> bool:
    """Whether recordings are stored as encoded files."""
    return bool(getattr(feature, "_lazy_decode", False))


class _Writer:
    """Writer of examples into a folder. A context manager that closes the tables."""

    def __init__(self, info: Any, chosen: Chosen, folder: Path, rate: int | None) -> None:
        self.skipped: list[tuple[str, str]] = []
        self._chosen, self._folder, self._name = chosen, folder.resolve(), info.full_name
        self._class_folders = class_folder_names(chosen.classes)
        self._items: dict[str, list[str]] = {TRAIN: [], VALIDATION: []}
        self._open: dict[str, Any] = {}
        self._rate = rate_of(info, chosen) or rate

    def add(self, part: str, name: str, values: Sequence[Any], label: Any) -> None:
        found = self._label(label)
        if found is None:
            self.skipped.append((name, "has no label"))
            return
        if self._chosen.kind == "text":
            texts = [value.decode("utf-8", "replace") for value in values]
            self._row(f"{part}.jsonl", dict(zip(self._chosen.inputs, texts, strict=True)) | {self._chosen.label: found})
            return
        data, ending = self._file(values[0])
        if not is_table(self._chosen):
            inner = self._class_folders.get(found) or safe_name(found)
            self._write(Path(part, inner, safe_name(name) + ending), data)
            return
        path = Path(part, safe_name(name) + ending)
        self._write(path, data)
        row = {self._chosen.kind: path.as_posix(), "label": found}
        self._row(f"{TEST}.jsonl" if part == TEST else TABLE, row)
        if part != TEST:
            self._items[part].append(path.as_posix())

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        for file in self._open.values():
            file.close()
        if kind is None and is_table(self._chosen) and self._items[VALIDATION]:
            write_split(self._folder / SPLIT, self._items)

    def _label(self, value: Any) -> Any:
        """Return the label as a table holds it, or the class name of its folder; None for an example without a
        label."""
        if self._chosen.labels == ONE:
            return self._class_name(int(value))
        if self._chosen.labels == SEVERAL:
            return [self._class_name(int(one)) for one in value] or None
        if self._chosen.labels == NUMBER:
            return float(value) if np.isfinite(value) else None
        value = value.item() if hasattr(value, "item") else value
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def _class_name(self, number: int) -> str | None:
        if number < 0:  # marks withheld labels, as in test sets of competitions
            return None
        return self._chosen.classes[number] if self._chosen.classes else str(number)

    def _file(self, value: Any) -> tuple[bytes, str]:
        if self._chosen.kind == "audio" and not isinstance(value, bytes):
            return self._wave(np.asarray(value)), ".wav"
        # Files that are not images are reported when they are read.
        return value, file_ending(value, ".png" if self._chosen.kind == "image" else ".wav")

    def _wave(self, samples: np.ndarray) -> bytes:
        if self._rate is None:
            raise DataError(f"{self._name} does not state the sample rate of its recordings. Pass it as sample_rate=.")
        if samples.dtype.kind == "f":
            samples = np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int64)
        width = 2 if not samples.size or np.abs(samples).max() <= 32768 else 4
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(samples.shape[1] if samples.ndim > 1 else 1)
            out.setsampwidth(width)
            out.setframerate(self._rate)
            out.writeframes(np.clip(samples, -(2 ** (8 * width - 1)), 2 ** (8 * width - 1) - 1).astype(f"<i{width}"))
        return file.getvalue()

    def _write(self, path: Path, data: bytes) -> None:
        target = self._folder / path
        if not target.resolve().is_relative_to(self._folder):  # guards against an error in safe_name
            raise DataError(f"{self._name} has a name that points outside of its folder: {str(path)!r}.")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def _row(self, name: str, row: Mapping[str, Any]) -> None:
        if name not in self._open:
            self._open[name] = (self._folder / name).open("w", encoding="utf-8", newline="\n")
        self._open[name].write(json.dumps(row, ensure_ascii=True) + "\n")
