"""Modalities: one package each for images, texts and audio; :mod:`tfft.registry` lists them.

Each package exports its public names, which are imported on first use, so that importing a modality is cheap.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

__all__ = sorted(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a package that imports its names on first use.

    Args:
        package: ``__name__`` of the package.
        modules: Module of each name, relative to the package or absolute.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = modules[name]
        return getattr(importlib.import_module(f".{module}" if "." not in module else module, package), name)

    return get, lambda: sorted(modules)
