"""A step of training: rewritten gradients and fused updates against Keras' own step of the same model.

``python benchmarks steps``. The ways run in turn, each in a process of its own, since memory advice holds for a whole
process. The compute bound beside each is three forward passes' worth of multiply-adds at the rate of a matrix product;
what is left of it goes to memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

WAYS = ("keras", "tfft", "tfft, memory advised")
CASES = {
    "EfficientNet-Lite0, last 3 blocks, batch 32": ("lite0", ["block13", "block14", "block15", "head"]),
    "EfficientNet-Lite0, last 6 blocks, batch 32": ("lite0", 6),
    "EfficientNet-Lite0, everything, batch 32": ("lite0", "all"),
    "MobileNetV2, everything, batch 32": ("MobileNetV2", "all"),
    "ResNet50, everything, batch 16": ("ResNet50", "all"),
}


def steps(repeats: int) -> None:
    """Measures all ways of all cases in turn."""
    for name in CASES:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way in WAYS:
                found[way].append(_in_a_process(name, way))
        print(f"\nA step of {name}")
        base = statistics.median(each["seconds"] for each in found["keras"])
        for way, each in found.items():
            seconds = [one["seconds"] for one in each]
            middle, bound = statistics.median(seconds), each[0]["bound"]
            print(
                f"  {way:22s} {1e3 * middle:7.0f} ms  ({1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f})"
                f"  {base / middle:5.2f} x  {bound / middle:4.0%} of the compute bound"
                f"  tracing {statistics.median(one['tracing'] for one in each):4.1f} s"
                f"  peak {statistics.median(one['peak'] for one in each):5.0f} MB",
                flush=True,
            )


def _in_a_process(name: str, way: str) -> dict[str, float]:
    environment = os.environ | {
        "TFFT_PLAIN_GRADIENTS": "1" if way == "keras" else "0",
        "TFFT_PLAIN_MEMORY": "0" if "advised" in way else "1",
    }
    command = [sys.executable, __file__, name, way]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(name: str, way: str, count: int = 5) -> dict[str, float]:
    from tfft.io.allocator import advise_memory

    advise_memory()
    import common
    import keras
    import numpy as np
    import tensorflow as tf

    import tfft
    from tfft import features, heads
    from tfft.optimizers import fuse_updates
    from tfft.training.folding import fold_norms

    network, selection = CASES[name]
    keras.utils.set_random_seed(0)
    if network == "lite0":
        model = common.model_of()
    else:
        made = getattr(keras.applications, network)(weights=None, include_top=False, pooling="avg")
        model = tfft.build(tfft.load_backbone(made, image_size=224), heads.classification(list("abcd")))
    tfft.unfreeze(model, selection)
    size = int(name.rsplit(" ", 1)[1])
    inputs, part = tf.constant(np.random.default_rng(0).integers(0, 256, (size, 224, 224, 3), np.uint8)), model
    if selection != "all":
        prefix, part = features.split_frozen(model)
        inputs = tf.constant(prefix.predict(inputs, verbose=0))
    part = fold_norms(part)
    optimizer = keras.optimizers.Adam(1e-4)
    part.compile(optimizer if way == "keras" else fuse_updates(optimizer), **heads.from_model(model).compile_args())
    data = tf.data.Dataset.from_tensors((inputs, tf.constant(np.arange(size) % 4))).repeat()
    began = time.perf_counter()
    part.fit(data, steps_per_epoch=1, verbose=0)
    tracing = time.perf_counter() - began
    began = time.perf_counter()
    part.fit(data, steps_per_epoch=count, verbose=0)
    seconds = (time.perf_counter() - began) / count
    forward = sum(getattr(layer, "flops", None) or 0 for layer in _layers(part))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": seconds, "tracing": tracing - seconds, "peak": peak,
        "bound": 3 * size * (forward or _multiply_adds(part, inputs)) / common.matrix_rate(),
    }  # fmt: skip


def _layers(model: object) -> list[object]:
    from tfft.keras_compat import flatten_layers

    return [layer for layer in flatten_layers(model) if getattr(layer, "is_tfft_block", False)]


def _multiply_adds(model: keras.Model, inputs: tf.Tensor) -> int:
    import tensorflow as tf

    from tfft.backbones.savedmodel.block_graph import count_multiply_adds

    one = tf.TensorSpec([1, *inputs.shape[1:]], inputs.dtype)
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(one)
    return count_multiply_adds(function.graph)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("name", choices=CASES)
    arguments.add_argument("way", choices=WAYS)
    options = arguments.parse_args()
    print(json.dumps(_measure(options.name, options.way)))
