"""Portable and safe file names: :func:`safe_name`, :func:`class_folder_names`.

Implementation notes: forbidden characters are percent-encoded, ``a/b`` as ``a%2Fb``; ``urllib.parse.unquote`` decodes
them. No name can point outside of its folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_FORBIDDEN = frozenset('<>:"/\\|?*%\x7f') | {chr(code) for code in range(32)}
# Devices on Windows, with any extension; then files that operating systems create in photo folders.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
_RESERVED |= {"thumbs", "desktop", "__macosx", "icon"}
_LONGEST = 180  # bytes: file systems allow 255, and extensions follow


def safe_name(name: str) -> str:
    """Return a name that is valid on every file system; different names have different results.

    Args:
        name: Any text, even empty.

    Example:
        >>> safe_name("Ram C/V"), safe_name(".."), safe_name("con")
        ('Ram C%2FV', '%2E%2E', '%63on')
    """
    found = "".join(_coded(char) if char in _FORBIDDEN or "\ud800" <= char <= "\udfff" else char for char in name)
    if found.startswith((".", " ")):  # hidden files, and the links . and ..
        found = _coded(found[0]) + found[1:]
    if found.endswith((".", " ")):  # Windows drops them
        found = found[:-1] + _coded(found[-1])
    if found.split(".")[0].lower() in _RESERVED:
        found = _coded(found[0]) + found[1:]
    if len(found.encode()) > _LONGEST:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        found = found.encode()[: _LONGEST - 20].decode("utf-8", "ignore").rstrip(". %") + f"%..{digest}"
    return found or "%"


def class_folder_names(names: Sequence[str]) -> dict[str, str]:
    """Return the folder name of each class; names that differ by case only get clearly different folders.

    Args:
        names: Class names.
    """
    folded = [name.casefold() for name in names]
    return {
        name: safe_name(name) if folded.count(fold) == 1 else _capitals(safe_name(name))
        for name, fold in zip(names, folded, strict=True)
    }


def _coded(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def _capitals(name: str) -> str:
    """Percent-encode capital letters, because many file systems ignore case."""
    parts = name.split("%")
    # The two hex digits after each % stay.
    tails = [part[:2] + "".join(map(_small, part[2:])) for part in parts[1:]]
    return "%".join(["".join(map(_small, parts[0])), *tails])


def _small(char: str) -> str:
    return char if char == char.casefold() else _coded(char)
