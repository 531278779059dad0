"""Weight averaging: moving averages in training, WiSE-FT, and model soups.

Everything here works with ``model.compile`` and ``model.fit`` of Keras alone.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.weight_averaging.moving_average import ExponentialMovingAverage, StochasticWeightAveraging  # noqa: E402
from tfft.weight_averaging.soup import Soup, greedy_soup  # noqa: E402
from tfft.weight_averaging.wise_ft import Interpolation, interpolate  # noqa: E402

__all__ = [
    "ExponentialMovingAverage",
    "Interpolation",
    "Soup",
    "StochasticWeightAveraging",
    "greedy_soup",
    "interpolate",
]
