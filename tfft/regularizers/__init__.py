"""Against overfitting: pulls towards the pretrained weights, averages of weights, points between two models.

Everything here works with ``model.compile`` and ``model.fit`` of Keras alone.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.regularizers.anchoring import L2SP, Anchoring, anchor, release  # noqa: E402
from tfft.regularizers.averaging import ExponentialAverage, WeightAverage  # noqa: E402
from tfft.regularizers.batch_norm import refresh_batch_norm  # noqa: E402
from tfft.regularizers.interpolating import Interpolation, interpolate  # noqa: E402
from tfft.regularizers.reinitializing import reinitialize  # noqa: E402
from tfft.regularizers.souping import Soup, greedy_soup  # noqa: E402

__all__ = [
    "L2SP",
    "Anchoring",
    "ExponentialAverage",
    "Interpolation",
    "Soup",
    "WeightAverage",
    "anchor",
    "greedy_soup",
    "interpolate",
    "refresh_batch_norm",
    "reinitialize",
    "release",
]
