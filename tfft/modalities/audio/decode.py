"""Decoding of recordings: :func:`read_recording`.

Implementation notes: this module handles file formats, damaged files, resampling and clipping to a length.
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
from tfft.data.file_index import FileKind, in_threads, indexed_facts
from tfft.errors import DataError, installed_version, missing_package
from tfft.io.processors import usable_cores
from tfft.modalities.audio.wav import MAGIC, UnsupportedWav, read_wav
from tfft.specs import AudioSpec

INSTALL = 'pip install "tfft[audio]"'
WAV = (".wav",)
WAV_FORM = "WAV"
SUFFIXES = (*WAV, ".flac", ".ogg", ".oga", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64")
FOREIGN_SUFFIXES = (".m4a", ".aac", ".wma", ".amr", ".mp4", ".webm", ".opus", ".ra")  # nothing here reads them
_LOUDEST = 0.999
_WINDOW = 256  # files to read ahead
_AHEAD = 64 * 2**20  # bytes of waveforms to read ahead


@dataclasses.dataclass(frozen=True)
class RecordingFacts:
    """Statistics of one recording.

    Attributes:
        path: Path of the file.
        reason: Reason why it cannot be used, as part of a sentence; None if it can.
        seconds: Length in seconds.
        rate: Sample rate in Hz.
        channels: Number of channels.
        peak: Largest absolute value, 1 for full scale.
        clipped: Share of the samples at full scale.
        offset: Mean of all samples (DC offset).
        digest: Hash of the file's bytes.
        samples: Hash of the decoded samples.
        form: ``"WAV"`` if an exported model can decode it too, else name and code of the format.
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
    """Read one recording.

    Args:
        path: Path of the file.

    Returns:
        Its statistics, and its samples, float32 [n] in -1 to 1, the mean of the channels; empty if it cannot be used.
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
        return RecordingFacts(path, f"is not a readable recording: {error}", digest=digest), nothing
    reason = None
    if not len(samples):
        reason = "has no samples"
    elif not np.isfinite(samples).all():
        reason = "has samples that are not finite"
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
    """Return samples, float32 [n, channels], their rate, and the form of the file."""
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
    """Read recordings in parallel and return their statistics, without the samples.

    Args:
        paths: Paths of the files.
        progress: Function called with (files read, files in total).

    Returns:
        The statistics, in the order of the files.
    """
    return in_threads(lambda path: read_recording(path)[0], paths, progress)


def recording_facts(
    paths: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
    store: str | os.PathLike[str] | None = None,
) -> list[RecordingFacts]:
    """Return the statistics of recordings, reading only those that are new or have changed.

    Args:
        paths: Paths of the files.
        progress: Function called with (files done, files in total) while files are read.
        store: File that stores the statistics; None reads every file.
    """
    return indexed_facts(_RECORDINGS, paths, progress, store)


_RECORDINGS = FileKind(
    f"sound 2 {installed_version('soundfile')}",
    examine_recordings,
    lambda path, values, _: RecordingFacts(path=path, **values),
)


def read_waves(
    facts: Sequence[RecordingFacts], spec: AudioSpec, progress: Callable[[int, int], None] | None = None
) -> Iterator[np.ndarray]:
    """Read recordings in parallel, resampled and fitted to one length.

    Args:
        facts: Statistics of the files.
        spec: Sample rate and clip length.
        progress: Function called with (files read, files in total).

    Yields:
        float32 [spec.samples] for each, in order.

    Raises:
        DataError: If a file has changed.
        DependencyError: If a package is missing; the message has the command that installs it.
    """
    cores, done = usable_cores(), 0
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
            f"{known.path} was changed after it was first read: it {now}. Load the data "
            "again when no other program writes to it."
        )
    return fitted(samples, facts.rate, spec)


def fitted(samples: np.ndarray, rate: int, spec: AudioSpec) -> np.ndarray:
    """Resample and fit samples to the length of a spec.

    Args:
        samples: Samples, float32 [n].
        rate: Their sample rate in Hz.
        spec: Target rate and length.

    Returns:
        float32 [spec.samples].

    Raises:
        DependencyError: If the rate differs and soxr is not installed.
    """
    samples = resampled(samples, rate, spec)
    found = np.zeros(spec.samples, np.float32)
    found[: min(len(samples), spec.samples)] = samples[: spec.samples]
    return found


def resampled(samples: np.ndarray, rate: int, spec: AudioSpec) -> np.ndarray:
    """Resample samples to the rate of a spec, whatever their length.

    The package soxr resamples; it includes the anti-aliasing filter and takes any two rates.

    Args:
        samples: Samples, float32 [n].
        rate: Their sample rate in Hz.
        spec: Target rate.

    Returns:
        float32 [any].

    Raises:
        DependencyError: If the rate differs and soxr is not installed.
    """
    if rate == spec.sample_rate:
        return samples
    return _resampler(rate, spec).resample(samples, rate, spec.sample_rate)


def check_rates(facts: Sequence[RecordingFacts], spec: AudioSpec) -> None:
    """Raise DependencyError if recordings need resampling and the package for it is missing."""
    other = next((one.rate for one in facts if one.rate != spec.sample_rate), None)
    if other is not None:
        _resampler(other, spec)


def _resampler(rate: int, spec: AudioSpec) -> ModuleType:
    try:
        return importlib.import_module("soxr")
    except ImportError:
        missing_package("soxr", f"Recordings of {rate} and {spec.sample_rate} samples per second", INSTALL)


def same_recordings(facts: Sequence[RecordingFacts]) -> Duplicates:
    """Return duplicate recordings: the same file, or the same samples in another file.

    Args:
        facts: Statistics of the recordings.
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
