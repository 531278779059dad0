"""``tfft evaluate``: the scores of a run on labelled examples."""

from __future__ import annotations

import argparse

from tfft.commands.options import add_json, add_settings
from tfft.console.output import SUCCESS, PrintResult, start_tensorflow
from tfft.settings import parse_whole

SUMMARY = "evaluate a run on labelled images, texts or recordings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder")
    parser.add_argument(
        "data", metavar="DATA", help="folder with one folder per class (val/ if it is split); table; tfds:NAME"
    )
    parser.add_argument("--batch-size", type=parse_whole, default=32, metavar="N", help="examples per step (32)")
    add_settings(parser, "images")
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Evaluate the model of a run on labelled examples that it was not trained on."""
    start_tensorflow()
    from tfft import recipes
    from tfft.evaluation import evaluate as measure
    from tfft.recipes.labelled import labelled_data

    done = recipes.load_run(options.run_folder)
    dataset, skipped, words = labelled_data(done, options.data, options.batch_size, images=options.images)
    scores = measure(done.model, dataset)
    values = {"run": options.run_folder, "data": words, "skipped": skipped}
    print_result({**values, **scores.to_dict()}, f"{words}\n{scores}")
    return SUCCESS
