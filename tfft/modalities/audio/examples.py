"""Labelled recordings with their waveforms: :class:`AudioExamples`."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions
from tfft.data.examples import Progress, Splits
from tfft.data.file_examples import FileExamples
from tfft.features.engines import Staged
from tfft.features.sources import ArraySource, Source, Views
from tfft.modalities.audio.batches import wave_batches, wave_views
from tfft.modalities.audio.decode import check_rates
from tfft.modalities.audio.waveform_store import WaveformArray, WaveSource
from tfft.specs import AudioSpec, InputSpec


@dataclasses.dataclass(frozen=True, eq=False)
class AudioExamples(FileExamples):
    """Labelled recordings with waveforms, which are read on first use.

    ``facts`` are :class:`tfft.modalities.audio.decode.RecordingFacts`.

    Attributes:
        spec: Sample rate and clip length of the waveforms.
        source: Source of the waveforms of all files that were loaded together.
        positions: Positions of these recordings in the source, int [N].
    """

    modality: ClassVar[str] = "audio"
    spec: AudioSpec = AudioSpec()
    source: WaveSource = WaveSource((), AudioSpec())
    positions: np.ndarray = dataclasses.field(default_factory=lambda: np.arange(0))

    @functools.cached_property
    def waves(self) -> np.ndarray | WaveformArray:
        """Waveforms, [N, samples]: float32, or a :class:`WaveformArray` if they take more than 512 MB."""
        return self.source.part(self.positions)

    @property
    def inputs(self) -> Any:
        """The waveforms."""
        return self.waves

    @property
    def title(self) -> str:
        """Description for messages."""
        return "recordings given in memory"

    def read(self, progress: Progress | None = None) -> None:
        """Read the waveforms of all files now."""
        self.source.read(progress)

    def take(self, positions: np.ndarray) -> Self:
        """Return the recordings at some positions, without reading waveforms."""
        taken = super().take(positions)
        return dataclasses.replace(taken, positions=self.positions[positions]) if len(self.positions) else taken

    def join(self, other: Self) -> Self:
        """Return these recordings followed by others of the same source."""
        return dataclasses.replace(super().join(other), positions=np.concatenate([self.positions, other.positions]))

    def with_spec(self, spec: AudioSpec, store: str | os.PathLike[str] | None = None) -> Self:
        """Return the same recordings with another sample rate and length; nothing is read yet."""
        return dataclasses.replace(
            self, spec=spec, source=WaveSource(self.facts, spec, store), positions=np.arange(len(self))
        )

    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Build a dataset of (float32 [B, samples], labels), with the rate and length of ``spec`` if given."""
        if isinstance(spec, AudioSpec) and spec != self.spec:
            return self.with_spec(spec, self.source.store).batches(None, options)
        return wave_batches(self.waves, self.labels, self.spec, options)

    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Source:
        """Return the waveforms in the form that the model takes."""
        return wave_source(self.waves, self.labels, staged, batch_size, views)


A = TypeVar("A", bound=AudioExamples)


def wave_source(waves: Any, labels: Any, staged: Staged, batch_size: int, views: Views | None) -> Source:
    """Return a source of features for waveforms; with ``views`` for all views of each."""

    def vary(values: Any, labels: np.ndarray, views: Views, rows: range | None) -> tf.data.Dataset:
        options = BatchOptions(batch_size, seed=views.seed, rows=rows)
        return wave_views(values, labels, staged.audio or AudioSpec(), views.changes, views.count, options)

    return ArraySource(waves, labels, staged, batch_size, views, vary)


def with_waveforms(splits: Splits[A], spec: AudioSpec, store: str | os.PathLike[str] | None) -> Splits[A]:
    """Add waveforms to the recordings of both parts, without reading them yet.

    Args:
        splits: Files with their statistics.
        spec: Sample rate and clip length of the waveforms.
        store: A file; waveforms too large for memory are stored in the folder ``waves`` next to it. None stores them
            temporarily.

    Raises:
        DependencyError: If files have another rate, and the resampling package is missing.
    """
    facts = splits.train.facts + splits.validation.facts
    check_rates(facts, spec)
    source, border = WaveSource(facts, spec, store), len(splits.train)
    train = dataclasses.replace(splits.train, spec=spec, source=source, positions=np.arange(border))
    held_out = dataclasses.replace(splits.validation, spec=spec, source=source, positions=np.arange(border, len(facts)))
    report = f"recordings: {spec.sample_rate} samples per second, clips of {spec.seconds:g} s"
    return dataclasses.replace(splits, train=train, validation=held_out, report=report)
