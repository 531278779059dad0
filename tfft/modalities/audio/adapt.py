"""Sample rate and clip length for backbones that take waveforms: :func:`adapt_waveforms`.

Implementation notes: such a backbone needs one sample rate, which its files do not state; an image backbone takes any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfft.backbones.base import Backbone
from tfft.data.examples import Splits
from tfft.modalities.audio.arrays import WaveArrays
from tfft.modalities.audio.attach import frame_bands, wave_length
from tfft.modalities.audio.examples import AudioExamples, with_waveforms
from tfft.modalities.audio.folder import AudioOptions, spec_of
from tfft.registry import Adapted

USUAL_RATE = 16_000  # of models that take waveforms: YAMNet, VGGish, TRILL, wav2vec 2.0


def adapt_waveforms(splits: Splits[AudioExamples], backbone: Backbone, settings: Mapping[str, Any]) -> Adapted:
    """Choose the sample rate and clip length for a backbone, before any waveform is read.

    Args:
        splits: Recordings.
        backbone: Any backbone; only one that takes waveforms changes rate and length.
        settings: ``sample_rate`` and ``seconds`` as requested; ``fixed`` is True if the recordings were already read as
            requested and must not change.

    Raises:
        BackboneError: If the backbone takes neither images nor waveforms.
    """
    if backbone.input_spec is not None or backbone.text_spec is not None or frame_bands(backbone.model) is not None:
        return Adapted(splits)
    now = splits.train.spec
    if settings.get("fixed") or isinstance(splits.train, WaveArrays):
        if now.sample_rate == USUAL_RATE:
            return Adapted(splits)
        note = (
            f"backbone: it takes waveforms, and receives {now.sample_rate:,} samples per second; most "
            f"such backbones take {USUAL_RATE:,}"
        )
        return Adapted(splits, notes=(note,))
    rate, seconds, notes = settings.get("sample_rate"), settings.get("seconds"), []
    if rate is None:
        rate = USUAL_RATE
        words = "samples per second, as most such backbones do; otherwise pass sample_rate="
        notes.append(f"backbone: assumed to take {rate:,} {words}")
    length = wave_length(backbone.model, backbone.name)
    if length is not None and seconds is None:
        seconds = length / rate
    chosen = {"sample_rate": rate, "seconds": seconds}
    if (rate, seconds or now.seconds) == (now.sample_rate, now.seconds):
        return Adapted(splits, chosen, tuple(notes))
    spec = spec_of(splits.train.facts + splits.validation.facts, AudioOptions(rate, seconds))
    adapted = with_waveforms(splits, spec, splits.train.source.store)
    return Adapted(adapted, chosen, (*notes, str(adapted.report)))
