"""Reader of recordings with transcripts: :data:`TRANSCRIBED`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tfft.modalities.audio.modality import AudioModality
from tfft.registry import Adapted, FeatureLevel, Match

if TYPE_CHECKING:
    import keras

    from tfft.backbones.base import Backbone
    from tfft.data.examples import Examples, Splits
    from tfft.exporting.prediction import RequestItem
    from tfft.inspection.findings import DataReport, Finding
    from tfft.models import ModelInput
    from tfft.specs import AudioSpec
    from tfft.tasks.transcription.data import TranscribedRecordings

_OWN = (
    "audio",
    "text",
    "group",
    "letter_case",
    "punctuation",
    "root",
    "encoding",
    "delimiter",
    "sample_rate",
    "seconds",
)
_READING = ("strict", "store", "progress")
_SETTINGS = frozenset({*_OWN, *_READING, "task", "validation", "seed"})


class TranscribedAudio(AudioModality):
    """Recordings with their transcripts."""

    item = "recording"
    items = "recordings with transcripts"
    default_backbone: ClassVar[str | None] = "speech-encoder-small"
    columns: ClassVar[tuple[str, ...]] = ("audio", "text")
    settings = AudioModality.settings | {"architecture"}
    labelled_settings: ClassVar[tuple[str, ...]] = ("group", "sample_rate")

    def matches(self, source: Any, settings: Mapping[str, Any]) -> Match | None:
        """Accept any source, since it is used only if the task is named."""
        return Match("recordings with transcripts", _load, _SETTINGS, 3, has_names=True)

    def read_labelled(
        self, source: Any, class_names: Sequence[str], settings: Mapping[str, Any]
    ) -> TranscribedRecordings:
        """Read recordings with transcripts for a model with a known alphabet."""
        from tfft.tasks.transcription.data import read_transcripts

        known = {name: settings[name] for name in (*_OWN, *_READING) if name in settings}
        return read_transcripts(source, class_names, **known)

    def is_split(self, source: Any) -> bool:
        """Return False: no form marks its training part."""
        return False

    def adapt(self, splits: Splits[Any], backbone: Backbone, settings: Mapping[str, Any]) -> Adapted:
        """Choose the rate for a backbone that takes waves, and make labels for the architecture of the head."""
        from tfft.tasks.transcription.adapting import adapted_recordings

        return adapted_recordings(splits, backbone, settings)

    def fitted(self, examples: Examples, model: keras.Model) -> Examples:
        """Return recordings with the tokens of a model that has a decoder."""
        from tfft.tasks.transcription.tokenized import fitted_to_model

        return fitted_to_model(examples, model)

    def attach_input(
        self,
        backbone: Backbone,
        network: keras.Model,
        level: FeatureLevel = "sequence",
        *,
        audio: AudioSpec | None = None,
        **options: Any,
    ) -> ModelInput:
        """Add an input of waveforms to a network, and one of tokens if it has a decoder."""
        from tfft.tasks.transcription.adapting import attach_decoder

        if backbone.target_tokenizer is None or audio is None:
            return super().attach_input(backbone, network, level, audio=audio, **options)
        return attach_decoder(backbone, network, audio)

    def counts(self, splits: Any) -> dict[str, dict[str, int]]:
        """Return the number of recordings, by part; those of characters are findings where they are low."""
        return {name: {"recordings": len(part)} for name, part in splits.parts.items()}

    def check_source(self, source: Any, columns: Mapping[str, Any], **options: Any) -> DataReport | None:
        """Return None: the transcripts are read first."""
        return None

    def read_items(self, items: Sequence[Any], spec: Any) -> Iterator[RequestItem]:
        """Yield waveforms; recordings that are longer than the model takes are divided where they are quiet."""
        from tfft.tasks.transcription.parts import read_whole

        return read_whole(items, spec)

    def findings(self, splits: Any, *, notes: list[str]) -> Iterator[Finding]:
        """Yield findings about files, loudness, duplicates and transcripts."""
        from tfft.tasks.transcription.checks import transcript_findings

        return transcript_findings(splits)


def _load(source: Any, *, task: str = "", **settings: Any) -> Any:
    from tfft.tasks.transcription.data import load_transcripts

    return load_transcripts(source, **settings)


TRANSCRIBED = TranscribedAudio()
