"""``tfft report``: a run as one HTML page."""

from __future__ import annotations

import argparse

from tfft.commands.options import add_json
from tfft.console.output import SUCCESS, PrintResult, start_tensorflow
from tfft.settings import parse_whole

SUMMARY = "write a run as an HTML page: scores, curves, calibration, mistakes, settings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder")
    parser.add_argument("--out", metavar="FILE", help="HTML file to write (report.html in the run folder)")
    parser.add_argument("--batch-size", type=parse_whole, default=32, metavar="N", help="examples per step (32)")
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Write the report of a run."""
    start_tensorflow()
    from tfft.reporting import write_report

    path = write_report(options.run_folder, options.out, batch_size=options.batch_size)
    print_result({"run": options.run_folder, "report": str(path)}, f"Report: {path}")
    return SUCCESS
