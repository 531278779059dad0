"""Recordings of any length for a model that takes a limited one: :func:`read_whole`, :func:`quiet_parts`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from tfft.exporting.prediction import RequestItem
from tfft.modalities.audio.decode import fitted, read_recording, resampled
from tfft.specs import AudioSpec

_SEARCHED = 1 / 3  # share of a part, at its end, in which a cut may be
_PAUSE = 0.2  # seconds whose energy is compared; between words of read speech there are 0.05 to 0.5


def read_whole(files: Sequence[str | os.PathLike[str]], spec: AudioSpec) -> Iterator[RequestItem]:
    """Yield recordings at the rate of a model, those longer than it takes in parts.

    Args:
        files: Paths of recordings of any format, rate and length.
        spec: Rate and length of the model's waveforms.

    Raises:
        DependencyError: If reading or resampling needs a package that is missing.
    """
    for file in [os.fspath(one) for one in files]:
        facts, wave = read_recording(file)
        if facts.reason is not None:
            yield RequestItem(file, error=facts.reason)
            continue
        wave = resampled(wave, facts.rate, spec)
        parts = tuple(fitted(part, spec.sample_rate, spec) for part in quiet_parts(wave, spec))
        yield RequestItem(file, parts[0]) if len(parts) == 1 else RequestItem(file, parts=parts)


def quiet_parts(wave: np.ndarray, spec: AudioSpec) -> list[np.ndarray]:
    """Divide a waveform into consecutive parts that a model takes.

    Each cut is in the middle of the 0.2 seconds with the least energy in the last third of what the model takes, so it
    seldom hits a word. Parts of silence are left out.

    Args:
        wave: Waveform at the rate of the spec, float32 [n].
        spec: Rate and length of the model's waveforms.

    Returns:
        Waveforms float32 [at most spec.samples], at least one.
    """
    found, begin = [], 0
    while len(wave) - begin > spec.samples:
        end = begin + _quietest(wave[begin : begin + spec.samples], spec.sample_rate)
        found.append(wave[begin:end])
        begin = end
    found.append(wave[begin:])
    return [part for part in found if part.any()] or found[:1]


def _quietest(wave: np.ndarray, rate: int) -> int:
    """Return the sample at which a waveform of the full length is cut."""
    first = len(wave) - max(1, int(len(wave) * _SEARCHED))
    power = np.square(wave[first:], dtype=np.float64)
    width = min(len(power), max(1, round(_PAUSE * rate)))
    sums = np.concatenate([[0.0], np.cumsum(power)])
    return first + int((sums[width:] - sums[:-width]).argmin()) + width // 2
