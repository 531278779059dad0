"""``tfft list``: the catalog of pretrained backbones."""

from __future__ import annotations

import argparse
import dataclasses

from tfft.commands.options import add_json
from tfft.console.output import SUCCESS, PrintResult
from tfft.errors import DataError, did_you_mean

SUMMARY = "list the pretrained backbones known by a short name"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("pattern", nargs="?", metavar="PATTERN", help="part of the name")
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Print the catalog."""
    from rich.table import Table

    from tfft.backbones import list_backbones

    presets = list_backbones(options.pattern)
    if not presets and not options.json:
        hint = did_you_mean(options.pattern, [preset.name for preset in list_backbones()])
        raise DataError(f"No backbone has {options.pattern!r} in its name.{hint} See all: tfft list.")
    table = Table("name", "kind", "size", "parameters", "licence", "description", title_justify="left")
    for preset in presets:
        size = f"{preset.input.height}x{preset.input.width}" if preset.input else ""
        table.add_row(preset.name, preset.kind, size, f"{preset.parameters:g} M", preset.licence, preset.description)
    print_result({"backbones": [dataclasses.asdict(preset) for preset in presets]}, table)
    return SUCCESS
