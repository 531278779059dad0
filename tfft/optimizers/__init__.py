"""Learning rates: per block, over the steps, and a range test.

Everything here works with ``model.compile`` and ``model.fit`` of Keras alone.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.optimizers.factory import build_optimizer, optimizer_names  # noqa: E402
from tfft.optimizers.fused_updates import fuse_updates  # noqa: E402
from tfft.optimizers.layerwise_lr import layerwise_lr_multipliers  # noqa: E402
from tfft.optimizers.lr_finder import LearningRates, lr_find  # noqa: E402
from tfft.optimizers.per_variable_lr import LayerwiseOptimizer  # noqa: E402
from tfft.optimizers.schedules import SCHEDULES, PiecewiseSchedule, Segment, build_schedule  # noqa: E402
from tfft.optimizers.slot_transfer import SlotTransfer, transfer_slots  # noqa: E402

__all__ = [
    "SCHEDULES", "SlotTransfer", "LearningRates", "Segment", "PiecewiseSchedule", "LayerwiseOptimizer",
    "layerwise_lr_multipliers", "fuse_updates",
    "transfer_slots", "lr_find", "optimizer_names", "build_optimizer", "build_schedule",
]  # fmt: skip
