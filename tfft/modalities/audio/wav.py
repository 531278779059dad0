"""WAV files, decoded alike in Python and in a graph: :func:`read_wav`, :func:`decode_wav_bytes`, :func:`write_wav`.

Training reads files with the first, an exported model with the second, and both follow the same steps: find the chunks
``fmt`` and ``data``, then turn the samples into floats. Both know the extensible form, further chunks, files whose
writer did not know the length (sox and ffmpeg into a pipe), RF64, 8 to 32 bits, floats, and the two telephone codes.

Implementation notes:
    Neither ``wave`` (extensible files only from Python 3.12, no floats) nor ``tf.audio.decode_wav`` (16 bits and the
    plain form only) reads what recorders write.
"""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import tensorflow as tf

MAGIC = (b"RIFF", b"RF64", b"BW64")
_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_UNKNOWN_SIZE = 0x7FFF0000  # a writer into a pipe claims this much or more: ffmpeg 2^32 - 1, sox and arecord about 2^31
_CUT_OFF = "The recording is truncated: its header states more bytes than there are."


class UnsupportedWav(ValueError):
    """Samples in a code that is not decoded here."""


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where the samples are, and what they are."""

    code: int
    channels: int
    rate: int
    width: int
    start: int
    size: int


def read_wav(data: bytes) -> tuple[np.ndarray, int]:
    """Decode a WAV file.

    Args:
        data: The file.

    Returns:
        float32 [n, channels] in -1 to 1 (floats as they are), and the samples per second.

    Raises:
        UnsupportedWav: For another code of samples, such as ADPCM.
        ValueError: When the file is damaged or cut off.
    """
    layout = _layout(data)
    block = layout.channels * layout.width
    raw = data[layout.start : layout.start + layout.size // block * block]
    return _samples(raw, layout.code, layout.width).reshape(-1, layout.channels), layout.rate


def write_wav(samples: np.ndarray, rate: int) -> bytes:
    """Encode a waveform as a WAV file of 16 bits.

    Args:
        samples: Float [n] in -1 to 1; what is outside is clipped.
        rate: Samples per second.

    Returns:
        The file.
    """
    whole = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, _PCM, 1, rate, 2 * rate, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + len(whole), b"WAVE")
        + form
        + struct.pack("<4sI", b"data", len(whole))
        + whole
    )


def _layout(data: bytes) -> _Layout:
    at, fmt, long_size = 12, None, None
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if name == b"data":
            if fmt is None:
                raise ValueError("its samples precede their format")
            return _Layout(*fmt, at, _data_size(data, at, size, long_size))
        if name == b"fmt ":
            fmt = _format(data[at : at + size])
        elif name == b"ds64" and size >= 16:
            long_size = struct.unpack_from("<Q", data[at : at + 16].ljust(16, b"\0"), 8)[0]
        at += size + size % 2
    raise ValueError("it has no samples: the chunk 'data' is missing")


def _format(chunk: bytes) -> tuple[int, int, int, int]:
    if len(chunk) < 16:
        raise ValueError("its format chunk is truncated")
    code, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", chunk)
    if code == _EXTENSIBLE and len(chunk) >= 26:
        code = struct.unpack_from("<H", chunk, 24)[0]
    width = block // channels if channels else 0
    if not rate or not channels or block % channels or not 1 <= width <= 8:
        raise ValueError(f"it claims {channels} channels of {bits} bits at {rate} samples per second")
    if (code, width) not in _CODES:
        raise UnsupportedWav(f"its samples have the code {code} with {bits} bits")
    return code, channels, rate, width


def _data_size(data: bytes, start: int, size: int, long_size: int | None) -> int:
    there = len(data) - start
    if long_size is not None and size == 0xFFFFFFFF:
        size = long_size
    honest = struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    if size > there and size < _UNKNOWN_SIZE:
        raise ValueError(f"it is truncated: {there:,} of {size:,} bytes are present")
    return there if size > there or (size == 0 and not honest) else size


def _samples(raw: bytes, code: int, width: int) -> np.ndarray:
    kind = _CODES[code, width]
    if kind in _TABLES:
        return _TABLES[kind][np.frombuffer(raw, np.uint8)]
    if kind == "s24":
        parts = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int32)
        return ((parts[:, 0] << 8 | parts[:, 1] << 16 | parts[:, 2] << 24) / 2.0**31).astype(np.float32)
    values = np.frombuffer(raw, {"s16": "<i2", "s32": "<i4", "f32": "<f4", "f64": "<f8"}[kind])
    return (values / {"s16": 2.0**15, "s32": 2.0**31}.get(kind, 1)).astype(np.float32)


def _telephone(code: int) -> np.ndarray:
    """Return the 256 values of A-law or mu-law (ITU-T G.711), in -1 to 1."""
    byte = np.arange(256) ^ (0x55 if code == _ALAW else 0xFF)
    exponent, mantissa = byte >> 4 & 7, byte & 15
    if code == _MULAW:
        value = ((mantissa << 3) + 132 << exponent) - 132
        value = np.where(byte & 128, -value, value)
    else:
        value = np.where(exponent > 0, (mantissa << 4) + 264 << np.maximum(exponent - 1, 0), (mantissa << 4) + 8)
        value = np.where(byte & 128, value, -value)
    return (value / 2.0**15).astype(np.float32)


_CODES = {
    (_PCM, 1): "u8", (_PCM, 2): "s16", (_PCM, 3): "s24", (_PCM, 4): "s32",
    (_FLOAT, 4): "f32", (_FLOAT, 8): "f64", (_ALAW, 1): "alaw", (_MULAW, 1): "mulaw",
}  # fmt: skip
_TABLES = {
    "u8": ((np.arange(256) - 128) / 128).astype(np.float32),
    "alaw": _telephone(_ALAW),
    "mulaw": _telephone(_MULAW),
}


# ------------------------------------------------------------------ the same in a graph


@tf.autograph.experimental.do_not_convert
def decode_wav_bytes(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode a WAV file in a graph, to the values of :func:`read_wav`.

    Args:
        encoded: tf.string scalar, the file.

    Returns:
        float32 [n, channels], and the samples per second, an int64 scalar.

    Raises:
        tf.errors.InvalidArgumentError: When it is not a WAV file, or :func:`read_wav` refuses it.
    """
    length = tf.cast(tf.strings.length(encoded), tf.int64)
    magic = tf.strings.substr(tf.strings.join([encoded, "\0" * 12]), [0, 8], [4, 4])
    is_wav = tf.reduce_any(magic[0] == [m.decode() for m in MAGIC]) & (magic[1] == "WAVE")
    encoded = _after(
        encoded, (length > 0, "The recording is empty (0 bytes)."), (is_wav, "The bytes are not a WAV file.")
    )
    # What is behind the end reads as 0, so that a damaged file fails by what is checked and not by where it is read.
    padded = tf.concat([tf.io.decode_raw(encoded, tf.uint8), tf.zeros([64], tf.uint8)], 0)

    def number(at: tf.Tensor, size: int) -> tf.Tensor:
        at = tf.clip_by_value(at, 0, length)
        factors = tf.constant([256**i for i in range(size)], tf.int64)
        return tf.reduce_sum(tf.cast(padded[at : at + size], tf.int64) * factors)

    fmt, start, size, long_size = _chunks(number, length)
    block, channels = number(fmt + 12, 2), number(fmt + 2, 2)
    code, rate = number(fmt, 2), number(fmt + 4, 4)
    code = tf.where((code == _EXTENSIBLE) & (number(fmt - 4, 4) >= 26), number(fmt + 24, 2), code)
    width = block // tf.maximum(channels, 1)
    known = tf.constant(list(_CODES), tf.int64)
    match = tf.reduce_all(known == tf.stack([code, width]), axis=1)
    there = length - start
    size = tf.where((size == 0xFFFFFFFF) & (long_size >= 0), long_size, size)
    unknown_size = (size >= _UNKNOWN_SIZE) | ((size == 0) & (number(tf.constant(4, tf.int64), 4) != length - 8))
    start = _after(
        start,
        (start > 0, "The recording has no samples."),
        (fmt > 0, "The samples of the recording precede their format."),
        ((rate > 0) & (channels > 0) & (width * channels == block), "The format of the recording is invalid."),
        (tf.reduce_any(match), "The recording has samples of a code that is not decoded; save it as 16-bit WAV."),
        ((size <= there) | unknown_size, _CUT_OFF),
    )
    size = tf.where((size > there) | ((size == 0) & unknown_size), there, size) // tf.maximum(block, 1) * block
    raw = tf.strings.substr(encoded, start, size)
    samples = tf.switch_case(
        tf.argmax(match, output_type=tf.int32),
        [lambda kind=kind: _graph_samples(raw, kind) for kind in _CODES.values()],
    )
    return tf.reshape(samples, tf.stack([-1, tf.maximum(channels, 1)])), rate


