"""Spans of time in a waveform, for explanations: :func:`wave_parts`."""

from __future__ import annotations

import numpy as np

from tfft.registry import Parts
from tfft.specs import AudioSpec

_SPANS = 24
_SHORTEST = 0.02  # seconds
_FADE = 0.004  # seconds: a sudden end is a click, which the model would hear


def wave_parts(wave: np.ndarray, spec: AudioSpec) -> Parts:
    """Return equal spans of time of a waveform, and the waveform with silence in place of each.

    Args:
        wave: float32 [samples], with zeros after a recording that is shorter.
        spec: Its sample rate.

    Returns:
        At most 24 parts of the recording, of at least 20 ms.
    """
    [filled] = np.nonzero(wave) or ([0],)
    used = int(filled[-1]) + 1 if len(filled) else len(wave)
    count = int(np.clip(used / (_SHORTEST * spec.sample_rate), 1, _SPANS))
    ends = np.linspace(0, used, count + 1).round().astype(int)
    fade = max(1, int(_FADE * spec.sample_rate))
    names, without = [], []
    for start, end in zip(ends, ends[1:], strict=False):
        names.append(f"{start / spec.sample_rate:.2f}-{end / spec.sample_rate:.2f} s")
        gain = np.ones(len(wave), np.float32)
        gain[start:end] = 0
        gain = np.convolve(np.pad(gain, fade, mode="edge"), np.full(2 * fade + 1, 1 / (2 * fade + 1)), "valid")
        without.append((wave * gain).astype(np.float32))
    return Parts(tuple(names), wave, tuple(without))
