"""Kinds of data: one package each for images, texts and audio."""

from __future__ import annotations

import tfft.data  # noqa: F401  it still imports modalities; importing it first keeps the cycle harmless
