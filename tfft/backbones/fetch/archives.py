"""Archives of models, unpacked so that nothing but plain files inside of one folder can come out: :func:`unpack`.

Hides what a hostile archive can do to Python's ``tarfile``: links and devices, names that lead outside, headers that
claim gigabytes, sizes below zero, a few kilobytes that unpack to a full disk.
"""

from __future__ import annotations

import gzip
import platform
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO, NoReturn

from tfft.errors import SavedModelError, UnsafeModelError

SUFFIXES = (".tar.gz", ".tgz", ".tar")
MOST_BYTES = 64 * 2**30  # unpacked
MOST_MEMBERS = 100_000
MOST_RATIO = 200  # unpacked to packed; random numbers pack to 1, zeros to 1000
SMALL = 2**28  # unpacked bytes below which any ratio is fine
_MOST_HEADER = 2**20  # bytes of a long name or of extended attributes
_BLOCK = tarfile.BLOCKSIZE


class _Guarded:
    """What tarfile reads from: gives no more bytes, and no larger pieces, than an honest archive needs.

    Args:
        file: The unpacked stream.
        most: Bytes that may be passed over in it.
        path: Path of the archive, for messages.
    """

    def __init__(self, file: BinaryIO, most: int, path: Path) -> None:
        self._file, self._most, self._path = file, most, path
        self._reads = 0

    def read(self, size: int = -1) -> bytes:
        """Read as a file does; UnsafeModelError where tarfile was talked into reading too much."""
        self._reads += 1
        if not 0 <= size <= _MOST_HEADER:
            _refuse(self._path, f"a header in it claims {size:,} bytes")
        if self._reads > 4 * MOST_MEMBERS + self._most // 2**13:
            _refuse(self._path, "its headers never end")
        return self._file.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        """Move as a file does, within the bytes that are allowed."""
        if whence or not 0 <= position <= self._most:
            _refuse(self._path, f"it leads to byte {position:,} of itself, and at most {self._most:,} are unpacked")
        return self._file.seek(position)

    def tell(self) -> int:
        """Return the position in the unpacked stream."""
        return self._file.tell()

    def drain(self) -> None:
        """Read the rest, so that gzip compares its checksum."""
        while self._file.read(2**16):
            if self._file.tell() > self._most:
                _refuse(self._path, f"it unpacks to more than {self._most:,} bytes")


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive of a model into an empty folder.

    Args:
        path: A ``.tar``, ``.tar.gz`` or ``.tgz`` file.
        folder: Where to; what is in it after an error should not be used.

    Raises:
        UnsafeModelError: For a member that is not a plain file or folder or leads outside, and for more than 64 GiB,
            100,000 members, or 200 times the size of the archive.
        SavedModelError: When the archive is cut off, damaged or something else, or this version of Python (3.11.0 to
            3.11.3) lacks the filter that keeps its files inside of the folder.
    """
    if not hasattr(tarfile, "data_filter"):
        raise SavedModelError(
            f"{path} was not unpacked: Python {platform.python_version()} has no safe way to unpack tar archives "
            "(PEP 706). Unpack it yourself if you trust it, and give its folder; or use Python 3.11.4 or later."
        )
    plain = path.suffix.lower() == ".tar"
    packed = path.stat().st_size
    most = min(MOST_BYTES, packed + _BLOCK if plain else max(SMALL, MOST_RATIO * packed))
    try:
        with open(path, "rb") if plain else gzip.open(path, "rb") as stream:
            guarded = _Guarded(stream, most, path)  # type: ignore[arg-type]  # both are binary files
            with tarfile.open(fileobj=guarded, mode="r:") as archive:  # type: ignore[call-overload]  # it has what tarfile uses
                _unpack_members(archive, folder, path, most)
                # tarfile takes an archive cut between two members for a whole one.
                if guarded.tell() < archive.offset + _BLOCK:
                    raise EOFError("its end is missing")
                guarded.drain()
    except tarfile.FilterError as error:
        raise UnsafeModelError(f"{path} was not unpacked, it would write outside of its folder: {error}") from error
    except SavedModelError:
        raise
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise SavedModelError(
            f"{path} ({packed} bytes) cannot be unpacked ({error or type(error).__name__}): "
            "it is cut off, damaged or no .tar.gz. Download it again."
        ) from error


def _unpack_members(archive: tarfile.TarFile, folder: Path, path: Path, most: int) -> None:
    total = 0
    for count, member in enumerate(archive, start=1):
        total += member.size
        if not (member.isreg() or member.isdir()) or member.issparse():
            kind = "a link" if member.islnk() or member.issym() else "neither file nor folder"
            outside = f", to {member.linkname!r}, perhaps outside of its folder" if member.linkname else ""
            _refuse(path, f"{member.name!r} is {kind}{outside}; models hold plain files")
        if member.size < 0 or total > most:
            _refuse(path, f"{member.name!r} claims {member.size:,} bytes, and at most {most:,} are unpacked in all")
        if count > MOST_MEMBERS:
            _refuse(path, f"it holds more than {MOST_MEMBERS:,} files")
        archive.extract(member, folder, filter="data")


def _refuse(path: Path, reason: str) -> NoReturn:
    raise UnsafeModelError(f"{path} was not unpacked: {reason}. Download it again from a place that you trust.")
