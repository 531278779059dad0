"""Scores of generated texts: :class:`TextEvaluator`, :func:`text_scores`."""

from __future__ import annotations

import collections
import unicodedata
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfft.errors import DataError
from tfft.evaluation.scores import Scores
from tfft.layers.pair_tokenizer import SOURCE, PairTokenizer
from tfft.registry import Evaluator
from tfft.tasks.text_to_text.decoding import TextGenerator
from tfft.tasks.text_to_text.head import TextToTextHead

_DRAWS = 1000
_SAMPLES = 5
_CHINESE = "CJK"
_UNSPACED = frozenset({_CHINESE, "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"})


class TextEvaluator(Evaluator):
    """Decodes sources and compares with the targets, by BLEU and chrF.

    Args:
        head: Head with the settings of the search.
    """

    def __init__(self, head: TextToTextHead) -> None:
        self.head = head
        self.sources: list[str] = []
        self.targets: list[str] = []
        self.written: list[str] = []
        self.right, self.tokens = 0, 0
        self._tokenizer: PairTokenizer | None = None

    def check(self, labels: np.ndarray) -> None:
        """Raise DataError for labels that are not tokens."""
        if labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise DataError(
                f"Expected labels [B, T], the next token of each place and -1 for padding. Received: {labels.dtype} "
                f"{labels.shape}."
            )

    def observe(self, model: keras.Model, inputs: Any) -> None:
        """Decode the sources of a batch."""
        generator = TextGenerator.known(model, self.head)
        self._tokenizer, source = generator.tokenizer, inputs[SOURCE]
        self.written += self._tokenizer.read(generator.decode(source).numpy())
        self.sources += self._tokenizer.read(np.asarray(source))

    def weight(self, labels: np.ndarray, logits: np.ndarray) -> int:
        """Return the number of tokens in the mean loss of a batch."""
        return int((labels >= 0).sum())

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch of labels [B, T] and logits [B, T, V]."""
        there = labels >= 0
        self.right += int((logits.argmax(axis=-1) == labels)[there].sum())
        self.tokens += int(there.sum())
        if self._tokenizer is not None:
            self.targets += self._tokenizer.read(labels)

    def result(self, count: int, loss: float) -> Scores:
        """Return the scores of ``count`` pairs: BLEU where texts were decoded, else the accuracy of next tokens."""
        accuracy = self.right / max(1, self.tokens)
        if not self.written:
            half = 1.96 * float(np.sqrt(accuracy * (1 - accuracy) / max(1, self.tokens)))
            low, high = max(0.0, accuracy - half), min(1.0, accuracy + half)
            return Scores("text_to_text", count, loss, accuracy, (low, high), "accuracy", items="pairs")
        found = text_scores(self.written, self.targets)
        copied = text_scores(self.sources, self.targets, draws=0)
        exact = float(np.mean([a == b for a, b in zip(self.written, self.targets, strict=True)]))
        measures = {
            "bleu": found["bleu"], "chrf": found["chrf"], "chrf_low": found["chrf_low"],
            "chrf_high": found["chrf_high"], "exact_match": exact, "copy_chrf": copied["chrf"],
            "decoded": len(self.written),
        }  # fmt: skip
        samples = tuple(zip(self.sources, self.targets, self.written, strict=True))
        return Scores(
            "text_to_text", count, loss, accuracy, (found["bleu_low"], found["bleu_high"]), "bleu", copied["bleu"],
            measures=measures, items="pairs", notes=(found["signature"], *_samples(samples)),
        )  # fmt: skip


def text_scores(written: Sequence[str], targets: Sequence[str], *, draws: int = _DRAWS) -> dict[str, Any]:
    """Return BLEU and chrF of texts with sacrebleu (Post, "A call for clarity in reporting BLEU scores", 2018).

    Intervals are bootstraps over texts (Koehn, "Statistical significance tests for machine translation evaluation",
    2004). BLEU counts words; in scripts without spaces, characters. The signature names the tokenizer.

    Args:
        written: Generated texts.
        targets: Reference texts.
        draws: Bootstrap samples; 0 for no intervals.

    Returns:
        ``bleu``, ``chrf`` in 0 to 100, ``bleu_low``, ``bleu_high``, ``chrf_low``, ``chrf_high`` with ``draws``, and
        ``signature``.
    """
    from sacrebleu.metrics import BLEU, CHRF

    found: dict[str, Any] = {}
    signatures = []
    for name, metric in (("bleu", BLEU(tokenize=_tokenizer_for(targets))), ("chrf", CHRF())):
        found[name] = float(metric.corpus_score(list(written), [list(targets)]).score)
        signatures.append(f"{name}: {metric.get_signature()}")
        low, high = _interval(metric, written, targets, draws) if draws else (found[name], found[name])
        found |= {f"{name}_low": min(low, found[name]), f"{name}_high": max(high, found[name])}
    return {**found, "signature": "; ".join(signatures)}


def _tokenizer_for(targets: Sequence[str]) -> str:
    """Return the tokenizer of sacrebleu for some texts: ``zh`` for Chinese, ``char`` for other unspaced scripts."""
    scripts = collections.Counter(
        unicodedata.name(letter, "").partition(" ")[0] for text in targets for letter in text if letter.isalpha()
    )
    unspaced = {script: count for script, count in scripts.items() if script in _UNSPACED}
    if 2 * sum(unspaced.values()) <= scripts.total():
        return "13a"
    return "zh" if set(unspaced) == {_CHINESE} else "char"


def _interval(metric: Any, written: Sequence[str], targets: Sequence[str], draws: int) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of a metric over bootstrap samples of texts.

    ``_extract_corpus_statistics`` and ``_compute_score_from_stats`` are sacrebleu's own steps and have no public names.
    Its ``n_bootstrap`` does the same, but fails where a sample has a score of 0 (sacrebleu 2.6).
    """
    counts = np.asarray(metric._extract_corpus_statistics(list(written), [list(targets)]), float)
    often = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=draws)
    values = [float(metric._compute_score_from_stats(list(row)).score) for row in often @ counts]
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return low, high


def _samples(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return some texts with what was expected and what was written."""
    at = np.unique(np.linspace(0, len(rows) - 1, _SAMPLES).astype(int))
    return [f"  {rows[i][0]}\n    expected: {rows[i][1]}\n    written:  {rows[i][2]}" for i in at]
