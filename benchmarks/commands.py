"""The whole command against scripts written by hand: from nothing to the accuracy of a linear probe.

``python benchmarks/commands.py --savedmodel FOLDER --photos ants_bees``, with a SavedModel that takes pixels from 0 to
1 and gives feature vectors, and photos in ``train`` and ``val`` with a folder for each class. The ways run in turn,
each in a process of its own, so that imports count:

- by hand with LiteRT: the SavedModel is converted, an interpreter for each core runs it, and scikit-learn's
  LogisticRegressionCV solves the head;
- by hand with TensorFlow: ``tf.data``, Keras' ``predict``, and the same head;
- ``tfft train``, which also checks the data and keeps the features, with nothing in its cache;
- the same again, with another run folder;
- ``tfft train`` with an export that is checked in a fresh process, with nothing in its cache.

``--generated 20000 --side 640`` writes so many JPEG files of its own, four classes, in place of ``--photos``.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

SIZE, BATCH = 224, 32
HANDS = ("litert", "tensorflow")


def listed(folder: pathlib.Path) -> tuple[list[str], list[int]]:
    """Returns the files and classes of a part."""
    names = sorted(path.name for path in folder.iterdir())
    files = [(str(path), label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    return [path for path, _ in files], [label for _, label in files]


def by_hand(engine: str, savedmodel: str, photos: pathlib.Path) -> None:
    """Prints the accuracy of a linear probe, as somebody would write it for one data set."""
    import numpy as np
    import tensorflow as tf
    from sklearn.linear_model import LogisticRegressionCV

    def read(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.image.resize(image, (SIZE, SIZE), antialias=True) / 255.0

    run = litert_runner(savedmodel) if engine == "litert" else tensorflow_runner(savedmodel)
    found = {}
    for part in ("train", "val"):
        paths, labels = listed(photos / part)
        images = tf.data.Dataset.from_tensor_slices(paths).map(read, tf.data.AUTOTUNE).batch(BATCH)
        found[part] = run(images.prefetch(tf.data.AUTOTUNE)), np.array(labels)
    head = LogisticRegressionCV(Cs=10, cv=5, max_iter=1000, scoring="neg_log_loss", use_legacy_attributes=True)
    head.fit(*found["train"])
    print(f"accuracy {np.mean(head.predict(found['val'][0]) == found['val'][1]):.4f}")


def tensorflow_runner(savedmodel: str):
    """Returns a function from batches of images to features."""
    import keras

    layer = keras.layers.TFSMLayer(savedmodel, call_endpoint="serving_default")
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(inputs, next(iter(layer(inputs).values())))
    return lambda images: model.predict(images, verbose=0)


def litert_runner(savedmodel: str):
    """Returns a function from batches of images to features, one image and one interpreter for each core at a time."""
    import concurrent.futures
    import threading

    import numpy as np
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    loaded = tf.saved_model.load(savedmodel)
    signature = loaded.signatures["serving_default"]
    [name] = signature.structured_input_signature[1]

    @tf.function(input_signature=[tf.TensorSpec([1, SIZE, SIZE, 3], tf.float32)])
    def one(image):
        return next(iter(signature(**{name: image}).values()))

    content = tf.lite.TFLiteConverter.from_concrete_functions([one.get_concrete_function()], loaded).convert()
    own = threading.local()

    def run(image: np.ndarray) -> np.ndarray:
        if not hasattr(own, "interpreter"):
            own.interpreter = Interpreter(model_content=content, num_threads=1)
            own.interpreter.allocate_tensors()
        own.interpreter.set_tensor(own.interpreter.get_input_details()[0]["index"], image[None])
        own.interpreter.invoke()
        return own.interpreter.get_tensor(own.interpreter.get_output_details()[0]["index"])[0]

    pool = concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    return lambda images: np.stack([row for batch in images for row in pool.map(run, batch.numpy())])


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Returns the seconds of a command, and the accuracy that it printed."""
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return seconds, re.findall(r"accuracy ([0-9.]+)", done.stdout)[-1]


def measure(options: argparse.Namespace, photos: pathlib.Path, folder: pathlib.Path) -> None:
    """Prints medians, ranges and ratios of all ways."""
    tfft = [sys.executable, "-m", "tfft", "train", str(photos), "--backbone", options.savedmodel]
    tfft += ["--plan", "linear_probe", "--out"]
    seconds: dict[str, list[float]] = {}
    accuracies: dict[str, str] = {}
    for turn in range(options.repeats):
        ways = {
            f"by hand, {name}": [sys.executable, __file__, "--hand", name, *hand_arguments(options, photos)]
            for name in options.hands
        }
        ways["tfft train --no-export"] = [*tfft, str(folder / f"first{turn}"), "--no-export"]
        ways["the same, second run"] = [*tfft, str(folder / f"second{turn}"), "--no-export"]
        ways["tfft train, with its export"] = [*tfft, str(folder / f"third{turn}")]
        for name, command in ways.items():
            which = "exported" if "export" in name and "--no-export" not in command else "plain"
            environment = os.environ | {"TFFT_CACHE_DIR": str(folder / f"cache-{turn}-{which}")}
            took, accuracies[name] = timed(command, environment)
            seconds.setdefault(name, []).append(took)
    first = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(
            f"{name:28s} {middle:7.1f} s  ({min(values):.1f} to {max(values):.1f})  {middle / first:5.2f} times the "
            f"first  accuracy {accuracies[name]}",
            flush=True,
        )


def hand_arguments(options: argparse.Namespace, photos: pathlib.Path) -> list[str]:
    return ["--savedmodel", options.savedmodel, "--photos", str(photos)]


def generated(folder: pathlib.Path, count: int, side: int) -> pathlib.Path:
    """Writes photos with some structure, nine of ten for training."""
    import common

    common.make_photos(folder / "train", count * 9 // 10, (side * 3 // 4, side))
    common.make_photos(folder / "val", count // 10, (side * 3 // 4, side))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--savedmodel", required=True, help="folder of a SavedModel for pixels from 0 to 1")
    parser.add_argument("--photos", type=pathlib.Path, help="folder with train and val")
    parser.add_argument("--generated", type=int, metavar="N", help="JPEG files to write in place of --photos")
    parser.add_argument("--side", type=int, default=640, help="longer side of generated files")
    parser.add_argument("--hands", nargs="+", choices=HANDS, default=HANDS, help="scripts to compare with")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hand", choices=HANDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hand:
        by_hand(options.hand, options.savedmodel, options.photos)
        return
    if (options.photos is None) == (options.generated is None):
        parser.error("give --photos or --generated")
    import common

    common.machine()
    with tempfile.TemporaryDirectory(prefix="tfft-benchmark-") as name:
        folder = pathlib.Path(name)
        photos = options.photos or generated(folder / "photos", options.generated, options.side)
        measure(options, photos, folder)


if __name__ == "__main__":
    main()
