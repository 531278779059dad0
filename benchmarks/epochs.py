"""What a run costs with its frozen part computed once, against Keras' fit through all of it in every epoch."""

from __future__ import annotations

import pathlib
import statistics
import time

import common
import keras
import numpy as np
import tensorflow as tf

import tfft
from tfft import data, features, heads
from tfft.arrays import store as cache
from tfft.features.feature_set import Features
from tfft.modalities.image import list_images


def fit(model: keras.Model, dataset: tf.data.Dataset, epochs: int) -> float:
    """Seconds of so many epochs, tracing counted once: a first step is not."""
    model.compile(keras.optimizers.Adam(1e-4), **heads.from_model(model).compile_args())
    model.fit(dataset.take(1), epochs=1, verbose=0, shuffle=False)
    start = time.perf_counter()
    model.fit(dataset, epochs=epochs, verbose=0, shuffle=False)
    return time.perf_counter() - start


def phase_1(repeats: int, folder: pathlib.Path, epochs: int = 20, measured: int = 2) -> None:
    """A head on the frozen backbone."""
    model, photos = common.model_of(), list_images(folder, check=False)
    tfft.unfreeze(model, "none")
    pixels = data.to_dataset(photos, _spec(model), batch_size=common.BATCH, shuffle=True, cache=True)
    slow, trained, solved = [], [], []
    for _ in range(repeats):
        slow.append(fit(model, pixels, measured) * epochs / measured)
        start = time.perf_counter()
        prefix, suffix = features.split_frozen(model)
        found = features.extract(prefix, photos, cache=None, batch_size=common.BATCH, verbose=False)
        extracted = time.perf_counter() - start
        features.fit_linear_probe(found.arrays, found.labels, heads.from_model(model))
        solved.append(time.perf_counter() - start)
        trained.append(extracted + fit(suffix, found.dataset(common.BATCH, shuffle=True), epochs))
    seconds = {f"Keras fit ({measured} epochs measured)": slow, "tfft: cached": trained, "tfft: head solved": solved}
    common.report(f"Phase 1, {epochs} epochs, {len(photos)} photos", seconds, len(photos) * epochs, "examples/s")
    print(f"  seconds: {', '.join(f'{statistics.median(s):.1f}' for s in seconds.values())}", flush=True)


def phase_2(repeats: int, folder: pathlib.Path, epochs: int = 10, measured: int = 1) -> None:
    """The blocks after block12 train."""
    model, photos = common.model_of(), list_images(folder, check=False)
    pixels = data.to_dataset(photos, _spec(model), batch_size=common.BATCH, shuffle=True, cache=True)
    whole, partly, cached = [], [], []
    for _ in range(repeats):
        tfft.unfreeze(model, "all")
        whole.append(fit(model, pixels, measured) * epochs / measured)
        tfft.unfreeze(model, ["block13", "block14", "block15", "head"])
        partly.append(fit(model, pixels, measured) * epochs / measured)
        start = time.perf_counter()
        prefix, suffix = features.split_frozen(model)
        found = features.extract(prefix, photos, cache=None, batch_size=common.BATCH, verbose=False)
        extracted = time.perf_counter() - start
        cached.append(extracted + fit(suffix, found.dataset(common.BATCH, shuffle=True), epochs))
    seconds = {
        f"Keras fit, all trains ({measured} measured)": whole,
        f"Keras fit, after block12 ({measured} measured)": partly,
        "tfft: cached, making it counted": cached,
    }
    common.report(f"Phase 2, {epochs} epochs, {len(photos)} photos", seconds, len(photos) * epochs, "examples/s")
    print(f"  against the same layers trained by Keras: "
          f"{statistics.median(partly) / statistics.median(cached):.2f} x", flush=True)  # fmt: skip


def cached_epoch(repeats: int, folder: pathlib.Path) -> None:
    """One epoch of the suffix, from the cache and from tensors in memory."""
    for cut, count in ((None, 4096), ("block12", 512), ("block4", 256)):
        model = common.model_of()
        prefix, suffix = features.split_frozen(model, cut=cut)
        shape = tuple(prefix.outputs[0].shape[1:])
        random = np.random.default_rng(2)
        values, labels = random.random((count, *shape), np.float32), random.integers(0, 4, count).astype(np.int32)
        key = f"{abs(hash(cut)):064x}"
        with cache.EntryWriter(folder, key) as writer:
            writer.start(count, [(shape, np.dtype(np.float32))])
            writer.append([values])
            writer.commit({})
        arrays, _ = cache.read_entry(folder, key)
        found = Features(arrays[0], labels, "litert", 0.0)
        memory = (
            tf.data.Dataset.from_tensor_slices((values, labels)).shuffle(count, seed=1).batch(common.BATCH).prefetch(2)
        )
        kept = found.dataset(common.BATCH, shuffle=True)
        suffix.compile("adam", **heads.from_model(model).compile_args())
        ways = {
            "suffix on tensors in memory": lambda s=suffix, d=memory: s.fit(d, verbose=0, shuffle=False),
            "suffix on the cache": lambda s=suffix, d=kept: s.fit(d, verbose=0, shuffle=False),
        }
        seconds = common.in_turn(ways, repeats)
        size = " x ".join(map(str, shape))
        common.report(f"One epoch after {cut or 'the backbone'}, {size}", seconds, count, "examples/s")


def _spec(model: keras.Model) -> tfft.InputSpec:
    return model.get_layer("preprocess").spec
