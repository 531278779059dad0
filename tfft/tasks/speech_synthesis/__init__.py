"""Speech synthesis: from a text to the waveform of a voice that reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfft.registry import Default, Evaluator, FeatureLevel, Metric, Modality, ScoreDisplay, Task

if TYPE_CHECKING:
    from tfft.heads import Head

__all__ = ["SPEECH_SYNTHESIS", "SpeechSynthesis"]

METRIC, MEAN_SPECTRUM = "mel_cepstral_distortion", "mean_spectrum"
_WITHOUT = {
    "class_weight": "a text has no class",
    "sampling": "a text has no class",
    "separator": "a text is one label",
    "label_smoothing": "frames are not classes",
    "augment": "an augmented clip is a different voice",
    "label": "the columns are audio and text",
    "seconds": "clips keep their lengths",
}


class SpeechSynthesis(Task):
    """A voice from pairs of text and clip.

    A label is float32 [T, bands + 3]: log-mel frame, logarithm of the frames of its symbol, weight 1 / duration, and
    number of the symbol.
    """

    name: ClassVar[str] = "speech_synthesis"
    modalities: ClassVar[frozenset[str]] = frozenset({"spoken_text"})
    input_columns: ClassVar[frozenset[str]] = frozenset({"audio", "text"})
    feature_level: ClassVar[FeatureLevel] = "sequence"
    solves_head: ClassVar[bool] = False
    head_reason: ClassVar[str] = "trained: it maps the bands of the voice to those of the data"
    caches_features: ClassVar[bool] = False
    selection: ClassVar[Metric] = Metric(METRIC, higher_is_better=False)

    def score_display(self, metric: str) -> ScoreDisplay:
        """Compare with the mean spectrum and with the mean duration of each symbol."""
        details = "durations {duration_error_ms:.1f} ms off, the mean of each symbol {mean_duration_ms:.1f} ms"
        baselines = {MEAN_SPECTRUM: "the mean spectrum"}
        return ScoreDisplay("mel cepstral distortion", higher_is_better=False, baselines=baselines, details=details)

    @property
    def reader(self) -> Modality | None:
        """The reader of texts with clips."""
        from tfft.tasks.speech_synthesis.reader import SPOKEN_TEXT

        return SPOKEN_TEXT

    def counts(self, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
        """Return nothing: the examples count their symbols."""
        return {}

    def head_factory(self) -> Callable[..., Head]:
        """Return :func:`tfft.heads.speech_synthesis`."""
        from tfft.tasks.speech_synthesis.head import speech_synthesis

        return speech_synthesis

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Make the head for a configuration."""
        known = ("l2", "audio", "rounds")
        return self.head_factory()(class_names, **{name: settings[name] for name in known if name in settings})

    def head_class(self) -> type[Head]:
        """Return the class of its heads."""
        from tfft.tasks.speech_synthesis.head import SpeechSynthesisHead

        return SpeechSynthesisHead

    def unsupported(self, config: Any) -> Iterator[str]:
        """Report settings of other tasks."""
        for name, why in _WITHOUT.items():
            if getattr(config, name, None):
                yield f"{name} does not apply to speech synthesis, since {why}: leave it out"
        if getattr(config, "loss", "cross_entropy") != "cross_entropy":
            yield f"speech synthesis has one loss. Received: loss={config.loss!r}. Leave it out"

    def phase_defaults(self) -> Mapping[str, Default]:
        """Return small batches, since each frame is a target."""
        return {"batch_size": Default(16, "16: each frame is a target, and a clip has hundreds of them")}

    def evaluator(self, head: Head) -> Evaluator:
        """Return a new object that sums distortions and errors of durations."""
        from tfft.tasks.speech_synthesis.evaluator import SpeechEvaluator

        return SpeechEvaluator(head)

    def plain_outputs(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the served outputs of one text without the zeros behind its end."""
        length, rate = int(row["length"]), int(row["sample_rate"])
        audio = np.asarray(row["audio"])[:length]
        return {"seconds": length / rate, "sample_rate": rate, "audio": audio.tolist()}

    def file_of(self, outputs: Mapping[str, Any]) -> tuple[str, bytes] | None:
        """Return a prediction as a WAV file of 16 bits."""
        from tfft.modalities.audio.wav import write_wav

        return ".wav", write_wav(np.asarray(outputs["audio"], np.float32), int(outputs["sample_rate"]))

    def format_prediction(self, name: str, outputs: Mapping[str, Any]) -> str:
        """Return the text and the length of its waveform."""
        if "seconds" not in outputs:
            return super().format_prediction(name, outputs)
        return f"{name}: {outputs['seconds']:.2f} s at {outputs['sample_rate']} samples per second"

    def sample_labels(self, head: Head, scores: np.ndarray) -> np.ndarray:
        """Return constant frames with durations of one frame."""
        labels = np.zeros((*np.shape(scores)[:2], head.units + 3), np.float32)
        labels[..., : head.units], labels[..., -2] = 3.0, 1.0
        return labels


SPEECH_SYNTHESIS = SpeechSynthesis()
