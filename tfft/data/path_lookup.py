"""Files that a table names, found where the name is written in another way: :class:`PathLookup`.

Tables are written on one machine and read on another, or hold ids instead of names. A file is taken where exactly one
can be meant; each way of writing is reported once, with the number of rows.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tfft.errors import join_names
from tfft.io.name_files import composed

_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class PathLookup:
    """The files of one folder, by all names that may stand for them.

    Args:
        root: Folder of relative paths.
        suffixes: Suffixes of the files of the modality, in lowercase.
    """

    def __init__(self, root: Path, suffixes: Sequence[str]) -> None:
        self.root, self._suffixes = root, tuple(suffixes)
        self.changed: Counter[str] = Counter()  # rows by what was done to find their files
        self._folders: dict[Path, list[str]] = {}

    def find(self, name: str) -> str:
        """Return the path of a file; the path as written if no file, or several, may be meant."""
        written = self.root / name
        if written.exists():
            return str(written)
        plain = name.replace("\\", "/") if "\\" in name and not _DRIVE.match(name) else name
        found = self._existing(plain)
        if found is None:
            return str(self.root / plain)
        if plain != name:
            self.changed["with \\ instead of /"] += 1
        return str(found)

    def why_not(self, path: str) -> str | None:
        """Return the likeliest reason why there is no file of a name; None where nothing is known."""
        if os.path.exists(path):
            return None
        name = os.path.basename(path)
        drive = re.search(r"[A-Za-z]:[\\/].*|\\\\.*", path)
        if drive:
            return f"is a Windows path: write paths below one folder, and give that with root= (received {drive[0]!r})"
        same = [entry for entry in self._entries(Path(path).parent) if entry.rpartition(".")[0] == name]
        if same:
            return f"does not exist, but {' and '.join(map(repr, same[:3]))} do: write the extension into the table"
        return None

    @property
    def note(self) -> str:
        """Ways in which files were found, as part of a sentence; empty if all names were exact."""
        return join_names(f"{count} {how}" for how, count in self.changed.items())

    def _existing(self, name: str) -> Path | None:
        """Walk down to a file, taking another writing of each part where exactly one is there."""
        path = Path(name)
        place = Path(path.anchor) if path.is_absolute() else self.root
        parts = path.parts[1:] if path.is_absolute() else path.parts
        used: list[str] = []
        for at, part in enumerate(parts):
            if not (place / part).exists() and part != "..":
                entry, how = self._other_writing(place, part, last=at == len(parts) - 1)
                if entry is None:
                    return None
                part = entry
                used.append(how)
            place = place / part
        self.changed.update(set(used))
        return place

    def _other_writing(self, folder: Path, part: str, last: bool) -> tuple[str | None, str]:
        entries, wanted = self._entries(folder), composed(part)
        ways = (
            ("in another Unicode form", lambda entry: composed(entry) == wanted),
            ("with different capitalization", lambda entry: composed(entry).casefold() == wanted.casefold()),
            ("without their extension", lambda entry: last and self._is_stem(entry, wanted)),
        )
        for how, means in ways:
            meant = [entry for entry in entries if means(entry)]
            if len(meant) == 1:
                return meant[0], how
        return None, ""

    def _is_stem(self, entry: str, wanted: str) -> bool:
        stem, suffix = os.path.splitext(composed(entry))
        return stem == wanted and suffix.lower() in self._suffixes

    def _entries(self, folder: Path) -> list[str]:
        if folder not in self._folders:
            try:
                self._folders[folder] = sorted(os.listdir(folder))
            except OSError:
                self._folders[folder] = []
        return self._folders[folder]
