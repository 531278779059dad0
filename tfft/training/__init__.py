"""Trains a model phase by phase, and checks that each phase trained what it should: :func:`train`.

Hides the schedule, the bookkeeping of epochs, how the best weights are kept, and what is looked for
when a loss becomes NaN. What happens in between is ``model.compile`` and ``model.fit``.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.training.distributing import fit, is_chief, on_chief  # noqa: E402
from tfft.training.engine import Reduced, learning_rate_schedule, train, train_phase  # noqa: E402
from tfft.training.history import History  # noqa: E402

__all__ = ["History", "Reduced", "fit", "is_chief", "learning_rate_schedule", "on_chief", "train", "train_phase"]
