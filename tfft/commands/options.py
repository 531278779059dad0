"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

from tfft.config import RunConfig
from tfft.settings import add_option


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def add_settings(parser: argparse.ArgumentParser, *names: str, default: Any = None, help: str | None = None) -> None:
    """Add options for settings of a run, as in ``tfft train``.

    Args:
        parser: Parser of the command.
        *names: Names of the settings.
        default: Default to show, for a command with a different one.
        help: Help, for a command in which the setting has a narrower meaning.
    """
    for name in names:
        add_option(parser, RunConfig, name, default=default, help=help)
