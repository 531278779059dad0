"""Recordings as one of the kinds of data: :data:`AUDIO`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfft.errors import BackboneError
from tfft.registry import FeatureLevel, Modality

if TYPE_CHECKING:
    import pathlib

    import keras
    import tensorflow as tf

    from tfft.backbones.base import Backbone
    from tfft.exporting.loader import ServingInput
    from tfft.exporting.prediction import RequestItem
    from tfft.inspection.findings import Finding
    from tfft.models import ModelInput
    from tfft.specs import AudioSpec


class AudioModality(Modality):
    """Recordings of sound, brought to one rate and one length."""

    name = "audio"
    item = "recording"
    items = "recordings"
    columns = ("audio",)
    settings = frozenset({"sample_rate", "seconds"})

    # --- checks

    def findings(self, splits: Any, *, notes: list[str]) -> Iterator[Finding]:
        """Yields findings about files, loudness, classes and copies."""
        from tfft.modalities.audio.checks import recording_findings

        return recording_findings(splits)

    # --- model

    def why_not(self, backbone: Backbone) -> str | None:
        """Returns why a backbone takes no recordings: it takes texts; any other is tried."""
        return None if backbone.text_spec is None else f"{backbone.name} takes texts, not recordings"

    def fits(self, backbone: Backbone, options: Mapping[str, Any]) -> int:
        """Returns 2 where waves are asked for; no backbone says by itself that it takes them."""
        return 2 if options.get("audio") is not None else 0

    def model_options(self, splits: Any) -> dict[str, Any]:
        """Returns the rate and length of the recordings."""
        return {"audio": splits.spec}

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
        """Puts an input of waves, and their spectrum for an image backbone, in front of a network."""
        from tfft.modalities.audio.attach import attach_waves

        if audio is None:
            raise BackboneError(
                "A model of recordings has one rate and one length. Fix: audio=tfft.AudioSpec(sample_rate, seconds)."
            )
        return attach_waves(backbone, network, audio, image_size)

    # --- serving

    def serving(self, model: keras.Model, inputs: Mapping[str, tf.TensorSpec], **options: Any) -> ServingInput | None:
        """Returns how a model takes waves and WAV files."""
        from tfft.modalities.audio.serving import audio_input

        return audio_input(model)

    def served(self, signatures: Mapping[str, Any], assets: pathlib.Path) -> ServingInput | None:
        """Returns how an exported model takes waves."""
        from tfft.modalities.audio.serving import served_audio

        return served_audio(assets)

    def read_items(self, items: Sequence[Any], spec: Any) -> Iterator[RequestItem]:
        """Yields waves at the rate and length that a model takes."""
        from tfft.modalities.audio.serving import read_recordings

        return read_recordings(items, spec)

    def example_arguments(self, spec: Any) -> str:
        """Returns the form of file that most recordings have."""
        return "WAV..."


AUDIO = AudioModality()
