"""Names of people's files and classes, compared and written so that they come back equal.

:func:`composed` gives names one form, :func:`format_lines` and :func:`parse_lines` write one per line, and
:func:`csv_text` makes a table of them. Knows no framework.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any


def composed(name: str) -> str:
    """Return a name in the one form in which names are compared (Unicode NFC).

    Mac writes "é" as two characters, Linux and Windows as one; they look the same and are meant to be the same.
    """
    return unicodedata.normalize("NFC", name)


def format_lines(names: Iterable[str]) -> str:
    """Return names with one in each line.

    A name that would not be one line, or that begins with a quotation mark, is written as a JSON string.

    Args:
        names: Any strings.

    Returns:
        Lines that :func:`parse_lines` reads back equal.
    """
    return "".join(f"{json.dumps(name) if _needs_quotes(name) else name}\n" for name in names)


def parse_lines(text: str) -> tuple[str, ...]:
    """Return the names in lines of :func:`format_lines`, or in those of versions without quotes.

    Args:
        text: With a line break after each name.
    """
    return tuple(_unquoted(line) for line in text.split("\n")[:-1])


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as the text of a ``.csv`` file that reads back equal, line breaks of every kind included.

    Args:
        rows: Their fields, the names of the columns first.
    """
    text = io.StringIO()
    plain, quoted = (csv.writer(text, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in rows:  # Python 3.12 and earlier leave a lone carriage return unquoted and cannot read it then
        (quoted if any("\r" in str(field) for field in row) else plain).writerow(row)
    return text.getvalue()


def _needs_quotes(name: str) -> bool:
    return name.splitlines() != [name] or name.startswith('"')


def _unquoted(line: str) -> str:
    if line.startswith('"'):
        try:
            name = json.loads(line)
        except json.JSONDecodeError:
            return line
        if isinstance(name, str) and _needs_quotes(name):
            return name
    return line
