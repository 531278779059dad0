"""A folder of labelled recordings, one folder per class: :func:`load_recordings`.

Hides formats of files, what can be wrong with a recording, and that all become waves of one rate and length.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import wave
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tfft.data.copies import Copies, Copy
from tfft.data.examples import Examples, Skipped
from tfft.data.folders import class_folders, existing, files_of, split_folders
from tfft.data.splitting import groups_by, hold_out, joined, key_of, read_split
from tfft.errors import DataError, missing_package, raise_problems
from tfft.specs import AudioSpec

INSTALL = 'pip install "tfft[audio]"'
WAV = (".wav",)
SUFFIXES = (*WAV, ".flac", ".ogg", ".oga", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64")
_LOUDEST = 0.999
_SHARE = 0.95  # of the recordings that are heard whole, where no length is given
_LONGEST = 10.0  # seconds, unless asked for more


@dataclasses.dataclass(frozen=True)
class RecordingFacts:
    """What is known of one recording.

    Attributes:
        path: of the file.
        reason: why it cannot be used, as a part of a sentence; None where it can.
        seconds: its length.
        rate: samples a second.
        channels: that it has.
        peak: largest absolute value, 1 for the loudest that the file can hold.
        clipped: share of the samples that are as loud as the file can hold.
        offset: mean of all samples, 0 for a wave that swings evenly.
        digest: hash of the file's bytes.
        samples: hash of the decoded samples.
    """

    path: str
    reason: str | None
    seconds: float = 0.0
    rate: int = 0
    channels: int = 0
    peak: float = 0.0
    clipped: float = 0.0
    offset: float = 0.0
    digest: str = ""
    samples: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class RecordingSplits:
    """Recordings to learn from and recordings to judge by; no file is in both.

    Attributes:
        train: files and labels to learn from.
        validation: the same, held out.
        waves: of both, float32 [N, samples] each.
        facts: what reading the files told, those of ``train`` first.
        spec: rate and length of the waves, and how they are looked at.
        skipped: files that are not used.
        split_from: in words, how the two came about.
        root: folder that the names of files are told from.
        copies: recordings that are there twice; positions count those of ``train`` first.
    """

    train: Examples
    validation: Examples
    waves: tuple[np.ndarray, np.ndarray]
    facts: tuple[RecordingFacts, ...]
    spec: AudioSpec
    skipped: tuple[Skipped, ...]
    split_from: str
    root: str
    copies: tuple[Copy, ...] = ()

    @property
    def items(self) -> dict[str, list[str]]:
        """The names of the recordings by part."""
        parts = {"train": self.train, "validation": self.validation}
        return {part: [key_of(path, self.root) for path in own.paths] for part, own in parts.items()}


def load_recordings(
    folder: str | os.PathLike[str],
    *,
    sample_rate: int | None = None,
    seconds: float | None = None,
    validation: float | str | os.PathLike[str] = 0.2,
    seed: int = 0,
    group: str | None = None,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RecordingSplits:
    """Reads a folder of recordings and decides which are held out for validation.

    Use it for spoken words, calls of animals, noises of machines: anything that a short clip tells. WAV files with 8 to
    32 bits are read as they are, other formats (FLAC, Ogg, MP3, WAV with floats) with the package soundfile. Channels
    are averaged. All waves are held in memory.

    Args:
        folder: one folder per class, or ``train/`` and ``val/`` that hold them.
        sample_rate: of the waves; the commonest of the files by default. Other files are resampled by the package soxr.
        seconds: of the waves: longer recordings are cut off, shorter ones followed by silence. By default what 95 % of
            the recordings fit into, at most 10.
        validation: share of each class to hold out, or the file of an earlier split, where the folder is not split.
        seed: of the split.
        group: what must not be on both sides, such as the recordings of one speaker; see :func:`tfft.data.load`.
        strict: True makes a recording that cannot be used an error.
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
    read = _read_all([path for path, *_ in found], progress)
    skipped += [Skipped(facts.path, facts.reason) for facts, _ in read if facts.reason]
    if strict:
        raise_problems(DataError, f"Recordings in {root} that cannot be used", list(map(str, skipped)))
    good = [i for i, (facts, _) in enumerate(read) if facts.reason is None]
    labels, part = (np.array([found[i][k] for i in good], np.int32) for k in (1, 2))
    _check_classes(root, names, labels if not ready else labels[part == 0], 1 if ready else 2)
    facts = [read[i][0] for i in good]
    spec = _spec(facts, sample_rate, seconds)
    waves = np.stack([fitted(read[i][1], read[i][0].rate, spec) for i in good])
    paths, copies = [one.path for one in facts], _copies(facts)
    if ready:
        held, words = part == 1, f"the folders {places[0]} and {places[1]}"
    else:
        held, words = _held_out(paths, labels, places[0], validation, seed, group, copies)
    order = [np.flatnonzero(~held), np.flatnonzero(held)]
    now = np.empty(len(paths), int)
    now[np.concatenate(order)] = np.arange(len(paths))
    moved = [sorted((int(now[c.first]), int(now[c.second]))) for c in copies.pairs]
    kinds = [copy.kind for copy in copies.pairs]
    examples = [Examples(tuple(paths[i] for i in own), labels[own], names) for own in order]
    return RecordingSplits(
        examples[0],
        examples[1],
        (waves[order[0]], waves[order[1]]),
        tuple(facts[i] for own in order for i in own),
        spec,
        tuple(skipped),
        words,
        str(root if ready else places[0]),
        tuple(Copy(a, b, kind) for (a, b), kind in zip(moved, kinds, strict=True)),
    )


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


