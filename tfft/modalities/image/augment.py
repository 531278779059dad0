"""Views of an image: the image itself, and reproducible random variations of it.

Implementation notes: a view is a pure function of seed, position and number, so a feature cache and a pipeline that
augments in every epoch use the same images.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from tfft.layers.preprocess import resize_pixels
from tfft.modalities.image.colour import vary_colour
from tfft.modalities.image.randaugment import rand_augment
from tfft.modalities.image.transform import PixelTransform, fitting
from tfft.specs import Augmentation, InputSpec

_ASPECT = math.log(4 / 3)  # largest change of the aspect ratio by a crop
_RAND, _COLOUR = 1, 2  # separate the random numbers of "rand" and "colour" from the others of a view


@tf.autograph.experimental.do_not_convert
def view_of(
    pixels: tf.Tensor, spec: InputSpec, changes: Augmentation, seed: tf.Tensor, view: tf.Tensor
) -> tuple[tf.Tensor, PixelTransform]:
    """Make one view of one image, in the size of a backbone.

    View 0 is the image itself. The others are crops of random area, aspect ratio and place (Szegedy et al., "Going
    deeper with convolutions", 2015), taken before resizing, mirrored in half of the cases, and changed in their colours
    (:func:`~tfft.modalities.image.colour.vary_colour`) and by RandAugment
    (:func:`~tfft.modalities.image.randaugment.rand_augment`).

    Args:
        pixels: Decoded image of any size, uint8 [h, w, C].
        spec: Target size and channels.
        changes: Augmentation.
        seed: Seed for this image, int [2].
        view: Number of the view, int scalar, from 0.

    Returns:
        uint8 [spec.height, spec.width, spec.channels], and the transform of places in the image, without the moves of
        RandAugment.
    """
    size = tf.cast(tf.shape(pixels)[:2], tf.float32)
    transform = draw_transform(size, spec, changes, seed, view)

    def varied() -> tf.Tensor:
        if changes.crop < 1:
            top, left, bottom, right = tf.unstack(tf.cast(transform.box, tf.int32))
            small = resize_pixels(pixels[top:bottom, left:right], dataclasses.replace(spec, resize="stretch"))
        else:
            small = resize_pixels(pixels, spec)
        own = tf.random.fold_in(seed, view)
        small = vary_pixels(small, changes, transform.mirrored, own)
        if changes.rand:
            whole = rand_augment(tf.cast(small, tf.uint8), changes.rand, tf.random.fold_in(own, _RAND))
            small = tf.cast(whole, tf.float32)
        return small

    result = tf.cond(view > 0, varied, lambda: resize_pixels(pixels, spec))
    return tf.cast(result, tf.uint8), transform


def vary_pixels(pixels: tf.Tensor, changes: Augmentation, mirrored: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror resized pixels if the augmentation and the transform say so, and change their colours.

    Args:
        pixels: float32 [H, W, C], whole values in 0 to 255.
        changes: Augmentation.
        mirrored: Whether left and right are swapped, bool.
        seed: Seed of the view, int [2].

    Returns:
        float32 [H, W, C].
    """
    if changes.flip:
        pixels = tf.reverse(pixels, tf.boolean_mask([1], mirrored[None]))
    return vary_colour(pixels, changes.colour, tf.random.fold_in(seed, _COLOUR)) if changes.colour else pixels


@tf.autograph.experimental.do_not_convert
def draw_transform(
    size: tf.Tensor, spec: InputSpec, changes: Augmentation, seed: tf.Tensor, view: tf.Tensor
) -> PixelTransform:
    """Return the transform of a view without its pixels, for labels that move with them.

    Args:
        size: float32 [2], rows and columns of the image.
        spec: As in :func:`view_of`, like all that follow.
        changes: Augmentation.
        seed: Seed for this image.
        view: Number of the view.
    """
    plain = fitting(size, spec)
    numbers = tf.random.stateless_uniform([5], tf.random.fold_in(seed, view))
    box, mirrored = plain.box, plain.mirrored
    if changes.crop < 1:
        box = tf.where(view > 0, _part(size, spec.width / spec.height, changes.crop, numbers), box)
    if changes.flip:
        mirrored = (view > 0) & (numbers[4] < 0.5)
    return PixelTransform(box, mirrored, plain.size)


@tf.autograph.experimental.do_not_convert
def draw_part(size: tf.Tensor, shape: tf.Tensor, least: float, flip: bool, seed: tf.Tensor) -> PixelTransform:
    """Draw a crop of an image that fills a rectangle of any shape.

    Args:
        size: float32 [2], rows and columns of the image.
        shape: int32 [2], rows and columns of the rectangle.
        least: Minimum share of the area, unless a part of that shape would be larger than the image.
        flip: Whether half of the crops are mirrored.
        seed: Seed, int [2].
    """
    numbers = tf.random.stateless_uniform([5], seed)
    sides = tf.cast(shape, tf.float32)
    box = _part(size, sides[1] / sides[0], least, numbers)
    return PixelTransform(box, numbers[4] < 0.5 if flip else tf.constant(False), shape)


def _part(size: tf.Tensor, shape: float | tf.Tensor, least: float, numbers: tf.Tensor) -> tf.Tensor:
    """Draw a crop of an image: top, left, bottom, right, integers as float32 [4]; ``shape`` is width over height."""
    area = size[0] * size[1] * (least + (1 - least) * numbers[0])
    aspect = tf.exp((2 * numbers[1] - 1) * _ASPECT) * shape
    wanted = tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)])
    inner = tf.clip_by_value(tf.round(wanted), 1.0, size)
    start = tf.clip_by_value(tf.floor(numbers[2:4] * (size - inner + 1)), 0.0, size - inner)
    return tf.concat([start, start + inner], axis=0)
