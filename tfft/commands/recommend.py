"""``tfft recommend``: compare backbones on some data."""

from __future__ import annotations

import argparse

from tfft.commands.options import add_json, add_settings
from tfft.config import RunConfig
from tfft.console.output import SUCCESS, PrintResult, start_tensorflow
from tfft.settings import given_options

SUMMARY = "compare backbones on a dataset and recommend one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("data", metavar="DATA", help="as for `tfft train`")
    parser.add_argument(
        "--candidates", nargs="+", metavar="HANDLE",
        help="backbones to compare (those on this machine: installed packages, the caches of TensorFlow Hub and Keras)",
    )  # fmt: skip
    add_settings(
        parser, "minutes",
        help="Time for everything; the rest is spent on fine-tuning the two most promising backbones (probes only).",
    )  # fmt: skip
    parser.add_argument(
        "--max-examples", type=int, default=3200, metavar="N", help="training examples of the last round (%(default)s)"
    )
    add_settings(parser, "task", "text", "image", "audio", "label", "group", "image_size", "max_length")
    add_settings(parser, "delimiter", "encoding", "decimal", "validation", "seed")
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Compare backbones and print the table."""
    config = RunConfig(**given_options(RunConfig, options))
    config.check()
    start_tensorflow()
    from tfft.recommendation import recommend

    found = recommend(
        options.data, options.candidates, max_examples=options.max_examples, verbose=not options.json, config=config
    )  # fmt: skip
    print_result(found.to_dict(), str(found))
    return SUCCESS
