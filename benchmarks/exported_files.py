"""Size, speed and accuracy of the exports of a model: ``python benchmarks/exported_files.py FOLDER``.

The folder has one folder per class. A linear probe on EfficientNet-Lite0 is trained on the training examples. The files
are measured on the held-out ones, which are not used for selection: the accuracy, with its 95 % interval, and the
median time of one example with one thread. Training examples show the range of the activations for int8.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time

import numpy as np
import onnxruntime
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import tfft
from tfft.evaluation.scores import wilson_interval
from tfft.exporting import export_litert, export_onnx
from tfft.exporting.litert import CALIBRATION


def arrays(data: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of a dataset of batches."""
    batches = [(images.numpy(), labels.numpy()) for images, labels in data]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def line(name: str, size: int, milliseconds: float, correct: np.ndarray) -> None:
    """Print a row of the table."""
    low, high = wilson_interval(int(correct.sum()), len(correct))
    print(f"| {name} | {size / 1e6:.1f} | {milliseconds:.1f} | {correct.mean():.4f} ({low:.4f} to {high:.4f}) |")


def main() -> None:
    """Train, export, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    run = tfft.finetune("efficientnet-lite0", options.folder, plan="linear_probe", verbose=False)
    splits = tfft.data.load(options.folder)
    spec = tfft.load_backbone("efficientnet-lite0").input_spec
    seen, _ = arrays(tfft.data.to_dataset(splits.train, spec, shuffle=True, seed=0).take(-(-CALIBRATION // 32)))
    images, labels = arrays(tfft.data.to_dataset(splits.validation, spec))
    print("| file | MB | ms per example | accuracy |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        served = tfft.export(run.model, pathlib.Path(scratch, "served", "1"))
        function = tf.saved_model.load(str(served.path)).signatures["serving_default"]
        correct, seconds = [], []
        for image, label in zip(images, labels, strict=True):
            began = time.perf_counter()
            found = function(images=tf.constant(image[None]))["probabilities"].numpy()[0]
            seconds.append(time.perf_counter() - began)
            correct.append(found.argmax() == label)
        size = sum(file.stat().st_size for file in served.path.rglob("*") if file.is_file())
        line("SavedModel (all threads)", size, 1000 * float(np.median(seconds)), np.array(correct))
        for quantize in (None, "float16", "dynamic", "int8"):
            made = export_litert(
                run.model, pathlib.Path(scratch, f"{quantize}.tflite"), quantize=quantize,
                representative=seen, examples=images,
            )  # fmt: skip
            runner = Interpreter(model_path=str(made.path), num_threads=1).get_signature_runner()
            found = np.array([runner(images=image[None])["probabilities"][0].argmax() for image in images])
            line(f"LiteRT, {made.precision}", made.size, made.milliseconds, found == labels)
        written = export_onnx(run.model, pathlib.Path(scratch, "model.onnx"), examples=images)
        (probabilities,) = onnxruntime.InferenceSession(written.path).run(["probabilities"], {"images": images})
        line("ONNX, float32", written.size, written.milliseconds, probabilities.argmax(1) == labels)


if __name__ == "__main__":
    main()
