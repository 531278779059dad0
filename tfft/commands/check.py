"""``tfft check``: report problems in a dataset."""

from __future__ import annotations

import argparse

from tfft.commands.options import add_json, add_settings
from tfft.console.output import FAILED, SUCCESS, PrintResult, start_tensorflow

SUMMARY = "check a dataset for problems before training on it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "data", metavar="DATA", help="folder of class folders, perhaps in train/ and val/; table; tfds:NAME"
    )
    parser.add_argument(
        "--backbone", metavar="HANDLE", help="check labels too, with a probe on its features, and find larger crops"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with thumbnails of the findings")
    add_settings(parser, "task", "text", "image", "images", "masks", "ignore")
    add_settings(parser, "audio", "label", "target", "delimiter", "encoding", "decimal")
    add_settings(parser, "seed", default=0, help="Seed for the split of texts and for the probe.")
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Report problems in a dataset; the exit code is 1 if there are any."""
    start_tensorflow()
    from tfft import inspection
    from tfft.console.progress import reading_bar

    with reading_bar() as progress:
        report = inspection.check(
            options.data,
            backbone=options.backbone,
            text=options.text,
            image=options.image,
            audio=options.audio,
            label=options.label,
            target=options.target,
            task=options.task or "auto",
            images=options.images,
            masks=options.masks,
            ignore=options.ignore,
            delimiter=options.delimiter,
            encoding=options.encoding,
            decimal=options.decimal,
            seed=options.seed,
            progress=progress,
        )
    if options.html:
        report.write_html(options.html)
    print_result(report.to_dict(), str(report))
    return FAILED if any(finding.level == "error" for finding in report.findings) else SUCCESS
