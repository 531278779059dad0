"""What was tried to make the part that trains faster: steps per call, batch sizes, threads."""

from __future__ import annotations

import common
import keras
import numpy as np
import tensorflow as tf

import tfft
from tfft import features, heads

_WAYS = {
    "batches of 32": {"batch": 32},
    "batches of 32, 8 steps per call": {"batch": 32, "steps_per_execution": 8},
    "batches of 64": {"batch": 64},
    "batches of 128": {"batch": 128},
}


def suffix(repeats: int, count: int = 512) -> None:
    """One epoch of the blocks after block12. XLA is not among the ways: on a CPU it compiles for minutes."""
    random = np.random.default_rng(0)
    values, labels = random.random((count, 7, 7, 192), np.float32), random.integers(0, 4, count).astype(np.int32)
    ways = {}
    for name, settings in _WAYS.items():
        model = common.model_of()
        tfft.unfreeze(model, ["block13", "block14", "block15", "head"])
        part = features.split_frozen(model)[1]
        others = {k: v for k, v in settings.items() if k != "batch"}
        part.compile(keras.optimizers.Adam(1e-4), **heads.from_model(model).compile_args(), **others)
        data = tf.data.Dataset.from_tensor_slices((values, labels)).batch(settings["batch"]).prefetch(2)
        ways[name] = lambda m=part, d=data: m.fit(d, verbose=0, shuffle=False)
    seconds = common.in_turn(ways, repeats)
    common.report("One epoch of the blocks after block12, 7 x 7 x 192", seconds, count, "examples/s")
