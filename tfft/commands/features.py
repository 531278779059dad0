"""``tfft features``: compute the frozen features for a training run in advance, possibly on several machines."""

from __future__ import annotations

import argparse
import dataclasses

from tfft.commands.options import add_json
from tfft.config import RunConfig
from tfft.console.output import SUCCESS, PrintResult, start_tensorflow
from tfft.plans import PLAN_NAMES
from tfft.settings import add_arguments as add_run_settings
from tfft.settings import given_options

SUMMARY = "compute the frozen features for a training run in advance, in shards on several machines"
_GROUPS = {"training": "training", "data": "data and model", "text": "texts and labels"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("data", metavar="DATA", help="as for `tfft train`")
    parser.add_argument("--backbone", default="efficientnet-lite0", metavar="HANDLE", help="as for `tfft train`")
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="part I of N, such as 2/4 (all examples)"
    )
    parser.add_argument("--cache", metavar="DIR", default="auto", help="folder for features (user's cache folder)")
    groups = add_run_settings(parser, RunConfig, _GROUPS)
    groups["training"].add_argument(
        "--plan", metavar="NAME", help=f"named plan: {', '.join(PLAN_NAMES)} (chosen from the data)"
    )
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Compute features and print what is still missing."""
    config = RunConfig(**given_options(RunConfig, options))
    config.check()
    start_tensorflow()
    from tfft.recipes import cache_features

    found = cache_features(
        options.backbone, options.data, shard=options.shard, plan=options.plan, cache=options.cache,
        verbose=not options.json, config=config,
    )  # fmt: skip
    shards = {
        phase: [dataclasses.asdict(shard) | {"rows": [shard.rows.start, shard.rows.stop]} for shard in each]
        for phase, each in found.shards.items()
    }
    print_result({"shards": shards, "notes": found.notes, "is_complete": found.is_complete}, str(found))
    return SUCCESS


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with a number from 1 to N, such as 2/4, received {text!r}")
    return int(number), int(count)
