"""What the benchmarks share: the machine, ways run in turn, generated photos."""

from __future__ import annotations

import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfft
from tfft import heads
from tfft.features import litert
from tfft.io.processors import usable_cores

BACKBONE, BATCH = "efficientnet-lite0", 32

Way = Callable[[], object]


def machine() -> None:
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    load = ", ".join(f"{n:.1f}" for n in os.getloadavg())
    print(f"{names[0] if names else platform.processor()}, {usable_cores()} cores, load {load}")
    print(f"Python {platform.python_version()}, TensorFlow {tf.__version__}, Keras {keras.__version__}, "
          f"LiteRT {litert.version()}, tfft {tfft.__version__}", flush=True)  # fmt: skip


def model_of(classes: int = 4) -> keras.Model:
    keras.utils.set_random_seed(0)
    return tfft.build(tfft.load_backbone(BACKBONE), heads.classification([f"class {i}" for i in range(classes)]))


def in_turn(ways: Mapping[str, Way], repeats: int, *, warm: bool = True) -> dict[str, list[float]]:
    """Runs each way once to warm up, then all of them in turn, and returns their seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values() if warm else ():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title: str, seconds: Mapping[str, list[float]], count: int, unit: str) -> None:
    """Prints rates, their spread, and the ratio of the medians to the first way."""
    print(f"\n{title}")
    base = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        rates, middle = sorted(count / s for s in values), statistics.median(values)
        spread = f"({rates[0]:,.1f} to {rates[-1]:,.1f})"
        print(f"  {name:46s} {count / middle:9,.1f} {unit:10s} {spread:22s} {base / middle:6.2f} x", flush=True)


def matrix_rate() -> float:
    """Multiply-adds a second of a float32 matrix product in TensorFlow, the best of a few."""
    a, best = tf.random.normal([1536, 1536]), float("inf")
    for _ in range(8):
        start = time.perf_counter()
        float(tf.matmul(a, a)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 1536**3 / best


def make_photos(folder: pathlib.Path, count: int, size: tuple[int, int] = (375, 500)) -> pathlib.Path:
    """Writes JPEG files with some structure, as photographs have, in four classes."""
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = random.uniform(0, 255, (12, 16, 3)).astype(np.float32)
        pixels = tf.image.resize(coarse, size, "bicubic") + random.normal(0, 6, (*size, 3))
        path = folder / f"class{i % 4}" / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_jpeg(tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8), quality=90).numpy())
    return folder
