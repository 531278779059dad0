"""Tasks: what a label means, one package each; :func:`tfft.registry.task` gives one by its name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import tfft.data  # noqa: F401  it still imports tasks; importing it first keeps the cycle harmless

__all__ = sorted(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
