"""Frames and durations of clips in files: :class:`ClipStore`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfft.errors import DataError
from tfft.io.atomic import whole
from tfft.modalities.audio.decode import RecordingFacts, fitted, read_recording
from tfft.specs import AudioSpec
from tfft.tasks.speech_synthesis.aligner import align
from tfft.tasks.speech_synthesis.head import VoiceStatistics
from tfft.tasks.speech_synthesis.mel import frame_count, log_mel_frames

_VERSION = "1"  # of the frames and of the aligner
_SILENT = 40.0  # decibels below the loudest frame
_LONG_SILENCE = 0.5  # seconds


@dataclasses.dataclass(frozen=True, eq=False)
class ClipStore:
    """Log-mel frames and durations of clips, computed on first use and kept in files, so that memory stays small.

    Attributes:
        facts: Statistics of each clip.
        symbols: Numbers of the symbols of each, int32 [S].
        audio: Frames.
        seconds: Seconds of each symbol; None for an aligner.
        place: File beside which the folder ``voices`` holds the results; None for a temporary folder.
        separator: As in :func:`tfft.tasks.speech_synthesis.layers.split_texts`.
        edges: As there.
    """

    facts: tuple[RecordingFacts, ...]
    symbols: tuple[np.ndarray, ...]
    audio: AudioSpec
    seconds: tuple[np.ndarray, ...] | None = None
    place: str | os.PathLike[str] | None = None
    separator: str = ""
    edges: bool = True

    @functools.cached_property
    def key(self) -> str:
        """Hash of all that the frames and the durations depend on."""
        found = hashlib.blake2b(f"{_VERSION} {self.audio} {self.separator!r} {self.edges}".encode(), digest_size=16)
        for at, one in enumerate(self.facts):
            found.update(one.samples.encode() + self.symbols[at].tobytes())
            if self.seconds is not None:
                found.update(self.seconds[at].astype("<f8").tobytes())
        return found.hexdigest()

    @functools.cached_property
    def frame_counts(self) -> np.ndarray:
        """Frames of each clip, int64 [N]."""
        rate = self.audio.sample_rate
        samples = [round(one.seconds * one.rate) * rate / one.rate for one in self.facts]
        return np.array([frame_count(round(count), self.audio) for count in samples], np.int64)

    @functools.cached_property
    def durations(self) -> list[np.ndarray]:
        """Frames of each symbol of each clip, int32 [S], at least 1."""
        self.read()
        flat = np.load(self._file("durations"))
        return np.split(flat, np.cumsum([len(one) for one in self.symbols])[:-1])

    @functools.cached_property
    def _mels(self) -> np.ndarray:
        if not self._file("frames").is_file():
            self.read()
        return np.load(self._file("frames"), mmap_mode="r")

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.frame_counts)])

    @functools.cached_property
    def _folder(self) -> Path:
        if self.place is not None:
            return Path(self.place).parent / "voices"
        temporary = tempfile.TemporaryDirectory(prefix="tfft-voice-")
        weakref.finalize(self, temporary.cleanup)
        return Path(temporary.name)

    def _file(self, what: str) -> Path:
        return self._folder / f"{self.key}-{what}.npy"

    def mel(self, at: int) -> np.ndarray:
        """Return the log-mel frames of a clip, float32 [T, bands]."""
        return self._mels[self._starts[at] : self._starts[at + 1]]

    def read(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compute what is not there yet.

        Args:
            progress: Function called with (clips read, clips in total).
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._file("frames").is_file():
            with whole(self._file("frames")) as aside:
                self._write_frames(aside, progress)
        if not self._file("durations").is_file():
            found = self._given() if self.seconds is not None else self._aligned()
            with whole(self._file("durations")) as aside, open(aside, "wb") as file:
                np.save(file, np.concatenate(found).astype(np.int32))

    def _write_frames(self, path: str | os.PathLike[str], progress: Callable[[int, int], None] | None) -> None:
        shape = (int(self._starts[-1]), self.audio.bands)
        target = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        for at in range(len(self.facts)):
            target[self._starts[at] : self._starts[at + 1]] = self._frames(at)
            if progress is not None:
                progress(at + 1, len(self.facts))
        target.flush()

    def _frames(self, at: int) -> np.ndarray:
        known = self.facts[at]
        facts, samples = read_recording(known.path)
        if (facts.reason, facts.samples) != (None, known.samples):
            raise DataError(
                f"{known.path} was changed after it was first read. Load the data again when no other program "
                "writes to it."
            )
        if facts.rate != self.audio.sample_rate:
            seconds = len(samples) / facts.rate
            samples = fitted(samples, facts.rate, dataclasses.replace(self.audio, seconds=seconds))
        count = int(self.frame_counts[at])
        frames = log_mel_frames(tf.constant(samples[None]), self.audio).numpy()[0][:count]
        return np.pad(frames, ((0, count - len(frames)), (0, 0)), mode="edge")

    def _given(self) -> list[np.ndarray]:
        """Return the given seconds as frames that add up to those of the clips."""
        return [
            frames_of(seconds, int(count)) for seconds, count in zip(self.seconds or (), self.frame_counts, strict=True)
        ]

    def _aligned(self) -> list[np.ndarray]:
        return align([self.mel(at) for at in range(len(self.facts))], self.symbols)

    def batch(self, positions: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return durations and targets of some clips.

        Args:
            positions: Positions of the clips.

        Returns:
            int32 [B, S], and float32 [B, T, bands + 3] as :mod:`tfft.tasks.speech_synthesis.losses` describes them.
        """
        counts = [self.durations[at] for at in positions]
        durations = np.zeros((len(counts), max(map(len, counts))), np.int32)
        targets = np.zeros((len(counts), max(int(one.sum()) for one in counts), self.audio.bands + 3), np.float32)
        for row, (at, count) in enumerate(zip(positions, counts, strict=True)):
            durations[row, : len(count)] = count
            total = int(count.sum())
            each = np.repeat(count, count).astype(np.float32)
            targets[row, :total, :-3] = self.mel(at)
            targets[row, :total, -3:] = np.stack([np.log(each), 1 / each, np.repeat(self.symbols[at], count)], axis=1)
        return durations, targets

    def statistics(self, positions: np.ndarray, symbols: int) -> VoiceStatistics:
        """Return the levels and durations of some clips.

        Args:
            positions: Positions of the clips.
            symbols: Number of symbols.
        """
        total, sums, squares = 0, np.zeros(self.audio.bands), np.zeros(self.audio.bands)
        logs, counts = np.zeros(symbols), np.zeros(symbols)
        for at in positions:
            mel = self.mel(at).astype(np.float64)
            total, sums, squares = total + len(mel), sums + mel.sum(axis=0), squares + (mel**2).sum(axis=0)
            np.add.at(logs, self.symbols[at], np.log(self.durations[at]))
            np.add.at(counts, self.symbols[at], 1)
        mean = sums / total
        spread = np.sqrt(np.maximum(squares / total - mean**2, 1e-4))
        usual = np.where(counts > 0, logs / np.maximum(counts, 1), logs.sum() / max(counts.sum(), 1))
        return VoiceStatistics(self.audio, *(tuple(values.tolist()) for values in (mean, spread, usual)))

    def renumbered(self, numbers: np.ndarray) -> ClipStore:
        """Return the same clips with other numbers of their symbols."""
        return dataclasses.replace(self, symbols=tuple(numbers[one].astype(np.int32) for one in self.symbols))

    def silent_ends(self) -> list[tuple[int, float, float]]:
        """Return position and seconds of silence before and behind the speech of clips with much of it."""
        step, found = self.audio.step, []
        for at in range(len(self.facts)):
            loud = self.mel(at).max(axis=1)
            speech = np.flatnonzero(loud > loud.max() - _SILENT / 20 * np.log(10))
            before, behind = step * int(speech[0]), step * (len(loud) - 1 - int(speech[-1]))
            if max(before, behind) > _LONG_SILENCE:
                found.append((at, before, behind))
        return found


def frames_of(seconds: np.ndarray, frames: int) -> np.ndarray:
    """Return whole frames for seconds, at least one each, which add up to those of a clip.

    Args:
        seconds: Seconds of each symbol, [S].
        frames: Frames of the clip, at least S.

    Example:
        >>> frames_of(np.array([0.1, 0.0, 0.3]), 40)
        array([10,  1, 29], dtype=int32)
    """
    count, total = len(seconds), max(float(np.sum(seconds)), 1e-9)
    ends = np.round(np.cumsum(seconds) / total * frames).astype(np.int64)
    for at in range(count):  # at least one frame each, and room for those behind
        least = at + 1 if at == 0 else ends[at - 1] + 1
        ends[at] = min(max(ends[at], least), frames - (count - 1 - at))
    return np.diff(ends, prepend=0).astype(np.int32)
