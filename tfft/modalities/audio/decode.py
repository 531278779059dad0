"""One recording in one file: :func:`read_recording`.

Hides formats of files, what can be wrong with a recording, and how it gets another rate and length.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np

from tfft.data.duplicates import Duplicate, Duplicates
from tfft.data.file_index import FileKind, indexed_facts
from tfft.errors import DataError, installed_version, missing_package
from tfft.modalities.audio.wav import MAGIC, UnsupportedWav, read_wav
from tfft.specs import AudioSpec

INSTALL = 'pip install "tfft[audio]"'
WAV = (".wav",)
WAV_FORM = "WAV"
SUFFIXES = (*WAV, ".flac", ".ogg", ".oga", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64")
FOREIGN_SUFFIXES = (".m4a", ".aac", ".wma", ".amr", ".mp4", ".webm", ".opus", ".ra")  # nothing here reads them
_LOUDEST = 0.999
_WINDOW = 256  # files that are read ahead of the one that is waited for
_AHEAD = 64 * 2**20  # bytes of waves that are


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
        form: of the file: ``"WAV"`` where an exported model decodes it too, else the name and code of the format.
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
    form: str = ""


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
        samples, rate, form = _decoded(path, data)
    except (ValueError, EOFError, RuntimeError, OverflowError) as error:
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
        samples=hashlib.blake2b(np.ascontiguousarray(samples).data, digest_size=16).hexdigest(),
        form=form,
    ), mono


def _decoded(path: str, data: bytes) -> tuple[np.ndarray, int, str]:
    """Samples float32 [n, channels], their rate, and the form of the file."""
    if data[:4] in MAGIC and data[8:12] == b"WAVE":
        try:
            return *read_wav(data), WAV_FORM
        except UnsupportedWav:
            pass
    return _by_package(path)


def _by_package(path: str) -> tuple[np.ndarray, int, str]:
    try:
        soundfile = importlib.import_module("soundfile")
    except ImportError:
        missing_package("soundfile", f"The recording {path}", INSTALL)
    try:
        with soundfile.SoundFile(path) as file:
            return file.read(dtype="float32", always_2d=True), file.samplerate, f"{file.format} {file.subtype}"
    except soundfile.SoundFileError as error:
        raise ValueError(str(error)) from error


def examine_recordings(
    paths: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> list[RecordingFacts]:
    """Reads recordings, several at a time, and keeps what is known of them; their samples are let go.

    Args:
        paths: the files.
        progress: called with (files read, files in all).

    Returns:
        The facts, in the order of the files.
    """
    found = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(paths), _WINDOW):
            for facts in pool.map(lambda path: read_recording(path)[0], paths[start : start + _WINDOW]):
                found.append(facts)
                if progress is not None:
                    progress(len(found), len(paths))
    return found


def recording_facts(
    paths: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
    store: str | os.PathLike[str] | None = None,
) -> list[RecordingFacts]:
    """Returns the facts about recordings, reading those that are new or have changed.

    Args:
        paths: the files.
        progress: called with (files done, files in all) while files are read.
        store: file in which facts are kept; None reads every file.
    """
    return indexed_facts(_RECORDINGS, paths, progress, store)


_RECORDINGS = FileKind(
    f"sound 2 {installed_version('soundfile')}",
    lambda paths, progress: examine_recordings(paths, progress),
    lambda path, values, _: RecordingFacts(path=path, **values),
)


def read_waves(
    facts: Sequence[RecordingFacts], spec: AudioSpec, progress: Callable[[int, int], None] | None = None
) -> Iterator[np.ndarray]:
    """Reads recordings, several at a time, and brings them to one rate and length.

    Args:
        facts: what the files are known to be.
        spec: rate and length.
        progress: called with (files read, files in all).

    Yields:
        float32 [spec.samples] of each, in their order.

    Raises:
        DataError: when a file is not what it was any more.
        DependencyError: when a package is needed, with the command that installs it.
    """
    cores, done = os.cpu_count() or 1, 0
    window = max(cores, min(_WINDOW, _AHEAD // (4 * spec.samples)))
    with ThreadPoolExecutor(cores) as pool:
        for start in range(0, len(facts), window):
            for wave_ in pool.map(lambda one: _wave(one, spec), facts[start : start + window]):
                yield wave_
                done += 1
                if progress is not None:
                    progress(done, len(facts))


def _wave(known: RecordingFacts, spec: AudioSpec) -> np.ndarray:
    facts, samples = read_recording(known.path)
    if (facts.reason, facts.samples, facts.rate) != (None, known.samples, known.rate):
        now = facts.reason or "has other samples"
        raise DataError(
            f"{known.path} was changed after it was first read: expected the same recording, it {now}. Read the data "
            "again when nothing writes to it."
        )
    return fitted(samples, facts.rate, spec)


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
        samples = _resampler(rate, spec).resample(samples, rate, spec.sample_rate)
    found = np.zeros(spec.samples, np.float32)
    found[: min(len(samples), spec.samples)] = samples[: spec.samples]
    return found


def check_rates(facts: Sequence[RecordingFacts], spec: AudioSpec) -> None:
    """Raises DependencyError where recordings need the package that resamples and it is missing, or returns."""
    other = next((one.rate for one in facts if one.rate != spec.sample_rate), None)
    if other is not None:
        _resampler(other, spec)


def _resampler(rate: int, spec: AudioSpec) -> ModuleType:
    try:
        return importlib.import_module("soxr")
    except ImportError:
        missing_package("soxr", f"Recordings of {rate} and {spec.sample_rate} samples a second", INSTALL)


def same_recordings(facts: Sequence[RecordingFacts]) -> Duplicates:
    """Returns which recordings are there twice: the same file, or the same samples in another.

    Args:
        facts: of the recordings.
    """
    files: dict[str, int] = {}
    samples: dict[str, int] = {}
    pairs = []
    for at, one in enumerate(facts):
        if one.digest in files:
            pairs.append(Duplicate(files[one.digest], at, "file"))
        elif one.samples in samples:
            pairs.append(Duplicate(samples[one.samples], at, "pixels"))
        files.setdefault(one.digest, at)
        samples.setdefault(one.samples, at)
    return Duplicates(tuple(pairs))
