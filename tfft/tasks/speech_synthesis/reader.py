"""Modality of texts with the clips that say them: :data:`SPOKEN_TEXT`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tfft.registry import Adapted, FeatureLevel, Match, Modality, PageInput

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from tfft.backbones.base import Backbone
    from tfft.data.examples import Splits
    from tfft.exporting.loader import ServingInput
    from tfft.models import ModelInput
    from tfft.specs import AudioSpec
    from tfft.tasks.speech_synthesis.data import SpokenTexts

_SHOWN = 5


class SpokenText(Modality):
    """Texts with clips for training; a trained voice takes texts alone."""

    name = "spoken_text"
    item = "text with a clip"
    items = "texts with clips"
    default_backbone: ClassVar[str | None] = "voice-small"
    columns = ("audio", "text")
    request = "text"
    settings = frozenset({"sample_rate"})
    build_options = frozenset({"symbols", "separator", "edges"})
    numeric = True  # its backbones are trained at the rates of networks for images and audio, not of language models

    # --- data

    def matches(self, source: Any, settings: Mapping[str, Any]) -> Match | None:
        """Accept any source if the task is named, and none otherwise."""
        if settings.get("task") != "speech_synthesis":
            return None
        names = {"audio", "text", "task", "root", "encoding", "delimiter", "sample_rate", "store"}
        return Match(
            "texts with clips", _load, frozenset(names | {"validation", "seed", "progress"}), 3, has_names=True
        )

    def read_labelled(self, source: Any, class_names: Sequence[str], settings: Mapping[str, Any]) -> SpokenTexts:
        """Read all clips of a source."""
        from tfft.tasks.speech_synthesis.data import read_voice

        return read_voice(source, class_names, **{name: v for name, v in settings.items() if name != "task"})

    def is_split(self, source: Any) -> bool:
        """Return False: the source is not split."""
        return False

    def adapt(self, splits: Splits[Any], backbone: Backbone, settings: Mapping[str, Any]) -> Adapted:
        """Name the symbols that a trained voice does not know."""
        from tfft.backbones.voice import symbol_table

        known = symbol_table(backbone.model)
        new = [name for name in splits.class_names if known is not None and name not in known.vocabulary]
        if known is None or not known.vocabulary or not new:
            return Adapted(splits)
        shown = ", ".join(map(repr, new[:10]))
        note = (
            f"backbone: {len(new)} symbols are new to the voice: {shown}. Their vectors are random, and train only "
            f"with the block {known.name!r}"
        )
        return Adapted(splits, notes=(note,))

    # --- checks

    def notes(self, splits: Splits[Any], backbone: Backbone) -> Iterator[str]:
        """Yield a note about clips with much silence at an end."""
        examples = splits.train
        found = examples.store.silent_ends()
        if found:
            places = (place for part in splits.parts.values() for place in part.places)
            positions = (int(at) for part in splits.parts.values() for at in part.positions)
            by_position = dict(zip(positions, places, strict=True))
            shown = "; ".join(
                f"{by_position.get(at, at)} ({before:.1f} s before, {behind:.1f} s behind)"
                for at, before, behind in found[:_SHOWN]
            )
            yield f"{len(found)} clips have more than 0.5 s of silence at an end, which the voice learns: {shown}"

    def counts(self, splits: Any) -> dict[str, dict[str, int]]:
        """Return the number of clips, by part."""
        return {name: {"clips": len(part)} for name, part in splits.parts.items()}

    def findings(self, splits: Any, *, notes: list[str]) -> Iterator[Any]:
        """Yield nothing: what is wrong with clips is an error when they are loaded."""
        return iter(())

    # --- model

    def why_not(self, backbone: Backbone) -> str | None:
        """Return the reason why a backbone is not an acoustic model; None if it is one."""
        from tfft.backbones.voice import symbol_table

        if symbol_table(backbone.model) is not None:
            return None
        return f"{backbone.name} is not an acoustic model: pass 'voice-small' or a speech synthesis run"

    def fits(self, backbone: Backbone, options: Mapping[str, Any]) -> int:
        """Return 3 for acoustic models where symbols are given; without them, such a model keeps its own inputs."""
        return 3 if options.get("symbols") and self.why_not(backbone) is None else 0

    def model_options(self, splits: Any) -> dict[str, Any]:
        """Return the symbols and how texts are split into them."""
        store = splits.train.store
        return {"symbols": splits.class_names, "separator": store.separator, "edges": store.edges}

    def attach_input(
        self,
        backbone: Backbone,
        network: keras.Model,
        level: FeatureLevel = "sequence",
        *,
        symbols: Sequence[str] = (),
        separator: str = "",
        edges: bool = True,
        **options: Any,
    ) -> ModelInput:
        """Add inputs of texts and durations to an acoustic model."""
        from tfft.tasks.speech_synthesis.attach import attach_texts

        return attach_texts(backbone, network, symbols, separator, edges)

    def input_of(self, model: keras.Model) -> AudioSpec | None:
        """Return the frames of a voice; None for other models."""
        from tfft.tasks.speech_synthesis.attach import head_of_voice

        head = head_of_voice(model)
        return None if head is None else head.audio

    # --- serving

    def page_inputs(self, spec: Any) -> tuple[PageInput, ...]:
        """Return a field for a text."""
        return (PageInput("text", "Text"),)

    def serving(self, model: keras.Model, inputs: Mapping[str, tf.TensorSpec], **options: Any) -> ServingInput | None:
        """Return the serving input of a voice, which is that of any model for texts."""
        from tfft.tasks.speech_synthesis.attach import voice_input

        return voice_input(model)


def _load(source: Any, *, task: str = "", **settings: Any) -> Any:
    from tfft.tasks.speech_synthesis.data import load_voice

    return load_voice(source, **settings)


SPOKEN_TEXT = SpokenText()
