"""Texts as one of the kinds of data: :data:`TEXT`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfft.registry import FeatureLevel, Modality

if TYPE_CHECKING:
    import keras

    from tfft.backbones.base import Backbone
    from tfft.models import ModelInput


class TextModality(Modality):
    """Texts, pairs of texts, and sentences of words."""

    name = "text"
    item = "text"
    items = "texts"
    columns = ("text",)

    # --- model

    def why_not(self, backbone: Backbone) -> str | None:
        """Returns why a backbone takes no texts."""
        return None if backbone.text_spec is not None else f"{backbone.name} does not take texts"

    def attach_input(
        self,
        backbone: Backbone,
        network: keras.Model,
        level: FeatureLevel = "pooled",
        *,
        pair: bool = False,
        **options: Any,
    ) -> ModelInput:
        """Puts an input of strings and the tokenizer in front of a network."""
        from tfft.modalities.text.attach import attach_texts, attach_words

        return (attach_words if level == "sequence" else attach_texts)(backbone, network, pair)


TEXT = TextModality()
