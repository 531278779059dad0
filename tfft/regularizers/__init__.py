"""Regularizers: the L2-SP pull of weights towards their pretrained values.

Everything here works with ``model.compile`` and ``model.fit`` of Keras alone.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.regularizers.l2_sp import L2SP, Anchoring, anchor, release  # noqa: E402

__all__ = ["L2SP", "Anchoring", "anchor", "release"]
