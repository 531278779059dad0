"""Names that come from elsewhere as names of files and folders: :func:`safe_name`, :func:`class_folder_names`.

Hides what a name may not hold so that every system keeps it, and that no name leads out of the folder it is put into.
Characters that it may not hold are written as in addresses, ``a/b`` as ``a%2Fb``; ``urllib.parse.unquote`` reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_FORBIDDEN = frozenset('<>:"/\\|?*%\x7f') | {chr(code) for code in range(32)}
# On Windows these are devices, with any extension; what comes behind are files that systems make in folders of photos.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
_RESERVED |= {"thumbs", "desktop", "__macosx", "icon"}
_LONGEST = 180  # bytes: file systems allow 255, and extensions follow


def safe_name(name: str) -> str:
    """Return a name that can be that of a file or folder everywhere, and is another one for another name.

    Args:
        name: any text, also an empty one.

    Example:
        >>> safe_name("Ram C/V"), safe_name(".."), safe_name("con")
        ('Ram C%2FV', '%2E%2E', '%63on')
    """
    found = "".join(_coded(char) if char in _FORBIDDEN or "\ud800" <= char <= "\udfff" else char for char in name)
    if found.startswith((".", " ")):  # hidden, or one of the two that lead elsewhere
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
    """Return the name of the folder of each class; names that differ by case only get folders that differ in more.

    Args:
        names: of the classes.
    """
    folded = [name.casefold() for name in names]
    return {
        name: safe_name(name) if folded.count(fold) == 1 else _capitals(safe_name(name))
        for name, fold in zip(names, folded, strict=True)
    }


def _coded(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def _capitals(name: str) -> str:
    """Codes capital letters: on many disks they are the same as small ones."""
    parts = name.split("%")
    # Behind each % are two digits of a code, which stay.
    tails = [part[:2] + "".join(map(_small, part[2:])) for part in parts[1:]]
    return "%".join(["".join(map(_small, parts[0])), *tails])


def _small(char: str) -> str:
    return char if char == char.casefold() else _coded(char)
