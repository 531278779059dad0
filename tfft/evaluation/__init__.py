"""How good a model is, with an interval: :func:`evaluate`. Hides the measures that belong to each kind of head."""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.evaluation.loop import evaluate  # noqa: E402
from tfft.evaluation.scores import ClassScore, Scores, wilson_interval  # noqa: E402
from tfft.tasks.token_classification.entities import Entity, entities  # noqa: E402

__all__ = ["ClassScore", "Entity", "Scores", "entities", "evaluate", "wilson_interval"]
