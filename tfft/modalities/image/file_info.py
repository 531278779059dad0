"""Statistics of an image file from one pass: :func:`examine`, :class:`ImageFileInfo`.

Implementation notes: one pass over the bytes and one run of the training decoder determine whether the file is usable,
how it is stored, hashes of bytes and pixels, and a small grayscale version for finding duplicates.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.data.file_index import FileKind, in_threads, indexed_facts
from tfft.modalities.image.decode import decode_pixels
from tfft.modalities.image.decode_errors import KIND_SUFFIXES, read_bytes, why_undecodable
from tfft.modalities.image.headers import BMP, GIF, JPEG, PNG, WEBP, read_header

THUMB = 32  # pixels per side of the small version
_NAMES = {JPEG: "JPEG", PNG: "PNG", GIF: "GIF", BMP: "BMP", WEBP: "WebP"}

CMYK, DEEP, PALETTE, TRANSPARENT, GREY, ANIMATED, ROTATED, MISNAMED, FLAT = (
    "cmyk", "16-bit", "palette", "transparent", "grey", "animated", "rotated", "misnamed", "flat",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ImageFileInfo:
    """Statistics of one image file.

    Attributes:
        path: Path of the file.
        reason: Reason why it cannot be used, as part of a sentence; None if it can.
        size: Size in bytes; 0 if it cannot be read.
        digest: Hash of its bytes; empty if it cannot be read.
        pixels: Hash of its decoded pixels and their shape; empty if it cannot be decoded.
        kind: ``"JPEG"``, ``"PNG"``, ``"GIF"``, ``"BMP"`` or ``"WebP"``; empty if it is none of them.
        height: Rows as stored.
        width: Columns as stored.
        oddities: Unusual properties: ``"cmyk"``, ``"16-bit"``, ``"palette"``, ``"transparent"``, ``"grey"``,
            ``"animated"``, ``"rotated"`` (by EXIF orientation), ``"misnamed"`` (with the suffix of another format),
            ``"flat"`` (a single colour).
        thumb: Upright image in grayscale, stretched to uint8 [32, 32]; None if it cannot be decoded.
    """

    path: str
    reason: str | None
    size: int = 0
    digest: str = ""
    pixels: str = ""
    kind: str = ""
    height: int = 0
    width: int = 0
    oddities: tuple[str, ...] = ()
    thumb: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)


def examine(path: str) -> ImageFileInfo:
    """Read and decode an image file once.

    Args:
        path: Path of the file.

    Example:
        >>> examine("cat.jpg").oddities
        ('rotated',)
    """
    encoded, reason = read_bytes(path)
    if encoded is None:
        return ImageFileInfo(path, reason)
    digest = hashlib.blake2b(encoded, digest_size=16).hexdigest()
    found: list[tf.Tensor] = []
    reason = reason or why_undecodable(lambda: found.extend(_decoder(tf.constant(encoded))), encoded)
    if reason:
        return ImageFileInfo(path, reason, len(encoded), digest)
    pixels, thumb, kind, height, width, orientation = (tensor.numpy() for tensor in found)
    hashed = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16)
    hashed.update(str(pixels.shape).encode())
    oddities = list(_oddities(int(kind), encoded, path, pixels))
    if orientation > 1:
        oddities.append(ROTATED)
    return ImageFileInfo(
        path,
        None,
        len(encoded),
        digest,
        pixels=hashed.hexdigest(),
        kind=_NAMES.get(int(kind), ""),
        height=int(height),
        width=int(width),
        oddities=tuple(oddities),
        thumb=thumb,
    )


def why_unreadable(path: str) -> str | None:
    """Return the reason why a file is not a decodable image.

    Args:
        path: Path of the file.

    Returns:
        The reason as part of a sentence, or None if the whole file was decoded.
    """
    return examine(path).reason


def grey_image(path: str, side: int) -> np.ndarray | None:
    """Read an image again, upright, in grayscale and stretched to a square.

    Args:
        path: Path of the file.
        side: Pixels per side.

    Returns:
        uint8 [side, side]; None if it can no longer be read or decoded.
    """
    encoded, _ = read_bytes(path)
    found: list[tf.Tensor] = []
    if encoded is None or why_undecodable(lambda: found.append(_grey_decoder(tf.constant(encoded), side)), encoded):
        return None
    return found[0].numpy()


def examine_all(paths: Sequence[str], progress: Callable[[int, int], None] | None = None) -> list[ImageFileInfo]:
    """Read and decode files in parallel threads.

    Args:
        paths: Paths of the files.
        progress: Function called with (files done, files in total) after each file.
    """
    return in_threads(examine, paths, progress)


def facts_of(
    paths: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
    store: str | os.PathLike[str] | None = None,
) -> list[ImageFileInfo]:
    """Return the statistics of image files, reading only those that are new or have changed.

    Args:
        paths: Paths of the files.
        progress: Function called with (files done, files in total) while files are read.
        store: File that stores the statistics; None reads every file.
    """
    return indexed_facts(_PICTURES, paths, progress, store)


def _from_row(path: str, values: dict[str, Any], thumb: bytes | None) -> ImageFileInfo:
    small = None if thumb is None else np.frombuffer(thumb, np.uint8).reshape(THUMB, THUMB)
    return ImageFileInfo(path=path, thumb=small, **{**values, "oddities": tuple(values["oddities"])})


_PICTURES = FileKind(
    f"2 {tf.__version__}",
    examine_all,
    _from_row,
    lambda facts: None if facts.thumb is None else facts.thumb.tobytes(),
)


def _decode(encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
    with tf.device("CPU:0"):
        pixels = decode_pixels(encoded)
        header = read_header(encoded)
        return pixels, _stretched(pixels, THUMB), header.kind, header.height, header.width, header.orientation


def _stretched(pixels: tf.Tensor, side: int | tf.Tensor) -> tf.Tensor:
    small = tf.raw_ops.ResizeArea(images=pixels[None], size=[side, side])  # of integers, and first: fast
    return tf.cast(tf.round(tf.image.rgb_to_grayscale(small)[0, :, :, 0]), tf.uint8)


def _decode_grey(encoded: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    with tf.device("CPU:0"):
        return _stretched(decode_pixels(encoded), side)


_decoder = tf.function(_decode, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
_grey_decoder = tf.function(
    _decode_grey,
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32)],
    autograph=False,
)


def _oddities(kind: int, data: bytes, path: str, pixels: np.ndarray) -> Sequence[str]:
    suffix = os.path.splitext(path)[1].lower()
    found = {JPEG: _of_jpeg, PNG: _of_png, GIF: _of_gif}.get(kind, lambda _: [])(data)
    if suffix not in KIND_SUFFIXES.get(_NAMES.get(kind, ""), (suffix,)):
        found.append(MISNAMED)
    if pixels.size and (pixels == pixels[:1, :1]).all():
        found.append(FLAT)
    return found


def _of_jpeg(data: bytes) -> list[str]:
    at = 2
    while at + 9 < len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return {1: [GREY], 4: [CMYK]}.get(data[at + 9], [])
        else:
            alone = marker == 0x01 or 0xD0 <= marker <= 0xD8
            at += 2 if alone else 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return []


def _of_png(data: bytes) -> list[str]:
    depth, colour = data[24], data[25]
    found = [DEEP] if depth == 16 else []
    if colour in (0, 4):
        found.append(GREY)
    at, chunks = 8, set()
    while at + 8 <= len(data) and b"IDAT" not in chunks:
        length, name = struct.unpack(">I4s", data[at : at + 8])
        chunks.add(name)
        at += 12 + length
    if colour == 3:
        found.append(PALETTE)
    if colour in (4, 6) or b"tRNS" in chunks:
        found.append(TRANSPARENT)
    if b"acTL" in chunks:
        found.append(ANIMATED)
    return found


def _of_gif(data: bytes) -> list[str]:
    """Detect animation by a second frame; blocks are skipped, not decoded."""
    flags = data[10]
    at, pictures = 13 + ((3 << ((flags & 7) + 1)) if flags & 0x80 else 0), 0
    while at < len(data) and pictures < 2:
        mark = data[at]
        if mark == 0x2C and at + 10 <= len(data):
            pictures += 1
            own = data[at + 9]
            at += 11 + ((3 << ((own & 7) + 1)) if own & 0x80 else 0)
        elif mark == 0x21:
            at += 2
        else:
            break
        while at < len(data) and data[at]:
            at += data[at] + 1
        at += 1
    return [ANIMATED] if pictures > 1 else []
