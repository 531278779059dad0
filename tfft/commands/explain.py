"""``tfft explain``: which words, regions or moments support a prediction."""

from __future__ import annotations

import argparse
import pathlib

from tfft import registry
from tfft.commands.opening import open_model
from tfft.commands.options import add_json
from tfft.console.output import SUCCESS, PrintResult
from tfft.errors import DataError

SUMMARY = "show which words, regions or moments support a prediction"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("model", metavar="RUN_OR_EXPORT", help="run folder, exported model or .keras file")
    parser.add_argument("files", nargs="*", metavar="FILE", help="images or recordings; for texts .txt files")
    parser.add_argument("--text", action="append", metavar="TEXT", help="a text; repeat the option for several")
    parser.add_argument("--text-pair", action="append", metavar="TEXT", help="the second text, for a model of pairs")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="class to explain (the predicted one)")
    parser.add_argument("--out", metavar="FILE", default="explanation.html", help="page to write (explanation.html)")
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Explain predictions and write them as a page."""
    if not options.files and not options.text:
        raise DataError("Expected image or audio FILEs, or texts with --text. Received: nothing.")
    if pathlib.Path(options.out).suffix.lower() not in (".html", ".htm"):
        raise DataError(f"--out: expected the name of a page, such as explanation.html. Received: {options.out}.")
    served = open_model(options.model)
    from tfft.explanation import explain
    from tfft.reporting import write_explanations

    taken = served.asked()
    asked = (options.files, options.text or (), options.text_pair or ())
    items = registry.modality(taken.modality).items_of_command(options.model, taken.spec, *asked)
    found = explain(served, items, options.class_name)
    page = write_explanations(found, options.out)
    lines = "\n".join([*map(str, found), f"Page: {page}"])
    result = {"model": options.model, "page": str(page), "explanations": [one.to_dict() for one in found]}
    print_result(result, lines)
    return SUCCESS
