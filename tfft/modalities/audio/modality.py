"""Recordings as one of the kinds of data: :data:`AUDIO`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfft.errors import BackboneError
from tfft.registry import FeatureLevel, Modality

if TYPE_CHECKING:
    import keras

    from tfft.backbones.base import Backbone
    from tfft.models import ModelInput
    from tfft.specs import AudioSpec


class AudioModality(Modality):
    """Recordings of sound, brought to one rate and one length."""

    name = "audio"
    item = "recording"
    items = "recordings"
    columns = ("audio",)
    settings = frozenset({"sample_rate", "seconds"})

    # --- model

    def why_not(self, backbone: Backbone) -> str | None:
        """Returns why a backbone takes no recordings: it takes texts; any other is tried."""
        return None if backbone.text_spec is None else f"{backbone.name} takes texts, not recordings"

    def fits(self, backbone: Backbone, options: Mapping[str, Any]) -> int:
        """Returns 2 where waves are asked for; no backbone says by itself that it takes them."""
        return 2 if options.get("audio") is not None else 0

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


AUDIO = AudioModality()
