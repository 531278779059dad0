"""Evaluation with confidence intervals: :func:`evaluate`. The task of the head defines the scores."""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.evaluation.abstention import Coverage, coverage_curve  # noqa: E402
from tfft.evaluation.loop import evaluate  # noqa: E402
from tfft.evaluation.optimism import selection_optimism  # noqa: E402
from tfft.evaluation.paired import Difference, paired_difference  # noqa: E402
from tfft.evaluation.scores import ClassScore, Scores, wilson_interval  # noqa: E402
from tfft.evaluation.temperature import TemperatureScaling, calibrate  # noqa: E402
from tfft.evaluation.thresholds import LabelThreshold, Thresholds, choose_thresholds  # noqa: E402

__all__ = [
    "ClassScore", "Coverage", "Difference", "LabelThreshold", "Scores", "TemperatureScaling", "Thresholds", "calibrate",
    "choose_thresholds", "coverage_curve", "evaluate", "paired_difference", "selection_optimism", "wilson_interval",
]  # fmt: skip
