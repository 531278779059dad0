"""Transcription: the spoken text of a recording."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfft.errors import installed_version, missing_package
from tfft.registry import Default, Evaluator, ExampleResult, FeatureLevel, Metric, Modality, ScoreDisplay, Task
from tfft.tasks.transcription.text import MOST_CHARACTERS, alphabet, decode, encode

if TYPE_CHECKING:
    from tfft.heads import Head

__all__ = ["TRANSCRIPTION", "Transcription"]

CTC, ENCODER_DECODER = "ctc", "encoder_decoder"
ARCHITECTURES = (CTC, ENCODER_DECODER)  # of the head, see tfft.heads.transcription

_WITHOUT = {
    "class_weight": "a transcript has many characters",
    "sampling": "a transcript has no class",
    "separator": "a transcript is one text",
    "label": "text= names the column of the transcripts",
    "label_smoothing": "the loss of CTC sums over alignments",
}


class Transcription(Task):
    """The text of a recording, written character by character.

    A label is int32 [L]: the numbers of the characters, -1 for padding, the number of characters for one outside of the
    alphabet. After the text, ``-(2 + g)`` may name the group of the clip, such as its speaker, for intervals.
    """

    name: ClassVar[str] = "transcription"
    modalities: ClassVar[frozenset[str]] = frozenset({"audio"})
    feature_level: ClassVar[FeatureLevel] = "sequence"
    solves_head: ClassVar[bool] = False
    head_reason: ClassVar[str] = "trained: which frame belongs to which character is not known, so no system gives it"
    input_columns: ClassVar[frozenset[str]] = frozenset({"audio", "text"})
    head_settings: ClassVar[tuple[str, ...]] = ("architecture", "letter_case", "punctuation", "beam_width")
    without: ClassVar[Mapping[str, str]] = _WITHOUT  # settings that do not apply, and why
    selection: ClassVar[Metric] = Metric("character_error_rate", higher_is_better=False)

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names of the heads."""
        return ARCHITECTURES

    def with_architecture(self, name: str | None) -> Task:
        """Return the task for a head of CTC, or for the pretrained decoder of a backbone."""
        from tfft.tasks.transcription.decoder_task import DECODER_TRANSCRIPTION

        return DECODER_TRANSCRIPTION if name == ENCODER_DECODER else TRANSCRIPTION

    @property
    def reader(self) -> Modality | None:
        """The reader of recordings with transcripts."""
        from tfft.tasks.transcription.reader import TRANSCRIBED

        return TRANSCRIBED

    def class_names(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Return the characters that occur, sorted."""
        return alphabet(values)

    def label_problems(self, values: Sequence[Any], class_names: Sequence[str], places: Sequence[str]) -> list[str]:
        """Return the places of empty transcripts."""
        return [f"{place} has an empty transcript" for value, place in zip(values, places, strict=True) if not value]

    def learning_problems(self, values: Sequence[Any], class_names: Sequence[str], *, split: bool) -> list[str]:
        """Report an alphabet that is too large for CTC."""
        if len(class_names) <= MOST_CHARACTERS:
            return []
        return [
            f"the transcripts have {len(class_names):,} different characters, and CTC needs a small alphabet, at most "
            f"{MOST_CHARACTERS}: write them in an alphabet (pinyin, kana), or check that the column holds transcripts"
        ]

    def encode(self, values: Sequence[Any], class_names: Sequence[str]) -> np.ndarray:
        """Return int32 [N, L], -1 for padding."""
        return encode(values, class_names)

    def counts(self, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
        """Return the number of times each character occurs."""
        known = labels[(labels >= 0) & (labels < len(class_names))]
        return dict(zip(class_names, np.bincount(known, minlength=len(class_names)).tolist(), strict=True))

    def head_factory(self) -> Callable[..., Head]:
        """Return :func:`tfft.heads.transcription`."""
        from tfft.tasks.transcription.head import transcription

        return transcription

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Make the head for a configuration; settings that are None keep their defaults.

        Raises:
            DependencyError: If the package for the scores is missing, before a run has spent time on training.
        """
        require_scores()
        known = ("dropout", "l2", "label_smoothing", *self.head_settings)
        return self.head_factory()(
            class_names, **{name: settings[name] for name in known if settings.get(name) is not None}
        )

    def head_class(self) -> type[Head]:
        """Return the class of its heads."""
        from tfft.tasks.transcription.head import TranscriptionHead

        return TranscriptionHead

    def unsupported(self, config: Any) -> Iterator[str]:
        """Report settings for one label per clip."""
        undecided = {"label_smoothing"} if config.architecture is None else ()  # the backbone may have a decoder
        for name, why in self.without.items():
            if name not in undecided and getattr(config, name, None):
                yield f"{name} does not apply to transcription, since {why}: leave it out"
        if getattr(config, "loss", "cross_entropy") != "cross_entropy":
            yield f"transcription has one loss, received loss={config.loss!r}: leave it out"

    def phase_defaults(self) -> Mapping[str, Default]:
        """Return small batches, little dropout and SpecAugment."""
        return {
            "dropout": Default(0.1, "0.1: each frame is an example, and a clip has hundreds of them"),
            "batch_size": Default(16, "16: each frame is an example, so few clips are enough for a step"),
            "augment": Default(("shift", "mask"), "SpecAugment, and silence before the first word"),
        }

    def phase_settings(self) -> Mapping[str, Any]:
        """Return AdamW with clipped gradients: the loss of one clip may be large."""
        return {"optimizer": "adamw", "weight_decay": 0.01, "global_clipnorm": 1.0}

    def evaluator(self, head: Head) -> Evaluator:
        """Return a new object that keeps transcripts and answers."""
        return head.evaluator()  # type: ignore[attr-defined]  # made by this task

    def score_display(self, metric: str) -> ScoreDisplay:
        """Name the scores."""
        return ScoreDisplay(
            "word error rate", higher_is_better=False, baseline="most common transcript",
            details="character error rate {character_error_rate:.4f}",
        )  # fmt: skip

    def join_parts(self, rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> dict[str, Any]:
        """Return the texts of consecutive parts, joined by spaces unless the alphabet has none, and their mean score.

        The mean is geometric, as that of the frames of a part is.
        """
        texts = [str(row["text"].decode()) for row in rows]
        between = " " if " " in class_names or not class_names else ""
        scores = np.maximum([float(row["score"]) for row in rows], np.finfo(float).tiny)
        return {"text": between.join(filter(None, texts)).encode(), "score": np.exp(np.log(scores).mean())}

    def format_prediction(self, name: str, outputs: Mapping[str, Any]) -> str:
        """Return the name and the text."""
        return f"{name}: {outputs['text']}" if "text" in outputs else super().format_prediction(name, outputs)

    def example_results(
        self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray
    ) -> list[ExampleResult] | None:
        """Rank clips by their character error rate."""
        import jiwer

        results = []
        for row, served in zip(labels, outputs["text"], strict=True):
            truth, written = decode(row, head.class_names or ()), served.decode()
            error = jiwer.cer(truth, written) if truth.strip() else float(len(written))
            results.append(ExampleResult(truth, written, error, correct=truth == written))
        return results

    def sample_labels(self, head: Head, scores: np.ndarray) -> np.ndarray:
        """Return the texts of the largest score of each frame, the last class being the blank."""
        best, blank = scores.argmax(-1), head.units - 1
        texts = [[at for i, at in enumerate(row) if at != blank and (i == 0 or at != row[i - 1])] for row in best]
        texts = [text or [int(row[:blank].argmax())] for text, row in zip(texts, scores[:, 0], strict=True)]
        return encode(texts, range(blank))  # type: ignore[arg-type]

    def score_served(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Mapping[str, float]:
        """Return the character error rate of the served texts, where it must equal the metric."""
        names = head.class_names or ()
        if " " in names or getattr(head, "beam_width", 1) > 1:  # spaces are stripped, and the metric decodes greedily
            return {}
        import jiwer

        letters = [chr(0xE000 + at) for at in range(len(names))]  # a class name of a test may have several characters
        any_name = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
        served = [
            "".join(letters[names.index(one)] for one in any_name.findall(text.decode())) for text in outputs["text"]
        ]
        return {"character_error_rate": jiwer.cer([decode(row, letters) for row in labels], served)}


def require_scores() -> None:
    """Check that the package for the scores is installed.

    Raises:
        DependencyError: If it is not.
    """
    if installed_version("jiwer") is None:
        missing_package("jiwer", "Transcription", 'pip install "tfft[speech]"')


TRANSCRIPTION = Transcription()
