"""Tasks: what a label means, one package each."""

from __future__ import annotations

import tfft.data  # noqa: F401  it still imports tasks; importing it first keeps the cycle harmless
