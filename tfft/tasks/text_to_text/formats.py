"""Files of pairs of texts: tables, parallel files and TMX: :func:`read_pairs_of`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfft.data.dialect import decode_table
from tfft.data.table import SUFFIXES, read_table
from tfft.errors import DataError, did_you_mean, join_names, missing_package

_TMX = ".tmx"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_DRIFT = 40  # lines beside a place where parallel files seem to part


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of texts as they are in their files.

    Attributes:
        sources: Texts to read.
        targets: Texts to write.
        places: Origin of each pair, such as ``en-de.tsv:12``.
        name: Name of the data, for messages.
        columns: Names of both sides, such as ("en", "de").
    """

    sources: Sequence[str]
    targets: Sequence[str]
    places: Sequence[str]
    name: str
    columns: tuple[str, str]


def read_pairs_of(
    source: Any, text: Any = None, target: Any = None, *, encoding: str | None = None, delimiter: str | None = None
) -> Pairs:
    """Read pairs of texts.

    Args:
        source: A table (``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or a DataFrame); a ``.tmx`` file; two parallel
            files, as a pair of paths or as ``{"source": path, "target": path}``; or a pair of lists of str.
        text: Column, or language of a TMX file, to read. Defaults to the first of two.
        target: Column, or language of a TMX file, to write. Defaults to the second of two.
        encoding: Encoding of files.
        delimiter: Delimiter between the fields of a table.

    Raises:
        DataError: If it cannot be read; the message names file, line and remedy.
    """
    if isinstance(source, Mapping):
        if set(source) != {"source", "target"}:
            hints = "".join(did_you_mean(str(name), ("source", "target")) for name in source)
            raise DataError(f"Expected the files 'source' and 'target'. Received: {join_names(source)}.{hints}")
        source = (source["source"], source["target"])
    if isinstance(source, (tuple, list)):
        return _two_lists(source, encoding)
    if isinstance(source, (str, os.PathLike)) and Path(source).suffix.lower() == _TMX:
        return _tmx(Path(source).expanduser(), text, target)
    if isinstance(source, (str, os.PathLike)) and Path(source).suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{source} is not a table of pairs. Expected {join_names((*SUFFIXES, _TMX))}, or two parallel files as "
            f"('{source}', 'other side')."
        )
    return _table(source, text, target, encoding, delimiter)


def _table(source: Any, text: Any, target: Any, encoding: str | None, delimiter: str | None) -> Pairs:
    numbered = isinstance(text, int) and isinstance(target, int)
    table = read_table(source, header=not numbered, encoding=encoding, delimiter=delimiter)
    known = table.columns or ()
    if text is None and target is None and len(known) == 2:
        text, target = known
    if text is None or target is None:
        missing = join_names([name for name, value in (("text", text), ("target", target)) if value is None])
        raise DataError(
            f"{table.name} has the columns {join_names(map(repr, known))}. Name the one to read with text= and the one "
            f"to write with target=. Missing: {missing}."
        )
    if text == target:
        raise DataError(f"text= and target= both name the column {text!r} of {table.name}. Name two columns.")
    sides = [
        ["" if v is None else v for v in table.column(one, role)] for one, role in ((text, "text"), (target, "target"))
    ]
    faults = [
        f"{place} holds a {type(value).__name__} in the column {name!r}. Expected a text"
        for name, values in zip((text, target), sides, strict=True)
        for place, value in zip(table.places, values, strict=True)
        if not isinstance(value, str) and value == value  # not the NaN of an empty field
    ]
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise DataError("; ".join(faults[:5]) + more + ".")
    texts = [[v if isinstance(v, str) else "" for v in values] for values in sides]
    return Pairs(texts[0], texts[1], table.places, table.name, (str(text), str(target)))


