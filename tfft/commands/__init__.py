"""What each command of ``tfft`` does, once its arguments are known to be right.

Every command takes the parsed options and a function that prints its result (as JSON, as text), and
returns the exit code. TensorFlow is imported inside of them, so that ``tfft --help`` is quick.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import shlex
from typing import Any

from tfft import registry
from tfft.commands.prediction import predict
from tfft.console.output import FAILED, SUCCESS, PrintResult, debugging, say, start_tensorflow
from tfft.errors import DataError, PlanError, did_you_mean

__all__ = [
    "FAILED", "SUCCESS", "PrintResult", "cache", "check", "debugging", "demo", "evaluate", "export", "inspect",
    "language", "list_presets", "predict", "preview", "say", "start_tensorflow", "train",
]  # fmt: skip


def demo(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Runs the demo into ``options.out``."""
    start_tensorflow()
    from tfft import demo as showing

    if options.what == "text":
        shown = showing.demo_text(options.out or "tfft-demo-text")
    else:
        shown = showing.demo(options.out or "tfft-demo")
    return SUCCESS if shown.as_expected else FAILED


def train(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Fine-tunes a backbone on a folder and writes a run."""
    if options.data is None and options.config is None:
        raise DataError(
            "Give the folder with the examples, tfft train DATA --out RUN, or the plan of a run with --config."
        )
    size = _size(options.image_size)
    start_tensorflow()
    from tfft import plans, recipes

    plan = None if options.config is None else recipes.plan_from_yaml(options.config)
    settings = {name: getattr(options, name) for name in _SETTINGS} | {"image_size": size}
    if options.text is not None:
        settings["text"] = options.text[0] if len(options.text) == 1 else tuple(options.text)
    settings = {name: value for name, value in settings.items() if value is not None}
    handle = options.backbone or (plan.backbone if plan else "efficientnet-lite0")
    data = options.data or plan.data
    if options.plan is not None or options.set:
        if plan is not None:
            raise PlanError("--config holds the phases; --plan and --set make others. Give one of them.")
        plan = plans.named(options.plan or "lp_ft", **dict(options.set or ()))
    export_to = False if options.no_export else None
    place = {None: "auto", "off": None}.get(options.cache, options.cache)
    run = recipes.finetune(handle, data, plan=plan, out=options.out, export_to=export_to, cache=place, **settings)
    print(f"Everything lies in {options.out}. Try: tfft predict {shlex.quote(options.out)} {_example(run.model)}")
    return SUCCESS


_SETTINGS = (
    "unfreeze epochs frozen_epochs batch_size part_size learning_rate seed validation dropout l2 label_smoothing "
    "loss class_weight sampling deterministic batch_norm input_range output resize augment views trust strict "
    "label task separator max_length pooling preprocessor group image audio sample_rate seconds"
).split()


def language(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Fine-tunes a causal language model on texts and writes a run."""
    start_tensorflow()
    from tfft.tasks import causal_lm as models

    names = ("lora", "epochs", "learning_rate", "batch_size", "max_length", "validation", "seed")
    settings = {name: value for name in names if (value := getattr(options, name)) is not None}
    run = models.finetune(options.backbone, options.data, out=options.out, **settings)
    if options.export:
        print(f"Exported to {models.export(run.model, options.export).path}")
    print(f'Everything lies in {options.out}. Try: tfft predict {shlex.quote(options.out)} --text "Once upon"')
    return SUCCESS


def check(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Looks for faults in a data set; the exit code is 1 where there are some."""
    start_tensorflow()
    from tfft import inspection
    from tfft.console.progress import reading_bar

    text = None if options.text is None else tuple(options.text)
    with reading_bar() as progress:
        report = inspection.check(
            options.data,
            backbone=options.backbone,
            text=text,
            image=options.image,
            audio=options.audio,
            label=options.label,
            seed=options.seed,
            progress=progress,
        )
    if options.html:
        report.write_html(options.html)
    print_result(report.to_dict(), str(report))
    return FAILED if any(finding.level == "fault" for finding in report.findings) else SUCCESS


def preview(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Draws a grid of training pictures, and of views of them."""
    start_tensorflow()
    from tfft.data import load
    from tfft.io.atomic import write_whole
    from tfft.specs import InputSpec

    sides = options.image_size
    _size(sides)  # refuses more than two
    spec = InputSpec(height=sides[0], width=sides[-1], resize=options.resize)
    splits = load(options.data)
    kind, examples = registry.modality(splits.modality), splits.train
    how = {"augment": options.augment, "rows": options.rows, "columns": options.columns, "seed": options.seed}
    drawn = kind.preview(examples, spec, **how)
    if drawn is None:
        raise DataError(f"{options.data} holds {kind.items}, and preview draws images.")
    png, height, width = drawn
    target = write_whole(options.out, png)
    values = {"file": str(target), "height": height, "width": width}
    print_result(values, f"{target}: {width} x {height} pixels, of {len(examples)} training pictures")
    return SUCCESS


def inspect(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Opens a backbone and prints its blocks and its input contract."""
    start_tensorflow()
    from tfft.backbones import load_backbone
    from tfft.freezing import describe

    backbone = load_backbone(
        options.handle,
        output=options.output,
        input_range=options.input_range and tuple(options.input_range),
        image_size=_size(options.image_size),
        trust=bool(options.trust),
    )
    table, spec = describe(backbone.model), backbone.input_spec
    values = {
        "name": backbone.name,
        "origin": backbone.origin,
        "digest": backbone.digest,
        "input": spec and spec.to_dict(),
    }
    lines = [str(table), _input_sentence(spec), *backbone.notes]
    lines += [f"Digest: sha256:{backbone.digest}"] if backbone.digest else []
    print_result({**values, "notes": backbone.notes, **table.to_dict()}, "\n".join(lines))
    return SUCCESS


def _input_sentence(spec: Any) -> str:
    if spec is None:
        return "Input: not one image"
    low, high = spec.value_range
    size = f"{spec.height} x {spec.width} x {spec.channels} pixels{', or other sizes' if spec.flexible else ''}"
    return f"Input: {size}; 0 to 255 becomes {low:g} to {high:g} ({spec.source})"


def evaluate(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Measures the model of a run on labelled images that it has not learned from."""
    start_tensorflow()
    from tfft import recipes
    from tfft.evaluation import evaluate as measure
    from tfft.recipes.measuring import labelled_data

    run = recipes.load_run(options.run_folder)
    dataset, skipped, words = labelled_data(run, options.data, options.batch_size)
    scores = measure(run.model, dataset)
    values = {"run": options.run_folder, "data": words, "skipped": skipped}
    print_result({**values, **scores.to_dict()}, f"{words}\n{scores}")
    return SUCCESS


def _example(model: Any) -> str:
    """What could be asked of a model, as arguments of ``tfft predict``."""
    from tfft.exporting.signatures import serving_input

    taken = serving_input(model)
    return "FILE..." if taken is None else registry.modality(taken.modality).example_arguments(taken.spec)


def export(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Writes the model of a run as a SavedModel."""
    start_tensorflow()
    from tfft import recipes
    from tfft.exporting import savedmodel

    savedmodel.version_folder(options.out)  # a wrong place is told before the model is loaded
    run = recipes.load_run(options.run_folder)
    exported = savedmodel.export(run.model, options.out, card=run.card)
    lines = [f"Exported to {exported.path}; largest difference to the Keras model {exported.largest_difference:.1e}"]
    lines += [f"  {name}: {text}" for name, text in exported.signatures.items()]
    values = dataclasses.asdict(exported) | {"path": str(exported.path)}
    print_result(values, "\n".join([*lines, *exported.notes]))
    return SUCCESS


def cache(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Lists the features that were kept, or removes them; TensorFlow is not needed."""
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
    print_result({"entries": values}, table if entries else "Nothing is kept.")
    return SUCCESS


def list_presets(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Prints the catalog."""
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


def _size(values: list[int] | None) -> int | tuple[int, int] | None:
    if values is not None and len(values) > 2:
        raise DataError(f"--image-size takes one number, or height and width; received {len(values)}: {values}.")
    return values if values is None else (values[0], values[-1])
