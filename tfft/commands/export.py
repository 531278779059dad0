"""``tfft export``: the model of a run as a SavedModel for serving."""

from __future__ import annotations

import argparse
import dataclasses

from tfft.commands.options import add_json
from tfft.console.output import SUCCESS, PrintResult, start_tensorflow

SUMMARY = "write the model of a run as a SavedModel for serving"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder")
    parser.add_argument("out", metavar="OUT", help="version folder such as served/1, or served for the next version")
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Write the model of a run as a SavedModel."""
    start_tensorflow()
    from tfft import recipes
    from tfft.exporting import savedmodel

    savedmodel.version_folder(options.out)  # a wrong folder is an error before the model is loaded
    done = recipes.load_run(options.run_folder)
    exported = savedmodel.export(done.model, options.out, card=done.card)
    lines = [f"Exported to {exported.path}; largest difference to the Keras model {exported.largest_difference:.1e}"]
    lines += [f"  {name}: {text}" for name, text in exported.signatures.items()]
    values = dataclasses.asdict(exported) | {"path": str(exported.path)}
    print_result(values, "\n".join([*lines, *exported.notes]))
    return SUCCESS
