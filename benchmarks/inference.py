"""How fast frozen features are: the engines alone, where their time goes, and the way from JPEG files."""

from __future__ import annotations

import functools
import pathlib
import statistics
import time

import common
import keras
import numpy as np
import tensorflow as tf

from tfft import data, features
from tfft.backbones.base import blocks_of
from tfft.features import engines
from tfft.features.sources import open_source
from tfft.io.processors import usable_cores
from tfft.modalities.image import list_images


def torch_way(images: np.ndarray) -> common.Way | None:
    """The same network in PyTorch, channels last, where torch and efficientnet-lite-pytorch are installed."""
    try:
        import torch
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        return None
    torch.set_num_threads(usable_cores())
    net = EfficientNet.from_name("efficientnet-lite0").eval().to(memory_format=torch.channels_last)
    parts = torch.tensor(images.transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last).split(common.BATCH)

    def run() -> None:
        with torch.inference_mode():
            for part in parts:
                net.extract_features(part).mean((2, 3))

    return run


def inference(repeats: int, count: int = 96) -> None:
    prefix, _ = features.split_frozen(common.model_of())
    net = engines.stage(prefix).net
    images = np.random.default_rng(1).random((count, *net.inputs[0].shape[1:]), np.float32)
    parts = [images[i : i + common.BATCH] for i in range(0, count, common.BATCH)]
    tensors = [tf.constant(p) for p in parts]
    fast, note = engines.open_engine(net, "litert", [parts[0]])
    graph = tf.function(functools.partial(net, training=False))
    ways: dict[str, common.Way] = {
        "TensorFlow graph": lambda: [graph(t).numpy() for t in tensors],
        "LiteRT": lambda: list(engines.run(fast, (([p], None) for p in parts))),
    }
    if (torch := torch_way(images)) is not None:
        ways["PyTorch, channels last"] = torch
    seconds = common.in_turn(ways, repeats)
    common.report(
        f"Inference alone, {common.BACKBONE} at 224 px, batches of {common.BATCH}", seconds, count, "images/s"
    )
    work = sum(getattr(layer, "flops", 0) or 0 for layer in net.layers)
    share = work * count / statistics.median(seconds["LiteRT"]) / common.matrix_rate()
    print(f"  {note}")
    print(f"  LiteRT multiplies and adds at {share:.0%} of the rate of a 1536 x 1536 matrix product in TensorFlow.")
    fast.close()


def profile(repeats: int, count: int = 32) -> None:
    """Each block through LiteRT on its own: what it has to compute, and at which rate it does."""
    model = common.model_of()
    rate = common.matrix_rate()
    print(f"\nWhere the time goes: each block alone through LiteRT; a matrix product does {rate / 1e9:.0f} GMAC/s")
    total = 0.0
    values = np.random.default_rng(0).random((count, 224, 224, 3), np.float32)
    for block in blocks_of(model):
        [layer] = [layer for layer in block.layers if getattr(layer, "is_tfft_block", False)]
        inputs = keras.Input(values.shape[1:])
        net = keras.Model(inputs, layer(inputs))
        fast, _ = engines.open_engine(net, "litert", [values])
        best = float("inf")
        for _ in range(repeats + 1):
            start = time.perf_counter()
            [([result], _)] = engines.run(fast, [([values], None)])
            best = min(best, time.perf_counter() - start)
        fast.close()
        total += best
        share = layer.flops * count / best / rate
        values, shape = result, "x".join(map(str, result.shape[1:]))
        print(
            f"  {block.name:10s} {shape:>12s} {layer.flops / 1e6:7.1f} MMAC {best / count * 1e3:7.3f} ms {share:6.0%}"
        )
    print(f"  in all {total / count * 1e3:.2f} ms an image, copies between the blocks counted", flush=True)


def files(repeats: int, folder: pathlib.Path, count: int = 1000) -> None:
    prefix, _ = features.split_frozen(common.model_of())
    photos = list_images(folder, check=False)
    staged = engines.stage(prefix)
    spec = staged.spec
    graph = tf.function(functools.partial(prefix, training=False), reduce_retracing=True)

    def plain() -> None:
        for images, _ in data.to_dataset(photos, spec, batch_size=common.BATCH, cache=False):
            graph(images).numpy()

    def whole(which: str) -> common.Way:
        settings = {"cache": None, "engine": which, "batch_size": common.BATCH, "verbose": False}
        return lambda: features.extract(prefix, photos, **settings)

    ways = {
        "tf.data and TensorFlow": plain,
        "extract(): conversion and check counted": whole("litert"),
        "extract(engine='tensorflow')": whole("tensorflow"),
        "reading, decoding, resizing alone": lambda: list(open_source(photos, staged, common.BATCH).batches(staged)),
    }
    seconds = common.in_turn(ways, repeats)
    common.report(f"From {len(photos)} JPEG files of 500 x 375 to features", seconds, len(photos), "images/s")
    alone = statistics.median(seconds["reading, decoding, resizing alone"])
    share = alone / statistics.median(seconds["extract(): conversion and check counted"])
    print(f"  reading alone takes {share:.0%} of the time of extract()", flush=True)
