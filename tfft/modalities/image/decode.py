"""Decoding of image files with TensorFlow ops: :func:`decode_image`, :func:`decode_pixels`.

Implementation notes: the input pipeline and exported models use the same functions, so they cannot differ. Guards run
before decoding. Control flow is written in ops and excluded from AutoGraph, which would take most of the tracing time.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfft.layers.preprocess import operations_of, resize_pixels
from tfft.modalities.image import headers
from tfft.specs import InputSpec

PIXELS_LIMIT = 100_000_000
FORMATS = "JPEG, PNG, GIF, BMP or WebP"

_WHITE = 255
_RATIOS = (1, 2, 4, 8)  # of a JPEG file's sides to those of the decoded image, as the format allows them
_MARGIN = 3  # a downscaled image is at least so many times as large as needed: see docs/speed.md


@tf.autograph.experimental.do_not_convert
def decode_image(encoded: tf.Tensor, spec: InputSpec, *, path: tf.Tensor | None = None) -> tf.Tensor:
    """Decode one image to pixels of the size that a backbone expects.

    Use it wherever encoded images are the input: in ``Dataset.map``, eagerly, or in an exported signature. It reads
    JPEG (including CMYK), PNG (16 bits are scaled to 8, palettes and grayscale are expanded), BMP, still WebP, and the
    first frame of a GIF. EXIF orientation is applied. Transparent PNG and WebP pixels are composited on white; the
    fourth channel of a BMP is dropped, since most writers leave it undefined.

    With ``spec.downscaled_decoding``, a JPEG file is decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size at
    which both sides are still at least three times those of ``spec``: the decoder then averages pixels that resizing
    would average anyway. ``python benchmarks/decoding.py`` measures the time and the difference.

    Args:
        encoded: Content of a file, tf.string scalar.
        spec: Size, channels, interpolation and resize mode.
        path: File name for error messages, tf.string scalar; None for none.

    Returns:
        uint8 [spec.height, spec.width, spec.channels].

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are empty, of another format, damaged, an animated WebP, or an
        image of more than 100 megapixels; checked before decoding.

    Example:
        >>> pixels = decode_image(tf.io.read_file("cat.jpg"), backbone.input_spec)
    """
    return tf.cast(resize_pixels(decode_pixels(encoded, path, spec), spec), tf.uint8)


@tf.autograph.experimental.do_not_convert
def decode_pixels(encoded: tf.Tensor, path: tf.Tensor | None = None, spec: InputSpec | None = None) -> tf.Tensor:
    """Decode like :func:`decode_image`, without resizing.

    Args:
        encoded: Content of a file, tf.string scalar.
        path: File name for error messages, tf.string scalar.
        spec: Size that the image will have, for ``downscaled_decoding``; None decodes at full size.

    Returns:
        uint8 [rows, columns, 3], upright.
    """
    encoded = tf.convert_to_tensor(encoded)
    if spec is not None and spec.downscaled_decoding:
        needed = tf.constant([spec.height, spec.width], tf.int64)
        return _traced_downscaled(encoded, tf.constant("") if path is None else path, needed)
    return _traced(encoded) if path is None else _traced_with_path(encoded, path)


def _decode(encoded: tf.Tensor, path: tf.Tensor | None = None, needed: tf.Tensor | None = None) -> tf.Tensor:
    file = [] if path is None else ["File:", path]
    not_empty = tf.debugging.Assert(tf.strings.length(encoded) > 0, ["The image is empty (0 bytes).", *file])
    with tf.control_dependencies(operations_of(not_empty)):
        encoded = tf.identity(encoded)
    header = headers.read_header(encoded)
    with tf.control_dependencies(_guards(header, file)):
        # Both wait for the guards: the choice of the decoder, and its input.
        encoded, kind = tf.identity(encoded), tf.identity(header.kind)
    if needed is None:
        pixels: tf.Tensor = _traced_pixels(encoded, kind, header.orientation)
    else:
        pixels = _traced_downscaled_pixels(encoded, kind, header.orientation, _step(header, needed))
    return pixels


def _step(header: headers.Header, needed: tf.Tensor) -> tf.Tensor:
    """Return the position in ``_RATIOS`` of the largest ratio that leaves both sides large enough, int32."""
    stored = tf.stack([header.height, header.width])
    upright = tf.where(header.orientation > 4, stored[::-1], stored)
    spare = tf.reduce_min(upright // (_MARGIN * needed))
    return tf.reduce_sum(tf.cast(spare >= tf.constant(_RATIOS[1:], tf.int64), tf.int32))


def _pixels(encoded: tf.Tensor, kind: tf.Tensor, orientation: tf.Tensor, step: tf.Tensor | None = None) -> tf.Tensor:
    branches: list[Any] = [lambda read=read: read(encoded) for read in _DECODERS]
    if step is not None:
        sizes = [lambda ratio=ratio: _decode_jpeg(encoded, ratio) for ratio in _RATIOS]
        branches[headers.JPEG] = lambda: tf.switch_case(step, sizes)
    pixels = tf.switch_case(kind, branches)
    pixels.set_shape([None, None, 3])
    return tf.cond(orientation > 1, lambda: _upright(pixels, orientation), lambda: pixels)


# Every pipeline and signature decodes, and tracing the decoders takes half a second: they share one trace.
_STRING, _INT, _LONG = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int64)
_traced_pixels = tf.function(_pixels, input_signature=[_STRING, _INT, _LONG], autograph=False)
_traced = tf.function(_decode, input_signature=[_STRING], autograph=False)
_traced_with_path = tf.function(_decode, input_signature=[_STRING, _STRING], autograph=False)
_traced_downscaled = tf.function(
    _decode, input_signature=[_STRING, _STRING, tf.TensorSpec([2], tf.int64)], autograph=False
)
_traced_downscaled_pixels = tf.function(_pixels, input_signature=[_STRING, _INT, _LONG, _INT], autograph=False)


def _guards(header: headers.Header, file: list[Any]) -> list[tf.Operation]:
    known = tf.debugging.Assert(
        header.kind != headers.UNKNOWN,
        [f"The bytes are not an image that can be read; expected {FORMATS}.", *file],
    )
    sized = tf.debugging.Assert(
        (header.kind == headers.UNKNOWN) | (header.height * header.width > 0),
        ["The image is damaged or packed in an unusual way: its header has no usable size.", *file],
    )
    small = tf.debugging.Assert(
        header.height * header.width <= PIXELS_LIMIT,
        [
            f"The image is larger than {PIXELS_LIMIT / 10**6:g} megapixels, the limit; shrink it first. Rows, columns:",
            header.height,
            header.width,
            *file,
        ],
    )
    # TensorFlow 2.21 writes past its buffer when it decodes an animated WebP without transparency.
    still = tf.debugging.Assert(
        ~header.animated, ["The image is an animated WebP; save one frame of it as a still.", *file]
    )
    return [op for assertion in (known, sized, small, still) for op in operations_of(assertion)]


def _no_image(encoded: tf.Tensor) -> tf.Tensor:
    return tf.zeros([0, 0, 3], tf.uint8)  # never used: the guard raises first


def _decode_jpeg(encoded: tf.Tensor, ratio: int = 1) -> tf.Tensor:
    # The accurate transform equals other decoders bit for bit; TensorFlow's default is off by up to 5 levels.
    return tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")


def _decode_png(encoded: tf.Tensor) -> tf.Tensor:
    # Without transparency, TensorFlow fills the fourth channel with the maximum of the file's bit depth.
    depth = tf.minimum(tf.io.decode_raw(tf.strings.substr(encoded, 24, 1), tf.uint8)[0], 8)
    opaque = tf.bitwise.left_shift(tf.constant(1, tf.int32), tf.cast(depth, tf.int32)) - 1
    return _over_white(tf.io.decode_png(encoded, channels=4), tf.cast(opaque, tf.uint8))


def _decode_gif(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def _decode_bmp(encoded: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_bmp(encoded)

    def coloured() -> tf.Tensor:
        return tf.gather(headers.bmp_palette(encoded), tf.cast(pixels[..., 0], tf.int32))

    return tf.cond(tf.shape(pixels)[-1] == 1, coloured, lambda: pixels[..., :3])


def _decode_webp(encoded: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_webp(encoded)[0]  # a still has one frame; 3 or 4 channels as stored
    return tf.cond(tf.shape(pixels)[-1] == 4, lambda: _over_white(pixels, 255), lambda: pixels[..., :3])


_DECODERS = (_no_image, _decode_jpeg, _decode_png, _decode_gif, _decode_bmp, _decode_webp)


def _over_white(pixels: tf.Tensor, opaque: tf.Tensor | int) -> tf.Tensor:
    colour, alpha = pixels[..., :3], pixels[..., 3:4]

    def blend() -> tf.Tensor:
        share = tf.cast(alpha, tf.int32)
        mixed = tf.cast(colour, tf.int32) * share + _WHITE * (255 - share)
        return tf.cast((mixed + 127) // 255, tf.uint8)

    return tf.cond(tf.reduce_all(alpha == opaque), lambda: colour, blend)


def _upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def one_of(*values: int) -> tf.Tensor:
        return tf.reduce_any(orientation == tf.constant(values, tf.int64))

    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    pixels = tf.cond(one_of(2, 3, 6, 7), lambda: tf.reverse(pixels, [1]), lambda: pixels)
    return tf.cond(one_of(3, 4, 7, 8), lambda: tf.reverse(pixels, [0]), lambda: pixels)
