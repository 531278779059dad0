"""How fast frozen features are: the engines, the way from files, and an epoch that reads a cache.

    python benchmarks/features.py [folder of class folders] [--images 200] [--repeats 5]

Ways are run in turn in one process, so that other work on the machine meets them alike; each line gives
the median, the spread over the repetitions, and the ratio of the medians to the first way.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfft
from tfft import data, features, heads
from tfft.features import cache, engine, litert
from tfft.features.found import Features
from tfft.features.reading import open_source

BATCH = 32
BACKBONE = "efficientnet-lite0"


def in_turn(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Runs each way once to warm up, then all of them in turn, and returns their seconds."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title: str, seconds: dict[str, list[float]], count: int, unit: str) -> None:
    print(f"\n{title}")
    base = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        rates = sorted(count / s for s in values)
        ratio = base / statistics.median(values)
        middle = count / statistics.median(values)
        print(f"  {name:44s} {middle:9,.1f} {unit} ({rates[0]:,.1f} to {rates[-1]:,.1f})   {ratio:5.2f} x")


def machine() -> None:
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    load = ", ".join(f"{n:.1f}" for n in os.getloadavg())
    print(f"{names[0] if names else platform.processor()}, {litert.cores()} cores, load {load}")
    print(f"Python {platform.python_version()}, TensorFlow {tf.__version__}, Keras {keras.__version__}, "
          f"LiteRT {litert.version()}, tfft {tfft.__version__}")  # fmt: skip


def matrix_rate() -> float:
    """Multiply-adds a second of a float32 matrix product in TensorFlow, the best of a few."""
    a, best = tf.random.normal([1536, 1536]), float("inf")
    for _ in range(8):
        start = time.perf_counter()
        float(tf.matmul(a, a)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 1536**3 / best


def make_photos(folder: pathlib.Path, count: int) -> None:
    """Writes JPEG files of 500 x 375 pixels with some structure, as photographs have."""
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = random.uniform(0, 255, (12, 16, 3)).astype(np.float32)
        pixels = tf.image.resize(coarse, (375, 500), "bicubic") + random.normal(0, 6, (375, 500, 3))
        path = folder / f"class{i % 4}" / f"{i:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tf.io.encode_jpeg(tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8), quality=90).numpy())


def torch_way(images: np.ndarray) -> Callable[[], object] | None:
    """The same network in PyTorch, channels last, where torch and efficientnet-lite-pytorch are installed."""
    try:
        import torch
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        return None
    torch.set_num_threads(litert.cores())
    net = EfficientNet.from_name("efficientnet-lite0").eval().to(memory_format=torch.channels_last)
    parts = torch.tensor(images.transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last).split(BATCH)

    def run() -> None:
        with torch.inference_mode():
            for part in parts:
                net.extract_features(part).mean((2, 3))

    return run


def inference(prefix: keras.Model, count: int, repeats: int) -> None:
    net = engine.stage(prefix).net
    images = np.random.default_rng(1).random((count, *net.inputs[0].shape[1:]), np.float32)
    parts = [images[i : i + BATCH] for i in range(0, count, BATCH)]
    tensors = [tf.constant(p) for p in parts]
    fast, note = engine.open_engine(net, "litert", [parts[0]])
    graph = tf.function(functools.partial(net, training=False))
    ways: dict[str, Callable[[], object]] = {
        "TensorFlow graph": lambda: [graph(t).numpy() for t in tensors],
        "LiteRT": lambda: list(engine.run(fast, (([p], None) for p in parts))),
    }
    if (torch := torch_way(images)) is not None:
        ways["PyTorch, channels last"] = torch
    seconds = in_turn(ways, repeats)
    report(f"(a) Inference alone, {BACKBONE} at 224 px, batches of {BATCH}", seconds, count, "images/s")
    work = sum(getattr(layer, "flops", 0) or 0 for layer in net.layers)
    share = work * count / statistics.median(seconds["LiteRT"]) / matrix_rate()
    print(f"  {note}")
    print(f"  LiteRT multiplies and adds at {share:.0%} of the rate of a matrix product of 1536 x 1536 in TensorFlow.")
    fast.close()


def from_files(prefix: keras.Model, photos: data.Examples, repeats: int) -> None:
    staged = engine.stage(prefix)
    source = open_source(photos, staged, BATCH)
    first = next(source.batches(staged))
    fast, _ = engine.open_engine(staged.net, "litert", first)
    graph = tf.function(functools.partial(prefix, training=False), reduce_retracing=True)
    spec = staged.preprocess.spec

    def plain() -> None:
        for images, _ in data.to_dataset(photos, spec, batch_size=BATCH, cache=False):
            graph(images).numpy()

    def whole(which: str) -> Callable[[], object]:
        return lambda: features.extract(prefix, photos, cache=None, engine=which, batch_size=BATCH, verbose=False)

    ways = {
        "tf.data and TensorFlow": plain,
        "LiteRT, converted before": lambda: list(engine.run(fast, ((b, None) for b in source.batches(staged)))),
        "extract(): LiteRT, with conversion and check": whole("litert"),
        "extract(): TensorFlow": whole("tensorflow"),
        "reading, decoding, resizing alone": lambda: list(source.batches(staged)),
    }
    seconds = in_turn(ways, repeats)
    report(f"(b) From {len(photos)} JPEG files to features", seconds, len(photos), "images/s")
    fast.close()


def cached_epoch(model: keras.Model, cut: str | None, count: int, repeats: int, folder: pathlib.Path) -> None:
    prefix, suffix = features.split(model, cut=cut)
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
    memory = tf.data.Dataset.from_tensor_slices((values, labels)).shuffle(count, seed=1).batch(BATCH).prefetch(2)
    kept = found.dataset(BATCH, shuffle=True)
    suffix.compile("adam", **heads.of(model).compile_args())
    ways = {
        "suffix on tensors in memory": lambda: suffix.fit(memory, verbose=0, shuffle=False),
        "suffix on the cache": lambda: suffix.fit(kept, verbose=0, shuffle=False),
    }
    seconds = in_turn(ways, repeats)
    base, cached = (statistics.median(values) for values in seconds.values())
    where = cut or "the whole backbone"
    title = (
        f"(c) One epoch after {where}, {' x '.join(map(str, shape))}: the cache takes {cached / base:.2f} of the time"
    )
    report(title, seconds, count, "examples/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="folder of class folders with images; made where it is left out")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    machine()
    model = tfft.build(tfft.load_backbone(BACKBONE), heads.classification(["a", "b", "c", "d"]))
    prefix, _ = features.split(model)
    with tempfile.TemporaryDirectory(prefix="tfft-benchmark-") as name:
        made = pathlib.Path(name)
        if options.folder is None:
            (made / "photos").mkdir()
            make_photos(made / "photos", options.images)
        photos = data.list_images(options.folder or made / "photos")
        inference(prefix, 96, options.repeats)
        from_files(prefix, photos, options.repeats)
        cached_epoch(model, None, 4096, options.repeats, made / "cache")
        cached_epoch(model, "block12", 512, options.repeats, made / "cache")


if __name__ == "__main__":
    main()
