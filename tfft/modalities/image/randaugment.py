"""RandAugment for one image: :func:`rand_augment`.

Implementation notes: the changes and their ranges are those of Cubuk et al. ("RandAugment: Practical automated data
augmentation with a reduced search space", 2020). The layer RandAugment of Keras is not used: it draws from its own
random state whatever seed it gets, so views cannot be reproduced; it computes every change for every image; and at
strength 0.5 it rotates by up to 180 degrees, where the paper stays below 15.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from tfft.layers.preprocess import whole_levels

CHANGES_EACH = 2  # changes applied to an image; the N of the paper

_TURN, _SHEAR, _SHIFT, _FACTOR, _BITS = math.radians(30), 0.3, 0.45, 0.9, 4  # at strength 1
_GREY = 128  # fill value outside of the image
_SMOOTH = ((1, 1, 1), (1, 5, 1), (1, 1, 1))  # blur kernel for sharpness, as in Pillow

Change = Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor]  # float pixels, sign, strength -> float pixels


@tf.autograph.experimental.do_not_convert
def rand_augment(pixels: tf.Tensor, strength: float, seed: tf.Tensor) -> tf.Tensor:
    """Apply two of fourteen changes of colour and shape to an image, drawn with a seed.

    Args:
        pixels: Image of known size, uint8 [H, W, C] with C 1 or 3.
        strength: Strength above 0 and at most 1; the paper's magnitude divided by 10. 0.5 is moderate.
        seed: Seed, int [2]; the same seed gives the same image.

    Returns:
        uint8 [H, W, C].

    Example:
        >>> rand_augment(photo, 0.5, tf.constant([1, 2]))
    """
    numbers = tf.random.stateless_uniform([CHANGES_EACH, 2], seed)
    found = tf.cast(pixels, tf.float32)
    for which, side in (tf.unstack(row) for row in tf.unstack(numbers)):
        sign = tf.where(side < 0.5, -1.0, 1.0)
        branches = [lambda c=change, x=found, s=sign: whole_levels(c(x, s, strength)) for change in CHANGES.values()]
        found = tf.switch_case(tf.cast(which * len(branches), tf.int32), branches)
        found.set_shape(pixels.shape)
    return tf.cast(found, tf.uint8)


def _away(plain: tf.Tensor | float, pixels: tf.Tensor, sign: tf.Tensor, strength: float) -> tf.Tensor:
    """Move pixels towards a plain version of the image (sign -1), or away from it."""
    return plain + (1.0 + sign * _FACTOR * strength) * (pixels - plain)


def _grey(pixels: tf.Tensor) -> tf.Tensor:
    return tf.image.rgb_to_grayscale(pixels) if pixels.shape[-1] == 3 else pixels


def _brightness(pixels: tf.Tensor, sign: tf.Tensor, strength: float) -> tf.Tensor:
    return _away(0.0, pixels, sign, strength)


def _contrast(pixels: tf.Tensor, sign: tf.Tensor, strength: float) -> tf.Tensor:
    return _away(tf.round(tf.reduce_mean(_grey(pixels))), pixels, sign, strength)


def _colour(pixels: tf.Tensor, sign: tf.Tensor, strength: float) -> tf.Tensor:
    return _away(_grey(pixels), pixels, sign, strength)


def _sharpness(pixels: tf.Tensor, sign: tf.Tensor, strength: float) -> tf.Tensor:
    rows, columns, channels = pixels.shape
    if min(rows, columns) < 3:
        return pixels
    kernel = tf.constant(_SMOOTH, tf.float32)[:, :, None, None] / 13.0
    inner = tf.nn.depthwise_conv2d(pixels[None], tf.tile(kernel, [1, 1, channels, 1]), [1] * 4, "VALID")[0]
    inside = tf.pad(tf.ones_like(inner), [[1, 1], [1, 1], [0, 0]]) > 0  # the edge is unchanged
    smooth = tf.where(inside, tf.pad(inner, [[1, 1], [1, 1], [0, 0]]), pixels)
    return _away(smooth, pixels, sign, strength)


def _posterize(pixels: tf.Tensor, _: tf.Tensor, strength: float) -> tf.Tensor:
    step = float(2 ** round(_BITS * strength))
    return tf.floor(pixels / step) * step


def _solarize(pixels: tf.Tensor, _: tf.Tensor, strength: float) -> tf.Tensor:
    return tf.where(pixels < 256.0 * (1.0 - strength), pixels, 255.0 - pixels)


def _autocontrast(pixels: tf.Tensor, _: tf.Tensor, __: float) -> tf.Tensor:
    low, high = (f(pixels, [0, 1]) for f in (tf.reduce_min, tf.reduce_max))
    spread = tf.maximum(high - low, 1.0)
    return tf.where(high > low, (pixels - low) * (255.0 / spread), pixels)


def _equalize(pixels: tf.Tensor, _: tf.Tensor, __: float) -> tf.Tensor:
    """Equalize the histogram of each channel, as Pillow does."""
    done = []
    for channel in tf.unstack(tf.cast(pixels, tf.int32), axis=-1):
        counts = tf.math.bincount(tf.reshape(channel, [-1]), minlength=256, maxlength=256)
        last = tf.gather(counts, tf.reduce_max(channel))
        step = (tf.reduce_sum(counts) - last) // 255
        table = (step // 2 + tf.cumsum(counts, exclusive=True)) // tf.maximum(step, 1)
        done.append(tf.where(step > 0, tf.gather(tf.minimum(table, 255), channel), channel))
    return tf.cast(tf.stack(done, -1), tf.float32)


def _moved(pixels: tf.Tensor, matrix: list[tf.Tensor | float]) -> tf.Tensor:
    """Fetch the pixel (x, y), counted from the middle, from (a x + b y + c, d x + e y + f)."""
    a, b, c, d, e, f = (tf.cast(value, tf.float32) for value in matrix)
    x, y = (pixels.shape[1] - 1) / 2, (pixels.shape[0] - 1) / 2
    zero = tf.zeros([])
    whole = tf.stack([a, b, c + x - a * x - b * y, d, e, f + y - d * x - e * y, zero, zero])
    return keras.ops.image.affine_transform(
        pixels, whole, "bilinear", "constant", fill_value=_GREY, data_format="channels_last"
    )


def _rotate(pixels: tf.Tensor, sign: tf.Tensor, strength: float) -> tf.Tensor:
    angle = sign * _TURN * strength
    cos, sin = tf.cos(angle), tf.sin(angle)
    return _moved(pixels, [cos, -sin, 0.0, sin, cos, 0.0])


def _shear_x(pixels: tf.Tensor, sign: tf.Tensor, strength: float) -> tf.Tensor:
    return _moved(pixels, [1.0, sign * _SHEAR * strength, 0.0, 0.0, 1.0, 0.0])


def _shear_y(pixels: tf.Tensor, sign: tf.Tensor, strength: float) -> tf.Tensor:
    return _moved(pixels, [1.0, 0.0, 0.0, sign * _SHEAR * strength, 1.0, 0.0])


def _translate_x(pixels: tf.Tensor, sign: tf.Tensor, strength: float) -> tf.Tensor:
    return _moved(pixels, [1.0, 0.0, sign * round(_SHIFT * strength * pixels.shape[1]), 0.0, 1.0, 0.0])


def _translate_y(pixels: tf.Tensor, sign: tf.Tensor, strength: float) -> tf.Tensor:
    return _moved(pixels, [1.0, 0.0, 0.0, 0.0, 1.0, sign * round(_SHIFT * strength * pixels.shape[0])])


CHANGES: dict[str, Change] = {
    "identity": lambda pixels, _, __: pixels,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "solarize": _solarize,
    "colour": _colour,
    "posterize": _posterize,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
