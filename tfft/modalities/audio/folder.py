"""Folders of labelled recordings, one folder per class: :func:`load_recordings`.

Implementation notes: recordings of any rate and length become waveforms of one rate and length.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfft.data.class_folders import FileType, list_class_folders, load_class_folders
from tfft.data.examples import Splits
from tfft.data.options import ReadOptions, options_from
from tfft.data.split import SplitOptions
from tfft.modalities.audio.decode import FOREIGN_SUFFIXES, SUFFIXES, RecordingFacts, recording_facts, same_recordings
from tfft.modalities.audio.examples import AudioExamples, with_waveforms
from tfft.specs import AudioSpec

RECORDINGS = FileType("recording", "recordings", SUFFIXES, recording_facts, same_recordings, FOREIGN_SUFFIXES)

_SHARE = 0.95  # of the recordings that fit into the default clip length
_LONGEST = 10.0  # seconds, by default


@dataclasses.dataclass(frozen=True)
class AudioOptions:
    """Options for the waveforms.

    Attributes:
        sample_rate: Sample rate in Hz. Defaults to the most common one of the files. Other files are resampled with the
            package soxr.
        seconds: Clip length in seconds: longer recordings are cut off, shorter ones padded with silence. Defaults to
            the 95th percentile of the recordings, at most 10.
    """

    sample_rate: int | None = None
    seconds: float | None = None


def load_recordings(folder: str | os.PathLike[str], **settings: Any) -> Splits[AudioExamples]:
    """Load a folder of recordings and split it into training and validation examples.

    Use it for spoken words, calls of animals, noises of machines: anything that a short clip shows. WAV files with 8 to
    32 bits or floats are read as they are, other formats (FLAC, Ogg, MP3) with the package soundfile. Channels
    are averaged. Each file is read now, so that what cannot be used is known, and once more when waveforms are first
    asked for; where all of them take more than 512 MB they are kept in a file, so memory does not grow with the data.

    Args:
        folder: Folder with one folder per class, or with ``train/`` and ``val/`` that contain them.
        **settings: Settings of :class:`AudioOptions` (``sample_rate``, ``seconds``), :class:`tfft.data.SplitOptions`
            (``validation``, ``seed``, ``group``) and :class:`tfft.data.options.ReadOptions` (``strict``, ``store``,
            ``progress``).

    Raises:
        DataError: If there is no usable data; the message names each class or file at fault.
        DependencyError: If a package is missing; the message has the command that installs it.

    Example:
        >>> splits = load_recordings("digits/", group=r"_(\\w+)_")
        >>> splits.train.waves.shape, splits.train.spec.sample_rate
        ((500, 6160), 8000)
    """
    audio, split, reading = options_from(settings, AudioOptions, SplitOptions, ReadOptions)
    splits = load_class_folders(AudioExamples, RECORDINGS, folder, split, dataclasses.replace(reading, check=True))
    return with_clips(splits, audio, reading.store)


def list_recordings(folder: str | os.PathLike[str], store: str | os.PathLike[str] | None = None) -> AudioExamples:
    """Load a folder of recordings without splitting it.

    Args:
        folder: Folder with one folder per class.
        store: As in :func:`load_recordings`.
    """
    examples = list_class_folders(AudioExamples, RECORDINGS, folder, ReadOptions(store=store), least_classes=1)
    return examples.with_spec(spec_of(examples.facts, AudioOptions()), store)


def with_clips(
    splits: Splits[AudioExamples], options: AudioOptions, store: str | os.PathLike[str] | None
) -> Splits[AudioExamples]:
    """Add waveforms to recordings, with the requested or the most common rate and length."""
    spec = spec_of(splits.train.facts + splits.validation.facts, options)
    return with_waveforms(splits, spec, store)


def holds_recordings(folder: str | os.PathLike[str]) -> bool:
    """Whether most files in the class folders of a folder are recordings, by their names."""
    counts = {True: 0, False: 0}
    for path in Path(folder).glob("*/*"):
        inner = path.glob("*") if path.is_dir() else [path]
        for file in inner:
            if file.suffix and not file.name.startswith("."):
                counts[file.suffix.lower() in SUFFIXES + FOREIGN_SUFFIXES] += 1
        if sum(counts.values()) > 1000:
            break
    return counts[True] > counts[False]


def spec_of(facts: Sequence[RecordingFacts], options: AudioOptions) -> AudioSpec:
    """Return the requested sample rate and clip length, or those that fit most recordings."""
    rates = [one.rate for one in facts]
    rate = options.sample_rate or max(set(rates), key=rates.count)
    seconds = options.seconds
    if seconds is None:
        seconds = min(_LONGEST, float(np.quantile([one.seconds for one in facts], _SHARE)))
        seconds = max(round(seconds, 2), 0.05)
    return AudioSpec(rate, float(seconds))
