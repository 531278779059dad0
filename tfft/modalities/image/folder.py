"""A folder of labelled images: :func:`list_images`, :func:`load_images`."""

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
    """List the images of a folder that has one folder per class.

    Use it to look at a data set before training, or for data that is split already. Sub-folders
    of a class folder are part of the class. Hidden files are ignored.

    Args:
        folder: the folder that holds the class folders.
        strict: True makes every image that cannot be used an error, all of them named; files that are no
            images by their extension (``notes.txt``, ``README``) are only listed in ``skipped``.
        check: False skips decoding; a damaged file then fails later.
        progress: called with (files checked, files in all) while files are decoded.
        least_classes: how many class folders there must be; 1 for data to measure a model on.
        store: file that keeps the statistics of files, so that only new ones are read the next time.

    Returns:
        :class:`ImageFiles`; what was left out is in ``skipped``.

    Raises:
        DataError: If the folder is missing, holds fewer than ``least_classes`` or an empty
            class; or ``strict`` and an image cannot be used.

    Example:
        >>> list_images("photos/").counts
        {'ants': 123, 'bees': 121}
    """
    return list_class_folders(
        ImageFiles, IMAGE_FILES, folder, ReadOptions(strict, check, progress, store), least_classes
    )


def load_images(folder: str | os.PathLike[str], **settings: Any) -> Splits[ImageFiles]:
    """List a folder of images and decides which are held out for validation.

    Where the folder has ``train/`` and ``val/`` (or ``valid/``, ``validation/``), these are used.
    Otherwise a share of each class is drawn by a hash of seed and file name: the choice is the
    same on every machine, and a file keeps its side when others are added, but for the few at the
    border. Copies of one picture stay on one side. A ``test/`` folder is left alone.

    Args:
        folder: class folders, or the split folders that hold them.
        **settings: of :class:`tfft.data.SplitOptions` (``validation``, ``seed``, ``group``) and
            :class:`tfft.data.options.ReadOptions` (``strict``, ``check``, ``progress``, ``store``).

    Raises:
        DataError: If there is no usable data; the message names every class or file at fault.

    Example:
        >>> splits = load_images("photos/", validation=0.25)
        >>> len(splits.train), len(splits.validation), splits.split_from
        (184, 60, '25 % of each class in photos, drawn with seed 0')
    """
    return load_class_folders(ImageFiles, IMAGE_FILES, folder, *options_from(settings, SplitOptions, ReadOptions))
