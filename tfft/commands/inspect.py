"""``tfft inspect``: the blocks and the input of a backbone."""

from __future__ import annotations

import argparse
from typing import Any

from tfft.commands.options import add_json, add_settings
from tfft.config import RunConfig
from tfft.console.output import SUCCESS, PrintResult, start_tensorflow
from tfft.settings import given_options

SUMMARY = "show the blocks and the input of a backbone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("handle", metavar="HANDLE", help="short name, folder, file or address of a model")
    add_settings(parser, "image_size", "input_range", "output", "signature", "trust", "constants", "per_example")
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Open a backbone and print its blocks and its input contract."""
    settings = given_options(RunConfig, options)
    RunConfig(**settings).check()
    start_tensorflow()
    from tfft.backbones import load_backbone
    from tfft.freezing import describe

    backbone = load_backbone(options.handle, **settings)
    table, spec = describe(backbone.model), backbone.input_spec
    values = {
        "name": backbone.name,
        "origin": backbone.origin,
        "digest": backbone.digest,
        "endpoint": backbone.endpoint,
        "input": spec and spec.to_dict(),
    }
    called = [f"Called: {backbone.endpoint}"] if backbone.endpoint else []
    lines = [str(table), *called, _input_sentence(spec), *backbone.notes]
    lines += [f"Digest: sha256:{backbone.digest}"] if backbone.digest else []
    print_result({**values, "notes": backbone.notes, **table.to_dict()}, "\n".join(lines))
    return SUCCESS


def _input_sentence(spec: Any) -> str:
    if spec is None:
        return "Input: not one image"
    low, high = spec.value_range
    size = f"{spec.height} x {spec.width} x {spec.channels} pixels{', or other sizes' if spec.flexible else ''}"
    return f"Input: {size}; 0 to 255 becomes {low:g} to {high:g} ({spec.source})"
