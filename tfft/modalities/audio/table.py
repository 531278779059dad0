"""Tables of recordings and labels: :func:`load_recording_table`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfft.data.examples import Examples, Skipped
from tfft.data.file_index import recording_facts
from tfft.data.file_table import Task, read_rows, split_rows
from tfft.modalities.audio.decode import same_recordings
from tfft.modalities.audio.folder import RecordingSplits, heard, spec_of
from tfft.modalities.audio.waveform_store import Waves, WaveSource
from tfft.specs import AudioSpec


def load_recording_table(
    source: Any,
    *,
    audio: str | int = "audio",
    label: str | int = "label",
    task: Task = "auto",
    separator: str | None = None,
    group: str | int | None = None,
    root: str | os.PathLike[str] | None = None,
    sample_rate: int | None = None,
    seconds: float | None = None,
    validation: float | str | os.PathLike[str] = 0.2,
    seed: int = 0,
    strict: bool = False,
    encoding: str = "utf-8",
    store: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RecordingSplits:
    """Reads a table with a recording and a label in each row, and splits it.

    Use it for recordings that are not sorted into folders, that have several labels each, or numbers. The same
    recording stays on one side of the split.

    Args:
        source: a ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file, or a pandas DataFrame.
        audio: column of the paths, absolute or below ``root``.
        label: column of the labels.
        task: as in :func:`tfft.data.load_image_table`.
        separator: between the labels of one recording.
        group: column of what must not be on both sides, such as the speaker.
        root: folder of the files; that of the table by default.
        sample_rate: as in :func:`tfft.data.load_recordings`.
        seconds: as in :func:`tfft.data.load_recordings`.
        validation: share to hold out, of each class alike, or the file of an earlier split.
        seed: of the split.
        strict: True makes a row that cannot be used an error; else it is skipped and listed.
        encoding: of the table.
        store: as in :func:`tfft.data.load_recordings`.
        progress: called with (files read, files in all).

    Returns:
        :class:`RecordingSplits`; ``task`` says what the labels are, as for :func:`tfft.data.load_image_table`.

    Raises:
        DataError: listing everything that is wrong, with file and line.
        DependencyError: when a package is needed, with the command that installs it.

    Example:
        >>> splits = load_recording_table("clips.csv", audio="file", label="word", group="speaker")
        >>> splits.train.counts
        {'no': 40, 'yes': 38}
    """
    rows = read_rows(source, "audio", audio, label, group=group, root=root, encoding=encoding)
    facts = recording_facts(rows.paths, progress, store)
    rows = rows.usable(facts, strict)
    facts = [one for one in facts if one.reason is None]
    parsed = rows.parse_labels(task, separator)
    examples = Examples(rows.paths, parsed.labels, parsed.class_names, rows.skipped)
    splits, order = split_rows(rows, examples, parsed.task, same_recordings(facts), validation, seed)
    return heard(splits, [facts[i] for i in order], spec_of(facts, sample_rate, seconds), store)


def read_recording_table(
    source: Any, class_names: Sequence[str], task: str, spec: AudioSpec, **settings: Any
) -> tuple[np.ndarray | Waves, np.ndarray, tuple[Skipped, ...]]:
    """Reads a whole table for a model that knows its classes.

    Args:
        source: as :func:`load_recording_table` takes it.
        class_names: of the model; empty for numbers.
        task: of the model.
        spec: rate and length of the waves that it takes.
        **settings: ``audio``, ``label``, ``separator``, ``root`` and ``store``, as for :func:`load_recording_table`.

    Returns:
        Waves [N, samples] as :attr:`RecordingSplits.waves` has them, their labels as the model has them, and rows that
        are not used.

    Raises:
        DataError: as :func:`load_recording_table`, and for labels that are not among the classes.
    """
    columns = settings.get("audio", "audio"), settings.get("label", "label")
    rows = read_rows(source, "audio", *columns, root=settings.get("root"))
    facts = recording_facts(rows.paths, store=settings.get("store"))
    rows = rows.usable(facts)
    labels = rows.parse_labels(task, settings.get("separator"), class_names).labels
    source = WaveSource([one for one in facts if one.reason is None], spec, settings.get("store"))
    return source.part(np.arange(len(labels))), labels, rows.skipped
