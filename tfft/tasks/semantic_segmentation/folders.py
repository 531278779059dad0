"""Folders of images and masks: :func:`find_parts`, :func:`pairs_of`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from tfft.data.class_folders import existing
from tfft.data.split import key_of
from tfft.errors import DataError, did_you_mean, join_names
from tfft.modalities.image.folder import IMAGE_FILES
from tfft.tasks.semantic_segmentation.class_table import FILES

_PICTURES = ("images", "image", "imgs", "pictures", "photos", "jpegimages")
_MASKS = ("masks", "mask", "labels", "annotations", "annotation", "annot", "segmentationclass", "segmentation")
_ROLES = {"train": ("train", "training"), "validation": ("val", "valid", "validation")}
_TEST = ("test", "testing")
_LAYOUT = """Expected images and masks with the same names:
  {root}/
    images/  a.jpg  b.jpg  ...
    masks/   a.png  b.png  ...
or the same inside of {root}/train/ and {root}/val/. Other folders of masks: masks="FOLDER"."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Images and masks that belong together.

    Attributes:
        pictures: Folder of the images.
        masks: Folder of the masks.
        names: Names without suffix to read, of a list; None for all.
    """

    pictures: Path
    masks: Path
    names: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """Parts of a data folder.

    Attributes:
        root: The folder.
        parts: Parts by role, ``"train"`` and ``"validation"``; ``""`` for data that is not split.
        test: An ignored ``test/`` folder, or None.
    """

    root: Path
    parts: dict[str, Part]
    test: str | None = None

    @property
    def places(self) -> list[Path]:
        """Folders in which a file with the classes may lie, the data folder first."""
        folders = [self.root]
        if self.root.name.lower() in (*_TEST, *sum(_ROLES.values(), ())):  # a part of a data folder, by itself
            folders.append(self.root.parent)
        for part in self.parts.values():
            folders += [part.pictures.parent, part.masks.parent, part.masks]
        return list(dict.fromkeys(folders))


@dataclasses.dataclass(frozen=True)
class Pair:
    """Image and mask.

    Attributes:
        picture: Path of the image.
        mask: Path of the mask.
        name: Name of the example, the path of the image below the data folder.
    """

    picture: str
    mask: str
    name: str


def find_parts(folder: str | Path, masks: str | Path | None = None) -> Layout:
    """Find the folders of images and masks.

    Accepted are ``images/`` and ``masks/`` (or ``labels``, ``annotations``), the same inside of ``train/`` and
    ``val/``, ``images/train`` with ``masks/train`` and so on, and the folders of PASCAL VOC (``JPEGImages``,
    ``SegmentationClass`` and ``ImageSets/Segmentation/train.txt`` with ``val.txt``).

    Args:
        folder: Data folder.
        masks: Folder of the masks, absolute or below the data folder (or below each of its parts).

    Raises:
        DataError: If there are no such folders.
    """
    root = existing(folder)
    inside = _subfolders(root)
    test = next((str(inside[name]) for name in _TEST if name in inside), None)
    parts = {
        role: part
        for role, place in _by_role(root).items()
        if (part := _part(place, masks, Path(masks or "") / place.name, root)) is not None
    }
    if "train" in parts:
        return Layout(root, parts, test)
    if parts:
        raise DataError(f"{root} has {parts['validation'].pictures.parent.name}/ but no train/. {_layout(root)}")
    whole = _part(root, masks, Path(masks or ""), root)
    if whole is None:
        found = join_names([f"{name}/" for name in sorted(path.name for path in inside.values())]) or "no folder"
        hint = "" if masks is None else did_you_mean(str(masks), [path.name for path in inside.values()])
        given = "" if masks is None else f" with masks={str(masks)!r}"
        raise DataError(f"Received: {root}, which holds {found}{given}.{hint} {_layout(root)}")
    split = {
        role: Part(place, whole.masks / place.name)
        for role, place in _by_role(whole.pictures).items()
        if (whole.masks / place.name).is_dir()
    }
    if "train" in split:
        return Layout(root, split, test)
    return Layout(root, _listed(root, whole) or {"": whole}, test)


def is_split(folder: Path) -> bool:
    """Whether a folder has images and masks for training and others for validation."""
    try:
        return folder.is_dir() and "validation" in find_parts(folder).parts
    except DataError:  # masks elsewhere
        return {"train"} < set(_by_role(folder))


def has_masks(folder: Path) -> bool:
    """Whether a folder has images and PNG masks with the same names, as only this task has them."""
    try:
        part = next(iter(find_parts(folder).parts.values())) if folder.is_dir() else None
    except DataError:
        return False
    pictures = {path.stem for path in part.pictures.iterdir()} if part else set()
    return part is not None and any(path.suffix == ".png" and path.stem in pictures for path in part.masks.iterdir())


def pairs_of(part: Part, root: Path, problems: list[str]) -> list[Pair]:
    """Pair the images of a part with their masks by name.

    Args:
        part: Part of a layout.
        root: Folder that the names of the examples are relative to.
        problems: List to which sentences are added: for images without a mask, masks without an image, and files
            that cannot be masks.
    """
    pictures = _by_name(part.pictures, IMAGE_FILES.suffixes + IMAGE_FILES.foreign, problems)
    masks = _by_name(part.masks, None, problems)
    if part.names is not None or part.masks.name.lower() == "segmentationclass":
        wanted = set(part.names) if part.names is not None else set(masks)  # VOC has masks for some of its images
        problems += [f"{part.pictures}: {name} is listed, but has no image" for name in sorted(wanted - set(pictures))]
        pictures = {name: path for name, path in pictures.items() if name in wanted}
        masks = {name: path for name, path in masks.items() if name in wanted}
    spare = sorted(set(masks) - set(pictures))
    for name, path in pictures.items():
        if name not in masks:
            near = [masks[other].name for other in spare if other.startswith(name)][:1]
            hint = f" Did you mean {near[0]!r}? Give it the name of the image." if near else ""
            problems.append(f"{path} has no mask {part.masks / name}.png.{hint}")
    problems += [f"{masks[name]} has no image in {part.pictures}" for name in spare]
    return [
        Pair(str(path), str(masks[name]), key_of(str(path), root)) for name, path in pictures.items() if name in masks
    ]


def _part(place: Path, masks: str | Path | None, named: Path, root: Path) -> Part | None:
    """Return the images and masks in a folder; None if either is missing."""
    inside = _subfolders(place)
    pictures = next((inside[name] for name in _PICTURES if name in inside), None)
    if pictures is None:
        return None
    if masks is None:
        beside = next((inside[name] for name in _MASKS if name in inside), None)
    else:
        beside = next((path for path in (place / masks, root / named) if path.is_dir()), None)
    return None if beside is None else Part(pictures, beside)


def _listed(root: Path, whole: Part) -> dict[str, Part]:
    """Return the parts that the lists of PASCAL VOC make; empty without lists."""
    folder, parts = root / "ImageSets" / "Segmentation", {}
    for role, names in _ROLES.items():
        path = next((folder / f"{name}.txt" for name in names if (folder / f"{name}.txt").is_file()), None)
        if path is not None:
            listed = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
            parts[role] = dataclasses.replace(whole, names=listed)
    return parts if "train" in parts else {}


def _by_role(folder: Path) -> dict[str, Path]:
    inside = _subfolders(folder)
    return {role: inside[name] for role, names in _ROLES.items() for name in names if name in inside}


def _subfolders(folder: Path) -> dict[str, Path]:
    return {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}


def _by_name(folder: Path, suffixes: tuple[str, ...] | None, problems: list[str]) -> dict[str, Path]:
    """Return the files of a folder and those below it by their path without suffix."""
    found: dict[str, Path] = {}
    for path in _files(folder):
        if suffixes is None and (path.name.lower() in FILES or path.suffix.lower() in (".txt", ".md", ".json", ".csv")):
            continue
        if suffixes is not None and path.suffix.lower() not in suffixes:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            problems.append(f"{path} and {found[name].name} have the same name without their endings: rename one")
        else:
            found[name] = path
    return found


def _files(folder: Path) -> Iterator[Path]:
    hidden = ("thumbs.db", "desktop.ini")
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and path.name.lower() not in hidden and not any(p.startswith(".") for p in relative.parts):
            yield path


def _layout(root: Path) -> str:
    return _LAYOUT.format(root=root.name)
