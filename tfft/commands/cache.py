"""``tfft cache``: lists or removes cached features."""

from __future__ import annotations

import argparse
import dataclasses
import datetime

from tfft.commands.options import add_json
from tfft.console.output import SUCCESS, PrintResult

SUMMARY = "list or remove cached features"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "action", choices=["list", "clear"], metavar="list|clear", help="show the entries, or remove all"
    )
    parser.add_argument("--folder", metavar="DIR", help="the folder given to train as --cache (user's cache folder)")
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """List cached features, or remove them; needs no TensorFlow."""
    from rich.table import Table

    from tfft import features

    if options.action == "clear":
        freed = features.clear_caches(options.folder)
        print_result({"freed": freed}, f"{freed / 1e6:,.1f} MB freed")
        return SUCCESS
    entries = features.list_caches(options.folder)
    table = Table("written", "model", "examples", "features", "size", "engine", title_justify="left")
    for entry in entries:
        when = datetime.datetime.fromtimestamp(entry.written).strftime("%Y-%m-%d %H:%M")
        shapes = " and ".join(
            f"{' x '.join(map(str, s[1:])) or '1'} {t}" for s, t in zip(entry.shapes, entry.dtypes, strict=True)
        )
        table.add_row(when, entry.model, f"{entry.examples:,}", shapes, f"{entry.bytes / 1e6:,.1f} MB", entry.engine)
    values = [dataclasses.asdict(entry) | {"folder": str(entry.folder)} for entry in entries]
    print_result({"entries": values}, table if entries else "The cache is empty.")
    return SUCCESS
