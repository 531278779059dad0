"""A planted voice: each letter is a tone of one frequency and length."""

import itertools

import numpy as np

from tfft.backbones.voice import voice
from tfft.modalities.audio.wav import write_wav
from tfft.tasks.speech_synthesis.mel import voice_spec

RATE, STEP, LENGTH = 8000, 256, 6  # frames of a tone
TONES = {"a": 450.0, "b": 800.0, "c": 1300.0, "d": 1900.0, "e": 2700.0, "f": 3100.0}
LETTERS = "abcde"
SPEC = voice_spec(RATE)


def tones(text, shift=1.0):
    """The clip of a text: silence, a tone for each letter, silence."""
    count = LENGTH * STEP
    time = np.arange(count) / RATE
    sounds = [0.3 * np.sin(2 * np.pi * shift * TONES[letter] * time) for letter in text]
    silence = np.random.default_rng(0).normal(0, 1e-4, 3 * STEP)
    return np.concatenate([silence, *sounds, silence]).astype(np.float32)


def texts(count, seed=0):
    """Random letters; equal neighbours would be one tone."""
    random, found = np.random.default_rng(seed), []
    for _ in range(count):
        steps = random.integers(1, len(LETTERS), random.integers(3, 7))
        found.append("".join(LETTERS[at % len(LETTERS)] for at in np.cumsum(steps)))
    return found


def ljspeech(folder, rows, shift=1.0):
    (folder / "wavs").mkdir(parents=True)
    lines = []
    for at, text in enumerate(rows):
        (folder / "wavs" / f"{at:03d}.wav").write_bytes(write_wav(tones(text, shift), RATE))
        lines.append(f"{at:03d}|{text}|{text}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def small(**settings):
    return voice(**{"width": 48, "encoder_blocks": 1, "decoder_blocks": 1, "dropout": 0.0, "capacity": 20, **settings})


QUICK = {"task": "speech_synthesis", "batch_size": 8, "verbose": False}


def recognize(wave):
    """The letters of a waveform: the nearest tone of each frame with sound, runs of at least 3 frames as one letter.

    Phases that Griffin-Lim finds let a tone swell and fade, so a frame inside of one may be much quieter than others.
    """
    frames = np.stack([wave[t : t + 2 * STEP] for t in range(0, len(wave) - 2 * STEP, STEP)])
    power = np.abs(np.fft.rfft(frames * np.hanning(2 * STEP), 4096))
    near = [min(LETTERS, key=lambda one, at=at: abs(TONES[one] - at * RATE / 4096)) for at in power.argmax(axis=1)]
    sounds = power.max(axis=1) > 0.02 * power.max()
    runs = [(letter, len(list(run))) for letter, run in itertools.groupby(itertools.compress(near, sounds))]
    return "".join(letter for letter, count in runs if count >= 3)


def loudest(wave, frame, rate=RATE):
    """The frequency with the most energy around the middle of a tone that starts at a frame."""
    part = wave[(frame + 1) * STEP : (frame + LENGTH - 1) * STEP]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 8192))
    return np.argmax(spectrum) * rate / 8192