def _two_lists(source: Sequence[Any], encoding: str | None) -> Pairs:
    if len(source) != 2:
        raise DataError(f"Expected two parallel files, or two lists of texts. Received: {len(source)} of them.")
    if all(isinstance(part, (str, os.PathLike)) for part in source):
        first, second = (Path(part).expanduser() for part in source)
        lines = [_lines(path, encoding) for path in (first, second)]
        if len(lines[0]) != len(lines[1]):
            raise DataError(
                f"{first} has {len(lines[0]):,} lines and {second} has {len(lines[1]):,}, so their lines do not belong "
                f"together. {_where_they_part(*lines)}Remove or add the lines that one of them lacks."
            )
        places = [f"{first}:{at}" for at in range(1, len(lines[0]) + 1)]
        return Pairs(
            lines[0],
            lines[1],
            places,
            f"{first} and {second}",
            (first.suffix[1:] or "source", second.suffix[1:] or "target"),
        )
    sides = [list(part) for part in source]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"Expected as many targets as sources. Received: {len(sides[0])} sources, {len(sides[1])} targets."
        )
    for name, side in zip(("source", "target"), sides, strict=True):
        wrong = [at for at, value in enumerate(side) if not isinstance(value, str)]
        if wrong:
            kind = type(side[wrong[0]]).__name__
            raise DataError(f"Expected texts. Received: a {kind} as {name} {wrong[0]}, and {len(wrong) - 1} more.")
    return Pairs(sides[0], sides[1], [f"pair {at}" for at in range(len(sides[0]))], "the lists", ("source", "target"))


def _lines(path: Path, encoding: str | None) -> list[str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        parent = path.parent if path.parent.is_dir() else Path(".")
        hint = did_you_mean(path.name, [entry.name for entry in parent.iterdir()])
        raise DataError(f"{path} cannot be read: {error.strerror or error}.{hint}") from error
    text, _ = decode_table(content, path, encoding)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def _where_they_part(first: Sequence[str], second: Sequence[str]) -> str:
    """Return a sentence with the line from which lengths stop going together, if there is one.

    A missing line shifts all lines behind it, so their lengths are correlated before it and not after it. The line is
    the one where pairing with a shift explains the lengths better than pairing as it is.
    """
    import numpy as np

    count, shift = min(len(first), len(second)), len(first) - len(second)
    if count < 2 or abs(shift) > _DRIFT:
        return ""
    long, short = (first, second) if shift > 0 else (second, first)
    a, b = (np.log1p([len(line) for line in side]) for side in (long, short))
    straight = np.abs(a[: len(b)] - b)
    moved = np.abs(a[abs(shift) :] - b)
    costs = np.concatenate([[0.0], np.cumsum(straight)]) + np.concatenate([np.cumsum(moved[::-1])[::-1], [0.0]])
    return f"Judging by their lengths, they diverge near line {int(costs.argmin()) + 1}. "


def _tmx(path: Path, text: Any, target: Any) -> Pairs:
    """Read a TMX 1.4 file; entities are refused (billion laughs, external files)."""
    try:
        from defusedxml import DefusedXmlException, ElementTree
    except ImportError:
        missing_package("defusedxml", "A TMX file", 'pip install "tfft[translation]"')
    try:
        root = ElementTree.parse(path, forbid_dtd=False)
    except (OSError, ElementTree.ParseError, DefusedXmlException) as error:
        raise DataError(f"{path} cannot be read as TMX: {error}. Expected well-formed XML without entities.") from error
    units: list[dict[str, str]] = []
    for unit in root.iter("tu"):
        texts = {}
        for variant in unit.iter("tuv"):
            language = (variant.get(_LANG) or variant.get("lang") or "").lower()
            segment = variant.find("seg")
            texts[language] = "" if segment is None else "".join(segment.itertext())
        units.append(texts)
    known = list(dict.fromkeys(name for unit in units for name in unit))
    if text is None and target is None and len(known) == 2:
        text, target = known
    wanted = [_language(name, known, path, role) for name, role in ((text, "text"), (target, "target"))]
    sides = [[_of_language(unit, name) for unit in units] for name in wanted]
    places = [f"{path}: unit {at}" for at in range(1, len(units) + 1)]
    return Pairs(sides[0], sides[1], places, str(path), (wanted[0], wanted[1]))


def _language(name: Any, known: Sequence[str], path: Path, role: str) -> str:
    """Return a language of a file: itself, or the one whose first part it is (``de`` for ``de-AT``)."""
    asked = str(name).lower() if name is not None else ""
    if any(asked in (one, one.split("-")[0]) for one in known):
        return asked
    hint = did_you_mean(asked, known) if name is not None else ""
    raise DataError(f"{path} has no texts in the language {name!r} ({role}=).{hint} It has: {join_names(known)}.")


def _of_language(unit: Mapping[str, str], name: str) -> str:
    return next((text for key, text in unit.items() if name in (key, key.split("-")[0])), "")