def read_recording(path: str) -> tuple[RecordingFacts, np.ndarray]:
    """Reads one recording.

    Args:
        path: the file.

    Returns:
        What is known of it, and its samples, float32 [n] in -1 to 1, the mean of its channels; empty where it cannot
        be used.
    """
    nothing = np.zeros(0, np.float32)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        gone = os.path.islink(path) and not os.path.exists(path)
        why = f"is a link to {os.readlink(path)!r}, which is missing" if gone else f"cannot be read: {error.strerror}"
        return RecordingFacts(path, why), nothing
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    if not data:
        return RecordingFacts(path, "is empty (0 bytes)"), nothing
    try:
        samples, rate = _pcm(path) if data[:4] == b"RIFF" else _by_package(path)
    except (ValueError, EOFError, wave.Error) as error:
        return RecordingFacts(path, f"is no recording that can be read: {error}", digest=digest), nothing
    reason = None
    if not len(samples):
        reason = "has no samples"
    elif not np.isfinite(samples).all():
        reason = "has samples that are no numbers"
    elif not np.abs(samples).max():
        reason = "is silent from start to end"
    mono = samples.mean(axis=1, dtype=np.float32) if len(samples) else nothing
    if reason:
        return RecordingFacts(path, reason, digest=digest), nothing
    return RecordingFacts(
        path,
        None,
        seconds=len(samples) / rate,
        rate=rate,
        channels=samples.shape[1],
        peak=float(np.abs(samples).max()),
        clipped=float((np.abs(samples) >= _LOUDEST).mean()),
        offset=float(mono.mean()),
        digest=digest,
        samples=hashlib.blake2b(np.ascontiguousarray(samples), digest_size=16).hexdigest(),
    ), mono


