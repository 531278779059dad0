"""Waveform input for a backbone: as an image or as frames of its spectrogram, or directly."""

from __future__ import annotations

import dataclasses

import keras

from tfft.backbones.base import BACKBONE_LAYER, Backbone
from tfft.errors import BackboneError
from tfft.layers.log_mel import Clip, LogMel, MelFrames
from tfft.layers.waveform import DropPadding, EachWave
from tfft.modalities.image.attach import features_of, spec_of
from tfft.models import ModelInput
from tfft.registry import FeatureLevel
from tfft.specs import AudioSpec

AUDIO_INPUT, AUDIO_LAYER, CLIP_LAYER = "audio", "log_mel", "clip"
SERVED_SECONDS = 30.0  # a model of frames takes any length: files may be longer than the training clips
FRAMES_LAYER, PADDING_LAYER = "mel_frames", "drop_padding"


def attach_waves(
    backbone: Backbone,
    network: keras.Model,
    audio: AudioSpec,
    image_size: int | tuple[int, int] | None = None,
    level: FeatureLevel = "pooled",
) -> ModelInput:
    """Build the input of a model: waveforms and a network.

    Args:
        backbone: Backbone that takes images or waveforms.
        network: Model of the backbone.
        audio: Sample rate and clip length.
        image_size: Size of the spectrogram, for an image backbone.
        level: Level of features that the head takes; for ``"sequence"``, frames without audio are 0.

    Raises:
        BackboneError: If the backbone takes neither, or waveforms of another length.
    """
    inputs = keras.Input((None,), dtype="float32", name=AUDIO_INPUT)
    if backbone.input_spec is not None:
        spec = spec_of(backbone, image_size)
        return ModelInput(inputs, features_of(backbone, network, LogMel(audio, spec, name=AUDIO_LAYER)(inputs), spec))
    if (bands := frame_bands(network)) is not None:
        audio = dataclasses.replace(audio, bands=bands, seconds=max(audio.seconds, SERVED_SECONDS))
        frames = MelFrames(audio, name=FRAMES_LAYER)(inputs)
        return ModelInput(inputs, network(keras.tree.pack_sequence_as(network.input, [frames])))
    length = wave_length(network, backbone.name)
    if length not in (None, audio.samples):
        raise BackboneError(
            f"{backbone.name} expects {length} samples. Received: {audio.seconds:g} s at {audio.sample_rate} "
            f"samples per second, {audio.samples} samples. Fix: seconds={length / audio.sample_rate:g}."
        )
    waves = Clip(audio, name=CLIP_LAYER)(inputs)
    if len(keras.tree.flatten(network.input)[0].shape) == 2:
        features = network(keras.tree.pack_sequence_as(network.input, [waves]))
    else:
        features = keras.Model(*_batched(network), name=BACKBONE_LAYER)(waves)
    if level == "sequence" and len(features.shape) == 3:
        features = DropPadding(name=PADDING_LAYER)(waves, features)
    return ModelInput(inputs, features)


def frame_bands(network: keras.Model) -> int | None:
    """Return the number of mel bands for a network that takes log-mel frames, [B, any, bands]; None for others."""
    takes = keras.tree.flatten(network.input)
    shape = tuple(takes[0].shape)
    is_frames = len(takes) == 1 and takes[0].dtype == "float32" and len(shape) == 3 and shape[1] is None
    return shape[2] if is_frames and (shape[2] or 0) > 1 else None


def wave_length(network: keras.Model, name: str) -> int | None:
    """Return the number of samples that a network expects; None for any number.

    Raises:
        BackboneError: If it takes another input.
    """
    takes = keras.tree.flatten(network.input)
    shape = tuple(takes[0].shape)
    if len(takes) != 1 or takes[0].dtype != "float32" or len(shape) not in (1, 2, 3) or (shape[2:] not in ((), (1,))):
        found = [(tuple(t.shape), t.dtype) for t in takes]
        raise BackboneError(
            f"{name} takes neither images nor float32 waveforms, [batch, samples], [batch, samples, 1] or [samples], "
            f"but {found}."
        )
    return shape[0] if len(shape) == 1 else shape[1]


def _batched(network: keras.Model) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return an input [batch, samples] for a network that takes [samples] or [batch, samples, 1], and the features."""
    [takes] = keras.tree.flatten(network.input)
    length = takes.shape[0] if len(takes.shape) == 1 else takes.shape[1]
    inputs = keras.Input((length,), dtype="float32", name="waves")
    if len(takes.shape) == 1:
        return inputs, EachWave(network, name="each_wave")(inputs)
    waves = keras.layers.Reshape((length or -1, 1))(inputs)
    return inputs, network(keras.tree.pack_sequence_as(network.input, [waves]))
