"""Labelled recordings with their waveforms: :class:`AudioExamples`."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any, ClassVar, Self

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
    """Files of recordings with labels and waveforms, which are read when they are first asked for.

    ``facts`` are :class:`tfft.modalities.audio.decode.RecordingFacts`.

    Attributes:
        spec: sample rate and length of the waveforms.
        source: of the waveforms of all files that were read together.
        positions: of these recordings in it, int [N].
    """

    modality: ClassVar[str] = "audio"
    spec: AudioSpec = AudioSpec()
    source: WaveSource = WaveSource((), AudioSpec())
    positions: np.ndarray = dataclasses.field(default_factory=lambda: np.arange(0))

    @functools.cached_property
    def waves(self) -> np.ndarray | WaveformArray:
        """The waveforms, [N, samples]: float32, or a :class:`WaveformArray` where all take more than 512 MB."""
        return self.source.part(self.positions)

    @property
    def inputs(self) -> Any:
        """The waveforms."""
        return self.waves

    @property
    def title(self) -> str:
        """What these are."""
        return "recordings given in memory"

    def read(self, progress: Progress | None = None) -> None:
        """Read the waveforms of all files now."""
        self.source.read(progress)

    def take(self, positions: np.ndarray) -> Self:
        """Return the recordings at some positions; no waveform is read for that."""
        taken = super().take(positions)
        return dataclasses.replace(taken, positions=self.positions[positions]) if len(self.positions) else taken

    def join(self, other: Self) -> Self:
        """Return these recordings followed by others of the same source."""
        return dataclasses.replace(super().join(other), positions=np.concatenate([self.positions, other.positions]))

    def with_spec(self, spec: AudioSpec, store: str | os.PathLike[str] | None = None) -> Self:
        """Return the same recordings with waveforms of another rate and length, of which none is read yet."""
        return dataclasses.replace(
            self, spec=spec, source=WaveSource(self.facts, spec, store), positions=np.arange(len(self))
        )

    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Make a dataset of (float32 [B, samples], labels), with rate and length of ``spec`` if it is given."""
        if isinstance(spec, AudioSpec) and spec != self.spec:
            return self.with_spec(spec, self.source.store).batches(None, options)
        return wave_batches(self.waves, self.labels, self.spec, options)

    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Source:
        """Return the waveforms as the model takes them."""
        return wave_source(self.waves, self.labels, staged, batch_size, views)


def wave_source(waves: Any, labels: Any, staged: Staged, batch_size: int, views: Views | None) -> Source:
    """Return waveforms as features are made of them; with ``views`` all variations of each."""

    def vary(values: Any, labels: np.ndarray, views: Views) -> tf.data.Dataset:
        options = BatchOptions(batch_size, seed=views.seed)
        return wave_views(values, labels, staged.audio or AudioSpec(), views.changes, views.count, options)

    return ArraySource(waves, labels, staged, batch_size, views, vary)


def with_waveforms(
    splits: Splits[AudioExamples], spec: AudioSpec, store: str | os.PathLike[str] | None
) -> Splits[AudioExamples]:
    """Put waveforms to the recordings of both parts; none is read yet.

    Args:
        splits: files, with their statistics.
        spec: sample rate and length of the waveforms.
        store: a file; waveforms that are too many for memory are kept in the folder ``waves`` beside it. None keeps
            nothing for long.

    Raises:
        DependencyError: If files have another rate, and the package that resamples is missing.
    """
    facts = splits.train.facts + splits.validation.facts
    check_rates(facts, spec)
    source, border = WaveSource(facts, spec, store), len(splits.train)
    train = dataclasses.replace(splits.train, spec=spec, source=source, positions=np.arange(border))
    held_out = dataclasses.replace(splits.validation, spec=spec, source=source, positions=np.arange(border, len(facts)))
    report = f"recordings: {spec.sample_rate} samples a second, {spec.seconds:g} s of each are heard"
    return dataclasses.replace(splits, train=train, validation=held_out, report=report)
