"""Image preprocessing for a backbone, in TensorFlow ops only.

Training, evaluation, prediction and the exported model call the same functions, so preprocessing cannot differ between
them. After resizing, pixels are rounded: an image resized by the input pipeline and stored as uint8 is bit-equal to one
resized inside the model. Control flow is written in ops and excluded from AutoGraph, which would take most of the
tracing time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import DataError, PlanError, did_you_mean, join_names, raise_problems
from tfft.layers.raw_input import RawInput
from tfft.specs import InputSpec

_INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "area")
_FROM_BYTES = ("bilinear", "bicubic")  # TensorFlow's antialiased resize takes bytes for these and gives floats
_MODES = ("stretch", "crop", "pad")
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as JPEG defines brightness
_SHAPES = (
    "Expected images of shape [batch, rows, columns, channels] or [rows, columns, channels] with 1 or 3 channels last, "
    "received shape"
)
_SHAPE_HINTS = (
    "Grey images without a channel axis: add one with images[..., None]; channels first: transpose; four channels: "
    "drop or blend the transparency."
)


@tf.autograph.experimental.do_not_convert
def resize_pixels(images: tf.Tensor, spec: InputSpec) -> tf.Tensor:
    """Resize pixels to the size and number of channels of a spec: the only resize in tfft.

    Reducing averages over the omitted pixels (antialias). Colour becomes grayscale by luminance, grayscale becomes
    colour by repetition. Images of the right size pass unchanged, apart from rounding.

    Args:
        images: uint8 or float in 0 to 255, [B, h, w, C] or [h, w, C], C 1 or 3; sizes may be dynamic.
        spec: Target size, channels, interpolation and resize mode.

    Returns:
        float32 [..., spec.height, spec.width, spec.channels] with whole values in 0 to 255.

    Raises:
        DataError: If the shape is not that of images.
        tf.errors.InvalidArgumentError: The same, if the shape is known at run time only.
        PlanError: If the spec names an unknown interpolation or resize mode.
    """
    check_spec(spec)
    images = _checked(tf.convert_to_tensor(images))
    # Pixels stay uint8 as long as possible: they take a quarter of the space, and are integers already.
    keep = images.dtype == tf.uint8 and images.shape[-1] == spec.channels and spec.interpolation in _FROM_BYTES
    pixels = images if keep else _with_channels(tf.cast(images, tf.float32), spec.channels)
    size = list(spec.image_size)
    static = pixels.shape[-3:-1].as_list()
    unchanged = _as_float if keep else whole_levels
    if static == size:
        pixels = unchanged(pixels)
    elif None not in static:
        pixels = whole_levels(_resized(pixels, spec))
    else:
        same = tf.reduce_all(tf.shape(pixels)[-3:-1] == size)
        pixels = tf.cond(same, lambda: unchanged(pixels), lambda: whole_levels(_resized(pixels, spec)))
    pixels.set_shape([*pixels.shape[:-3], *size, spec.channels])
    return pixels


@tf.autograph.experimental.do_not_convert
def stretch_pixels(images: tf.Tensor, size: tf.Tensor, spec: InputSpec) -> tf.Tensor:
    """Resize pixels to a size that is known at run time only, otherwise as :func:`resize_pixels` stretches them.

    Args:
        images: As in :func:`resize_pixels`.
        size: Rows and columns, int32 [2].
        spec: Channels and interpolation.

    Returns:
        float32 [..., rows, columns, spec.channels] with whole values in 0 to 255.
    """
    pixels = _with_channels(tf.cast(_checked(tf.convert_to_tensor(images)), tf.float32), spec.channels)
    return whole_levels(tf.image.resize(pixels, size, spec.interpolation, antialias=True))


@tf.autograph.experimental.do_not_convert
def scale_pixels(images: tf.Tensor, spec: InputSpec) -> tf.Tensor:
    """Map pixels from 0 to 255 to the value range of a backbone.

    Args:
        images: uint8 or float in 0 to 255, [..., C].
        spec: Spec with ``value_range``, ``mean`` and ``std``.

    Returns:
        float32 of the same shape: ``(low + p / 255 * (high - low) - mean) / std``.
    """
    low, high = spec.value_range
    mean = np.array(0.0 if spec.mean is None else spec.mean)
    std = np.array(1.0 if spec.std is None else spec.std)
    # Two passes over the pixels instead of four: a considerable part of the time for reading a dataset.
    factor, offset = (high - low) / 255.0 / std, (low - mean) / std
    return tf.cast(images, tf.float32) * factor.astype(np.float32) + offset.astype(np.float32)


@keras.saving.register_keras_serializable(package="tfft")
class Preprocess(RawInput):
    """Preprocess raw pixels of any size for a backbone: :func:`resize_pixels`, :func:`scale_pixels`.

    It is the first layer of every model from :func:`tfft.build`, so ``model.predict`` takes raw pixels. It has no
    variables and always computes in float32, also under a mixed precision policy.

    Args:
        spec: Input spec, or its ``to_dict()``.
        **kwargs: ``name``, ``dtype`` of the output. Defaults to float32.

    Call arguments:
        inputs: uint8 or float in 0 to 255, [B, h, w, C], sizes may be dynamic.

    Output shape:
        [B, spec.height, spec.width, spec.channels].

    Example:
        >>> Preprocess(InputSpec(height=32, width=32))(photos).shape
        TensorShape([8, 32, 32, 3])
    """

    spec: InputSpec

    def __init__(self, spec: InputSpec | Mapping[str, Any], **kwargs: Any) -> None:
        kwargs["dtype"] = kwargs.get("dtype") or "float32"
        super().__init__(autocast=False, **kwargs)
        self.spec = spec if isinstance(spec, InputSpec) else InputSpec.from_dict(spec)
        self.supports_jit = False  # XLA has no antialiased resize; Keras' "auto" reads this
        check_spec(self.spec)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Resize and scale."""
        return tf.cast(scale_pixels(resize_pixels(inputs, self.spec), self.spec), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's leading dimensions and the size of the spec."""
        return (*input_shape[:-3], self.spec.height, self.spec.width, self.spec.channels)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Return shape and dtype without tracing the resize."""
        _check_shape(inputs)
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "spec": self.spec.to_dict()}


def preprocess_of(model: keras.Model) -> Preprocess | None:
    """Return the preprocessing layer of an image model, or None."""
    return next((layer for layer in model.layers if isinstance(layer, Preprocess)), None)


def check_spec(spec: InputSpec) -> None:
    """Raise PlanError with all invalid values in a spec."""
    problems = []
    if min(spec.height, spec.width) < 1:
        problems.append(f"height and width must be at least 1 pixel, received {spec.height} x {spec.width}")
    if spec.channels not in (1, 3):
        problems.append(f"channels must be 1 (grey) or 3 (colour), received {spec.channels}")
    for field, valid in (("interpolation", _INTERPOLATIONS), ("resize", _MODES)):
        value = getattr(spec, field)
        if value not in valid:
            problems.append(
                f"{field} must be one of {join_names(valid)}, received {value!r}.{did_you_mean(value, valid)}"
            )
    for field in ("mean", "std"):
        value = getattr(spec, field)
        if value is not None and len(value) not in (1, spec.channels):
            problems.append(f"{field} must have one value for each of {spec.channels} channels, received {value}")
    if spec.std is not None and 0.0 in spec.std:
        problems.append(f"std must not be 0, received {spec.std}")
    raise_problems(PlanError, "The InputSpec cannot be used", problems)


def operations_of(assertion: tf.Operation | None) -> list[tf.Operation]:
    """Return what to wait for in a graph, so that an assertion is checked."""
    return [] if assertion is None else [assertion]  # eager asserts have already run and return None


def _check_shape(images: tf.Tensor | keras.KerasTensor) -> None:
    rank = len(images.shape)
    if rank not in (3, 4) or images.shape[-1] not in (1, 3, None):
        raise DataError(f"{_SHAPES} {tuple(images.shape)}. {_SHAPE_HINTS}")


def _checked(images: tf.Tensor) -> tf.Tensor:
    """Check the shape at run time if tracing does not know it: Keras relaxes it after two shapes."""
    if images.shape.rank is None:
        is_batch = tf.debugging.Assert(tf.rank(images) == 4, [_SHAPES, tf.shape(images), _SHAPE_HINTS])
        with tf.control_dependencies(operations_of(is_batch)):
            images = tf.identity(images)
        images.set_shape([None] * 4)
    _check_shape(images)
    if images.shape[-1] is not None:
        return images
    channels = tf.shape(images)[-1]
    fits = tf.debugging.Assert((channels == 1) | (channels == 3), [_SHAPES, tf.shape(images), _SHAPE_HINTS])
    with tf.control_dependencies(operations_of(fits)):  # all that follows waits for the check
        return tf.identity(images)


def _with_channels(pixels: tf.Tensor, channels: int) -> tf.Tensor:
    if pixels.shape[-1] is None:
        return tf.cond(tf.shape(pixels)[-1] == channels, lambda: pixels, lambda: _converted(pixels, channels))
    return pixels if pixels.shape[-1] == channels else _converted(pixels, channels)


def _converted(pixels: tf.Tensor, channels: int) -> tf.Tensor:
    if channels == 3:
        return tf.repeat(pixels[..., :1], 3, axis=-1)
    return tf.round(tf.reduce_sum(pixels * tf.constant(_GREY), axis=-1, keepdims=True))


def _as_float(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cast(pixels, tf.float32)


def whole_levels(pixels: tf.Tensor) -> tf.Tensor:
    """Return pixels as integers from 0 to 255, in the same type."""
    return tf.clip_by_value(tf.round(pixels), 0.0, 255.0)


def _resized(pixels: tf.Tensor, spec: InputSpec) -> tf.Tensor:
    wanted = tf.constant(spec.image_size, tf.float32)
    given = tf.cast(tf.shape(pixels)[-3:-1], tf.float32)
    if spec.resize == "crop":
        part = tf.clip_by_value(tf.round(wanted * tf.reduce_min(given / wanted)), 1.0, given)
        top, left = tf.unstack(tf.cast((given - part) // 2, tf.int32))
        rows, columns = tf.unstack(tf.cast(part, tf.int32))
        pixels = pixels[..., top : top + rows, left : left + columns, :]
    if spec.resize != "pad":
        return tf.image.resize(pixels, spec.image_size, spec.interpolation, antialias=True)
    inner = tf.cast(tf.clip_by_value(tf.round(given * tf.reduce_min(wanted / given)), 1.0, wanted), tf.int32)
    rows, columns = tf.unstack(inner)
    small = tf.image.resize(pixels, inner, spec.interpolation, antialias=True)
    top, left = (spec.height - rows) // 2, (spec.width - columns) // 2
    return tf.image.pad_to_bounding_box(small, top, left, spec.height, spec.width)
