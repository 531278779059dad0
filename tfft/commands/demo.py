"""``tfft demo``: a whole run on data that comes with tfft or scikit-learn."""

from __future__ import annotations

import argparse

from tfft.console.output import FAILED, SUCCESS, PrintResult, start_tensorflow

SUMMARY = "train on handwritten digits, export, predict: about a minute, nothing to download"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "what",
        nargs="?",
        choices=["digits", "text"],
        default="digits",
        help="handwritten digits, or messages to a shop",
    )
    parser.add_argument("--out", metavar="DIR", help="new folder for all files (tfft-demo, tfft-demo-text)")


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Run the demo into ``options.out``."""
    start_tensorflow()
    from tfft import demo as showing

    if options.what == "text":
        shown = showing.demo_text(options.out or "tfft-demo-text")
    else:
        shown = showing.demo(options.out or "tfft-demo")
    return SUCCESS if shown.as_expected else FAILED
