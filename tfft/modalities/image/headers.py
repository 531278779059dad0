"""Format, size and orientation of encoded images, read from their headers with TensorFlow ops.

Implementation notes: all of this is part of the graph, so the size of an image is known before it is decompressed, and
an exported model applies EXIF orientation exactly as training does. Positions are int64; reading past the end returns
the last byte and never fails, because the decoder rejects files that are too short. Nothing is left for AutoGraph,
which would take most of the tracing time.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

UNKNOWN, JPEG, PNG, GIF, BMP, WEBP = range(6)

_EXIF = 0x45786966  # "Exif"
_ORIENTATION_TAG = 0x0112
_MOST_SEGMENTS = 4096  # a file with more is not a photo; its size stays unknown and the image is rejected


class Header(NamedTuple):
    """Values of a header.

    Attributes:
        kind: int32 scalar, one of ``UNKNOWN``, ``JPEG``, ``PNG``, ``GIF``, ``BMP``, ``WEBP``.
        height: int64 scalar, rows as stored; 0 if unknown.
        width: int64 scalar, columns as stored; 0 if unknown.
        orientation: int64 scalar, EXIF orientation 1 to 8; 1 if not stated.
        animated: bool scalar, whether it is a WebP with several frames.
    """

    kind: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    orientation: tf.Tensor
    animated: tf.Tensor


class _Layout(NamedTuple):
    height: tf.Tensor
    width: tf.Tensor
    exif: tf.Tensor  # position of the EXIF data, 0 if absent
    animated: tf.Tensor


def read_header(encoded: tf.Tensor) -> Header:
    """Read format, size and orientation without decoding the image.

    Args:
        encoded: Content of a file, tf.string scalar, at least one byte.

    Returns:
        A :class:`Header` of scalar tensors.

    Example:
        >>> header = read_header(tf.io.read_file("cat.jpg"))
        >>> int(header.height), int(header.width), int(header.orientation)
        (480, 640, 1)
    """
    return Header(*_traced_header(tf.convert_to_tensor(encoded)))


def _header(encoded: tf.Tensor) -> Header:
    data = tf.io.decode_raw(encoded, tf.uint8)
    kind = _kind(data)
    layouts = [_no_layout, _jpeg, _png, _gif, _bmp, _webp]
    layout = tf.switch_case(kind, [lambda read=read: tuple(read(data)) for read in layouts])
    height, width, exif, animated = layout
    orientation = tf.cond(exif > 0, lambda: _orientation(data, exif), lambda: _int(1))
    return Header(kind, height, width, orientation, animated)


def picture_size(encoded: tf.Tensor) -> tf.Tensor:
    """Return rows and columns of the upright image, float32 [2], from its header.

    Args:
        encoded: Content of a file, tf.string scalar, at least one byte.
    """
    size: tf.Tensor = _traced_size(tf.convert_to_tensor(encoded))
    return size


def _size(encoded: tf.Tensor) -> tf.Tensor:
    header = read_header(encoded)
    stored = tf.cast(tf.stack([header.height, header.width]), tf.float32)
    return tf.where(header.orientation > 4, stored[::-1], stored)  # orientations 5 to 8 lie on their side


# Every pipeline and signature reads headers, and tracing the readers takes a second: they share one trace.
_STRING = tf.TensorSpec([], tf.string)
_traced_header = tf.function(_header, input_signature=[_STRING], autograph=False)
_traced_size = tf.function(_size, input_signature=[_STRING], autograph=False)


@tf.autograph.experimental.do_not_convert
def bmp_palette(encoded: tf.Tensor) -> tf.Tensor:
    """Return the palette of an 8-bit BMP, which TensorFlow ignores.

    Args:
        encoded: Content of a BMP, tf.string scalar.

    Returns:
        uint8 [256, 3], red, green, blue.
    """
    data = tf.io.decode_raw(encoded, tf.uint8)
    start = 14 + _little(_bytes(data, 14, 4))
    stored = tf.reshape(_bytes(data, start, 4 * 256), [256, 4])  # blue, green, red, unused
    return tf.cast(tf.reverse(stored[:, :3], axis=[1]), tf.uint8)


def _int(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)


def _bytes(data: tf.Tensor, at: tf.Tensor | int, count: int) -> tf.Tensor:
    last = tf.size(data, out_type=tf.int64) - 1
    positions = tf.clip_by_value(tf.cast(at, tf.int64) + tf.range(count, dtype=tf.int64), 0, last)
    return tf.cast(tf.gather(data, positions), tf.int64)


def _big(values: tf.Tensor) -> tf.Tensor:
    count = values.shape[-1]
    return tf.reduce_sum(values * tf.constant([256**i for i in reversed(range(count))], tf.int64), axis=-1)


def _little(values: tf.Tensor) -> tf.Tensor:
    return _big(tf.reverse(values, axis=[-1]))


def _kind(data: tf.Tensor) -> tf.Tensor:
    head = _bytes(data, 0, 12)
    tests = [
        (JPEG, _big(head[:3]) == 0xFFD8FF),
        (PNG, _big(head[:4]) == 0x89504E47),
        (GIF, _big(head[:4]) == 0x47494638),
        (BMP, _big(head[:2]) == 0x424D),
        (WEBP, (_big(head[:4]) == 0x52494646) & (_big(head[8:]) == 0x57454250)),
    ]
    return tf.add_n([tf.where(test, kind, UNKNOWN) for kind, test in tests])


def _no_layout(data: tf.Tensor) -> _Layout:
    return _Layout(_int(0), _int(0), _int(0), tf.constant(False))


def _jpeg(data: tf.Tensor) -> _Layout:
    size = tf.size(data, out_type=tf.int64)

    def step(at: tf.Tensor, height: tf.Tensor, width: tf.Tensor, exif: tf.Tensor) -> tuple[tf.Tensor, ...]:
        here = _bytes(data, at, 9)
        marker, length = here[1], _big(here[2:4])
        skip = (here[0] != 0xFF) | (marker == 0xFF)  # decoders skip stray and fill bytes, so this must too
        alone = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
        frame = (marker >= 0xC0) & (marker <= 0xCF) & (marker != 0xC4) & (marker != 0xC8) & (marker != 0xCC) & ~skip
        end = ((marker == 0xD9) | (marker == 0xDA)) & ~skip
        app1 = (marker == 0xE1) & ~skip & (exif == 0) & (_big(here[4:8]) == _EXIF)
        after = at + tf.where(skip, _int(1), tf.where(alone, _int(2), 2 + length))
        return (
            tf.where(frame | end, size, after),
            tf.where(frame, _big(here[5:7]), height),
            tf.where(frame, _big(_bytes(data, at + 7, 2)), width),
            tf.where(app1, at + 4, exif),
        )

    start = (_int(2), _int(0), _int(0), _int(0))
    _, height, width, exif = tf.while_loop(
        lambda at, *_: at + 4 <= size, step, start, maximum_iterations=_MOST_SEGMENTS
    )
    return _Layout(height, width, exif, tf.constant(False))


def _png(data: tf.Tensor) -> _Layout:
    sizes = _bytes(data, 16, 8)

    def chunk(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        here = _bytes(data, at, 8)
        return _big(here[4:]), at + 8, at + 12 + _big(here[:4])

    # The pixels (IDAT) can be thousands of chunks; the orientation precedes them.
    exif = _find_chunk(data, 8, chunk, wanted=0x65584966, last=0x49444154)
    return _Layout(_big(sizes[4:]), _big(sizes[:4]), exif, tf.constant(False))


def _gif(data: tf.Tensor) -> _Layout:
    sizes = _bytes(data, 6, 4)
    return _Layout(_little(sizes[2:]), _little(sizes[:2]), _int(0), tf.constant(False))


def _bmp(data: tf.Tensor) -> _Layout:
    sizes = _bytes(data, 18, 8)
    height = _little(sizes[4:])
    height = tf.where(height >= 2**31, 2**32 - height, height)  # negative: rows run from top to bottom
    packed = _little(_bytes(data, 30, 4))  # run lengths (1, 2) would be read as pixels
    readable = (packed == 0) | (packed == 3)
    return _Layout(tf.where(readable, height, 0), _little(sizes[:4]), _int(0), tf.constant(False))


def _webp(data: tf.Tensor) -> _Layout:
    head = _bytes(data, 12, 18)
    kind = _big(head[:4])
    lossy, lossless = kind == 0x56503820, kind == 0x5650384C  # "VP8 ", "VP8L"; otherwise "VP8X"
    packed = _little(head[9:13])
    width = tf.where(lossless, packed % 2**14 + 1, _little(head[12:15]) + 1)
    width = tf.where(lossy, _little(head[14:16]) % 2**14, width)
    height = tf.where(lossless, packed // 2**14 % 2**14 + 1, _little(head[15:18]) + 1)
    height = tf.where(lossy, _little(head[16:18]) % 2**14, height)
    animated = (kind == 0x56503858) & (head[8] // 2 % 2 == 1)

    def chunk(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        here = _bytes(data, at, 8)
        length = _little(here[4:])
        return _big(here[:4]), at + 8, at + 8 + length + length % 2

    return _Layout(height, width, _find_chunk(data, 12, chunk, wanted=0x45584946, last=0), animated)


def _find_chunk(data: tf.Tensor, start: int, chunk, wanted: int, last: int) -> tf.Tensor:
    size = tf.size(data, out_type=tf.int64)

    def step(at: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        name, content, after = chunk(at)
        return tf.where((name == wanted) | (name == last), size, after), tf.where(name == wanted, content, found)

    loop = tf.while_loop(lambda at, _: at + 8 <= size, step, (_int(start), _int(0)), maximum_iterations=_MOST_SEGMENTS)
    return loop[1]


def _orientation(data: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    at = tf.where(_big(_bytes(data, at, 4)) == _EXIF, at + 6, at)  # the "Exif\0\0" in front is optional outside JPEG
    order = _big(_bytes(data, at, 2))
    is_little = order == 0x4949

    def number(values: tf.Tensor) -> tf.Tensor:
        return tf.where(is_little, _little(values), _big(values))

    directory = at + number(_bytes(data, at + 4, 4))
    count = tf.minimum(number(_bytes(data, directory, 2)), 512)
    entries = directory + 2 + 12 * tf.range(count)
    entries = tf.boolean_mask(entries, entries + 12 <= tf.size(data, out_type=tf.int64))
    tags = number(tf.cast(tf.gather(data, entries[:, None] + tf.constant([[0, 1]], tf.int64)), tf.int64))
    entry = tf.concat([tf.boolean_mask(entries, tags == _ORIENTATION_TAG), [0]], axis=0)[0]
    is_long = number(_bytes(data, entry + 2, 2)) == 4
    value = tf.where(is_long, number(_bytes(data, entry + 8, 4)), number(_bytes(data, entry + 8, 2)))
    valid = (is_little | (order == 0x4D4D)) & (entry > 0) & (value >= 1) & (value <= 8)
    return tf.where(valid, value, _int(1))
