"""Heads for boxes and masks by architecture: seconds of a training step on feature maps, and weights.

``python benchmarks/dense_heads.py`` trains each head alone on random maps of the size that the default plans have, in
turn, so that other programs on the machine slow all of them alike.
"""

from __future__ import annotations

import argparse
import functools

import common
import keras
import numpy as np

import tfft
from tfft.heads import ModelFeatures

CHANNELS = {4: 24, 8: 40, 16: 112, 32: 320}  # of EfficientNet-Lite0
BATCH = 8
TASKS = {"object_detection": ((288, 384), 1), "semantic_segmentation": ((352, 480), 11)}  # size, classes


def step_of(task: str, architecture: str) -> tuple[int, common.Way]:
    """Return the weights of a head, and a function that trains it for one step."""
    (rows, columns), classes = TASKS[task]
    factory = getattr(tfft.heads, task)
    head = factory([f"class {at}" for at in range(classes)], architecture=architecture)
    shapes = {s: (rows // s, columns // s, CHANNELS[s]) for s in tfft.registry.task(task).strides}
    inputs = {stride: keras.Input(shape) for stride, shape in shapes.items()}
    model = keras.Model(list(inputs.values()), head.attach(ModelFeatures(inputs)))
    model.compile(keras.optimizers.AdamW(1e-3), loss=head.loss())
    random = np.random.default_rng(0)
    maps = [random.normal(size=(BATCH, *shape)).astype("float32") for shape in shapes.values()]
    labels = random.integers(0, classes, (BATCH, rows, columns))
    if task == "object_detection":
        labels = np.tile(np.array([0, 0.2, 0.2, 0.7, 0.6, rows, columns], "float32"), (BATCH, 2, 1))
    return model.count_params(), functools.partial(model.train_on_batch, maps, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    common.machine()
    for task in TASKS:
        made = {name: step_of(task, name) for name in tfft.registry.task(task).architectures}
        ways = {f"{name} ({weights:,} weights)": step for name, (weights, step) in made.items()}
        common.report(f"{task}: training steps", common.in_turn(ways, options.repeats), BATCH, "examples/s")


if __name__ == "__main__":
    main()
