"""Against overfitting: pulls towards the pretrained weights, averages of weights, points between two models.

Everything here works with ``model.compile`` and ``model.fit`` of Keras alone.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()
