"""Text files with one text per line: :func:`read_lines`."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from tfft.errors import DataError


def read_lines(files: Sequence[str]) -> list[str]:
    """Read texts from files with one text per line.

    Args:
        files: Paths of ``.txt`` files in UTF-8; ``-`` is the standard input.

    Raises:
        DataError: For another kind of file, or a line that is not UTF-8.
    """
    texts: list[str] = []
    for file in files:
        if file != "-" and not file.lower().endswith(".txt"):
            raise DataError(
                "Expected texts, since this model takes texts: --text, a .txt file with one per line, a table, or - "
                f"for the standard input. Received: {file!r}."
            )
        data = sys.stdin.buffer.read() if file == "-" else pathlib.Path(file).read_bytes()
        for number, line in enumerate(data.splitlines(), 1):
            try:
                texts.append(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{file}:{number} is not UTF-8: byte {error.start} of the line is 0x{line[error.start]:02x}."
                ) from error
    return texts
