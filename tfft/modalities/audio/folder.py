"""A folder of labelled recordings, one folder per class: :func:`load_recordings`.

Hides that recordings of any rate and length become waves of one, and where the wave of each file is.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from tfft.data.examples import Examples, Skipped, Splits, divided
from tfft.data.file_index import recording_facts
from tfft.data.split import TRAIN, VALIDATION, groups_by, hold_out, joined, key_of, read_split
from tfft.errors import DataError, raise_problems
from tfft.modalities.audio.decode import SUFFIXES, RecordingFacts, check_rates, same_recordings
from tfft.modalities.audio.examples import Recordings
from tfft.modalities.audio.waveform_store import Waves, WaveSource
from tfft.modalities.image.duplicates import Copies
from tfft.modalities.image.folder import class_folders, existing, files_of, split_folders
from tfft.specs import AudioSpec

_SHARE = 0.95  # of the recordings that are heard whole, where no length is given
_LONGEST = 10.0  # seconds, unless asked for more


@dataclasses.dataclass(frozen=True, eq=False)
class RecordingSplits(Splits):
    """Recordings to learn from and recordings to judge by; no file is in both.

    The waves are read when they are first asked for, once for all parts that are made of them.

    Attributes:
        facts: what reading the files told, those of ``train`` first.
        spec: rate and length of the waves, and how they are looked at.
        source: of the waves.
        order: positions in ``source`` of the recordings, those of ``train`` first, int [N].
    """

    modality: ClassVar[str] = "audio"

    facts: tuple[RecordingFacts, ...] = ()
    spec: AudioSpec = AudioSpec()
    source: WaveSource = WaveSource((), AudioSpec())
    order: np.ndarray = dataclasses.field(default_factory=lambda: np.arange(0))

    @functools.cached_property
    def waves(self) -> tuple[np.ndarray | Waves, ...]:
        """Of both parts, [N, samples] each: float32 arrays, or :class:`Waves` where all take more than 512 MB."""
        border = len(self.train)
        return self.source.part(self.order[:border]), self.source.part(self.order[border:])

    @property
    def every_wave(self) -> np.ndarray | Waves:
        """Of all recordings, those of ``train`` first."""
        return self.source.part(self.order)

    def __post_init__(self) -> None:
        for at, name in enumerate((TRAIN, VALIDATION)):  # so that each part can be made a dataset of
            part = Recordings.of(getattr(self, name), self.spec, lambda at=at: self.waves[at])
            object.__setattr__(self, name, part)

    def parted(self, found: Splits, order: np.ndarray) -> RecordingSplits:
        """Returns other parts of these recordings, with their waves, which are not copied where they are in a file."""
        facts = tuple(self.facts[i] for i in order)
        return _with_waves(found, facts, self.spec, self.source, self.order[order])


def load_recordings(
    folder: str | os.PathLike[str],
    *,
    sample_rate: int | None = None,
    seconds: float | None = None,
    validation: float | str | os.PathLike[str] = 0.2,
    seed: int = 0,
    group: str | None = None,
    strict: bool = False,
    store: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RecordingSplits:
    """Reads a folder of recordings and decides which are held out for validation.

    Use it for spoken words, calls of animals, noises of machines: anything that a short clip tells. WAV files with 8 to
    32 bits are read as they are, other formats (FLAC, Ogg, MP3, WAV with floats) with the package soundfile. Channels
    are averaged. Each file is read now, so that what cannot be used is known, and once more when waves are first asked
    for; where all of them take more than 512 MB they are kept in a file, so memory does not grow with the data.

    Args:
        folder: one folder per class, or ``train/`` and ``val/`` that hold them.
        sample_rate: of the waves; the commonest of the files by default. Other files are resampled by the package soxr.
        seconds: of the waves: longer recordings are cut off, shorter ones followed by silence. By default what 95 % of
            the recordings fit into, at most 10.
        validation: share of each class to hold out, or the file of an earlier split, where the folder is not split.
        seed: of the split.
        group: what must not be on both sides, such as the recordings of one speaker; see :func:`tfft.data.load`.
        strict: True makes a recording that cannot be used an error.
        store: file in which is kept what reading the files told, so that only new ones are read the next time; waves
            that are too many for memory are kept in the folder ``waves`` beside it. None keeps nothing for long.
        progress: called with (files read, files in all).

    Returns:
        :class:`RecordingSplits`.

    Raises:
        DataError: when there is no usable data; the message names every class or file at fault.
        DependencyError: when a package is needed, with the command that installs it.

    Example:
        >>> splits = load_recordings("digits/", group=r"_(\\w+)_")
        >>> splits.waves[0].shape, splits.spec.sample_rate
        ((500, 6160), 8000)
    """
    root = existing(folder)
    parts = split_folders(root)
    ready = "validation" in parts
    if ready and group is not None:
        raise DataError(f"{root} is split into folders already, so group={group!r} has nothing to decide.")
    places = [parts["train"], parts["validation"]] if ready else [parts.get("train", root)]
    skipped: list[Skipped] = []
    listed = [_listed(place, skipped) for place in places]
    names = listed[0][0]
    if ready and listed[1][0] != names:
        raise DataError(f"{places[0]} has the classes {list(names)}, {places[1]} has {list(listed[1][0])}.")
    found = [(path, label, part) for part, (_, pairs) in enumerate(listed) for path, label in pairs]
    read = recording_facts([path for path, *_ in found], progress, store)
    skipped += [Skipped(facts.path, facts.reason) for facts in read if facts.reason]
    if strict:
        raise_problems(DataError, f"Recordings in {root} that cannot be used", list(map(str, skipped)))
    good = [i for i, facts in enumerate(read) if facts.reason is None]
    labels, part = (np.array([found[i][k] for i in good], np.int32) for k in (1, 2))
    _check_classes(root, names, labels if not ready else labels[part == 0], 1 if ready else 2)
    facts = [read[i] for i in good]
    place = root if ready else places[0]
    paths, copies = tuple(one.path for one in facts), same_recordings(facts)
    keys = [key_of(path, place) for path in paths]
    groups = None if group is None else groups_by(keys, group)
    if ready:
        held, words = part == 1, f"the folders {places[0]} and {places[1]}"
    else:
        held, words = _held_out(keys, labels, places[0], validation, seed, groups, copies)
        words += "" if group is None or isinstance(validation, (str, os.PathLike)) else f", groups by {group!r}"
    examples = Examples(paths, labels, names, tuple(skipped))
    splits = divided(examples, held, groups, copies, words, str(place))
    order = np.concatenate([np.flatnonzero(~held), np.flatnonzero(held)])
    return heard(splits, [facts[i] for i in order], spec_of(facts, sample_rate, seconds), store)


def heard(
    splits: Splits, facts: Sequence[RecordingFacts], spec: AudioSpec, store: str | os.PathLike[str] | None
) -> RecordingSplits:
    """Puts waves to recordings that are divided.

    Args:
        splits: the files and their labels.
        facts: of the files, those of ``splits.train`` first.
        spec: rate and length of the waves.
        store: as in :func:`load_recordings`.

    Raises:
        DependencyError: when files have another rate, and the package that resamples is missing.
    """
    check_rates(facts, spec)
    return _with_waves(splits, tuple(facts), spec, WaveSource(facts, spec, store), np.arange(len(facts)))


def _with_waves(
    splits: Splits, facts: tuple[RecordingFacts, ...], spec: AudioSpec, source: WaveSource, order: np.ndarray
) -> RecordingSplits:
    known = {field.name: getattr(splits, field.name) for field in dataclasses.fields(Splits)}
    return RecordingSplits(**known, facts=facts, spec=spec, source=source, order=order)


def holds_recordings(folder: str | os.PathLike[str]) -> bool:
    """Tells whether most files in the class folders of a folder are recordings, by their names."""
    counts = {True: 0, False: 0}
    for path in Path(folder).glob("*/*"):
        inner = path.glob("*") if path.is_dir() else [path]
        for file in inner:
            if file.suffix and not file.name.startswith("."):
                counts[file.suffix.lower() in SUFFIXES] += 1
        if sum(counts.values()) > 1000:
            break
    return counts[True] > counts[False]


def _listed(place: Path, skipped: list[Skipped]) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    names = class_folders(place, skipped, 2)
    pairs = [
        (path, label) for label, name in enumerate(names) for path in files_of(place / name, skipped, suffixes=SUFFIXES)
    ]
    return names, pairs


def _check_classes(root: Path, names: Sequence[str], labels: np.ndarray, least: int) -> None:
    counts = np.bincount(labels, minlength=len(names))
    problems = [
        f"the class folder {name!r} has {count or 'no'} recording{'s' if count != 1 else ''} that can be used"
        for name, count in zip(names, counts.tolist(), strict=True)
        if count < least
    ]
    fix = f"each class needs {least}: add recordings or remove its folder"
    raise_problems(DataError, f"{root} cannot be used as it is ({fix})", problems)


def spec_of(facts: Sequence[RecordingFacts], sample_rate: int | None, seconds: float | None) -> AudioSpec:
    """Returns the rate of most recordings and the length that most fit into, unless others are wanted."""
    rates = [one.rate for one in facts]
    rate = sample_rate or max(set(rates), key=rates.count)
    if seconds is None:
        seconds = min(_LONGEST, float(np.quantile([one.seconds for one in facts], _SHARE)))
        seconds = max(round(seconds, 2), 0.05)
    return AudioSpec(rate, float(seconds))


def _held_out(
    keys: Sequence[str],
    labels: np.ndarray,
    root: Path,
    validation: float | str | os.PathLike[str],
    seed: int,
    groups: Sequence[str] | None,
    copies: Copies,
) -> tuple[np.ndarray, str]:
    if isinstance(validation, (str, os.PathLike)):
        return read_split(validation, keys), f"the split in {validation}"
    together = joined(groups, copies.positions, len(keys))
    words = f"{validation * 100:g} % of each class in {root}, drawn with seed {seed}"
    return hold_out(keys, validation, seed, labels=labels, groups=together), words
