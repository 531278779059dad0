"""One recording in one file: :func:`read_recording`.

Hides formats of files, what can be wrong with a recording, and how it gets another rate and length.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import wave
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tfft.data.copies import Copies, Copy
from tfft.errors import missing_package
from tfft.specs import AudioSpec

INSTALL = 'pip install "tfft[audio]"'
WAV = (".wav",)
SUFFIXES = (*WAV, ".flac", ".ogg", ".oga", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64")
_LOUDEST = 0.999


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


def read_recordings(
    paths: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> list[tuple[RecordingFacts, np.ndarray]]:
    """Reads recordings, several at a time.

    Args:
        paths: the files.
        progress: called with (files read, files in all).

    Returns:
        What :func:`read_recording` gives of each, in their order.
    """
    read = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for one in pool.map(read_recording, paths):
            read.append(one)
            if progress is not None:
                progress(len(read), len(paths))
    return read


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


def same_recordings(facts: Sequence[RecordingFacts]) -> Copies:
    """Returns which recordings are there twice: the same file, or the same samples in another.

    Args:
        facts: of the recordings.
    """
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
