"""Scores of transcription: word and character error rate with intervals, a baseline, and the worst clips."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfft.errors import DataError, join_names
from tfft.evaluation.scores import Scores, wilson_interval
from tfft.heads import Head
from tfft.layers.pair_tokenizer import TargetTokenizer
from tfft.modalities.audio.attach import AUDIO_INPUT, CLIP_LAYER
from tfft.registry import Evaluator
from tfft.tasks.transcription import require_scores
from tfft.tasks.transcription.generator import TranscriptGenerator
from tfft.tasks.transcription.text import PADDING, STRANGE, decode

METRIC = "word_error_rate"
_DRAWS = 2000
_UNKNOWN = re.compile(" ?\u2047 ?")  # what SentencePiece writes for an unknown token
_WORST = 5


class TranscriptEvaluator(Evaluator):
    """Transcripts and answers of all clips; one for each evaluation.

    Args:
        head: Head of the model.

    Raises:
        DependencyError: If jiwer is missing.
    """

    def __init__(self, head: Head) -> None:
        require_scores()
        self._head: Any = head  # of this task
        self.names = list(head.class_names or ())
        self.truth: list[str] = []
        self.written: list[str] = []
        self.groups: list[int] = []

    def check(self, labels: np.ndarray) -> None:
        """Raise DataError for labels that are not the characters of the head."""
        if labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise DataError(
                "Expected labels [B, L], an integer for each character and -1 for padding. Received: "
                f"{labels.dtype} {labels.shape}."
            )
        strange = np.unique(labels[labels > len(self.names)]).tolist()
        if strange:
            raise DataError(
                f"Expected labels up to {len(self.names)} for an alphabet of {len(self.names)} characters. Received: "
                f"{join_names(strange)}. Encode the transcripts with the alphabet that the model was trained on."
            )

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch of labels [B, L] and logits [B, T, C + 1]."""
        self.written += [text.decode() for text in self._head.postprocess(logits)["text"].numpy()]
        for row in labels:
            self.truth.append(decode(row, self.names))
            self.groups.append(int(row.min(initial=PADDING)))  # below -1 for a named group

    def result(self, count: int, loss: float) -> Scores:
        """Return the scores of all clips."""
        import jiwer

        if not any(text.strip() for text in self.truth):
            raise DataError("No clip of the dataset has a transcript, so there is nothing to evaluate.")
        # A rate needs words: clips without a transcript are left out, and their number is reported.
        used = [at for at, text in enumerate(self.truth) if text.strip()]
        truth, written = [self.truth[at] for at in used], [self.written[at] for at in used]
        words, letters = jiwer.process_words(truth, written), jiwer.process_characters(truth, written)
        by_word, by_letter = _errors(words), _errors(letters)
        groups = np.array([self.groups[at] for at in used])
        usual = collections.Counter(truth).most_common(1)[0][0]
        measures = {
            METRIC: words.wer,
            **_character_measures(letters.cer, by_letter, groups),
            **{name: getattr(words, name) for name in ("substitutions", "deletions", "insertions")},
            "words": int(by_word[:, 1].sum()),
            "right": sum(one == other for one, other in zip(truth, written, strict=True)) / len(truth),
            **_counts(truth, groups, len(self.truth) - len(used)),
        }
        return Scores(
            task=self._head.task,
            examples=count,
            items="clips",
            loss=loss,
            accuracy=None,
            interval=error_interval(by_word, groups),
            metric=METRIC,
            majority_baseline=jiwer.wer(truth, [usual] * len(truth)),
            measures=measures,
            notes=self._worst(truth, written, by_letter),
        )

    def _worst(self, truth: Sequence[str], written: Sequence[str], errors: np.ndarray) -> tuple[str, ...]:
        """Return the alignments of the clips with the most wrong characters; nothing if all are right."""
        import jiwer

        order = [int(at) for at in np.argsort(-errors[:, 0], kind="stable")[:_WORST] if errors[at, 0]]
        if not order:
            return ()
        found = jiwer.process_words([truth[at] for at in order], [written[at] for at in order])
        shown = jiwer.visualize_alignment(found, show_measures=False)
        return (f"the {len(order)} clips with the most wrong characters:\n{shown.strip()}",)


