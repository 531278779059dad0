"""``tfft preview``: a grid of images as training sees them."""

from __future__ import annotations

import argparse

from tfft.commands.options import add_json, add_settings
from tfft.config import RunConfig
from tfft.console.output import SUCCESS, PrintResult, start_tensorflow
from tfft.errors import DataError
from tfft.settings import parse_whole

SUMMARY = "draw images as training sees them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("data", metavar="DATA", help="folder of class folders, perhaps in train/ and val/")
    parser.add_argument("--out", metavar="FILE", default="preview.png", help="image to write (preview.png)")
    add_settings(parser, "task", "images", "masks", "ignore")
    add_settings(
        parser, "augment", help="Random changes: flip, crop, rand, colour, mosaic, or with a number as in crop=0.7."
    )
    add_settings(parser, "resize", default="crop")
    add_settings(parser, "image_size", default=160)
    parser.add_argument("--rows", type=parse_whole, default=6, metavar="N", help="rows of the grid (6)")
    parser.add_argument("--columns", type=parse_whole, default=6, metavar="N", help="columns of the grid (6)")
    add_settings(parser, "seed", default=0, help="Seed for the choice and the changes.")
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Draw a grid of training images and their views."""
    RunConfig(image_size=options.image_size, augment=options.augment, seed=options.seed).check()
    start_tensorflow()
    from tfft.data import load
    from tfft.data.loader import modality_of
    from tfft.io.atomic import write_whole
    from tfft.specs import InputSpec

    size = options.image_size
    height, width = (size, size) if isinstance(size, int) else size
    spec = InputSpec(height=height, width=width, resize=options.resize)
    folders = {"images": options.images, "masks": options.masks}
    splits = load(options.data, task=options.task or "auto", ignore=options.ignore, **folders)
    kind, examples = modality_of(splits), splits.train
    grid = {"augment": options.augment, "rows": options.rows, "columns": options.columns, "seed": options.seed}
    drawn = kind.preview(examples, spec, **grid)
    if drawn is None:
        raise DataError(f"{options.data} holds {kind.items}. Expected images.")
    png, height, width = drawn
    target = write_whole(options.out, png)
    values = {"file": str(target), "height": height, "width": width}
    print_result(values, f"{target}: {width} x {height} pixels, of {len(examples)} training images")
    return SUCCESS
