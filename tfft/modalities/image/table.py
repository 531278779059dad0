"""Tables of image files and labels: :func:`load_image_table`, :func:`read_image_table`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfft.data.examples import Splits
from tfft.data.file_table import load_file_table, read_file_table
from tfft.data.options import ReadOptions, TableOptions, options_from
from tfft.data.split import SplitOptions
from tfft.modalities.image.examples import ImageFiles
from tfft.modalities.image.folder import IMAGE_FILES


def load_image_table(source: Any, *, image: str | int = "image", **settings: Any) -> Splits[ImageFiles]:
    """Load a table with a file and a label per row, and split it.

    Use it for images that are not sorted into folders, or with multi-label or numeric targets. Duplicates stay on one
    side of the split.

    Args:
        source: A ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file, or a pandas DataFrame.
        image: Column with the paths, absolute or relative to ``root``.
        **settings: Settings of :class:`tfft.data.options.TableOptions` (``label``, ``task``, ``separator``, ``root``,
            ``encoding``), :class:`tfft.data.SplitOptions` and :class:`tfft.data.options.ReadOptions`.

    Returns:
        The examples; ``task`` is the task of the labels: int32 [N] for classes, float32 [N, K] of 0 and 1 for
        multi-label, or float32 [N] for regression.

    Raises:
        DataError: If rows cannot be used; the message lists all problems with file and line.

    Example:
        >>> splits = load_image_table("flowers.csv", image="file", label="species")
        >>> splits.train.counts
        {'daisy': 40, 'rose': 38}
    """
    options = options_from(settings, TableOptions, SplitOptions, ReadOptions)
    return load_file_table(ImageFiles, IMAGE_FILES, source, ("image", image), *options)


def read_image_table(
    source: Any, class_names: Sequence[str], *, image: str | int = "image", **settings: Any
) -> ImageFiles:
    """Load a complete table for a model with known classes.

    Args:
        source: As in :func:`load_image_table`.
        class_names: Class names of the model; empty for regression.
        image: Column with the paths.
        **settings: Settings of :class:`tfft.data.options.TableOptions`, and ``store``.

    Raises:
        DataError: As in :func:`load_image_table`, and for labels outside of the classes.
    """
    options = options_from(settings, TableOptions, ReadOptions)
    return read_file_table(ImageFiles, IMAGE_FILES, source, ("image", image), class_names, *options)
