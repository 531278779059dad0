"""Head for speech synthesis: log-mel frames and durations to waveforms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import PlanError
from tfft.heads import LOGITS_LAYER, Head, ModelFeatures, ServedModel, as_names
from tfft.layers.log_mel import frame_sizes
from tfft.specs import AudioSpec
from tfft.tasks.speech_synthesis.layers import MelLogits, PredictDurations
from tfft.tasks.speech_synthesis.losses import DurationError, MelCepstralDistortion, SpeechLoss, distortions
from tfft.tasks.speech_synthesis.mel import FLOOR, voice_spec
from tfft.tasks.speech_synthesis.vocoder import ROUNDS, GriffinLim

WAV_SIGNATURE = "serve_wav"
TEXT_INPUT, DURATIONS_INPUT, SYMBOLS_LAYER = "text", "durations", "split_symbols"


@dataclasses.dataclass(frozen=True)
class VoiceStatistics:
    """What a head has to know of the training data.

    Attributes:
        audio: Frames of the clips.
        means: Mean of each band.
        spreads: Standard deviation of each band.
        log_durations: Mean logarithm of the frames of each symbol.
    """

    audio: AudioSpec
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    log_durations: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class SpeechSynthesisHead(Head):
    """Log-mel frames of texts; labels are float32 [B, T, 83], see :mod:`tfft.tasks.speech_synthesis.losses`.

    Served: ``audio`` float32 [B, samples] in -1 to 1, 0 behind the end; ``length`` int32 [B] in samples;
    ``sample_rate`` int32 [B]; ``log_mel`` float32 [B, T, bands], for another vocoder. The signature ``serve_wav`` gives
    ``wav``, tf.string [B], WAV files of 16 bits.

    Attributes:
        audio: Frames, see :func:`tfft.tasks.speech_synthesis.mel.voice_spec`.
        means: Mean of each band in the training data; empty before :meth:`fitted_to`.
        spreads: Standard deviation of each band.
        log_durations: Mean logarithm of the frames of each symbol, for the baseline.
        rounds: Iterations of the Griffin-Lim algorithm.
    """

    dropout: float = 0.0
    audio: AudioSpec = dataclasses.field(default_factory=lambda: voice_spec(16000))
    means: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()
    log_durations: tuple[float, ...] = ()
    rounds: int = ROUNDS

    def __post_init__(self) -> None:
        if isinstance(self.audio, Mapping):
            object.__setattr__(self, "audio", AudioSpec.from_dict(self.audio))
        for name in ("means", "spreads", "log_durations"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        super().__post_init__()

    def problems(self) -> list[str]:
        """Return the problems of the fields, one sentence each."""
        problems = self.name_problems()
        if self.units != self.audio.bands:
            problems.append(f"units must be as many as the mel bands, {self.audio.bands}. Received: {self.units}")
        if self.rounds < 1:
            problems.append(f"rounds must be at least 1. Received: {self.rounds}")
        if self.label_smoothing or self.loss_name != "cross_entropy":
            problems.append("frames are not classes: leave loss and label_smoothing out")
        return problems

    def fitted_to(self, labels: Any) -> SpeechSynthesisHead:
        """Return the head with the levels and durations of the training data.

        Args:
            labels: :class:`VoiceStatistics`.
        """
        facts: VoiceStatistics = labels
        return dataclasses.replace(
            self, audio=facts.audio, means=facts.means, spreads=facts.spreads, log_durations=facts.log_durations
        )

    def to_units(self, logits: Any) -> Any:
        """Return normalized bands in the levels of the data."""
        if not self.means:
            return logits
        means, spreads = (keras.ops.convert_to_tensor(values, logits.dtype) for values in (self.means, self.spreads))
        return logits * spreads + means

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return :class:`tfft.tasks.speech_synthesis.losses.SpeechLoss`."""
        _refuse(soft)
        return SpeechLoss(self.spreads)

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return ``mel_cepstral_distortion`` in decibels and ``duration_error`` in frames."""
        _refuse(soft)
        return [MelCepstralDistortion(name="mel_cepstral_distortion"), DurationError(name="duration_error")]

    def example_scores(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray | None:
        """Return the negative mel cepstral distortion of each clip, float [B]."""
        return -distortions(labels, logits)

    def attach(self, features: keras.KerasTensor | ModelFeatures) -> keras.KerasTensor:
        """Add the layer ``logits`` to the frames of a voice [B, T, bands + 2]."""
        return MelLogits(self, name=LOGITS_LAYER)(ModelFeatures.of(features).tensor)

    def served(self, model: keras.Model) -> ServedModel:
        """Return the model from texts alone, with waveforms and the signature ``serve_wav``."""
        return ServedModel(self.text_model(model), self.postprocess, {WAV_SIGNATURE: self._wav_files})

    @staticmethod
    def text_model(model: keras.Model) -> keras.Model:
        """Return the model from texts alone, which predicts the durations.

        Args:
            model: Model from texts and durations, as :func:`tfft.build` makes it; other models are returned unchanged.
        """
        if SYMBOLS_LAYER not in {layer.name for layer in model.layers}:
            return model
        text = keras.Input((), dtype="string", name=TEXT_INPUT)
        durations = PredictDurations(name="predict_durations")(model.get_layer(SYMBOLS_LAYER)(text))
        return keras.Model(text, model({TEXT_INPUT: text, DURATIONS_INPUT: durations}), name=model.name)

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Turn frames [B, T, bands + 2] into waveforms."""
        logits = tf.cast(logits, tf.float32)
        frames = tf.reduce_sum(tf.cast(logits[..., -1] > 0, tf.int32), axis=1)
        audio = GriffinLim(self.audio, self.rounds)(logits[..., :-2], frames)
        audio /= tf.maximum(tf.reduce_max(tf.abs(audio), axis=1, keepdims=True), 1.0)  # phases may add up to a peak
        length = frames * frame_sizes(self.audio)[1]
        there = tf.sequence_mask(frames, tf.shape(logits)[1])[..., None]
        return {
            "audio": audio,
            "length": length,
            "sample_rate": tf.fill(tf.shape(length), self.audio.sample_rate),
            "log_mel": tf.where(there, logits[..., :-2], math.log(FLOOR)),
        }

    @property
    def tolerances(self) -> Mapping[str, float]:
        """The iterations of Griffin-Lim amplify rounding about ten thousand times; ``log_mel`` is compared strictly."""
        return {"audio": 0.1}

    def _wav_files(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        served = self.postprocess(logits)

        def one(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            return tf.audio.encode_wav(row[0][: row[1], None], self.audio.sample_rate)

        return {"wav": tf.map_fn(one, (served["audio"], served["length"]), fn_output_signature=tf.string)}


def _refuse(soft: bool) -> None:
    if soft:
        raise PlanError("Frames are not classes, so soft=True does not apply. Leave it out.")


def speech_synthesis(
    symbols: Sequence[str], *, audio: AudioSpec | None = None, l2: float = 0.0, rounds: int = ROUNDS
) -> SpeechSynthesisHead:
    """Create a head for speech synthesis.

    Call :meth:`SpeechSynthesisHead.fitted_to` with the statistics of the training data, as :func:`tfft.finetune` does.

    Args:
        symbols: Symbols of the texts, in the order of the labels; ``splits.class_names`` of loaded data.
        audio: Frames, see :func:`tfft.tasks.speech_synthesis.mel.voice_spec`. Defaults to 16,000 samples per second.
        l2: L2 penalty of the last layer's kernel.
        rounds: Iterations of the Griffin-Lim algorithm.

    Returns:
        A head with a unit for each mel band.

    Example:
        >>> head = speech_synthesis("abcdefghijklmnopqrstuvwxyz' ")
    """
    names = tuple(symbols) if isinstance(symbols, str) else as_names(symbols)
    audio = voice_spec(16000) if audio is None else audio
    return SpeechSynthesisHead("speech_synthesis", names, audio.bands, l2=l2, audio=audio, rounds=rounds)
