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
from tfft.modalities.image.transform import PixelTransform, fitting
from tfft.specs import Augmentation, InputSpec

_ASPECT = math.log(4 / 3)  # a crop is at most so much wider or taller than the picture it becomes
_RAND = 1  # keeps the numbers of "rand" apart from the others of a view


@tf.autograph.experimental.do_not_convert
def view_of(
    pixels: tf.Tensor, spec: InputSpec, changes: Augmentation, seed: tf.Tensor, view: tf.Tensor
) -> tuple[tf.Tensor, PixelTransform]:
    """Make one view of one picture, in the size that a backbone expects.

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
        uint8 [spec.height, spec.width, spec.channels], and where the parts of the picture are in it; the moves of
        RandAugment are not part of that.
    """
    size = tf.cast(tf.shape(pixels)[:2], tf.float32)
    plain = fitting(size, spec)

    def varied() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        own = tf.random.fold_in(seed, view)
        numbers = tf.random.stateless_uniform([5], own)
        box, mirrored = plain.box, plain.mirrored
        if changes.crop < 1:
            box = _part(size, spec, changes.crop, numbers)
            top, left, bottom, right = tf.unstack(tf.cast(box, tf.int32))
            small = resize_pixels(pixels[top:bottom, left:right], dataclasses.replace(spec, resize="stretch"))
        else:
            small = resize_pixels(pixels, spec)
        if changes.flip:
            mirrored = numbers[4] < 0.5
            small = tf.reverse(small, tf.boolean_mask([1], mirrored[None]))
        if changes.rand:
            whole = rand_augment(tf.cast(small, tf.uint8), changes.rand, tf.random.fold_in(own, _RAND))
            small = tf.cast(whole, tf.float32)
        return small, box, mirrored

    result, box, mirrored = tf.cond(view > 0, varied, lambda: (resize_pixels(pixels, spec), plain.box, plain.mirrored))
    return tf.cast(result, tf.uint8), PixelTransform(box, mirrored, plain.size)


def _part(size: tf.Tensor, spec: InputSpec, least: float, numbers: tf.Tensor) -> tf.Tensor:
    """Draw a part of a picture: top, left, bottom, right, whole numbers as float32 [4]."""
    area = size[0] * size[1] * (least + (1 - least) * numbers[0])
    aspect = tf.exp((2 * numbers[1] - 1) * _ASPECT) * (spec.width / spec.height)
    wanted = tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)])
    inner = tf.clip_by_value(tf.round(wanted), 1.0, size)
    start = tf.clip_by_value(tf.floor(numbers[2:4] * (size - inner + 1)), 0.0, size - inner)
    return tf.concat([start, start + inner], axis=0)
