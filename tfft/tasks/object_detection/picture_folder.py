"""Images that annotation files name, looked for below one folder only: :class:`PictureFolder`.

Implementation notes: an annotation file may come from a stranger, and its paths from another machine. A name is never
followed out of the image folder: not by an absolute path, not by ``..`` and not through a link.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tfft.errors import DataError, join_names
from tfft.io.name_files import composed
from tfft.modalities.image.decode_errors import SUFFIXES

_DRIVE = re.compile(r"[A-Za-z]:|//")
_PARTS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
_USUAL = ("jpegimages", "images", "imgs", "img", "photos")
_TRIED = 50  # names by which a folder is recognized


class PictureFolder:
    """The images below a folder.

    Args:
        folder: Folder of the images.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._real = os.path.realpath(folder)
        self._by_name: dict[str, list[str]] | None = None

    def find(self, name: str) -> str:
        """Return the path of an image; one that does not exist if no image has the name.

        An image that is not where the name says is found by its last part where exactly one image has it, with or
        without the extension.

        Args:
            name: Relative path as written in an annotation.

        Raises:
            ValueError: If the name leads out of the folder, or may mean several images; the message is the rest of a
                sentence about the name.
        """
        plain = name.strip().replace("\\", "/")
        if not plain or "\0" in plain:
            raise ValueError("is not the name of an image")
        if plain.startswith("/") or _DRIVE.match(plain) or ".." in plain.split("/"):
            raise ValueError(
                f"leads out of the image folder {self.folder}: write names below it, without '..' or a first '/'"
            )
        written = self.folder / plain
        if not os.path.isfile(written):
            written = Path(self._elsewhere(plain) or written)
        real = os.path.realpath(written)
        if not (real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep)):
            raise ValueError(f"is a link that leads out of the image folder {self.folder}: put the file itself there")
        return str(written)

    def has(self, name: str) -> bool:
        """Whether an image is exactly where a name says."""
        try:
            return os.path.isfile(self.find(name))
        except ValueError:
            return False

    def _elsewhere(self, name: str) -> str | None:
        last = composed(name.rpartition("/")[2]).casefold()
        found = self._index.get(last, [])
        if len(found) > 1:  # one of them may have more of the folders in common
            near = [path for path in found if composed(path).casefold().endswith("/" + composed(name).casefold())]
            found = near or found
        if len(found) > 1:
            raise ValueError(f"may mean {join_names(found[:3])}: write the name with its folder")
        return found[0] if found else None

    @property
    def _index(self) -> dict[str, list[str]]:
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for path in images_in(self.folder):
                name = composed(os.path.basename(path)).casefold()
                self._by_name[name].append(path)
                self._by_name[os.path.splitext(name)[0]].append(path)
        return self._by_name


def images_in(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the image files below a folder in the order of their names; hidden ones and linked folders are left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(place, name)


def choose_folder(
    images: str | os.PathLike[str] | None, candidates: Iterable[Path], names: Sequence[str], source: str
) -> PictureFolder:
    """Return the folder that contains images with some names.

    Args:
        images: Folder that the user named, or None.
        candidates: Folders to look in otherwise, the likeliest first.
        names: Names as written in the annotations.
        source: Annotation file, for messages.

    Raises:
        DataError: If the folder that the user named does not exist, or no candidate has any of the images.
    """
    if images is not None:
        folder = Path(images).expanduser()
        if not folder.is_dir():
            raise DataError(f"Expected images= to be a folder of images. Received: {str(images)!r}, not a folder.")
        return PictureFolder(folder)
    looked = [folder for folder in dict.fromkeys(candidates) if folder.is_dir()]
    some = names[:: max(1, len(names) // _TRIED)][:_TRIED]
    places = [PictureFolder(folder) for folder in looked]
    exact = [sum(os.path.isfile(place.folder / name) for name in some) for place in places]
    # Only the folder of the annotations, and folders with a usual name, are searched in depth.
    deep = [place for at, place in enumerate(places) if not at or place.folder.name.lower() in _USUAL]
    places, counts = (places, exact) if any(exact) else (deep, [sum(map(place.has, some)) for place in deep])
    if not some and places:
        return places[0]
    if not any(counts):
        raise DataError(
            f"The images of {source} were not found, such as {some[0]!r}. Looked in "
            f"{join_names(looked) or 'no folder'}. Name their folder: images='...'."
        )
    # The first that has half of them: a folder further away may have all by the names of another dataset.
    at = next((at for at, count in enumerate(counts) if 2 * count >= len(some)), counts.index(max(counts)))
    return places[at]


def beside(folder: Path, part: str = "") -> list[Path]:
    """Return the folders in which the images of annotations in a folder usually lie, the likeliest first."""
    others = sorted(entry for entry in folder.parent.iterdir() if entry.is_dir()) if folder.parent.is_dir() else []
    usual = [entry for entry in others if entry.name.lower() in _USUAL]
    of_part = [entry for entry in others if part and part_of(entry.name) == part]
    inner = sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    return [folder, *inner, *of_part, *usual, *others]


def part_of(name: str) -> str:
    """Return the part of the data that the name of a file or folder states, such as ``instances_train2017.json``."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_PARTS[word] for word in words if word in _PARTS), "")


def part_folders(root: Path) -> list[tuple[str, Path]]:
    """Return the parts and folders of data in ``train/``, ``valid/`` and ``test/``; only the root if there are none."""
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    parts = [(_PARTS[entry.name.lower()], entry) for entry in folders if entry.name.lower() in _PARTS]
    return parts if any(part == "train" for part, _ in parts) else []
