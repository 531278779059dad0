"""Recordings at the outside of a model: how it is served with WAV files, and how files are read for it."""

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
from tfft.layers.log_mel import audio_of, fit
from tfft.modalities.audio.decode import fitted, read_recording
from tfft.modalities.audio.wav import decode_wav_bytes
from tfft.specs import AudioSpec

AUDIO_FILE = "audio.json"  # among the assets: rate and length of the waves that a model takes


def audio_input(model: keras.Model) -> ServingInput | None:
    """Returns how a model takes waves and WAV files; None where it takes none."""
    spec = audio_of(model)
    if spec is None:
        return None

    def encode(waves: Sequence[np.ndarray]) -> list[bytes]:
        return [tf.audio.encode_wav(wave[:, None], spec.sample_rate).numpy() for wave in waves]

    clip = tf.TensorSpec([spec.samples], tf.float32)
    encoded = EncodedInput("audio_bytes", lambda one: decode_wav(one, spec), clip, lambda waves: waves, encode)
    assets = {AUDIO_FILE: json.dumps(spec.to_dict()) + "\n"}
    card = ("Sounds", _sentence(spec))
    return ServingInput("audio", ARRAY_SIGNATURE, spec, encoded=encoded, assets=assets, card=card)


def _sentence(spec: AudioSpec) -> str:
    return (
        f"Waves are float32 from -1 to 1, the mean of all channels, at {spec.sample_rate} samples a second; "
        f"the model uses {spec.seconds:g} s ({spec.samples} samples): longer ones are cut off, silence follows "
        "shorter ones. WAV files of 8 to 32 bits or floats are decoded; they must have this rate."
    )


def served_audio(assets: pathlib.Path) -> ServingInput | None:
    """Returns how an exported model takes waves, from its assets; None where it does not."""
    file = assets / AUDIO_FILE
    if not file.is_file():
        return None
    return ServingInput("audio", ARRAY_SIGNATURE, AudioSpec.from_dict(json.loads(file.read_text(encoding="utf-8"))))


def read_recordings(files: Sequence[str | os.PathLike[str]], spec: AudioSpec) -> Iterator[RequestItem]:
    """Yields waves at the rate and length that a model takes, from files of any format and rate.

    Raises:
        DependencyError: when reading or resampling needs a package that is missing.
    """
    for file in [os.fspath(one) for one in files]:
        facts, wave = read_recording(file)
        if facts.reason is None:
            yield RequestItem(file, fitted(wave, facts.rate, spec))
        else:
            yield RequestItem(file, error=facts.reason)


def decode_wav(encoded: tf.Tensor, spec: AudioSpec) -> tf.Tensor:
    """Turns a WAV file into a wave as :class:`~tfft.layers.log_mel.LogMel` takes it.

    Args:
        encoded: tf.string scalar, the bytes of the file.
        spec: the rate that it must have, and the length.

    Returns:
        float32 [spec.samples], the mean of all channels.

    Raises:
        tf.errors.InvalidArgumentError: when it is no such file, or has another rate.
    """
    wave, rate = decode_wav_bytes(encoded)
    said = f"The recording must have {spec.sample_rate} samples a second; resample it. It has:"
    same = tf.debugging.Assert(tf.equal(rate, spec.sample_rate), [said, rate])
    some = tf.debugging.Assert(tf.size(wave) > 0, ["The recording has no samples."])
    with tf.control_dependencies([op for op in (same, some) if op is not None]):
        return fit(tf.reduce_mean(wave, axis=1)[None], spec)[0]
