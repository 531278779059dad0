"""tfft against plain Keras on a GPU: ``python benchmarks/gpu.py``.

The engines, the rewritten gradients and the advice on memory are for processors; on a GPU nothing of tfft may be slower
than Keras. MobileNetV2 with random weights, written by hand with Keras alone and built by tfft, in turn in one process:
the features of the frozen network, a step of its last three blocks (on kept features with tfft, through the whole
network with Keras), and a step of everything. Without a GPU the same is measured on the processor, to see that the
script runs.
"""

from __future__ import annotations

import argparse

import common
import keras
import numpy as np
import tensorflow as tf

import tfft
from tfft import features, heads
from tfft.optimizers import fuse_updates
from tfft.training.folding import fold_norms

SIDE, CLASSES = 224, 4
LAST = 3  # blocks


def devices() -> str:
    """Return the names of the GPUs."""
    found = [tf.config.experimental.get_device_details(each) for each in tf.config.list_physical_devices("GPU")]
    return ", ".join(each.get("device_name", "GPU") for each in found)


def network() -> keras.Model:
    """Return the network, whose pixels are -1 to 1."""
    keras.utils.set_random_seed(0)
    return keras.applications.MobileNetV2(weights=None, include_top=False, pooling="avg", input_shape=(SIDE, SIDE, 3))


def by_hand(first: str | None) -> keras.Model:
    """Return the model that a user of Keras writes; it trains from ``first`` on, or ``"all"``, or not at all."""
    base, inputs = network(), keras.Input((SIDE, SIDE, 3), dtype="uint8")
    reached = first == "all"
    for layer in base.layers:
        reached = reached or layer.name == first
        layer.trainable = reached
    pooled = base(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs), training=False)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(pooled))


def by_tfft(selection: object) -> keras.Model:
    """Return the same model as tfft builds it."""
    backbone = tfft.load_backbone(network(), input_range=(-1.0, 1.0))
    model = tfft.build(backbone, heads.classification([f"class {i}" for i in range(CLASSES)]))
    tfft.unfreeze(model, selection)
    return model


def extraction(repeats: int, images: np.ndarray) -> None:
    """Compare the features of the frozen network with Keras' ``predict``."""
    plain = by_hand(None)
    pooled = keras.Model(plain.input, plain.layers[-1].input)
    prefix, _ = features.split_head(by_tfft("none"))
    ways: dict[str, common.Way] = {
        "Keras predict": lambda: pooled.predict(images, batch_size=common.BATCH, verbose=0),
        "tfft.features.extract": lambda: features.extract(prefix, images, cache=None, verbose=False),
    }
    common.report("Features of MobileNetV2", common.in_turn(ways, repeats), len(images), "images/s")


def training(repeats: int, images: np.ndarray, steps: int, selection: object, title: str) -> None:
    """Compare a step of training as ``finetune`` runs it with that of the model by hand."""
    model = by_tfft(selection)
    inputs, part = images[: common.BATCH], model
    first = "all"
    if selection != "all":
        first = tfft.freezing.select(model, selection)[0].layers[0].name
        prefix, part = features.split_frozen(model)
        inputs = prefix.predict(inputs, verbose=0)
    plain, part = by_hand(first), fold_norms(part)
    plain.compile(keras.optimizers.Adam(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    part.compile(fuse_updates(keras.optimizers.Adam(1e-4)), loss=heads.from_model(model).loss())
    labels = tf.constant(np.arange(common.BATCH) % CLASSES)
    ways: dict[str, common.Way] = {}
    for name, each, given in (("Keras fit", plain, images[: common.BATCH]), ("tfft", part, inputs)):
        data = tf.data.Dataset.from_tensors((tf.constant(given), labels)).repeat()
        ways[name] = lambda each=each, data=data: each.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0)
    counts = (sum(int(np.prod(v.shape)) for v in each.trainable_variables) for each in (plain, part))
    common.report(f"{title}, batch {common.BATCH}", common.in_turn(ways, repeats), steps * common.BATCH, "images/s")
    print("  trainable parameters: {:,} by hand, {:,} with tfft".format(*counts))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    common.machine()
    print(f"GPU: {devices() or 'none; the processor is measured'}", flush=True)
    images = np.random.default_rng(0).integers(0, 256, (options.images, SIDE, SIDE, 3), np.uint8)
    extraction(options.repeats, images)
    training(options.repeats, images, options.steps, LAST, f"A step of the last {LAST} blocks")
    training(options.repeats, images, options.steps, "all", "A step of everything")


if __name__ == "__main__":
    main()
