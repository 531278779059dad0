"""Views of a picture: itself, and random variations of it that can be made again. Those of sounds are in ``waves``.

Hides the random numbers. A view is a pure function of seed, position and number, so a cache of views and
a pipeline that makes them anew in every epoch show the same pictures.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from tfft.layers.preprocess import resize_pixels
from tfft.modalities.image.randaugment import rand_augment
from tfft.specs import Augmentation, InputSpec

_ASPECT = math.log(4 / 3)  # a crop is at most so much wider or taller than the picture it becomes
_RAND = 1  # keeps the numbers of "rand" apart from the others of a view


@tf.autograph.experimental.do_not_convert
def view_of(pixels: tf.Tensor, spec: InputSpec, changes: Augmentation, seed: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
    """Makes one view of one picture, in the size that a backbone expects.

    View 0 is the picture as it is. The others are cut out of the picture before it is resized: a part of
    random area, shape and place (Szegedy et al., "Going deeper with convolutions", 2015), mirrored in half of the
    cases, and changed in colour and shape (:func:`~tfft.modalities.image.randaugment.rand_augment`).

    Args:
        pixels: uint8 [h, w, C], decoded, of any size.
        spec: the wanted size and channels.
        changes: what may vary.
        seed: int [2], of this picture.
        view: int scalar, from 0.

    Returns:
        uint8 [spec.height, spec.width, spec.channels].
    """

    def varied() -> tf.Tensor:
        own = tf.random.fold_in(seed, view)
        numbers = tf.random.stateless_uniform([5], own)
        if changes.crop < 1:
            part = _part(pixels, spec, changes.crop, numbers)
            small = resize_pixels(part, dataclasses.replace(spec, resize="stretch"))
        else:
            small = resize_pixels(pixels, spec)
        if changes.flip:
            small = tf.reverse(small, tf.boolean_mask([1], numbers[4:5] < 0.5))
        if changes.rand:
            whole = rand_augment(tf.cast(small, tf.uint8), changes.rand, tf.random.fold_in(own, _RAND))
            small = tf.cast(whole, tf.float32)
        return small

    return tf.cast(tf.cond(view > 0, varied, lambda: resize_pixels(pixels, spec)), tf.uint8)


def _part(pixels: tf.Tensor, spec: InputSpec, least: float, numbers: tf.Tensor) -> tf.Tensor:
    size = tf.cast(tf.shape(pixels)[:2], tf.float32)
    area = size[0] * size[1] * (least + (1 - least) * numbers[0])
    aspect = tf.exp((2 * numbers[1] - 1) * _ASPECT) * (spec.width / spec.height)
    wanted = tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)])
    inner = tf.clip_by_value(tf.round(wanted), 1.0, size)
    start = tf.cast(tf.floor(numbers[2:4] * (size - inner + 1)), tf.int32)
    top, left = tf.unstack(tf.clip_by_value(start, 0, tf.cast(size - inner, tf.int32)))
    rows, columns = tf.unstack(tf.cast(inner, tf.int32))
    return pixels[top : top + rows, left : left + columns]
