"""Settings of reading that all kinds of data share: :class:`ReadOptions`, :class:`TableOptions`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from tfft.errors import did_you_mean, join_names


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    Attributes:
        strict: True makes a file or row that cannot be used an error, all of them named; else it is listed in
            ``skipped``.
        check: False skips decoding every file once; a damaged one then fails later.
        progress: called with (files done, files in all).
        store: file that keeps the statistics of files, so that only new ones are read the next time.
    """

    strict: bool = False
    check: bool = True
    progress: Callable[[int, int], None] | None = None
    store: str | os.PathLike[str] | None = None


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """What the columns of a table hold, besides the inputs.

    Attributes:
        label: column of the labels.
        task: ``"classification"``, ``"multilabel"`` (several labels in a list, or with a ``separator``),
            ``"regression"`` (numbers), ...; ``"auto"`` looks at the labels.
        separator: between the labels of one example.
        root: folder of the files that a table names; that of the table by default.
        encoding: of the table; None for UTF-8 or what its bytes say.
        delimiter: between the fields of the table; None looks at the rows.
        decimal: ``","`` for labels such as 1,5; None looks at the labels.
    """

    label: str | int = "label"
    task: str = "auto"
    separator: str | None = None
    root: str | os.PathLike[str] | None = None
    encoding: str | None = None
    delimiter: str | None = None
    decimal: str | None = None


def setting_names(*classes: type) -> frozenset[str]:
    """Returns the names of the settings that options have."""
    return frozenset(field.name for each in classes for field in dataclasses.fields(each))


def options_from(settings: dict[str, Any], *classes: Any) -> tuple[Any, ...]:
    """Deals settings out to the options that they belong to.

    Raises:
        TypeError: for a setting that none of them has, with the nearest one.
    """
    known = setting_names(*classes)
    unknown = [name for name in settings if name not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise TypeError(f"There is no setting {unknown[0]!r}.{hint} There are {join_names(sorted(known))}.")
    return tuple(each(**{name: settings[name] for name in setting_names(each) & set(settings)}) for each in classes)
