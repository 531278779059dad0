"""Audio modality: :data:`AUDIO`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tfft.errors import BackboneError, DataError
from tfft.registry import Adapted, FeatureLevel, Match, Modality, PageInput, Parts

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from tfft.backbones.base import Backbone
    from tfft.data.examples import Splits
    from tfft.exporting.loader import ServingInput
    from tfft.exporting.prediction import RequestItem
    from tfft.features.engines import Staged
    from tfft.features.sources import Source, Views
    from tfft.inspection.findings import Finding
    from tfft.modalities.audio.examples import AudioExamples
    from tfft.models import ModelInput
    from tfft.specs import AudioSpec


class AudioModality(Modality):
    """Recordings, converted to one sample rate and length."""

    name = "audio"
    item = "recording"
    items = "recordings"
    default_backbone: ClassVar[str | None] = "efficientnet-lite0"
    columns: ClassVar[tuple[str, ...]] = ("audio",)
    settings = frozenset({"sample_rate", "seconds"})
    augmentations = ("shift", "mask")
    may_be_grouped = True

    # --- data

    def matches(self, source: Any, settings: Mapping[str, Any]) -> Match | None:
        """Recognize tables with a column of recordings, folders of mostly recordings, and waveforms with their rate."""
        from tfft.data.options import ReadOptions, TableOptions, setting_names
        from tfft.data.split import SplitOptions
        from tfft.modalities.audio.arrays import holds_waves, load_waves
        from tfft.modalities.audio.folder import AudioOptions, holds_recordings, load_recordings
        from tfft.modalities.audio.table import load_recording_table

        files = setting_names(SplitOptions, ReadOptions, AudioOptions) - {"check"}
        if settings.get("audio") is not None:
            columns = setting_names(TableOptions) | {"audio"}
            return Match("a table of recordings", load_recording_table, files | columns, 3, has_names=True)
        if settings.get("sample_rate") is not None and holds_waves(source):
            known = frozenset({"sample_rate", "seconds", "validation", "seed", "task"})
            return Match("waveforms in memory", load_waves, known, 3, joinable=True, reads_datasets=True)
        if isinstance(source, (str, os.PathLike)) and Path(source).expanduser().is_dir():
            if holds_recordings(Path(source).expanduser()):
                return Match("a folder of recordings", load_recordings, files, 2, has_names=True)
        return None

    def read_labelled(self, source: Any, class_names: Sequence[str], settings: Mapping[str, Any]) -> AudioExamples:
        """Load a labelled folder or table of recordings."""
        from tfft.modalities.audio.folder import holds_recordings, list_recordings
        from tfft.modalities.audio.table import read_recording_table

        if "audio" in settings:
            return read_recording_table(source, class_names, **settings)
        if not Path(source).is_dir() or not holds_recordings(source):
            raise DataError(f"{source} holds no recordings. The model expects recordings.")
        return list_recordings(source, settings.get("store"))

    def is_split(self, source: Any) -> bool:
        """Whether a folder has ``train/`` and ``val/``."""
        from tfft.data.class_folders import split_folders

        return Path(source).is_dir() and "validation" in split_folders(Path(source))

    def adapt(self, splits: Splits[Any], backbone: Backbone, settings: Mapping[str, Any]) -> Adapted:
        """Choose the rate and length for a backbone that takes waveforms; an image backbone takes any."""
        from tfft.modalities.audio.adapt import adapt_waveforms

        return adapt_waveforms(splits, backbone, settings)

    def array_source(self, values: Any, labels: Any, staged: Staged, batch_size: int, views: Views) -> Source | None:
        """Return augmented waveforms for a model that takes them."""
        from tfft.modalities.audio.examples import wave_source

        return None if staged.audio is None else wave_source(values, labels, staged, batch_size, views)

    # --- checks

    def findings(self, splits: Any, *, notes: list[str]) -> Iterator[Finding]:
        """Yield findings about files, loudness, classes and duplicates."""
        from tfft.modalities.audio.checks import recording_findings

        return recording_findings(splits)

    # --- model

    def why_not(self, backbone: Backbone) -> str | None:
        """Return the reason why a backbone does not fit recordings, such as a text backbone; None if it may fit."""
        return None if backbone.text_spec is None else f"{backbone.name} takes texts, not recordings"

    def fits(self, backbone: Backbone, options: Mapping[str, Any]) -> int:
        """Return 2 if waveforms are requested; no backbone declares that it takes them."""
        return 2 if options.get("audio") is not None else 0

    def model_options(self, splits: Any) -> dict[str, Any]:
        """Return the sample rate and length of the recordings."""
        return {"audio": splits.train.spec}

    def attach_input(
        self,
        backbone: Backbone,
        network: keras.Model,
        level: FeatureLevel = "pooled",
        *,
        audio: AudioSpec | None = None,
        image_size: int | tuple[int, int] | None = None,
        **options: Any,
    ) -> ModelInput:
        """Add an input of waveforms, and their spectrogram for an image backbone, to a network."""
        from tfft.modalities.audio.attach import attach_waves

        if audio is None:
            raise BackboneError(
                "Expected a sample rate and a clip length. Fix: audio=tfft.AudioSpec(sample_rate, seconds); in "
                "tfft.finetune sample_rate= for waveforms in memory."
            )
        return attach_waves(backbone, network, audio, image_size, level)

    def input_of(self, model: keras.Model) -> AudioSpec | None:
        """Return the rate and length of the waveforms that a model takes."""
        from tfft.layers.log_mel import audio_of

        return audio_of(model)

    # --- serving

    def serving(self, model: keras.Model, inputs: Mapping[str, tf.TensorSpec], **options: Any) -> ServingInput | None:
        """Return the serving input for waveforms and WAV files."""
        from tfft.modalities.audio.serving import audio_input

        return audio_input(model)

    def served(self, signatures: Mapping[str, Any], assets: Path) -> ServingInput | None:
        """Return the serving input of an exported model for waveforms."""
        from tfft.modalities.audio.serving import served_audio

        return served_audio(assets)

    def read_items(self, items: Sequence[Any], spec: Any) -> Iterator[RequestItem]:
        """Yield waveforms at the rate and length of a model."""
        from tfft.modalities.audio.serving import read_recordings

        return read_recordings(items, spec)

    def parts(self, value: np.ndarray, spec: AudioSpec) -> Parts:
        """Return equal spans of time."""
        from tfft.modalities.audio.spans import wave_parts

        return wave_parts(value, spec)

    def page_inputs(self, spec: Any) -> tuple[PageInput, ...]:
        """Return a field for a recording."""
        return (PageInput("audio", "Recording"),)

    def file_suffixes(self) -> tuple[str, ...]:
        """Return the endings of recordings."""
        from tfft.modalities.audio.decode import SUFFIXES

        return SUFFIXES

    def example_arguments(self, spec: Any) -> str:
        """Return the usual file type of recordings."""
        return "WAV..."


AUDIO = AudioModality()
