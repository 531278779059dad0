"""How a table is written: its encoding and what separates its fields, :func:`decode_table`, :func:`find_delimiter`.

What a byte-order mark or the table itself makes certain is used as is. For a guess, the caller reports to the
user in one sentence what was taken. The guesses are those of charset-normalizer (which TensorFlow brings, through
requests) and of ``csv.Sniffer``, and a guess about separators is taken only where it makes all rows equally long.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from tfft.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
DELIMITER_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
)  # fmt: skip
# Encodings of older programs, of which one is guessed.
_OLDER = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp932", "euc_jp", "gb18030", "big5",
          "euc_kr", "koi8_r", "mac_roman"]  # fmt: skip
_ONLY_DECIMAL = re.compile(r"(?:[^,]|(?<=\d),(?=\d))*", re.DOTALL)
_NEARLY = 0.1  # of the coherence that charset-normalizer gives a language
_SAMPLE = 50  # rows that a delimiter is judged by


def decode_table(data: bytes, path: Path, encoding: str | None) -> tuple[str, str | None]:
    """Decode a text file.

    Args:
        data: Content of the file.
        path: Path of the file, for messages.
        encoding: Encoding of the file; None for that of its byte-order mark, UTF-8, or a guess.

    Returns:
        The text without a byte-order mark, and the encoding where it was guessed, else None.

    Raises:
        DataError: When it is not in the encoding, with line and byte; or no encoding is likely.
    """
    if encoding is not None:
        plain = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        return _decoded(data, path, "utf-8-sig" if plain else encoding).removeprefix("\ufeff"), None
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if marked is not None:
        return _decoded(data, path, marked), None
    if b"\0" in data[:1000]:  # UTF-16 without a mark: of Latin text every second byte is 0
        name = "utf-16-le" if data[:1000:2].count(0) < data[1:1000:2].count(0) else "utf-16-be"
        return _decoded(data, path, name), name
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        guess = _guessed(data)
    if guess is None:
        _decoded(data, path, "utf-8")  # raises
    return data.decode(str(guess)), guess


def _guessed(data: bytes) -> str | None:
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return None
    matches = from_bytes(data, cp_isolation=_OLDER, enable_fallback=False)
    if (best := matches.best()) is None:
        return None
    # Of some that fit a few letters equally well, the one that is in use most.
    equal = [m for m in matches if m.chaos <= best.chaos and m.coherence >= best.coherence - _NEARLY]
    names = {name for match in equal for name in match.could_be_from_charset}
    return min(names & set(_OLDER), key=_OLDER.index, default=best.encoding)


def _decoded(data: bytes, path: Path, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except LookupError as error:
        raise DataError(
            f"Unknown encoding {encoding!r}. Expected, for example: utf-8, utf-16, cp1252, shift_jis."
        ) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        at = error.start - (data.rfind(b"\n", 0, error.start) + 1)
        raise DataError(
            f"{path}:{line} is not {encoding.removesuffix('-sig')}: byte {at} of the line is "
            f"0x{data[error.start]:02x}. Save the file as UTF-8, or pass its encoding, such as encoding='cp1252'."
        ) from error


def find_delimiter(text: str, usual: str) -> str:
    """Return the delimiter of a table.

    Args:
        text: Text of the table.
        usual: Delimiter that the suffix of the file suggests.

    Returns:
        The usual one if it makes all rows equally long; else another one that does; else the usual one.
    """
    first = text.partition("\n")[0]
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # written by Excel for itself
        return first.strip()[4]
    if _width(text, usual) > 1:
        decimal = usual == "," and _ONLY_DECIMAL.fullmatch(text[:20_000]) and _width(text, ";") > 1
        return ";" if decimal else usual
    try:
        sniffed = [csv.Sniffer().sniff(text[:20_000], "".join(DELIMITERS)).delimiter]
    except csv.Error:
        sniffed = []
    candidates = dict.fromkeys([*sniffed, *DELIMITERS])
    return next((one for one in candidates if _width(text, one) > 1), usual)


def _width(text: str, delimiter: str) -> int:
    """Return the number of fields that all of the first rows have, or 0."""
    widths: list[int] = []
    limit = csv.field_size_limit(2**31 - 1)
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if row:
                widths.append(len(row))
            if len(widths) > _SAMPLE:
                break
    except csv.Error:
        return 0
    finally:
        csv.field_size_limit(limit)
    return widths[0] if len(set(widths)) == 1 else 0


def looks_like_data(header: Sequence[str]) -> bool:
    """Return whether the header row looks like a row of values."""
    return any(_is_value(field) for field in header)


def _is_value(field: str) -> bool:
    field = field.strip()
    path = Path(field.replace("\\", "/"))
    has_ending = 2 <= len(path.suffix) <= 5 and path.suffix[1:].isalnum() and not field.endswith(".")
    return not field or len(field) > 60 or _is_number(field) or (has_ending and " " not in path.suffix)


def _is_number(field: str) -> bool:
    try:
        float(field.replace(",", "."))
    except ValueError:
        return False
    return True
