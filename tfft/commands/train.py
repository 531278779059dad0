"""``tfft train``: from labelled examples to a run folder with model, records and export."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from tfft import registry
from tfft.config import Phase, RunConfig
from tfft.config.plan import PHASE_KEYWORDS
from tfft.console.output import SUCCESS, PrintResult, start_tensorflow
from tfft.console.profile import format_stages, profiling, stage
from tfft.errors import DataError, PlanError
from tfft.plans import PLAN_NAMES, NamedPlan, named
from tfft.settings import add_arguments as add_settings
from tfft.settings import given_options, help_table, parse_assignment

SUMMARY = "train a model on labelled images, texts or recordings"
_GROUPS = {"training": "training", "data": "data and model", "text": "texts and labels"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "settings of phases, for --set:\n" + help_table(Phase, PHASE_KEYWORDS)
    parser.add_argument(
        "data", nargs="?", metavar="DATA",
        help="folder with one folder per class, of images or recordings, or with train/ and val/; or a table of texts "
        "or of files: .csv, .tsv, .jsonl; or tfds:NAME for TensorFlow Datasets",
    )  # fmt: skip
    parser.add_argument(
        "--backbone",
        metavar="HANDLE",
        help="pretrained model, see `tfft list` (auto: efficientnet-lite0 "
        "for images and recordings, minilm for texts, a small network from scratch for text and speech generation)",
    )
    parser.add_argument("--out", required=True, metavar="RUN", help="new folder for the model and its records")
    parser.add_argument("--config", metavar="PLAN", help="plan.yaml of an earlier run, to repeat it")
    groups = add_settings(parser, RunConfig, _GROUPS)
    training = groups["training"]
    training.add_argument("--plan", metavar="NAME", help=f"named plan: {', '.join(PLAN_NAMES)} (chosen from the data)")
    training.add_argument(
        "--set", type=parse_assignment, nargs="+", metavar="NAME=VALUE",
        help="settings of the plan's phases, such as layer_decay=0.8; see below",
    )  # fmt: skip
    training.add_argument(
        "--cache", metavar="PLACE", help="cache frozen features in this folder, in memory, or off (user's cache folder)"
    )
    training.add_argument(
        "--log", nargs="+", default=(), metavar="TRACKER", help="follow the run with tensorboard, mlflow or wandb"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "-v", "--verbose", dest="level", action="store_const", const=2, default=1,
        help="print every setting with its reason, every epoch and the table of blocks",
    )  # fmt: skip
    shown.add_argument("-q", "--quiet", dest="level", action="store_const", const=0, help="print nothing but errors")
    parser.add_argument("--profile", action="store_true", help="print the time of each stage")
    groups["data"].add_argument("--no-export", action="store_true", help="do not write the SavedModel to RUN/export")


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Fine-tune a backbone on labelled examples and write a run."""
    if options.data is None and options.config is None:
        raise DataError(
            "Give the folder with the examples, tfft train DATA --out RUN, or the plan of a run with --config."
        )
    config, strategy = RunConfig(**given_options(RunConfig, options)), _strategy(options)
    config.check()
    if strategy is not None:
        strategy.check(config)
    with profiling():
        with stage("import TensorFlow"):
            start_tensorflow()
            from tfft import recipes
        return _run(options, config, strategy, recipes)


def _run(options: argparse.Namespace, config: RunConfig, strategy: NamedPlan | None, recipes: Any) -> int:
    plan = None if options.config is None else recipes.plan_from_yaml(options.config)
    handle, data = options.backbone or "auto", options.data
    if plan is not None:
        handle, data = options.backbone or plan.backbone, data or plan.data
    done = recipes.finetune(
        handle,
        data,
        plan=plan or strategy,
        out=options.out,
        export_to=False if options.no_export else None,
        cache={None: "auto", "off": None}.get(options.cache, options.cache),
        log=options.log,
        config=config,
        verbose=options.level,
    )
    if options.profile:
        print(format_stages(done.stages))
    if options.level:
        print(f"Saved to {options.out}. Next: tfft predict {shlex.quote(options.out)} {_example(done.model)}")
    return SUCCESS


def _strategy(options: argparse.Namespace) -> NamedPlan | None:
    if options.plan is None and not options.set:
        return None
    if options.config is not None:
        raise PlanError("--config already sets the phases, and so do --plan and --set. Give one of them.")
    return named(options.plan or "lp_ft", **dict(options.set or ()))


def _example(model: Any) -> str:
    """Return arguments for ``tfft predict`` that fit the inputs of the model."""
    from tfft.exporting.signatures import serving_input

    taken = serving_input(model)
    return "FILE..." if taken is None else registry.modality(taken.modality).example_arguments(taken.spec)
