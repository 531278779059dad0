"""Whether features of mirrored images are the mirrored features: :func:`flip_difference`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import DataError, PlanError
from tfft.features.engines import stage
from tfft.features.functional_graph import flat_inputs


def flip_difference(prefix: keras.Model, inputs: Any) -> float:
    """Measures how far features of images mirrored left to right are from mirrored features.

    Use it before mirroring kept features in place of images. That is the same only where every kernel
    between is symmetric and no stride or padding is one-sided; trained networks are far from it, and then
    features have to be computed from the mirrored images.

    Args:
        prefix: from :func:`tfft.features.split`, with feature maps [B, rows, columns, channels] behind it.
        inputs: a batch of images, as the prefix takes them. Where it resizes them first, what it makes of
            them is mirrored.

    Returns:
        The largest ``|prefix(mirrored x) - mirrored prefix(x)|``, divided by the largest ``|prefix(x)|``; 0 is
        equal. 0.0 where all features are 0.

    Raises:
        PlanError: the prefix does not take images or does not give one feature map.
        DataError: the batch is empty.

    Example:
        >>> flip_difference(prefix, images)
        0.83
    """
    staged = stage(prefix)
    net = staged.net
    shapes = [tuple(t.shape) for t in (*net.inputs, *net.outputs)]
    if len(net.inputs) != 1 or len(net.outputs) != 1 or any(len(shape) != 4 for shape in shapes):
        raise PlanError(
            f"Only feature maps of images can be mirrored: one input and one output [batch, rows, columns, channels]. "
            f"{prefix.name!r} takes {[tuple(t.shape) for t in net.inputs]} and gives "
            f"{[tuple(t.shape) for t in net.outputs]}. Cut in front of the pooling: split(model, cut=...)."
        )
    if not len(flat_inputs(prefix, inputs)[0]):
        raise DataError("There are no images in the batch to mirror.")
    (pixels,) = staged.enter(inputs)
    plain = np.asarray(net(pixels, training=False))
    mirrored = np.asarray(net(tf.reverse(pixels, [2]), training=False))
    largest = float(np.abs(plain).max(initial=0.0))
    return float(np.abs(mirrored - plain[:, :, ::-1]).max(initial=0.0)) / largest if largest else 0.0
