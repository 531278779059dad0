"""Frames that a backbone makes of a recording, and whether a transcript fits them: :func:`check_fit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfft.backbones.base import Backbone
from tfft.data.examples import Splits
from tfft.errors import DataError, raise_problems
from tfft.layers.log_mel import frame_count, frame_sizes
from tfft.modalities.audio.attach import frame_bands, wave_length
from tfft.tasks.transcription.data import TranscribedRecordings
from tfft.tasks.transcription.text import least_frames

_SHOWN = 20
_PROBE = 1000  # windows, to measure how many frames a backbone makes of them


def keep_whole(
    splits: Splits[TranscribedRecordings], backbone: Backbone, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings for adapting recordings to a backbone so that none is cut off.

    Args:
        splits: Recordings.
        backbone: Backbone for them.
        settings: As for :meth:`tfft.registry.Modality.adapt`.
    """
    if _takes_no_waves(backbone) or wave_length(backbone.model, backbone.name) is not None:
        return dict(settings)
    return {**settings, "seconds": splits.train.spec.seconds}


def check_fit(splits: Splits[TranscribedRecordings], backbone: Backbone) -> None:
    """Check that every recording has enough frames for its transcript, and is not cut off.

    CTC needs a frame for each character, and one between two equal ones.

    Raises:
        DataError: Listing all that do not fit, with the place of the transcript.
    """
    _raise([*_cut_off(splits, backbone), *_without_frames(splits, backbone)])


def check_whole(splits: Splits[TranscribedRecordings], backbone: Backbone) -> None:
    """Check that no recording is cut off.

    Raises:
        DataError: Listing all that are, with the place of the transcript.
    """
    _raise(_cut_off(splits, backbone))


def _raise(problems: list[str]) -> None:
    title = "Some transcripts do not fit their recordings; correct or remove these rows"
    raise_problems(DataError, title, problems, limit=_SHOWN)


def _cut_off(splits: Splits[TranscribedRecordings], backbone: Backbone) -> list[str]:
    return [
        f"{part.sources[at]}: {part.paths[at]} lasts {fact.seconds:.2f} s, and {backbone.name} takes "
        f"{part.spec.seconds:g} s: cut it into shorter clips"
        for part in splits.parts.values()
        for at, fact in enumerate(part.facts)
        if _is_cut(fact.seconds, part)
    ]


def _without_frames(splits: Splits[TranscribedRecordings], backbone: Backbone) -> list[str]:
    problems = []
    for part in splits.parts.values():
        seconds = np.array([fact.seconds for fact in part.facts])
        counts = _frames(seconds, part, backbone)
        if counts is None:
            continue
        for at, text in enumerate(part.texts):
            if counts[at] < (least := least_frames(text)) and not _is_cut(seconds[at], part):
                problems.append(
                    f"{part.sources[at]}: {part.paths[at]} lasts {seconds[at]:.2f} s, which is {counts[at]} frames, "
                    f"and its {len(text)} characters need {least}: is it the text of another recording, or is the "
                    "recording truncated?"
                )
    return problems


def _is_cut(seconds: float, part: TranscribedRecordings) -> bool:
    return seconds > part.spec.seconds + 1e-2


def _frames(seconds: np.ndarray, part: TranscribedRecordings, backbone: Backbone) -> np.ndarray | None:
    """Return how many frames each recording has, int [N]; None if the backbone does not tell."""
    model, spec = backbone.model, part.spec
    samples = np.round(seconds * spec.sample_rate).astype(np.int64)
    if (bands := frame_bands(model)) is not None:
        window, step = frame_sizes(spec)
        made = model.compute_output_shape((1, _PROBE, bands))[1]
        return -(-frame_count(samples, window, step) * made // _PROBE)
    counting = next((layer for layer in model.layers if hasattr(layer, "frames_of")), None)
    if counting is not None:
        return np.asarray(counting.frames_of(samples))
    if _takes_no_waves(backbone) or len(model.output_shape) != 3 or model.output_shape[1] is None:
        return None
    return -(-samples * model.output_shape[1] // spec.samples)


def _takes_no_waves(backbone: Backbone) -> bool:
    return backbone.input_spec is not None or backbone.text_spec is not None or frame_bands(backbone.model) is not None
