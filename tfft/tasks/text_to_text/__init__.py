"""Text to text: translation, summaries, and any other text that follows from a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfft.errors import installed_version, missing_package
from tfft.registry import Default, Evaluator, FeatureLevel, Metric, Modality, ScoreDisplay, Task

if TYPE_CHECKING:
    from tfft.heads import Head

__all__ = ["TEXT_TO_TEXT", "TextToText"]

INSTALL = 'pip install "tfft[translation]"'
_WITHOUT = {
    "class_weight": "a text has no class",
    "sampling": "a text has no class",
    "separator": "a text has no labels",
    "label": "target= names the column with the target texts",
    "augment": "no augmentation of a text is known to preserve its meaning",
}


class TextToText(Task):
    """A text for each text.

    A label is int32 [T], the tokens that follow each position of the target, -1 for padding.
    """

    name: ClassVar[str] = "text_to_text"
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    feature_level: ClassVar[FeatureLevel] = "sequence"
    solves_head: ClassVar[bool] = False
    trains_head: ClassVar[bool] = False
    head_reason: ClassVar[str] = "it has no weights: an encoder-decoder gives logits of the next token itself"
    caches_features: ClassVar[bool] = False
    selection: ClassVar[Metric] = Metric("accuracy")

    @property
    def reader(self) -> Modality | None:
        """The reader of pairs of texts."""
        from tfft.tasks.text_to_text.reader import TEXT_PAIRS

        return TEXT_PAIRS

    def encode(self, values: Sequence[Any], class_names: Sequence[str]) -> np.ndarray:
        """Return int32 [N, T], T the tokens of the longest target, -1 for padding.

        Args:
            values: Tokens of each target.
            class_names: Not used.
        """
        labels = np.full((len(values), max(map(len, values), default=0)), -1, np.int32)
        for row, tokens in enumerate(values):
            labels[row, : len(tokens)] = tokens
        return labels

    def head_factory(self) -> Callable[..., Head]:
        """Return :func:`tfft.heads.text_to_text`."""
        from tfft.tasks.text_to_text.head import text_to_text

        return text_to_text

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Make the head for a configuration; dropout and l2 do not apply, and class names would stand for tokens.

        Raises:
            DependencyError: If the package for the scores is missing, before a run has spent time on training.
        """
        require_scores()
        known = ("label_smoothing", "beam_size", "length_penalty", "units")
        given = {name: settings[name] for name in known if name in settings}
        return self.head_factory()(**{"units": max(1, len(class_names)), **given})

    def head_class(self) -> type[Head]:
        """Return the class of its heads."""
        from tfft.tasks.text_to_text.head import TextToTextHead

        return TextToTextHead

    def unsupported(self, config: Any) -> Iterator[str]:
        """Report settings for labels that are classes or numbers."""
        for name, why in _WITHOUT.items():
            if getattr(config, name, None):
                yield f"{name} does not apply to text_to_text, since {why}: leave it out"
        if getattr(config, "loss", "cross_entropy") != "cross_entropy":
            yield f"text_to_text has one loss, received loss={config.loss!r}: leave it out"

    def phase_defaults(self) -> Mapping[str, Default]:
        """Return label smoothing and batches of many tokens."""
        return {
            "label_smoothing": Default(0.1, "0.1, as Vaswani et al. (2017): a source has several good targets"),
            "batch_size": Default(
                128, "128 pairs of the mean length; batches are cut by tokens, so long pairs fill them"
            ),
        }

    def evaluator(self, head: Head) -> Evaluator:
        """Return a new object that decodes and compares texts."""
        from tfft.tasks.text_to_text.evaluator import TextEvaluator

        return TextEvaluator(head)  # type: ignore[arg-type]  # made by this task

    def score_display(self, metric: str) -> ScoreDisplay:
        """Return words for BLEU."""
        name, details = ("BLEU", "chrF {chrf:.2f}") if metric == "bleu" else (metric, "")
        return ScoreDisplay(name, baseline="copying the source", details=details, row="text", table="texts")

    def plain_outputs(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the generated text and its log-probability."""
        if "generated_text" not in row:
            return None
        text = row["generated_text"]
        text = text.item() if isinstance(text, np.ndarray) else text
        text = text.decode() if isinstance(text, bytes) else str(text)
        return {"generated_text": text, "log_probability": float(row["log_probability"])}

    def format_prediction(self, name: str, outputs: Mapping[str, Any]) -> str:
        """Return source and generated text in one line."""
        if "generated_text" not in outputs:
            return super().format_prediction(name, outputs)
        return f"{' '.join(name.split())} → {' '.join(outputs['generated_text'].split())}"

    def sample_labels(self, head: Head, scores: np.ndarray) -> np.ndarray:
        """Return the largest score of each place; the last place of every other text is padding."""
        labels = np.asarray(scores)[..., : head.units].argmax(-1).astype("int32")
        labels[::2, -1] = -1
        return labels


def require_scores() -> None:
    """Check that the package for the scores is installed.

    Raises:
        DependencyError: If it is not.
    """
    if installed_version("sacrebleu") is None:
        missing_package("sacrebleu", "The task text_to_text", INSTALL)


TEXT_TO_TEXT = TextToText()
