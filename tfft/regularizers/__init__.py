"""Regularizers: the L2-SP penalty towards pretrained weights.

They work with ``model.compile`` and ``model.fit`` of Keras alone.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.regularizers.l2_sp import L2SP, L2SPPenalty, add_l2_sp, remove_l2_sp  # noqa: E402

__all__ = ["L2SP", "L2SPPenalty", "add_l2_sp", "remove_l2_sp"]
