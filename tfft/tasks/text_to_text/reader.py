"""Reader of pairs of texts: :data:`TEXT_PAIRS`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tfft.modalities.text.modality import TextModality
from tfft.registry import Adapted, FeatureLevel, Match

if TYPE_CHECKING:
    import keras

    from tfft.backbones.base import Backbone
    from tfft.inspection.findings import Finding
    from tfft.models import ModelInput
    from tfft.tasks.text_to_text.data import PairExamples

_FORM = ("text", "target", "strict", "encoding", "delimiter")
_SETTINGS = frozenset({*_FORM, "task", "validation", "seed"})


class TextPairs(TextModality):
    """A text to read and a text to write for each example."""

    item = "pair of texts"
    items = "pairs of texts"
    default_backbone: ClassVar[str | None] = "transformer-small"

    # --- data

    def matches(self, source: Any, settings: Mapping[str, Any]) -> Match | None:
        """Accept any source, since it is used only if the task is named."""
        return Match("pairs of texts", _load, _SETTINGS, 3)

    def own_format(self, source: Any) -> str | None:
        """Return ``"TMX"`` for such a file."""
        return "TMX" if str(source).lower().endswith(".tmx") else None

    def read_labelled(  # type: ignore[override]
        self, source: Any, class_names: Sequence[str], settings: Mapping[str, Any]
    ) -> PairExamples:
        """Read all pairs of a source."""
        from tfft.tasks.text_to_text.data import read_pairs

        return read_pairs(source, **{name: settings[name] for name in _FORM if name in settings})

    def is_split(self, source: Any) -> bool:
        """Whether a folder holds files for training and for validation."""
        from tfft.tasks.text_to_text.data import has_parts

        return has_parts(source)

    def adapt(self, splits: Any, backbone: Backbone, settings: Mapping[str, Any]) -> Adapted:
        """Tokenize the pairs, with a vocabulary learned from the training pairs if the backbone has none."""
        from tfft.tasks.text_to_text.adapting import adapted_pairs

        return adapted_pairs(splits, backbone)

    # --- checks

    def findings(self, splits: Any, *, notes: list[str]) -> Iterator[Finding]:
        """Yield findings about unusable, swapped, uneven and repeated pairs."""
        from tfft.tasks.text_to_text.checks import pair_findings

        return pair_findings(splits)

    def counts(self, splits: Any) -> dict[str, dict[str, int]]:
        """Return the number of pairs, by part."""
        return {name: {"pairs": len(part)} for name, part in splits.parts.items()}

    def notes(self, splits: Any, backbone: Backbone) -> Iterator[str]:
        """Yield nothing: :meth:`adapt` has said it."""
        return iter(())

    # --- model

    def why_not(self, backbone: Backbone) -> str | None:
        """Return the reason why a backbone cannot write texts; None if it can."""
        if backbone.pair_tokenizer is not None:
            return None
        return (
            f"{backbone.name} is not an encoder-decoder, so it cannot generate text: use 'transformer-small', a BART "
            "preset of KerasHub, or a Hugging Face folder of BART or T5"
        )

    def model_options(self, splits: Any) -> dict[str, Any]:
        """Return nothing: the backbone decides."""
        return {}

    def attach_input(
        self, backbone: Backbone, network: keras.Model, level: FeatureLevel = "pooled", **options: Any
    ) -> ModelInput:
        """Add inputs of tokens to an encoder-decoder."""
        from tfft.tasks.text_to_text.adapting import attach_pairs

        return attach_pairs(backbone, network)

    def input_of(self, model: keras.Model) -> Any:
        """Return the tokenizer of an encoder-decoder; None for other models."""
        from tfft.layers.pair_tokenizer import PairTokenizer

        return next((layer for layer in model.layers if isinstance(layer, PairTokenizer)), None)


def _load(source: Any, *, task: str = "", **settings: Any) -> Any:
    from tfft.tasks.text_to_text.data import load_pairs

    return load_pairs(source, **settings)


TEXT_PAIRS = TextPairs()
