"""Tables of recordings and labels: :func:`load_recording_table`, :func:`read_recording_table`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfft.data.examples import Splits
from tfft.data.file_table import load_file_table, read_file_table
from tfft.data.options import ReadOptions, TableOptions, options_from
from tfft.data.split import SplitOptions
from tfft.modalities.audio.examples import AudioExamples
from tfft.modalities.audio.folder import RECORDINGS, AudioOptions, spec_of, with_clips


def load_recording_table(source: Any, *, audio: str | int = "audio", **settings: Any) -> Splits[AudioExamples]:
    """Load a table with a recording and a label per row, and split it.

    Use it for recordings that are not sorted into folders, or with multi-label or numeric targets. Rows with the same
    recording stay on one side of the split.

    Args:
        source: A ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file, or a pandas DataFrame.
        audio: Column with the paths, absolute or relative to ``root``.
        **settings: Settings of :class:`tfft.data.options.TableOptions` (``label``, ``task``, ``separator``, ``root``,
            ``encoding``), and all of :func:`load_recordings`.

    Returns:
        The recordings; ``task`` is the task of the labels, as for an image table.

    Raises:
        DataError: If rows cannot be used; the message lists all problems with file and line.
        DependencyError: If a package is missing; the message has the command that installs it.

    Example:
        >>> splits = load_recording_table("clips.csv", audio="file", label="word", group="speaker")
        >>> splits.train.counts
        {'no': 40, 'yes': 38}
    """
    waves, table, split, reading = options_from(settings, AudioOptions, TableOptions, SplitOptions, ReadOptions)
    splits = load_file_table(AudioExamples, RECORDINGS, source, ("audio", audio), table, split, reading)
    return with_clips(splits, waves, reading.store)


def read_recording_table(
    source: Any, class_names: Sequence[str], *, audio: str | int = "audio", **settings: Any
) -> AudioExamples:
    """Load a complete table for a model with known classes.

    Args:
        source: As in :func:`load_recording_table`.
        class_names: Class names of the model; empty for regression.
        audio: Column with the paths.
        **settings: Settings of :class:`AudioOptions` and :class:`tfft.data.options.TableOptions`, and ``store``.

    Raises:
        DataError: As in :func:`load_recording_table`, and for labels outside of the classes.
    """
    waves, table, reading = options_from(settings, AudioOptions, TableOptions, ReadOptions)
    examples = read_file_table(AudioExamples, RECORDINGS, source, ("audio", audio), class_names, table, reading)
    return examples.with_spec(spec_of(examples.facts, waves), reading.store)
