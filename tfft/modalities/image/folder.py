"""Folders of labelled images: :func:`list_images`, :func:`load_images`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tfft.data.class_folders import FileType, list_class_folders, load_class_folders
from tfft.data.examples import Splits
from tfft.data.options import ReadOptions, options_from
from tfft.data.split import SplitOptions
from tfft.modalities.image.decode_errors import FOREIGN_SUFFIXES, SUFFIXES
from tfft.modalities.image.duplicates import find_duplicates
from tfft.modalities.image.examples import ImageFiles
from tfft.modalities.image.file_info import facts_of

IMAGE_FILES = FileType("image", "images", SUFFIXES, facts_of, find_duplicates, FOREIGN_SUFFIXES)


def list_images(
    folder: str | os.PathLike[str],
    strict: bool = False,
    check: bool = True,
    progress: Callable[[int, int], None] | None = None,
    *,
    least_classes: int = 2,
    store: str | os.PathLike[str] | None = None,
) -> ImageFiles:
    """List the images of a folder with one folder per class.

    Use it to inspect a dataset before training, or for data that is already split. Subfolders of a class folder belong
    to the class. Hidden files are ignored.

    Args:
        folder: Folder with the class folders.
        strict: Whether an unusable image is an error (all are named); files without an image suffix (``notes.txt``,
            ``README``) are only listed in ``skipped``.
        check: Whether to decode each file; without it, a damaged file fails later.
        progress: Function called with (files checked, files in total) while files are decoded.
        least_classes: Minimum number of class folders; 1 for data to evaluate on.
        store: File that stores the statistics of files, so that only new ones are read next time.

    Returns:
        :class:`ImageFiles`; skipped files are in ``skipped``.

    Raises:
        DataError: If the folder is missing, has fewer than ``least_classes`` classes or an empty class, or if
            ``strict`` and an image cannot be used.

    Example:
        >>> list_images("photos/").counts
        {'ants': 123, 'bees': 121}
    """
    return list_class_folders(
        ImageFiles, IMAGE_FILES, folder, ReadOptions(strict, check, progress, store), least_classes
    )


def load_images(folder: str | os.PathLike[str], **settings: Any) -> Splits[ImageFiles]:
    """Load a folder of images and split it into training and validation examples.

    If the folder has ``train/`` and ``val/`` (or ``valid/``, ``validation/``), these are used. Otherwise a hash of seed
    and file name draws a share of each class: the split is the same on every machine, and almost all files keep their
    side when others are added. Duplicates stay on one side. A ``test/`` folder is ignored.

    Args:
        folder: Class folders, or the split folders that contain them.
        **settings: Settings of :class:`tfft.data.SplitOptions` (``validation``, ``seed``, ``group``) and
            :class:`tfft.data.options.ReadOptions` (``strict``, ``check``, ``progress``, ``store``).

    Raises:
        DataError: If there is no usable data; the message names each class or file at fault.

    Example:
        >>> splits = load_images("photos/", validation=0.25)
        >>> len(splits.train), len(splits.validation), splits.split_from
        (184, 60, '25 % of each class in photos, drawn with seed 0')
    """
    return load_class_folders(ImageFiles, IMAGE_FILES, folder, *options_from(settings, SplitOptions, ReadOptions))
