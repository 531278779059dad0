"""Text modality: :data:`TEXT`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tfft.registry import FeatureLevel, Match, Modality, PageInput, Parts

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from tfft.backbones.base import Backbone
    from tfft.data.examples import Splits
    from tfft.exporting.loader import ServingInput
    from tfft.exporting.prediction import RequestItem
    from tfft.inspection.findings import Finding
    from tfft.modalities.text.examples import TextExamples
    from tfft.models import ModelInput


_PARTS = ("val", "valid", "validation", "dev")


class TextModality(Modality):
    """Texts, pairs of texts, and sentences of words."""

    name = "text"
    item = "text"
    items = "texts"
    default_backbone: ClassVar[str | None] = "minilm"
    columns = ("text",)
    request = "text"
    numeric = False

    # --- data

    def matches(self, source: Any, settings: Mapping[str, Any]) -> Match | None:
        """Recognize tables, folders of ``.txt`` files or tables, and lists of strings."""
        from tfft.data.options import TableOptions, setting_names
        from tfft.data.split import SplitOptions
        from tfft.modalities.text.load import load_texts
        from tfft.modalities.text.sources import holds_texts

        if (certainty := holds_texts(source, settings)) == 0:
            return None
        names = setting_names(SplitOptions, TableOptions) | {"text", "strict"}
        return Match("texts", load_texts, names - {"root"}, certainty)

    def read_labelled(self, source: Any, class_names: Sequence[str], settings: Mapping[str, Any]) -> TextExamples:
        """Load a labelled table or folder of texts."""
        from tfft.modalities.text.load import read_texts

        return read_texts(source, class_names, **{name: v for name, v in settings.items() if name != "store"})

    def is_split(self, source: Any) -> bool:
        """Whether a folder has a table or a folder for training, and another one."""
        folder = Path(source)
        if not folder.is_dir():
            return False
        names = {path.stem.lower() for path in folder.iterdir()}
        return "train" in names and not names.isdisjoint(_PARTS)

    # --- checks

    def findings(self, splits: Any, *, notes: list[str]) -> Iterator[Finding]:
        """Yield findings about texts, classes and duplicates."""
        from tfft.modalities.text.checks import text_findings

        return text_findings(splits)

    def counts(self, splits: Any) -> dict[str, dict[str, int]]:
        """Return the number of texts per class, by part; of all texts if labels are not classes."""
        from tfft.modalities.text.checks import text_counts

        return text_counts(splits)

    def notes(self, splits: Splits[Any], backbone: Backbone) -> Iterator[str]:
        """Yield a note about the number of truncated texts."""
        from tfft.modalities.text.truncation import truncation_note

        if note := truncation_note(splits.train, backbone):
            yield note

    # --- model

    def why_not(self, backbone: Backbone) -> str | None:
        """Return the reason why a backbone does not fit texts; None if it does."""
        if backbone.pair_tokenizer is not None:
            return f"{backbone.name} is an encoder-decoder, which writes texts (task='text_to_text')"
        return None if backbone.text_spec is not None else f"{backbone.name} does not take texts"

    def model_options(self, splits: Any) -> dict[str, Any]:
        """Return whether the examples are pairs."""
        return {"pair": splits.train.pairs is not None}

    def attach_input(
        self,
        backbone: Backbone,
        network: keras.Model,
        level: FeatureLevel = "pooled",
        *,
        pair: bool = False,
        **options: Any,
    ) -> ModelInput:
        """Add an input of strings and the tokenizer to a network."""
        from tfft.modalities.text.attach import attach_texts, attach_words

        return (attach_words if level == "sequence" else attach_texts)(backbone, network, pair)

    def input_of(self, model: keras.Model) -> str | None:
        """Return ``"string"`` for a model that takes strings only."""
        return "string" if all(tensor.dtype == "string" for tensor in model.inputs) else None

    # --- serving

    def serving(self, model: keras.Model, inputs: Mapping[str, tf.TensorSpec], **options: Any) -> ServingInput | None:
        """Return the serving input for texts."""
        from tfft.modalities.text.serving import text_input

        return text_input(inputs)

    def served(self, signatures: Mapping[str, Any], assets: Path) -> ServingInput | None:
        """Return the serving input of an exported model for texts."""
        from tfft.modalities.text.serving import served_texts

        return served_texts(signatures)

    def read_items(self, items: Sequence[Any], spec: Any) -> Iterator[RequestItem]:
        """Yield texts, and pairs of texts."""
        from tfft.modalities.text.serving import read_texts

        return read_texts(items)

    def parts(self, value: str | tuple[str, str], spec: Any) -> Parts:
        """Return the words of a text, or of both texts of a pair."""
        from tfft.modalities.text.words import text_parts

        return text_parts(value)

    def page_inputs(self, spec: Any) -> tuple[PageInput, ...]:
        """Return a field for each text."""
        return tuple(PageInput("text", name.replace("_", " ").capitalize()) for name in spec)

    def file_suffixes(self) -> tuple[str, ...]:
        """Return the ending of files with a text in each line."""
        return (".txt",)

    def request_noun(self, spec: Any) -> str:
        """Return ``"texts"`` or ``"pairs of texts"``."""
        return "texts" if len(spec) == 1 else "pairs of texts"

    def columns_of(self, spec: Any) -> tuple[str, ...]:
        """Return the names of the model's inputs."""
        return tuple(spec)

    def item_of_row(self, fields: Sequence[Any], folder: Path) -> Any:
        """Return the text, or the pair of texts, of a row."""
        from tfft.modalities.text.serving import texts_of_row

        return texts_of_row(fields)

    def items_of_command(
        self, model: str, spec: Any, files: Sequence[str], texts: Sequence[str], second: Sequence[str]
    ) -> list[Any]:
        """Return the texts of a command: those of ``--text``, and the lines of files."""
        from tfft.modalities.text.serving import texts_of_command

        return texts_of_command(model, spec, files, texts, second)

    def example_arguments(self, spec: Any) -> str:
        """Return an option for each model input."""
        return " ".join(f'--{name.replace("_", "-")} "..."' for name in sorted(spec))


TEXT = TextModality()
