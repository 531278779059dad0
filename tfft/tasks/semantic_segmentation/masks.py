"""Mask files: their contents before training, :func:`survey`, and their classes in a pipeline, :class:`Masks`.

Implementation notes: TensorFlow expands the palette of a PNG to colours, and several values may have one colour. So the
header of such a file is changed to that of a grey one, whose pixels are stored in the same way; the values stay as they
are.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfft.data.batches import on_cpu
from tfft.data.file_index import in_threads
from tfft.modalities.image.composites import Part, within
from tfft.modalities.image.transform import PixelTransform
from tfft.tasks.semantic_segmentation import OUTSIDE, VOID

_PNG = b"\x89PNG\r\n\x1a\n"
_PALETTE, _GREY = 3, 0  # colour types of a PNG
_COLOURS = (2, 6)
_DEPTH_AT, _TYPE_AT, _CRC_AT = 24, 25, 29  # bytes of the header
# Checksums are linear: changing the colour type from 3 to 0 changes these bits of the checksum, whatever the size.
_CRC_CHANGE = zlib.crc32(bytes(17)) ^ zlib.crc32(bytes(13) + bytes([_PALETTE ^ _GREY]) + bytes(3))


@dataclasses.dataclass(frozen=True, eq=False)
class MaskInfo:
    """Contents of one mask file.

    Attributes:
        path: Path of the file.
        reason: Reason why it is not a mask, as the rest of a sentence; None if it is one.
        size: Rows and columns.
        in_colour: Whether the pixels are colours (RGB), not values.
        codes: Values that occur, or colours as numbers (:func:`tfft.tasks.semantic_segmentation.class_table.code_of`),
            int64 [K].
        counts: Number of pixels of each, int64 [K].
        palette: Colour of each value of a palette, int64; None without a palette.
        digest: Hash of the file.
    """

    path: str
    reason: str | None = None
    size: tuple[int, int] = (0, 0)
    in_colour: bool = False
    codes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    counts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    palette: np.ndarray | None = None
    digest: str = ""

    @property
    def colours(self) -> np.ndarray:
        """Colours that occur, int64 [K]: of the palette, or grey levels."""
        if self.in_colour:
            return self.codes
        return self.codes * 65793 if self.palette is None else self.palette[self.codes]

    @property
    def is_grey_in_colour(self) -> bool:
        """Whether red, green and blue are equal everywhere: values that were saved in three channels."""
        return self.in_colour and bool((self.codes % 65793 == 0).all())


def survey_all(paths: Sequence[str]) -> list[MaskInfo]:
    """Read mask files once, in parallel."""
    with tf.device("CPU:0"):
        for decode in (_values, _colours):  # traced once, not by each thread
            decode.get_concrete_function()
    return in_threads(survey, paths)


def survey(path: str) -> MaskInfo:
    """Read one mask file and count its values.

    Args:
        path: Path of the file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return MaskInfo(path, f"cannot be read: {error.strerror or error}")
    if data[:2] == b"\xff\xd8":
        return MaskInfo(
            path, "is a JPEG, whose compression invents classes along edges: make PNG masks from the source"
        )
    if not data.startswith(_PNG):
        return MaskInfo(path, "is not a PNG: save masks as PNG, with one value or colour per class")
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    try:
        with tf.device("CPU:0"):
            if data[_TYPE_AT] in _COLOURS:
                pixels, in_colour = _colours(tf.constant(data)).numpy(), True
            else:
                pixels, in_colour = _values(tf.constant(data)).numpy(), False
    except tf.errors.OpError as error:
        return MaskInfo(path, f"is a damaged PNG: {error.message.splitlines()[0]}")
    codes, counts = np.unique(pixels, return_counts=True)
    palette = _palette(data) if data[_TYPE_AT] == _PALETTE else None
    if palette is not None and codes[-1] >= len(palette):
        palette = np.pad(palette, (0, int(codes[-1]) + 1 - len(palette)))
    return MaskInfo(path, None, pixels.shape, in_colour, codes.astype(np.int64), counts, palette, digest)


