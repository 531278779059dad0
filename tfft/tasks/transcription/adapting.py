"""Recordings with transcripts for a backbone, by the architecture of the head: :func:`adapted_recordings`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfft.backbones.base import TOKENS_LAYER, Backbone
from tfft.data.examples import Skipped, Splits
from tfft.decoding import fitting, generated_length, skipped_note, unknown_note
from tfft.errors import BackboneError, DataError, raise_problems
from tfft.layers.log_mel import Clip
from tfft.layers.pair_tokenizer import TARGET
from tfft.modalities.audio.adapt import adapt_waveforms
from tfft.modalities.audio.attach import AUDIO_INPUT, CLIP_LAYER
from tfft.models import ModelInput
from tfft.registry import Adapted
from tfft.specs import AudioSpec
from tfft.tasks.transcription import CTC, ENCODER_DECODER, TRANSCRIPTION
from tfft.tasks.transcription.frames import check_fit, check_whole, keep_whole
from tfft.tasks.transcription.tokenized import TokenizedRecordings, tokenized

TRANSCRIPT = "transcript"


def adapted_recordings(splits: Splits[Any], backbone: Backbone, settings: Mapping[str, Any]) -> Adapted:
    """Return recordings at the rate of a backbone, with labels for the architecture of the head.

    Args:
        splits: Recordings with transcripts.
        backbone: Backbone for them.
        settings: As for :meth:`tfft.registry.Modality.adapt`. Without ``architecture``, a backbone that was opened with
            its decoder gets ``"encoder_decoder"``, another one ``"ctc"``.

    Raises:
        DataError: If recordings or transcripts do not fit, with all of their places.
        BackboneError: If it lacks the decoder that is asked for.
    """
    usual = CTC if backbone.encoder_decoder is None and backbone.encoder is None else ENCODER_DECODER
    encoder = _encoder_of(backbone)
    adapted = adapt_waveforms(splits, encoder, keep_whole(splits, encoder, settings))
    return _ADAPT[settings.get("architecture") or usual](adapted, backbone)


def _encoder_of(backbone: Backbone) -> Backbone:
    """Return the part of a backbone that takes waveforms."""
    return backbone if backbone.encoder is None else dataclasses.replace(backbone, model=backbone.encoder)


def _for_ctc(adapted: Adapted, backbone: Backbone) -> Adapted:
    if backbone.encoder is not None:
        raise BackboneError(
            f"Expected a backbone without its decoder for architecture={CTC!r}. Received: the result of with_decoder() "
            f"of {backbone.name}. Use tfft.load_backbone alone."
        )
    problems = TRANSCRIPTION.learning_problems((), adapted.splits.class_names, split=False)
    raise_problems(DataError, "The transcripts cannot be used", problems)
    check_fit(adapted.splits, backbone)
    return dataclasses.replace(adapted, settings={**adapted.settings, "architecture": CTC})


def _for_decoder(adapted: Adapted, backbone: Backbone) -> Adapted:
    """Return tokenized recordings, and the backbone with its decoder.

    Transcripts that are longer than the decoder takes are skipped, not cut: a cut text teaches to stop early.
    """
    whole, splits = backbone.with_decoder(), adapted.splits
    tokenizer: Any = whole.target_tokenizer
    check_whole(splits, _encoder_of(backbone))
    tokens = [tokenized(part, tokenizer) for part in (splits.train, splits.validation)]
    width = max(len(ids) for part in tokens for ids in part) + 1
    parts, keeps, skipped = [], [], list[Skipped]()
    for part, ids in zip((splits.train, splits.validation), tokens, strict=True):
        keep, too_long = fitting([(TRANSCRIPT, ids, tokenizer.target_length)], part.sources, "transcripts")
        parts.append(TokenizedRecordings.of(part, ids, tokenizer, width).take(keep))
        keeps.append(keep)
        skipped += too_long
    kept = [tokens[0][at] for at in keeps[0]]
    limit = generated_length(kept, tokenizer.target_length)
    notes = [f"decoder: at most {limit} tokens of a transcript are generated; the longest has {max(map(len, kept))}"]
    notes += [skipped_note(skipped, TRANSCRIPT)] if skipped else []
    unknown = unknown_note(TRANSCRIPT, kept, parts[0].sources, tokenizer.unknown)
    notes += [] if unknown is None else [unknown]
    changes: dict[str, Any] = {"train": parts[0], "validation": parts[1], "skipped": (*splits.skipped, *skipped)}
    if skipped:
        changes |= {"duplicates": (), "groups": _kept_groups(splits, keeps)}
    limited = tokenizer.with_length(limit)
    return dataclasses.replace(
        adapted, splits=dataclasses.replace(splits, **changes), notes=(*adapted.notes, *notes),
        settings={**adapted.settings, "architecture": ENCODER_DECODER},
        backbone=dataclasses.replace(whole, target_tokenizer=limited),
    )  # fmt: skip


_ADAPT: Mapping[str, Callable[[Adapted, Backbone], Adapted]] = {CTC: _for_ctc, ENCODER_DECODER: _for_decoder}


def _kept_groups(splits: Splits[Any], keeps: list[Any]) -> tuple[str, ...] | None:
    """Return the groups of the recordings that stay, training recordings first."""
    if splits.groups is None:
        return None
    return tuple(splits.groups[at] for at in (*keeps[0], *(keeps[1] + len(splits.train))))


def attach_decoder(backbone: Backbone, network: keras.Model, audio: AudioSpec) -> ModelInput:
    """Build the inputs of a model with a decoder: waveforms, and tokens of the transcript, -1 for padding.

    Args:
        backbone: Backbone with its decoder.
        network: Its model.
        audio: Sample rate and clip length.
    """
    inputs = {
        AUDIO_INPUT: keras.Input((None,), dtype="float32", name=AUDIO_INPUT),
        TARGET: keras.Input((None,), dtype="int32", name=TARGET),
    }
    tokenizer: Any = backbone.target_tokenizer
    values = (
        Clip(audio, name=CLIP_LAYER)(inputs[AUDIO_INPUT]),
        tokenizer.renamed(TOKENS_LAYER)(inputs[TARGET]),
    )
    return ModelInput(inputs, network(dict(zip(network.input, values, strict=True))))
