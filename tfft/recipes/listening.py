"""Rate and length of recordings for backbones that take waves themselves: :func:`heard_by`.

Hides that such a backbone was made for one rate, which nothing in it tells, while an image backbone takes any.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from tfft.backbones.base import Backbone
from tfft.config import SharedSettings
from tfft.console.progress import reading_bar
from tfft.data import RecordingSplits
from tfft.modalities.audio.attach import wave_length
from tfft.recipes.gathered import Gathered
from tfft.recipes.gathering import gather

USUAL_RATE = 16_000  # of models that take waves: YAMNet, VGGish, TRILL, wav2vec 2.0
_Config = TypeVar("_Config", bound=SharedSettings)


def heard_by(
    backbone: Backbone, data: Gathered, source: Any, wishes: _Config, verbose: bool
) -> tuple[Gathered, _Config]:
    """Reads recordings as a backbone takes them: at another rate or length than the files have where it takes waves.

    Args:
        backbone: any; only one that takes waves changes rate and length.
        data: gathered for the wishes.
        source: that it was gathered from.
        wishes: of the user.
        verbose: print what was chosen, and show a bar while files are read.

    Returns:
        The data as the backbone takes it, and the wishes with rate and length.

    Raises:
        BackboneError: when the backbone takes neither images nor waves.
    """
    data, wishes = _as_heard(backbone, data, source, wishes, verbose)
    if data.listen is not None:
        with reading_bar(verbose) as progress:
            data.listen(progress)
    return data, wishes


def _as_heard(
    backbone: Backbone, data: Gathered, source: Any, wishes: _Config, verbose: bool
) -> tuple[Gathered, _Config]:
    open_ = not isinstance(source, RecordingSplits)  # these have been read as someone wanted them
    if data.audio is None or backbone.input_spec is not None or backbone.text_spec is not None:
        return data, wishes
    if not open_:
        if verbose and data.audio.sample_rate != USUAL_RATE:
            print(
                f"backbone: it takes waves, and is given {data.audio.sample_rate:,} samples a second, as these were "
                f"read; most such backbones take {USUAL_RATE:,}",
                flush=True,
            )
        return data, wishes
    rate, seconds = wishes.sample_rate, wishes.seconds
    if rate is None:
        rate = USUAL_RATE
        if verbose:
            words = "samples a second, as most that take waves do; else say sample_rate="
            print(f"backbone: assumed to take {rate:,} {words}", flush=True)
    length = wave_length(backbone.model, backbone.name)
    if length is not None and seconds is None:
        seconds = length / rate
    chosen = dataclasses.replace(wishes, sample_rate=rate, seconds=seconds)
    if (rate, seconds or data.audio.seconds) == (data.audio.sample_rate, data.audio.seconds):
        return data, chosen
    with reading_bar(verbose) as progress:
        read = gather(source, chosen, progress)
    if verbose:
        print(read.report.splitlines()[0], flush=True)
    return read, chosen
