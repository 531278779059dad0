"""tfft's own cache on disk: where it is, and how a folder gets into it whole or not at all.

Hides the temporary name, the rename, what happens when two processes make the same entry, and the
manifest by which a damaged entry is noticed and made anew instead of being used for ever.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tfft.errors import SavedModelError

MANIFEST = "tfft_manifest.json"


def cache_dir() -> Path:
    """Returns the folder of tfft's cache: ``$TFFT_CACHE_DIR``, or ``~/.cache/tfft``.

    It is not created here; deleting it is always safe.
    """
    chosen = os.environ.get("TFFT_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "tfft"


def cached_folder(name: str, write: Callable[[Path], None]) -> Path:
    """Returns a folder of the cache, made by ``write`` unless it is there and whole.

    Any number of processes may ask for the same entry at once: each that finds it missing makes its
    own copy aside, the first to finish puts it in place, the others drop theirs.

    Args:
        name: path of the entry below :func:`cache_dir`; it must change when the content would.
        write: fills an empty folder.

    Returns:
        The folder, which is complete and equal to its manifest.

    Raises:
        SavedModelError: the cache cannot be written.
    """
    target = cache_dir() / name
    if is_whole(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise SavedModelError(
            f"tfft's cache {target.parent} cannot be written ({error}). Choose another folder with the environment "
            "variable TFFT_CACHE_DIR."
        ) from error
    try:
        write(aside)
        _write_manifest(aside)
        aside.chmod(0o755)  # mkdtemp makes it private
        _put_in_place(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def is_whole(folder: Path) -> bool:
    """Tells whether a folder of the cache holds exactly what its manifest says."""
    try:
        wanted = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(wanted, dict) and wanted == _digests(folder)


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _write_manifest(folder: Path) -> None:
    text = json.dumps(_digests(folder), indent=1)
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(aside: Path, target: Path) -> None:
    for _ in range(3):
        try:
            aside.rename(target)
            return
        except OSError:  # there is one already: another process was faster, or it is damaged
            if is_whole(target):
                return
            _move_away(target)
    raise SavedModelError(f"{target} cannot be replaced. Delete it and try again.")


def _move_away(target: Path) -> None:
    broken = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".damaged", dir=target.parent))
    try:
        target.rename(broken / "entry")
    except FileNotFoundError:
        pass  # another process moved it
    shutil.rmtree(broken, ignore_errors=True)
