"""``tfft export``: the model of a run as a SavedModel for serving, or as a LiteRT or ONNX file."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfft.commands.options import add_json
from tfft.console.output import SUCCESS, PrintResult, start_tensorflow

if TYPE_CHECKING:
    from tfft.exporting.portable import FileExport, Runtime

SUMMARY = "write the model of a run as a SavedModel for serving, a LiteRT file for phones, or an ONNX file"
_ROWS = 200  # labelled examples: half of them show the range of activations, half are compared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder")
    parser.add_argument(
        "out", metavar="OUT",
        help="version folder such as served/1, or served for the next version; or FILE.tflite, or FILE.onnx",
    )  # fmt: skip
    parser.add_argument(
        "--quantize",
        choices=("float16", "dynamic", "int8"),
        help="quantization of a LiteRT file: float16; dynamic: weights in 8 bits; int8: everything in 8 bits",
    )
    parser.add_argument(
        "--calibrate", action="store_true",
        help="fit the probabilities to held-out examples by a temperature, and a bias for each of several labels",
    )  # fmt: skip
    parser.add_argument(
        "--thresholds", metavar="GOAL",
        help="choose the probability threshold of each label on held-out examples: f1, 'precision>=0.9' or "
        "'recall>=0.9'",
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="DATA",
        help="labelled examples for --calibrate, --thresholds, int8 and the comparison (the held-out ones of the run)",
    )  # fmt: skip
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Write the model of a run as a SavedModel, or as one file for another runtime."""
    start_tensorflow()
    from tfft.exporting import litert, onnx

    suffix = pathlib.Path(options.out).suffix
    if suffix == litert.LITERT.suffix:
        return _file(options, print_result, litert.LITERT, _litert)
    if suffix == onnx.ONNX.suffix:
        return _file(options, print_result, onnx.ONNX, _onnx)
    return _savedmodel(options, print_result)


def _savedmodel(options: argparse.Namespace, print_result: PrintResult) -> int:
    from tfft import recipes
    from tfft.errors import ExportError
    from tfft.exporting import savedmodel

    if options.quantize or (options.data and not options.calibrate and not options.thresholds):
        given = "--quantize" if options.quantize else "--data"
        raise ExportError(f"{given} is for LiteRT files. Received: {options.out}. Name a file such as model.tflite.")
    savedmodel.version_folder(options.out)  # a wrong folder is an error before the model is loaded
    done = recipes.load_run(options.run_folder)
    card, lines = _fitted(done, options)
    exported = savedmodel.export(done.model, options.out, card=card)
    lines += [f"Exported to {exported.path}; largest difference to the Keras model {exported.largest_difference:.1e}"]
    lines += [f"  {name}: {text}" for name, text in exported.signatures.items()]
    values = dataclasses.asdict(exported) | {"path": str(exported.path)}
    print_result(values, "\n".join([*lines, *exported.notes]))
    return SUCCESS


def _file(
    options: argparse.Namespace, print_result: PrintResult, runtime: Runtime, export: Callable[..., FileExport]
) -> int:
    from tfft import recipes
    from tfft.errors import ExportError
    from tfft.exporting import litert, portable

    runtime.require()
    portable.target_file(options.out, runtime)  # a wrong file is an error before the model is loaded
    if options.quantize and runtime is not litert.LITERT:
        raise ExportError(
            f"--quantize is for LiteRT files. Received: {options.out}. Name a file such as model.tflite, or quantize "
            "the ONNX file with onnxruntime.quantization."
        )
    done = recipes.load_run(options.run_folder)
    card, lines = _fitted(done, options)
    made = export(done.model, options, card, _examples(done, options.data))
    print_result(dataclasses.asdict(made) | {"path": str(made.path)}, "\n".join([*lines, str(made)]))
    return SUCCESS


def _litert(model: Any, options: argparse.Namespace, card: dict[str, Any], rows: Any) -> FileExport:
    from tfft.exporting import litert

    return litert.export_litert(
        model, options.out, quantize=options.quantize, card=card,
        representative=None if rows is None else rows[::2], examples=None if rows is None else rows[1::2],
    )  # fmt: skip


def _onnx(model: Any, options: argparse.Namespace, card: dict[str, Any], rows: Any) -> FileExport:
    from tfft.exporting import onnx

    return onnx.export_onnx(model, options.out, card=card, examples=rows)


def _fitted(done: Any, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Fit probabilities and thresholds if that is asked for; return facts for the model card and lines to print."""
    if not options.calibrate and options.thresholds is None:
        return done.card, []
    from tfft.evaluation import calibrate, choose_thresholds
    from tfft.recipes.labelled import labelled_data

    dataset, _, _ = labelled_data(done, options.data or done.plan.data)
    found = {}
    if options.calibrate:
        found["calibration"] = str(calibrate(done.model, dataset))
    if options.thresholds is not None:
        found["thresholds"] = str(choose_thresholds(done.model, dataset, options.thresholds))
    return {**done.card, **found}, list(found.values())


def _examples(done: Any, data: str | None) -> Any:
    """Return inputs of labelled examples as the model takes them; None if the data of the run is gone.

    Several inputs, such as those of pairs of texts, are columns.
    """
    import keras
    import numpy as np

    from tfft.errors import DataError
    from tfft.recipes.labelled import labelled_data

    try:
        dataset, _, _ = labelled_data(done, data or done.plan.data)
    except DataError:
        if data is None:
            return None
        raise
    batches = [keras.tree.flatten(batch[0]) for batch in dataset.take(-(-_ROWS // 32))]
    columns = [np.concatenate(parts)[:_ROWS] for parts in zip(*batches, strict=True)]
    return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