def _pcm(path: str) -> tuple[np.ndarray, int]:
    """Samples float32 [n, channels] of a WAV file with whole numbers; with floats, by soundfile."""
    try:
        with wave.open(path) as file:
            rate, channels, width, count = (
                file.getframerate(),
                file.getnchannels(),
                file.getsampwidth(),
                file.getnframes(),
            )
            data = file.readframes(count)
    except wave.Error as error:
        if "unknown format" in str(error):
            return _by_package(path)
        raise
    if len(data) < count * channels * width:
        raise ValueError(f"it is cut off: {len(data):,} of {count * channels * width:,} bytes are there")
    if not rate or not channels or width not in (1, 2, 3, 4):
        raise ValueError(f"it says {channels} channels of {8 * width} bits at {rate} samples a second")
    if width == 1:
        whole = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    elif width == 3:
        bytes_ = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
        whole = ((bytes_[:, 0] << 8 | bytes_[:, 1] << 16 | bytes_[:, 2] << 24) / 2**31).astype(np.float32)
    else:
        whole = (np.frombuffer(data, f"<i{width}") / 2.0 ** (8 * width - 1)).astype(np.float32)
    return whole.reshape(-1, channels), rate


def _by_package(path: str) -> tuple[np.ndarray, int]:
    try:
        soundfile = importlib.import_module("soundfile")
    except ImportError:
        missing_package("soundfile", f"The recording {path}", INSTALL)
    try:
        return soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(str(error)) from error


def _read_all(
    paths: Sequence[str], progress: Callable[[int, int], None] | None
) -> list[tuple[RecordingFacts, np.ndarray]]:
    read = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for one in pool.map(read_recording, paths):
            read.append(one)
            if progress is not None:
                progress(len(read), len(paths))
    return read


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


def _spec(facts: Sequence[RecordingFacts], sample_rate: int | None, seconds: float | None) -> AudioSpec:
    rates = [one.rate for one in facts]
    rate = sample_rate or max(set(rates), key=rates.count)
    if seconds is None:
        seconds = min(_LONGEST, float(np.quantile([one.seconds for one in facts], _SHARE)))
        seconds = max(round(seconds, 2), 0.05)
    return AudioSpec(rate, float(seconds))


def fitted(samples: np.ndarray, rate: int, spec: AudioSpec) -> np.ndarray:
    """Brings samples to the rate and the length of a spec.

    The package soxr resamples: it filters what the new rate cannot hold, and takes any two rates.

    Args:
        samples: float32 [n].
        rate: samples a second.
        spec: what is wanted.

    Returns:
        float32 [spec.samples].

    Raises:
        DependencyError: when the rate differs and soxr is not installed.
    """
    if rate != spec.sample_rate:
        try:
            soxr = importlib.import_module("soxr")
        except ImportError:
            missing_package("soxr", f"Recordings of {rate} and {spec.sample_rate} samples a second", INSTALL)
        samples = soxr.resample(samples, rate, spec.sample_rate)
    found = np.zeros(spec.samples, np.float32)
    found[: min(len(samples), spec.samples)] = samples[: spec.samples]
    return found


def _copies(facts: Sequence[RecordingFacts]) -> Copies:
    files: dict[str, int] = {}
    samples: dict[str, int] = {}
    pairs = []
    for at, one in enumerate(facts):
        if one.digest in files:
            pairs.append(Copy(files[one.digest], at, "file"))
        elif one.samples in samples:
            pairs.append(Copy(samples[one.samples], at, "pixels"))
        files.setdefault(one.digest, at)
        samples.setdefault(one.samples, at)
    return Copies(tuple(pairs))


def _held_out(
    paths: Sequence[str],
    labels: np.ndarray,
    root: Path,
    validation: float | str | os.PathLike[str],
    seed: int,
    group: str | None,
    copies: Copies,
) -> tuple[np.ndarray, str]:
    keys = [key_of(path, root) for path in paths]
    if isinstance(validation, (str, os.PathLike)):
        return read_split(validation, keys), f"the split in {validation}"
    groups = joined(None if group is None else groups_by(keys, group), copies.positions, len(keys))
    words = f"{validation * 100:g} % of each class in {root}, drawn with seed {seed}"
    words += "" if group is None else f", groups by {group!r}"
    return hold_out(keys, validation, seed, labels=labels, groups=groups), words
