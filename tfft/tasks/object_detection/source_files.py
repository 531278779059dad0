"""JSON and XML files of annotations.

They may come from strangers: :func:`mentions`, :func:`read_json`, :func:`read_xml`.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tfft.errors import DataError

Box = tuple[float, float, float, float]  # top, left, bottom, right


def mentions(file: Path, *keys: str) -> bool:
    """Whether a file has some keys of JSON anywhere, without parsing it."""
    if not file.is_file() or not file.stat().st_size:
        return False
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return all(content.find(f'"{key}"'.encode()) >= 0 for key in keys)


def read_json(file: Path, what: str, largest: int) -> Any:
    """Read a JSON file.

    Args:
        file: Path of the file.
        what: Name of the format, for messages.
        largest: Maximum number of bytes to read; the json module takes about eight times as much memory.

    Raises:
        DataError: If it is larger, or not JSON.
    """
    if (size := file.stat().st_size) > largest:
        raise DataError(
            f"Expected a {what} file of at most {largest // 10**6} MB, since it is read into memory. Received: {file} "
            f"of {size // 10**6} MB. Split it by images."
        )
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise DataError(f"{file} is not valid JSON: {error}.") from error


def read_xml(file: Path, what: str, tag: str, largest: int, problems: list[str]) -> ElementTree.Element | None:
    """Read an XML file without following anything out of it.

    A file with a document type is refused, since that is where entities come from that expand without end or read
    other files. Without it, ``xml.etree`` follows no reference.

    Args:
        file: Path of the file.
        what: Name of the format, for messages.
        tag: Expected root element.
        largest: Maximum number of bytes to read.
        problems: List to which a sentence is added if the file cannot be used.

    Returns:
        The root element; None if the file cannot be used.
    """
    try:
        data = file.read_bytes()
        plain = data.replace(b"\0", b"").upper()  # UTF-16 has a zero beside each letter
        if len(data) > largest:
            raise ValueError(f"has {len(data) // 10**6} MB. Expected {what} of at most {largest // 10**6} MB")
        if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
            raise ValueError("has a DOCTYPE, which an annotation does not need and which may expand or read files")
        tree = ElementTree.fromstring(data)  # without a DOCTYPE nothing can expand
    except (OSError, LookupError, ElementTree.ParseError) as error:
        problems.append(f"{file} cannot be read as XML: {error}")
    except ValueError as error:
        problems.append(f"{file} {error}")
    else:
        if tree.tag == tag:
            return tree
        problems.append(f"{file} holds <{tree.tag}>. Expected {what} in <{tag}>")
    return None


def parts_with(source: Path, is_one: Callable[[Path], bool], suffix: str) -> list[Path]:
    """Return the files of a folder with an ending that pass a test, in the order of their names."""
    if not source.is_dir():
        return []
    return [file for file in sorted(source.glob(f"*{suffix}")) if not file.name.startswith(".") and is_one(file)]


def number(text: str | None) -> float:
    """Return the number that a text writes; NaN if it writes none."""
    try:
        return float(text or "")
    except ValueError:
        return math.nan


def hull(points: Any) -> Box | None:
    """Return the smallest upright box around points [(x, y), ...]; None if they are not finite numbers."""
    try:
        pairs = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError, OverflowError):
        return None
    if not pairs or not all(math.isfinite(value) for pair in pairs for value in pair):
        return None
    x, y = zip(*pairs, strict=True)
    return min(y), min(x), max(y), max(x)


def turned(box: Sequence[float], degrees: float, centre: tuple[float, float]) -> list[tuple[float, float]]:
    """Return the corners (x, y) of a box (top, left, bottom, right) turned clockwise around a point (x, y)."""
    top, left, bottom, right = box
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    offsets = [(x - centre[0], y - centre[1]) for x, y in corners]
    return [(centre[0] + x * cosine - y * sine, centre[1] + x * sine + y * cosine) for x, y in offsets]
