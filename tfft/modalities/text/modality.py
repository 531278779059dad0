"""Texts as one of the kinds of data: :data:`TEXT`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfft.registry import FeatureLevel, Match, Modality

if TYPE_CHECKING:
    import keras

    from tfft.backbones.base import Backbone
    from tfft.data.examples import Splits
    from tfft.modalities.text.examples import TextExamples
    from tfft.models import ModelInput

_PARTS = ("val", "valid", "validation", "dev")


class TextModality(Modality):
    """Texts, pairs of texts, and sentences of words."""

    name = "text"
    item = "text"
    items = "texts"
    columns = ("text",)
    numeric = False

    # --- data

    def matches(self, source: Any, settings: Mapping[str, Any]) -> Match | None:
        """Knows tables, folders of ``.txt`` files or tables, and lists of strings."""
        from tfft.data.options import TableOptions, setting_names
        from tfft.data.split import SplitOptions
        from tfft.modalities.text.load import load_texts
        from tfft.modalities.text.sources import holds_texts

        if (certainty := holds_texts(source, settings)) == 0:
            return None
        names = setting_names(SplitOptions, TableOptions) | {"text", "strict"}
        return Match("texts", load_texts, names - {"root"}, certainty)

    def read_labelled(self, source: Any, class_names: Sequence[str], settings: Mapping[str, Any]) -> TextExamples:
        """Reads a table or a folder of texts."""
        from tfft.modalities.text.load import read_texts

        return read_texts(source, class_names, **{name: v for name, v in settings.items() if name != "store"})

    def is_split(self, source: Any) -> bool:
        """Tells whether a folder has a table or a folder to learn from, and another one."""
        folder = Path(source)
        if not folder.is_dir():
            return False
        names = {path.stem.lower() for path in folder.iterdir()}
        return "train" in names and not names.isdisjoint(_PARTS)

    def notes(self, splits: Splits[Any], backbone: Backbone) -> Iterator[str]:
        """Says how many texts are longer than what is read of them."""
        from tfft.modalities.text.truncation import truncation_note

        if note := truncation_note(splits.train, backbone):
            yield note

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

    def input_of(self, model: keras.Model) -> str | None:
        """Returns ``"string"`` for a model that takes nothing but strings."""
        return "string" if all(tensor.dtype == "string" for tensor in model.inputs) else None


TEXT = TextModality()
