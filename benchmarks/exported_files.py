"""Size, speed and accuracy of the exports of a model: ``python benchmarks/exported_files.py FOLDER``.

The folder has one folder per class. A linear probe on EfficientNet-Lite0 is trained on the training examples. The files
are measured on the held-out ones, which are not used for selection: the accuracy, with its 95 % interval, and the
median time of one example with one thread. Training examples show the range of the activations for int8.

``--sst2 FOLDER`` in place of the folder: sentences of ``train.tsv`` train a linear probe on MiniLM, those of
``dev.tsv`` measure it. The files take tokens, so the time of the tokenizer is in that of the SavedModel alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import tempfile
import time

import numpy as np
import onnxruntime
import tensorflow as tf
import texts
from ai_edge_litert.interpreter import Interpreter

import tfft
from tfft.evaluation.scores import wilson_interval
from tfft.exporting import export_litert, export_onnx
from tfft.exporting.litert import CALIBRATION
from tfft.exporting.tokens import without_tokenizer

_SENTENCES, _LENGTH = 2000, 64


@dataclasses.dataclass(frozen=True)
class Case:
    """A trained model and examples: as the SavedModel takes them, and as the files do."""

    run: tfft.recipes.run.Run
    seen: np.ndarray
    inputs: np.ndarray
    labels: np.ndarray
    name: str
    arrays: dict[str, np.ndarray]


def arrays(data: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of a dataset of batches."""
    batches = [(images.numpy(), labels.numpy()) for images, labels in data]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def photos(folder: pathlib.Path) -> Case:
    """A linear probe on images."""
    run = tfft.finetune("efficientnet-lite0", folder, plan="linear_probe", verbose=False)
    splits = tfft.data.load(folder)
    spec = tfft.load_backbone("efficientnet-lite0").input_spec
    seen, _ = arrays(tfft.data.to_dataset(splits.train, spec, shuffle=True, seed=0).take(-(-CALIBRATION // 32)))
    images, labels = arrays(tfft.data.to_dataset(splits.validation, spec))
    return Case(run, seen, images, labels, "images", {"images": images})


def sentences(folder: pathlib.Path) -> Case:
    """A linear probe on sentences."""
    seen = texts.sentences(folder / "train.tsv", _SENTENCES)
    inputs, labels = texts.sentences(folder / "dev.tsv")
    run = tfft.finetune(
        tfft.load_backbone("minilm", max_length=_LENGTH), seen, plan="linear_probe", verbose=False
    )  # fmt: skip
    behind = without_tokenizer(run.model)
    assert behind is not None  # noqa: S101
    return Case(run, seen[0], inputs, labels, "text", behind.tokens(inputs))


def line(name: str, size: int, milliseconds: float, correct: np.ndarray) -> None:
    """Print a row of the table."""
    low, high = wilson_interval(int(correct.sum()), len(correct))
    print(f"| {name} | {size / 1e6:.1f} | {milliseconds:.1f} | {correct.mean():.4f} ({low:.4f} to {high:.4f}) |")


def measure(case: Case, scratch: pathlib.Path) -> None:
    """Export, measure and print."""
    print("| file | MB | ms per example | accuracy |\n|---|---|---|---|")
    served = tfft.export(case.run.model, scratch / "served" / "1")
    function = tf.saved_model.load(str(served.path)).signatures["serving_default"]
    correct, seconds = [], []
    for row, label in zip(case.inputs, case.labels, strict=True):
        one = {case.name: tf.constant([row] if case.inputs.dtype == object else row[None])}
        began = time.perf_counter()
        found = function(**one)["probabilities"].numpy()[0]
        seconds.append(time.perf_counter() - began)
        correct.append(found.argmax() == label)
    size = sum(file.stat().st_size for file in served.path.rglob("*") if file.is_file())
    line("SavedModel (all threads)", size, 1000 * float(np.median(seconds)), np.array(correct))
    for quantize in (None, "float16", "dynamic", "int8"):
        made = export_litert(
            case.run.model, scratch / f"{quantize}.tflite", quantize=quantize,
            representative=case.seen, examples=case.inputs,
        )  # fmt: skip
        runner = Interpreter(model_path=str(made.path), num_threads=1).get_signature_runner()
        rows = ({name: values[at : at + 1] for name, values in case.arrays.items()} for at in range(len(case.labels)))
        answers = np.array([runner(**row)["probabilities"][0].argmax() for row in rows])
        line(f"LiteRT, {made.precision}", made.size, made.milliseconds, answers == case.labels)
    written = export_onnx(case.run.model, scratch / "model.onnx", examples=case.inputs)
    (probabilities,) = onnxruntime.InferenceSession(written.path).run(["probabilities"], case.arrays)
    line("ONNX, float32", written.size, written.milliseconds, probabilities.argmax(1) == case.labels)


def main() -> None:
    """Train, export, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, nargs="?")
    parser.add_argument("--sst2", type=pathlib.Path, help="folder with train.tsv and dev.tsv")
    options = parser.parse_args()
    if (options.folder is None) == (options.sst2 is None):
        parser.error("give a folder or --sst2")
    case = photos(options.folder) if options.sst2 is None else sentences(options.sst2)
    with tempfile.TemporaryDirectory() as scratch:
        measure(case, pathlib.Path(scratch))


if __name__ == "__main__":
    main()
