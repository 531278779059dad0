"""Scores of a voice: mel cepstral distortion and errors of durations, with those of constant answers."""

from __future__ import annotations

import numpy as np

from tfft.errors import DataError
from tfft.evaluation.scores import Scores, mean_interval
from tfft.heads import Head
from tfft.layers.log_mel import frame_sizes
from tfft.registry import Evaluator
from tfft.tasks.speech_synthesis import MEAN_SPECTRUM, METRIC
from tfft.tasks.speech_synthesis.head import SpeechSynthesisHead
from tfft.tasks.speech_synthesis.losses import distortions


class SpeechEvaluator(Evaluator):
    """Sums over clips; the interval is that of the mean over clips.

    Args:
        head: Head with the statistics of the training data, which the baselines need.
    """

    def __init__(self, head: Head) -> None:
        if not isinstance(head, SpeechSynthesisHead):
            raise TypeError(f"Expected a SpeechSynthesisHead. Received: {type(head).__name__}.")
        self.head = head
        self.frames = self.symbols = 0
        self.distortion = self.squares = self.baseline = 0.0
        self.duration, self.duration_baseline = 0.0, 0.0

    def check(self, labels: np.ndarray) -> None:
        """Raise DataError for labels of another form."""
        if labels.ndim != 3 or labels.shape[2] != self.head.units + 3 or not np.isfinite(labels).all():
            raise DataError(
                f"Expected finite labels [B, T, {self.head.units + 3}]: frames with their durations. Received: "
                f"{labels.shape}."
            )

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch."""
        step = 1000 * frame_sizes(self.head.audio)[1] / self.head.audio.sample_rate  # milliseconds
        known = np.array(self.head.log_durations or [0.0] * len(self.head.class_names or ()))
        flat = np.zeros((*labels.shape[:2], self.head.units + 2))
        flat[..., :-2] = np.array(self.head.means or np.zeros(self.head.units))
        own = distortions(labels, logits)
        self.distortion, self.squares = self.distortion + float(own.sum()), self.squares + float((own**2).sum())
        self.baseline += float(distortions(labels, flat).sum())
        there = labels[..., -2] > 0
        true, given = labels[there].astype(np.float64), logits[there].astype(np.float64)
        weight, frames = true[:, -2], np.exp(true[:, -3])
        self.frames, self.symbols = self.frames + len(true), self.symbols + round(float(weight.sum()))
        self.duration += step * float((weight * np.abs(np.exp(np.minimum(given[:, -2], 9.0)) - frames)).sum())
        usual = np.exp(known[true[:, -1].astype(int)])
        self.duration_baseline += step * float((weight * np.abs(usual - frames)).sum())

    def result(self, count: int, loss: float) -> Scores:
        """Return the scores of ``count`` clips."""
        if not self.frames:
            raise DataError("No clip of the dataset has a frame, so there is nothing to evaluate.")
        low, high = mean_interval(self.distortion, self.squares, count)
        measures = {
            METRIC: self.distortion / count,
            "duration_error_ms": self.duration / max(self.symbols, 1),
            MEAN_SPECTRUM: self.baseline / count,
            "mean_duration_ms": self.duration_baseline / max(self.symbols, 1),
            "frames": self.frames,
            "symbols": self.symbols,
        }
        return Scores(
            task="speech_synthesis", examples=count, loss=loss, accuracy=None, interval=(max(0.0, low), high),
            metric=METRIC, measures=measures, items="clips",
        )  # fmt: skip
