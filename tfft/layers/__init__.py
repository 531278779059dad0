"""Keras layers of models built by tfft, registered so that a ``.keras`` file loads after ``import tfft``."""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

import keras  # noqa: E402, F401  before any layer: importing Keras imports all of them
