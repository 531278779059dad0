"""tfft's cache on disk: its location, and atomic creation of its folders.

Implementation notes: entries are written under a temporary name and renamed, also if two processes make the same one. A
manifest detects damaged entries, which are computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tfft.errors import SavedModelError, TfftError

MANIFEST = "tfft_manifest.json"
SPARE = 64 * 2**20  # bytes to leave free on a disk


def cache_dir() -> Path:
    """Return the folder of tfft's cache: ``$TFFT_CACHE_DIR``, or ``~/.cache/tfft``.

    It is not created here; it can be deleted at any time.
    """
    chosen = os.environ.get("TFFT_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "tfft"


def free_space(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.is_dir())).free


def cached_folder(
    name: str, write: Callable[[Path], None], *, by_size: bool = False, error: type[TfftError] = SavedModelError
) -> Path:
    """Return a folder of the cache, created by ``write`` unless it is there and complete.

    Several processes may request the same entry at once: each writes its own copy, the first to finish renames it into
    place, and the others delete theirs.

    Args:
        name: Path of the entry below :func:`cache_dir`; it must depend on the content.
        write: Function that fills an empty folder.
        by_size: Whether to compare sizes of files instead of contents, for folders that take long to read.
        error: Class of the error to raise.

    Returns:
        The folder, which is complete and matches its manifest.

    Raises:
        TfftError: Of the given class, if the cache cannot be written.
    """
    target = cache_dir() / name
    if is_whole(target, by_size):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as failure:
        raise error(
            f"Cannot write tfft's cache {target.parent} ({failure}). Choose another folder with the environment "
            "variable TFFT_CACHE_DIR."
        ) from failure
    try:
        write(aside)
        _write_manifest(aside, by_size)
        aside.chmod(0o755)  # mkdtemp makes it private
        _put_in_place(aside, target, by_size, error)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def is_whole(folder: Path, by_size: bool = False) -> bool:
    """Whether a folder of the cache matches its manifest; with ``by_size`` by file sizes only."""
    try:
        wanted = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(wanted, dict) and wanted == _digests(folder, by_size)


def _digests(folder: Path, by_size: bool) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name == MANIFEST:
            continue
        if by_size:
            found[path.relative_to(folder).as_posix()] = f"{path.stat().st_size} bytes"
        else:
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _write_manifest(folder: Path, by_size: bool) -> None:
    text = json.dumps(_digests(folder, by_size), indent=1)
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(aside: Path, target: Path, by_size: bool, error: type[TfftError]) -> None:
    for _ in range(3):
        try:
            aside.rename(target)
            return
        except OSError:  # it exists already: another process was faster, or it is damaged
            if is_whole(target, by_size):
                return
            move_away(target)
    raise error(f"{target} cannot be replaced. Delete it and try again.")


def move_away(target: Path, suffix: str = ".damaged") -> None:
    """Rename a folder, then remove it, so that no process sees it partly removed.

    Args:
        target: Folder to remove; a missing folder is not an error.
        suffix: Suffix of its name until it is removed.
    """
    broken = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=suffix, dir=target.parent))
    try:
        target.rename(broken / "entry")
    except FileNotFoundError:
        pass  # another process moved it
    shutil.rmtree(broken, ignore_errors=True)
