"""Rates: which rate each block gets, how it goes over the steps, and how to find one.

Everything here works with ``model.compile`` and ``model.fit`` of Keras alone.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.optimizers.factory import optimizer_names, optimizer_of  # noqa: E402
from tfft.optimizers.layerwise_lr import block_factors  # noqa: E402
from tfft.optimizers.lr_finder import LearningRates, lr_find  # noqa: E402
from tfft.optimizers.per_variable_lr import ScaledOptimizer  # noqa: E402
from tfft.optimizers.schedules import SCHEDULES, Piece, PiecewiseSchedule, schedule_of  # noqa: E402
from tfft.optimizers.slot_transfer import Carried, carry_slots  # noqa: E402

__all__ = [
    "SCHEDULES", "Carried", "LearningRates", "Piece", "PiecewiseSchedule", "ScaledOptimizer", "block_factors",
    "carry_slots", "lr_find", "optimizer_names", "optimizer_of", "schedule_of",
]  # fmt: skip
