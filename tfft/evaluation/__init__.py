"""How good a model is, with an interval: :func:`evaluate`. What is counted belongs to the task of its head."""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.evaluation.loop import evaluate  # noqa: E402
from tfft.evaluation.scores import ClassScore, Scores, wilson_interval  # noqa: E402

__all__ = ["ClassScore", "Scores", "evaluate", "wilson_interval"]
