"""Options for reading, shared by all modalities: :class:`ReadOptions`, :class:`TableOptions`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from tfft.errors import did_you_mean, join_names


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """Options for reading files.

    Attributes:
        strict: Whether an unusable file or row is an error (all are named); otherwise they are listed in ``skipped``.
        check: Whether to decode every file once; without it, a damaged file fails later.
        progress: Function called with (files done, files in total).
        store: File that stores the statistics of files, so that only new ones are read next time.
    """

    strict: bool = False
    check: bool = True
    progress: Callable[[int, int], None] | None = None
    store: str | os.PathLike[str] | None = None


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """Columns of a table, besides the inputs.

    Attributes:
        label: Column with the labels.
        task: ``"classification"``, ``"multilabel"`` (several labels in a list, or with a ``separator``),
            ``"regression"`` (numbers), ...; ``"auto"`` infers it from the labels.
        separator: Separator between the labels of one example.
        root: Folder of the files in a table. Defaults to that of the table.
        encoding: Encoding of the table; None for UTF-8 or a guess from its bytes.
        delimiter: Delimiter between its fields; None infers it.
        decimal: ``","`` for labels such as 1,5; None infers it.
    """

    label: str | int = "label"
    task: str = "auto"
    separator: str | None = None
    root: str | os.PathLike[str] | None = None
    encoding: str | None = None
    delimiter: str | None = None
    decimal: str | None = None


def setting_names(*classes: type) -> frozenset[str]:
    """Return the names of the settings in option classes."""
    return frozenset(field.name for each in classes for field in dataclasses.fields(each))


def options_from(settings: dict[str, Any], *classes: Any) -> tuple[Any, ...]:
    """Distribute settings to the option classes that have them.

    Raises:
        TypeError: For a setting that none of them has, with the nearest one.
    """
    known = setting_names(*classes)
    unknown = [name for name in settings if name not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise TypeError(f"Unknown setting {unknown[0]!r}.{hint} Expected one of: {join_names(sorted(known))}.")
    return tuple(each(**{name: settings[name] for name in setting_names(each) & set(settings)}) for each in classes)
