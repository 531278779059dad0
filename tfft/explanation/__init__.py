"""Explanations of predictions: :func:`explain`."""

from __future__ import annotations

from tfft.explanation.explain_items import Explanation, explain, is_explained

__all__ = ["Explanation", "explain", "is_explained"]