@dataclasses.dataclass(frozen=True, eq=False)
class Masks:
    """Mask files and the classes of their values.

    Attributes:
        paths: Paths of the files.
        by_colour: Whether the classes of a file are its colours, bool [M]; else its values.
        values: Class by value; all other values are void.
        colours: Class by colour, as a number.
        digests: Hash of each file.
    """

    paths: tuple[str, ...]
    by_colour: np.ndarray
    values: Mapping[int, int]
    colours: Mapping[int, int]
    digests: tuple[str, ...] = ()

    @tf.autograph.experimental.do_not_convert
    def follow(self, label: tf.Tensor, transform: PixelTransform) -> tf.Tensor:
        """Read the mask of an example and move it into a view.

        Args:
            label: Label of the example, int32 [1 + classes], the position of the mask first.
            transform: From the image to the view.

        Returns:
            int32 [rows, columns] of the view, :data:`VOID` outside of the image.
        """
        return tf.cast(transform.mask(self.read(label[0]), outside=VOID), tf.int32)

    def follow_in(self, stride: int, label: tf.Tensor, transform: PixelTransform) -> tf.Tensor:
        """Return the mask of a view at a stride, sides rounded up as in networks with "same" padding."""
        size = -(-transform.size // stride)
        return self.follow(label, PixelTransform(transform.box, transform.mirrored, size))

    @tf.autograph.experimental.do_not_convert
    def place(self, part: Part, size: tf.Tensor) -> tf.Tensor:
        """Move the mask of one of the images in a view into its rectangle of the view.

        Args:
            part: Image with its label.
            size: Rows and columns of the view, int32 [2].

        Returns:
            int32 [rows, columns], :data:`OUTSIDE` where the view does not show the image.
        """
        moved = self.follow(part.label, part.transform)
        beyond = size - part.corner - part.transform.size
        whole = tf.pad(moved, tf.stack([part.corner, beyond], axis=1), constant_values=OUTSIDE)
        return tf.where(within(part.shown, size), whole, OUTSIDE)

    @tf.autograph.experimental.do_not_convert
    def join(self, placed: tf.Tensor, stride: int = 1) -> tf.Tensor:
        """Join the masks of the images in one view.

        Args:
            placed: Masks of the images in the view, int32 [images, rows, columns], each in front of those before.
            stride: Stride of the mask; of each cell the pixel in its middle is taken, as in the loss.

        Returns:
            int32 [rows, columns], sides rounded up.
        """
        order = tf.range(tf.shape(placed)[0])[:, None, None] * (VOID + 1)
        joined = tf.reduce_max(tf.where(placed == OUTSIDE, 0, order + placed), axis=0) % (VOID + 1)
        size = tf.shape(joined)
        for axis in (0, 1) if stride > 1 else ():
            cells = -(-size[axis] // stride)
            joined = tf.gather(joined, (tf.range(cells) * 2 + 1) * size[axis] // (2 * cells), axis=axis)
        return tf.ensure_shape(joined, [None, None])

    def read(self, position: tf.Tensor | int) -> tf.Tensor:
        """Read one mask as classes.

        Args:
            position: Position among the files.

        Returns:
            uint8 [rows, columns].
        """
        paths, by_colour, table, codes, classes = self._tensors
        encoded = tf.io.read_file(paths[position])

        def of_colours() -> tf.Tensor:
            pixels = _colours(encoded)
            at = tf.searchsorted(codes, tf.reshape(pixels, [-1]))
            at = tf.minimum(tf.reshape(at, tf.shape(pixels)), tf.size(codes) - 1)
            return tf.where(tf.gather(codes, at) == pixels, tf.gather(classes, at), tf.constant(VOID, tf.uint8))

        def of_values() -> tf.Tensor:
            return tf.gather(table, tf.minimum(_values(encoded), tf.size(table) - 1))

        return tf.cond(by_colour[position], of_colours, of_values)

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, ...]:
        with tf.init_scope():  # outside of the graph of a dataset that is the first to read
            table = np.full(max(self.values, default=0) + 2, VOID, np.uint8)  # the last is for all larger values
            table[list(self.values)] = list(self.values.values())
            codes = sorted(self.colours) or [-1]
            classes = np.array([self.colours.get(code, VOID) for code in codes], np.uint8)
            names = np.array([path.encode() for path in self.paths])
            given = (names, self.by_colour, table, np.array(codes, np.int32), classes)
            return tuple(on_cpu(each) for each in given)


# Every pipeline decodes, and tracing takes time: they share one trace.
_STRING = tf.TensorSpec([], tf.string)


@tf.function(input_signature=[_STRING], autograph=False)
def _values(encoded: tf.Tensor) -> tf.Tensor:
    """Return the values of a grey or palette PNG, or the red ones of an RGB, int32 [rows, columns]."""
    depth = tf.io.decode_raw(tf.strings.substr(encoded, _DEPTH_AT, 1), tf.uint8)[0]
    most = tf.bitwise.left_shift(tf.constant(1, tf.int32), tf.cast(depth, tf.int32)) - 1
    pixels = tf.io.decode_png(_as_grey(encoded), dtype=tf.uint16)[..., 0]
    return tf.cast(pixels, tf.int32) // (65535 // most)  # the decoder scales all depths to 16 bits


@tf.function(input_signature=[_STRING], autograph=False)
def _colours(encoded: tf.Tensor) -> tf.Tensor:
    """Return the colours of a PNG as numbers, int32 [rows, columns]."""
    pixels = tf.cast(tf.io.decode_png(encoded, channels=3), tf.int32)
    return pixels[..., 0] * 65536 + pixels[..., 1] * 256 + pixels[..., 2]


def _as_grey(encoded: tf.Tensor) -> tf.Tensor:
    """Return a palette PNG as a grey one of the same values; others unchanged."""
    head = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, _CRC_AT + 4), tf.uint8), tf.int32)
    change = np.zeros(_CRC_AT + 4, np.int32)
    change[_TYPE_AT] = _PALETTE ^ _GREY
    change[_CRC_AT:] = list(_CRC_CHANGE.to_bytes(4, "big"))

    def changed() -> tf.Tensor:
        letters = tf.constant([bytes([value]) for value in range(256)])
        start = tf.strings.reduce_join(tf.gather(letters, tf.bitwise.bitwise_xor(head, change)))
        return start + tf.strings.substr(encoded, _CRC_AT + 4, tf.strings.length(encoded))

    return tf.cond(head[_TYPE_AT] == _PALETTE, changed, lambda: tf.identity(encoded))


def _palette(data: bytes) -> np.ndarray:
    """Return the colours of a palette as numbers, int64 [K]."""
    at = data.find(b"PLTE", 33)
    length = int.from_bytes(data[at - 4 : at], "big")
    rows = np.frombuffer(data[at + 4 : at + 4 + length], np.uint8).reshape(-1, 3).astype(np.int64)
    return rows @ np.array([65536, 256, 1])
