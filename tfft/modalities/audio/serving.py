"""Serving of audio models with WAV files, and reading of files for prediction."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfft.exporting.loader import ARRAY_SIGNATURE, EncodedInput, ServingInput
from tfft.exporting.prediction import RequestItem
from tfft.layers.log_mel import MelFrames, audio_of, fit, used_samples
from tfft.modalities.audio.decode import fitted, read_recording
from tfft.modalities.audio.wav import decode_wav_bytes
from tfft.specs import AudioSpec

AUDIO_FILE = "audio.json"  # among the assets: rate and length of the model's waveforms


def audio_input(model: keras.Model) -> ServingInput | None:
    """Return the serving input for waveforms and WAV files; None if the model takes none."""
    spec = audio_of(model)
    if spec is None:
        return None

    def encode(waves: Sequence[np.ndarray]) -> list[bytes]:
        return [tf.audio.encode_wav(wave[:, None], spec.sample_rate).numpy() for wave in waves]

    clip = tf.TensorSpec([spec.samples], tf.float32)
    encoded = EncodedInput("audio_bytes", lambda one: decode_wav(one, spec), clip, lambda waves: waves, encode)
    assets = {AUDIO_FILE: json.dumps(spec.to_dict()) + "\n"}
    card = ("Sounds", _sentence(spec))
    frames = any(isinstance(layer, MelFrames) for layer in model.layers)
    shorten = _without_padding if frames else None
    return ServingInput("audio", ARRAY_SIGNATURE, spec, encoded=encoded, assets=assets, card=card, shorten=shorten)


def _without_padding(waves: tf.Tensor) -> tf.Tensor:
    """Cut waves [B, samples] to the longest one without trailing zeros, at least one sample."""
    return waves[:, : tf.maximum(tf.reduce_max(used_samples(waves)), 1)]


def _sentence(spec: AudioSpec) -> str:
    return (
        f"Waves are float32 from -1 to 1, the mean of all channels, at {spec.sample_rate} samples per second; "
        f"the model uses {spec.seconds:g} s ({spec.samples} samples): longer ones are cut off, silence follows "
        "shorter ones. WAV files of 8 to 32 bits or floats are decoded; they must have this rate."
    )


def served_audio(assets: pathlib.Path) -> ServingInput | None:
    """Return the serving input of an exported audio model, from its assets; None for other models."""
    file = assets / AUDIO_FILE
    if not file.is_file():
        return None
    return ServingInput("audio", ARRAY_SIGNATURE, AudioSpec.from_dict(json.loads(file.read_text(encoding="utf-8"))))


def read_recordings(files: Sequence[str | os.PathLike[str]], spec: AudioSpec) -> Iterator[RequestItem]:
    """Yield waveforms at the rate and length of a model, from files of any format and rate.

    Raises:
        DependencyError: If reading or resampling needs a package that is missing.
    """
    for file in [os.fspath(one) for one in files]:
        facts, wave = read_recording(file)
        if facts.reason is None:
            yield RequestItem(file, fitted(wave, facts.rate, spec))
        else:
            yield RequestItem(file, error=facts.reason)


def decode_wav(encoded: tf.Tensor, spec: AudioSpec) -> tf.Tensor:
    """Decode a 16-bit WAV file to a waveform for :class:`~tfft.layers.log_mel.LogMel`.

    Args:
        encoded: Content of the file, tf.string scalar.
        spec: Required sample rate, and the length.

    Returns:
        float32 [spec.samples], the mean of all channels.

    Raises:
        tf.errors.InvalidArgumentError: If it is another kind of file, or has another rate.
    """
    wave, rate = decode_wav_bytes(encoded)
    said = f"Expected a recording with {spec.sample_rate} samples per second; resample it. Received:"
    same = tf.debugging.Assert(tf.equal(rate, spec.sample_rate), [said, rate])
    some = tf.debugging.Assert(tf.size(wave) > 0, ["The recording has no samples."])
    with tf.control_dependencies([op for op in (same, some) if op is not None]):
        return fit(tf.reduce_mean(wave, axis=1)[None], spec)[0]
