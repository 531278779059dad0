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
    """Read a table with a file and a label in each row, and splits it.

    Use it for pictures that are not sorted into folders, that have several labels each, or numbers. Copies of one
    picture stay on one side of the split.

    Args:
        source: a ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file, or a pandas DataFrame.
        image: column of the paths, absolute or below ``root``.
        **settings: of :class:`tfft.data.options.TableOptions` (``label``, ``task``, ``separator``, ``root``,
            ``encoding``), :class:`tfft.data.SplitOptions` and :class:`tfft.data.options.ReadOptions`.

    Returns:
        The examples; ``task`` says what the labels are: int32 [N] for one class each, float32 [N, K] of 0 and 1 for
        several, or float32 [N] for numbers.

    Raises:
        DataError: listing everything that is wrong, with file and line.

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
    """Read a whole table for a model that knows its classes.

    Args:
        source: as :func:`load_image_table` takes it.
        class_names: of the model; empty for numbers.
        image: column of the paths.
        **settings: of :class:`tfft.data.options.TableOptions`, and ``store``.

    Raises:
        DataError: as :func:`load_image_table`, and for labels that are not among the classes.
    """
    options = options_from(settings, TableOptions, ReadOptions)
    return read_file_table(ImageFiles, IMAGE_FILES, source, ("image", image), class_names, *options)
