"""Inputs of a voice: texts and durations for training, texts for serving."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from tfft import heads
from tfft.backbones.base import Backbone
from tfft.backbones.voice import symbol_table
from tfft.errors import BackboneError, PlanError
from tfft.exporting.loader import ARRAY_SIGNATURE, ServingInput
from tfft.models import ModelInput
from tfft.tasks.speech_synthesis.head import DURATIONS_INPUT, SYMBOLS_LAYER, TEXT_INPUT, SpeechSynthesisHead
from tfft.tasks.speech_synthesis.layers import SplitSymbols

_SAMPLES = ("a short sentence", "", "Été 你好 😀", "one that is longer than the first")


def attach_texts(
    backbone: Backbone, network: keras.Model, symbols: Sequence[str], separator: str, edges: bool
) -> ModelInput:
    """Add inputs of texts and durations to an acoustic model.

    Args:
        backbone: Acoustic model, such as ``"voice-small"``; its table gets rows for symbols that it does not know.
        network: Model of the backbone.
        symbols: Symbols of the texts.
        separator: As in :func:`tfft.tasks.speech_synthesis.layers.split_texts`.
        edges: As there.

    Raises:
        BackboneError: If the backbone is not an acoustic model, or no symbols are given.
    """
    table = symbol_table(network)
    if table is None or not symbols:
        problem = (
            "is not an acoustic model, such as 'voice-small'" if table is None else "needs symbols=, those of the texts"
        )
        raise BackboneError(f"{backbone.name} {problem}.")
    table.extend(symbols)
    split = SplitSymbols(symbols, table.rows_of(symbols), separator, edges, name=SYMBOLS_LAYER)
    inputs = {
        TEXT_INPUT: keras.Input((), dtype="string", name=TEXT_INPUT),
        DURATIONS_INPUT: keras.Input((None,), dtype="int32", name=DURATIONS_INPUT),
    }
    features = network({"symbols": split(inputs[TEXT_INPUT]), "durations": inputs[DURATIONS_INPUT]})
    return ModelInput(inputs, features)


def head_of_voice(model: keras.Model) -> SpeechSynthesisHead | None:
    """Return the head of a voice; None for other models."""
    try:
        head = heads.from_model(model)
    except PlanError:
        return None
    return head if isinstance(head, SpeechSynthesisHead) else None


def voice_input(model: keras.Model) -> ServingInput | None:
    """Return the serving input of a voice; None for other models."""
    head = head_of_voice(model)
    if head is None:
        return None
    split = next((layer for layer in model.layers if isinstance(layer, SplitSymbols)), None)
    symbols = "phonemes separated by spaces" if split is not None and split.separator else "characters"
    sentence = (
        f"`audio` is float32 at {head.audio.sample_rate} samples per second, 0 behind `length`; `serve_wav` gives WAV "
        f"files of 16 bits. Texts are {symbols}; symbols that are not listed below are ignored. The waveform comes "
        f"from the Griffin-Lim algorithm with {head.rounds} iterations."
    )
    samples = {"texts": np.array(_SAMPLES, object)}
    return ServingInput(
        "text", ARRAY_SIGNATURE, (TEXT_INPUT,), (TEXT_INPUT,), samples=samples, card=("Audio", sentence)
    )
