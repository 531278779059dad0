"""Rates: which rate each block gets, how it goes over the steps, and how to find one.

Everything here works with ``model.compile`` and ``model.fit`` of Keras alone.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()