def _chunks(number, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:  # type: ignore[no-untyped-def]
    """Return where the format and the samples start (0: nowhere), and the sizes that the file claims for these."""
    names = {name: int.from_bytes(name, "little") for name in (b"data", b"fmt ", b"ds64")}
    zero = tf.constant(0, tf.int64)

    def further(at: tf.Tensor, fmt: tf.Tensor, start: tf.Tensor, size: tf.Tensor, long: tf.Tensor) -> tf.Tensor:
        return (start == 0) & (at + 8 <= length)

    def step(at: tf.Tensor, fmt: tf.Tensor, start: tf.Tensor, size: tf.Tensor, long: tf.Tensor) -> tuple:
        name, claimed, at = number(at, 4), number(at + 4, 4), at + 8
        fmt = tf.where((name == names[b"fmt "]) & (claimed >= 16), at, fmt)
        long = tf.where((name == names[b"ds64"]) & (claimed >= 16), number(at + 8, 8), long)
        found = name == names[b"data"]
        start, size = tf.where(found, at, start), tf.where(found, claimed, size)
        return at + claimed + claimed % 2, fmt, start, size, long

    _, fmt, start, size, long = tf.while_loop(further, step, (zero + 12, zero, zero, zero, zero - 1))
    return fmt, start, size, long


def _graph_samples(raw: tf.Tensor, kind: str) -> tf.Tensor:
    if kind in _TABLES:
        return tf.gather(_TABLES[kind], tf.cast(tf.io.decode_raw(raw, tf.uint8), tf.int32))
    if kind == "s24":
        parts = tf.cast(tf.reshape(tf.io.decode_raw(raw, tf.uint8), [-1, 3]), tf.int32)
        whole = tf.reduce_sum(
            tf.bitwise.left_shift(parts, [8, 16, 24]), axis=1
        )  # the last byte's first bit is the sign
        return tf.cast(tf.cast(whole, tf.float64) / 2.0**31, tf.float32)
    if kind in ("s16", "s32"):
        whole = tf.io.decode_raw(raw, {"s16": tf.int16, "s32": tf.int32}[kind])
        return tf.cast(tf.cast(whole, tf.float64) / {"s16": 2.0**15, "s32": 2.0**31}[kind], tf.float32)
    return tf.cast(tf.io.decode_raw(raw, {"f32": tf.float32, "f64": tf.float64}[kind]), tf.float32)


def _after(value: tf.Tensor, *checks: tuple[tf.Tensor, str]) -> tf.Tensor:
    """Return a value that exists only where all checks hold."""
    for holds, message in checks:  # one after the other: the first that fails is the reason
        assertion = tf.debugging.Assert(holds, [message])
        with tf.control_dependencies([] if assertion is None else [assertion]):
            value = tf.identity(value)
    return value
