"""Digests of models, and handles that name one: ``handle@sha256:<64 hex digits>``.

What a handle stands for can change: an address is published anew, a folder is copied over. A pin says which content
was meant. Hidden here: what exactly is hashed.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from tfft.errors import HandleError, SavedModelError
from tfft.io.cache_dir import MANIFEST

_MARK = "@sha256:"


def split_pin(handle: str) -> tuple[str, str | None]:
    """Split ``"handle@sha256:..."`` into the handle and the digest; None where it is not pinned.

    Raises:
        HandleError: When what follows ``@sha256:`` is not 64 hex digits.

    Example:
        >>> split_pin("models/flowers@sha256:" + 64 * "0")[0]
        'models/flowers'
    """
    plain, mark, digest = handle.rpartition(_MARK)
    if not mark:
        return handle, None
    if not plain or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise HandleError(
            f"{handle!r} is not pinned properly: expected HANDLE{_MARK} and 64 hex digits, as "
            f"tfft.backbones.digest(path) and tfft inspect show them; received {len(digest)} characters."
        )
    return plain, digest.lower()


def pinned(handle: str, digest: str | None) -> str:
    """Return a handle with its pin, or as it is without one."""
    return handle if digest is None else f"{handle}{_MARK}{digest}"


def digest(path: str | os.PathLike[str]) -> str:
    """Return the digest of a model, by which a handle can be pinned.

    Use it to write down which model was looked at and found good: ``load_backbone(f"{path}@sha256:{digest(path)}")``
    opens this one and no other.

    Args:
        path: A folder (SavedModel, or folder of a text model), or a file (``.tar.gz``, ``.keras``).

    Returns:
        64 hex digits. Of a file the SHA-256 of its bytes, as ``sha256sum FILE`` prints it. Of a folder the SHA-256 of
        a text with one line for each file in it, sorted by the bytes of its path: SHA-256 of the content, two spaces,
        path within the folder with ``/``. In a shell, within the folder:
        ``find -L . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum``.
        (The manifest that tfft's own cache puts into a folder does not count.)

    Raises:
        HandleError: There is nothing at this path.
        SavedModelError: A part of the folder cannot be read, or is not a file.
    """
    path = Path(path).expanduser()
    try:
        if path.is_file():
            return _of_file(path)
        if not path.is_dir():
            raise HandleError(f"There is no file or folder {str(path)!r}, so it has no digest.")
        lines = [f"{_of_file(file)}  {name}\n" for name, file in _files(path)]
    except OSError as error:
        raise SavedModelError(f"{str(path)!r} cannot be read as a whole: {error}") from error
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def check_pin(handle: str, wanted: str | None, found: str) -> None:
    """Compare a digest with the one that a handle was pinned to.

    Raises:
        SavedModelError: They differ; the message has both.
    """
    if wanted is not None and wanted != found:
        raise SavedModelError(
            f"{handle!r} is pinned to different content, so it was not opened: expected sha256 {wanted}, found "
            f"{found}. "
            "It was changed or copied incompletely. If you want the new content, inspect it and pin "
            "its digest instead."
        )


def _files(folder: Path) -> list[tuple[str, Path]]:
    found: dict[str, Path] = {}
    for root, folders, names in os.walk(folder):
        linked = [name for name in folders if Path(root, name).is_symlink()]
        if linked:
            raise SavedModelError(f"{str(Path(root, linked[0]))!r} is a link to a folder, so there is no digest.")
        for name in names:
            file = Path(root, name)
            inside = file.relative_to(folder).as_posix()
            if inside == MANIFEST:
                continue
            if not file.is_file() or "\n" in inside or "\\" in inside:
                raise SavedModelError(
                    f"{str(file)!r} is not a regular file, or has an invalid name, so there is no digest."
                )
            found[inside] = file
    return sorted(found.items(), key=lambda item: os.fsencode(item[0]))


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
