"""Random changes of brightness, contrast, saturation and hue: :func:`vary_colour`."""

from __future__ import annotations

import tensorflow as tf

_HUE = 0.25  # turns of the colour circle at strength 1; the 0.1 for 0.4 that is usual


@tf.autograph.experimental.do_not_convert
def vary_colour(pixels: tf.Tensor, strength: float, seed: tf.Tensor) -> tf.Tensor:
    """Change brightness, contrast, saturation and hue of an image by random amounts, in this order.

    The first three multiply the distance of a pixel to black, to the mean grey of the image and to its own grey by a
    factor of ``1 - strength`` to ``1 + strength`` each; the hue moves by up to ``strength / 4`` of the colour circle to
    either side (the colour jitter of Howard, "Some improvements on deep convolutional neural network based image
    classification", 2013, with the ranges of torchvision). No pixel moves, so boxes and masks stay as they are.

    Args:
        pixels: Image, uint8 or whole float values in 0 to 255, [H, W, C] with C 1 or 3. Grey images have no saturation
            and no hue.
        strength: Strength above 0 and at most 1; 0.4 is usual.
        seed: Seed, int [2]; the same seed gives the same image.

    Returns:
        float32 [H, W, C], whole values in 0 to 255.

    Example:
        >>> vary_colour(photo, 0.4, tf.constant([1, 2]))
    """
    numbers = 2.0 * tf.random.stateless_uniform([4], seed) - 1.0
    bright, contrast, saturation = tf.unstack(1.0 + strength * numbers[:3])
    found = _bounded(tf.cast(pixels, tf.float32) * bright)
    coloured = found.shape[-1] == 3
    middle = tf.reduce_mean(tf.image.rgb_to_grayscale(found) if coloured else found)
    found = _bounded(middle + contrast * (found - middle))
    if coloured:
        grey = tf.image.rgb_to_grayscale(found)
        found = _bounded(grey + saturation * (found - grey))
        found = 255.0 * tf.image.adjust_hue(found / 255.0, strength * _HUE * numbers[3])
    return _bounded(tf.round(found))


def _bounded(pixels: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(pixels, 0.0, 255.0)
