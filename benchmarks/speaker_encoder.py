"""How alike two voices sound to a speaker encoder that was trained on other people.

The encoder is Resemblyzer's (GE2E: Wan et al., Generalized end-to-end loss for speaker verification, 2018): three LSTMs
over mel frames, trained on some thousands of speakers to tell them apart. Its weights come with the package, and are
read here without PyTorch: ``pip install librosa && pip install --no-deps resemblyzer``. Unlike Resemblyzer, silence is
only cut at the ends of a clip.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import keras
import librosa
import numpy as np

from tfft.backbones.formats.checkpoints import read_pth

_RATE = 16000
_FRAMES = 160  # frames of 10 ms that are embedded at a time
_QUIET = 30.0  # decibels under the loudest frame that count as silence
_SIZE = 256

Clip = tuple[np.ndarray, int]


class SpeakerEncoder:
    """Embeds clips as vectors of length 1, which are near each other for the same speaker."""

    def __init__(self) -> None:
        package = importlib.util.find_spec("resemblyzer")
        if package is None or package.origin is None:
            raise SystemExit("Install the speaker encoder: pip install librosa; pip install --no-deps resemblyzer")
        weights = read_pth(Path(package.origin).with_name("pretrained.pt"))
        named = {name.removeprefix("model_state."): value for name, value in weights.items()}
        inputs = keras.Input((None, 40))
        hidden = inputs
        lstms = [keras.layers.LSTM(_SIZE, return_sequences=at < 2) for at in range(3)]
        for lstm in lstms:
            hidden = lstm(hidden)
        linear = keras.layers.Dense(_SIZE, activation="relu")
        outputs = keras.layers.UnitNormalization()(linear(hidden))
        self._network = keras.Model(inputs, outputs)
        for at, lstm in enumerate(lstms):
            kernel, recurrent, *biases = (named[f"lstm.{part}_l{at}"] for part in _LSTM_PARTS)
            lstm.set_weights([kernel.T, recurrent.T, np.sum(biases, axis=0)])
        linear.set_weights([named["linear.weight"].T, named["linear.bias"]])

    def embed(self, clip: Clip) -> np.ndarray:
        """Return the embedding of a clip, [256]: the mean of those of its parts of 1.6 s that overlap by half."""
        wave, rate = clip
        wave = librosa.resample(np.asarray(wave, np.float32), orig_sr=rate, target_sr=_RATE)
        wave, _ = librosa.effects.trim(wave, top_db=_QUIET)
        level = np.sqrt(np.mean(np.square(wave)))
        wave = wave * (10 ** (-30 / 20) / max(float(level), 1e-6))  # -30 dB of full scale
        mel = librosa.feature.melspectrogram(y=wave, sr=_RATE, n_fft=400, hop_length=160, n_mels=40).T
        mel = np.pad(mel, [(0, max(0, _FRAMES - len(mel))), (0, 0)])
        starts = range(0, len(mel) - _FRAMES + 1, _FRAMES // 2)
        parts = np.stack([mel[start : start + _FRAMES] for start in starts]).astype(np.float32)
        return _unit(self._network.predict(parts, verbose=0).mean(axis=0))

    def similarity(self, clips: Sequence[Clip], speaker: Sequence[Clip]) -> tuple[float, float, float]:
        """Return the mean cosine of clips with a speaker, and its 95 % interval by a bootstrap over the clips."""
        whole = _unit(np.mean([self.embed(clip) for clip in speaker], axis=0))
        found = np.array([self.embed(clip) @ whole for clip in clips])
        draws = np.random.default_rng(0).integers(0, len(found), (2000, len(found)))
        low, high = np.quantile(found[draws].mean(axis=1), (0.025, 0.975))
        return float(found.mean()), float(low), float(high)


_LSTM_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
