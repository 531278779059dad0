"""Numbers about texts: ``python benchmarks/texts.py extraction training --sst2 FOLDER --backbone FOLDER``.

The folder of SST-2 has ``train.tsv``: a sentence and its class in each line, with a tab between. The backbone is a
local Hugging Face folder of a BERT (config.json, model.safetensors, vocab.txt) or the handle of a KerasHub preset.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import pathlib
import statistics
import time

import common
import keras
import numpy as np
import tensorflow as tf

import tfft
from tfft import features, heads
from tfft.backbones.base import Backbone
from tfft.layers.tokenize import Tokenize
from tfft.specs import TextSpec

FIXED = 128  # pieces that a fixed padding has


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", choices=("extraction", "training"))
    parser.add_argument("--sst2", type=pathlib.Path, required=True, help="folder with train.tsv")
    parser.add_argument("--backbone", required=True, help="folder or preset of a BERT")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=2000)
    options = parser.parse_args()
    common.machine()
    texts, labels = sentences(options.sst2 / "train.tsv", options.sentences)
    if "extraction" in options.names:
        extraction(options.repeats, texts, options.backbone)
    if "training" in options.names:
        training(options.repeats, texts, labels, options.backbone)


def extraction(repeats: int, texts: np.ndarray, handle: str) -> None:
    """Frozen features of sentences, from strings to the mean of all pieces, against KerasHub with fixed padding."""
    backbone, packer = opened(handle)
    model = tfft.build(backbone, heads.classification(["negative", "positive"]))
    whole, _ = features.split_head(model)
    tfft.unfreeze(model, 2)
    part, _ = features.split_frozen(model, ignore_dropout=True)
    plain = keras.Model(backbone.model.input, pooled(backbone.model))
    fixed = tf.data.Dataset.from_tensor_slices(texts.astype(str)).batch(common.BATCH)
    fixed = fixed.map(packer, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    quiet = {"cache": None, "verbose": False}
    found = features.extract(whole, texts, **quiet)
    wanted = plain.predict(fixed, verbose=0)
    print(f"largest difference of features: {np.abs(found.arrays - wanted).max() / np.abs(wanted).max():.1g}")
    lengths = next(a.lengths for a in features.extract(part, texts, **quiet).parts)
    print(f"pieces: {lengths.mean():.1f} in the mean, {lengths.max()} at most; {found.notes[0]}")
    ways = {
        f"KerasHub predict, padded to {FIXED}": lambda: plain.predict(fixed, verbose=0),
        "tfft extract": lambda: features.extract(whole, texts, **quiet),
        "tfft extract, in front of the last 2 layers": lambda: features.extract(part, texts, **quiet),
    }
    seconds = common.in_turn(ways, repeats)
    common.report(f"Frozen features of {len(texts):,} sentences", seconds, len(texts), "sentences/s")
    kernels = sum(math.prod(v.shape) for v in backbone.model.weights if len(v.shape) > 1 and "embedding" not in v.path)
    rate = kernels * float(lengths.sum()) / statistics.median(seconds["tfft extract"])
    share = rate / common.matrix_rate()
    print(f"  tfft extract multiplies and adds at {share:.0%} of the rate of a 1536 x 1536 matrix product.", flush=True)


def training(repeats: int, texts: np.ndarray, labels: np.ndarray, handle: str, blocks: int = 2) -> None:
    """An epoch of the last blocks: ``fit`` on cached features against ``fit`` of the whole network, padded."""
    backbone, packer = opened(handle)
    model = tfft.build(backbone, heads.classification(["negative", "positive"]))
    tfft.unfreeze(model, blocks)
    prefix, suffix = features.split_frozen(model, ignore_dropout=True)
    start = time.perf_counter()
    found = features.extract(prefix, (texts, labels), cache=None, verbose=False)
    once = time.perf_counter() - start
    cached = found.dataset(batch_size=common.BATCH, shuffle=True)
    head = keras.layers.Dense(2)(pooled(backbone.model))
    plain = keras.Model(backbone.model.input, head)
    fixed = tf.data.Dataset.from_tensor_slices((texts.astype(str), labels)).batch(common.BATCH)
    fixed = fixed.map(lambda text, label: (packer(text), label), tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    for each in (plain, suffix):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        each.compile(keras.optimizers.AdamW(5e-5), loss=loss)
    ways = {
        f"Keras fit, padded to {FIXED}, the same blocks frozen": lambda: plain.fit(fixed, verbose=0),
        "fit on cached features": lambda: suffix.fit(cached, verbose=0, shuffle=False),
        "their forward pass alone": lambda: suffix.predict(cached, verbose=0),
    }
    seconds = common.in_turn(ways, repeats)
    common.report(f"An epoch of the last {blocks} blocks, {len(texts):,} sentences", seconds, len(texts), "sentences/s")
    print(f"  the features took {once:.1f} s, once", flush=True)


def sentences(path: pathlib.Path, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first texts and classes of a file of tab-separated values."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(itertools.islice(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), count))
    return np.array([row[0] for row in rows], object), np.array([int(row[1]) for row in rows], np.int32)


def opened(handle: str) -> tuple[Backbone, keras.layers.Layer]:
    """Returns a BERT as a backbone, and a KerasHub preprocessor that pads to a fixed length."""
    import keras_hub

    def packer() -> keras.layers.Layer:
        return keras_hub.models.TextClassifierPreprocessor.from_preset(handle, sequence_length=FIXED)

    network = keras_hub.models.Backbone.from_preset(handle)
    names = [t.name for t in network.inputs]
    tokens = Tokenize(packer(), {name: name for name in names}, "padding_mask", FIXED)
    model = keras.Model(network.input, network.output["sequence_output"])
    return Backbone("bert", model, handle, None, (), tokens, TextSpec(FIXED, "mean", "the benchmark")), packer()


def pooled(model: keras.Model) -> keras.KerasTensor:
    """Returns the mean over all pieces, as a user of KerasHub would write it."""
    present = keras.ops.cast(next(t for t in model.inputs if t.name == "padding_mask"), "float32")[:, :, None]
    return keras.ops.sum(model.output * present, 1) / keras.ops.sum(present, 1)


if __name__ == "__main__":
    main()
