"""The frozen part of a model, run once: :func:`split`, :func:`extract`, and a head solved on the result.

What is offered here takes a model apart, computes what its frozen part gives with the fastest engine there
is, keeps it, and tells beforehand what that costs. Importing this package does not import TensorFlow:
:func:`list_caches` and :func:`clear_caches` work without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tfft.features.cache import CacheEntry, clear_caches, list_caches

if TYPE_CHECKING:
    from tfft.features.extracting import extract
    from tfft.features.flipping import flip_difference
    from tfft.features.found import Features
    from tfft.features.planning import Cut, CutPlan, plan
    from tfft.features.prototypes import Prototypes, nearest_mean_head
    from tfft.features.solving import solve_head, transplant
    from tfft.features.splitting import split, split_head

__all__ = [
    "CacheEntry", "Cut", "CutPlan", "Features", "Prototypes", "clear_caches", "extract", "flip_difference",
    "list_caches", "nearest_mean_head", "plan", "solve_head", "split", "split_head", "transplant",
]  # fmt: skip

_MODULES = {
    "Cut": "planning",
    "CutPlan": "planning",
    "Features": "found",
    "Prototypes": "prototypes",
    "extract": "extracting",
    "flip_difference": "flipping",
    "nearest_mean_head": "prototypes",
    "plan": "planning",
    "solve_head": "solving",
    "split": "splitting",
    "split_head": "splitting",
    "transplant": "solving",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tfft.errors import require_platform

    require_platform()
    value = getattr(importlib.import_module(f"tfft.features.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