class DecodedTranscriptEvaluator(TranscriptEvaluator):
    """Transcripts, and the texts that an encoder-decoder writes.

    Written texts are normalized as the transcripts are. A transcript is read back from its tokens; what the vocabulary
    does not cover counts as an error.
    """

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._tokenizer: TargetTokenizer | None = None

    def check(self, labels: np.ndarray) -> None:
        """Raise DataError for labels that are not tokens."""
        if labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise DataError(
                f"Expected labels [B, L], the next token of each place and -1 for padding. Received: {labels.dtype} "
                f"{labels.shape}."
            )

    def observe(self, model: keras.Model, inputs: Any) -> None:
        """Decode the clips of a batch."""
        generator = TranscriptGenerator.known(model, self._head)
        self._tokenizer = generator.tokenizer
        tokens = generator.decode(model.get_layer(CLIP_LAYER)(inputs[AUDIO_INPUT])).numpy()
        self.written += map(self._head.normalization, generator.tokenizer.read(tokens))

    def weight(self, labels: np.ndarray, logits: np.ndarray) -> int:
        """Return the number of tokens in the mean loss of a batch."""
        return int((labels >= 0).sum())

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add the transcripts of a batch of labels [B, L]."""
        if self._tokenizer is None:
            raise DataError("Expected batches of recordings, which a decoder transcribes. Received: logits alone.")
        texts = self._tokenizer.read(labels)
        self.truth += [_UNKNOWN.sub(STRANGE, text) for text in texts]
        self.groups += labels.min(axis=1, initial=PADDING).tolist()


def _character_measures(rate: float, errors: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Return the character error rate with the ends of its interval."""
    low, high = error_interval(errors, groups)
    name = "character_error_rate"
    return {name: rate, f"{name}_low": low, f"{name}_high": high}


def _counts(truth: Sequence[str], groups: np.ndarray, empty: int) -> dict[str, int]:
    """Return the numbers of groups, of characters outside of the alphabet and of empty transcripts, where above 0."""
    named = len(set(groups.tolist()))
    found = {"groups": named if named > 1 else 0, "outside_of_alphabet": sum(text.count(STRANGE) for text in truth)}
    return {name: count for name, count in {**found, "empty": empty}.items() if count}


def _errors(found: object) -> np.ndarray:
    """Return the wrong and all items of each clip, int [N, 2], from alignments of jiwer."""
    rows = []
    for truth, chunks in zip(found.references, found.alignments, strict=True):  # type: ignore[attr-defined]
        wrong = [one for one in chunks if one.type != "equal"]
        edits = sum(max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx) for c in wrong)
        rows.append((edits, len(truth)))
    return np.array(rows, np.int64)


def error_interval(errors: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Return a 95 % interval of an error rate, by a bootstrap over clips, or over speakers and their clips.

    The errors of one clip, and of one speaker, are not independent. With two and more groups, each sample draws groups
    and then clips of each drawn group (Davison and Hinkley, "Bootstrap methods and their application", 1997, section
    3.8). The interval is never narrower than the one from Wilson's score method for independent items, since a
    bootstrap of few errors is too sure.

    Args:
        errors: Integers [N, 2]: errors and items of each clip.
        groups: Group of each clip, int [N]; None for none.

    Returns:
        Lower and upper end.
    """
    random = np.random.default_rng(0)
    wrong, items = errors.sum(axis=0).tolist()
    kinds = np.zeros(len(errors), int) if groups is None else np.unique(groups, return_inverse=True)[1]
    members = [np.flatnonzero(kinds == kind) for kind in range(kinds.max(initial=0) + 1)]
    sums = np.zeros((_DRAWS, 2))
    for draw in range(_DRAWS):
        for kind in random.integers(len(members), size=len(members)) if len(members) > 1 else (0,):
            at = members[kind]
            sums[draw] += errors[at[random.integers(len(at), size=len(at))]].sum(axis=0)
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1), (0.025, 0.975)).tolist()
    alone = wilson_interval(min(wrong, items), items)
    return min(low, alone[0]), max(high, alone[1])
