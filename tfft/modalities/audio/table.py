"""Tables of recordings and labels: :func:`load_recording_table`, :func:`read_recording_table`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfft.data.examples import Splits
from tfft.data.file_table import load_file_table, read_file_table
from tfft.data.options import ReadOptions, TableOptions, options_from
from tfft.data.split import SplitOptions
from tfft.modalities.audio.examples import AudioExamples
from tfft.modalities.audio.folder import RECORDINGS, AudioOptions, heard, spec_of


def load_recording_table(source: Any, *, audio: str | int = "audio", **settings: Any) -> Splits[AudioExamples]:
    """Read a table with a recording and a label in each row, and splits it.

    Use it for recordings that are not sorted into folders, that have several labels each, or numbers. The same
    recording stays on one side of the split.

    Args:
        source: a ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file, or a pandas DataFrame.
        audio: column of the paths, absolute or below ``root``.
        **settings: of :class:`tfft.data.options.TableOptions` (``label``, ``task``, ``separator``, ``root``,
            ``encoding``), and all of :func:`load_recordings`.

    Returns:
        The recordings; ``task`` says what the labels are, as for an image table.

    Raises:
        DataError: listing everything that is wrong, with file and line.
        DependencyError: If a package is needed, with the command that installs it.

    Example:
        >>> splits = load_recording_table("clips.csv", audio="file", label="word", group="speaker")
        >>> splits.train.counts
        {'no': 40, 'yes': 38}
    """
    waves, table, split, reading = options_from(settings, AudioOptions, TableOptions, SplitOptions, ReadOptions)
    splits = load_file_table(AudioExamples, RECORDINGS, source, ("audio", audio), table, split, reading)
    return heard(splits, waves, reading.store)


def read_recording_table(
    source: Any, class_names: Sequence[str], *, audio: str | int = "audio", **settings: Any
) -> AudioExamples:
    """Read a whole table for a model that knows its classes.

    Args:
        source: as :func:`load_recording_table` takes it.
        class_names: of the model; empty for numbers.
        audio: column of the paths.
        **settings: of :class:`AudioOptions` and :class:`tfft.data.options.TableOptions`, and ``store``.

    Raises:
        DataError: as :func:`load_recording_table`, and for labels that are not among the classes.
    """
    waves, table, reading = options_from(settings, AudioOptions, TableOptions, ReadOptions)
    examples = read_file_table(AudioExamples, RECORDINGS, source, ("audio", audio), class_names, table, reading)
    return examples.with_spec(spec_of(examples.facts, waves), reading.store)
