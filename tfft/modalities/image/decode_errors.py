"""Explanations why a file cannot be used as an image.

Implementation notes: files fail on disk (missing, empty, unreadable), by content (another format with an image suffix)
and in the decoder, which is the one that training uses, so a file that passes here does not fail there.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable

import tensorflow as tf

from tfft.modalities.image.decode import FORMATS

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
KIND_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "WebP": (".webp",),
}
FOREIGN_SUFFIXES = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".ico", ".psd", ".dng")

_FOREIGN = (
    (rb"(II\*\x00|MM\x00\*)", "a TIFF image"),
    (rb"....ftyp(heic|heix|hevc|mif1|msf1)", "a HEIC photo"),
    (rb"....ftypavi[fs]", "an AVIF image"),
    (rb"(\xff\x0a|\x00\x00\x00\x0cJXL )", "a JPEG XL image"),
    (rb"\s*(<!doctype html|<html)", "a web page (a failed download?)"),
    (rb"\s*(<\?xml|<svg)", "an XML or SVG file"),
    (rb"%PDF", "a PDF document"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"version https://git-lfs", "a Git LFS pointer; fetch the real file with `git lfs pull`"),
)
_FRAME = ("Graph execution error", "Detected at node", "File ", "[[")  # location in the graph, not the cause


def read_bytes(path: str) -> tuple[bytes | None, str | None]:
    """Read a file that should be an image.

    Args:
        path: Path of the file.

    Returns:
        Its bytes, or None; and the reason why it is not an image, as part of a sentence, or None if it may be one.
    """
    reason = _why_not_on_disk(path)
    if reason:
        return None, reason
    try:
        with open(path, "rb") as file:
            encoded = file.read()
    except OSError as error:
        return None, f"cannot be read: {error.strerror or error}"
    if not encoded:
        return encoded, "is empty (0 bytes)"
    for pattern, what in _FOREIGN:
        if re.match(pattern, encoded[:64], re.IGNORECASE | re.DOTALL):
            return encoded, f"is {what}; expected {FORMATS}"
    return encoded, None


def why_undecodable(decode: Callable[[], object], encoded: bytes) -> str | None:
    """Return the reason why the training decoder rejects an image.

    Args:
        decode: Function that runs the decoder.
        encoded: Content of the file.

    Returns:
        The reason as part of a sentence, or None if decoding succeeded.
    """
    try:
        decode()
    except tf.errors.OpError as error:
        return _in_words(error, encoded)
    return None


def _why_not_on_disk(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return f"is a link to {os.readlink(path)!r}, which is missing" if os.path.islink(path) else "is missing"
    except OSError as error:  # a link to itself, a folder without permission
        return f"cannot be read: {error.strerror or error}"
    return None if stat.S_ISREG(mode) else "is not a regular file"


def _in_words(error: tf.errors.OpError, encoded: bytes) -> str:
    own = re.search(r"assertion failed: \[(.*?)\](.*)", error.message)
    if own and "bytes are not" not in own[1]:
        numbers = re.findall(r"\d+", own[2])[:2] if own[1].endswith(":") else []
        sentence = re.sub(r"^The image ", "", own[1]).rstrip(".:")
        return f"{sentence} {' x '.join(numbers)}".strip()
    if own:
        is_text = encoded[:256].isascii() and b"\x00" not in encoded[:256]
        return f"is {'text' if is_text else 'of an unknown format'}, not an image; expected {FORMATS}"
    lines = (re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", line).strip() for line in error.message.split("\n"))
    details = [line for line in lines if line and not line.startswith(_FRAME)]  # the decoder's message comes last
    return "is damaged or cut off" + (f": {details[-1].rstrip('.')}" if details else "")
