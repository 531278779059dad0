"""Frozen features, computed once: :func:`split_frozen`, :func:`extract`, and linear heads on them.

Implementation notes: importing this package does not import TensorFlow: :func:`list_caches` and :func:`clear_caches`
work without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tfft.features.cache import CacheEntry, clear_caches, list_caches

if TYPE_CHECKING:
    from tfft.features.extraction import extract
    from tfft.features.feature_set import Features
    from tfft.features.linear_probe.nearest_mean import Prototypes, nearest_mean_head
    from tfft.features.linear_probe.solver import fit_linear_probe, set_head_weights
    from tfft.features.shards import Shard, extract_shard
    from tfft.features.split_model import split_frozen, split_head

__all__ = [
    "CacheEntry", "Features", "Prototypes", "Shard", "clear_caches", "extract", "extract_shard",
    "list_caches", "nearest_mean_head", "fit_linear_probe", "split_frozen", "split_head", "set_head_weights",
]  # fmt: skip

_MODULES = {
    "Features": "feature_set",
    "Prototypes": "linear_probe.nearest_mean",
    "Shard": "shards",
    "extract": "extraction",
    "extract_shard": "shards",
    "nearest_mean_head": "linear_probe.nearest_mean",
    "fit_linear_probe": "linear_probe.solver",
    "split_frozen": "split_model",
    "split_head": "split_model",
    "set_head_weights": "linear_probe.solver",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tfft.errors import require_platform

    require_platform()
    value = getattr(importlib.import_module(f"tfft.features.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
