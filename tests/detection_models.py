"""Pictures with planted objects, and a small network with three feature maps under a detector's head."""

import keras
import numpy as np

import tfft
from tfft import heads
from tfft.backbones.base import Backbone
from tfft.specs import InputSpec

CLASSES = ("square", "ring")
SIDE = 96


def pictures(count, seed, side=SIDE):
    """Bright squares and rings among noise and dim bars: uint8 [N, side, side, 3] and labels float32 [N, 3, 7]."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (count, side, side, 3))
    labels = np.full((count, 3, 7), -1, np.float32)
    labels[..., 1:] = 0
    for image, rows in zip(images, labels, strict=True):
        for _ in range(4):
            top, left = rng.integers(0, side - 30, 2)
            image[top : top + rng.integers(3, 30), left : left + rng.integers(3, 8)] += rng.integers(30, 70)
        taken = np.zeros((side, side), bool)
        for row in rows[: rng.integers(0, 4)]:
            size, kind = int(rng.integers(14, 37)), int(rng.integers(2))
            top, left = rng.integers(0, side - size, 2)
            place = slice(top, top + size), slice(left, left + size)
            if taken[place].any():
                continue
            taken[place] = True
            image[place] = rng.integers(170, 256)
            if kind:
                image[top + 4 : top + size - 4, left + 4 : left + size - 4] = rng.integers(0, 60)
            row[:] = kind, *(np.array([top, left, top + size, left + size]) / side), side, side
    return images.astype(np.uint8), labels


def untrained(width=16, size=SIDE):
    """A convolutional backbone with random weights, its blocks named for their strides."""
    x = inputs = keras.Input((size, size, 3))
    for at, filters in enumerate((8, 16, 24, 32, 32)):
        x = keras.layers.Conv2D(filters, 3, 2, "same", use_bias=False, name=f"block{at}_conv")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"block{at}_bn")(x)
        x = keras.layers.ReLU(name=f"block{at}_relu")(x)
    spec = InputSpec(size, size, value_range=(-1.0, 1.0), source="the test")
    return Backbone("tiny", keras.Model(inputs, x, name="tiny"), "test", spec)


def detector(seed=0, classes=CLASSES, size=SIDE, **settings):
    """An untrained detector, all of it trainable."""
    keras.utils.set_random_seed(seed)
    model = tfft.build(untrained(size=size), heads.object_detection(classes, **{"width": 24} | settings))
    tfft.unfreeze(model, "all")
    return model
