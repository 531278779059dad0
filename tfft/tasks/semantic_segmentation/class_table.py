"""Names of the classes and their colours, from a file beside the masks: :func:`read_class_table`."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tfft.errors import DataError, join_names, raise_problems

FILES = ("classes.txt", "classes.csv", "classes.json", "class_dict.csv", "label_colors.txt", "labelmap.txt")

_NUMBER = r"(\d+)"
_BETWEEN = r"[\s,;]+"
_NAME_FIRST = re.compile(rf"(.+?)[\s,;:]+{_NUMBER}{_BETWEEN}{_NUMBER}{_BETWEEN}{_NUMBER}[\s,;:]*")
_NAME_LAST = re.compile(rf"{_NUMBER}{_BETWEEN}{_NUMBER}{_BETWEEN}{_NUMBER}{_BETWEEN}(\D.*)")
_HEADERS = ({"name", "r", "g", "b"}, {"class", "r", "g", "b"}, {"name", "red", "green", "blue"}, {"name"}, {"class"})

Row = tuple[str, tuple[int, int, int] | None, str]  # name, colour, place


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """Classes of masks, as a file lists them.

    Attributes:
        names: Names in the order of the values in the masks.
        colours: Colour of each class as ``red * 65536 + green * 256 + blue``; None for masks of values.
        source: Path of the file.
    """

    names: tuple[str, ...]
    colours: tuple[int, ...] | None
    source: str

    @property
    def are_grey(self) -> bool:
        """Whether all colours are grey levels, so that masks of one channel may hold them."""
        return self.colours is not None and all(code % 65793 == 0 for code in self.colours)


def code_of(colour: Sequence[int]) -> int:
    """Return a colour as one number."""
    red, green, blue = colour
    return red * 65536 + green * 256 + blue


def colour_of(code: int) -> tuple[int, int, int]:
    """Return the colour of a number."""
    return code // 65536, code // 256 % 256, code % 256


def find_class_table(folders: Iterable[Path]) -> ClassTable | None:
    """Read the first file with classes in some folders; None if there is none.

    Args:
        folders: Folders to look in, the first one with such a file wins.

    Raises:
        DataError: As :func:`read_class_table`.
    """
    for folder in folders:
        for name in FILES:
            if (folder / name).is_file():
                return read_class_table(folder / name)
    return None


def read_class_table(path: Path) -> ClassTable:
    """Read class names, and colours if there are some.

    Args:
        path: A text file with one class per line, ``name`` or ``name r g b`` or ``r g b name``, separated by spaces,
            commas, semicolons or colons; or a JSON file with a list of names, a mapping from names to colours, or a
            list of ``{"name": ..., "color": [r, g, b]}``. Lines that start with ``#`` are comments.

    Raises:
        DataError: With all lines at fault.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _json_rows(json.loads(text), path) if path.suffix == ".json" else _text_rows(text, path)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"The classes in {path} cannot be read: {error}. Save the file as UTF-8.") from error
    raise_problems(DataError, f"The classes in {path} cannot be used", _problems(rows))
    colours = [colour for _, colour, _ in rows if colour is not None]
    return ClassTable(tuple(name for name, _, _ in rows), tuple(map(code_of, colours)) if colours else None, str(path))


def _text_rows(text: str, path: Path) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines(), 1):
        line, place = line.strip(), f"line {number}"
        if not line or line.startswith("#"):
            continue
        first, last = _NAME_FIRST.fullmatch(line), _NAME_LAST.fullmatch(line)
        if last:
            rows.append((last[4].strip(), (int(last[1]), int(last[2]), int(last[3])), place))
        elif first:
            rows.append((first[1].strip(" ,;:\"'"), (int(first[2]), int(first[3]), int(first[4])), place))
        elif not rows and {word.strip().lower() for word in re.split(r"[,;\t ]+", line)} in _HEADERS:
            continue
        else:
            rows.append((next(csv.reader([line]))[0].strip() if path.suffix == ".csv" else line, None, place))
    return rows


def _json_rows(values: Any, path: Path) -> list[Row]:
    if isinstance(values, dict):
        values = [{"name": name, "color": colour} for name, colour in values.items()]
    rows: list[Row] = []
    for number, value in enumerate(values if isinstance(values, list) else [values]):
        place, colour = f"entry {number}", None
        if isinstance(value, dict):
            colour = value.get("color", value.get("colour", value.get("rgb")))
            value = value.get("name")
        fits = isinstance(colour, list) and len(colour) == 3 and all(isinstance(one, int) for one in colour)
        if not isinstance(value, str) or not (colour is None or fits):
            raise DataError(
                f"Expected in {path} a list of names, a mapping from names to [r, g, b], or a list of "
                f'{{"name": ..., "color": [r, g, b]}}. Received at {place}: {value!r}, colour {colour!r}.'
            )
        rows.append((value, None if colour is None else (colour[0], colour[1], colour[2]), place))
    return rows


def _problems(rows: Sequence[Row]) -> list[str]:
    problems = [] if len(rows) > 1 else [f"there must be at least 2 classes, received {len(rows)}"]
    coloured = [row for row in rows if row[1] is not None]
    if coloured and len(coloured) < len(rows):
        without = [f"{place} ({name})" for name, colour, place in rows if colour is None]
        problems.append(f"some lines have no colour: {join_names(without, limit=5)}. Write name, red, green, blue")
    for name, colour, place in rows:
        if not name:
            problems.append(f"{place} has no name")
        if colour is not None and max(colour) > 255:
            problems.append(f"{place} ({name}): colours go from 0 to 255, received {colour}")
    for what, values in (("name", [row[0] for row in rows]), ("colour", [row[1] for row in coloured])):
        twice = sorted({str(value) for value in values if values.count(value) > 1})  # type: ignore[arg-type]
        if twice:
            problems.append(f"two classes have the same {what}: {join_names(twice, limit=5)}")
    return problems
